"""What a trained generator makes, for the page in its folder: a modest set of candidates, all of them, counted.

Crystals are asked for at quantiles of the training set, and as the training set has them where the model can be asked for
nothing. Every crystal's property is the model's own estimate of it: no calculation stands behind a number here.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.crystals.candidates import Request
from vibronic.crystals.conditioning import EQUAL, NOTHING, Asked, Condition
from vibronic.crystals.generator import CrystalGenerator
from vibronic.crystals.metrics import bootstrap, evaluate
from vibronic.crystals.sampler import generate

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the training values of the first property, which crystals are asked for."""

EACH = 32
"""Candidates for each request."""

FEW = 8
"""Candidates for each request of a model that takes long for a crystal."""

EVALUATIONS = 200
"""Of the network for each crystal, at most: a training should not end in an hour of sampling."""

_PAIRS = 400  # of atoms, mean over the training set, up to which there is time for EACH
_KEPT = 2000  # training values that go into the file


def showcase(model: CrystalGenerator, seed: int = 0) -> tuple[list[Atoms], dict[str, Any]]:
    """Candidates of every request, one request after another, and what is to be said of them.

    The candidates carry ``group`` (which request), ``valid``, ``unique`` and ``novel`` (over all requests together), what
    was asked and the model's estimates in ``info``. The numbers are plain JSON values: ``metrics`` of all candidates
    (:func:`vibronic.crystals.metrics.evaluate`), ``groups`` with a row per request, ``training`` with values of the property, and the share of valid
    candidates that are ``symmetric`` within 0.1 Angstrom beside that of the training set.
    """
    start = time.perf_counter()
    requests = _requests(model)
    pairs = float((model.memory.counts.double() ** 2).mean())
    slow = model.evaluations > EVALUATIONS
    each = FEW if slow else int(np.clip(EACH * _PAIRS / pairs, FEW, EACH))
    evaluations = min(model.evaluations, EVALUATIONS)
    found: list[Atoms] = []
    for k, conditions in enumerate(requests):
        # Draws of their own: with the same noise for each request, crystals of two requests would not be independent.
        own = int(np.random.SeedSequence((seed, k)).generate_state(1)[0])
        request = Request(conditions, guidance=model.guidance, evaluations=evaluations, keep="all")
        for atoms in generate(model, request, each, own).crystals:
            atoms.info |= {"id": str(len(found)), "group": k}
            found.append(atoms)
    rows, metrics = evaluate(found, model.memory.structures(), coverage_sample=0, progress=False, seed=seed)
    for atoms, row in zip(found, rows, strict=True):
        atoms.info |= {name: bool(row[name]) for name in ("valid", "unique", "novel")}
        atoms.info |= {"spacegroup": row["spacegroup"]} if row["spacegroup"] else {}
        atoms.info.pop("seed")
    about: dict[str, Any] = {"seed": seed, "each": each, "evaluations": evaluations, "guidance": model.guidance}
    about |= {"usual_evaluations": model.evaluations, "metrics": metrics, "property": None, "unit": ""}
    groups = [row["spacegroup"] or 1 for row in rows if row["valid"]]
    about["symmetric"] = _mean("share", [group > 1 for group in groups], seed)
    about["symmetric"]["training"] = float((model.memory.spacegroups > 1).double().mean())
    if model.targets:
        name = model.targets[0].name
        values = model.memory.column(name).numpy()
        kept = np.random.default_rng(seed).permutation(values)[:_KEPT] if len(values) > _KEPT else values
        about |= {"property": name, "unit": model.targets[0].unit}
        about["training"] = {"n": len(values), "values": np.sort(kept).tolist()}
    about["groups"] = [_group(k, asked[0] if asked else None, found, about, seed) for k, asked in enumerate(requests)]
    about["seconds"] = time.perf_counter() - start
    return [atoms for atoms in found if _writable(atoms)], about


def _requests(model: CrystalGenerator) -> list[tuple[Condition, ...]]:
    """What is asked for: nothing, where the model allows it, then values of the first property.

    A model that needs a value of every property is told those of a training crystal with the value of the first.
    """
    names = model.memory.properties
    free = _allows_nothing(model)
    requests: list[tuple[Condition, ...]] = [()] if free else []
    if names:
        column = model.memory.column(names[0]).numpy()
        # A property may have one value in most crystals, as the band gap of metals.
        for value in dict.fromkeys(float(f"{v:.4g}") for v in np.quantile(column, QUANTILES)):
            nearest = int(np.abs(column - value).argmin())
            others = () if free else names[1:]
            requests.append(
                (
                    Condition(names[0], EQUAL, value),
                    *(Condition(name, EQUAL, float(model.memory.column(name)[nearest])) for name in others),
                )
            )
    return requests


def _allows_nothing(model: CrystalGenerator) -> bool:
    properties = len(model.memory.properties)
    value, kind = torch.zeros(1, properties), torch.full((1, properties), NOTHING)
    try:
        model.check(Asked(value, kind, torch.zeros(1, dtype=torch.long)), model.guidance)
    except VibronicError:
        return False
    return True


def _group(k: int, condition: Condition | None, found: list[Atoms], about: dict[str, Any], seed: int) -> dict[str, Any]:
    """Shares of one request's candidates, and how far the estimates of the valid ones are from what was asked."""
    own = [atoms for atoms in found if atoms.info["group"] == k]
    fresh = [bool(a.info["valid"] and a.info["unique"] and a.info["novel"]) for a in own]
    row: dict[str, Any] = {"asked": None if condition is None else condition.value, "n": len(own)}
    row |= _mean("valid", [a.info["valid"] for a in own], seed)
    row |= _mean("valid_unique_novel", fresh, seed)
    if condition is not None:
        name = f"{condition.name}_estimate"
        deviations = [abs(a.info[name] - condition.value) for a in own if a.info["valid"] and name in a.info]
        row |= _mean("deviation", deviations, seed)
        # What a model would reach that does not listen, but makes crystals as the training set has them.
        row["deviation_of_training"] = float(np.abs(np.array(about["training"]["values"]) - condition.value).mean())
    return row


def _mean(name: str, values: list[Any], seed: int) -> dict[str, float | None]:
    """A mean with its 95 % interval; None where there is nothing to average."""
    if not values:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = bootstrap(values, seed=seed)
    return {name: float(np.mean(values)), f"{name}_low": low, f"{name}_high": high}


def _writable(atoms: Atoms) -> bool:
    """Whether a file can hold it: a candidate may have coordinates that are no numbers. Such ones are counted above."""
    return bool(np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all())
