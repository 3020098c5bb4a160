"""The supervised electron density: free atoms plus a deformation whose coefficients are predicted from the neighbourhoods.

Every nucleus sees its neighbours as fields on a sphere (:mod:`vibronic.fields.sphere`); channels of momentum l give the
coefficients of the Gaussians of momentum l, so that the density turns with the molecule. Charge moves between atoms in
pairs, what one gains the other loses: the electrons are counted exactly, and far fragments do not know of one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_sum
from vibronic.core.targets import TARGETS, Target
from vibronic.fields.expansion import LMAX, SHELLS, GaussianDensity, deformation, exponents, moments
from vibronic.fields.quadrature import nmae
from vibronic.fields.samples import FLOOR, SAMPLES, density_of_matrix, with_samples
from vibronic.fields.sphere import Layer, harmonics

ELEMENTS = 37
"""Atomic numbers below this have a free atom."""
_MOMENTUM = torch.repeat_interleave(torch.arange(LMAX + 1), 2 * torch.arange(LMAX + 1) + 1)


class FieldDensity(Model):
    """Electron density of neutral closed-shell molecules; predicts their dipole, too.

    Args:
        targets: only the dipole, which the density has; the density itself comes from :meth:`density_of`.
        units: not used.
        channels: of the fields.
        layers: of message passing.
        radial: Gaussians that a distance is expanded in.
        cutoff: Angstrom.
        points: of each atom that one step of training looks at.
        basis: of the density matrices that it learns from.
    """

    kind: ClassVar[str] = "qdf-density"
    recipe: ClassVar[dict[str, Any]] = {"epochs": 120, "batch_size": 4, "learning_rate": 4e-3, "validate_every": 10}
    predicts: ClassVar[tuple[str, ...]] = ("dipole",)
    to_coefficients: Tensor
    mean: Tensor
    monopole: Tensor
    centre: Tensor

    def __init__(
        self,
        targets: Sequence[str] = ("dipole",),
        units: dict[str, str] | None = None,
        channels: int = 64,
        layers: int = 3,
        radial: int = 16,
        cutoff: float = 4.0,
        points: int = 64,
        basis: str = "6-31G*",
    ) -> None:
        config = {"channels": channels, "layers": layers, "radial": radial, "cutoff": cutoff, "points": points}
        super().__init__({**config, "basis": basis}, [TARGETS["dipole"]], cutoff)
        if list(targets) != ["dipole"]:
            raise VibronicError("the model 'qdf-density' learns densities; leave --targets out")
        self.points, self.basis = points, basis
        self.register_buffer("centre", torch.linspace(0.5, cutoff, radial), persistent=False)
        self.embedding = nn.Embedding(ELEMENTS, channels)
        self.layers = nn.ModuleList(Layer(channels, radial, LMAX, first=k == 0) for k in range(layers))
        self.gate = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels * (LMAX + 1)))
        self.readout = nn.Parameter(torch.randn(ELEMENTS, LMAX + 1, SHELLS, channels) * 0.3 / math.sqrt(channels))
        self.flow = nn.Sequential(nn.Linear(2 * channels + radial, 64), nn.SiLU(), nn.Linear(64, 1, bias=False))
        # Per element and l, from standard outputs to coefficients; identity until the training set is seen.
        self.register_buffer("to_coefficients", torch.zeros(ELEMENTS, LMAX + 1, SHELLS, SHELLS))
        self.register_buffer("mean", torch.zeros(ELEMENTS, SHELLS))
        self.register_buffer("monopole", torch.zeros(ELEMENTS, SHELLS))

    @property
    def labels(self) -> list[Target]:
        """What training needs of every structure: the dipole, to be scored, and samples of the density."""
        return [*self.targets, SAMPLES]

    def labelled(self, atoms: Atoms) -> Atoms:
        """A molecule with a ``density_matrix`` as one with the labels that the loss needs.

        Raises:
            VibronicError: it has none, or is none that :meth:`density_of` takes.
        """
        return with_samples(checked(atoms), self.basis)

    def own_scores(self, structures: Sequence[Atoms]) -> tuple[dict[str, float], dict[str, str]]:
        """``nmae_density``: the mean of int |rho - rho_DFT| over all space, in percent of the electrons."""
        errors = []
        for atoms in structures:
            reference = partial(density_of_matrix, atoms, basis=self.basis)
            errors.append(nmae(self.density_of(atoms).at, reference, atoms))
        return {"nmae_density": float(np.mean(errors))}, {"nmae_density": "%"}

    def prepare(self, batch: Batch) -> None:
        """Fit the density of some molecules without a network, to learn how coefficients vary by element and l."""
        from vibronic.fields.scales import scales

        super().prepare(batch)
        self.to_coefficients, self.mean, self.monopole = (x.to(self.mean) for x in scales(batch, ELEMENTS))

    def coefficients(self, batch: Batch) -> Tensor:
        """(N, SHELLS, SIZE) of the deformation, e/Angstrom^(3 + l); their electrons sum to zero in every structure."""
        edges = batch.edge_index
        vectors = batch.edge_vectors()
        distance = vectors.norm(dim=1, keepdim=True)
        cut = batch.weigh(_cut(distance / self.cutoff))
        spacing = self.centre[1] - self.centre[0]
        basis = torch.exp(-0.5 * ((distance - self.centre) / spacing) ** 2)
        angular = harmonics(vectors / distance, LMAX)
        invariants, fields = self.embedding(batch.numbers), None
        for layer in self.layers:
            invariants, fields = layer(invariants, fields, edges, basis, angular, cut)
        gate = (1 + self.gate(invariants)).view(len(invariants), -1, LMAX + 1)[..., _MOMENTUM.to(edges.device)]
        # An atom far from all others is a free atom; a bond at half the cutoff is all of one.
        bound = 1 - torch.exp(-10 * scatter_sum(cut, edges[0], len(invariants)))
        outputs = fields * gate
        rows = []
        first = 0
        for degree in range(LMAX + 1):
            block = outputs[:, :, first : first + 2 * degree + 1]
            first += 2 * degree + 1
            standard = self.readout[batch.numbers, degree] @ block
            rows.append(self.to_coefficients[batch.numbers, degree] @ standard)
        found = torch.cat(rows, dim=2)
        found = torch.cat([found[:, :, :1] + self.mean[batch.numbers, :, None], found[:, :, 1:]], dim=2)
        found = found * bound[:, :, None]
        ends = torch.cat([invariants[edges[0]], invariants[edges[1]], basis], dim=1)
        moved = self.flow(ends)[:, 0] * cut[:, 0]
        wanted = scatter_sum(moved, edges[0], len(found)) - scatter_sum(moved, edges[1], len(found))
        excess = moments(found)[0] - wanted
        correction = self.monopole[batch.numbers] * excess[:, None]
        return torch.cat([found[:, :, :1] - correction[:, :, None], found[:, :, 1:]], dim=2)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The dipole (B, 3), e Angstrom."""
        return {"dipole": self._dipole(batch, self.coefficients(batch))}

    def _dipole(self, batch: Batch, coefficients: Tensor) -> Tensor:
        charge, first = moments(coefficients)
        # About the first atom: the charges sum to zero, but single precision would notice an origin that is far away.
        origin = batch.positions[torch.searchsorted(batch.index, torch.arange(batch.n_structures).to(batch.index))]
        place = batch.positions - origin[batch.index]
        return -scatter_sum(charge[:, None] * place + first, batch.index, batch.n_structures)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of the density over the density (which bounds the absolute error), per electron; on some of the
        points of every atom in training, on all in validation. ``nmae`` is in percent of the electrons."""
        coefficients = self.coefficients(batch)
        samples = batch.labels["density_samples"].to(coefficients)
        if self.training:
            chosen = torch.randperm(samples.shape[1])[: self.points].to(samples.device)
            samples = samples[:, chosen] * samples.new_tensor([1, 1, 1, samples.shape[1] / len(chosen), 1, 1])
        squared, absolute = [], []
        for k in range(batch.n_structures):
            own = batch.index == k
            points = (samples[own, :, :3] + batch.positions[own, None]).reshape(-1, 3)
            weight, label, density = (samples[own, :, c].reshape(-1) for c in (3, 4, 5))
            error = deformation(points - batch.positions[own, None], coefficients[own]) - label
            electrons = batch.numbers[own].sum()
            squared.append((weight * error**2 / (density + FLOOR)).sum() / electrons)
            absolute.append((weight * error.abs()).sum() / electrons)
        return {"loss": 1e3 * torch.stack(squared).mean(), "nmae": 100 * torch.stack(absolute).mean()}

    def check_neutral(self, atoms: Atoms) -> None:
        """Refuse what :meth:`density_of` refuses, where only the dipole is asked for."""
        super().check_neutral(atoms)
        checked(atoms)

    def density_of(self, structure: Atoms) -> GaussianDensity:
        """The density of a molecule.

        Raises:
            VibronicError: it is periodic, charged, has unpaired electrons, overlapping atoms or an unseen element.
        """
        self.check_neutral(structure)
        centred = structure.copy()
        centred.positions -= centred.positions.mean(0)  # single precision would notice a molecule that is far away
        batch = Batch.from_atoms(centred, self.cutoff, dtype=self.dtype)
        self.check_elements(batch.numbers)
        with torch.no_grad():
            found = self.coefficients(batch).double()
        # Rounding in single precision would move about 1e-6 electrons; spread that over the atoms.
        charge, _ = moments(found)
        norm = (math.pi / exponents(found)[0]) ** 1.5 / math.sqrt(4 * math.pi)
        found[:, 0, 0] -= charge.sum() / len(found) / norm
        return GaussianDensity(structure, found)


def checked(atoms: Atoms) -> Atoms:
    """The structure, if it is a neutral closed-shell molecule.

    Raises:
        VibronicError: says what it is instead.
    """
    name = atoms.get_chemical_formula()
    if len(atoms) == 0:
        raise VibronicError("the structure has no atoms")
    if atoms.pbc.any():
        raise VibronicError(f"{name} is periodic; densities are of molecules: remove the cell to treat it as one")
    charge, spin = float(atoms.info.get("charge", 0)), float(atoms.info.get("spin", 0))
    if charge:
        raise VibronicError(f"{name} has charge {charge:+g}; the model knows neutral closed-shell molecules only")
    if spin or atoms.numbers.sum() % 2:
        raise VibronicError(f"{name} has unpaired electrons; the model knows neutral closed-shell molecules only")
    return atoms


def _cut(x: Tensor) -> Tensor:
    """One at zero, zero with its first two derivatives at one."""
    x = x.clamp(max=1.0)
    return 1 - x**3 * (10 - 15 * x + 6 * x**2)
