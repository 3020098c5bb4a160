"""One cell for each crystal: primitive and Niggli-reduced."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell

from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS

# What spglib cannot do it returns; its library would print it past Python as well.
os.environ.setdefault("SPGLIB_WARNING", "OFF")

SYMPREC = 1e-3
"""Angstrom; translations that hold to this are lattice vectors. Wider, cells of displaced atoms would lose their displacements."""

Composition = tuple[tuple[int, int], ...]
"""Atomic numbers, ascending, each with its count in the reduced formula."""


def reduced(atoms: Atoms, symprec: float = SYMPREC) -> Atoms:
    """The same crystal in its primitive cell, Niggli-reduced, right-handed, a along x and b in the xy plane.

    Atoms stay where they are in the crystal (nothing is symmetrised) but for the lattice vectors added to bring fractional
    coordinates into [0, 1). Labels stay; those that are extensive count the atoms of the new cell, vectors and stresses turn
    with it. Where spglib finds no symmetry the cell is Niggli-reduced only.

    Args:
        atoms: a crystal.
        symprec: Angstrom.

    Raises:
        VibronicError: it is not periodic in three directions, or its cell has no volume.
    """
    if not atoms.pbc.all() or abs(atoms.cell.volume) < 1e-3:
        raise VibronicError("a reduced cell needs a crystal: periodic in three directions, in a cell with a volume")
    basis, kept = _primitive(atoms, symprec)
    cell = _niggli(basis)
    if np.linalg.det(cell) < 0:
        cell = -cell
    standard, turn = Cell(cell).standard_form()  # cell = standard @ turn
    fractional = atoms.positions[kept] @ np.linalg.inv(cell)
    fractional -= np.floor(fractional)
    fractional[fractional >= 1 - 1e-12] = 0.0  # where the floor of a tiny negative number left one
    new = atoms[kept]
    new.set_cell(standard)
    new.set_positions(fractional @ standard.array)
    new.set_celldisp(np.zeros(3))
    _carry(atoms, new, kept, np.asarray(turn))
    return new


def symmetrised(atoms: Atoms, symprec: float) -> Atoms:
    """The same crystal as symmetric as it is within ``symprec`` (Angstrom), in its reduced cell; itself where it is not found to be.

    The reduced cell of a crystal that is nearly symmetric is a matter of its last digits: diamond relaxed to 0.01 Angstrom has
    lattice vectors at 60, 60, 60 or at 60, 60, 90 degrees, according to the noise. Made exactly symmetric it has one.

    Args:
        atoms: a crystal; of its labels only numbers in ``info`` stay.
    """
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = from_spglib("standardize_cell", cell, to_primitive=True, no_idealize=False, symprec=symprec)
    if found is None:
        return atoms
    lattice, scaled, numbers = found
    info = {k: v for k, v in atoms.info.items() if np.ndim(v) == 0}
    return reduced(Atoms(numbers, scaled_positions=scaled, cell=lattice, pbc=True, info=info))


def from_spglib(function: str, *arguments: Any, **options: Any) -> Any:
    """What a function of spglib finds; None where it finds nothing, which it tells by an error where phonopy has been imported."""
    import spglib

    call = getattr(spglib, function)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how it will tell failures one day
            return call(*arguments, **options)
    except Exception:  # a class of its own in some versions only
        return None


def _primitive(atoms: Atoms, symprec: float) -> tuple[np.ndarray, np.ndarray]:
    """Lattice vectors (3, 3) of a primitive cell and the atoms that stand for its own."""
    everything = atoms.cell.array, np.arange(len(atoms))
    # Every lattice translation within the cell multiplies the atoms of every element: often there is no room for one.
    if math.gcd(*Counter(atoms.numbers.tolist()).values()) == 1:
        return everything
    # Magnetic moments, charges and tags tell atoms of one element apart.
    kinds = np.column_stack([atoms.numbers, atoms.get_tags(), atoms.get_initial_charges()])
    moments = atoms.get_initial_magnetic_moments().reshape(len(atoms), -1)
    kinds = np.unique(np.column_stack([kinds, moments]), axis=0, return_inverse=True)[1].reshape(-1)
    cell = (atoms.cell.array.tolist(), atoms.get_scaled_positions().tolist(), kinds.tolist())
    found = from_spglib("get_symmetry_dataset", cell, symprec)
    if found is None:
        return everything
    kept = np.unique(found.mapping_to_primitive, return_index=True)[1]
    basis = np.asarray(found.primitive_lattice)
    share = abs(np.linalg.det(basis) / np.linalg.det(atoms.cell.array))
    if len(kept) == len(atoms) or abs(share * len(atoms) - len(kept)) > 1e-3 * len(kept):
        return everything
    return basis, np.sort(kept)


def _niggli(basis: np.ndarray) -> np.ndarray:
    """Niggli-reduced lattice vectors of the same lattice, in the same orientation."""
    found = from_spglib("niggli_reduce", basis)
    if found is not None:
        turn = np.round(found @ np.linalg.inv(basis))
        if abs(abs(np.linalg.det(turn)) - 1) < 1e-6:
            return turn @ basis
    try:
        return np.asarray(Cell(basis).niggli_reduce()[1].T @ basis)
    except (RuntimeError, ValueError):  # no convergence; the lattice is the same without it
        return basis


def _carry(old: Atoms, new: Atoms, kept: np.ndarray, turn: np.ndarray) -> None:
    """Bring labels, which are still those of ``old``, into the frame and size of ``new``, its atoms ``kept``."""
    results = dict(getattr(old.calc, "results", {}))
    for name, value in results.items():
        if np.ndim(value) and name not in ("stress", "dipole") and len(value) == len(old):
            results[name] = np.asarray(value)[kept]
    for store in (new.arrays, new.info, results):
        for name in set(store) & {*TARGETS, "momenta"}:
            shape = TARGETS[name].shape if name in TARGETS else (3,)
            if shape == (3,):
                store[name] = np.asarray(store[name]) @ turn.T
            elif shape == (3, 3):
                store[name] = _turned_stress(np.asarray(store[name]), turn)
            if name in TARGETS and TARGETS[name].extensive:
                store[name] = store[name] * (len(new) / len(old))
    new.calc = SinglePointCalculator(new, **results) if results else None


def _turned_stress(stress: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """A stress in the new frame, in the form it had: (3, 3), nine numbers, or ASE's six."""
    from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

    full = voigt_6_to_full_3x3_stress(stress) if stress.shape == (6,) else stress.reshape(3, 3)
    full = turn @ full @ turn.T
    return full_3x3_to_voigt_6_stress(full) if stress.shape == (6,) else full.reshape(stress.shape)


def reduced_composition(numbers: Iterable[int]) -> Composition:
    """The reduced formula of atomic numbers (N,), as a key to compare and to look up."""
    counts = Counter(int(z) for z in numbers)
    share = math.gcd(*counts.values()) or 1
    return tuple(sorted((element, count // share) for element, count in counts.items()))


def in_chemical_order(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Elements and how many atoms each has, the rarest first, of as many along Pettifor's scale: elements that come at the same place
    in two crystals with as many atoms of each are likely to replace each other."""
    counts = Counter(int(z) for z in numbers)
    return sorted(counts.items(), key=lambda one: (one[1], pettifor(one[0])))


@cache
def pettifor(number: int) -> float:
    """Place of an element on the chemical scale of Pettifor (Solid State Commun. 51, 31 (1984)), from 1 (He) to 103 (H)."""
    from pymatgen.core import Element

    return float(Element.from_Z(number).mendeleev_no)
