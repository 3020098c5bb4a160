"""What the study ``inverse-design`` trains on: distinct crystals of the benchmark sets, the same for all its models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import write_json
from vibronic.crystals.matching import distinct
from vibronic.crystals.metrics import PERCENTILES, benchmark, successes
from vibronic.data import cdvae, tables
from vibronic.data.dataset import label_of, read_structures, split, write_structures
from vibronic.studies.folder import content

SHARES = {"train": 0.90, "validation": 0.05, "test": 0.05}
"""Of the random split, where the official files are not at hand."""

PREDICTED = 200
"""Training crystals whose property is predicted too, beside the generated ones."""

FEWEST = 20

Predict = Callable[[list[Atoms]], np.ndarray]


def prepare(name: str, rows: int | None, out: Path, predict: Predict) -> dict[str, Any]:
    """Leave a set as ``sets/NAME.extxyz`` (its parts under ``part``) and what is to be said of it as ``sets/NAME.json``.

    Duplicates are dropped for all models alike: Carbon-24 holds one crystal hundreds of times, and a generator that learned
    nothing else would look like one that knows the set.

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
    """Distinct crystals with their ``part``, and their numbers."""
    official = all(_official(name, p) for p in cdvae.PARTS)
    if official:
        there = {w: cdvae.crystals(name, p, reduce=True) for w, p in zip(SHARES, cdvae.PARTS, strict=True)}
    else:
        there = {"all": cdvae.crystals(name, reduce=True)}
    at_hand = sum(map(len, there.values()))
    if rows is not None:
        there = {w: _some(frames, round(rows * SHARES.get(w, 1.0))) for w, frames in there.items()}
    used = {w: len(frames) for w, frames in there.items()}
    for which in ("train", "all"):
        if which in there:
            there[which] = [there[which][k] for k in distinct(there[which])]
    if not official:
        frames = there["all"]
        if len(frames) < FEWEST:
            raise VibronicError(
                f"the study inverse-design has only {len(frames)} distinct crystals of {name}, and needs {FEWEST} at least"
            )
        there = {
            w: [frames[k] for k in ks] for w, ks in zip(SHARES, split(frames, list(SHARES.values()), 0), strict=True)
        }
    # No model could score a crystal of an element that it was not shown.
    shown = {int(z) for atoms in there["train"] for z in atoms.numbers}
    apart = [w for w in there if w != "train"]
    unseen = {w: sum(not shown >= set(a.numbers.tolist()) for a in there[w]) for w in apart}
    there |= {w: [a for a in there[w] if shown >= set(a.numbers.tolist())] for w in apart}
    kept = {benchmark(name).property, "material_id"}
    for which, frames in there.items():
        for atoms in frames:
            atoms.info = {k: v for k, v in atoms.info.items() if k in kept} | {"part": which}
    counts: dict[str, Any] = {"set": name, "official": official, "at_hand": at_hand, "used": sum(used.values())}
    counts |= {w: len(frames) for w, frames in there.items()}
    counts["unseen"] = sum(unseen.values())
    counts["duplicates"] = counts["used"] - counts["unseen"] - sum(map(len, there.values()))
    return [a for frames in there.values() for a in frames], counts


def _official(name: str, part: cdvae.Part) -> bool:
    return any(cdvae.blob(tables.content(file)) == cdvae.SETS[name].blobs[part] for file in cdvae.files(name, part))


def _some(frames: list[Atoms], n: int) -> list[Atoms]:
    """``n`` crystals drawn at random, in their order."""
    return [frames[k] for k in sorted(np.random.default_rng(0).permutation(len(frames))[:n].tolist())]
