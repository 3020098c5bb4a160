"""Whether a generated crystal makes sense at all: atoms that keep apart, and charges that can balance.

The two tests of CDVAE (Xie, Fu, Ganea, Barzilay, Jaakkola, arXiv 2110.06197), which later work reports as well, among it
DiffCSP (Jiao et al., arXiv 2309.04475). Both are cheap and both are weak: they tell nonsense from what may be a crystal, not a
stable crystal from one that is not.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from vibronic.core.errors import VibronicError
from vibronic.core.neighbors import neighbor_list
from vibronic.data.cells import Composition, reduced_composition

MIN_DISTANCE = 0.5
"""Angstrom; atoms closer than this are no crystal."""

MIN_VOLUME = 0.1
"""Angstrom^3, of a cell."""

LARGEST = 1e6
"""Angstrom; numbers beyond have lost the digits that distances need."""


def library(module: str) -> Any:
    """A module of the extra ``crystals``, imported when it is needed.

    Raises:
        VibronicError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise VibronicError(f"{module.split('.')[0]} is not installed: pip install 'vibronic[crystals]'") from error


def structural_validity(atoms: Atoms) -> bool:
    """No two atoms closer than 0.5 Angstrom, images included, in a cell of at least 0.1 Angstrom^3.

    CDVAE looks at pairs of different atoms; here an atom's distance to its own images counts too, which only a cell with
    a vector below 0.5 Angstrom fails. Whatever is no crystal (NaN, no volume, no atoms, unknown elements) is invalid, never an
    error: generators make such things. The crystal counts as periodic in all directions, whatever its flags say.
    """
    cell, positions = atoms.cell.array, atoms.positions
    if len(atoms) == 0 or not (np.isfinite(cell).all() and np.isfinite(positions).all()):
        return False
    if (atoms.numbers < 1).any() or max(np.abs(cell).max(), np.abs(positions).max()) > LARGEST:
        return False
    normals = np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]])
    volume = abs(float(cell[0] @ normals[0]))
    if volume < MIN_VOLUME or np.linalg.norm(cell, axis=1).min() < MIN_DISTANCE:
        return False
    if (volume / np.linalg.norm(normals, axis=1)).min() < MIN_DISTANCE:
        # Flat in this choice of vectors, where a search would visit images without end; the same lattice in its shortest
        # vectors is either not flat or has a vector too short.
        from ase.geometry import minkowski_reduce

        try:
            cell, _ = minkowski_reduce(cell)
        except (RuntimeError, ValueError, np.linalg.LinAlgError):
            return False
        if np.linalg.norm(cell, axis=1).min() < MIN_DISTANCE:
            return False
    positions = (positions @ np.linalg.inv(cell) % 1.0) @ cell
    crystal = Atoms(numbers=atoms.numbers, positions=positions, cell=cell, pbc=True)
    return len(neighbor_list(crystal, MIN_DISTANCE)[0]) == 0


def composition_validity(numbers: Iterable[int]) -> bool:
    """Whether one oxidation state per element makes the reduced formula neutral, with anions the more electronegative.

    The SMACT test (Davies et al., Chem 1, 617 (2016)) as CDVAE uses it: elements and alloys of metals alone pass. Oxidation states are those
    compiled for SMACT in 2014, ``Element.oxidation_states`` in the versions of that time and ``oxidation_states_smact14``
    in those of today, whose default (seen in the ICSD, 2024) judges otherwise; electronegativities are Pauling's. An element
    that has none (Pm, Rn, Lr) passes with any sign, as then; one that has no states (He, Ne, Ar) makes a compound invalid.

    Args:
        numbers: atomic numbers of all atoms, in any order.

    Raises:
        VibronicError: smact is not installed.
    """
    return _composition_validity(reduced_composition(numbers))


@cache
def _composition_validity(composition: Composition) -> bool:
    if not composition or composition[0][0] < 1:
        return False
    if len(composition) == 1:
        return True
    found = [_element(z) for z, _ in composition]
    if all(metal for _, _, metal in found):
        return True
    if any(not states for states, _, _ in found):
        return False
    # All cations are below all anions in electronegativity if and only if a cut lies between them. With the cut given, every
    # element has its sign, and only sums of charges matter: no product over the states of all elements.
    cuts = {chi for _, chi, _ in found if chi is not None} | {np.inf}
    for cut in cuts:
        charges = {0}
        for (_, count), (states, chi, _) in zip(composition, found):
            allowed = [s for s in states if chi is None or s == 0 or (s < 0) == (chi >= cut)]
            charges = {q + count * s for q in charges for s in allowed}
        if 0 in charges:
            return True
    return False


@cache
def _element(z: int) -> tuple[tuple[int, ...], float | None, bool]:
    """Oxidation states, Pauling electronegativity and whether it counts as a metal, in SMACT's tables."""
    smact = library("smact")
    if z >= len(chemical_symbols):
        return (), None, False
    symbol = chemical_symbols[z]
    try:
        element = smact.Element(symbol)
    except KeyError:  # heavier than its tables
        return (), None, False
    return tuple(element.oxidation_states_smact14 or ()), element.pauling_eneg, symbol in smact.metals
