"""Free atoms: spherical densities to start a molecule's from, and to part it between its atoms.

The densities are those of spherically averaged PBE/6-31G* atoms, each a sum of s Gaussians whose coefficients are kept in
``free_atoms.json``. They are off by less than 1e-4 of the electrons of every element there is.
``python -m vibronic.fields.atoms Li Na`` derives those of the elements that are named again with PySCF; models are
trained on top of them, and change with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.units import Bohr

from vibronic.core.errors import VibronicError

START, RATIO = 0.15, 1.35
"""Exponents are START * RATIO^k Bohr^-2, k from a first one upwards (negative where a tail reaches far, as of Li)."""

XC, BASIS = "PBE", "6-31G*"

REACH = 9.0
"""Angstrom from a nucleus beyond which a free atom is taken as zero: less than 1e-5 of its electrons are there."""

_CHUNK = 4_096


@lru_cache(maxsize=1)
def _stored() -> dict[str, dict[str, Any]]:
    """By symbol ``first``, the smallest k, and ``coefficients`` from there on, e/Bohr^3."""
    return json.loads(resources.files("vibronic.fields").joinpath("free_atoms.json").read_text())["atoms"]


def free_atom(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Exponents (K,), Angstrom^-2, and coefficients (K,), e/Angstrom^3, of ``sum_k c_k exp(-a_k r^2)``.

    Raises:
        VibronicError: there is no free atom of this element.
    """
    symbol = chemical_symbols[number]
    if symbol not in _stored():
        raise VibronicError(f"there is no free-atom density of {symbol}; there are {', '.join(_stored())}")
    first, coefficients = _stored()[symbol]["first"], np.array(_stored()[symbol]["coefficients"])
    return START * RATIO ** np.arange(first, first + len(coefficients)) / Bohr**2, coefficients / Bohr**3


def free_density(number: int, distance: np.ndarray) -> np.ndarray:
    """Density, e/Angstrom^3, of one free atom at distances (...), Angstrom.

    It is read from a fine table of its logarithm, which is quicker than the sum and never negative.
    """
    grid, logarithm, _ = _logarithm(number)
    found = np.exp(np.interp(distance, grid, logarithm))
    return np.where(distance > grid[-1], 0.0, found)


def free_derivative(number: int, distance: np.ndarray) -> np.ndarray:
    """Radial derivative, e/Angstrom^4, of the density of one free atom at distances (...), Angstrom."""
    grid, _, slope = _logarithm(number)
    return free_density(number, distance) * np.interp(distance, grid, slope)


@lru_cache(maxsize=128)
def _logarithm(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances, the logarithm of the density there, and the derivative of that logarithm."""
    exponents, coefficients = free_atom(number)
    grid = 12.0 * np.linspace(0, 1, 20_001) ** 2
    gaussians = np.exp(-np.outer(grid**2, exponents))
    values = np.maximum(gaussians @ coefficients, 1e-30)
    return grid, np.log(values), -2 * grid * (gaussians @ (exponents * coefficients)) / values


def neighbourhoods(points: np.ndarray, positions: np.ndarray, reach: float) -> Iterator[tuple[slice, np.ndarray]]:
    """Parts of a list of points, each with the indices of the atoms within ``reach`` of the box round the part.

    Whatever sums over atoms is local, so that neither time per point nor memory grows with the molecule, as long as
    points that follow one another are near one another.
    """
    for k in range(0, len(points), _CHUNK):
        part = slice(k, min(k + _CHUNK, len(points)))
        low, high = points[part].min(0), points[part].max(0)
        outside = np.maximum(low - positions, 0) + np.maximum(positions - high, 0)
        yield part, np.flatnonzero((outside**2).sum(1) < reach**2)


def promolecule(atoms: Atoms, points: np.ndarray) -> np.ndarray:
    """(P,) sum of the free atoms' densities, e/Angstrom^3, at ``points`` (P, 3)."""
    total = np.zeros(len(points))
    for part, near in neighbourhoods(points, atoms.positions, REACH):
        total[part] = free_densities(atoms, near, points[part]).sum(0)
    return total


def free_densities(atoms: Atoms, near: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, P) free density of each of the atoms ``near`` (n,) at ``points`` (P, 3)."""
    out = np.empty((len(near), len(points)))
    for row, a in zip(out, near):
        row[:] = free_density(int(atoms.numbers[a]), np.linalg.norm(points - atoms.positions[a], axis=1))
    return out


def kohn_sham_atom(symbol: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A spherically averaged Kohn-Sham atom by PySCF.

    Returns:
        Radii (R,), Bohr, evenly on a logarithmic scale; the density there (R,), e/Bohr^3; all exponents of the basis.
    """
    from pyscf import gto
    from pyscf.scf import atom_ks
    from scipy.integrate import lebedev_rule

    mol = gto.M(atom=[[symbol, (0, 0, 0)]], basis=BASIS, spin=None, verbose=0)
    _, _, orbitals, occupations = atom_ks.get_atm_nrks(mol, xc=XC, grid=(100, 434))[symbol]
    matrix = (orbitals * occupations) @ orbitals.T
    radius = np.exp(np.linspace(-13, 3.2, 1200))
    directions, weights = lebedev_rule(17)
    values = mol.eval_gto("GTOval_sph", (radius[:, None, None] * directions.T).reshape(-1, 3))
    density = np.einsum("pi,ij,pj->p", values, matrix, values, optimize=True).reshape(len(radius), -1) @ weights
    return radius, density / (4 * np.pi), np.concatenate([mol.bas_exp(shell) for shell in range(mol.nbas)])


def derive(number: int) -> tuple[int, np.ndarray]:
    """The first k, and the coefficients, e/Bohr^3, of the sum of Gaussians closest to the Kohn-Sham atom."""
    radius, density, of_basis = kohn_sham_atom(chemical_symbols[number])
    # The slowest product of two basis functions has twice the smallest exponent; half of that bends with its r^2, too.
    first = min(0, math.floor(math.log(of_basis.min() / START) / math.log(RATIO)))
    exponents = START * RATIO ** np.arange(first, 100)
    exponents = exponents[exponents < 2.6 * of_basis.max()]
    gaussians = np.exp(-np.outer(radius**2, exponents))
    # Weights so that the absolute error counts, in valence and core alike; then the count of electrons is made exact.
    scale = np.sqrt(4 * np.pi * radius**3 / (density + 1e-6))
    found = np.linalg.lstsq(gaussians * scale[:, None], density * scale, rcond=1e-12)[0]
    integrals = (np.pi / exponents) ** 1.5
    return first, found * number / (integrals @ found)


def main() -> None:
    """Derive the elements on the command line and write ``free_atoms.json`` beside this file; all others are kept."""
    import sys
    from pathlib import Path

    atoms = dict(_stored())
    for symbol in sys.argv[1:]:
        first, coefficients = derive(atomic_numbers[symbol])
        atoms[symbol] = {"first": first, "coefficients": [float(f"{c:.12g}") for c in coefficients]}
    text = {"method": f"{XC}/{BASIS}, spherically averaged", "start": START, "ratio": RATIO, "atoms": atoms}
    Path(__file__).with_name("free_atoms.json").write_text(json.dumps(text) + "\n")


if __name__ == "__main__":
    main()
