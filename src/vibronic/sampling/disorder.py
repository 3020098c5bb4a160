"""Chemical disorder, defects and strain: transformations of a structure ahead of any sampler."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from vibronic.core.errors import VibronicError


def substitute(atoms: Atoms, species: str, by: str, fraction: float, seed: int) -> Atoms:
    """Replace a random share of one sublattice, for solid solutions such as Ag3SBr(1-x)I(x).

    The number of replaced atoms is rounded to the nearest integer; ``info["composition"]`` tells the exact share,
    ``info["parent"]`` the formula before the substitution.

    Raises:
        VibronicError: the fraction is not in [0, 1], ``by`` is no element, or ``species`` is not in the structure.
    """
    if not 0 <= fraction <= 1:
        raise VibronicError(f"the substituted fraction must lie between 0 and 1, not {fraction}")
    if by not in atomic_numbers or by == "X":
        raise VibronicError(f"'{by}' is not a chemical element; write its symbol, such as I or Se")
    sites = _sites(atoms, species)
    count = int(np.floor(fraction * len(sites) + 0.5))
    chosen = np.random.default_rng(seed).permutation(sites)[:count]
    changed = _copy(atoms)
    changed.numbers[chosen] = atomic_numbers[by]
    if atoms.has("masses"):
        masses = changed.get_masses()
        masses[chosen] = Atoms(by).get_masses()[0]
        changed.set_masses(masses)
    changed.info["composition"] = f"{count} of {len(sites)} {species} replaced by {by} ({count / len(sites):.4f})"
    return changed


def vacancies(atoms: Atoms, species: str, n: int, seed: int) -> Atoms:
    """Remove ``n`` random atoms of one species.

    Raises:
        VibronicError: there are not that many, or nothing would be left.
    """
    sites = _sites(atoms, species)
    if not 0 <= n <= len(sites):
        raise VibronicError(f"cannot remove {n} of {len(sites)} {species} atoms")
    if n == len(atoms):
        raise VibronicError("removing every atom leaves no structure; ask for fewer vacancies")
    changed = _copy(atoms)
    del changed[np.random.default_rng(seed).permutation(sites)[:n].tolist()]
    changed.info["composition"] = f"{n} of {len(sites)} {species} removed"
    return changed


def strain(atoms: Atoms, strain: float | np.ndarray) -> Atoms:
    """Deform the lattice and the atoms with it: ``cell @ (1 + strain)``.

    Args:
        atoms: a crystal.
        strain: dimensionless; a number stretches all directions alike, a (3, 3) matrix is symmetrised (its
            antisymmetric part is a rotation).

    Raises:
        VibronicError: a matrix of another shape, a lattice that collapses, or no lattice at all.
    """
    matrix = np.eye(3) * strain if np.ndim(strain) == 0 else np.asarray(strain, dtype=float)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise VibronicError("the strain must be one number or a 3 x 3 matrix, such as 0.01 for 1 % in every direction")
    deformation = np.eye(3) + (matrix + matrix.T) / 2
    if np.linalg.eigvalsh(deformation).min() <= 0:
        raise VibronicError("this strain collapses the lattice; strains are fractions, 0.01 is 1 %")
    if atoms.cell.rank < 3:
        raise VibronicError("only a crystal can be strained; this structure has no lattice")
    changed = _copy(atoms)
    changed.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    return changed


def _sites(atoms: Atoms, species: str) -> np.ndarray:
    sites = np.flatnonzero(np.array(atoms.get_chemical_symbols()) == species)
    if len(sites) == 0:
        raise VibronicError(
            f"{atoms.symbols} contains no {species}; its species are {', '.join(sorted(set(atoms.symbols)))}"
        )
    return sites


def _copy(atoms: Atoms) -> Atoms:
    changed = atoms.copy()
    changed.info.setdefault("parent", atoms.get_chemical_formula(empirical=True))
    return changed
