"""The verb that carries a crystal all the way to a property at finite temperature."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import run_record
from vibronic.verbs.common import Setting, say


def thermal(
    crystal: str,
    temperature: list[float] | None = None,
    target: str = "band_gap",
    engine: str = "gpaw",
    settings: dict[str, Setting] | None = None,
    tolerance: float = 0.02,
    forces: str = "sevennet",
    forces_settings: dict[str, Setting] | None = None,
    method: Literal["phonons", "md"] = "phonons",
    statistics: Literal["quantum", "classical"] | None = None,
    imaginary: Literal["refuse", "freeze", "effective", "sscha", "cap"] = "refuse",
    supercell: tuple[int, int, int] = (2, 2, 2),
    relax: bool = False,
    model: str = "auto",
    no_model: bool = False,
    first: int = 16,
    batch: int = 8,
    budget: int = 200,
    pool: int = 300,
    no_expansion: bool = False,
    executor: str = "local",
    workers: int = 1,
    timeout: float | None = None,
    retry_failed: bool = False,
    out: Path = Path("vibronic-thermal"),
    seed: int = 0,
) -> Path:
    """A property at several temperatures, with an error bar, from as few labels as possible.

      vibronic thermal Ag3SBr --temperature 100 200 300 400 --target band_gap --engine gpaw --imaginary effective
      vibronic thermal NaCl --temperature 300 --target pressure --engine sevennet --tolerance 0.05
      vibronic thermal my.cif --temperature 300 --target energy --engine sevennet --tolerance 0.001 --no-model

    Configurations are drawn from lattice vibrations; some are labelled, a model learns from them and says which label would make
    the average more certain than any other; that is computed next, until the error bar is narrow enough. A killed run
    goes on with the same command, and a finished one with another tolerance, budget, batch or pool from the labels it has.

    Args:
        crystal: CIF, POSCAR, ... or a name (see 'vibronic data').
        temperature: K, one or several; 300 where none is given.
        target: one number that the engine gives: band_gap, vbm, energy (per atom), pressure, ...
        engine: labels (see 'vibronic doctor').
        settings: of the engine, e.g. --settings.ecut 500.
        tolerance: wanted half width of the 95 % interval, in the target's unit: eV, eV/atom for an energy, GPa for a pressure.
        forces: engine of the vibrations.
        forces_settings: of that engine.
        method: phonons, or md (classical).
        statistics: of the nuclei: quantum (with zero-point motion) or classical; quantum for phonons, classical for md, where none is
            given.
        imaginary: what to do about imaginary modes (see 'vibronic sample').
        supercell: repeats of the cell.
        relax: relax atoms and cell with the engine of the forces first, keeping the symmetry.
        model: auto (tight-binding for band gaps and edges, else ridge), ridge or tight-binding.
        no_model: average labels alone.
        first: labels before the first model; without a model at least eight of each temperature.
        batch: labels between two models, one in eight of them at random.
        budget: most labels.
        pool: configurations of each temperature that the average is over.
        no_expansion: leave the quasi-harmonic expansion out; a pressure has none.
        executor: in-process, local (processes), dask, or the address of a Dask scheduler.
        workers: processes that label, one thread each.
        timeout: seconds per label.
        retry_failed: try configurations again that could not be labelled.
        out: folder for everything, the report included.
        seed: of everything that is drawn.

    Returns:
        The report.
    """
    from vibronic.thermal import report, run
    from vibronic.thermal.plan import Plan

    if no_model and model != "auto":
        raise VibronicError(f"--no-model true averages labels alone: leave --model {model} out")
    plan = Plan(
        crystal,
        tuple(temperature or [300.0]),
        target,
        engine,
        tolerance,
        settings=settings or {},
        forces=forces,
        forces_settings=forces_settings or {},
        method=method,
        statistics=statistics or ("classical" if method == "md" else "quantum"),
        imaginary=imaginary,
        supercell=supercell,
        relax=relax,
        model=None if no_model else model,
        first=first,
        batch=batch,
        budget=budget,
        pool=pool,
        expansion=not no_expansion,
        seed=seed,
    )
    with run_record(out, "thermal", asdict(plan), seed, reads=[crystal]) as record:
        results = None if retry_failed else run.carried_out(plan, out)
        if results is not None:
            record["unchanged"] = True
            say(f"this plan has been carried out, nothing is left to do: {out} holds its results")
        else:
            results = run.run(plan, out, executor, workers, timeout, say, retry_failed)
            record |= {"labels": results["labels"], "reached": results["reached"]}
    for line in report.summary(results):
        say(line)
    page = report.write(out)
    say(f"report: {page}")
    return page
