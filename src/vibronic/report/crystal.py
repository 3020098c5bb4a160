"""A structure as a scene for the 3Dmol viewer: spheres, bonds and the unit cell, in plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError

Bond = tuple[int, int, Sequence[int], float]
"""Atoms ``i`` and ``j``, the lattice translation of ``j`` and a weight from 0 to 1."""

COLOR_SCALE = "Viridis"
SPHERE = 0.42
"""Radius of a sphere in covalent radii: small enough to see the bonds."""
FACE = 0.35
"""An atom this close (Angstrom) to a face of the cell is repeated on the opposite one, as crystallographers draw it."""
PLAIN = "#8c8c8c"

Shift = tuple[int, int, int]
Weights = dict[tuple[int, int, Shift], float | None]


def color_scale(weights: Sequence[float]) -> list[str]:
    """Colours of weights from 0 to 1 on the perceptual scale of the bonds."""
    from plotly.colors import sample_colorscale

    return [str(c) for c in sample_colorscale(COLOR_SCALE, [float(w) for w in weights])]


def element_color(symbol: str) -> str:
    """ASE's (jmol's) colour of an element as ``#rrggbb``."""
    from ase.data import atomic_numbers
    from ase.data.colors import jmol_colors

    return "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[atomic_numbers[symbol]])


def scene(atoms: Atoms, bonds: Iterable[Bond] | None = None, motion: np.ndarray | None = None) -> dict[str, Any]:
    """Everything the viewer draws.

    A bond that leaves the cell and whose two ends are nowhere drawn together ends half-way on both sides of the cell.

    Args:
        atoms: molecule or crystal.
        bonds: (i, j, (sx, sy, sz), weight), coloured and thickened by weight; a bond listed in both directions is drawn
            once with the mean weight. None draws neighbours closer than 1.15 times the sum of covalent radii, in grey, and with
            them neighbours outside the cell, so that no bond ends in nothing.
        motion: (N, 3) displacement of every atom at the height of an oscillation, Angstrom, with which the atoms move to and
            fro; bonds are then neighbours in grey and move along.

    Returns:
        ``atoms`` (element, position, label; with ``motion`` also ``move``), ``elements`` (radius, colour), ``bonds`` (ends,
        radius, colour) or, with ``motion``, ``links`` (pairs of atoms), and ``cell`` (three vectors, or None); Angstrom.

    Raises:
        VibronicError: no atoms, positions that are not finite, a motion that is not one finite vector per atom or comes with
            bonds, or a bond that names an absent atom or has a weight outside 0 to 1.
    """
    from ase.data import atomic_numbers, covalent_radii

    if len(atoms) == 0:
        raise VibronicError("there is nothing to draw: the structure has no atoms")
    if not np.isfinite(atoms.positions).all():
        raise VibronicError("the structure cannot be drawn: some positions are not finite")
    if motion is not None and (bonds is not None or motion.shape != (len(atoms), 3) or not np.isfinite(motion).all()):
        raise VibronicError("a motion is one finite vector for every atom, and is drawn without weights of bonds")
    cell = atoms.cell.array
    images = [_images(atoms, i) for i in range(len(atoms))]
    weights = _neighbours(atoms) if bonds is None else _weighted(atoms, bonds)
    for i, j, shift in weights if bonds is None else ():
        if not _together(images[i], images[j], shift):
            images[j].append(shift)
            images[i].append((-shift[0], -shift[1], -shift[2]))
    moving = {} if motion is None else {"links": _links(images, weights)}
    return {
        "atoms": [
            {"elem": symbol, "xyz": _point(atoms.positions[i] + shift @ cell), "label": f"{symbol} {i}"}
            | ({} if motion is None else {"move": _point(motion[i])})
            for i, symbol in enumerate(atoms.symbols)
            for shift in images[i]
        ],
        "elements": {
            symbol: {"radius": round(SPHERE * float(covalent_radii[atomic_numbers[symbol]]), 3)}
            | {"color": element_color(symbol)}
            for symbol in dict.fromkeys(atoms.symbols)
        },
        "bonds": _cylinders(atoms, images, weights) if motion is None else [],
        **moving,
        "cell": [_point(v) for v in cell] if atoms.pbc.any() and atoms.cell.rank == 3 else None,
    }


