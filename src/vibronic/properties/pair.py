"""The pair potential that a network starts from: most of an interatomic force is pairwise, and least squares finds that
part at once and from a handful of structures. The network learns what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vibronic.core.batch import Batch
from vibronic.core.scatter import scatter_sum
from vibronic.properties.linear import ridge
from vibronic.properties.readout import spread

FIT_ATOMS = 20_000
"""A pair potential has few coefficients: this many atoms, evenly spaced in the training set, fix them."""
CHUNK = 256
"""Structures whose pairs are evaluated at once."""
MOST_ELEMENTS = 8
"""With more elements a pair potential has too many coefficients; then only the reference energies are fitted."""
LEAST_LEFT = 0.01
"""Share of a label's spread that is always left for the network: a fit to few labels flatters itself."""
LEAST_PENALTY = 3e-8
"""Of the curvature. Cross-validation sees the distances of the training set only and would take less; hotter structures
then meet a potential that swings where no distance was."""


class RadialBasis(nn.Module):
    """Bessel functions sin(n pi r / c) / r (arXiv 2003.03123, eq. 7) and a constant, times a polynomial cutoff that
    vanishes with its first two derivatives at ``c``."""

    frequencies: Tensor

    def __init__(self, size: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("frequencies", math.pi * torch.arange(1, size + 1) / cutoff, persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        """Basis (E, size + 1) of distances (E,)."""
        d = distance[:, None]
        x = (d / self.cutoff).clamp(max=1.0)
        envelope = 1 - x**6 * (28 - 48 * x + 21 * x**2)
        waves = math.sqrt(2 / self.cutoff) * torch.sin(self.frequencies.to(d) * d) / d
        return torch.cat([waves * envelope, envelope], dim=1)


class PairPotential(nn.Module):
    """E = sum_i e(Z_i) + 1/2 sum_ij phi_ZiZj(r_ij), each phi linear in the radial basis.

    Args:
        radial: the basis, shared with the network.
        most_elements: with more in the training set there is no pair potential, only the reference energies.

    Attributes:
        reference: (119,) energy of each element, eV; in double precision, as the labels are.
        coefficients: (K, K, basis) eV, of each pair of the K ``elements``; empty where there is no pair potential.
    """

    reference: Tensor
    coefficients: Tensor
    elements: Tensor

    def __init__(self, radial: RadialBasis, most_elements: int = MOST_ELEMENTS) -> None:
        super().__init__()
        self.radial, self.most_elements = radial, most_elements
        self.register_buffer("reference", torch.zeros(119, dtype=torch.float64))
        self.register_buffer("coefficients", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("elements", torch.zeros(0, dtype=torch.long))

    def forward(self, batch: Batch, distance: Tensor) -> Tensor:
        """(E,) share of each edge in the energy, eV, from its length (E,), Angstrom.

        In double precision where the device has it: large terms of both signs add up to a smooth potential.
        """
        if not len(self.coefficients):
            return distance.new_zeros(len(distance))
        a, b = torch.searchsorted(self.elements, batch.numbers)[batch.edge_index]
        basis = batch.weigh(self.radial(distance.to(self.coefficients)))
        return 0.5 * (basis * self.coefficients[a, b]).sum(-1)

    def fit(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """Fit to the labels ``names`` (of energy, forces, stress) of the training set.

        Energies alone, one number per structure, do not determine a pair potential: then, too, only the reference
        energies are fitted.

        Returns:
            Root-mean-square error of each label in a row that was left out of the fit (energies per atom): what is left
            for the network to learn.
        """
        self.elements = torch.unique(batch.numbers)
        batch = batch.to(dtype=torch.float64)
        if len(self.elements) > self.most_elements or set(names) == {"energy"}:
            self._reference(batch, torch.zeros_like(batch.labels["energy"]))
            return {n: spread(self._left(batch, n), 0.0) for n in names}
        few = batch.select(evenly(batch.n_atoms, FIT_ATOMS))
        columns, labels = self._columns(few, names), {n: self._left(few, n) for n in names}
        # Every label counts alike, however many numbers it has.
        weight = {n: 1 / y.norm().clamp(min=1e-12) for n, y in labels.items()}
        smooth = self._smooth(float(few.edge_vectors().norm(dim=-1).min()))
        x = torch.cat([columns[n] * weight[n] for n in names]).unflatten(1, (-1, len(smooth))) @ smooth
        fitted, error, *_ = ridge(x.flatten(1), torch.cat([labels[n] * weight[n] for n in names]), least=LEAST_PENALTY)
        k = len(self.elements)
        first, second = torch.triu_indices(k, k)
        table = fitted.view(len(first), -1) @ smooth.T
        self.coefficients = self.coefficients.new_zeros(k, k, table.shape[1])
        self.coefficients[first, second] = self.coefficients[second, first] = table.to(self.coefficients)
        parts = [batch.select(some) for some in torch.arange(batch.n_structures).split(CHUNK)]  # bounds the memory
        edges = [self(part, part.edge_vectors().norm(dim=-1)) for part in parts]
        pairs = [scatter_sum(e, p.edge_structure, p.n_structures) for e, p in zip(edges, parts, strict=True)]
        self._reference(batch, torch.cat(pairs))
        errors = error.split([len(labels[n]) for n in names])
        return {
            n: torch.maximum(spread(e / weight[n], 0.0), LEAST_LEFT * spread(labels[n], 0.0))
            for n, e in zip(names, errors, strict=True)
        }

    def _smooth(self, shortest: float) -> Tensor:
        """(basis, basis) change of coefficients after which a ridge penalises the curvature of phi.

        Where the training set has no distances nothing else holds phi, and it is asked for them later: a curvature
        penalty goes on smoothly there, one on the coefficients oscillates.
        """
        r = torch.linspace(0.7 * shortest, self.radial.cutoff, 200, dtype=torch.float64)
        curvature = self.radial(r).diff(n=2, dim=0) / (r[1] - r[0]) ** 2
        gram = curvature.T @ curvature
        gram += 1e-9 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
        return torch.linalg.inv(torch.linalg.cholesky(gram)).T

    def _composition(self, batch: Batch) -> Tensor:
        """(B, elements) share of each element in each structure."""
        one = nn.functional.one_hot(torch.searchsorted(self.elements, batch.numbers), len(self.elements))
        return scatter_sum(one.double(), batch.index, batch.n_structures) / batch.n_atoms[:, None]

    def _reference(self, batch: Batch, pairs: Tensor) -> None:
        """Energies of the elements, from what the pairs leave of the energies (B,)."""
        rest = (batch.labels["energy"] - pairs) / batch.n_atoms
        self.reference[self.elements] = (torch.linalg.pinv(self._composition(batch)) @ rest).to(self.reference)

    def _left(self, batch: Batch, name: str) -> Tensor:
        """The labels as one column, energies per atom and without what any reference energies can explain: these are
        not penalised, hence projected out of the fit and found last."""
        if name != "energy":
            return batch.labels[name].flatten()
        return self._outside(batch, (batch.labels["energy"] / batch.n_atoms)[:, None]).squeeze(1)

    def _outside(self, batch: Batch, values: Tensor) -> Tensor:
        composition = self._composition(batch)
        return values - composition @ (torch.linalg.pinv(composition) @ values)

    def _columns(self, batch: Batch, names: Sequence[str]) -> dict[str, Tensor]:
        """Derivative of every label with respect to every coefficient, (values, pairs * basis)."""
        i, j = batch.edge_index
        k, species = len(self.elements), torch.searchsorted(self.elements, batch.numbers)
        a, b = torch.minimum(species[i], species[j]), torch.maximum(species[i], species[j])
        pair, pairs = a * k - a * (a - 1) // 2 + b - a, k * (k + 1) // 2
        vectors = batch.edge_vectors()
        distance = vectors.norm(dim=-1).requires_grad_()
        basis = self.radial(distance)
        slopes = [torch.autograd.grad(f.sum(), distance, retain_graph=True)[0] for f in basis.unbind(1)]
        unit = vectors / distance.detach()[:, None]
        basis, slope, m = basis.detach(), torch.stack(slopes, dim=1), basis.shape[1]

        def collect(values: Tensor, owner: Tensor, owners: int) -> Tensor:
            return scatter_sum(values, owner * pairs + pair, owners * pairs).view(owners, pairs * m)

        size, atoms = batch.n_structures, len(batch.numbers)
        energy = collect(0.5 * basis, batch.edge_structure, size) / batch.n_atoms[:, None]
        columns = {"energy": self._outside(batch, energy)}
        if "forces" in names:  # an edge and its reverse both pull, hence no factor 1/2
            pulls = [collect(slope * unit[:, [x]], i, atoms) for x in range(3)]
            columns["forces"] = torch.stack(pulls, dim=1).flatten(0, 1)
        if "stress" in names:
            virial = [
                collect(0.5 * slope * unit[:, [x]] * vectors[:, [y]], batch.edge_structure, size)
                for x in range(3)
                for y in range(3)
            ]
            columns["stress"] = (torch.stack(virial, dim=1) / batch.volume()[:, None, None]).flatten(0, 1)
        return columns


def evenly(sizes: Tensor, most: int) -> Tensor:
    """Indices of structures, evenly spaced, that have about ``most`` atoms together; all of them if they have fewer."""
    keep = max(1, min(len(sizes), round(len(sizes) * most / int(sizes.sum()))))
    return torch.linspace(0, len(sizes) - 1, keep).round().long()
