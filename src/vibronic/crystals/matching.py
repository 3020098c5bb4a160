"""Which crystals are the same: duplicates within a set, crystals known from another, and predictions of given structures.

Two crystals are the same where pymatgen's StructureMatcher says so (Ong et al., Comput. Mater. Sci. 68, 314 (2013)), with the
tolerances of CDVAE (arXiv 2110.06197). It compares Niggli-reduced primitive cells scaled to one volume: neither the choice of
cell nor order, origin, orientation or density matters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.progress import track
from vibronic.crystals.validity import composition_validity, library, structural_validity
from vibronic.data.cells import Composition, from_spglib, reduced_composition

LTOL, STOL, ANGLE_TOL = 0.3, 0.5, 10.0
"""Tolerances of pymatgen's StructureMatcher that the field uses for crystals that are the same."""

WITHIN = 0.1
"""Angstrom; space groups are told within this."""


def matcher(close: bool = False) -> Any:
    """The StructureMatcher of the field: lengths to 0.3, sites to 0.5 of (V/N)^(1/3), angles to 10 degrees.

    Args:
        close: pymatgen's own tolerances instead (0.2, 0.3 and 5 degrees). The field's take polymorphs for one crystal: of rock
            salt and zinc blende half of the atoms are at the same places.

    Raises:
        VibronicError: pymatgen is not installed.
    """
    of = library("pymatgen.analysis.structure_matcher")
    return of.StructureMatcher() if close else of.StructureMatcher(ltol=LTOL, stol=STOL, angle_tol=ANGLE_TOL)


def to_pymatgen(atoms: Atoms) -> Any:
    """The crystal as a pymatgen ``Structure``: elements, lattice and sites, nothing else.

    Raises:
        VibronicError: pymatgen is not installed.
    """
    core = library("pymatgen.core")
    scaled = np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T
    return core.Structure(core.Lattice(atoms.cell.array), atoms.numbers.tolist(), scaled)


@contextmanager
def quiet() -> Iterator[None]:
    """Without pymatgen's remark on noble gases, which sorts sites by electronegativity."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No Pauling electronegativity", category=UserWarning)
        yield


class Known:
    """Crystals filed under their reduced formula; each is reduced once, and only when its formula is asked for.

    The matcher would reduce both crystals of every comparison again, which is most of its time.
    """

    def __init__(self, close: bool = False) -> None:
        self.matcher = matcher(close)
        self.filed: dict[Composition, list[tuple[int, Atoms, list[Any]]]] = {}

    def add(self, k: int, atoms: Atoms, reduced: list[Any]) -> None:
        """File crystal ``k``; ``reduced`` is empty until it is needed, then holds the reduced cell."""
        self.filed.setdefault(reduced_composition(atoms.numbers), []).append((k, atoms, reduced))

    def find(self, atoms: Atoms, reduced: list[Any]) -> int | None:
        """Number of a filed crystal that is the same as this one."""
        filed = self.filed.get(reduced_composition(atoms.numbers), [])
        for place, (k, other, cell) in enumerate(filed):
            one, two = self._reduced(other, cell), self._reduced(atoms, reduced)
            if (
                one is None or two is None or len(one) != len(two)
            ):  # the matcher's verdict on primitive cells that differ in size
                continue
            if self.matcher.fit(one, two, skip_structure_reduction=True):
                filed.insert(0, filed.pop(place))  # in some sets most crystals are the same few
                return k
        return None

    def _reduced(self, atoms: Atoms, cell: list[Any]) -> Any:
        if not cell:
            cell.append(_primitive(atoms))
        return cell[0]


def _primitive(atoms: Atoms) -> Any:
    """Niggli-reduced primitive cell as the matcher makes it; None where there is none, which equals nothing."""
    if not structural_validity(atoms):
        return None
    try:
        return to_pymatgen(atoms).get_reduced_structure("niggli").get_primitive_structure()
    except Exception:  # of foreign code, on structures that nobody checked
        return None


def unique(structures: Iterable[Atoms], close: bool = False) -> list[int]:
    """For every crystal the index of an earlier one that is the same and came for the first time, its own where there is none.

    Crystals that fail :func:`structural_validity` equal nothing. Being the same is not transitive at the edge of the
    tolerances: a crystal is compared with first ones only. ``close`` as for :func:`matcher`.

    Raises:
        VibronicError: pymatgen is not installed.
    """
    known, result = Known(close), []
    with quiet():
        for k, atoms in enumerate(structures):
            reduced: list[Any] = []
            same = known.find(atoms, reduced)
            if same is None:
                known.add(k, atoms, reduced)
            result.append(k if same is None else same)
    return result


def distinct(structures: Sequence[Atoms]) -> list[int]:
    """Which structures come for the first time: indices, in order; every other one is the same crystal as one of these.

    Polymorphs are told apart (``close`` of :func:`matcher`): they are different things to learn.

    Raises:
        VibronicError: pymatgen is not installed.
    """
    return [k for k, first in enumerate(unique(track(structures, "Comparing crystals"), close=True)) if first == k]


def novel(structures: Sequence[Atoms], reference: Sequence[Atoms]) -> list[bool]:
    """For every crystal whether none of the reference is the same.

    Raises:
        VibronicError: pymatgen is not installed.
    """
    known = Known()
    for k, atoms in enumerate(reference):
        known.add(k, atoms, [])
    with quiet():
        return [known.find(atoms, []) is None for atoms in structures]


def match_rate(generated: Sequence[Atoms], targets: Sequence[Atoms]) -> tuple[float, float | None]:
    """How often a predicted crystal is the one it should be, and how far its atoms are from their places.

    The metric of crystal structure prediction (CDVAE's reconstruction, DiffCSP): pair by pair, ``get_rms_dist`` of the
    matcher, whose root mean square is in units of (V/N)^(1/3), V/N the volume per atom. A prediction that is not valid (both
    tests of :mod:`.validity`; CDVAE also asks that it have a fingerprint) is no match.

    Args:
        generated: predictions.
        targets: as many crystals, in the same order.

    Returns:
        The share of all pairs that match, and the mean root mean square of those; None where none matches.

    Raises:
        VibronicError: the numbers of crystals differ, there are none, or pymatgen is not installed.
    """
    if len(generated) != len(targets) or not targets:
        raise VibronicError(f"{len(generated)} predictions cannot be matched with {len(targets)} targets, one to one")
    found, same = [], matcher()
    for atoms, target in zip(generated, targets):
        if reduced_composition(atoms.numbers) != reduced_composition(target.numbers):
            continue
        if not (structural_validity(atoms) and structural_validity(target) and composition_validity(atoms.numbers)):
            continue
        try:
            with quiet():
                distance = same.get_rms_dist(to_pymatgen(atoms), to_pymatgen(target))
        except Exception:  # as in CDVAE: what the matcher cannot take is no match
            distance = None
        if distance is not None:
            found.append(float(distance[0]))
    return len(found) / len(targets), float(np.mean(found)) if found else None


def space_group(atoms: Atoms, symprec: float = WITHIN) -> int | None:
    """Number of the space group within ``symprec`` (Angstrom), None where spglib finds none."""
    cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    found = from_spglib("get_symmetry_dataset", cell, symprec=symprec)
    return None if found is None else int(found.number)
