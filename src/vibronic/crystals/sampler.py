"""From a request to crystals: candidates of a generator, batch by batch, until enough of them are worth keeping."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from ase import Atoms
from ase.data import atomic_numbers
from ase.formula import Formula

from vibronic.core.errors import VibronicError
from vibronic.crystals.cells import padded
from vibronic.crystals.conditioning import (
    AT_LEAST,
    AT_MOST,
    BETWEEN,
    EQUAL,
    NOTHING,
    Asked,
    Condition,
    beyond,
    merged,
)
from vibronic.crystals.generator import CrystalGenerator
from vibronic.crystals.matching import Known, novel, quiet, space_group
from vibronic.crystals.validity import composition_validity, structural_validity

Keep = Literal["new", "valid", "all"]

BEST = 0.05
"""Share of the training set that counts as its best."""

TRIES = 20
"""Candidates for each crystal asked for, before fewer are delivered."""

_BATCH = 256


@dataclass(frozen=True)
class Request:
    """What is asked of a generator.

    Attributes:
        conditions: on properties.
        best: name of a property of which the best are wanted.
        highest: whether the best is the highest, not the lowest.
        composition: formula of one cell, for structure prediction.
        system: elements that crystals may hold.
        n_atoms: in a cell.
        spacegroup: international number.
        guidance: see :meth:`CrystalGenerator.sample`.
        evaluations: of the network for each crystal.
        keep: new (valid, no duplicates, not in the training set), valid, or all candidates as they come.
        choice: crystals worth keeping among which each of those that answer best, by the model's own estimate, is chosen.
    """

    conditions: tuple[Condition, ...] = ()
    best: str | None = None
    highest: bool = False
    composition: str | None = None
    system: tuple[str, ...] = ()
    n_atoms: int | None = None
    spacegroup: int = 0
    guidance: float = 1.0
    evaluations: int | None = None
    keep: Keep = "new"
    choice: int = 1


@dataclass
class Generated:
    """Crystals and how they came about.

    Attributes:
        crystals: with ``valid``, ``unique``, ``novel``, the conditions asked for and the model's estimates in ``info``.
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
        delivered: told how many of the ``n`` there are.

    Raises:
        VibronicError: the request names what the model does not know.
    """
    if n < 1:
        raise VibronicError(f"-n is the number of crystals, at least 1, not {n}")
    if request.choice < 1:
        raise VibronicError(f"--choice is a number of crystals to choose from, at least 1, not {request.choice}")
    conditions, remarks = _conditions(model, request)
    draw = _Candidates(model, request, conditions, seed)
    tests = _tests(request, conditions, draw.system)
    wants = _wants(model, request, conditions)
    if request.choice > 1 and (not wants or request.keep == "all"):
        remarks.append("nothing is chosen: --choice goes by a value or --best, and not with --keep all")
    wanted = n * request.choice if wants and request.keep != "all" else n
    found: list[Atoms] = []
    kept: list[int] = []
    passed = dict.fromkeys(tests, 0)
    seen = Known()
    seconds = {"sampling": 0.0, "checking": 0.0}
    while len(kept) < wanted and len(found) < TRIES * n:
        few = wanted - len(kept)
        if request.keep != "all":  # some will not be worth keeping, about as many as so far
            share = max(0.1, len(kept) / len(found)) if found else 1.0
            few = min(TRIES * n - len(found), max(8, round(1.1 * few / share)))
        start = time.process_time()
        fresh = draw(min(_BATCH, few), progress)
        middle = time.process_time()
        _judge(fresh, found, seen, model)
        for k, atoms in enumerate(fresh, len(found)):
            stopped = next((name for name, test in tests.items() if not test(atoms)), None)
            for name in tests:
                if name == stopped:
                    break
                passed[name] += 1
            kept += [k] if stopped is None else []
            draw.learn(len(atoms), stopped is None)
        found += fresh
        delivered(min(n, len(kept)))
        seconds["sampling"] += middle - start
        seconds["checking"] += time.process_time() - middle
    counts = {"candidates": len(found)}
    counts |= {name: sum(a.info[name] for a in found) for name in ("valid", "unique")}
    counts["novel"] = sum(a.info["unique"] and a.info["novel"] for a in found)
    if wanted > n:
        kept = sorted(sorted(kept, key=lambda k: sum(want(found[k].info) for want in wants))[:n])
    crystals = [found[k] for k in kept[:n]]
    for k, atoms in enumerate(crystals):
        atoms.info = {"id": f"{seed}-{k}", "seed": seed, **atoms.info}
    if 0 < len(crystals) < n:
        remarks.append(f"{len(crystals)} of {n} crystals were found among {len(found)} candidates")
    return Generated(crystals, counts, passed, remarks, seconds)


def _wants(
    model: CrystalGenerator, request: Request, conditions: Sequence[Condition]
) -> list[Callable[[dict[str, Any]], float]]:
    """What is told from the ``info`` of a crystal: how far the model's estimates are from each wish that names a value."""

    def far(condition: Condition, info: dict[str, Any]) -> float:
        spread = float(model.memory.column(condition.name).std(correction=0)) or 1.0
        return abs(info[f"{condition.name}_estimate"] - condition.value) / spread

    if not model.estimates:
        return []
    wishes: list[Callable[[dict[str, Any]], float]]
    wishes = [partial(far, condition) for condition in conditions if condition.kind == EQUAL]
    if request.best and model.bounds:
        sign, key = -1.0 if request.highest else 1.0, f"{request.best}_estimate"
        wishes.append(lambda info: sign * info[key])
    return wishes


