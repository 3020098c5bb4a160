"""What a generator keeps of its training set: the crystals themselves, so that it can tell a new one from one it was shown.

They are few numbers (20 per atom at most) beside the weights, and everything else that a request needs follows from them:
how many atoms crystals have, which elements, the range of a property, its best 5 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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

    def draw_counts(
        self,
        n: int,
        conditions: Sequence[Condition],
        generator: torch.Generator,
        tried: Mapping[int, tuple[int, int]] | None = None,
    ) -> Tensor:
        """(n,) numbers of atoms, as crystals that meet the conditions have them.

        Bounds choose the training crystals within them, values those near them: weights fall off over a twentieth of the
        property's standard deviation, or over more where fewer than 20 crystals would count.

        Args:
            tried: number of atoms -> candidates that had so many, and those of them that were worth keeping; numbers are then also
                weighted by that share (Laplace's rule of succession).
        """
        weights = torch.ones(len(self), dtype=torch.float64)
        for condition in conditions:
            values = self.column(condition.name)
            if condition.met(values).any():
                weights = weights * condition.met(values)
            if condition.kind == EQUAL:
                distance = (values - condition.value).abs()
                width = torch.maximum(
                    0.05 * values.std(unbiased=False), distance.sort().values[: min(20, len(self))].max()
                )
                weights = weights * torch.exp(-0.5 * (distance / width.clamp(min=1e-12)) ** 2)
        if not weights.sum() > 0:
            weights = torch.ones_like(weights)
        if tried:
            each = [tried.get(size, (0, 0)) for size in range(int(self.counts.max()) + 1)]
            worth = torch.tensor([(kept + 1) / (drawn + 2) for drawn, kept in each], dtype=torch.float64)
            weights = weights * worth[self.counts.cpu().long()]
        chosen = torch.multinomial(weights.float().to(generator.device), n, replacement=True, generator=generator)
        return self.counts.cpu().long()[chosen.cpu()]
