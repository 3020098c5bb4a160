"""Who predicts large molecules from small ones? (arXiv 2011.07929, table 2)

Models learn atomisation energies of QM9's molecules with up to 14 atoms, from growing parts of the published training set,
and are scored on the published test set of such molecules and on larger ones. ``extrapolation_model.py`` says which models.

Every fit leaves one file and is skipped when it is there. ``extrapolation_report.py`` reads the files and nothing else.
"""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.folder import bind, content
from vibronic.core.provenance import writable, write_json
from vibronic.core.statistics import half_width
from vibronic.core.units import conversion
from vibronic.data.dataset import label_of
from vibronic.data.sources import structures
from vibronic.labelling.executors import processes
from vibronic.studies.extrapolation_model import MODELS, fitted, numbers_in

STUDY = "extrapolation"
KCAL = conversion("eV", "kcal/mol")
PARTS = {"small": "qm9-test", "large": "qm9-large"}
"""Test sets: molecules with up to 14 atoms, as in training, and with 15 or more."""

PUBLISHED = {"small": 1.327, "large": 2.96}
"""kcal/mol: what the authors' qdf2020 reaches after 2,000 epochs on 11,832 molecules, by their own predictions and paper."""


@dataclass(frozen=True)
class Plan:
    """What the study does; the defaults take about a quarter of an hour of one core.

    Attributes:
        sizes: training molecules; those of a size hold those of every smaller one.
        seeds: each has an order of the training molecules, and weights, of its own.
        models: names in :data:`MODELS`.
        test: small test molecules; the published test set has 1,480.
        large: large ones, drawn at random where these are not all 116,041.
        steps: optimiser steps of SchNet, in whole epochs, 20 at least.
        epochs: of qdf2020, which learns from the largest training set of the first seed only: its authors' 2,000 would
            take 18 days of one core.
    """

    sizes: tuple[int, ...] = (100, 300, 1000)
    seeds: tuple[int, ...] = (0, 1, 2)
    models: tuple[str, ...] = MODELS
    test: int = 1480
    large: int = 3000
    steps: int = 1000
    epochs: int = 2

    def __post_init__(self) -> None:
        for name in ("sizes", "seeds", "models"):
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise VibronicError(
                    f"the study extrapolation needs {name} that differ, not {list(getattr(self, name))}"
                )
        if unknown := set(self.models) - set(MODELS):
            raise VibronicError(
                f"the study extrapolation has no model '{sorted(unknown)[0]}'; it compares {', '.join(MODELS)}"
            )
        if min(self.sizes) < 20 or min(self.test, self.large, self.steps, self.epochs) < 1:
            raise VibronicError(
                "the study extrapolation needs at least 20 training molecules, a test molecule of each set, a step and an epoch"
            )

    @property
    def fits(self) -> list[tuple[str, int, int]]:
        """Model, training molecules and seed of every fit."""
        return [
            (model, size, seed)
            for model in self.models
            for size in sorted(self.sizes)
            for seed in self.seeds
            if model != "qdf2020" or (size == max(self.sizes) and seed == self.seeds[0])
        ]


