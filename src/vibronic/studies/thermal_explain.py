"""Which bonds move the band gap of Ag3SBr, by the models that learned it, and whether that holds up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vibronic.core.provenance import write_json
from vibronic.data.dataset import read_labelled, write_structures
from vibronic.studies.thermal_models import GAP, Job
from vibronic.studies.thermal_plan import Plan

KINDS = ("tight-binding", "painn")
TARGET = "band_gap"
STEPS = 16
"""Points of the integral of an attribution."""
FRACTIONS = (0.05, 0.1, 0.2)
DRAWS = 5
TWINS = 2
"""Shares of the bonds that are removed, random sets of bonds for each, and untrained models: as few as say something."""


def explain_gap(plan: Plan, folder: Path, jobs: Sequence[Job], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Bond attributions of the gap on snapshots of the dynamics, with intervals over the models of all seeds.

    The Hamiltonian is explained; the network only where every seed's predicts the gap of the dynamics better than its mean
    does, since there is nothing to explain about a model that learned nothing.

    Returns:
        Kind of model -> ``r2`` of every seed, and for those explained: ``bonds`` (of all snapshots, mean over models),
        ``shares``, ``leading`` and its ``sentence``, ``fidelity`` and its ``sentences``, ``error`` (largest difference of a sum of
        attributions and of f(1) - f(0), eV), ``whole``, ``bare`` (eV, mean) and ``drawn`` (of the first snapshot) with ``top``.
    """
    path = folder / "explained.json"
    if path.exists():
        return json.loads(path.read_text())
    test = read_labelled(folder / "test.extxyz")
    frames = [test[k] for k in np.unique(np.linspace(0, len(test) - 1, min(plan.explained, len(test))).astype(int))]
    write_structures(folder / "explained.extxyz", frames)
    found: dict[str, Any] = {}
    for kind in KINDS:
        r2 = [
            r["r2"]
            for r in rows
            if (r["crystal"], r["model"], r["set"], r["target"], r["temperature_K"])
            == (GAP, kind, "both", TARGET, None)
        ]
        found[kind] = {"r2": r2, "structures": len(frames)}
        if kind == "tight-binding" or min(r2) > 0:
            mine = [j.out for j in jobs if (j.crystal, j.kind, j.set) == (GAP, kind, "both")]
            found[kind] |= _explained(mine, frames)
    write_json(path, found)
    return json.loads(path.read_text())


def _explained(folders: Sequence[Path], frames: Sequence[Any]) -> dict[str, Any]:
    from vibronic.explain.attribution import attribute, average
    from vibronic.explain.fidelity import fidelity
    from vibronic.explain.summary import leading, shares
    from vibronic.learning.store import load
    from vibronic.report.explained import drawn_bonds

    models = [load(folder)[0] for folder in folders]
    found = [[attribute(model, atoms, TARGET, STEPS) for atoms in frames] for model in models]
    means = [average(several) for several in zip(*found, strict=True)]
    bonds, top = drawn_bonds(frames[0], means[0])
    answer, held = leading(found), fidelity(models, frames, TARGET, FRACTIONS, DRAWS, TWINS, STEPS)
    return {
        "models": len(models),
        "bonds": {k: np.concatenate([getattr(m, k) for m in means]) for k in ("kinds", "length", "value")},
        "shares": [asdict(s) for s in shares(found)],
        "leading": asdict(answer),
        "sentence": answer.sentence(),
        "fidelity": asdict(held),
        "sentences": held.sentences(),
        "holds": held.holds,
        "error": max(abs(a.error) for several in found for a in several),
        "whole": float(np.mean([m.whole for m in means])),
        "bare": float(np.mean([m.bare for m in means])),
        "drawn": bonds,
        "top": top,
    }
