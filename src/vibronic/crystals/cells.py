"""Crystals as dense tensors: what the networks of this room work on, made from a :class:`Batch` and turned into structures.

The lattice of our model is half the matrix logarithm of the metric tensor, ``S = log(G) / 2`` with ``G = L L^T`` for lattice
vectors as rows: six numbers that do not change when the crystal is rotated, and every six numbers are a cell with volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from vibronic.core.batch import Batch

_UPPER = torch.triu_indices(3, 3)


@dataclass
class Cells:
    """``B`` crystals of up to ``N`` atoms.

    Attributes:
        numbers: (B, N) atomic numbers; 0 where there is no atom.
        fractional: (B, N, 3) in [0, 1).
        lattice: (B, 3, 3) Angstrom, lattice vectors as rows.
    """

    numbers: Tensor
    fractional: Tensor
    lattice: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, N) where there is an atom."""
        return self.numbers > 0

    @property
    def n_atoms(self) -> Tensor:
        """(B,)"""
        return self.mask.sum(1)

    def __getitem__(self, part: Any) -> Cells:
        """Some of the crystals, or the first atoms of some."""
        rows = part[0] if isinstance(part, tuple) else part
        return Cells(self.numbers[part], self.fractional[part], self.lattice[rows])

    @classmethod
    def from_batch(cls, batch: Batch) -> Cells:
        """The structures of a batch, padded to the largest."""
        counts = batch.n_atoms
        start = torch.cumsum(counts, 0) - counts
        place = torch.arange(len(batch.index), device=batch.index.device) - start[batch.index]
        shape = (batch.n_structures, int(counts.max()))
        numbers = batch.numbers.new_zeros(shape)
        fractional = batch.positions.new_zeros(*shape, 3)
        numbers[batch.index, place] = batch.numbers
        inverse = torch.linalg.inv(batch.cell)
        fractional[batch.index, place] = torch.einsum("na,nab->nb", batch.positions, inverse[batch.index]) % 1
        return cls(numbers, fractional, batch.cell)

    def to_atoms(self) -> list[Atoms]:
        """Structures with fractional coordinates in [0, 1)."""
        found = []
        cells, places = self.lattice.double().cpu().numpy(), self.fractional.double().cpu().numpy() % 1
        for numbers, scaled, cell in zip(self.numbers.cpu().numpy(), places, cells, strict=True):
            there = numbers > 0
            found.append(Atoms(numbers[there], scaled_positions=scaled[there], cell=cell, pbc=True))
        return found


def strain_of(lattice: Tensor, n_atoms: Tensor) -> Tensor:
    """Lattice vectors as six numbers relative to a cubic cell of 1 Angstrom^3 per atom.

    Args:
        lattice: (B, 3, 3) Angstrom, rows.
        n_atoms: (B,)

    Returns:
        (B, 6) the upper triangle, row by row, of ``log(L L^T) / 2 - log(n) / 3``.
    """
    return strain_of_metric(lattice.double() @ lattice.double().mT, n_atoms).to(lattice.dtype)


def strain_of_metric(metric: Tensor, n_atoms: Tensor) -> Tensor:
    """The same six numbers (B, 6) from metric tensors (B, 3, 3) in double precision."""
    values, vectors = torch.linalg.eigh(metric)
    logarithm = vectors @ torch.diag_embed(0.5 * values.clamp(min=1e-12).log()) @ vectors.mT
    size = n_atoms.double().log() / 3
    logarithm = logarithm - size[:, None, None] * torch.eye(3, dtype=torch.float64, device=metric.device)
    return logarithm[:, _UPPER[0], _UPPER[1]]


def lattice_of(strain: Tensor, n_atoms: Tensor) -> Tensor:
    """Lattice vectors (B, 3, 3) from :func:`strain_of`: a along x, b in the xy plane, right-handed."""
    # In double precision throughout: a metric rounded to single is not always positive definite.
    return torch.linalg.cholesky(metric_of(strain.double(), n_atoms)).to(strain.dtype)


