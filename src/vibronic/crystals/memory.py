"""What a generator keeps of its training set: the crystals themselves, so that it can tell a new one from one it was shown.

They are few numbers (20 per atom at most) beside the weights, and everything else that a request needs follows from them:
how many atoms crystals have, which elements, the range of a property, its best 5 %.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from vibronic.crystals.cells import Cells
from vibronic.crystals.conditioning import EQUAL, Condition
from vibronic.data.cells import reduced_composition


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

    def column(self, name: str) -> Tensor:
        """(S,) one property of the training set, double precision."""
        return self.values[:, self.properties.index(name)].double().cpu()

    def draw(
        self,
        n: int,
        conditions: Sequence[Condition],
        generator: torch.Generator,
        n_atoms: int | None = None,
        barren: Collection[int] = (),
    ) -> Tensor:
        """(n,) crystals of the training set, as indices, that answer the conditions together: what else a wish leaves open, the
        size of the cell or a value within an interval, is then as likely as it is among these.

        Bounds choose the crystals within them, values those near them: weights fall off over a twentieth of the standard
        deviation, or over more where fewer than 20 crystals would count.

        Args:
            n_atoms: of their cells.
            barren: numbers of atoms to pass over, where there are others.
        """
        counts = self.counts.cpu().long()
        meets = torch.ones(len(self), dtype=torch.bool)
        if n_atoms is not None:
            meets = counts == n_atoms
        for one in conditions:
            meets = meets & one.met(self.column(one.name))
        if not meets.any():
            meets = torch.ones_like(meets)
        fertile = meets & ~torch.isin(counts, torch.tensor(sorted(barren), dtype=torch.long))
        meets = fertile if fertile.any() else meets
        square = torch.zeros(len(self), dtype=torch.float64)
        for one in conditions:
            if one.kind == EQUAL:
                values = self.column(one.name)
                square += ((values - one.value) / values.std(unbiased=False).clamp(min=1e-12)) ** 2
        width = square[meets].sort().values[:20].max().sqrt().clamp(min=0.05)
        weights = torch.where(meets, torch.exp(-0.5 * square / width**2), 0.0)
        # On the processor, in double precision: of a few weights alone that count, single precision may see none.
        drawn = torch.rand(n, generator=generator, device=generator.device, dtype=torch.float64)
        place = torch.searchsorted(weights.cumsum(0), drawn.cpu() * weights.sum())
        return place.clamp(max=len(self) - 1)
