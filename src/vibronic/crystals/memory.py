"""What a generator keeps of its training set: the crystals themselves, so that it can tell a new one from one it was shown.

They are few numbers (20 per atom at most) beside the weights, and everything else that a request needs follows from them:
how many atoms crystals have, which elements, the range of a property, its best 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from vibronic.crystals.cells import Cells
from vibronic.crystals.conditioning import EQUAL, Condition
from vibronic.data.cells import in_chemical_order, pettifor, reduced_composition


class Memory(nn.Module):
    """The training set: ``S`` crystals with ``A`` atoms in all and ``P`` properties."""

    numbers: Tensor
    counts: Tensor
    fractional: Tensor
    lattice: Tensor
    spacegroups: Tensor
    values: Tensor

    def __init__(self, properties: Sequence[str]) -> None:
        super().__init__()
        self.properties = list(properties)
        self.register_buffer("numbers", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("counts", torch.zeros(0, dtype=torch.int16))
        self.register_buffer("fractional", torch.zeros(0, 3))
        self.register_buffer("lattice", torch.zeros(0, 3, 3))
        self.register_buffer("spacegroups", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("values", torch.zeros(0, len(self.properties)))

    def prepare(self, cells: Cells, values: Tensor, spacegroups: Tensor) -> None:
        """Take the crystals, their properties (S, P) and space groups (S,)."""
        there = cells.mask
        self.numbers, self.fractional = cells.numbers[there].to(torch.uint8), cells.fractional[there].float()
        self.counts, self.lattice = cells.n_atoms.to(torch.int16), cells.lattice.float()
        self.values, self.spacegroups = values.float(), spacegroups.to(torch.uint8)

    def __len__(self) -> int:
        return len(self.counts)

    def structures(self, like: Sequence[Atoms] | None = None) -> list[Atoms]:
        """The crystals, with their properties in ``info``; those alone that have the reduced composition of one of ``like``."""
        ends = np.cumsum(self.counts.long().cpu().numpy())
        numbers, fractional = self.numbers.cpu().numpy(), self.fractional.double().cpu().numpy()
        lattice, values = self.lattice.double().cpu().numpy(), self.values.double().tolist()
        chosen: Sequence[int] = range(len(self))
        if like is not None:
            wanted = {reduced_composition(atoms.numbers) for atoms in like}
            own = np.split(numbers, ends[:-1])
            chosen = [k for k, atoms in enumerate(own) if reduced_composition(atoms) in wanted]
        return [
            Atoms(
                numbers[start:end],
                scaled_positions=fractional[start:end],
                cell=lattice[k],
                pbc=True,
                info=dict(zip(self.properties, values[k], strict=True)),
            )
            for k, start, end in ((k, ends[k] - int(self.counts[k]), ends[k]) for k in chosen)
        ]

    def cells(self, rows: Tensor) -> Cells:
        """Some of the crystals, padded to the largest."""
        counts = self.counts.long()
        first, count = (counts.cumsum(0) - counts)[rows], counts[rows]
        there = torch.arange(int(count.max()), device=count.device) < count[:, None]
        place = torch.where(there, first[:, None] + torch.arange(there.shape[1], device=count.device), 0)
        return Cells(self.numbers[place].long() * there, self.fractional[place] * there[..., None], self.lattice[rows])

    def n_elements(self) -> Tensor:
        """(S,) how many elements each crystal holds."""
        return torch.tensor([len(np.unique(one)) for one in self._elements()])

    def unlike(self, numbers: Sequence[int]) -> Tensor:
        """(S,) how far elements (atomic numbers of the atoms of one cell) are from those of each crystal that they would replace:
        steps along Pettifor's scale, averaged over the atoms; infinite where there are not as many atoms of each."""
        ours = in_chemical_order(numbers)
        found = torch.full((len(self),), math.inf, dtype=torch.float64)
        for k, one in enumerate(self._elements()):
            theirs = in_chemical_order(one)
            if [n for _, n in ours] == [n for _, n in theirs]:
                steps = [n * abs(pettifor(a) - pettifor(b)) for (a, n), (b, _) in zip(ours, theirs, strict=True)]
                found[k] = sum(steps) / len(one)
        return found

    def _elements(self) -> list[np.ndarray]:
        """Atomic numbers of each crystal's atoms."""
        ends = np.cumsum(self.counts.long().cpu().numpy())
        return np.split(self.numbers.cpu().numpy(), ends[:-1])

    def alone(self) -> frozenset[int]:
        """Atomic numbers of the elements that form a crystal without any other."""
        counts = self.counts.long()
        which = torch.repeat_interleave(torch.arange(len(self), device=counts.device), counts)
        numbers, none = self.numbers.long(), counts.new_zeros(len(self))
        least = none.scatter_reduce(0, which, numbers, "amin", include_self=False)
        most = none.scatter_reduce(0, which, numbers, "amax", include_self=False)
        return frozenset(least[least == most].tolist())

    def column(self, name: str) -> Tensor:
        """(S,) one property of the training set, double precision."""
        return self.values[:, self.properties.index(name)].double().cpu()

    def draw(
        self,
        n: int,
        conditions: Sequence[Condition],
        generator: torch.Generator,
        among: Tensor | None = None,
        barren: Collection[int] = (),
    ) -> Tensor:
        """(n,) crystals of the training set, as indices, that answer the conditions together: what else a wish leaves open, the
        size of the cell or a value within an interval, is then as likely as it is among these.

        Bounds choose the crystals within them, values those near them: weights fall off over a twentieth of the standard
        deviation, or over more where fewer than 20 crystals would count, or than one in twenty of a small set.

        Args:
            among: (S,) which of them there are to choose from, where not all.
            barren: numbers of atoms to pass over, where there are others.
        """
        counts = self.counts.cpu().long()
        meets, square = self._answers(conditions, among)
        fertile = meets & ~torch.isin(counts, torch.tensor(sorted(barren), dtype=torch.long))
        meets = fertile if fertile.any() else meets
        least = min(20, max(1, len(self) // 20))
        width = square[meets].sort().values[:least].max().sqrt().clamp(min=0.05)
        weights = torch.where(meets, torch.exp(-0.5 * square / width**2), 0.0)
        # On the processor, in double precision: of a few weights alone that count, single precision may see none.
        drawn = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
        place = torch.searchsorted(weights.cumsum(0), drawn.cpu() * weights.sum())
        return place.clamp(max=len(self) - 1)

    def ranked(
        self, conditions: Sequence[Condition], among: Tensor, unlike: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Crystals ``among`` (S,) the training set, as indices, that answer the conditions, or all where none does; first those whose
        values are near those asked for and which are least ``unlike`` (S,), equal ones at random: ten steps of Pettifor's scale count
        as one standard deviation."""
        meets, square = self._answers(conditions, among)
        mixed = torch.randperm(len(self), generator=generator)
        order = mixed[(square + (unlike / 10) ** 2)[mixed].argsort(stable=True)]
        return order[meets[order]]

    def _answers(self, conditions: Sequence[Condition], among: Tensor | None) -> tuple[Tensor, Tensor]:
        """(S,) which crystals answer conditions together, all ``among`` them where none does, and (S,) how far their values are from those
        asked for, in standard deviations, squared and summed."""
        everything = torch.ones(len(self), dtype=torch.bool) if among is None else among.cpu()
        meets, square = everything, torch.zeros(len(self), dtype=torch.float64)
        for one in conditions:
            values = self.column(one.name)
            meets = meets & one.met(values)
            if one.kind == EQUAL:
                square += ((values - one.value) / values.std(unbiased=False).clamp(min=1e-12)) ** 2
        return (meets if meets.any() else everything), square
