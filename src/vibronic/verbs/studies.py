"""Verbs about whole runs: the demonstration, the studies, their reports, and what works here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from vibronic.core.errors import VibronicError
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
    name: Literal["thermal", "lcao-gcn", "extrapolation", "inverse-design"],
    crystals: list[str] | None = None,
    temperature: float = 300.0,
    engine: str = "sevennet",
    supercell: tuple[int, int, int] = (2, 2, 2),
    statistics: Literal["quantum", "classical"] = "classical",
    timestep: float = 5.0,
    test: int | None = None,
    sizes: list[int] | None = None,
    seeds: int = 3,
    steps: int | None = None,
    models: list[str] | None = None,
    large: int = 3000,
    epochs: int = 2,
    sets: list[str] | None = None,
    rows: int | None = None,
    samples: int = 256,
    evaluations: int = 200,
    predictor: Path | None = None,
    test_temperatures: list[float] | None = None,
    pool: int | None = None,
    transfer: bool = False,
    gap: bool = True,
    gap_sizes: list[int] | None = None,
    explained: int | None = None,
    out: Path = Path("vibronic-study"),
    seed: int = 0,
    workers: int = 2,
) -> Path:
    """Reproduce one paper's claim: tables, figures and a report.

    thermal: do training sets made from lattice vibrations teach more than random ones of the same size?
    lcao-gcn: is a molecular graph convolution an LCAO with a poor basis, and what does a fuller one buy? (QM9)
    extrapolation: who predicts large molecules from small ones? (QM9)
    inverse-design: which conditioning of a generator finds crystals of a wanted property? (Perov-5, Carbon-24, MP-20)

      vibronic study thermal --crystals NaCl my_crystal.cif --temperature 300 --sizes 12 24 48 --seeds 3
      vibronic study thermal --sets phonons random species sites shuffled monte-carlo dynamics --test-temperatures 300 450
      vibronic study lcao-gcn --out runs/lcao-gcn --seeds 3
      vibronic study extrapolation --sizes 100 1000 11831 --models ridge qdf --large 116041
      vibronic study inverse-design --sets perov-5 --steps 4000 --seeds 3

    A killed study goes on with the same command.

    Args:
        name: which study.
        crystals: thermal: files or names (see 'vibronic data'); Ag3SBr and NaCl where none are given.
        temperature: thermal: K.
        engine: thermal: labels everything (see 'vibronic doctor').
        supercell: thermal: repeats of the crystal's cell.
        statistics: thermal: of the phonon set; the dynamics it is tested on is classical.
        timestep: thermal: of the dynamics, fs; shorter with hydrogen.
        test: thermal: snapshots of the dynamics that every model is scored on, else 20; lcao-gcn: molecules of each test
            set, else 400; extrapolation: small test molecules, else all 1,480.
        sizes: training set sizes; thermal: 8, 16, 32 where none are given; lcao-gcn: one size, else 1500;
            extrapolation: 100, 300, 1000, of 11,831.
        seeds: how many; each has training sets and weights of its own.
        steps: optimiser steps of every network; thermal: else 240; lcao-gcn: else 940; extrapolation: of
            SchNet, else 1000; inverse-design: else 4000, of 16 crystals.
        models: extrapolation: which of composition, ridge, qdf, schnet, qdf2020; all where none are given;
            inverse-design: which of cdi, cds, vibronic; all where none are given.
        large: extrapolation: test molecules of 15 atoms or more, of 116,041.
        epochs: extrapolation: of qdf2020, whose authors trained for 2,000.
        sets: inverse-design: which of perov-5, carbon-24, mp-20; all where none are given; thermal: training sets of one mean-square
            displacement, of phonons, random, species, sites, shuffled, monte-carlo, dynamics; the first two where none are given.
        rows: inverse-design: most crystals of a set, drawn at random; all where none is given.
        samples: inverse-design: crystals drawn from every model for every condition.
        evaluations: inverse-design: of the published models' network for each crystal, of the paper's 2,000.
        predictor: inverse-design: wheel or folder of CDVAE's property models; where they are installed, or in
            VIBRONIC_DATA, if none is given.
        test_temperatures: thermal: K, of more dynamics to test on, beside that of the temperature of the sampling.
        pool: thermal: structures of each set that all seeds draw from; where none is given, seeds share no structure.
        transfer: thermal: also learn from all crystals but one and test on that one, where its elements are in the others.
        gap: thermal: also compare on the DFT band gaps of Ag3SBr that ship with the package.
        gap_sizes: thermal: training set sizes of that comparison, else 8, 16, as far as the smaller set goes.
        explained: thermal: snapshots on which the band gap is explained, else 2.
        out: folder for everything, the report included.
        seed: the first seed.
        workers: processes, one thread each.

    Returns:
        The report.
    """
    given = {k: v for k, v in locals().items() if k not in ("name", "out", "seed", "seeds", "workers")}
    run, takes = _STUDIES[name]
    defaults = {k: p.default for k, p in inspect.signature(study).parameters.items()}
    changed = {k: v for k, v in given.items() if v != defaults[k]}
    if ignored := changed.keys() - takes:
        raise VibronicError(
            f"the study {name} has no --{sorted(ignored)[0]}; its options are --{', --'.join(sorted({*takes, 'seeds'}))}"
        )
    if seeds < 1:
        raise VibronicError(f"a study needs at least one seed, not {seeds}")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in changed.items()}
    page = run(out, tuple(range(seed, seed + seeds)), workers, options)
    say(f"report: {page}")
    return page


def _thermal(out: Path, seeds: tuple[int, ...], workers: int, options: dict[str, Any]) -> Path:
    from vibronic.studies import thermal, thermal_report
    from vibronic.studies.thermal_plan import Plan

    plan = Plan(seeds=seeds, **options)
    with run_record(out, "study thermal", asdict(plan), seeds[0]) as record:
        record["models"] = len(thermal.run(plan, out, workers, say)["rows"])
    return thermal_report.write(out)


def _lcao_gcn(out: Path, seeds: tuple[int, ...], workers: int, options: dict[str, Any]) -> Path:
    from vibronic.studies import lcao_gcn, lcao_gcn_report

    if sizes := options.pop("sizes", None):
        if len(sizes) != 1:
            raise VibronicError(f"the study lcao-gcn has one training set size, not {len(sizes)}")
        options["size"] = sizes[0]
    plan = lcao_gcn.Plan(seeds=seeds, **options)
    with run_record(out, "study lcao-gcn", asdict(plan), seeds[0]) as record:
        record["models"] = len(lcao_gcn.run(plan, out, workers, say)["rows"])
    return lcao_gcn_report.write(out)


def _extrapolation(out: Path, seeds: tuple[int, ...], workers: int, options: dict[str, Any]) -> Path:
    from vibronic.studies import extrapolation, extrapolation_report

    plan = extrapolation.Plan(seeds=seeds, **options)
    with run_record(out, "study extrapolation", asdict(plan), seeds[0]) as record:
        record["models"] = len(extrapolation.run(plan, out, workers, say)["rows"])
    return extrapolation_report.write(out)


def _inverse_design(out: Path, seeds: tuple[int, ...], workers: int, options: dict[str, Any]) -> Path:
    from vibronic.studies import inverse_design, inverse_design_report

    if predictor := options.pop("predictor", None):
        options["predictor"] = str(predictor)
    plan = inverse_design.Plan(seeds=seeds, **options)
    with run_record(out, "study inverse-design", plan.described, seeds[0]) as record:
        record["models"] = len(
            {(r["set"], r["model"], r["seed"]) for r in inverse_design.run(plan, out, workers, say)["rows"]}
        )
    return inverse_design_report.write(out)


_THERMAL = {
    *("crystals", "temperature", "engine", "supercell", "statistics", "timestep", "test", "sizes", "steps"),
    *("sets", "test_temperatures", "pool", "transfer", "gap", "gap_sizes", "explained"),
}
_STUDIES: dict[str, tuple[Callable[[Path, tuple[int, ...], int, dict[str, Any]], Path], set[str]]] = {
    "thermal": (_thermal, _THERMAL),
    "lcao-gcn": (_lcao_gcn, {"test", "sizes", "steps"}),
    "extrapolation": (_extrapolation, {"test", "sizes", "steps", "models", "large", "epochs"}),
    "inverse-design": (
        _inverse_design,
        {"sets", "models", "steps", "rows", "samples", "evaluations", "predictor"},
    ),
}
"""Every study: the function that runs it and writes its report, and the options it takes besides those of all."""

OPTIONS = {name: takes for name, (_, takes) in _STUDIES.items()}


def report(run: Path) -> Path:
    """Write an HTML report again from the files of a run, without computing anything.

      vibronic report runs/mine        # of a generator that 'vibronic train' made
      vibronic report new.extxyz       # of crystals that 'vibronic generate' made: new.html

    Args:
        run: folder of 'vibronic demo', 'vibronic thermal' or 'vibronic study', or of a crystal-diffusion; or a file of 'vibronic generate'.

    Returns:
        The page.
    """
    from vibronic.core.folder import belongs
    from vibronic.report import generated, generated_file
    from vibronic.studies import extrapolation_report, inverse_design_report, lcao_gcn_report, thermal_report
    from vibronic.thermal import report as average

    if not run.exists():
        raise VibronicError(f"there is no file or folder '{run}' to report on")
    if run.is_file():
        page = generated_file.write(run)
    elif (run / "config.json").is_file():
        page = generated.write(run)
    elif (run / "training.json").is_file():
        raise VibronicError(f"{run} holds a training that has not finished; the same command goes on with it")
    elif belongs(run, "lcao-gcn"):
        page = lcao_gcn_report.write(run)
    elif belongs(run, "extrapolation"):
        page = extrapolation_report.write(run)
    elif belongs(run, "inverse-design"):
        page = inverse_design_report.write(run)
    elif belongs(run, average.STUDY):
        page = average.write(run)
    else:
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
