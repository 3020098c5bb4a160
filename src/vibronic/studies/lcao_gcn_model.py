"""The networks that the study ``lcao-gcn`` compares: all alike but for where the orbitals live and of what they are made.

A linear combination of atomic orbitals gives every point a vector, ``psi(r) = sum_j sum_o phi_o(|r - R_j|) c_o``; a few
layers turn the vectors into numbers that are summed. With the nuclei as points, and one orbital per atom that is 1 up to
the length of a bond and 0 beyond, that is a molecular graph convolution (arXiv 2011.07929, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from ase.data import atomic_numbers
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.scatter import scatter_sum
from vibronic.fields.basis import BasisSet
from vibronic.fields.qdf2020 import sphere, square_distances
from vibronic.studies.composition import OnComposition

BOND = 1.7
"""Angstrom: longer than every bond of H, C, N, O, F, and a little longer than the distance of the hydrogens in NH2."""

ELEMENTS = ("H", "C", "N", "O", "F")


@dataclass(frozen=True)
class Variant:
    """One of the networks.

    Attributes:
        points: where orbitals are evaluated: at the nuclei, or on the authors' sphere of 56 points around each.
        hydrogen, others: numbers of learned Gaussians of the first and second shell; or
        basis: name of a true basis set, with its exponents, contractions and angular parts; or neither, for orbitals
            that are 1 up to the length of a bond.
    """

    points: Literal["nuclei", "field"]
    hydrogen: tuple[int, int] = (0, 0)
    others: tuple[int, int] = (0, 0)
    basis: str = ""

    @property
    def graph(self) -> bool:
        """Whether it is a graph convolution."""
        return not self.basis and not sum(self.hydrogen)


VARIANTS = {
    "gcn": Variant("nuclei"),
    "lcao-at-nuclei": Variant("nuclei", (4, 0), (6, 8)),
    "qdf-1": Variant("field", (1, 0), (1, 0)),
    "qdf-3": Variant("field", (3, 0), (1, 2)),
    "qdf-6-31G-count": Variant("field", (4, 0), (6, 8)),
    "qdf-real-6-31G": Variant("field", basis="6-31G"),
}


def graph_convolution(features: Tensor, weight: Tensor, batch: Batch) -> Tensor:
    """``h_i' = sum_j A_ij W h_j`` over the neighbours of each atom and the atom itself."""
    centre, neighbour = batch.edge_index
    messages = features @ weight.T
    return messages + scatter_sum(messages[neighbour], centre, len(features))


def lcao_at_nuclei(coefficients: Tensor, positions: Tensor) -> Tensor:
    """``psi(R_i) = sum_j phi(|R_i - R_j|) c_j`` of one molecule with ``phi(d) = 1`` for ``d < BOND`` and 0 beyond."""
    phi = (square_distances(positions, positions) < BOND**2).to(coefficients)
    return phi.T @ coefficients


class OrbitalNetwork(OnComposition):
    """Energy of a molecule, as what its composition says and a sum over points.

    Args:
        variant: key of :data:`VARIANTS`.
        width: features of a point.
        layers: after the orbitals: graph convolutions of the variant ``gcn``, else layers of the energy functional.
    """

    kind = "lcao-gcn"
    offsets: Tensor
    first: Tensor
    count: Tensor
    second: Tensor

    def __init__(self, variant: str, width: int = 64, layers: int = 3) -> None:
        if variant not in VARIANTS:
            raise VibronicError(f"the study has no network '{variant}'; it compares {', '.join(VARIANTS)}")
        super().__init__({"variant": variant, "width": width, "layers": layers}, BOND)
        self.what = what = VARIANTS[variant]
        self.basis = BasisSet.from_name(what.basis, [atomic_numbers[e] for e in ELEMENTS]) if what.basis else None
        first, count, second, exponents = torch.zeros(10).long(), torch.zeros(10).long(), list[bool](), list[float]()
        for symbol in ELEMENTS:
            z = atomic_numbers[symbol]
            shells = what.hydrogen if symbol == "H" else what.others
            first[z], count[z] = len(second), self.basis.count(z) if self.basis else max(1, sum(shells))
            second += [False] * (int(count[z]) - shells[1]) + [True] * shells[1]
            # Functions that start alike would stay nearly alike for as few steps as these: an even-tempered start.
            exponents += [e for n in shells for e in (torch.logspace(-0.5, 0.5, n).tolist() if n > 1 else [1.0] * n)]
        self.register_buffer("first", first)
        self.register_buffer("count", count)
        self.register_buffer("second", torch.tensor(second))
        self.register_buffer("offsets", sphere(0.75, 0.3) if what.points == "field" else torch.zeros(1, 3))
        self.coefficient = nn.Parameter(torch.randn(len(second), width))
        self.log_zeta = nn.Parameter(torch.tensor(exponents).log()) if exponents else None
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.energy = nn.Linear(width, 1)

    def _sum(self, batch: Batch) -> Tensor:
        layers = cast(list[nn.Linear], self.layers)
        if self.what.graph:
            x = self.coefficient[self.first[batch.numbers]]
            for layer in layers:
                x = (graph_convolution(x, layer.weight, batch) + layer.bias).relu()
        else:
            x = torch.cat(list(self._psi(batch)))
            for layer in layers:
                x = layer(x).relu_()
        per_atom = x.view(-1, len(self.offsets), x.shape[1]).mean(1)
        return self.energy(scatter_sum(per_atom, batch.index, batch.n_structures)).squeeze(1)

    def _psi(self, batch: Batch) -> Iterator[Tensor]:
        """Orbitals (points, width) of each molecule; columns of phi and of psi normalised as the authors do.

        Psi is larger than theirs by a constant, so that the first layer meets numbers of the order of 1.
        """
        atoms = batch.n_atoms.tolist()
        for positions, numbers in zip(batch.positions.split(atoms), batch.numbers.split(atoms), strict=True):
            points = (positions[:, None] + self.offsets.to(positions)).view(-1, 3)
            count = self.count[numbers]
            atom = torch.repeat_interleave(count)
            kind = self.first[numbers][atom] + torch.arange(len(atom)) - (count.cumsum(0) - count)[atom]
            if self.basis is not None:
                phi = self.basis.evaluate(points, positions, numbers).T
            else:
                assert self.log_zeta is not None
                d2 = square_distances(positions, points)
                power = torch.where(self.second[kind, None], d2.sqrt()[atom], 1.0)
                phi = power * torch.exp(-self.log_zeta.exp()[kind, None] * d2[atom])
            c = self.coefficient[kind] / phi.norm(dim=1, keepdim=True).clamp(min=1e-12)
            psi = phi.T @ c
            yield psi * ((numbers.sum() * len(self.offsets)).sqrt() / psi.norm(dim=0).clamp(min=1e-12))

    def _distance(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        return mse_loss(predicted, wanted)
