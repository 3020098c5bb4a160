"""What the study ``inverse-design`` trains on: the crystals of the benchmark sets, in parts that share none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.folder import content
from vibronic.core.progress import track
from vibronic.core.provenance import write_json
from vibronic.crystals.matching import novel, unique
from vibronic.crystals.metrics import PERCENTILES, benchmark, successes
from vibronic.data import cdvae, tables
from vibronic.data.dataset import label_of, read_structures, split, write_structures

SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}
"""Of the random split, where the official files are not at hand."""

PREDICTED = 200
"""Training crystals whose property is predicted too, beside the generated ones."""

FEWEST = 20

Predict = Callable[[list[Atoms]], np.ndarray]


def prepare(name: str, rows: int | None, out: Path, predict: Predict) -> dict[str, Any]:
    """Leave a set as ``sets/NAME.extxyz`` (its parts under ``part``) and what is to be said of it as ``sets/NAME.json``.

    The training part keeps its duplicates, from which the published models learned too: of Carbon-24, which holds its deepest
    minima hundreds of times, nothing else teaches the wanted ones. Only novelty tells that from knowledge of the set. Where
    we split, the other parts hold no crystal of the training part, and each of theirs once.

    Raises:
        VibronicError: the set is not here, or has too few crystals.
    """
    path = out / "sets" / f"{name}.json"
    if path.exists() and (done := content(path)) is not None:
        return done
    constants = benchmark(name)
    frames, described = _parts(name, rows)
    train = [a for a in frames if a.info["part"] == "train"]
    labels = _labels(train, constants.property)
    reached = successes(labels, constants.thresholds)
    chosen = np.random.default_rng(0).permutation(len(train))[:PREDICTED]
    predicted = predict([train[k] for k in chosen])
    described |= {
        "property": constants.property,
        "unit": cdvae.SETS[name].units[constants.property],
        "thresholds": dict(zip((f"sr{p}" for p in PERCENTILES), constants.thresholds)),
        "minimum": float(labels.min()),
        "bound": float(np.quantile(labels, 0.05)),
        "volume": float(np.median([volume(a) for a in train])),
        "reached": {k: float(v.mean()) for k, v in reached.items()},
        "labels": [round(v, 5) for v in labels.tolist()],
        "predicted": [round(v, 5) for v in predicted[np.isfinite(predicted)].tolist()],
        "predictor_mae": float(np.nanmean(np.abs(predicted - labels[chosen]))),
    }
    write_structures(out / "sets" / f"{name}.extxyz", frames)
    write_json(path, described)
    return described


def part(name: str, which: str, out: Path) -> list[Atoms]:
    """The crystals of one part of a set that :func:`prepare` left."""
    return [a for a in read_structures(out / "sets" / f"{name}.extxyz") if a.info["part"] == which]


def volume(atoms: Atoms) -> float:
    """Angstrom^3 per atom."""
    return float(atoms.get_volume() / len(atoms))


def _labels(frames: Sequence[Atoms], name: str) -> np.ndarray:
    return np.array([label_of(a, name) for a in frames], dtype=float)


def _parts(name: str, rows: int | None) -> tuple[list[Atoms], dict[str, Any]]:
    """Crystals with their ``part``, and their numbers."""
    official = all(_official(name, p) for p in cdvae.PARTS)
    if official:
        there = {w: cdvae.crystals(name, p, reduce=True) for w, p in zip(SHARES, cdvae.PARTS, strict=True)}
    else:
        there = {"all": cdvae.crystals(name, reduce=True)}
    at_hand = sum(map(len, there.values()))
    if rows is not None:
        there = {w: _some(frames, round(rows * SHARES.get(w, 1.0))) for w, frames in there.items()}
    counts: dict[str, Any] = {
        "set": name,
        "official": official,
        "at_hand": at_hand,
        "used": sum(map(len, there.values())),
    }
    if not official:
        there = _apart(there["all"], name)
    # No model could score a crystal of an element that it was not shown.
    shown = {int(z) for atoms in there["train"] for z in atoms.numbers}
    apart = [w for w in there if w != "train"]
    unseen = {w: sum(not shown >= set(a.numbers.tolist()) for a in there[w]) for w in apart}
    there |= {w: [a for a in there[w] if shown >= set(a.numbers.tolist())] for w in apart}
    kept = {benchmark(name).property, "material_id"}
    for which, frames in there.items():
        for atoms in frames:
            atoms.info = {k: v for k, v in atoms.info.items() if k in kept} | {"part": which}
    counts |= {w: len(frames) for w, frames in there.items()}
    counts["unseen"] = sum(unseen.values())
    counts["different"] = len(set(unique(there["train"])))
    return [a for frames in there.values() for a in frames], counts


def _apart(frames: list[Atoms], name: str) -> dict[str, list[Atoms]]:
    """A random split of the different crystals; the duplicates of those to learn are learned too, of others left out."""
    first = unique(track(frames, "Comparing crystals"))
    firsts = sorted(set(first))
    if len(firsts) < FEWEST:
        raise VibronicError(
            f"the study inverse-design has only {len(firsts)} distinct crystals of {name}, and needs {FEWEST} at least"
        )
    parts = split([frames[k] for k in firsts], list(SHARES.values()), 0)
    found = {w: [firsts[k] for k in ks] for w, ks in zip(SHARES, parts, strict=True)}
    learned = set(found["train"])
    found["train"] = [k for k, of in enumerate(first) if of in learned]
    there = {w: [frames[k] for k in ks] for w, ks in found.items()}
    # Being the same is not transitive: a crystal may equal one of the training set that is not the first of its kind.
    for which in list(SHARES)[1:]:
        new = novel(there[which], there["train"])
        there[which] = [atoms for atoms, is_new in zip(there[which], new, strict=True) if is_new]
    return there


def _official(name: str, part: cdvae.Part) -> bool:
    return any(cdvae.blob(tables.content(file)) == cdvae.SETS[name].blobs[part] for file in cdvae.files(name, part))


def _some(frames: list[Atoms], n: int) -> list[Atoms]:
    """``n`` crystals drawn at random, in their order."""
    return [frames[k] for k in sorted(np.random.default_rng(0).permutation(len(frames))[:n].tolist())]
