"""Does a training set made from lattice vibrations teach more than a random one of the same size? (arXiv 2511.15222)

For each crystal: relax, compute phonons, decide on imaginary modes, draw a phonon set and a random set of the *same*
mean-square displacement, take the test set from molecular dynamics, label everything with one engine, train the same
models on growing parts of both sets with several seeds, and score every one on the same dynamics. The band gap of
Ag3SBr is compared in the same way on the DFT labels inside the package.

Every stage writes its files when it is done and is skipped when they are there, so the same command goes on where it
stopped. ``report`` (``studies/thermal_report.py``) reads these files and nothing else.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vibronic.core.errors import VibronicError
from vibronic.core.neighbors import neighbor_list
from vibronic.core.provenance import write_json
from vibronic.core.targets import target
from vibronic.core.units import GPA
from vibronic.data.dataset import describe, label_of, read_labelled, read_structures, write_structures
from vibronic.data.sources import crystal as read_crystal
from vibronic.data.sources import structures as read_named
from vibronic.labelling.executors import processes
from vibronic.sampling.harmonic import ForceConstants
from vibronic.sampling.sampler import displacements_of

SETS = ("phonons", "random")
GAP = "Ag3SBr, DFT"
_SHOWN = {"energy": (1e3, "meV/atom"), "pressure": (1 / GPA, "GPa")}
"""Scale and unit in which scores are shown to people."""


@dataclass(frozen=True)
class Plan:
    """What the study does; the defaults are the small form that a laptop finishes in minutes.

    Attributes:
        crystals: files or names of ``vibronic data``.
        temperature: K, of the sampling and of the dynamics it is tested on.
        statistics: of the phonon set; classical, because the dynamics is.
        supercell: repeats of the conventional cell.
        engine: labels everything (see ``vibronic doctor``).
        pool: structures in each training set; ``sizes`` are drawn from it, smaller than it, so that seeds differ.
        test: snapshots of the dynamics that every model is scored on.
        seeds: of the subset and of the network's weights.
        timestep, friction: of the Langevin dynamics, fs and 1/fs.
        equilibration, interval: steps of the dynamics before the first snapshot and between snapshots.
        fit_snapshots: snapshots of a second trajectory for effective force constants, where modes are imaginary.
        steps: optimiser steps of every network.
        gap: also compare on the DFT band gaps of Ag3SBr that ship with the package.
        gap_sizes: training set sizes of that comparison.
    """

    crystals: tuple[str, ...] = ("Ag3SBr", "NaCl")
    temperature: float = 300.0
    statistics: Literal["quantum", "classical"] = "classical"
    supercell: tuple[int, int, int] = (2, 2, 2)
    engine: str = "sevennet"
    pool: int = 48
    test: int = 20
    sizes: tuple[int, ...] = (10, 20, 40)
    seeds: tuple[int, ...] = (0, 1)
    timestep: float = 5.0
    friction: float = 0.01
    equilibration: int = 80
    interval: int = 6
    fit_snapshots: int = 60
    steps: int = 300
    width: int = 32
    layers: int = 2
    cutoff: float = 4.5
    gap: bool = True
    gap_sizes: tuple[int, ...] = (6, 10, 16)
    gap_seeds: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        if max(self.sizes) >= self.pool:
            raise VibronicError(f"the pool of {self.pool} structures must exceed the largest size ({max(self.sizes)})")
        if len({Path(c).stem for c in self.crystals}) < len(self.crystals):
            raise VibronicError("two crystals have the same name; rename one of the files")
        if min(self.sizes) < 4:
            raise VibronicError("a training set needs at least 4 structures")


@dataclass(frozen=True)
class Job:
    """One training: a model kind on one subset of one set, scored on one test file."""

    crystal: str
    set: str
    size: int
    seed: int
    kind: str
    targets: tuple[str, ...]
    train: Path
    test: Path
    out: Path
    steps: int
    model: dict[str, Any] = field(default_factory=dict)


def run(plan: Plan, out: Path, workers: int = 2, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Carry out the study in the folder ``out`` and return its results (also in ``results.json``).

    Args:
        workers: processes, one thread each.
        say: receives one plain sentence per finding.

    Raises:
        VibronicError: ``out`` holds a study with another plan; an engine or a crystal cannot be had.
    """
    out = Path(out)
    _same_plan(plan, out)
    names = [Path(c).stem for c in plan.crystals]
    folders = [out / name for name in names]
    with processes(workers) as pool, _bar() as bar:
        task = bar.add_task("Relaxing, phonons, dynamics", total=2 * len(folders))
        pairs = list(zip(plan.crystals, folders, strict=True))
        costly_first = sorted(pairs, key=lambda pair: -len(read_crystal(pair[0])))
        waiting = [
            pool.schedule(_trajectory, (plan, c, f, purpose)) for c, f in costly_first for purpose in ("test", "fit")
        ]
        for future in as_completed(waiting):
            future.result()
            bar.advance(task)
    for crystal, folder in pairs:
        for finding in _draw(plan, crystal, folder):
            say(f"{folder.name}: {finding}")
    _label(plan, folders, out, workers)
    jobs = [job for name, folder in zip(names, folders, strict=True) for job in _potential_jobs(plan, name, folder)]
    if plan.gap:
        jobs += _gap_jobs(plan, out / "gap")
    rows = _learn(jobs, workers)
    results = {"plan": asdict(plan), "crystals": names, "rows": rows}
    if plan.gap:
        results["attribution"] = _attribute(plan, out / "gap")
    write_json(out / "results.json", results)
    return results


