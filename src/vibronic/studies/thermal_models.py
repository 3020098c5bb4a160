"""The trainings of the thermal study: which models learn from which part of which set, and how they are scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vibronic.core.provenance import write_json
from vibronic.core.targets import Target, target
from vibronic.core.units import GPA
from vibronic.data.dataset import describe, label_of, read_labelled, write_structures
from vibronic.data.sources import structures as read_named
from vibronic.labelling.executors import processes
from vibronic.learning.recipe import Training
from vibronic.studies.thermal_plan import Plan

GAP = "Ag3SBr, DFT"
GAP_SETS = ("phonons", "random")
HAMILTONIAN = 60
"""Most structures that an explained tight-binding model learns from: a fit takes a quarter of a second for each."""
_SHOWN = {"energy": (1e3, "meV/atom"), "pressure": (1 / GPA, "GPa")}
"""Scale and unit in which scores are shown to people."""


@dataclass(frozen=True)
class Job:
    """One training: a model kind on some structures of one set, scored on every test file.

    Attributes:
        chosen: indices of the training structures in the file ``train``; ``size`` is their number.
        tests: temperature (K; None for several together) and file of each.
    """

    crystal: str
    set: str
    seed: int
    kind: str
    targets: tuple[str, ...]
    train: Path
    chosen: tuple[int, ...]
    tests: tuple[tuple[float | None, Path], ...]
    out: Path
    steps: int
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.chosen)


def potential_jobs(plan: Plan, crystal: str, folder: Path) -> list[Job]:
    """Energy, forces and stress from PaiNN; energy and pressure from the ridge, which every table holds.

    Every seed has structures of its own, so that the spread over seeds holds that of the training sets, unless the plan
    has a pool for all; the force constants and the test trajectories are common. The sets of one seed are nested.
    """
    return [
        Job(
            crystal=crystal,
            set=label,
            seed=seed,
            kind=kind,
            targets=targets,
            train=folder / f"{label}-labelled.extxyz",
            chosen=plan.chosen(seed, n),
            tests=_tests(plan, folder),
            out=folder / "models" / f"{kind}-{label}-{n}-{seed}",
            steps=plan.steps,
            model=model,
        )
        for kind, (targets, model) in _potentials(plan).items()
        for n in plan.sizes
        for label in plan.sets
        for seed in plan.seeds
    ]


def _potentials(plan: Plan) -> dict[str, tuple[tuple[str, ...], dict[str, Any]]]:
    """Kind of model -> targets and settings."""
    network = {"width": plan.width, "layers": plan.layers, "cutoff": plan.cutoff}
    return {"ridge": (("energy", "pressure"), {}), "painn": (("energy", "forces", "stress"), network)}


def _tests(plan: Plan, folder: Path) -> tuple[tuple[float | None, Path], ...]:
    return tuple((t, plan.test_file(folder, t)) for t in plan.tested)


def held_out(elements: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Crystal -> the others to learn from, where every element of the crystal occurs in them.

    Crystals that share no element, not even by way of others, teach each other nothing and are kept apart.
    """
    families: list[set[str]] = []
    for name in elements:
        near = [f for f in families if any(elements[name] & elements[other] for other in f)]
        families = [f for f in families if f not in near] + [{name}.union(*near)]
    found = {}
    for name in elements:
        donors = [o for o in elements if o != name and any({o, name} <= f for f in families)]
        if elements[name] <= set().union(*(elements[o] for o in donors)):
            found[name] = donors
    return found


