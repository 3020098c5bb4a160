"""Does a training set made from lattice vibrations teach more than a random one of the same size? (arXiv 2511.15222)

For each crystal: relax, compute phonons, decide on imaginary modes, draw a phonon set and a random set of the *same*
mean-square displacement, take the test set from molecular dynamics, label everything with one engine, train the same
models on growing parts of both sets with several seeds, and score every one on the same dynamics. The band gap of
Ag3SBr is compared in the same way on the DFT labels inside the package.

Every stage writes its files when it is done and is skipped when they are there, so the same command goes on where it
stopped. What the study does is said by ``thermal_plan.py``, the trainings are in ``thermal_models.py``, and the report
(``thermal_report.py``) reads the files and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.folder import bind
from vibronic.core.provenance import write_json
from vibronic.data.dataset import read_labelled, read_structures, write_structures
from vibronic.data.sources import crystal as read_crystal
from vibronic.labelling.engines import engine
from vibronic.labelling.executors import processes
from vibronic.sampling.harmonic import ForceConstants
from vibronic.sampling.sampler import CLOSEST, displacements_of, shortest_pair
from vibronic.studies.thermal_models import SETS, bar, explain_gap, gap_jobs, learn, potential_jobs
from vibronic.studies.thermal_plan import Plan


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
    sizes = {crystal: len(read_crystal(crystal)) for crystal in plan.crystals}
    bind(out, asdict(plan))
    names = [Path(c).stem for c in plan.crystals]
    folders = [out / name for name in names]
    with processes(workers) as pool, bar() as progress:
        task = progress.add_task("Relaxing, phonons, dynamics", total=2 * len(folders))
        pairs = list(zip(plan.crystals, folders, strict=True))
        costly_first = sorted(pairs, key=lambda pair: -sizes[pair[0]])
        waiting = [
            pool.schedule(_trajectory, (plan, c, f, purpose)) for c, f in costly_first for purpose in ("test", "fit")
        ]
        for future in as_completed(waiting):
            future.result()
            progress.advance(task)
    for crystal, folder in pairs:
        for finding in _draw(plan, crystal, folder):
            say(f"{folder.name}: {finding}")
    _label(plan, folders, out, workers, say)
    jobs = [job for name, folder in zip(names, folders, strict=True) for job in potential_jobs(plan, name, folder)]
    if plan.gap:
        jobs += gap_jobs(plan, out / "gap")
    rows = learn(jobs, workers)
    results = {"plan": asdict(plan), "crystals": names, "rows": rows}
    if plan.gap:
        results["attribution"] = explain_gap(plan, out / "gap", jobs)
    write_json(out / "results.json", results)
    return results


def _harmonic(plan: Plan, name: str, folder: Path) -> ForceConstants:
    """The relaxed crystal and its harmonic force constants: seconds, so computed anew rather than kept."""
    from vibronic.sampling.phonons import force_constants
    from vibronic.sampling.relax import relax

    path = folder / "relaxed.extxyz"
    calculator = engine(plan.engine).calculator()
    relaxed = read_labelled(path)[0] if path.exists() else relax(read_crystal(name), calculator)
    relaxed.info["parent"] = folder.name
    harmonic = force_constants(relaxed, plan.supercell, calculator, progress=False)
    harmonic.supercell.info["parent"] = folder.name
    return harmonic


def _trajectory(plan: Plan, name: str, folder: Path, purpose: Literal["fit", "test"]) -> None:
    """One trajectory of a crystal: the test set, or snapshots to fit effective force constants to.

    The two are independent, so that nothing of the test set is known to the phonons. The second is only needed, and
    only computed, where harmonic modes are imaginary.
    """
    from vibronic.sampling.dynamics import Dynamics
    from vibronic.sampling.phonons import Phonons

    path = folder / f"{purpose}.extxyz"
    if path.exists():
        return
    harmonic = _harmonic(plan, name, folder)
    if purpose == "test":
        write_structures(folder / "relaxed.extxyz", [harmonic.unitcell])
        n, interval = plan.test, plan.interval
    elif harmonic.modes().unstable.any():
        n, interval = plan.fit_snapshots, max(1, plan.interval // 2)
    else:
        return
    closest = CLOSEST * shortest_pair(harmonic.supercell)[0]
    # A crystal that sits on a saddle takes long to leave it by itself: start displaced along the unstable modes.
    start = Phonons(harmonic, plan.temperature, plan.statistics, "cap", min_distance=closest)
    seed = plan.seed(purpose)
    dynamics = Dynamics(
        engine(plan.engine).calculator(),
        plan.temperature,
        timestep=plan.timestep,
        friction=plan.friction,
        equilibration=plan.equilibration,
        interval=interval,
        start=start.sample(harmonic.supercell, 1, seed)[0],
    )
    write_structures(path, dynamics.sample(harmonic.supercell, n, seed))


def _draw(plan: Plan, name: str, folder: Path) -> list[str]:
    """Phonon set, random set of the same mean-square displacement, and what the report shows about them."""
    from vibronic.sampling.checks import check_snapshots, coverage, independent_snapshots, standard_error
    from vibronic.sampling.phonons import Phonons, effective_force_constants

    path = folder / "sampling.json"
    if path.exists():
        return json.loads(path.read_text())["findings"]
    harmonic = _harmonic(plan, name, folder)
    reference = harmonic.supercell
    findings = [f"harmonic phonons: {harmonic.modes().describe()}"]
    chosen = harmonic
    if harmonic.modes().unstable.any():
        chosen = effective_force_constants(harmonic, read_labelled(folder / "fit.extxyz"))
        findings += [
            f"effective force constants at {plan.temperature:g} K: {f}"
            for f in chosen.findings[len(harmonic.findings) :]
        ]
    closest = CLOSEST * shortest_pair(reference)[0]
    # A short trajectory may leave a few modes soft or without a restoring force; they are bounded, and that is said.
    phonons = Phonons(chosen, plan.temperature, plan.statistics, "cap", min_distance=closest)
    findings += phonons.findings[1:]
    drawn = plan.pool + max(4, plan.pool // 5)  # some may fail to be labelled
    sets = {"phonons": phonons.sample(reference, drawn, plan.seed("phonons"))}
    sets["random"], finding = _matched_random(sets["phonons"], reference, closest, plan.seed("random"))
    findings.append(finding)
    test = read_labelled(folder / "test.extxyz")
    theory = phonons.thermal_displacements()
    symbols = np.array(reference.get_chemical_symbols())
    displacements = []
    for label, frames in {**sets, "dynamics": test}.items():
        squared = (displacements_of(frames, reference) ** 2).mean(axis=2)
        for s in sorted(set(symbols)):
            per_frame = squared[:, symbols == s].mean(axis=1)
            displacements.append(
                {
                    "species": s,
                    "set": label,
                    "sampled": per_frame.mean(),
                    "error": standard_error(per_frame, correlated=label == "dynamics"),
                    "theory": np.trace(theory[symbols == s].mean(axis=0)) / 3 if label == "phonons" else None,
                }
            )
    findings += check_snapshots(sets["phonons"], reference, phonons)
    findings.append(f"the dynamics it is tested on: {independent_snapshots(test, reference)}")
    for label, frames in sets.items():
        share = coverage(frames, test)["all"]
        findings.append(
            f"the {label} set covers {100 * share:.0f} % of the atomic environments of the dynamics (as near to one of its own "
            "as 95 % of its own are to one another)"
        )
        write_structures(folder / f"{label}.extxyz", frames)
    write_structures(folder / "reference.extxyz", [reference])
    bands = {label: asdict(fc.band_structure()) for label, fc in _distinct(harmonic, chosen)}
    dos = {label: asdict(fc.density_of_states(12)) for label, fc in _distinct(harmonic, chosen)}
    rms = {label: root_mean_square(frames, reference) for label, frames in {**sets, "dynamics": test}.items()}
    content = {"findings": findings, "rms": rms, "displacements": displacements, "bands": bands, "dos": dos}
    write_json(path, content)
    return findings


def _matched_random(phonons: Sequence[Atoms], reference: Atoms, closest: float, seed: int) -> tuple[list[Atoms], str]:
    """A random set with the mean-square displacement of the phonon set, or the nearest to it that keeps atoms apart."""
    from vibronic.sampling.rattle import Rattle

    matched = Rattle.matched_to(phonons, reference, min_distance=closest)
    for smaller in range(10):
        sampler = replace(matched, amplitude=matched.amplitude * 0.9**smaller)
        try:
            frames = sampler.sample(reference, len(phonons), seed)
        except VibronicError:
            continue  # hardly any configuration keeps its atoms apart: isotropic displacements cannot be this large
        moved, wanted = root_mean_square(frames, reference), root_mean_square(phonons, reference)
        said = f"the random set has an rms displacement of {moved:.3f} Angstrom per atom, the phonon set {wanted:.3f}"
        if smaller:
            return frames, f"{said}: with larger random displacements hardly any configuration keeps its atoms apart"
        return frames, said
    raise VibronicError(
        f"no random displacements of {reference.symbols} near {matched.amplitude:.2f} Angstrom keep atoms apart"
    )


def root_mean_square(snapshots: Sequence[Atoms], reference: Atoms) -> float:
    """Root-mean-square displacement of an atom, sqrt(<|u|^2>), Angstrom."""
    return float(np.sqrt((displacements_of(snapshots, reference) ** 2).sum(axis=2).mean()))


def _distinct(harmonic: ForceConstants, chosen: ForceConstants) -> list[tuple[str, ForceConstants]]:
    return [("harmonic", harmonic)] + ([("effective", chosen)] if chosen is not harmonic else [])


def _label(plan: Plan, folders: Sequence[Path], out: Path, workers: int, say: Callable[[str], None]) -> None:
    """Labels for both sets of every crystal, through one ledger; a spare takes the place of a structure that fails."""
    from vibronic.labelling.label import label

    for folder in folders:
        for name in SETS:
            path = folder / f"{name}-labelled.extxyz"
            if path.exists():
                continue
            frames = read_structures(folder / f"{name}.extxyz")
            labelled = label(frames[: plan.pool], plan.engine, out / "ledger.sqlite", workers=workers).labelled
            if failed := plan.pool - len(labelled):
                spares = label(frames[plan.pool :], plan.engine, out / "ledger.sqlite", workers=workers).labelled
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
