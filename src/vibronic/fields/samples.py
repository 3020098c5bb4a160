"""From a density matrix to what a density is learned from: points in space with the density there."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr

from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS
from vibronic.fields.atoms import promolecule
from vibronic.fields.quadrature import Grid, molecular_grid

PER_ATOM = 320
"""Points kept per atom: enough for their fit to be as good as that on the whole grid."""

SAMPLES = TARGETS["density_samples"]
"""Per atom and point: vector from the atom (Angstrom), weight (Angstrom^3), density minus free atoms, density (e/Angstrom^3)."""

FLOOR = 0.3
"""e/Angstrom^3, about the density between bonded atoms' surfaces: below it errors count as they are, above it less."""

_POWER = 0.7
_CHUNK = 4_000


def density_of_matrix(atoms: Atoms, points: np.ndarray, basis: str = "6-31G*") -> np.ndarray:
    """(P,) density, e/Angstrom^3, at ``points`` (P, 3) from ``info["density_matrix"]`` (packed, PySCF's order).

    Raises:
        VibronicError: PySCF is not installed, the structure has no density matrix, or one of another basis.
    """
    mol = molecule_in_basis(atoms, basis)
    matrix = unpacked(atoms, mol.nao, basis)
    density = np.empty(len(points))
    for k in range(0, len(points), _CHUNK):
        values = mol.eval_gto("GTOval_sph", points[k : k + _CHUNK] / Bohr)
        density[k : k + _CHUNK] = np.einsum("pi,pi->p", values @ matrix, values)
    return density / Bohr**3


def molecule_in_basis(atoms: Atoms, basis: str) -> Any:
    """PySCF's molecule of a neutral closed-shell structure.

    Raises:
        VibronicError: PySCF is not installed.
    """
    try:
        from pyscf import gto
    except ImportError as error:
        raise VibronicError("density matrices need PySCF: pip install 'vibronic[molecules]'") from error
    geometry = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist()))
    return gto.M(atom=geometry, basis=basis, unit="Angstrom", verbose=0)


def unpacked(atoms: Atoms, size: int, basis: str) -> np.ndarray:
    """(size, size) density matrix of both spins from its lower triangle in ``info["density_matrix"]``.

    Raises:
        VibronicError: there is none, or it belongs to another basis.
    """
    packed = atoms.info.get("density_matrix")
    if packed is None:
        raise VibronicError(
            f"{atoms.get_chemical_formula()} has no 'density_matrix'; label it with "
            "'vibronic label --engine pyscf --properties energy dipole density_matrix'"
        )
    packed = np.asarray(packed, dtype=float).ravel()
    if not np.isfinite(packed).all():
        raise VibronicError(f"the density matrix of {atoms.get_chemical_formula()} has entries that are not finite")
    if len(packed) != size * (size + 1) // 2:
        raise VibronicError(
            f"the density matrix of {atoms.get_chemical_formula()} has {len(packed)} entries, but {basis} has {size} "
            "functions there; give the basis it was computed in (--model.basis to train, --settings.basis to compare)"
        )
    matrix = np.zeros((size, size))
    matrix[np.tril_indices(size)] = packed
    return matrix + np.tril(matrix, -1).T


def with_samples(atoms: Atoms, basis: str = "6-31G*", level: int = 1) -> Atoms:
    """A copy with ``density_samples`` in its arrays and the dipole (e Angstrom) of the density in its ``info``.

    The points are drawn from the grid of every atom in proportion to weight times density^0.7, evenly along the grid
    (systematic sampling: no chance but in its order), so that few points stand for cores, bonds and tails alike.

    Raises:
        VibronicError: as :func:`density_of_matrix`, or the density does not integrate to the electrons.
    """
    grid = molecular_grid(atoms, level)
    density = density_of_matrix(atoms, grid.points, basis)
    count, electrons = float(grid.weights @ density), int(atoms.numbers.sum())
    if not abs(count - electrons) <= 1e-2 * electrons:  # not a number is neither
        raise VibronicError(
            f"the density matrix of {atoms.get_chemical_formula()} holds {count:.2f} electrons, not {electrons}: it is of "
            "a charged molecule, another geometry, or another order of atoms or functions"
        )
    out = atoms.copy()
    out.calc = None
    out.info["dipole"] = _dipole(atoms, basis)
    difference = density - promolecule(atoms, grid.points)
    out.arrays["density_samples"] = _drawn(atoms, grid, density, difference)
    return out


def _dipole(atoms: Atoms, basis: str) -> np.ndarray:
    """(3,) dipole, e Angstrom: the grid's error in the count of electrons would be multiplied by distances."""
    mol = molecule_in_basis(atoms, basis)
    matrix = unpacked(atoms, mol.nao, basis)
    return atoms.numbers @ atoms.positions - Bohr * np.einsum("xij,ij->x", mol.intor("int1e_r"), matrix)


def _drawn(atoms: Atoms, grid: Grid, density: np.ndarray, difference: np.ndarray) -> np.ndarray:
    """(N, PER_ATOM, 6) points as :data:`SAMPLES` lists them."""
    samples = np.empty((len(atoms), PER_ATOM, 6))
    share = grid.weights * np.abs(density) ** _POWER
    for a in range(len(atoms)):
        own = np.flatnonzero(grid.owner == a)
        # A fixed stride through the shells, spread so that neighbouring shells do not repeat the same directions.
        total = np.cumsum(share[own])
        offset = np.random.default_rng(a).uniform()
        chosen = own[np.searchsorted(total, (np.arange(PER_ATOM) + offset) / PER_ATOM * total[-1])]
        samples[a, :, :3] = grid.points[chosen] - atoms.positions[a]
        samples[a, :, 3] = total[-1] / PER_ATOM / np.abs(density[chosen]) ** _POWER
        samples[a, :, 4] = difference[chosen]
        samples[a, :, 5] = density[chosen]
    return samples