def _conditions(model: CrystalGenerator, request: Request) -> tuple[list[Condition], list[str]]:
    """Conditions of a request, that of the best among them, within what was seen, and remarks on those that were not.

    Raises:
        VibronicError: a property that the model was not trained on, or one asked for twice.
    """
    memory = model.memory
    conditions = list(request.conditions)
    for name in [c.name for c in conditions] + ([request.best] if request.best else []):
        if name not in memory.properties:
            known = ", ".join(memory.properties) or "no property"
            raise VibronicError(f"the model knows nothing of '{name}'; it was trained on {known}")
    if request.best:
        share = 1 - BEST if request.highest else BEST
        bound = float(torch.quantile(memory.column(request.best), share))
        extreme = memory.column(request.best).aminmax()
        kind = AT_LEAST if request.highest else AT_MOST
        # A model without bounds is asked for the extreme of its training set, as in arXiv 2406.09263.
        value = float(extreme.max if request.highest else extreme.min)
        conditions.append(
            Condition(request.best, kind, bound) if model.bounds else Condition(request.best, EQUAL, value)
        )
    conditions = merged(conditions)
    ranges = {c.name: [float(end) for end in memory.column(c.name).aminmax()] for c in conditions}
    remarks = [said for c in conditions if (said := beyond(c, *ranges[c.name]))]
    return [c.within(*ranges[c.name]) for c in conditions], remarks


