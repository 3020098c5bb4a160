"""A density as Gaussians on the nuclei: free atoms plus a deformation, evaluated anywhere.

    rho(r) = sum_A rho_free_A(|r - R_A|) + sum_A sum_klm c_A,klm S_lm(r - R_A) exp(-a_k |r - R_A|^2)

with S_lm the solid harmonics of :mod:`vibronic.fields.basis` and a_k = START * 2^k, so that each exponential is the square
of the one before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.units import Bohr
from torch import Tensor

from vibronic.fields.atoms import REACH as FREE_REACH
from vibronic.fields.atoms import free_density, free_derivative, neighbourhoods, promolecule
from vibronic.fields.basis import solid_harmonics

START = 0.2 / Bohr**2
"""Smallest exponent, Angstrom^-2."""
LMAX = 4
SIZE = (LMAX + 1) ** 2
SHELLS = 10
"""Exponents START * 2^k, k < SHELLS."""
RANGES = {True: ((0, 6), (0, 5), (0, 4), (1, 3), (0, 0)), False: ((0, 10), (0, 8), (0, 7), (1, 5), (1, 4))}
"""First and last-plus-one k of each l, for hydrogen and helium (True) and all others. Chosen for what the best fit to DFT
densities of QM9 leaves: 0.2 % of the electrons. Products of p and tight s functions need the large exponents."""

REACH = 6.0
"""Angstrom from a nucleus beyond which nothing of its deformation is left (1e-10 of its largest value)."""


def exponents(like: Tensor) -> Tensor:
    """(SHELLS,) Angstrom^-2."""
    return START * 2.0 ** torch.arange(SHELLS, dtype=like.dtype, device=like.device)


def deformation(vectors: Tensor, coefficients: Tensor) -> Tensor:
    """(P,) sum over nuclei, e/Angstrom^3.

    Args:
        vectors: (N, P, 3) from each nucleus to each point, Angstrom.
        coefficients: (N, SHELLS, SIZE).
    """
    powers = [torch.exp(-START * (vectors * vectors).sum(-1))]
    for _ in range(1, SHELLS):
        powers.append(powers[-1] * powers[-1])
    radial = torch.stack(powers, dim=-1) @ coefficients
    return (radial * torch.cat(solid_harmonics(vectors, LMAX), dim=-1)).sum((0, 2))


def moments(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Electrons (N,) and first moments (N, 3) about its nucleus, in e and e Angstrom, of each atom's deformation."""
    a = exponents(coefficients)
    charge = (coefficients[:, :, 0] * (math.pi / a) ** 1.5).sum(1) / math.sqrt(4 * math.pi)
    # int x^2 exp(-a r^2) = (pi / a)^1.5 / (2 a), with S_1 = sqrt(3 / 4 pi) (x, y, z)
    first = torch.einsum("nkm,k->nm", coefficients[:, :, 1:4], (math.pi / a) ** 1.5 / (2 * a))
    return charge, math.sqrt(3 / (4 * math.pi)) * first


@dataclass(frozen=True)
class GaussianDensity:
    """The density of a molecule.

    Attributes:
        atoms: the molecule.
        coefficients: (N, SHELLS, SIZE) of the deformation, double precision.
    """

    atoms: Atoms
    coefficients: Tensor

    def at(self, points: np.ndarray) -> np.ndarray:
        """(P,) density, e/Angstrom^3, at ``points`` (P, 3), Angstrom."""
        return promolecule(self.atoms, points) + self.deformation_at(points)

    def deformation_at(self, points: np.ndarray) -> np.ndarray:
        """(P,) density minus free atoms, e/Angstrom^3; memory grows with the atoms near a few thousand points only."""
        out = np.zeros(len(points))
        positions = torch.as_tensor(self.atoms.positions)
        for part, near in neighbourhoods(points, self.atoms.positions, REACH):
            here = torch.as_tensor(np.ascontiguousarray(points[part]))
            for group in torch.as_tensor(near).split(32):
                out[part] += deformation(here - positions[group, None], self.coefficients[group]).numpy()
        return out

    def with_gradient(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P,) density, e/Angstrom^3, and its (P, 3) gradient, e/Angstrom^4."""
        value, slope = np.zeros(len(points)), np.zeros((len(points), 3))
        positions = torch.as_tensor(self.atoms.positions)
        for part, near in neighbourhoods(points, self.atoms.positions, REACH):
            here = torch.as_tensor(np.ascontiguousarray(points[part])).requires_grad_()
            for group in torch.as_tensor(near).split(32):
                found = deformation(here - positions[group, None], self.coefficients[group])
                value[part] += found.detach().numpy()
                slope[part] += torch.autograd.grad(found.sum(), here)[0].numpy()
        for part, near in neighbourhoods(points, self.atoms.positions, FREE_REACH):
            for a in near:
                number, vectors = int(self.atoms.numbers[a]), points[part] - self.atoms.positions[a]
                distance = np.linalg.norm(vectors, axis=1)
                value[part] += free_density(number, distance)
                slope[part] += (free_derivative(number, distance) / np.maximum(distance, 1e-12))[:, None] * vectors
        return value, slope

    @property
    def dipole(self) -> np.ndarray:
        """(3,) dipole moment, e Angstrom, in closed form."""
        charge, first = moments(self.coefficients)
        return -(charge.numpy() @ self.atoms.positions + first.sum(0).numpy())
