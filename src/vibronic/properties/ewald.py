"""Electrostatic potentials at atoms from unit charges on all atoms of an element, by Ewald's sum.

A lattice of equal charges stands in a uniform background that neutralises it (P. P. Ewald, Ann. Phys. 369, 253, 1921); with
charges that add up to zero the backgrounds cancel.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.scatter import scatter_sum

COULOMB = 14.399645
"""e^2 / (4 pi epsilon_0), eV Angstrom."""
SHARPNESS = 4.0
"""The real-space sum ends where erfc is that of this number, 1.5e-8, and the reciprocal one as late."""


def site_potentials(batch: Batch, elements: Tensor, cutoff: float) -> Tensor:
    """(N, elements) potential energy of a unit charge at every atom in the field of unit charges on the atoms of each element, eV.

    An atom does not feel itself, but its periodic images. Differentiable in positions; of a molecule the plain sum.

    Args:
        batch: with all neighbours within ``cutoff``, in double precision.
        elements: (n,) atomic numbers, ascending.
        cutoff: of the neighbour list, Angstrom.

    Raises:
        VibronicError: a structure is neither a crystal nor a molecule: one or two of its lattice vectors are missing.
    """
    eta = SHARPNESS / cutoff
    kind = torch.searchsorted(elements, batch.numbers)
    size, n = len(batch.numbers), len(elements)
    i, j = batch.edge_index
    r = batch.edge_vectors().norm(dim=-1)
    near = scatter_sum(torch.erfc(eta * r) / r, i * n + kind[j], size * n).view(size, n)
    own = torch.nn.functional.one_hot(kind, n).to(r)
    parts = []
    first = 0
    for s, count in enumerate(batch.n_atoms.tolist()):
        mine = slice(first, first + count)
        x, charges, cell = batch.positions[mine], own[mine], batch.cell[s]
        vectors = int(cell.any(dim=1).sum())
        if vectors not in (0, 3):
            raise VibronicError(
                f"electrostatics needs three lattice vectors or none, not {vectors}; give a sheet or a wire a cell with empty space"
            )
        if vectors:
            far = _reciprocal(x, charges, cell, eta) - math.pi / (eta**2 * torch.linalg.det(cell).abs()) * charges.sum(
                0
            )
            parts.append(near[mine] + far - 2 * eta / math.sqrt(math.pi) * charges)
        else:
            apart = (x[:, None] - x[None]).square().sum(-1)
            parts.append(torch.where(apart > 0, 1 / apart.clamp(min=1e-12).sqrt(), 0.0) @ charges)
        first += count
    return COULOMB * torch.cat(parts)


def _reciprocal(positions: Tensor, charges: Tensor, cell: Tensor, eta: float) -> Tensor:
    """(N, n) the smooth part, a sum over half of the reciprocal lattice."""
    reciprocal = 2 * math.pi * torch.linalg.inv(cell).T
    largest = 2 * eta * SHARPNESS
    counts = [math.ceil(largest * float(a.norm()) / (2 * math.pi)) for a in cell]
    grid = torch.tensor(
        list(itertools.product(*(range(-c, c + 1) for c in counts))), dtype=cell.dtype, device=cell.device
    )
    grid = grid[len(grid) // 2 + 1 :]  # of k and -k one, and not k = 0
    k = grid @ reciprocal
    square = k.square().sum(1)
    k, square = k[square <= largest**2], square[square <= largest**2]
    weight = 8 * math.pi / torch.linalg.det(cell).abs() * torch.exp(-square / (4 * eta**2)) / square
    phase = positions @ k.T
    cosine, sine = torch.cos(phase), torch.sin(phase)
    return (cosine * weight) @ (cosine.T @ charges) + (sine * weight) @ (sine.T @ charges)
