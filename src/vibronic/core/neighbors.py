"""Neighbour lists (vesin): one function, correct for skewed, tiny and elongated cells and for molecules."""

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError

ALL_PAIRS = 200
"""A molecule up to this many atoms has all its distances computed: measured five to ten times faster than vesin's cells."""


def neighbor_list(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All directed pairs closer than ``cutoff`` (Angstrom).

    Returns:
        ``i`` (E,), ``j`` (E,) and integer ``shift`` (E, 3) such that
        ``r_ij = x_j - x_i + shift @ cell`` has length < cutoff; both directions are listed, sorted by ``i``.

    Raises:
        VibronicError: the cutoff is not positive, or a periodic cell has no volume.
    """
    if not cutoff > 0:
        raise VibronicError(f"the cutoff must be positive, not {cutoff} Angstrom")
    pbc = atoms.pbc
    if len(atoms) <= ALL_PAIRS and not pbc.any():
        return _all_pairs(atoms.positions, cutoff)
    from vesin import NeighborList

    cell = atoms.cell.complete().array if pbc.any() else np.eye(3)
    if pbc.any() and abs(np.linalg.det(cell)) < 1e-6:
        raise VibronicError("the unit cell has no volume; check the lattice vectors")
    # vesin places atoms outside the cell correctly only through their shifts, so positions go in as they are.
    i, j, shift = NeighborList(cutoff=cutoff, full_list=True).compute(
        points=atoms.positions, box=cell, periodic=pbc if pbc.any() else False, quantities="ijS"
    )
    order = np.argsort(i, kind="stable")
    return i[order].astype(np.int64), j[order].astype(np.int64), shift[order].astype(np.int64)


def _all_pairs(positions: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, y, z = positions.T
    square = (x[:, None] - x) ** 2
    square += (y[:, None] - y) ** 2
    square += (z[:, None] - z) ** 2
    near = square < cutoff**2
    np.fill_diagonal(near, False)
    i, j = near.nonzero()
    return i, j, np.zeros((len(i), 3), dtype=np.int64)
