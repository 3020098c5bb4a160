"""What a density says: electrons, dipole, atomic charges, and its values on a box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from ase import Atoms
from ase.units import Bohr

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import writable
from vibronic.fields.atoms import REACH, free_densities, neighbourhoods
from vibronic.fields.quadrature import Field, grids

MOST_POINTS = 200_000_000
"""Of a box: 1.6 GB."""


class Density(Protocol):
    """An electron density that can be asked anywhere: what a model's method ``density_of(atoms)`` returns."""

    def at(self, points: np.ndarray) -> np.ndarray:
        """(P,) density, e/Angstrom^3, at ``points`` (P, 3), Angstrom."""


@dataclass(frozen=True)
class Anywhere:
    """A density that is a function and nothing else.

    Attributes:
        at: from points (P, 3), Angstrom, to e/Angstrom^3.
        remark: what whoever reads its numbers must know.
    """

    at: Field
    remark: str = ""


@dataclass(frozen=True)
class Analysis:
    """Integrals of a density over all space.

    Attributes:
        electrons: their number.
        dipole: (3,) e Angstrom, of the nuclei and the density.
        charges: (N,) e, Hirshfeld's (Theor. Chim. Acta 44, 129, 1977) with the free atoms of :mod:`vibronic.fields.atoms`.
        lowest: most negative value of the density on the grid, e/Angstrom^3; 0 where there is none.
        negative: integral of the negative part, e.
    """

    electrons: float
    dipole: np.ndarray
    charges: np.ndarray
    lowest: float
    negative: float


def analyse(atoms: Atoms, density: Field, level: int = 2) -> Analysis:
    """Integrate a density atom by atom, so that memory does not grow with the molecule.

    Args:
        atoms: the molecule.
        density: from points (P, 3), Angstrom, to e/Angstrom^3.
        level: of the grid (see :data:`vibronic.fields.quadrature.LEVELS`).

    Raises:
        VibronicError: the structure is periodic, or has an element without a free atom.
    """
    # About the centre of the nuclear charge: the grid's error in their number must not look like a dipole.
    centre = atoms.numbers @ atoms.positions / atoms.numbers.sum()
    electrons, first, lowest, negative = 0.0, np.zeros(3), 0.0, 0.0
    belongs = np.zeros(len(atoms))
    for grid in grids(atoms, level):
        values = density(grid.points)
        weighted = grid.weights * values
        electrons += weighted.sum()
        first += weighted @ (grid.points - centre)
        lowest = min(lowest, values.min(initial=0.0))
        negative += float(grid.weights @ np.minimum(values, 0))
        for part, near in neighbourhoods(grid.points, atoms.positions, REACH):
            free = free_densities(atoms, near, grid.points[part])
            belongs[near] += free @ (weighted[part] / np.maximum(free.sum(0), 1e-30))
    return Analysis(
        electrons=float(electrons),
        dipole=-first,
        charges=atoms.numbers - belongs,
        lowest=float(lowest),
        negative=negative,
    )


@dataclass(frozen=True)
class Box:
    """Values on a regular grid of points, as in a cube file.

    Attributes:
        origin: (3,) Angstrom.
        steps: (3, 3) Angstrom, rows; the point (i, j, k) is at origin + (i, j, k) @ steps.
        values: (nx, ny, nz) e/Angstrom^3.
    """

    origin: np.ndarray
    steps: np.ndarray
    values: np.ndarray

    @property
    def point_sum(self) -> float:
        """Sum of the values times the volume of a step: no integral, since a core is narrower than a step."""
        return float(self.values.sum() * abs(np.linalg.det(self.steps)))


def box(atoms: Atoms, density: Field, spacing: float = 0.2, margin: float = 3.0) -> Box:
    """A density on a box round a molecule; its points keep away from nuclei, whose values would stand for a whole step.

    Args:
        atoms: the molecule.
        density: from points (P, 3), Angstrom, to e/Angstrom^3.
        spacing: Angstrom between points.
        margin: Angstrom between the outermost nuclei and the faces, at least.

    Raises:
        VibronicError: as :func:`box_shape`.
    """
    shape = box_shape(atoms, spacing, margin)
    middle = (atoms.positions.min(0) + atoms.positions.max(0)) / 2
    origin = middle - (shape - 2) * spacing / 2
    origin -= _farthest_from_nuclei((atoms.positions - origin) / spacing) * spacing
    return Box(origin, np.eye(3) * spacing, _on(origin, np.eye(3) * spacing, shape, density))


