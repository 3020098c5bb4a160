"""From a request to crystals: candidates of a generator, batch by batch, until enough of them are worth keeping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from ase import Atoms

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.crystals.candidates import Candidates, Request, estimated
from vibronic.crystals.cells import Cells
from vibronic.crystals.conditioning import (
    AT_LEAST,
    AT_MOST,
    BETWEEN,
    EQUAL,
    Condition,
    beyond,
    merged,
)
from vibronic.crystals.generator import CrystalGenerator
from vibronic.crystals.matching import Known, quiet, space_group
from vibronic.crystals.validity import composition_validity, structural_validity
from vibronic.data.cells import Composition, reduced, reduced_composition

BEST = 0.05
"""Share of the training set that counts as its best."""

TRIES = 20
"""Candidates for each crystal asked for, before fewer are delivered."""

_BATCH = 256


@dataclass
class Generated:
    """Crystals and how they came about.

    Attributes:
        crystals: those first that answer best by the model's own estimate, with ``valid``, ``unique``, ``novel``, the conditions asked for, the model's estimates and, where values were asked for, how far
            these are ``off`` (standard deviations, summed) in ``info``.
        counts: candidates, and those of them that were valid, unique among the valid, novel.
        passed: what crystals had to be, in turn, and how many candidates were this and all before.
        remarks: what the user should know, one sentence each.
        seconds: CPU seconds, of sampling and of checking.
    """

    crystals: list[Atoms]
    counts: dict[str, int]
    passed: dict[str, int]
    remarks: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def generate(
    model: CrystalGenerator,
    request: Request,
    n: int,
    seed: int = 0,
    progress: Callable[[float], None] = lambda candidates: None,
    delivered: Callable[[int], None] = lambda crystals: None,
) -> Generated:
    """Crystals that answer a request, ``n`` of them or as many as were found.

    Args:
        progress: told how many candidates, or what share of one, have been sampled since it was told last.
        delivered: told how many of the ``n`` there are, first when the request is accepted.

    Raises:
        VibronicError: the request names what the model does not know.
    """
    if n < 1:
        raise VibronicError(f"-n is the number of crystals, at least 1, not {n}")
    if request.choice < 1:
        raise VibronicError(f"--choice is a number of crystals to choose from, at least 1, not {request.choice}")
    conditions, remarks = _conditions(model, request)
    draw = Candidates(model, request, conditions, seed)
    remarks += draw.remarks
    tests = _tests(model, request, conditions, draw.system)
    if not model.estimates and any(c.kind == BETWEEN for c in conditions):
        remarks.append("the model gives no estimates: values within the interval are asked for, and nothing is checked")
    wants = _wants(model, request, conditions)
    if request.choice > 1 and (not wants or request.keep == "all"):
        remarks.append("nothing is chosen: --choice goes by a value or --best, and not with --keep all")
    wanted = n * request.choice if wants and request.keep != "all" else n
    found: list[Atoms] = []
    kept: list[int] = []
    passed = dict.fromkeys(tests, 0)
    seen, known = Known(), _Trained(model)
    seconds = {"sampling": 0.0, "checking": 0.0}
    delivered(0)
    while len(kept) < wanted and len(found) < TRIES * n:
        few = wanted - len(kept)
        if request.keep != "all":  # some will not be worth keeping, about as many as so far
            share = max(0.1, len(kept) / len(found)) if found else 1.0
            few = min(TRIES * n - len(found), max(8, round(1.1 * few / share)))
        start = time.process_time()
        fresh = draw(min(_BATCH, few), progress)
        middle = time.process_time()
        _judge(fresh, found, seen, known)
        for k, atoms in enumerate(fresh, len(found)):
            for name, test in tests.items():
                if not test(atoms):
                    break
                passed[name] += 1
            else:
                kept.append(k)
            draw.learn(len(atoms), atoms.info["unique"] and atoms.info["novel"])
        found += fresh
        delivered(min(n, len(kept)))
        seconds["sampling"] += middle - start
        seconds["checking"] += time.process_time() - middle
    counts = {"candidates": len(found)}
    counts |= {name: sum(a.info[name] for a in found) for name in ("valid", "unique")}
    counts["novel"] = sum(a.info["unique"] and a.info["novel"] for a in found)
    kept = kept[:wanted]
    if wants and request.keep != "all":  # what answers best comes first
        kept.sort(key=lambda k: sum(want(found[k].info) for want in wants))
    crystals = [found[k] for k in kept[:n]]
    for k, atoms in enumerate(crystals):
        atoms.info = {"id": f"{seed}-{k}", "seed": seed, **atoms.info}
    _say_off(crystals, _far(model, conditions))
    if n < len(kept) < wanted:
        remarks.append(f"each was chosen of {len(kept) / n:.1f}, not of {request.choice}: no more were worth keeping")
    if 0 < len(crystals) < n:
        said = f"{len(crystals)} of {n} crystals were found among {len(found)} candidates"
        if request.keep == "new" and counts["novel"] < counts["valid"] / 4:
            said += ": most others are known or came before (--keep valid takes them too)"
        remarks.append(said)
    return Generated(crystals, counts, passed, remarks, seconds)


def judge(model: CrystalGenerator, request: Request, crystals: list[Atoms]) -> None:
    """Say anew in ``info`` what :func:`generate` said of crystals that have been changed since, as by relaxing."""
    cells = [reduced(atoms) if structural_validity(atoms) else atoms for atoms in crystals]
    batch = Batch.collate([Batch.from_atoms(atoms, 0.0) for atoms in cells])
    device = next(model.parameters()).device
    estimates = model.estimate(Cells.from_batch(batch.to(device, torch.get_default_dtype())))
    for atoms, values in zip(crystals, estimates.tolist(), strict=True):
        atoms.info |= estimated(model.memory.properties, values)
    _judge(crystals, [], Known(), _Trained(model))
    _say_off(crystals, _far(model, _conditions(model, request)[0]))


def _say_off(crystals: list[Atoms], far: list[Callable[[dict[str, Any]], float]]) -> None:
    for atoms in crystals if far else ():
        atoms.info["off"] = float(f"{sum(of(atoms.info) for of in far):.4g}")


def _far(model: CrystalGenerator, conditions: Sequence[Condition]) -> list[Callable[[dict[str, Any]], float]]:
    """What tells from the ``info`` of a crystal how far, in standard deviations, an estimate is from each value asked for."""

    def far(condition: Condition, info: dict[str, Any]) -> float:
        spread = float(model.memory.column(condition.name).std(correction=0)) or 1.0
        return abs(info[f"{condition.name}_estimate"] - condition.value) / spread

    return [partial(far, condition) for condition in conditions if condition.kind == EQUAL and model.estimates]


def _wants(
    model: CrystalGenerator, request: Request, conditions: Sequence[Condition]
) -> list[Callable[[dict[str, Any]], float]]:
    """What a choice goes by, the less the better: how far values are off, and the property of which the best are wanted."""
    wants = _far(model, conditions)
    if request.best and model.estimates and all(c.kind != EQUAL for c in conditions if c.name == request.best):
        spread = float(model.memory.column(request.best).std(correction=0)) or 1.0
        scale, key = (-1.0 if request.highest else 1.0) / spread, f"{request.best}_estimate"
        wants.append(lambda info: scale * info[key])
    return wants


def _conditions(model: CrystalGenerator, request: Request) -> tuple[list[Condition], list[str]]:
    """Conditions of a request, that of the best among them, and remarks on those beyond the training set.

    Raises:
        VibronicError: a property that the model was not trained on, or one asked for twice.
    """
    memory = model.memory
    conditions, remarks = list(request.conditions), []
    for name in [c.name for c in conditions] + ([request.best] if request.best else []):
        if name not in memory.properties:
            known = ", ".join(memory.properties) or "no property"
            raise VibronicError(f"the model knows nothing of '{name}'; it was trained on {known}")
    if request.best:
        values = memory.column(request.best)
        bound = float(torch.quantile(values, 1 - BEST if request.highest else BEST))
        best = Condition(request.best, AT_LEAST if request.highest else AT_MOST, bound)
        extreme = float(values.max() if request.highest else values.min())
        tied = int((values == extreme).sum()) > max(1, BEST * len(values))
        if tied:
            remarks.append(
                f"{float((values == extreme).double().mean()):.0%} of the training crystals have the best {request.best}, {extreme:g}, which is asked for"
            )
        # A model without bounds is asked for the extreme of its training set, as in arXiv 2406.09263.
        conditions.append(best if model.bounds and not tied else Condition(request.best, EQUAL, extreme))
    conditions = merged(conditions)
    units = {t.name: "" if t.unit == "1" else f" {t.unit}" for t in model.targets}
    remarks += [said for c in conditions if (said := beyond(c, memory.column(c.name), units[c.name]))]
    return conditions, remarks


class _Trained:
    """The training set, filed once for all candidates."""

    def __init__(self, model: CrystalGenerator) -> None:
        self.memory, self.known = model.memory, Known()
        self.filed: set[Composition] = set()

    def file(self, like: Sequence[Atoms]) -> None:
        """Its crystals of the compositions of these, as far as they are not filed yet."""
        missing = {composition: a for a in like if (composition := reduced_composition(a.numbers)) not in self.filed}
        self.filed |= missing.keys()
        for k, one in enumerate(self.memory.structures(like=list(missing.values()))):
            self.known.add(k, one, [])

    def holds(self, atoms: Atoms) -> bool:
        """Whether one of those filed is the same."""
        with quiet():
            return self.known.find(atoms, []) is not None


def _judge(fresh: list[Atoms], before: list[Atoms], seen: Known, trained: _Trained) -> None:
    """Say in ``info`` which new candidates are valid, which are the first of their kind among all valid ones so far (those of
    ``before`` are in ``seen``), and which are of a kind that the training set does not hold."""
    for atoms in fresh:
        sound = structural_validity(atoms)
        atoms.info["valid"] = sound and composition_validity(atoms.numbers)
        atoms.info["unique"] = atoms.info["novel"] = False
        atoms.info.pop("spacegroup", None)
        if sound:
            atoms.info["spacegroup"] = space_group(atoms) or 1
    trained.file([atoms for atoms in fresh if atoms.info["valid"]])
    for k, atoms in enumerate(fresh, len(before)):
        if not atoms.info["valid"]:
            continue
        reduced: list[Any] = []
        with quiet():
            same = seen.find(atoms, reduced)
        if same is None:
            seen.add(k, atoms, reduced)
            atoms.info |= {"unique": True, "novel": not trained.holds(atoms)}
        else:
            first = before[same] if same < len(before) else fresh[same - len(before)]
            atoms.info["novel"] = first.info["novel"]


def _tests(
    model: CrystalGenerator, request: Request, conditions: Sequence[Condition], system: Sequence[int]
) -> dict[str, Callable[[Atoms], bool]]:
    """What a candidate must be to be kept, in words, each test after the ones before."""

    def keeps(condition: Condition, atoms: Atoms) -> bool:
        return bool(condition.met(torch.tensor(atoms.info.get(f"{condition.name}_estimate", math.nan))))

    tests: dict[str, Callable[[Atoms], bool]] = {}
    if request.keep == "all":
        return tests
    tests["valid"] = lambda atoms: atoms.info["valid"]
    if request.keep == "new":
        tests["new"] = lambda atoms: atoms.info["unique"] and atoms.info["novel"]
    if request.spacegroup:
        tests[f"of space group {request.spacegroup}"] = lambda atoms: atoms.info["spacegroup"] == request.spacegroup
    if system:
        tests["of all the elements"] = lambda atoms: set(system) <= set(atoms.numbers.tolist())
    # A bound is a promise: the model's own estimate must keep it.
    bounds = [c for c in conditions if c.kind != EQUAL and model.estimates]
    return tests | {f"within {c} by the model's own estimate": partial(keeps, c) for c in bounds}
