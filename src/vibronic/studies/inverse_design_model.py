"""One training of the study ``inverse-design``: a model, what it is asked for, and how its samples are judged."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase import Atoms

from vibronic.core.folder import content
from vibronic.core.provenance import write_json
from vibronic.core.targets import TARGETS
from vibronic.crystals.candidates import Request
from vibronic.crystals.conditioning import EQUAL, Condition
from vibronic.crystals.generator import CrystalGenerator
from vibronic.crystals.metrics import reached_by, successes
from vibronic.crystals.sampler import generate
from vibronic.crystals.validity import composition_validity, structural_validity
from vibronic.data.cdvae import SETS
from vibronic.data.dataset import GraphData, describe, write_structures
from vibronic.learning.recipe import Training
from vibronic.learning.store import Card, build, load, save
from vibronic.studies.inverse_design_data import Predict, part, volume

if TYPE_CHECKING:
    from vibronic.studies.inverse_design import Plan

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "cdi": ("takahara2024", {"condition": "cdi"}),
    "cds": ("takahara2024", {"condition": "cds"}),
    "vibronic": ("crystal-diffusion", {}),
}
"""Kind and settings."""

CONDITIONS = {"cdi": ("minimum",), "cds": ("minimum",), "vibronic": ("minimum", "chosen", "best")}
"""What each is asked for: the lowest value of its training set, as in the paper; by ours also with its names chosen and its
crystals made symmetric, as ``generate`` does it, and what ``generate --best`` asks for."""

VALIDATIONS = 10
"""Times that a training looks at the validation crystals; the weights that fit these best are kept."""

BEST = 5


def trained(plan: Plan, name: str, model: str, seed: int, described: dict[str, Any], out: Path) -> CrystalGenerator:
    """A model of ``runs/SET-MODEL-SEED/model``, trained now where it is not there; ``trained.json`` says how."""
    from vibronic.learning.training import fit

    folder = out / "runs" / f"{name}-{model}-{seed}"
    if (folder / "trained.json").exists():
        found, _ = load(folder / "model")
        assert isinstance(found, CrystalGenerator)
        return found
    resumed = (folder / "training" / "checkpoints" / "last.ckpt").exists()
    start = time.process_time()
    torch.manual_seed(seed)
    network = untrained(model, name, described["property"], plan.width)
    data = {}
    for which in ("train", "validation", "test"):
        crystals = [network.labelled(a) for a in part(name, which, out)]
        data[which] = GraphData(crystals, network.labels, network.cutoff), crystals
    how = recipe(network, len(data["train"][1]), plan)
    parts = data["train"][0], data["validation"][0]
    fit(network, *parts, folder / "training", how, seed, device="cpu", progress=False, logs=False)
    spent = time.process_time() - start
    scores, units = network.own_scores(data["test"][1])
    card = Card(describe(data["train"][1]), scores, units, licence="as the data", references=SETS[name].zeros)
    save(network, folder / "model", card)
    said = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": how.epochs * math.ceil(len(data["train"][1]) / how.batch_size),
        "epochs": how.epochs,
        # A training that was stopped in between has no one clock.
        "train_seconds": None if resumed else spent,
        "loss": scores,
    }
    write_json(folder / "trained.json", said)
    shutil.rmtree(folder / "training", ignore_errors=True)
    return network


def untrained(model: str, name: str, property: str, width: int) -> CrystalGenerator:
    """A new model of a property of a set."""
    kind, settings = MODELS[model]
    units = None if property in TARGETS else {property: SETS[name].units[property]}
    found = build(kind, targets=[property], units=units, width=width, **settings)
    assert isinstance(found, CrystalGenerator)
    return found


def recipe(model: CrystalGenerator, size: int, plan: Plan) -> Training:
    """The recipe of a model's kind, but for the budget that all of them share: steps (in whole epochs), batch, schedule."""
    epochs = max(1, round(plan.steps / math.ceil(size / plan.batch_size)))
    shared = {"epochs": epochs, "batch_size": plan.batch_size, "schedule": "cosine"}
    return Training(**{**model.recipe, **shared, "validate_every": max(1, epochs // VALIDATIONS)})


def request(model: CrystalGenerator, condition: str, minimum: float, evaluations: int | None) -> Request:
    """All samples as they come, for one condition on the model's property."""
    property = model.memory.properties[0]
    asked: dict[str, Any] = {"conditions": (Condition(property, EQUAL, minimum),)}
    if condition == "best":
        asked = {"best": property}
    # The plain condition: nothing is chosen, as the published models choose nothing.
    how: dict[str, Any] = (
        {"guidance": 1.0, "tolerance": 0.0} if condition == "minimum" else {"guidance": model.guidance}
    )
    return Request(**asked, **how, evaluations=evaluations or model.evaluations, keep="all")


def sampled(
    plan: Plan,
    network: Callable[[], CrystalGenerator],
    condition: str,
    seed: int,
    described: dict[str, Any],
    predict: Predict,
    to: Path,
) -> dict[str, Any]:
    """Samples for one condition, judged, as ``to`` with ``.extxyz`` and ``.json``; what is there is read, and no model built."""
    if to.with_suffix(".json").exists() and (done := content(to.with_suffix(".json"))) is not None:
        return done
    model = network()
    own = plan.evaluations if model.kind == "takahara2024" else None
    wanted = request(model, condition, described["minimum"], own)
    made = generate(model, wanted, plan.samples, seed)
    crystals = made.crystals
    flags, values = judged(crystals, predict)
    thresholds = list(described["thresholds"].values())
    hits = successes(values, thresholds)["sr5"] & flags["valid"] & flags["unique"] & flags["novel"]
    row: dict[str, Any] = {
        "condition": condition,
        "evaluations": wanted.evaluations,
        "guidance": wanted.guidance,
        "samples": len(crystals),
        "sampling_seconds": made.seconds["sampling"],
        # The field's validity lets a gas pass: only its volume tells it from a crystal.
        "volume": float(np.median([volume(a) for a in crystals])),
        **figures(flags, values, hits, thresholds),
    }
    best = sorted(np.flatnonzero(hits).tolist(), key=lambda k: values[k])[:BEST]
    row["best"] = [
        {"index": k, "value": float(values[k]), "formula": crystals[k].get_chemical_formula("metal")} for k in best
    ]
    for k, atoms in enumerate(crystals):
        atoms.info |= {name: bool(flag[k]) for name, flag in flags.items()} | {"hit": bool(hits[k])}
        if np.isfinite(values[k]):
            atoms.info[f"{described['property']}_predicted"] = float(values[k])
    write_structures(to.with_suffix(".extxyz"), crystals)
    each = {"values": [round(v, 5) if math.isfinite(v) else None for v in values.tolist()], "hit": hits}
    write_json(to.with_suffix(".json"), {**row, "each": {**each, **flags}})
    return content(to.with_suffix(".json")) or row


def judged(crystals: Sequence[Atoms], predict: Predict) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Flags of each sample, unique and novel as the sampler has said, and its predicted property (NaN where the structure is not
    valid)."""
    flags = {
        "valid_structure": np.array([structural_validity(a) for a in crystals], dtype=bool),
        "valid_composition": np.array([composition_validity(a.numbers) for a in crystals], dtype=bool),
    }
    flags["valid"] = flags["valid_structure"] & flags["valid_composition"]
    flags |= {name: np.array([a.info[name] for a in crystals], dtype=bool) for name in ("unique", "novel")}
    values = np.full(len(crystals), np.nan)
    if sound := np.flatnonzero(flags["valid_structure"]).tolist():
        values[sound] = predict([crystals[k] for k in sound])
    return flags, values


def figures(
    flags: dict[str, np.ndarray], values: np.ndarray, hits: np.ndarray, thresholds: Sequence[float]
) -> dict[str, float | None]:
    """Shares by the names of ``evaluate crystals``; None where no sample is valid."""
    valid = flags["valid"]
    counted = reached_by(values, valid, thresholds)
    counted |= {name: flags[name] for name in ("valid_structure", "valid_composition", "valid")}
    counted |= {name: flags[name][valid] for name in ("unique", "novel")} | {"hits": hits}
    return {name: float(given.mean()) if len(given) else None for name, given in counted.items()}
