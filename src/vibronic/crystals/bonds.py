"""Bonds of crystals by Voronoi cells: what CrystalNN finds without its chemistry (Pan et al., Inorganic Chemistry 60, 1590 (2021)).

An atom sees each neighbour through a face of its Voronoi cell. The solid angles of the faces, relative to the largest, cut a
quarter of the unit circle into slices, one for each coordination number; the atom has the number whose slice is largest.

pymatgen computes the same one site at a time from the tessellation of thousands of points. Here a Voronoi cell is the polar
dual of the convex hull of ``r / |r|^2`` over the neighbours, and faces of all atoms are summed at once.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from vibronic.core.neighbors import neighbor_list

REACH = 7.0
"""Angstrom; neighbours up to here shape a Voronoi cell, as in pymatgen. Doubled where a cell stays open."""

IMAGES = 50_000
"""Atoms within reach, images counted, that are too many to be a crystal: a cell that is flat, or crushed."""

CLOSEST = 0.01
"""Angstrom; atoms closer than this are in one place, and have no Voronoi cells of their own."""

NEAREST = 40
"""Neighbours tried first. They are enough where no corner of the cell is farther than half of the way to the last of them."""


def bonds(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """All bonds of a crystal, each in both directions: one is there if either of its atoms counts it.

    Equal to pymatgen's ``CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)``, made into a
    ``StructureGraph``, and so independent of the choice of cell.

    Returns:
        ``i`` (E,), ``j`` (E,) and ``shift`` (E, 3) as :func:`vibronic.core.neighbors.neighbor_list` has them, sorted by ``i``;
        None where there are no bonds to be had: not periodic in three directions, numbers that are not finite, a cell without
        volume or too dense, atoms in one place, or Voronoi cells that stay open.
    """
    cell, n = atoms.cell.array, len(atoms)
    if n == 0 or not atoms.pbc.all() or not (np.isfinite(cell).all() and np.isfinite(atoms.positions).all()):
        return None
    diagonals = np.linalg.norm(np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]]) @ cell, axis=1)
    farthest, reach = diagonals.max() + 0.01, REACH
    todo = np.arange(n)
    found: list[np.ndarray] = []
    while len(todo):
        if _images(cell, n, reach) > IMAGES:
            return None
        i, j, shift = neighbor_list(atoms, reach)
        vectors = atoms.positions[j] - atoms.positions[i] + shift @ cell
        square = (vectors**2).sum(1)
        if len(square) and square.min() < CLOSEST**2:
            return None
        angle, closed = _solid_angles(i, vectors, square, todo)
        chosen = _bonded(i, angle)
        found.append(np.column_stack([i, j, shift])[chosen])
        todo = todo[~closed]
        if len(todo) and reach >= farthest:
            return None
        reach = min(2 * reach, farthest + 0.001)
    one_way = np.concatenate(found)
    back = np.column_stack([one_way[:, 1], one_way[:, 0], -one_way[:, 2:]])
    both = np.unique(np.concatenate([one_way, back]), axis=0)
    return both[:, 0], both[:, 1], both[:, 2:]


def _images(cell: np.ndarray, n: int, reach: float) -> float:
    """About how many atoms, images counted, a search within ``reach`` has to look at."""
    volume = abs(np.linalg.det(cell))
    if not volume > 0.1:
        return np.inf
    areas = np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
    return n * float(np.prod(2 * reach * areas / volume + 1))


def _solid_angles(
    i: np.ndarray, vectors: np.ndarray, square: np.ndarray, todo: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Solid angle (E,) of the Voronoi face of each pair, zero where it has none; and whether each cell of ``todo`` is closed."""
    from scipy.spatial import ConvexHull, QhullError

    closed = np.zeros(len(todo), dtype=bool)
    dual = vectors / square[:, None]
    ends = np.searchsorted(i, [todo, todo + 1])
    corners, pairs = [np.empty((0, 2, 3))], [np.empty((0, 2), dtype=np.int64)]
    for k, (start, end) in enumerate(ends.T):
        order = start + np.argsort(square[start:end], kind="stable")
        for count in (NEAREST, len(order)):
            near = order[:count]
            try:
                hull = ConvexHull(dual[near])
            except (QhullError, ValueError):
                continue
            plane = hull.equations
            if plane[:, 3].max() > -1e-12:  # the atom is not inside the hull: its cell is open
                continue
            vertex = plane[:, :3] / -plane[:, 3:]
            closed[k] = count >= len(order) or 4 * (vertex**2).sum(1).max() <= square[near[-1]]
            if not closed[k]:
                continue
            # An edge of the hull, between neighbours p and q, is an edge of the Voronoi cell between two of its corners.
            face, opposite = np.nonzero(hull.neighbors > np.arange(len(plane))[:, None])
            other = hull.neighbors[face, opposite]
            ring = hull.simplices[face[:, None], (opposite[:, None] + [1, 2]) % 3]
            pairs.append(near[ring])
            corners.append(np.stack([vertex[face], vertex[other]], axis=1))
            break
    pair, corner = np.concatenate(pairs), np.concatenate(corners)
    corner /= np.linalg.norm(corner, axis=2, keepdims=True)
    unit = vectors / np.sqrt(square)[:, None]
    a, b = corner[:, 0], corner[:, 1]
    # Each face is the sum of triangles from its foot (where the line to the neighbour meets it, perhaps outside of it) to its
    # edges. Walking round the face, the edge it shares with q runs along p x q: that gives the sign.
    p, q = unit[pair[:, 0]], unit[pair[:, 1]]
    sign = np.where(((b - a) * np.cross(p, q)).sum(1) < 0, -1.0, 1.0)
    triple, cosine = np.cross(a, b), (a * b).sum(1)
    angle = np.zeros(len(i))
    for foot, side, s in ((p, 0, sign), (q, 1, -sign)):
        top = s * (foot * triple).sum(1)
        below = 1 + cosine + (foot * a).sum(1) + (foot * b).sum(1)
        angle += np.bincount(pair[:, side], weights=2 * np.arctan2(top, below), minlength=len(i))
    return angle, closed


def _bonded(i: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Indices of the pairs that are bonds of their atom ``i``."""
    face = np.flatnonzero(angle > 0)
    if not len(face):
        return face
    largest = np.zeros(i[-1] + 1)
    np.maximum.at(largest, i[face], angle[face])
    weight = np.round(angle[face] / largest[i[face]], 3)
    face, weight = face[weight > 0], weight[weight > 0]
    order = np.lexsort((-weight, i[face]))
    face, weight = face[order], weight[order]
    atom = i[face]
    # Area of the unit quarter circle up to a weight: faces of equal weight share a slice, and the last slice ends at zero.
    area = weight * np.sqrt(1 - weight**2) + np.arcsin(weight)
    last = np.r_[atom[1:] != atom[:-1], True]
    slice_ = area - np.where(last, 0.0, np.r_[area[1:], 0.0])
    first = np.flatnonzero(np.r_[True, last[:-1]])
    size = np.diff(np.r_[first, len(atom)])
    best = np.repeat(np.maximum.reduceat(slice_, first), size)
    place = np.where(slice_ >= best, np.arange(len(atom)), len(atom))
    cut = np.repeat(np.minimum.reduceat(place, first), size)
    return face[np.arange(len(atom)) <= cut]
