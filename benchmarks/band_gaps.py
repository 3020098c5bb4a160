"""Band gaps of displaced Ag3SBr from DFT labels: what each model learns from how many, tested on molecular dynamics.

Three questions, each for training sets with and without the random configurations, half of which are far more violent than
any that dynamics visits. ``strict``: trained on phonon-made (and random) configurations alone, tested on all snapshots of the dynamics;
not wholly unseen, since the force constants behind the phonons were fitted to the first trajectory of each temperature.
``trajectories``: trained on these and on the dynamics but for one trajectory, tested on that one, all in turn. ``blocks``: the same with one
block of consecutive snapshots of every trajectory in place of a whole one; snapshots next to a block (50 fs) are left out of the training.
Silver sits off centre in a pattern that outlives a trajectory, so blocks share with the training what trajectories do not.
Learning curves are over random subsets of the phonon-made ones, five seeds, in ``strict``::

    python benchmarks/band_gaps.py                          # tight-binding and ridge, about half an hour of one core
    python benchmarks/band_gaps.py --add labelled.extxyz    # first add new labels of 'vibronic label --engine gpaw' to the set

The set is ``Ag3SBr-pbe`` of ``vibronic data``; its README says how its labels were made.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

import record
from vibronic.core.provenance import writable
from vibronic.core.statistics import half_width
from vibronic.data.dataset import GraphData, read_labelled
from vibronic.data.sources import structures
from vibronic.learning import store
from vibronic.learning.prediction import predict

SETS = record.ROOT / "src/vibronic/data/sets"
BLOCKS, GAP, SEEDS, SIZES = 5, 1, 5, (20, 40, 80)
LATER = "trajectories that no trial saw"
MODELS = {"tight-binding": {"targets": ["band_gap", "vbm"]}, "ridge": {"targets": ["band_gap", "vbm"]}}


def add(path: Path, name: str) -> None:
    """Add the structures of a labelled file that a set does not hold yet, with their provenance."""
    from ase.io import write

    file = SETS / f"{name}.extxyz.gz"
    known = read_labelled(file) if file.exists() else []
    positions = [a.positions for a in known]
    for atoms in read_labelled(path):
        if not any(p.shape == atoms.positions.shape and np.abs(p - atoms.positions).max() < 1e-4 for p in positions):
            known.append(atoms)
    for atoms in known:
        for name in ("band_gap", "vbm", "cbm"):
            atoms.info[name] = float(atoms.info[name])
        if (spectrum := atoms.info.pop("eigenvalues", None)) is not None:
            # Twelve levels on either side of the gap, the edges among them; those further up are not converged.
            values = np.asarray(spectrum)
            top = int((values < atoms.info["vbm"] + 1e-6).sum())
            atoms.info["eigenvalues"] = np.round(values[top - 12 : top + 12], 6)
    with writable(file) as temporary:
        write(temporary, known, format="extxyz", write_results=True)
    print(f"{len(known)} configurations: {file}")


@dataclass(frozen=True)
class Fold:
    """Places in the set to train on and to test on."""

    kind: str
    split: str
    set: str
    train: tuple[int, ...]
    test: tuple[int, ...]
    seed: int | None = None


def predicted(fold: Fold) -> tuple[list[float], float]:
    """Band gaps of the test places and the processor seconds of the fit."""
    torch.set_num_threads(1)
    frames = structures("Ag3SBr-pbe")
    start = time.process_time()
    model = store.build(fold.kind, **MODELS[fold.kind])
    train = GraphData([frames[k] for k in fold.train], model.labels, model.cutoff)
    model.prepare(train.batch().to(dtype=torch.float64))
    seconds = time.process_time() - start
    return [float(v) for v in predict(model, [frames[k] for k in fold.test])["band_gap"]], seconds


def folds(frames: list[Atoms]) -> list[Fold]:
    """Everything that is to be trained, costly ones first."""
    of = {
        method: [k for k, a in enumerate(frames) if a.info["method"] == method] for method in ("md", "phonon", "random")
    }
    found = []
    for kind in MODELS:
        for name, static in (("phonons and random", of["phonon"] + of["random"]), ("phonons", of["phonon"])):
            used = sorted(static + of["md"])
            part = [frames[k] for k in used]
            for split, pairs in (("trajectories", trajectories(part)), ("blocks", blocks(part))):
                for train, test in pairs:
                    places = (tuple(used[k] for k in side) for side in (train, test))
                    found.append(Fold(kind, split, f"{name}, dynamics", *places))
            found.append(Fold(kind, "strict", name, tuple(static), tuple(of["md"])))
        for size in (n for n in SIZES if n < len(of["phonon"])):
            for seed in range(SEEDS):
                chosen = np.random.default_rng(seed).permutation(of["phonon"])[:size]
                found.append(Fold(kind, "curve", "phonons", tuple(chosen.tolist()), tuple(of["md"]), seed))
    return sorted(found, key=lambda f: (f.kind == "ridge", -len(f.train)))


def scores(predicted: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    error = predicted - labels
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": float(1 - (error**2).sum() / ((labels - labels.mean()) ** 2).sum()),
        "bias": float(error.mean()),
        "n": len(labels),
    }


def by_temperature(predicted: np.ndarray, test: list[Atoms]) -> dict[str, dict[str, float]]:
    labels = np.array([float(a.info["band_gap"]) for a in test])
    kelvin = np.array([float(a.info["temperature_K"]) for a in test])
    # Settings were tried on the first trajectories, which have no seed.
    later = np.array([trajectory(a)[1] != 0 for a in test])
    parts = {"all": np.ones(len(test), bool), **{f"{t:g} K": kelvin == t for t in np.unique(kelvin)}, LATER: later}
    found = {name: scores(predicted[inside], labels[inside]) for name, inside in parts.items()}
    of = np.array([trajectory(a) for a in test])
    for name, inside in parts.items():
        # Snapshots of one trajectory are alike: the interval is over trajectories. The bias is the error of the thermal average.
        each = [(predicted - labels)[inside & (of == one).all(axis=1)] for one in np.unique(of[inside], axis=0)]
        for what, of_one in (("mae", lambda e: np.abs(e).mean()), ("bias", np.mean)):
            ones = [of_one(e) for e in each]
            found[name][f"{what}_over_trajectories"] = float(np.mean(ones))
            if (half := half_width(ones)) is not None:
                found[name][f"{what}_half_width_over_trajectories"] = half
    return found


def trajectory(atoms: Atoms) -> tuple[float, int]:
    """Temperature (K) and seed of the dynamics that a snapshot is of; those of the first trajectories have no seed."""
    return float(atoms.info["temperature_K"]), int(atoms.info.get("seed", 0))


def trajectories(frames: list[Atoms]) -> list[tuple[list[int], list[int]]]:
    """Places to train on and to test on: every trajectory is tested once, by models that saw none of it."""
    mine = {k: trajectory(a) for k, a in enumerate(frames) if a.info["method"] == "md"}
    return [
        ([k for k in range(len(frames)) if mine.get(k) != one], [k for k, of in mine.items() if of == one])
        for one in sorted(set(mine.values()))
    ]


def blocks(frames: list[Atoms]) -> list[tuple[list[int], list[int]]]:
    """Places to train on and to test on: every snapshot is tested once, its neighbours in time are not in the training."""
    dynamics = [k for k, a in enumerate(frames) if a.info["method"] == "md"]
    folds = []
    for fold in range(BLOCKS):
        test, near = [], set()
        for one in sorted({trajectory(frames[k]) for k in dynamics}):
            mine = [k for k in dynamics if trajectory(frames[k]) == one]
            mine.sort(key=lambda k: int(frames[k].info["snapshot"]))
            part = np.array_split(mine, BLOCKS)[fold].tolist()
            moments = {int(frames[k].info["snapshot"]) for k in part}
            near |= {k for k in mine if any(abs(int(frames[k].info["snapshot"]) - m) <= GAP for m in moments)}
            test += part
        folds.append(([k for k in range(len(frames)) if k not in near and k not in test], test))
    return folds


def tables(rows: list[dict]) -> dict[str, dict]:
    """Scores of every split, and the learning curves as means over seeds."""
    found: dict[str, dict] = {}
    for split in ("strict", "trajectories", "blocks"):
        found[split] = {
            f"{r['model']}, {r['set']}": {
                "labels": r["labels"],
                **{f"{t}: {k}": v for t, s in r["scores"].items() for k, v in s.items()},
            }
            for r in rows
            if r["split"] == split
        }
    curve = [r for r in rows if r["split"] == "curve"]
    found["learning curve, strict, phonons alone"] = {
        f"{kind}, {size} labels": {
            name: float(np.mean([r["scores"]["all"][name] for r in curve if (r["model"], r["labels"]) == (kind, size)]))
            for name in ("mae", "r2", "bias")
        }
        for kind, size in dict.fromkeys((r["model"], r["labels"]) for r in curve)
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--add", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--set", default="Ag3SBr-pbe", help="to add to; nothing is measured of another")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.add:
        add(arguments.add, arguments.set)
    if arguments.set != "Ag3SBr-pbe":
        return
    frames = [*structures("Ag3SBr-pbe")]
    dynamics = [a for a in frames if a.info["method"] == "md"]
    groups: dict[tuple, list[tuple[Fold, list[float], float]]] = {}
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        asked = folds(frames)
        for fold, (values, seconds) in zip(asked, pool.map(predicted, asked), strict=True):
            group = fold.kind, fold.split, fold.set, len(fold.train) if fold.split == "curve" else 0, fold.seed
            groups.setdefault(group, []).append((fold, values, seconds))
            print(*group, f"{len(fold.train)} labels, {seconds:.0f} s", flush=True)
    rows: list[dict] = []
    for (kind, split, name, _, seed), parts in groups.items():
        tested = [frames[k] for fold, _, _ in parts for k in fold.test]
        row = {
            "model": kind,
            "split": split,
            "set": name,
            "labels": max(len(fold.train) for fold, _, _ in parts),
            "cpu_seconds": sum(seconds for _, _, seconds in parts),
            "scores": by_temperature(np.array([v for _, values, _ in parts for v in values]), tested),
        }
        rows.append(row if seed is None else row | {"seed": seed})
        print({k: row[k] for k in ("model", "split", "set", "labels")}, row["scores"]["all"], flush=True)
    content = {
        "what": "PBE band gap of displaced Ag3SBr (40 atoms), tested on molecular dynamics at 300 and 600 K",
        "units": {
            "mae": "eV",
            "rmse": "eV",
            "bias": "eV",
            "r2": "1",
            "*_over_trajectories": "eV",
        },
        "targets": {"mae": 0.030, "r2": 0.90, "labels": 200, "bias": 0.01},
        "set": {
            "configurations": len(frames),
            "dynamics": len(dynamics),
            "trajectories": len({trajectory(a) for a in dynamics}),
            "phonons": sum(a.info["method"] == "phonon" for a in frames),
        },
        "chosen": "cutoff, penalty, orbitals and electrostatics of tight-binding were chosen by trials on the first trajectories",
        "tables": tables(rows),
        "rows": rows,
    }
    print(record.write("band_gaps", content, "python benchmarks/band_gaps.py"))


if __name__ == "__main__":
    main()