def check_box(spacing: float, margin: float) -> None:
    """Refuse a spacing or a margin that no box can have.

    Raises:
        VibronicError: says so.
    """
    if not 0 < spacing < np.inf or not 0 <= margin < np.inf:
        raise VibronicError(
            f"the spacing must be positive and the margin not negative, not {spacing} and {margin} Angstrom"
        )


def box_shape(atoms: Atoms, spacing: float, margin: float) -> np.ndarray:
    """(3,) points of a box; one step more than the margins need, to move the points away from the nuclei.

    Raises:
        VibronicError: spacing or margin are not usable, or the box would have more than ``MOST_POINTS`` points.
    """
    check_box(spacing, margin)
    shape = np.ceil((np.ptp(atoms.positions, axis=0) + 2 * margin) / spacing) + 2
    if shape.prod() > MOST_POINTS:
        raise VibronicError(
            f"the box would have {shape.prod():.1e} points; choose a larger --spacing or a smaller --margin"
        )
    return shape.astype(int)


def _farthest_from_nuclei(places: np.ndarray, tried: int = 16) -> np.ndarray:
    """(3,) parts of a step by which to move a lattice back, so that its points are as far from ``places`` as can be."""
    from scipy.spatial import cKDTree

    moves = np.indices((tried,) * 3).reshape(3, -1).T / tried
    distance, _ = cKDTree(-places % 1.0 % 1.0, boxsize=1.0).query(moves)
    return moves[distance.argmax()]


def _on(origin: np.ndarray, steps: np.ndarray, shape: np.ndarray, density: Field, edge: int = 16) -> np.ndarray:
    """Values block by block: the points of a block are near one another, so that few atoms matter."""
    values = np.empty(tuple(shape))
    for i in range(0, shape[0], edge):
        for j in range(0, shape[1], edge):
            for k in range(0, shape[2], edge):
                block = values[i : i + edge, j : j + edge, k : k + edge]
                index = np.indices(block.shape).reshape(3, -1).T + np.array([i, j, k])
                block[:] = density(origin + index @ steps).reshape(block.shape)
    return values


def resampled(density: Field, like: Box) -> Box:
    """Another density on the points of a box."""
    return Box(like.origin, like.steps, _on(like.origin, like.steps, np.array(like.values.shape), density))


def write_cube(path: Path, atoms: Atoms, values: Box, comment: str) -> None:
    """A cube file: lengths in Bohr, density in e/Bohr^3.

    Raises:
        VibronicError: it cannot be written.
    """
    from ase.io.cube import write_cube as write

    copy = Atoms(atoms.numbers, atoms.positions, cell=values.steps * np.array(values.values.shape)[:, None])
    with writable(path) as temporary, temporary.open("w") as file:
        write(file, copy, values.values * Bohr**3, values.origin, comment)


def read_cube(path: Path) -> tuple[Atoms, Box]:
    """The molecule and the density of a cube file in e/Bohr^3.

    Raises:
        VibronicError: it is missing or not a cube file.
    """
    from ase.io.cube import read_cube as read

    try:
        with Path(path).open() as file:
            found = read(file)
        values, steps = found["data"] / Bohr**3, np.asarray(found["spacing"])
    except FileNotFoundError as error:
        raise VibronicError(f"there is no file {path}") from error
    except Exception as error:  # ASE raises what the first wrong line happens to break
        raise VibronicError(f"{path} is damaged or not a cube file") from error
    return found["atoms"], Box(np.asarray(found["origin"]), steps, values)


def same_molecule(atoms: Atoms, other: Atoms, where: str) -> None:
    """Refuse a reference of other atoms, or of the same ones elsewhere or in another order.

    Raises:
        VibronicError: says so.
    """
    same = len(atoms) == len(other) and (atoms.numbers == other.numbers).all()
    if not same or np.abs(atoms.positions - other.positions).max() > 1e-3:
        raise VibronicError(f"{where} is of another molecule or geometry than {atoms.get_chemical_formula()}")


def numbered(out: Path, count: int) -> Sequence[Path]:
    """``rho.cube`` for one molecule, ``rho-000.cube``, ``rho-001.cube``, ... for several."""
    out = Path(out)
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{k:03d}") for k in range(count)]
