"""Verbs about whole runs: the demonstration, the studies, their reports, and what works here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from vibronic.core.provenance import run_record
from vibronic.verbs.common import say


def demo(out: Path = Path("vibronic-demo"), seed: int = 0, workers: int = 2) -> Path:
    """From two crystals to a learned finite-temperature property and a report, in minutes, with nothing downloaded.

    Cubic Ag3SBr (unstable at 0 K) and NaCl (well behaved): relaxation, phonons, training sets from lattice vibrations
    and from random displacements of the same size, a test set from molecular dynamics, labels from SevenNet, networks
    trained on growing parts of both sets; then the same for the band gap of Ag3SBr on DFT labels. Run it again and it
    goes on where it stopped.

    Args:
        out: folder for everything, the report included.
        seed: the first of three: of the sampling, the training sets and the networks.
        workers: processes, one thread each.

    Returns:
        The report.
    """
    return study("thermal", out=out, seed=seed, workers=workers)


def study(
    name: Literal["thermal"],
    crystals: list[str] | None = None,
    temperature: float = 300.0,
    engine: str = "sevennet",
    supercell: tuple[int, int, int] = (2, 2, 2),
    statistics: Literal["quantum", "classical"] = "classical",
    timestep: float = 5.0,
    test: int = 20,
    sizes: list[int] | None = None,
    seeds: int = 3,
    steps: int = 300,
    gap: bool = True,
    out: Path = Path("vibronic-study"),
    seed: int = 0,
    workers: int = 2,
) -> Path:
    """Reproduce one paper's claim: tables, figures and a report.

    thermal: do training sets made from lattice vibrations teach more than random ones of the same size?

      vibronic study thermal --crystals NaCl my_crystal.cif --temperature 300 --sizes 12 24 48 --seeds 3

    Args:
        name: which study.
        crystals: files or names (see 'vibronic data'); Ag3SBr and NaCl where none are given.
        temperature: K.
        engine: labels everything (see 'vibronic doctor').
        supercell: repeats of the crystal's cell.
        statistics: of the phonon set; the dynamics it is tested on is classical.
        timestep: of the dynamics, fs; shorter with hydrogen.
        test: snapshots of the dynamics that every model is scored on.
        sizes: training set sizes; 8, 16, 32 where none are given.
        seeds: how many; each has training sets and weights of its own.
        steps: optimiser steps of every network.
        gap: also compare on the DFT band gaps of Ag3SBr that ship with the package.
        out: folder for everything, the report included.
        seed: the first seed.
        workers: processes, one thread each.

    Returns:
        The report.
    """
    from vibronic.studies import thermal, thermal_report
    from vibronic.studies.thermal_plan import Plan

    plan = Plan(
        crystals=tuple(crystals or Plan.crystals),
        temperature=temperature,
        engine=engine,
        supercell=supercell,
        statistics=statistics,
        timestep=timestep,
        test=test,
        sizes=tuple(sizes or Plan.sizes),
        seeds=tuple(range(seed, seed + seeds)),
        steps=steps,
        gap=gap,
    )
    with run_record(out, f"study {name}", asdict(plan), seed) as record:
        results = thermal.run(plan, out, workers, say)
        record["models"] = len(results["rows"])
    page = thermal_report.write(out)
    say(f"report: {page}")
    return page


def report(run: Path) -> Path:
    """Write the HTML report of a study again from its folder, without computing anything.

    Args:
        run: folder of 'vibronic demo' or 'vibronic study thermal'.

    Returns:
        The page.
    """
    from vibronic.studies import thermal_report

    page = thermal_report.write(run)
    say(f"report: {page}")
    return page


def doctor() -> list[dict[str, Any]]:
    """Say which engines work here, and the exact commands that install the others."""
    from vibronic.labelling import engines

    found = engines.doctor()
    for row in found:
        if row["works"]:
            say(f"{row['engine']:10s} works (version {row['version']}, {row['seconds']:.1f} s): {row['summary']}")
        else:
            say(f"{row['engine']:10s} {row['problem']}: {row['summary']}; install with")
            for command in row["install"]:
                say(f"             {command}")
    return found
