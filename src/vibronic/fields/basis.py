"""Basis functions of electrons: real solid harmonics and contracted Gaussian shells by the name of their set.

Everything follows the order and the normalisation of PySCF's spherical functions, so that its orbitals, density matrices
and fitting coefficients can be used as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from ase.data import chemical_symbols
from ase.units import Bohr
from torch import Tensor

from vibronic.core.errors import VibronicError


def solid_harmonics(vectors: Tensor, lmax: int) -> list[Tensor]:
    """Real regular solid harmonics ``r^l Y_lm``, orthonormal on the unit sphere, without the Condon-Shortley phase.

    They are polynomials in x, y and z, so that they and their derivatives are finite everywhere, at the origin too
    (Helgaker, Jorgensen, Olsen, *Molecular Electronic-Structure Theory*, section 6.4).

    Args:
        vectors: (..., 3).
        lmax: largest angular momentum.

    Returns:
        For each l from 0 to lmax a tensor (..., 2l + 1) in PySCF's order: x, y, z for l = 1, else m = -l ... l.
    """
    x, y, z = vectors.unbind(-1)
    r2 = (vectors * vectors).sum(-1)
    cosine, sine = [torch.ones_like(x)], [torch.zeros_like(x)]  # r^m sin^m(theta) cos(m phi), and with sin(m phi)
    for _ in range(lmax):
        c, s = cosine[-1], sine[-1]
        cosine.append(x * c - y * s)
        sine.append(x * s + y * c)
    # Associated Legendre polynomials over sin^m(theta), times r^(l - m); upwards in l at fixed m.
    legendre: dict[tuple[int, int], Tensor] = {}
    for m in range(lmax + 1):
        legendre[m, m] = torch.full_like(x, math.prod(range(1, 2 * m, 2)))
        for degree in range(m + 1, lmax + 1):
            above = (2 * degree - 1) * z * legendre[degree - 1, m]
            if degree > m + 1:
                above = above - (degree + m - 1) * r2 * legendre[degree - 2, m]
            legendre[degree, m] = above / (degree - m)
    out = []
    for degree in range(lmax + 1):
        rows = {}
        for m in range(degree + 1):
            ratio = math.factorial(degree - m) / math.factorial(degree + m)
            scale = math.sqrt((2 * degree + 1) / (4 * math.pi) * ratio * (2 if m else 1))
            rows[m] = scale * legendre[degree, m] * cosine[m]
            if m:
                rows[-m] = scale * legendre[degree, m] * sine[m]
        order = (1, -1, 0) if degree == 1 else range(-degree, degree + 1)
        out.append(torch.stack([rows[m] for m in order], dim=-1))
    return out


@dataclass(frozen=True)
class Shell:
    """One contracted shell, ``sum_p c_p exp(-a_p r^2) r^l Y_lm``: 2l + 1 functions with unit square integral.

    Attributes:
        momentum: angular momentum l.
        exponents: (n,) Angstrom^-2.
        coefficients: (n,) such that the shell is normalised; values are then in Angstrom^(-3/2).
    """

    momentum: int
    exponents: Tensor
    coefficients: Tensor

    @classmethod
    def contracted(cls, momentum: int, exponents: Iterable[float], coefficients: Iterable[float]) -> Shell:
        """From what basis-set libraries print: exponents in Bohr^-2, coefficients of normalised primitives."""
        a = torch.tensor([float(e) for e in exponents], dtype=torch.float64) / Bohr**2
        c = torch.tensor([float(v) for v in coefficients], dtype=torch.float64) * _overlap(momentum, 2 * a).rsqrt()
        norm = c @ _overlap(momentum, a[:, None] + a) @ c
        return cls(momentum, a, c * norm.rsqrt())


def _overlap(momentum: int, exponent: Tensor) -> Tensor:
    """``int_0^inf r^(2l + 2) exp(-a r^2) dr`` for angular momentum l."""
    power = momentum + 1.5
    return 0.5 * math.gamma(power) * exponent**-power


@dataclass(frozen=True)
class BasisSet:
    """Contracted Gaussian shells of some elements.

    Attributes:
        name: of the set, as basis-set libraries spell it.
        shells: by atomic number, in PySCF's order (ascending l).
    """

    name: str
    shells: dict[int, tuple[Shell, ...]]

    @classmethod
    def from_name(cls, name: str, elements: Iterable[int]) -> BasisSet:
        """The set ``name`` of the Basis Set Exchange for these atomic numbers.

        Raises:
            VibronicError: the library is not installed, or knows no such set or not for all of the elements.
        """
        try:
            import basis_set_exchange as library
        except ImportError as error:
            raise VibronicError(
                "basis sets by name need the package basis-set-exchange: pip install 'vibronic[molecules]'"
            ) from error
        wanted = sorted({int(z) for z in elements})
        if library.misc.transform_basis_name(name) not in library.get_metadata():
            raise VibronicError(f"the Basis Set Exchange has no basis set '{name}'; 6-31G* and def2-SVP are two it has")
        try:
            found = library.get_basis(name, elements=wanted)["elements"]
        except KeyError as error:
            missing = [chemical_symbols[z] for z in wanted if str(z) not in library.get_basis(name)["elements"]]
            raise VibronicError(f"the basis set {name} has no functions for {', '.join(missing)}") from error
        return cls(name, {z: _shells(found[str(z)]["electron_shells"]) for z in wanted})

    def count(self, number: int) -> int:
        """Functions on one atom of this atomic number."""
        return sum(2 * shell.momentum + 1 for shell in self._of(number))

    def evaluate(self, points: Tensor, positions: Tensor, numbers: Tensor) -> Tensor:
        """Values of all functions of a molecule, differentiable in points and positions.

        Args:
            points: (P, 3) Angstrom.
            positions: (N, 3) Angstrom.
            numbers: (N,) atomic numbers.

        Returns:
            (P, functions) Angstrom^(-3/2), atom by atom, in PySCF's order.

        Raises:
            VibronicError: the set was read without one of the elements.
        """
        columns: list[Tensor] = [points.new_zeros(0)] * len(numbers)
        for z in numbers.unique().tolist():
            shells, atoms = self._of(z), torch.nonzero(numbers == z).flatten()
            vectors = points[:, None] - positions[atoms]
            d2 = (vectors * vectors).sum(-1, keepdim=True)
            angular = solid_harmonics(vectors, max(shell.momentum for shell in shells))
            parts = []
            for shell in shells:
                radial = torch.exp(-d2 * shell.exponents.to(points)) @ shell.coefficients.to(points)
                parts.append(radial[..., None] * angular[shell.momentum])
            for atom, block in zip(atoms.tolist(), torch.cat(parts, dim=-1).unbind(1), strict=True):
                columns[atom] = block
        return torch.cat(columns, dim=1)

    def _of(self, number: int) -> tuple[Shell, ...]:
        if number not in self.shells:
            known = ", ".join(chemical_symbols[z] for z in self.shells)
            raise VibronicError(f"the basis set {self.name} was read for {known}, not for {chemical_symbols[number]}")
        return self.shells[number]


def _shells(described: list[dict]) -> tuple[Shell, ...]:
    """Shells of one element: shared exponents (sp shells, general contractions) become shells of their own."""
    shells = []
    for entry in described:
        momenta = entry["angular_momentum"]
        rows = [
            {a: c for a, c in zip(entry["exponents"], row, strict=True) if float(c)} for row in entry["coefficients"]
        ]
        if len(momenta) == 1:
            # A primitive that is a function of its own is left out of the contractions, as in PySCF's tables of the
            # correlation-consistent sets: other functions, the same space.
            free = {a for row in rows if len(row) == 1 for a in row}
            rows = [{a: c for a, c in row.items() if len(row) == 1 or a not in free} for row in rows]
            momenta = momenta * len(rows)
        shells += [Shell.contracted(m, row.keys(), row.values()) for m, row in zip(momenta, rows, strict=True)]
    return tuple(sorted(shells, key=lambda shell: shell.momentum))
