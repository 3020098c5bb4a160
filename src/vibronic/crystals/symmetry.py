"""What its space group leaves free in a crystal: most crystals are few numbers.

The operations of a crystal carry its atoms into one another. Where they stay operations while the crystal is deformed, one atom
of each orbit decides where the others are, that atom moves only within what its site symmetry fixes, and the metric tensor has
one to six free components: of cubic perovskite the lattice constant alone. A flow within these few directions ends on
exact special positions, as that of DiffCSP++ does (arXiv 2402.03992), which works with Wyckoff positions of tabulated space
groups; here everything follows from the operations that spglib finds in a crystal, in the cell it has.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from vibronic.crystals.cells import Cells, centred, wrapped

_VECTORS = np.array([v for v in np.ndindex(7, 7, 7) if v != (3, 3, 3)]) - 3
"""Lattice vectors, long enough ones to span what a site symmetry leaves unmoved."""


class _Freedom(NamedTuple):
    """What :class:`Symmetry` holds, of one crystal of n atoms: (n,), (3n, K), (K, 3n), (9, 9)."""

    orbits: np.ndarray
    directions: np.ndarray
    parameters: np.ndarray
    metric: np.ndarray


@dataclass
class Symmetry:
    """The free directions of ``B`` crystals of up to ``N`` atoms, at most ``K`` each.

    Attributes:
        orbits: (B, N) the first atom that each is carried into.
        directions: (B, 3N, K) displacements of all atoms, in fractional coordinates; whole lattice vectors for one atom of each orbit,
            so that numbers within [0, 1) are every place that symmetry leaves it, once.
        parameters: (B, K, 3N) the components along these of any displacements, averaged over the operations.
        metric: (B, 9, 9) average of a metric tensor over the operations.
        free: (B,) whether there is no operation but the identity.
    """

    orbits: Tensor
    directions: Tensor
    parameters: Tensor
    metric: Tensor
    free: Tensor

    @classmethod
    def of(cls, cells: Cells, symprec: float, kept: Tensor | None = None) -> Symmetry:
        """What the operations of crystals, within ``symprec`` (Angstrom), leave free; everything of those that are not ``kept`` (B,).

        The operations of a crystal are found once, by ASE and spglib.
        """
        numbers, device, dtype = cells.numbers.cpu().numpy(), cells.lattice.device, cells.lattice.dtype
        places, lattice = cells.fractional.cpu().numpy(), cells.lattice.cpu().numpy()
        keeps = [True] * len(numbers) if kept is None else kept.tolist()
        found: list[_Freedom | None] = []
        for z, x, vectors, keep in zip(numbers, places, lattice, keeps, strict=True):
            there = z > 0
            # Rounded, so that a crystal that comes again is the same to the last digit.
            arrays = (z[there].astype(np.int64), x[there].astype(float).round(5), vectors.astype(float).round(4))
            found.append(_freedom(*(array.tobytes() for array in arrays), symprec) if keep else None)
        return cls._collated(found, numbers > 0, device, dtype)

    @classmethod
    def none(cls, mask: Tensor, like: Tensor) -> Symmetry:
        """No symmetry: all atoms of ``mask`` (B, N) and all lattices are free."""
        return cls._collated([None] * len(mask), mask.cpu().numpy(), like.device, like.dtype)

    @classmethod
    def _collated(
        cls, found: Sequence[_Freedom | None], there: np.ndarray, device: torch.device, dtype: torch.dtype
    ) -> Symmetry:
        batch, atoms = there.shape
        counts = there.sum(1)
        most = max(3 * n if one is None else one.directions.shape[1] for one, n in zip(found, counts, strict=True))
        orbits = np.tile(np.arange(atoms), (batch, 1))
        directions, parameters = np.zeros((batch, 3 * atoms, most)), np.zeros((batch, most, 3 * atoms))
        metric = np.tile(np.eye(9), (batch, 1, 1))
        for k, (one, n) in enumerate(zip(found, counts, strict=True)):
            if one is None:
                rows = np.flatnonzero(np.repeat(there[k], 3))
                directions[k, rows, np.arange(3 * n)] = parameters[k, np.arange(3 * n), rows] = 1
                continue
            width = one.directions.shape[1]
            orbits[k, :n], metric[k] = one.orbits, one.metric
            directions[k, : 3 * n, :width], parameters[k, :width, : 3 * n] = one.directions, one.parameters
        free = torch.tensor([one is None for one in found], device=device)
        along, back, average = (torch.from_numpy(array).to(device, dtype) for array in (directions, parameters, metric))
        return cls(torch.from_numpy(orbits).to(device), along, back, average, free)

    def __getitem__(self, rows: Tensor) -> Symmetry:
        """That of some of the crystals."""
        return Symmetry(*(getattr(self, field.name)[rows] for field in fields(self)))

    def noise(self, mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, N, 3) displacements, without a drift, after which every place that symmetry leaves the atoms of ``mask`` (B, N) is
        equally likely."""
        batch, _, count = self.directions.shape
        device, dtype = self.directions.device, self.directions.dtype
        along = torch.rand(batch, count, 1, generator=generator, device=device, dtype=dtype)
        for _ in range(3):  # without the drift another image may be the nearest
            away = (self.directions @ wrapped(along)).view(batch, -1, 3)
            drift = (away - centred(away, mask)) * mask[..., None]
            along = wrapped(along) - self.parameters @ drift.flatten(1)[..., None]
        return centred(away, mask)

    def displacements(self, x: Tensor) -> Tensor:
        """The part of displacements (B, N, 3) that keeps the symmetry: their average over the operations."""
        return (self.directions @ (self.parameters @ x.flatten(1)[..., None])).view_as(x)

    def kinds(self, x: Tensor) -> Tensor:
        """What is said of the atoms (B, N, ...), averaged over each orbit."""
        same = (self.orbits[:, :, None] == self.orbits[:, None]).to(x.dtype)
        return (same / same.sum(-1, keepdim=True)) @ x

    def metrics(self, metric: Tensor) -> Tensor:
        """Metric tensors (B, 3, 3), averaged over the operations."""
        average = self.metric.to(metric.dtype) @ metric.flatten(1)[..., None]
        return average.view_as(metric)