def transfer_jobs(plan: Plan, donors: Mapping[str, Sequence[str]], out: Path) -> list[Job]:
    """Models that learn from the other crystals' sets, as many labels in all as the largest training set has.

    Only phonons, and the random set where there is one: what the paper compares.
    """
    jobs = []
    for name, others in donors.items():
        for label in [s for s in GAP_SETS if s in plan.sets]:
            each = max(1, max(plan.sizes) // len(others))
            path = out / "transfer" / f"without-{name}-{label}.extxyz"
            sets = [read_labelled(out / other / f"{label}-labelled.extxyz") for other in others]
            if not path.exists():
                write_structures(path, [a for frames in sets for a in frames])
            starts = np.cumsum([0, *map(len, sets)])
            for kind, (targets, model) in _potentials(plan).items():
                jobs += [
                    Job(
                        crystal=name,
                        set=label,
                        seed=seed,
                        kind=kind,
                        targets=targets,
                        train=path,
                        chosen=tuple(int(s) + k for s in starts[:-1] for k in plan.chosen(seed, each)),
                        tests=_tests(plan, out / name),
                        out=out / "transfer" / f"{name}-{kind}-{label}-{seed}",
                        steps=plan.steps,
                        model=model,
                    )
                    for seed in plan.seeds
                ]
    return jobs


def gap_jobs(plan: Plan, folder: Path) -> list[Job]:
    """Band gap and valence-band maximum of Ag3SBr from the DFT labels in the package; the dynamics is the test set.

    The network learns energy, forces and stress of the same calculations beside them, all with the weight of the forces:
    with less, the gap comes out as a constant in so few steps. Besides growing parts of both sets, one model per seed learns
    from both together: those are explained. A Hamiltonian is fitted without chance, so each seed's learns from its own part.
    """
    frames = read_named("Ag3SBr-pbe")
    sets = {
        "phonons": [a for a in frames if a.info["method"] == "phonon"],
        "random": [a for a in frames if a.info["method"] == "random"],
        "both": [a for a in frames if a.info["method"] != "md"],
        "test": [a for a in frames if a.info["method"] == "md"],
    }
    tests: list[tuple[float | None, Path]] = [(None, folder / "test.extxyz")]
    for t in sorted({float(a.info["temperature_K"]) for a in sets["test"]}):
        tests.append((t, folder / f"test-{t:g}K.extxyz"))
        sets[tests[-1][1].stem] = [a for a in sets["test"] if a.info["temperature_K"] == t]
    for name, structures in sets.items():
        write_structures(folder / f"{name}.extxyz", structures)
    weights = {"forces": 50.0, "band_gap": 50.0, "vbm": 50.0}
    network = {"width": plan.width, "layers": plan.layers, "cutoff": 5.0, "weights": weights}

    def job(kind: str, label: str, n: int, seed: int) -> Job:
        order = np.random.default_rng(seed).permutation(len(sets[label]))[:n]
        return Job(
            crystal=GAP,
            set=label,
            seed=seed,
            kind=kind,
            targets=("energy", "forces", "stress", "band_gap", "vbm") if kind == "painn" else ("band_gap", "vbm"),
            train=folder / f"{label}.extxyz",
            chosen=tuple(order.tolist()),
            tests=tuple(tests),
            out=folder / "models" / f"{kind}-{label}-{n}-{seed}",
            steps=plan.steps,
            model=network if kind == "painn" else {},
        )

    smaller, both = min(len(sets[s]) for s in GAP_SETS), len(sets["both"])
    whole = {"ridge": both, "painn": both, "tight-binding": min(HAMILTONIAN, 4 * both // 5)}
    return [
        job(kind, label, n, seed)
        for kind, most in whole.items()
        for label, n in [
            *((s, n) for s in GAP_SETS for n in sorted({min(n, smaller) for n in plan.gap_sizes})),
            ("both", most),
        ]
        for seed in plan.seeds
    ]


def gap_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Of each set with DFT gaps: how many structures, at which temperatures, how far apart their closest atoms are."""
    from vibronic.sampling.checks import minimum_distance

    found = {}
    for name in (*GAP_SETS, "test"):
        frames = read_labelled(folder / f"{name}.extxyz")
        temperatures = sorted({float(a.info["temperature_K"]) for a in frames if "temperature_K" in a.info})
        closest = minimum_distance(frames)
        found[name] = {"number": len(frames), "temperatures": temperatures, "atoms": len(frames[0]), "closest": closest}
    return found


def learn(jobs: Sequence[Job], workers: int) -> list[dict[str, Any]]:
    """Scores of all trainings; those already done are read back."""
    with processes(workers) as pool, bar() as progress:
        task = progress.add_task("Training", total=len(jobs))
        # Costly ones first, so that no process idles at the end.
        order = sorted(range(len(jobs)), key=lambda k: (jobs[k].kind == "ridge", -jobs[k].size))
        futures: dict[Any, int] = {pool.schedule(_train, (jobs[k],)): k for k in order}
        rows: list[list[dict[str, Any]]] = [[] for _ in jobs]
        for future in as_completed(futures):
            rows[futures[future]] = future.result()
            progress.advance(task)
    return [row for several in rows for row in several]


def _train(job: Job) -> list[dict[str, Any]]:
    """Train and score one model; one row per target."""
    from vibronic.data.dataset import GraphData
    from vibronic.learning import store
    from vibronic.learning.prediction import predict, score

    done = job.out / "scores.json"
    if done.exists():
        return json.loads(done.read_text())
    pool = read_labelled(job.train)
    chosen = [pool[k] for k in job.chosen]
    torch.manual_seed(job.seed)
    model = store.build(job.kind, targets=job.targets, **job.model)
    data = GraphData(chosen, model.targets, model.cutoff)
    if model.closed_form:
        model.prepare(data.batch().to(dtype=torch.float64))
    else:
        from vibronic.learning.training import fit

        fit(model, data, None, job.out, recipe(job), job.seed, device="cpu", progress=False, logs=False)
        shutil.rmtree(job.out / "checkpoints")  # the model folder holds the weights
    rows: list[dict[str, Any]] = []
    for temperature, path in job.tests:
        test = read_labelled(path)
        predicted = predict(model, test)
        scores, units = score(model.targets, predicted, test)
        if not rows:
            store.save(model, job.out, store.Card(describe(chosen), scores, units))
        if "stress" in job.targets:  # the same figure as the ridge's, which only knows the trace
            predicted["pressure"] = [-np.trace(s) / 3 for s in predicted["stress"]]
        targets = [target("pressure") if t == "stress" else target(t) for t in job.targets]
        scores, units = score(targets, predicted, test)
        rows += [_row(job, t, predicted[t.name], test, scores, units) | {"temperature_K": temperature} for t in targets]
    write_json(done, rows)
    return json.loads(done.read_text())


def recipe(job: Job) -> Training:
    """Few structures and few steps: small batches and a high peak learn most in the time."""
    return Training(epochs=max(1, round(job.steps * 2 / job.size)), batch_size=2, learning_rate=5e-3)


def _row(
    job: Job,
    t: Target,
    predicted: Sequence[np.ndarray],
    test: Sequence[Atoms],
    scores: dict[str, float],
    units: dict[str, str],
) -> dict[str, Any]:
    """Scores of one target, beside those of a constant: the mean of the test labels, or no force at all."""
    scale, unit = _SHOWN.get(t.name, (1.0, units[f"mae_{t.name}"]))
    count = [len(a) if t.extensive else 1 for a in test]
    labels = [np.ravel(label_of(a, t.name)) / c for a, c in zip(test, count, strict=True)]  # type: ignore[arg-type]
    flat = np.concatenate(labels)
    parity = [flat, np.concatenate([np.ravel(p) / c for p, c in zip(predicted, count, strict=True)])]
    return {
        "crystal": job.crystal,
        "set": job.set,
        "size": job.size,
        "seed": job.seed,
        "model": job.kind,
        "target": t.name,
        "mae": scores[f"mae_{t.name}"] * scale,
        "rmse": scores[f"rmse_{t.name}"] * scale,
        "r2": scores[f"r2_{t.name}"],
        "constant": np.abs(flat - (0.0 if t.shape else flat.mean())).mean() * scale,
        "unit": unit,
        "n_test": len(test),
        "parity": None if t.shape else parity,
    }


def bar() -> Progress:
    """The progress bar of the study's long stages."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))