def _same_plan(plan: Plan, out: Path) -> None:
    path = out / "plan.json"
    wanted = json.loads(json.dumps(asdict(plan)))
    if path.exists() and json.loads(path.read_text()) != wanted:
        raise VibronicError(f"{out} holds a study with another plan; choose another --out or delete it")
    write_json(path, wanted)


def _harmonic(plan: Plan, name: str, folder: Path) -> ForceConstants:
    """The relaxed crystal and its harmonic force constants: seconds, so computed anew rather than kept."""
    from vibronic.labelling.engines import engine
    from vibronic.sampling.phonons import force_constants
    from vibronic.sampling.relax import relax

    path = folder / "relaxed.extxyz"
    calculator = engine(plan.engine).calculator()
    relaxed = read_labelled(path)[0] if path.exists() else relax(read_crystal(name), calculator)
    relaxed.info["parent"] = folder.name
    harmonic = force_constants(relaxed, plan.supercell, calculator, progress=False)
    harmonic.supercell.info["parent"] = folder.name
    return harmonic


def _trajectory(plan: Plan, name: str, folder: Path, purpose: str) -> None:
    """One trajectory of a crystal: the test set, or snapshots to fit effective force constants to.

    The two are independent, so that nothing of the test set is known to the phonons. The second is only needed, and
    only computed, where harmonic modes are imaginary.
    """
    from vibronic.labelling.engines import engine
    from vibronic.sampling.dynamics import Dynamics
    from vibronic.sampling.phonons import Phonons

    path = folder / f"{purpose}.extxyz"
    if path.exists():
        return
    harmonic = _harmonic(plan, name, folder)
    if purpose == "test":
        write_structures(folder / "relaxed.extxyz", [harmonic.unitcell])
        n, interval, seed = plan.test, plan.interval, 2
    elif harmonic.modes().unstable.any():
        n, interval, seed = plan.fit_snapshots, max(1, plan.interval // 2), 1
    else:
        return
    # A crystal that sits on a saddle takes long to leave it by itself: start displaced along the unstable modes.
    start = Phonons(harmonic, plan.temperature, plan.statistics, "cap", min_distance=_closest(harmonic.supercell))
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
    from vibronic.sampling.checks import check_snapshots, coverage
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
    closest = _closest(reference)
    # A short trajectory may leave a few soft modes without a restoring force; they are bounded, and that is said.
    phonons = Phonons(chosen, plan.temperature, plan.statistics, "cap", min_distance=closest)
    if chosen.modes().unstable.any():
        findings.append(phonons.findings[-1])
    sets = {"phonons": phonons.sample(reference, plan.pool, seed=3)}
    sets["random"], finding = _matched_random(sets["phonons"], reference, closest)
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
                    "error": per_frame.std(ddof=1) / np.sqrt(len(frames)),
                    "theory": np.trace(theory[symbols == s].mean(axis=0)) / 3 if label == "phonons" else None,
                }
            )
    findings += check_snapshots(sets["phonons"], reference, phonons)
    for label, frames in sets.items():
        share = coverage(frames, test)["all"]
        findings.append(f"the {label} set covers {share:.0%} of the atomic environments of the dynamics")
        write_structures(folder / f"{label}.extxyz", frames)
    write_structures(folder / "reference.extxyz", [reference])
    bands = {label: asdict(fc.band_structure()) for label, fc in _distinct(harmonic, chosen)}
    dos = {label: asdict(fc.density_of_states(12)) for label, fc in _distinct(harmonic, chosen)}
    write_json(path, {"findings": findings, "displacements": displacements, "bands": bands, "dos": dos})
    return findings