@lru_cache(maxsize=1 << 16)
def _freedom(numbers: bytes, fractional: bytes, lattice: bytes, symprec: float) -> _Freedom | None:
    """Of one crystal, given as the bytes of its arrays; None where it has no operation but the identity."""
    z, vectors = np.frombuffer(numbers, dtype=np.int64), np.frombuffer(lattice).reshape(3, 3)
    operations = _operations(z, np.frombuffer(fractional).reshape(-1, 3), vectors, symprec)
    if operations is None:
        return None
    rotations, carried = operations
    order, n = carried.shape
    orbits = carried.min(0)
    columns = []
    for first in np.unique(orbits):
        basis = _fixed(rotations[carried[:, first] == first], vectors)
        if basis is None:
            return None
        block = np.zeros((len(basis), n, 3))
        block[:, carried[:, first]] = np.einsum("oab,kb->koa", rotations, basis)
        columns.append(block.reshape(len(basis), 3 * n))
    directions = np.concatenate(columns).T
    average = np.einsum("oij,oab->jaib", np.eye(n)[carried], rotations) / order
    parameters = np.linalg.lstsq(directions, average.reshape(3 * n, 3 * n), rcond=None)[0]
    metric = np.einsum("oca,odb->abcd", rotations, rotations).reshape(9, 9) / order
    return _Freedom(orbits, *(part.astype(np.float32) for part in (directions, parameters, metric)))


def _operations(
    numbers: np.ndarray, fractional: np.ndarray, lattice: np.ndarray, symprec: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rotations (M, 3, 3) of fractional coordinates, and the atom (M, n) that each carries each atom to; None of a crystal
    without symmetry."""
    from ase.spacegroup.symmetrize import prep_symmetry

    atoms = Atoms(numbers, scaled_positions=fractional, cell=lattice, pbc=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how spglib will tell failures one day
            rotations, _, carried = prep_symmetry(atoms, symprec)
    except Exception:  # where spglib finds nothing, by a class that some versions of ASE lack
        return None
    one_to_one = (np.sort(carried, 1) == np.arange(len(numbers))).all()
    return (rotations.astype(float), np.array(carried)) if one_to_one and len(rotations) > 1 else None


def _fixed(rotations: np.ndarray, lattice: np.ndarray) -> np.ndarray | None:
    """(k, 3) a basis of the lattice vectors that rotations (S, 3, 3) leave as they are, as short ones as there are; None where they are
    too long to be found."""
    rank = round(np.trace(rotations.mean(0)))  # of a projection
    unmoved = _VECTORS[(np.einsum("oab,kb->oka", rotations, _VECTORS) == _VECTORS).all((0, 2))]
    basis: list[np.ndarray] = []
    # Shortest independent vectors, one after another, are a basis of a lattice of up to three dimensions.
    for vector in unmoved[np.argsort(np.linalg.norm(unmoved @ lattice, axis=1), kind="stable")]:
        if len(basis) == rank:
            break
        if np.linalg.matrix_rank([*basis, vector]) > len(basis):
            basis.append(vector)
    return np.reshape(basis, (-1, 3)).astype(float) if len(basis) == rank else None
