"""Integrals over all space: spheres of points round every atom, parted between the atoms that are near a point.

Radial points after Treutler and Ahlrichs (J. Chem. Phys. 102, 346, 1995; M4 with unit scale), angular ones after Lebedev,
shares of the atoms after Franchini, Philipsen and Visscher (J. Comput. Chem. 34, 1819, 2013): smooth, and local, so
that time grows with the molecule and no faster. The grid turns with the molecule up to its angular error, because the
spheres do not turn with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.units import Bohr

from vibronic.core.errors import VibronicError
from vibronic.fields.atoms import neighbourhoods

LEVELS = {0: (30, 11), 1: (40, 17), 2: (50, 23), 3: (65, 29), 4: (80, 35), 5: (100, 47)}
"""Radial points and the degree to which the outer spheres are exact; elements below Li have 10 radial points less."""

Field = Callable[[np.ndarray], np.ndarray]
"""From points (P, 3), Angstrom, to values (P,)."""

REACH = 6.0
"""Angstrom by which an atom that shares a point may be farther from it than the nearest one; beyond is 1e-10 of it."""

_CHUNK = 500  # points of neighbouring spheres, so that few atoms are near
_FARTHEST = 12.0  # Angstrom from a nucleus; a density of atoms has fallen to 1e-12 there


@dataclass(frozen=True)
class Grid:
    """Points to integrate on.

    Attributes:
        points: (P, 3) Angstrom.
        weights: (P,) Angstrom^3; the sum of weights times a function is its integral.
        owner: (P,) the atom on whose sphere a point lies, ascending.
    """

    points: np.ndarray
    weights: np.ndarray
    owner: np.ndarray


def molecular_grid(atoms: Atoms, level: int = 2, prune: bool = True) -> Grid:
    """The whole grid of a molecule; about 15 kB per atom and thousand points (see :func:`grid_of_atom` for less).

    Args:
        atoms: a molecule.
        level: 0 (coarse, 1e-3 of the electrons) to 5 (see ``LEVELS``).
        prune: coarser spheres near the nucleus, where the density is nearly round.

    Raises:
        VibronicError: the level does not exist, or the structure is periodic.
    """
    parts = list(grids(atoms, level, prune))
    return Grid(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("points", "weights", "owner")))


def grids(atoms: Atoms, level: int = 2, prune: bool = True) -> Iterator[Grid]:
    """The grid in parts, one atom after another, for molecules whose whole grid would be too large to keep.

    Raises:
        VibronicError: as :func:`molecular_grid`.
    """
    check_level(level)
    if atoms.pbc.any():
        raise VibronicError("integrals over all space are of molecules; the structure is periodic")
    from scipy.spatial import cKDTree

    tree = cKDTree(atoms.positions)
    for a, number in enumerate(atoms.numbers):
        offsets, weights = sphere(int(number), level, prune)
        points = atoms.positions[a] + offsets
        parts = [points[k : k + _CHUNK] for k in range(0, len(points), _CHUNK)]
        share = np.concatenate([shares(atoms, part, a, tree.query(part)[0]) for part in parts])
        kept = share > 1e-12
        yield Grid(points[kept], (weights * share)[kept], np.full(int(kept.sum()), a))


def check_level(level: int) -> None:
    """Refuse a level that does not exist.

    Raises:
        VibronicError: says which do.
    """
    if level not in LEVELS:
        raise VibronicError(f"there is no grid of level {level}; choose {min(LEVELS)} to {max(LEVELS)}")


def nmae(density: Field, reference: Field, atoms: Atoms, level: int = 1) -> float:
    """Integral of |density - reference| over all space, in percent of the electrons of the neutral molecule."""
    total = 0.0
    for grid in grids(atoms, level):
        total += float(grid.weights @ np.abs(density(grid.points) - reference(grid.points)))
    return 100 * total / int(atoms.numbers.sum())


@lru_cache(maxsize=64)
def sphere(number: int, level: int, prune: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (P, 3), Angstrom, and weights (P,), Angstrom^3, of the spheres round one atom alone."""
    shells, degree = LEVELS[level]
    radii, radial = _treutler(shells - 10 * (number < 3))
    size = float(covalent_radii[number])
    offsets, weights = [], []
    for r, w in zip(radii, radial):
        if r > _FARTHEST:
            continue
        # The limits are those of NWChem's pruning, in radii of the atom.
        near = 0.25 if r < 0.25 * size else 0.5 if r < 0.5 * size else 1.0
        directions, angular = lebedev(max(5, round(near * degree)) if prune else degree)
        offsets.append(r * directions)
        weights.append(w * r**2 * angular)
    return np.concatenate(offsets), np.concatenate(weights)


@lru_cache(maxsize=64)
def lebedev(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions (P, 3) and weights (P,), of sum 4 pi, exact for polynomials up to ``degree`` or the next one there is."""
    from scipy.integrate import lebedev_rule

    for rule in range(degree | 1, 132, 2):  # rules have odd degrees, not all of them
        try:
            directions, weights = lebedev_rule(rule)
        except NotImplementedError:
            continue
        if weights.min() > 0:  # some rules have negative weights, which turn small errors into large ones
            return directions.T.copy(), weights
    raise VibronicError(f"there is no Lebedev rule of degree {degree}")


def _treutler(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Radii (n,), Angstrom, ascending, and weights for dr."""
    step = math.pi / (n + 1)
    angle = step * np.arange(n, 0, -1)
    x = np.cos(angle)
    logarithm = np.log((1 - x) / 2)
    power = (1 + x) ** 0.6
    scale = Bohr / math.log(2)
    derivative = scale * power * (-0.6 / (1 + x) * logarithm + 1 / (1 - x))
    return -scale * power * logarithm, derivative * step * np.sin(angle)


def shares(atoms: Atoms, points: np.ndarray, owner: int, nearest: np.ndarray) -> np.ndarray:
    """(P,) share of the atom ``owner`` in each of the ``points`` (P, 3); the shares of all atoms sum to one.

    They are in proportion to ``eta exp(-2 d / a_0) / d^3``, eta = 0.3 for hydrogen and 1 for all others.

    Args:
        atoms: a molecule.
        points: (P, 3) Angstrom, near one another.
        owner: index of the atom.
        nearest: (P,) Angstrom from each point to the atom nearest to it.
    """
    from scipy.spatial.distance import cdist

    share = np.zeros(len(points))
    own = np.flatnonzero(np.linalg.norm(points - atoms.positions[owner], axis=1) < nearest + REACH)
    if not len(own):
        return share
    points, nearest = points[own], np.maximum(nearest[own], 1e-9)
    for part, near in neighbourhoods(points, atoms.positions, nearest.max() + REACH):
        distance = np.maximum(cdist(atoms.positions[near], points[part]), 1e-9)
        parts = np.exp(-2 / Bohr * (distance - nearest[part])) * (nearest[part] / distance) ** 3
        parts[atoms.numbers[near] == 1] *= 0.3
        share[own[part]] = parts[near == owner][0] / parts.sum(0)
    return share
