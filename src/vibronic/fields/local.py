"""The field around every nucleus, in numbers that stay the same when the molecule turns, moves or is renumbered.

A sphere of points on a Cartesian lattice, as in the published Quantum Deep Field, turns with the frame and not with the
molecule. Here the field is read where the geometry itself says: at the nuclei, value and angular derivatives together,
as its components of angular momentum l.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vibronic.core.batch import Batch
from vibronic.fields.basis import solid_harmonics


class LocalField(nn.Module):
    """A linear combination of atomic orbitals, and its invariants at the nuclei.

    1. Basis: orbitals ``chi_nlm(r) = g_n(|r|) Y_lm(r)`` on every atom but the one looked from; Gaussians g_n, narrow near
       the nucleus and wide far away, times ``f(r) / (1 + (r / reach)^4)``, because near neighbours matter most (Willatt,
       Musil, Ceriotti, PCCP 20, 29661, 2018); f falls smoothly to 0 at the cutoff.
    2. LCAO: ``psi_klm(A) = sum_B sum_n C[k, Z_B n] chi_nlm(R_B - R_A)``. The coefficients are those combinations that
       carry most of the field in the training set (eigenvectors of its covariance): its natural orbitals.
    3. Invariants: ``p_kk'l(A) = sum_m psi_klm psi_k'lm``, all two-centre distances and three-centre angles, averaged.
    4. Their principal components, by the element of A; what is left out carries nearly nothing.

    Args:
        cutoff: Angstrom.
        momentum: largest l.
        orbitals: k of each l.
        components: kept of the invariants.
        reach: Angstrom.
        hydrogen: weight of hydrogen's orbitals; there are many of them, and they say less than the heavy atoms'.
    """

    elements: Tensor
    centres: Tensor
    widths: Tensor
    upper: Tensor
    twice: Tensor
    coefficients: Tensor
    mean: Tensor
    directions: Tensor

    def __init__(
        self, cutoff: float, momentum: int, orbitals: int, components: int, reach: float, hydrogen: float
    ) -> None:
        super().__init__()
        self.cutoff, self.momentum, self.orbitals, self.components = cutoff, momentum, orbitals, components
        self.reach, self.hydrogen = reach, hydrogen
        centres, widths = gaussians(cutoff)
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("widths", widths, persistent=False)
        row, column = torch.triu_indices(orbitals, orbitals)
        self.register_buffer("upper", row * orbitals + column, persistent=False)
        # Each pair of different orbitals stands for two equal entries of a symmetric matrix.
        self.register_buffer("twice", torch.where(row == column, 1.0, math.sqrt(2.0)), persistent=False)
        self.register_buffer("elements", torch.zeros(0, dtype=torch.long))
        for name in ("coefficients", "mean"):
            self.register_buffer(name, torch.zeros(0))
        # Half precision is no loss: the kernel's points are projected with the same rounded directions.
        self.register_buffer("directions", torch.zeros(0, dtype=torch.float16))

    def prepare(self, batch: Batch, atoms: int = 5000) -> None:
        """Find natural orbitals and principal components on (a sample of) the training set.

        Args:
            batch: structures to look at.
            atoms: of each element, at most, for the principal components.
        """
        self.elements = torch.unique(batch.numbers)
        kinds = len(self.elements) * len(self.centres)
        basis = self._orbitals(batch, torch.eye(kinds))
        flat = basis.transpose(0, 1).reshape(kinds, -1).double()
        natural = torch.linalg.eigh(flat @ flat.T)[1].flip(1)[:, : self.orbitals].T
        self.coefficients = torch.zeros(self.orbitals, kinds)  # few elements may have fewer orbitals
        self.coefficients[: len(natural)] = natural
        invariants = self._invariants(self.coefficients @ basis)
        means, directions = [], []
        for element in self.elements:
            x = invariants[batch.numbers == element]
            x = x[torch.randperm(len(x))[:atoms]]
            means.append(x.mean(0))
            rank = min(self.components, *x.shape)
            found = torch.zeros(x.shape[1], self.components)
            found[:, :rank] = torch.svd_lowrank(x - means[-1], q=rank, niter=2)[2]
            directions.append(found.half())
        self.mean, self.directions = torch.stack(means), torch.stack(directions)

    def forward(self, batch: Batch) -> Tensor:
        """(N, components) invariants of the field at every nucleus."""
        invariants = self._invariants(self._orbitals(batch, self.coefficients))
        mean, directions = self.mean.to(invariants.dtype), self.directions.to(invariants.dtype)
        out = invariants.new_zeros(len(invariants), self.components)
        for k, element in enumerate(self.elements):
            here = torch.nonzero(batch.numbers == element)[:, 0]
            out = out.index_copy(0, here, torch.addmm(-mean[k] @ directions[k], invariants[here], directions[k]))
        return out

    def _orbitals(self, batch: Batch, coefficients: Tensor) -> Tensor:
        """(N, orbitals, (momentum + 1)^2) molecular orbitals at every nucleus, of any coefficients (orbitals, elements *
        Gaussians).
        """
        i, j = batch.edge_index
        vectors = batch.edge_vectors().to(self.centres.dtype)
        distance = vectors.norm(dim=-1)
        near = torch.nonzero(distance < self.cutoff)[:, 0]
        i, j, vectors, distance = i[near], j[near], vectors[near], distance[near]
        fall = 0.5 * (1 + torch.cos(math.pi * distance / self.cutoff)) / (1 + (distance / self.reach) ** 4)
        fall = fall * torch.where(batch.numbers[j] == 1, self.hydrogen, 1.0)
        if batch.edge_weight is not None:
            fall = fall * batch.edge_weight[near].to(fall.dtype)
        radial = torch.exp(-0.5 * ((distance[:, None] - self.centres) / self.widths) ** 2) * fall[:, None]
        # Normalised so that the sum over m is 1 in every direction, for each l.
        scale = [math.sqrt(4 * math.pi / (2 * l + 1)) for l in range(self.momentum + 1)]
        harmonics = solid_harmonics(vectors / distance[:, None], self.momentum)
        angular = torch.cat([s * y for s, y in zip(scale, harmonics, strict=True)], dim=-1)
        # Contracted before the sum over neighbours, which is a product of small matrices, padded to one size.
        shape = (len(coefficients), len(self.elements), len(self.centres))
        of_element = coefficients.to(radial.dtype).view(shape).permute(2, 1, 0).flatten(1)
        species = torch.searchsorted(self.elements, batch.numbers)[j]
        contracted = (radial @ of_element).view(len(j), *shape[1::-1])[torch.arange(len(j), device=j.device), species]
        count = torch.bincount(i, minlength=len(batch.numbers))
        slot = torch.arange(len(i), device=i.device) - (count.cumsum(0) - count)[i]
        place, size = i * count.max() + slot, (len(count), int(count.max()))

        def padded(values: Tensor) -> Tensor:
            rows = values.new_zeros(size[0] * size[1], values.shape[1])
            return rows.index_copy(0, place, values).view(*size, values.shape[1])

        return padded(contracted).transpose(1, 2) @ padded(angular)

    def _invariants(self, psi: Tensor) -> Tensor:
        """(N, (momentum + 1) * pairs of orbitals) invariants of molecular orbitals."""
        found = []
        for part in psi.split([2 * l + 1 for l in range(self.momentum + 1)], dim=2):
            part = part.contiguous()  # or each of the small products is copied by itself
            product = (part @ part.transpose(1, 2)).flatten(1)
            found.append(product.index_select(1, self.upper) * self.twice.to(psi.dtype))
        return torch.cat(found, dim=1)


def gaussians(cutoff: float) -> tuple[Tensor, Tensor]:
    """Centres and widths, Angstrom, of the radial functions below a cutoff: spacing and width grow with the distance."""
    centres = [0.9]
    while (following := 1.18 * centres[-1] + 0.09) < 0.87 * cutoff:
        centres.append(following)
    x = torch.tensor(centres)
    return x, 0.1 + 0.15 * x