class _Candidates:
    """Draws candidates, the same ones for the same request and seed."""

    def __init__(self, model: CrystalGenerator, request: Request, conditions: Sequence[Condition], seed: int) -> None:
        self.model, self.request, self.conditions = model, request, conditions
        self.device = next(model.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.evaluations = model.evaluations if request.evaluations is None else request.evaluations
        if self.evaluations < 1:
            raise VibronicError(f"a crystal takes at least 1 evaluation, not {self.evaluations}")
        if not 0 <= request.guidance < 100:
            raise VibronicError(f"the guidance is between 0 and 100, not {request.guidance}")
        self.composition = None if request.composition is None else _numbers(request.composition)
        self.system = sorted({z for symbol in request.system for z in _numbers(symbol)})
        self.tried: dict[int, tuple[int, int]] = {}
        self.wishes: dict[str, Any] = {c.name: c.value if c.kind == EQUAL else c.wish for c in conditions}
        asked = {"composition": request.composition, "system": "-".join(request.system), "n_atoms": request.n_atoms}
        self.wishes |= {k: v for k, v in {**asked, "spacegroup": request.spacegroup}.items() if v}
        self._check()
        self.allowed = model.allowed(self.system or None)
        model.check(self._asked(1), request.guidance)

    def _check(self) -> None:
        """Refuse sizes, elements and space groups that the training set did not hold."""
        model, request = self.model, self.request
        model.check_elements(torch.tensor([*(self.composition or []), *self.system], dtype=torch.long))
        if self.composition and (request.system or request.n_atoms not in (None, len(self.composition))):
            raise VibronicError(
                f"the composition {request.composition} already says which atoms a cell holds, and that they are "
                f"{len(self.composition)}; leave out the chemical system and the number of atoms, or write the whole cell"
            )
        counts = model.memory.counts
        size = len(self.composition) if self.composition else request.n_atoms
        low, high = int(counts.min()), int(counts.max())
        if size is not None and not low <= size <= high:
            known = f"{low} to {high}" if high > low else f"{low}"
            raise VibronicError(f"the model knows cells of {known} atoms, not of {size}")
        if len(self.system) > (most := size or high):
            raise VibronicError(
                f"{len(self.system)} elements do not fit into a cell of {most} atoms, the most there are"
            )
        groups = model.memory.spacegroups
        if request.spacegroup and not (groups == request.spacegroup).any():
            seen, often = groups.unique(return_counts=True)
            common = seen[often.argsort(descending=True)][:5].tolist()
            raise VibronicError(
                f"the training set has no crystal of space group {request.spacegroup}; its most common ones are "
                f"{', '.join(map(str, common))}"
            )

    def _asked(self, n: int) -> Asked:
        names = self.model.memory.properties
        value, kind = torch.zeros(n, len(names)), torch.full((n, len(names)), NOTHING)
        for condition in self.conditions:
            k = names.index(condition.name)
            value[:, k], kind[:, k] = condition.value, condition.kind
            if condition.kind == BETWEEN:
                known = self.model.memory.column(condition.name)
                known = known[condition.met(known)].float()
                known = known if len(known) else torch.tensor([(condition.value + condition.upper) / 2])
                drawn = torch.randint(len(known), (n,), generator=self.generator, device=self.device)
                value[:, k], kind[:, k] = known[drawn.cpu()], EQUAL
        group = torch.full((n,), self.request.spacegroup)
        return Asked(value.to(self.device), kind.to(self.device), group.to(self.device))

    def _species(self, n: int) -> list[list[int]]:
        """Atomic numbers of each cell, -1 where the model is to choose."""
        if self.composition:
            return [self.composition] * n
        if self.request.n_atoms:
            return [[-1] * self.request.n_atoms] * n
        counts = self.model.memory.draw_counts(n, self.conditions, self.generator, self.tried)
        return [[-1] * count for count in counts.tolist()]

    def learn(self, size: int, worth: bool) -> None:
        """Sizes whose crystals are worth keeping are drawn more often: of two atoms of carbon there is nothing new."""
        if self.request.keep == "new":
            tried, kept = self.tried.get(size, (0, 0))
            self.tried[size] = tried + 1, kept + worth

    def __call__(self, n: int, progress: Callable[[float], None]) -> list[Atoms]:
        """``n`` candidates, with what was asked and the model's estimates in ``info``."""
        species = padded(self._species(n))
        found: list[Atoms | None] = [None] * n

        def sampled(rows: int, evaluations: int) -> None:
            progress(rows * evaluations / self.evaluations)

        # Cells of one size side by side, so that none is padded for nothing.
        for rows in (species != 0).sum(1).argsort(stable=True).split(128):
            part = species[rows][:, : int((species[rows] != 0).sum(1).max())]
            crystals, estimates = self.model.sample(
                part.to(self.device),
                self.allowed.to(self.device),
                self._asked(len(rows)),
                self.evaluations,
                self.request.guidance,
                self.generator,
                partial(sampled, len(rows)),
            )
            for row, atoms, values in zip(rows.tolist(), crystals.to_atoms(), estimates.tolist(), strict=True):
                names = [f"{name}_estimate" for name in self.model.memory.properties]
                atoms.info = {f"{name}_asked": what for name, what in self.wishes.items()}
                atoms.info |= {f: float(f"{v:.6g}") for f, v in zip(names, values, strict=True) if not math.isnan(v)}
                found[row] = atoms
        return [atoms for atoms in found if atoms is not None]


def _numbers(formula: str) -> list[int]:
    """Atomic numbers of a formula's atoms.

    Raises:
        VibronicError: it is no formula.
    """
    try:
        found = [atomic_numbers[symbol] for symbol, count in Formula(formula).count().items() for _ in range(count)]
    except (ValueError, KeyError):
        found = []
    if not found:
        what = "element" if re.fullmatch("[A-Z][a-z]?", formula) else "chemical formula; write it as SrTiO3 or Sr2Ti2O6"
        raise VibronicError(f"'{formula}' is no {what}")
    return found


def _judge(fresh: list[Atoms], before: list[Atoms], seen: Known, model: CrystalGenerator) -> None:
    """Say in ``info`` which new candidates are valid, which are the first of their kind among all valid ones so far (those of
    ``before`` are in ``seen``), and which are of a kind that the training set does not hold."""
    same: dict[int, Atoms] = {}
    for k, atoms in enumerate(fresh):
        atoms.info["valid"] = structural_validity(atoms) and composition_validity(atoms.numbers)
        atoms.info["unique"] = atoms.info["novel"] = False
        reduced: list[Any] = []
        with quiet():
            if not atoms.info["valid"]:
                continue
            known = seen.find(atoms, reduced)
        if known is None:
            seen.add(len(before) + k, atoms, reduced)
            atoms.info["unique"] = True
        else:
            same[k] = (before + fresh)[known]
    first = [atoms for atoms in fresh if atoms.info["unique"]]
    for atoms, new in zip(first, novel(first, model.memory.structures(like=first)), strict=True):
        atoms.info["novel"] = new
        atoms.info["spacegroup"] = space_group(atoms) or 1
    for k, other in same.items():
        fresh[k].info["novel"] = other.info["novel"]


def _tests(
    request: Request, conditions: Sequence[Condition], system: Sequence[int]
) -> dict[str, Callable[[Atoms], bool]]:
    """What a candidate must be to be kept, in words, each test after the ones before."""

    def keeps(condition: Condition, atoms: Atoms) -> bool:
        value = atoms.info.get(f"{condition.name}_estimate")
        return value is None or bool(condition.met(torch.tensor(value)))

    tests: dict[str, Callable[[Atoms], bool]] = {}
    if request.keep == "all":
        return tests
    tests["valid"] = lambda atoms: atoms.info["valid"]
    if request.keep == "new":
        tests["new"] = lambda atoms: atoms.info["unique"] and atoms.info["novel"]
    if request.spacegroup:
        tests[f"of space group {request.spacegroup}"] = lambda atoms: space_group(atoms) == request.spacegroup
    if system:
        tests["of all the elements"] = lambda atoms: set(system) <= set(atoms.numbers.tolist())
    # A bound is a promise: the model's own estimate must keep it.
    bounds = [c for c in conditions if c.kind != EQUAL]
    return tests | {f"within {c} by the model's own estimate": partial(keeps, c) for c in bounds}