def _closest(reference: Atoms) -> float:
    """Angstrom: no sampled pair is nearer than 0.65 of the shortest bond, where engines fail and nature does not go."""
    i, j, shift = neighbor_list(reference, 6.0)
    vectors = reference.positions[j] - reference.positions[i] + shift @ reference.cell.array
    return 0.65 * float(np.linalg.norm(vectors, axis=1).min())


def _matched_random(phonons: Sequence[Atoms], reference: Atoms, closest: float) -> tuple[list[Atoms], str]:
    """A random set with the mean-square displacement of the phonon set, or the nearest to it that keeps atoms apart."""
    from vibronic.sampling.rattle import Rattle

    matched = Rattle.matched_to(phonons, reference, min_distance=closest)
    for smaller in range(10):
        sampler = replace(matched, amplitude=matched.amplitude * 0.9**smaller)
        try:
            frames = sampler.sample(reference, len(phonons), seed=4)
        except VibronicError:
            continue  # hardly any configuration keeps its atoms apart: isotropic displacements cannot be this large
        said = f"the random set has an rms displacement of {sampler.amplitude:.2f} Angstrom per atom"
        if smaller:
            return frames, f"{said}, not the {matched.amplitude:.2f} of the phonon set, at which atoms would overlap"
        return frames, f"{said}, that of the phonon set"
    raise VibronicError(
        f"no random displacements of {reference.symbols} near {matched.amplitude:.2f} Angstrom keep atoms apart"
    )


def _distinct(harmonic: ForceConstants, chosen: ForceConstants) -> list[tuple[str, ForceConstants]]:
    return [("harmonic", harmonic)] + ([("effective", chosen)] if chosen is not harmonic else [])


def _label(plan: Plan, folders: Sequence[Path], out: Path, workers: int) -> None:
    """Labels for both sets of every crystal, through one ledger."""
    from vibronic.labelling.label import label

    for folder in folders:
        for name in SETS:
            path = folder / f"{name}-labelled.extxyz"
            if not path.exists():
                report = label(
                    read_structures(folder / f"{name}.extxyz"), plan.engine, out / "ledger.sqlite", workers=workers
                )
                write_structures(path, report.labelled)


def _potential_jobs(plan: Plan, crystal: str, folder: Path) -> list[Job]:
    """Energy, forces and stress from PaiNN; energy and pressure from the ridge, which every table holds."""
    network = {"width": plan.width, "layers": plan.layers, "cutoff": plan.cutoff}
    kinds = {
        "ridge": (("energy", "pressure"), {}),
        "painn": (("energy", "forces", "stress"), network),
    }
    return [
        Job(
            crystal,
            label,
            n,
            seed,
            kind,
            targets,
            folder / f"{label}-labelled.extxyz",
            folder / "test.extxyz",
            folder / "models" / f"{kind}-{label}-{n}-{seed}",
            plan.steps,
            model,
        )
        for kind, (targets, model) in kinds.items()
        for n in plan.sizes
        for label in SETS
        for seed in plan.seeds
    ]


def _gap_jobs(plan: Plan, folder: Path) -> list[Job]:
    """Band gap and valence-band maximum of Ag3SBr from the DFT labels in the package; the dynamics is the test set.

    Besides growing parts of both sets, one model per seed learns from both together: those are explained.
    """
    frames = read_named("Ag3SBr-pbe")
    methods = {"phonons": "phonon", "random": "random", "test": "md"}
    for name, method in methods.items():
        write_structures(folder / f"{name}.extxyz", [a for a in frames if a.info["method"] == method])
    write_structures(folder / "both.extxyz", [a for a in frames if a.info["method"] != "md"])
    network = {"width": plan.width, "layers": plan.layers, "cutoff": 5.0}
    jobs = [
        Job(
            GAP,
            label,
            n,
            seed,
            kind,
            ("band_gap", "vbm"),
            folder / f"{label}.extxyz",
            folder / "test.extxyz",
            folder / "models" / f"{kind}-{label}-{n}-{seed}",
            plan.steps,
            network if kind == "painn" else {},
        )
        for kind in ("ridge", "painn")
        for n in plan.gap_sizes
        for label in SETS
        for seed in plan.gap_seeds
    ]
    both = sum(a.info["method"] != "md" for a in frames)
    last = [j for j in jobs if j.kind == "painn" and j.set == "random" and j.size == max(plan.gap_sizes)]
    return jobs + [
        replace(j, set="both", size=both, train=folder / "both.extxyz", out=folder / "models" / f"painn-both-{j.seed}")
        for j in last
    ]