def metric_of(strain: Tensor, n_atoms: Tensor) -> Tensor:
    """Metric tensor ``G = L L^T`` (B, 3, 3), Angstrom^2, from :func:`strain_of`."""
    symmetric = strain.double().new_zeros(len(strain), 3, 3)
    symmetric[:, _UPPER[0], _UPPER[1]] = strain.double()
    symmetric[:, _UPPER[1], _UPPER[0]] = strain.double()
    # Cell axes of 0.02 to 150 Angstrom for one atom: beyond, numbers overflow and no crystal is meant.
    values, vectors = torch.linalg.eigh(symmetric)
    scale = (2 * values.clamp(-4, 5) + 2 * n_atoms.double()[:, None].log() / 3).exp()
    return (vectors @ torch.diag_embed(scale) @ vectors.mT).to(strain.dtype)


def wrapped(x: Tensor) -> Tensor:
    """The shortest of equivalent displacements on the torus, in [-1/2, 1/2]."""
    return x - x.round()


def shortest_squared(displacement: Tensor, metric: Tensor) -> Tensor:
    """Squared length of the shortest image of displacements on the torus.

    In a reduced cell it is among the eight that take each coordinate from either side; in an oblique one it need not be the one
    nearest in fractional coordinates.

    Args:
        displacement: (B, N, N, 3) in [-1/2, 1/2].
        metric: (B, 3, 3) Angstrom^2.

    Returns:
        (B, N, N) Angstrom^2.
    """
    sides = torch.cartesian_prod(*[torch.arange(2, device=metric.device, dtype=metric.dtype)] * 3)
    away = torch.where(displacement < 0, -1.0, 1.0).to(metric.dtype)
    images = displacement[..., None, :] - sides * away[..., None, :]
    return torch.einsum("bijsa,bac,bijsc->bijs", images, metric, images).amin(-1)


def centred(x: Tensor, mask: Tensor) -> Tensor:
    """Displacements (B, N, 3) without their mean over the atoms, 0 where there are none."""
    there = mask.unsqueeze(-1)
    mean = (x * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
    return (x - mean) * there


def shortest_ways(start: Tensor, end: Tensor, numbers: Tensor) -> Tensor:
    """Straight ways on the torus from points to the atoms of crystals, as short as symmetry allows.

    Atoms of one element are the same, and a crystal may begin anywhere: the points are dealt out among the atoms of an element
    for the least sum of squares (minibatch optimal transport within one crystal; as Klein 2023), and the crystal is moved
    where they are nearest. Shorter ways cross less, and a flow along them is easier to learn and to integrate.

    Args:
        start: (B, N, 3) independent uniform points.
        end: (B, N, 3) fractional coordinates.
        numbers: (B, N) atomic numbers, 0 where there is no atom.

    Returns:
        (B, N, 3) the way to each atom from its point, without a drift.
    """
    from scipy.optimize import linear_sum_assignment

    mask = numbers != 0
    squared = (wrapped(end[:, :, None] - start[:, None]) ** 2).sum(-1)
    costs = (squared + 100.0 * (numbers[:, :, None] != numbers[:, None])).detach().cpu().numpy()
    order = np.stack([linear_sum_assignment(cost)[1] for cost in costs])
    start = start.gather(1, torch.from_numpy(order).to(start.device)[..., None].expand_as(start))
    way = wrapped(end - start)
    for _ in range(3):  # the mean way is removed, which may make another image of an atom the nearest
        way = wrapped(centred(way, mask))
    return centred(way, mask)


def fourier(displacement: Tensor, frequencies: int) -> Tensor:
    """``sin(2 pi m x), cos(2 pi m x)`` of fractional displacements (..., 3) for m = 1 ... ``frequencies``: (..., 6 m)."""
    m = 2 * math.pi * torch.arange(1, frequencies + 1, device=displacement.device, dtype=displacement.dtype)
    phase = (displacement.unsqueeze(-1) * m).flatten(-2)
    return torch.cat([phase.sin(), phase.cos()], -1)


def padded(lists: Sequence[Sequence[int]]) -> Tensor:
    """(B, N) whole numbers, 0 behind the shorter ones."""
    table = np.zeros((len(lists), max(map(len, lists))), dtype=np.int64)
    for row, values in zip(table, lists, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(table)
