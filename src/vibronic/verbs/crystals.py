"""The crystals part of the verb `evaluate`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import run_record, writable, write_json
from vibronic.verbs.common import say

OPTIONS = ("property", "predictor", "benchmark", "better", "coverage_sample", "relax", "relax_steps", "seed")
"""Options of `evaluate` that only crystals take."""


def evaluate_crystals(
    file: Path,
    reference: str | None,
    out: Path,
    property: str | None,
    predictor: Path | None,
    benchmark: str | None,
    better: Literal["low", "high"],
    coverage_sample: int,
    relax: str | None,
    relax_steps: int,
    seed: int,
) -> dict[str, Any]:
    """Read, evaluate, write ``out`` and the table beside it; arguments as in :func:`vibronic.verbs.evaluate`.

    Raises:
        VibronicError: an input is missing or does not fit.
    """
    from vibronic.crystals import metrics, stability
    from vibronic.data import sources
    from vibronic.data.dataset import read_structures
    from vibronic.labelling.engines import engine

    if coverage_sample < 0:
        raise VibronicError(f"--coverage-sample must be at least 0, not {coverage_sample}")
    if predictor and not property:
        raise VibronicError("--predictor predicts a property: name it with --property")
    constants = _benchmark(benchmark, reference, property)
    published = metrics.benchmark(constants) if constants else None
    calculator = engine(relax).calculator() if relax else None
    table = out.with_suffix(".csv")
    config: dict[str, Any] = {"what": "crystals", "file": file, "reference": reference, "property": property}
    config |= {"predictor": predictor, "benchmark": constants, "better": better, "coverage_sample": coverage_sample}
    config |= {"relax": relax, "relax_steps": relax_steps}
    with run_record(out, "evaluate", config, seed, reads=[file, reference, predictor], writes=[table]) as record:
        structures = read_structures(file, check=False)
        known = sources.structures(reference) if reference is not None else None
        if known and coverage_sample and importlib.util.find_spec("matminer") is None:
            raise VibronicError(
                "coverage needs matminer, which is not installed: pip install 'vibronic[crystals]', or leave it out with "
                "--coverage-sample 0"
            )
        if any(a.info.get("novel") and a.info.get("valid") for a in structures) and all(
            a.info.get("valid") for a in structures
        ):
            say(f"every crystal of {file} passed as valid when it was made: shares of all candidates need --keep all")
        model = _predictor(predictor, property, constants) if property else None
        if constants:
            say(f"benchmark: {constants}, its cut-offs, thresholds and property model (--benchmark takes another)")
        if known and coverage_sample:
            several = min(len(structures), coverage_sample) + min(len(known), coverage_sample)
            say(f"coverage: {several} fingerprints of about 0.1 s each (--coverage-sample takes fewer, 0 none)")
        thresholds = published.thresholds if published and published.property == property and better == "low" else None
        relaxing = None
        if calculator is not None:
            lowest = stability.envelope(known or [], structures, calculator, max_steps=relax_steps)
            relaxing = partial(stability.relaxation, calculator=calculator, max_steps=relax_steps, lowest=lowest)
        rows, totals = metrics.evaluate(
            structures,
            known,
            property=property,
            predict=model,
            thresholds=thresholds,
            cutoffs=published.cutoffs if published else None,
            coverage_sample=coverage_sample,
            relax=relaxing,
            better=better,
            unit=getattr(model, "unit", ""),
            seed=seed,
        )
        units = {
            **metrics.UNITS,
            **({property: totals["units"].get(f"wasserstein_{property}", "")} if property else {}),
        }
        _write_table(table, rows, units)
        write_json(out, totals)
        record["thresholds"] = "published" if thresholds else "of the reference"
    for name, value in totals.items():
        if name not in ("units", "n") and not name.endswith(("_low", "_high")):
            say(_told(name, value, totals))
    if not any(row["valid"] for row in rows):
        say(f"none of {totals['n']} crystals is valid: what is counted of valid ones is empty")
    if failed := [row["relax_error"] for row in rows if row.get("relax_error")]:
        say(f"{len(failed)} of {totals['n']} crystals could not be relaxed: {failed[0]} (relax_error in the table)")
    say(f"{totals['n']} crystals: {out}, one by one in {table}")
    return totals


def _benchmark(name: str | None, reference: str | None, property: str | None) -> str | None:
    """The set whose published constants count: as given, or as the reference's name or the property say."""
    from vibronic.crystals.metrics import BENCHMARKS

    if name:
        return name
    named = [set_name for set_name in BENCHMARKS if reference and reference.startswith(set_name)]
    aimed = [set_name for set_name, constants in BENCHMARKS.items() if constants.property == property]
    return next(iter([*named, *aimed]), None)


def _predictor(file: Path | None, property: str, benchmark: str | None) -> Any:
    """CDVAE's property model of the set, if that is the property it predicts."""
    from vibronic.crystals.metrics import BENCHMARKS

    if benchmark is None or BENCHMARKS[benchmark].property != property:
        there = ", ".join(f"{constants.property} (of {name})" for name, constants in BENCHMARKS.items())
        raise VibronicError(f"no model predicts '{property}' here; there are models of {there}")
    return importlib.import_module("vibronic.crystals.predictor").load(file, benchmark)


def _told(name: str, value: float | None, totals: dict[str, Any]) -> str:
    if value is None:
        return f"{name}: nothing to count"
    if f"{name}_low" in totals:
        return f"{name}: {value:.4g} ({totals[f'{name}_low']:.4g} to {totals[f'{name}_high']:.4g})"
    return f"{name}: {value:.5g} {totals['units'][name]}".rstrip()


def _write_table(path: Path, rows: Sequence[dict[str, Any]], units: dict[str, str]) -> None:
    """CSV of the rows; what does not apply to a crystal is empty."""
    import csv

    names = list(dict.fromkeys(name for row in rows for name in row))
    header = [f"{name} [{units[name]}]" if units.get(name) else name for name in names]
    with writable(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(header)
        for row in rows:
            values = (row.get(name) for name in names)
            table.writerow([f"{v:.6g}" if isinstance(v, float) else "" if v is None else v for v in values])
