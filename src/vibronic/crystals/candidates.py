"""Candidates for a request, drawn batch by batch: what it leaves open is taken from training crystals that answer it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from ase.formula import Formula
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.crystals.cells import Cells, padded
from vibronic.crystals.conditioning import BETWEEN, EQUAL, NOTHING, Asked, Condition
from vibronic.crystals.generator import CrystalGenerator
from vibronic.crystals.matching import WITHIN
from vibronic.crystals.validity import structural_validity
from vibronic.data.cells import in_chemical_order, symmetrised

Keep = Literal["new", "valid", "all"]

BARREN = 20
"""Candidates of a size of which nothing was new, before it is left."""


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
        free: whether atoms are placed freely, not within the symmetry and on the sites of a training crystal.
        guidance: see :meth:`CrystalGenerator.sample`.
        evaluations: of the network for each crystal.
        tolerance: Angstrom, within which crystals are made symmetric; the model's where it is None.
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
    free: bool = False
    guidance: float = 1.0
    evaluations: int | None = None
    tolerance: float | None = None
    keep: Keep = "new"
    choice: int = 1


class Candidates:
    """Draws candidates, the same ones for the same request and seed."""

    def __init__(self, model: CrystalGenerator, request: Request, conditions: Sequence[Condition], seed: int) -> None:
        self.model, self.request, self.conditions = model, request, conditions
        self.device = next(model.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.evaluations = model.evaluations if request.evaluations is None else request.evaluations
        if self.evaluations < 1:
            raise VibronicError(f"a crystal takes at least 1 evaluation, not {self.evaluations}")
        self.tolerance = model.tolerance if request.tolerance is None else request.tolerance
        if not 0 <= self.tolerance < 1:
            raise VibronicError(f"the tolerance is a length in Angstrom, at least 0 and below 1, not {self.tolerance}")
        if request.spacegroup:  # a wider one would make crystals more symmetric than is asked for
            self.tolerance = min(self.tolerance, WITHIN)
        if not 0 <= request.guidance < 100:
            raise VibronicError(f"the guidance is between 0 and 100, not {request.guidance}")
        self.composition = None if request.composition is None else _numbers(request.composition)
        self.system = sorted({z for symbol in request.system for z in _numbers(symbol)})
        self.templates: dict[int, Atoms] = {}
        self.tried: dict[int, int | None] = {}  # until there was something new
        self.wishes: dict[str, Any] = {c.name: c.value if c.kind == EQUAL else c.wish for c in conditions}
        asked = {"composition": request.composition, "system": "-".join(request.system), "n_atoms": request.n_atoms}
        self.wishes |= {k: v for k, v in {**asked, "spacegroup": request.spacegroup}.items() if v}
        self._check()
        self.allowed = model.allowed(self.system or None)
        self.remarks: list[str] = []
        self.lends = model.symmetric and not request.free
        unlike = model.memory.unlike(self.composition) if self.composition and self.lends else None
        self.among = self._among(unlike)
        self.lent = self._lent()
        self._tell_unanswered()
        self.ranked = None  # training crystals for a composition, the likeliest first
        if unlike is not None and self.lent:
            self.ranked = model.memory.ranked(self._seen(), self.among, unlike, torch.Generator().manual_seed(seed))
        self.drawn = 0
        model.check(self._drawn(1)[1], request.guidance)
        self.drawn = 0  # as if that draw had not been
        self.generator.manual_seed(seed)

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

    def _among(self, unlike: Tensor | None) -> Tensor:
        """(S,) which training crystals can lend a candidate its size and, where it is to have one, its symmetry; for a composition those
        that are not infinitely ``unlike`` (S,)."""
        memory, request = self.model.memory, self.request
        among = torch.ones(len(memory), dtype=torch.bool)
        if request.spacegroup:
            among &= memory.spacegroups.cpu() == request.spacegroup
        if unlike is not None:
            among &= unlike.isfinite()
        elif self.lends and self.system:  # sites of one element are likelier to be given one element again
            among &= memory.n_elements() >= len(self.system)
        if request.n_atoms:
            among &= memory.counts.cpu() == request.n_atoms
        return among

    def _lent(self) -> bool:
        """Whether training crystals lend their symmetry; a remark where they should and there is none that could.

        Raises:
            VibronicError: none could, and a space group is asked for.
        """
        if not self.lends or self.among.any():
            return self.lends
        request = self.request
        also = {"composition": f"a formula like {request.composition}", "system": f"{len(self.system)} elements"}
        which = next((words for name, words in also.items() if getattr(request, name)), f"{request.n_atoms} atoms")
        if request.spacegroup:
            raise VibronicError(f"the training set has no crystal of space group {request.spacegroup} with {which}")
        self.remarks.append(f"no training crystal with {which} lends its symmetry: atoms are placed freely")
        return False

    def _tell_unanswered(self) -> None:
        """A remark where no training crystal answers everything, on what is then taken from others."""
        answers = self.among if self.among.any() else torch.ones_like(self.among)
        for one in self._seen():
            answers = answers & one.met(self.model.memory.column(one.name))
        if answers.any():
            return
        taken = [] if self.composition or self.request.n_atoms else ["sizes of cells"]
        taken += ["sites"] if self.lent else []
        others = f": {' and '.join(taken)} are those of others" if taken else ""
        self.remarks.append(f"no training crystal answers all of this at once{others}")

    def _seen(self) -> list[Condition]:
        """The conditions as far as training crystals can meet them."""
        return [c.seen(self.model.memory.column(c.name)) for c in self.conditions]

    def _drawn(self, n: int) -> tuple[list[list[int]], Asked, Cells | None]:
        """Atomic numbers of each cell, -1 where the model is to choose, what is asked of it, and training crystals whose symmetry it is to
        keep; what the request leaves open is taken from training crystals that answer it."""
        memory, size = self.model.memory, self.request.n_atoms
        seen = self._seen()
        barren = [atoms for atoms, tries in self.tried.items() if tries is not None and tries >= BARREN]
        if self.ranked is not None:
            rows = self.ranked[torch.arange(self.drawn, self.drawn + n) % len(self.ranked)]
        else:
            rows = memory.draw(n, seen, self.generator, self.among if self.among.any() else None, barren)
        self.drawn += n
        value, kind = torch.zeros(n, len(memory.properties)), torch.full((n, len(memory.properties)), NOTHING)
        for one in seen:
            k = memory.properties.index(one.name)
            value[:, k], kind[:, k] = one.value, one.kind
            if one.kind == BETWEEN:
                value[:, k], kind[:, k] = memory.column(one.name)[rows].float().clamp(one.value, one.upper), EQUAL
        asked = Asked(
            value.to(self.device), kind.to(self.device), torch.full((n,), self.request.spacegroup, device=self.device)
        )
        templates = self._templates(rows) if self.lent else None
        if self.composition:
            if templates is None:
                return [self.composition] * n, asked, None
            return [self._dealt(numbers) for numbers in templates.numbers.tolist()], asked, templates
        sizes = [size] * n if size else memory.counts[rows.to(memory.counts.device)].tolist()
        return [[-1] * count for count in sizes], asked, templates

    def _templates(self, rows: Tensor) -> Cells:
        """Training crystals; made symmetric within the tolerance where a space group is asked for, which they may have within as much only."""
        cells = self.model.memory.cells(rows.to(self.model.memory.counts.device))
        if not self.request.spacegroup:
            return cells
        for row, atoms in zip(rows.tolist(), cells.to_atoms(), strict=True):
            if row not in self.templates:
                found = symmetrised(atoms, self.tolerance) if self.tolerance else atoms
                self.templates[row] = found if len(found) == len(atoms) else atoms
        batch = Batch.collate([Batch.from_atoms(self.templates[row], 0.0) for row in rows.tolist()])
        return Cells.from_batch(batch.to(self.device, cells.lattice.dtype))

    def _dealt(self, numbers: list[int]) -> list[int]:
        """The elements of the composition in place of those of a training crystal, as many for as many, like for like."""
        assert self.composition is not None
        own = [z for z in numbers if z]
        places = zip(in_chemical_order(own), in_chemical_order(self.composition), strict=True)
        given = {before: z for (before, _), (z, _) in places}
        return [given[z] for z in own]

    def learn(self, size: int, new: bool) -> None:
        """Sizes of which nothing is new after some tries are left: of two atoms of carbon there is nothing but diamond."""
        tries = self.tried.get(size, 0)
        if self.request.keep == "new" and tries is not None:
            self.tried[size] = None if new else tries + 1

    def _symmetrised(self, crystals: list[Atoms], estimates: Tensor) -> list[Atoms]:
        """Crystals made symmetric, in their reduced cells, and their ``estimates`` (B, P) with them; those stay that are no crystals or
        would have fewer atoms."""
        found, changed = list(crystals), []
        for k, atoms in enumerate(crystals if self.tolerance else ()):
            with suppress(VibronicError, ValueError, RuntimeError, np.linalg.LinAlgError):  # no volume, no numbers
                one = symmetrised(atoms, self.tolerance)
                if len(one) == len(atoms) and structural_validity(one):
                    found[k] = one
                    changed.append(k)
        if changed:
            batch = Batch.collate([Batch.from_atoms(found[k], 0.0) for k in changed])
            estimates[changed] = self.model.estimate(Cells.from_batch(batch.to(self.device, estimates.dtype)))
        return found

    def __call__(self, n: int, progress: Callable[[float], None]) -> list[Atoms]:
        """``n`` candidates, with what was asked and the model's estimates in ``info``."""
        cells, asked, templates = self._drawn(n)
        species = padded(cells)
        found: list[Atoms | None] = [None] * n

        def sampled(rows: int, evaluations: int) -> None:
            progress(rows * evaluations / self.evaluations)

        # Cells of one size side by side, so that none is padded for nothing.
        for rows in (species != 0).sum(1).argsort(stable=True).split(128):
            part = species[rows][:, : (most := int((species[rows] != 0).sum(1).max()))]
            crystals, estimates = self.model.sample(
                part.to(self.device),
                self.allowed.to(self.device),
                Asked(*(wish[rows.to(self.device)] for wish in (asked.value, asked.kind, asked.spacegroup))),
                self.evaluations,
                self.request.guidance,
                self.generator,
                partial(sampled, len(rows)),
                None if templates is None else templates[rows.to(self.device), :most],
            )
            made = self._symmetrised(crystals.to_atoms(), estimates)
            for row, atoms, values in zip(rows.tolist(), made, estimates.tolist(), strict=True):
                atoms.info = {f"{name}_asked": what for name, what in self.wishes.items()}
                atoms.info |= estimated(self.model.memory.properties, values)
                found[row] = atoms
        return [atoms for atoms in found if atoms is not None]


def estimated(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """What ``info`` says of a model's estimates; nothing where there are none."""
    return {f"{name}_estimate": float(f"{v:.6g}") for name, v in zip(names, values, strict=True) if not math.isnan(v)}


def _numbers(formula: str) -> list[int]:
    """Atomic numbers of a formula's atoms.

    Raises:
        VibronicError: it is no formula.
    """
    try:
        found = [atomic_numbers[symbol] for symbol, count in Formula(formula).count().items() for _ in range(count)]
    except (ValueError, KeyError):
        found = []
    if found and re.search(r"(?<!\d)0", formula):
        raise VibronicError(f"'{formula}' counts from zero; is the letter O meant?")
    if not found:
        what = "element" if re.fullmatch("[A-Z][a-z]?", formula) else "chemical formula; write it as SrTiO3 or Sr2Ti2O6"
        raise VibronicError(f"'{formula}' is no {what}")
    return found
