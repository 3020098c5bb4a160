"""Does a training set made from lattice vibrations teach more than a random one of the same size? (arXiv 2511.15222)

For each crystal: relax, compute phonons, decide on imaginary modes, draw a phonon set and others of the *same*
mean-square displacement (a random one, or all that ``thermal_plan.py`` names), take the test sets from molecular dynamics,
label everything with one engine, train the same models on growing parts of every set with several seeds, and score every
one on the same dynamics. On request, models that learned from all crystals but one are tested on that one. The band gap of
Ag3SBr is compared in the same way on the DFT labels inside the package, and explained.

Every stage writes its files when it is done and is skipped when they are there, so the same command goes on where it
stopped. What the study does is said by ``thermal_plan.py``, the sets are drawn in ``thermal_sets.py``, the trainings are in
``thermal_models.py``, the conclusions in ``thermal_answer.py``, and the report (``thermal_report.py``) reads the files and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from vibronic.core.errors import VibronicError
from vibronic.core.folder import bind
from vibronic.core.provenance import write_json
from vibronic.data.dataset import read_labelled, read_structures, write_structures
from vibronic.data.sources import crystal as read_crystal
from vibronic.labelling.engines import engine
from vibronic.labelling.executors import processes
from vibronic.studies.thermal_explain import explain_gap
from vibronic.studies.thermal_models import bar, gap_facts, gap_jobs, held_out, learn, potential_jobs, transfer_jobs
from vibronic.studies.thermal_plan import Plan
from vibronic.studies.thermal_sets import absent, draw, harmonic_phonons

_Purpose = Literal["fit", "test", "learn"]


def run(plan: Plan, out: Path, workers: int = 2, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Carry out the study in the folder ``out`` and return its results (also in ``results.json``).

    Args:
        workers: processes, one thread each.
        say: receives one plain sentence per finding.

    Raises:
        VibronicError: ``out`` holds a study with another plan; an engine or a crystal cannot be had.
    """
    out = Path(out)
    # Mistakes come to light before the folder is bound to this plan.
    engine(plan.engine)
    crystals = {Path(c).stem: read_crystal(c) for c in plan.crystals}
    donors = held_out({name: set(atoms.symbols) for name, atoms in crystals.items()}) if plan.transfer else {}
    if plan.transfer and not donors:
        raise VibronicError("no crystal has all its elements in the others: nothing can be transferred to it")
    bind(out, asdict(plan))
    folders = [out / name for name in crystals]
    tasks: list[tuple[_Purpose, float]] = [("test", t) for t in plan.tested] + [("fit", plan.temperature)]
    tasks += [("learn", plan.temperature)] if "dynamics" in plan.sets else []
    with processes(workers) as pool, bar() as progress:
        task = progress.add_task("Relaxing, phonons, dynamics", total=len(tasks) * len(folders))
        pairs = list(zip(plan.crystals, folders, strict=True))
        costly_first = sorted(pairs, key=lambda pair: -len(crystals[pair[1].name]))
        waiting = [pool.schedule(_trajectory, (plan, c, f, *what)) for c, f in costly_first for what in tasks]
        for future in as_completed(waiting):
            future.result()
            progress.advance(task)
        drawing = {folder.name: pool.schedule(draw, (plan, c, folder)) for c, folder in pairs}
        found = {name: future.result() for name, future in drawing.items()}
    for name, findings in found.items():
        for finding in findings:
            say(f"{name}: {finding}")
    _label(plan, folders, out, workers, say)
    jobs = [job for name, folder in zip(crystals, folders, strict=True) for job in potential_jobs(plan, name, folder)]
    if plan.gap:
        jobs += gap_jobs(plan, out / "gap")
    rows = learn(jobs, workers)
    results = {"plan": asdict(plan), "crystals": list(crystals), "rows": rows}
    results["absent"] = {f.name: absent(read_structures(f / "relaxed.extxyz")[0]) for f in folders}
    if donors:
        results["donors"] = donors
        results["transfer"] = learn(transfer_jobs(plan, donors, out), workers)
    if plan.gap:
        results["gap"] = gap_facts(out / "gap")
        results["attribution"] = explain_gap(plan, out / "gap", jobs, rows)
    write_json(out / "results.json", results)
    return results


def _trajectory(plan: Plan, name: str, folder: Path, purpose: _Purpose, temperature: float) -> None:
    """One trajectory of a crystal: a test set, snapshots to fit effective force constants to, or a set to learn from.

    They are independent, so that nothing of the test set is known to the phonons or to the models. The second is only
    needed, and only computed, where harmonic modes are imaginary.
    """
    from vibronic.sampling.anharmonic import displaced_start
    from vibronic.sampling.dynamics import Dynamics

    path = plan.test_file(folder, temperature) if purpose == "test" else folder / f"{purpose}.extxyz"
    if path.exists():
        return
    harmonic = harmonic_phonons(plan, name, folder)
    seed = plan.seed("dynamics" if purpose == "learn" else purpose)
    if purpose == "test":
        n, interval, seed = plan.test, plan.interval, plan.seed("test", plan.tested.index(temperature))
        if temperature == plan.temperature:
            write_structures(folder / "relaxed.extxyz", [harmonic.unitcell])
    elif purpose == "learn":
        n, interval = plan.set_size, plan.interval
    elif harmonic.modes().unstable.any():
        n, interval = plan.fit_snapshots, max(1, plan.interval // 2)
    else:
        return
    dynamics = Dynamics(
        engine(plan.engine).calculator(),
        temperature,
        timestep=plan.timestep,
        friction=plan.friction,
        equilibration=plan.equilibration,
        interval=interval,
        start=displaced_start(harmonic, temperature, seed),
    )
    write_structures(path, dynamics.sample(harmonic.supercell, n, seed))


def _label(plan: Plan, folders: Sequence[Path], out: Path, workers: int, say: Callable[[str], None]) -> None:
    """Labels for every set of every crystal, through one ledger; a spare takes the place of a structure that fails."""
    from vibronic.labelling.label import label

    for folder in folders:
        for name in plan.sets:
            path = folder / f"{name}-labelled.extxyz"
            if path.exists():
                continue
            if name == "dynamics":  # the engine that moved it has labelled it on the way
                write_structures(path, read_labelled(folder / "dynamics.extxyz"))
                continue
            frames = read_structures(folder / f"{name}.extxyz")
            labelled = label(frames[: plan.set_size], plan.engine, out / "ledger.sqlite", workers=workers).labelled
            if failed := plan.set_size - len(labelled):
                spares = label(frames[plan.set_size :], plan.engine, out / "ledger.sqlite", workers=workers).labelled
                if len(spares) < failed:
                    raise VibronicError(
                        f"too many configurations of {folder.name} ({name}) cannot be labelled by {plan.engine}; "
                        f"the reasons are in {out / 'ledger.sqlite'}"
                    )
                say(
                    f"{folder.name}: {failed} configurations of the {name} set were not labelled; spares took their place"
                )
                labelled += spares[:failed]
            write_structures(path, labelled)