def _point(vector: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in vector]


def _images(atoms: Atoms, i: int) -> list[Shift]:
    """Lattice translations at which atom ``i`` is drawn: its own place first, then the opposite faces of the cell."""
    if atoms.cell.rank < 3:
        return [(0, 0, 0)]
    fractions = np.linalg.solve(atoms.cell.array.T, atoms.positions[i])
    heights = 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    choices = []
    for fraction, height, periodic in zip(fractions, heights, atoms.pbc):
        near = {1: abs(fraction) * height < FACE, -1: abs(fraction - 1) * height < FACE}
        choices.append([0, *(step for step, close in near.items() if periodic and close)])
    return [(a, b, c) for a, b, c in product(*choices)]


def _together(ones: Sequence[Shift], others: Sequence[Shift], shift: Shift) -> list[Shift]:
    """Places of one atom where another is drawn that is so many cells away from it."""
    return [home for home in ones if tuple(h + s for h, s in zip(home, shift)) in others]


def _canonical(i: int, j: int, shift: Sequence[int]) -> tuple[int, int, Shift]:
    """The same key for a bond and its reverse."""
    a, b, c = (int(s) for s in shift)
    return min((int(i), int(j), (a, b, c)), (int(j), int(i), (-a, -b, -c)))


def _neighbours(atoms: Atoms) -> Weights:
    from ase.neighborlist import natural_cutoffs, neighbor_list

    return {
        _canonical(i, j, s): None for i, j, s in zip(*neighbor_list("ijS", atoms, natural_cutoffs(atoms, mult=1.15)))
    }


def _weighted(atoms: Atoms, bonds: Iterable[Bond]) -> Weights:
    weights: dict[tuple[int, int, Shift], list[float]] = {}
    for i, j, shift, weight in bonds:
        if not (0 <= i < len(atoms) and 0 <= j < len(atoms)):
            raise VibronicError(f"a bond joins atoms {i} and {j}, but the structure has atoms 0 to {len(atoms) - 1}")
        if not 0 <= weight <= 1:
            raise VibronicError(f"the bond of atoms {i} and {j} has weight {weight:g}; scale weights to 0 to 1")
        weights.setdefault(_canonical(i, j, shift), []).append(float(weight))
    return {bond: float(np.mean(values)) for bond, values in weights.items()}


def _cylinders(atoms: Atoms, images: list[list[Shift]], bonds: Weights) -> list[dict[str, Any]]:
    cell = atoms.cell.array
    cylinders: list[dict[str, Any]] = []
    for (i, j, shift), weight in sorted(bonds.items(), key=lambda bond: bond[0]):
        vector = atoms.positions[j] + shift @ cell - atoms.positions[i]
        ends = [(atoms.positions[i] + home @ cell, vector) for home in _together(images[i], images[j], shift)]
        if not ends:
            ends = [(atoms.positions[i], vector / 2), (atoms.positions[j], -vector / 2)]
        look = {
            "radius": 0.08 if weight is None else round(0.04 + 0.12 * weight, 3),
            "color": PLAIN if weight is None else color_scale([weight])[0],
        }
        cylinders += [{"start": _point(start), "end": _point(start + way)} | look for start, way in ends]
    return cylinders


def _links(images: list[list[Shift]], bonds: Weights) -> list[list[int]]:
    """Bonds as pairs of drawn atoms, numbered in the order in which these are drawn."""
    number = {(i, shift): k for k, (i, shift) in enumerate((i, s) for i, own in enumerate(images) for s in own)}
    return [
        [number[i, home], number[j, (home[0] + a, home[1] + b, home[2] + c)]]
        for i, j, (a, b, c) in sorted(bonds)
        for home in _together(images[i], images[j], (a, b, c))
    ]