def run(plan: Plan, out: Path, workers: int = 1, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Carry out the study in the folder ``out`` and return its results (also in ``results.json``).

    Raises:
        VibronicError: ``out`` holds a study with another plan, or QM9 cannot be had or is smaller than the plan.
    """
    out = Path(out)
    if max(plan.sizes) > (there := len(_molecules("qm9-train"))):
        raise VibronicError(f"QM9 has {there} molecules to train on, fewer than {max(plan.sizes)}")
    bind(out, {"study": STUDY, **asdict(plan)})
    rows = []
    with processes(workers) as executor:
        futures = [executor.schedule(_fit, (plan, *what, out)) for what in plan.fits]
        for future in as_completed(futures):
            rows.append(row := future.result())
            say(
                f"{row['model']}, {row['size']} molecules, seed {row['seed']}: "
                + ", ".join(f"{part} {row[part]['mae']:.2f} kcal/mol" for part in PARTS)
                + f" ({row['fit_seconds']:.0f} s)"
            )
    rows.sort(key=lambda row: plan.fits.index((row["model"], row["size"], row["seed"])))
    results = {"study": STUDY, "plan": asdict(plan), "published": PUBLISHED, "rows": rows}
    write_json(out / "results.json", results)
    _tables(rows, out)
    return results


def training_set(molecules: Sequence[Atoms], size: int, seed: int) -> list[Atoms]:
    """The first ``size`` molecules in the order of a seed, which starts with the smallest and one for every element.

    A training set without fluorine could not be asked about it, nor one of nine atoms about water.
    """
    order = np.random.default_rng(seed).permutation(len(molecules)).tolist()
    smallest = min(order, key=lambda k: len(molecules[k]))
    first = [smallest]
    missing = {int(z) for atoms in molecules for z in set(atoms.numbers)} - set(molecules[smallest].numbers)
    for k in order:
        if new := missing & set(molecules[k].numbers):
            missing -= new
            first.append(k)
    chosen = set(first)
    return [molecules[k] for k in (first + [k for k in order if k not in chosen])[:size]]


def test_set(part: str, size: int) -> list[Atoms]:
    """As many molecules of a part, the same for all models and seeds."""
    there = _molecules(PARTS[part])
    chosen = np.random.default_rng(0).permutation(len(there))[:size]
    return [there[k] for k in sorted(chosen)]


@cache
def _molecules(name: str) -> list[Atoms]:
    return structures(name)


def _fit(plan: Plan, kind: str, size: int, seed: int, out: Path) -> dict[str, Any]:
    """Fit one model, score it on both test sets, and leave everything in one file; the errors stay there."""
    from vibronic.learning.prediction import predict

    torch.set_num_threads(1)
    path = out / "runs" / f"{kind}-{size}-{seed}.json"
    row = content(path) if path.exists() else None
    if row is None:
        folder = out / "runs" / f"{kind}-{size}-{seed}"
        start = time.process_time()
        chosen = training_set(_molecules("qm9-train"), size, seed)
        model, epochs = fitted(kind, chosen, seed, folder, plan.steps, plan.epochs)
        row = {"model": kind, "size": size, "seed": seed, "parameters": numbers_in(model), "epochs": epochs}
        row["fit_seconds"] = time.process_time() - start
        for part, n in (("small", plan.test), ("large", plan.large)):
            test = test_set(part, n)
            start = time.process_time()
            predicted = np.array(predict(model, test, batch_size=32)["energy"], dtype=float)
            spent = 1000 * (time.process_time() - start) / len(test)
            labels = np.array([label_of(a, "energy") for a in test], dtype=float)
            row[part] = scores((predicted - labels) * KCAL, np.array([len(a) for a in test])) | {"cpu_ms": spent}
        write_json(path, row)
        shutil.rmtree(folder, ignore_errors=True)
    return {k: {n: v for n, v in x.items() if n != "errors"} if k in PARTS else x for k, x in row.items()}


def scores(errors: np.ndarray, atoms: np.ndarray) -> dict[str, Any]:
    """Of errors (M,) of molecules with so many atoms (M,): mean absolute error, bias (predicted too high is positive),
    both by number of atoms too, all in kcal/mol."""
    by_size = {
        str(n): [float(np.abs(errors[atoms == n]).mean()), float(errors[atoms == n].mean()), int((atoms == n).sum())]
        for n in np.unique(atoms)
    }
    return {
        "mae": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "n": len(errors),
        "by_size": by_size,
        "errors": [round(e, 3) for e in errors.tolist()],
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds by model and size, each with the half width of its 95 % interval (Student's t; None for one seed)."""
    found = []
    for model, size in dict.fromkeys((row["model"], row["size"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["size"]) == (model, size)]
        entry: dict[str, Any] = {"model": model, "size": size, "seeds": len(mine)}
        for name in ("parameters", "epochs", "fit_seconds"):
            entry[name] = float(np.mean([row[name] for row in mine]))
        for part in PARTS:
            values = np.array([row[part]["mae"] for row in mine])
            entry[part] = float(values.mean())
            entry[f"{part}_half"] = half_width(values)
            entry[f"{part}_bias"] = float(np.mean([row[part]["bias"] for row in mine]))
            entry[f"{part}_cpu_ms"] = float(np.mean([row[part]["cpu_ms"] for row in mine]))
        found.append(entry)
    return found


def _tables(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """``table.csv``, one line per fit, and ``metrics.json``, means over seeds."""
    with writable(out / "table.csv") as path, path.open("w", newline="") as file:
        table = csv.writer(file)
        figures = [f"{part} {what} [kcal/mol]" for part in PARTS for what in ("mae", "bias")]
        table.writerow(["model", "training molecules", "seed", "weights", "epochs", "fit cpu [s]", *figures])
        table.writerows(
            [r["model"], r["size"], r["seed"], r["parameters"], r["epochs"], f"{r['fit_seconds']:.1f}"]
            + [f"{r[part][what]:.4f}" for part in PARTS for what in ("mae", "bias")]
            for r in rows
        )
    metrics = {f"mae_{part}_{m['model']}_{m['size']}": m[part] for m in summary(rows) for part in PARTS}
    write_json(out / "metrics.json", {**metrics, "units": dict.fromkeys(metrics, "kcal/mol")})