def _learn(jobs: Sequence[Job], workers: int) -> list[dict[str, Any]]:
    """Scores of all trainings; those already done are read back."""
    with processes(workers) as pool, _bar() as bar:
        task = bar.add_task("Training", total=len(jobs))
        # Costly ones first, so that no process idles at the end.
        order = sorted(
            range(len(jobs)), key=lambda k: (jobs[k].kind == "ridge", jobs[k].targets == ("band_gap", "vbm"))
        )
        futures: dict[Any, int] = {pool.schedule(_train, (jobs[k],)): k for k in order}
        rows: list[list[dict[str, Any]]] = [[] for _ in jobs]
        for future in as_completed(futures):
            rows[futures[future]] = future.result()
            bar.advance(task)
    return [row for several in rows for row in several]


def _train(job: Job) -> list[dict[str, Any]]:
    """Train and score one model; one row per target."""
    from vibronic.data.dataset import GraphData
    from vibronic.learning import store
    from vibronic.learning.prediction import predict, score
    from vibronic.properties.descriptors import DescriptorRidge

    done = job.out / "scores.json"
    if done.exists():
        return json.loads(done.read_text())
    pool, test = read_labelled(job.train), read_labelled(job.test)
    chosen = np.random.default_rng(job.seed).permutation(len(pool))[: job.size]  # subsets of one seed are nested
    torch.manual_seed(job.seed)
    model = store.build(job.kind, targets=job.targets, **job.model)
    data = GraphData([pool[k] for k in chosen], model.targets, model.cutoff)
    if isinstance(model, DescriptorRidge):
        model.fit(data.batch().to(dtype=torch.float64))
    else:
        from vibronic.learning.training import Training, fit

        # Few structures and few steps: small batches and a high peak learn most in the time.
        how = Training(epochs=max(1, round(job.steps * 2 / job.size)), batch_size=2, learning_rate=5e-3)
        fit(model, data, None, job.out, how, job.seed, device="cpu", progress=False, logs=False)
        shutil.rmtree(job.out / "checkpoints")  # the model folder holds the weights
    predicted = predict(model, test)
    scores, units = score(model.targets, predicted, test)
    store.save(model, job.out, store.Card(describe([pool[k] for k in chosen]), scores, units))
    if "stress" in job.targets:  # the same figure as the ridge's, which only knows the trace
        predicted["pressure"] = [-np.trace(s) / 3 for s in predicted["stress"]]
    targets = [target("pressure") if t == "stress" else target(t) for t in job.targets]
    scores, units = score(targets, predicted, test)
    rows = []
    for t in targets:
        scale, unit = _SHOWN.get(t.name, (1.0, units[f"mae_{t.name}"]))
        pairs = [
            (np.asarray(label_of(a, t.name)) / (len(a) if t.extensive else 1), p / (len(a) if t.extensive else 1))
            for a, p in zip(test, predicted[t.name], strict=True)
        ]
        rows.append(
            {
                "crystal": job.crystal,
                "set": job.set,
                "size": job.size,
                "seed": job.seed,
                "model": job.kind,
                "target": t.name,
                "mae": scores[f"mae_{t.name}"] * scale,
                "rmse": scores[f"rmse_{t.name}"] * scale,
                "r2": scores[f"r2_{t.name}"],
                "unit": unit,
                "n_test": len(test),
                "parity": [np.ravel([a for a, _ in pairs]), np.ravel([b for _, b in pairs])]
                if t.name != "forces"
                else None,
            }
        )
    write_json(done, rows)
    return json.loads(done.read_text())


def _attribute(plan: Plan, folder: Path) -> dict[str, Any]:
    """Bond attributions of the gap on one snapshot of the dynamics, averaged over the models of all seeds."""
    from vibronic.explain.attribution import attribute, average
    from vibronic.learning.store import load

    atoms = read_labelled(folder / "test.extxyz")[0]
    models = [load(folder / "models" / f"painn-both-{seed}")[0] for seed in plan.gap_seeds]
    found = [attribute(model, atoms, "band_gap") for model in models]
    mean = average(found)
    write_structures(folder / "explained.extxyz", [atoms])
    return {
        "unit": "eV",
        "spread_over_seeds": np.std([a.value for a in found], axis=0).mean(),
        **{k: getattr(mean, k) for k in ("i", "j", "shift", "length", "value", "kinds")},
    }


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))
