"""Structures and sets by name: what ships with the package, QM9, and sets in the folder ``VIBRONIC_DATA`` or downloaded."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path

from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.data import cdvae, qm9
from vibronic.data.dataset import (
    declared_references,
    declared_units,
    read_labelled,
    read_structures,
    structure_files,
)


@dataclass(frozen=True)
class Source:
    """A named set.

    Attributes:
        summary: one line for ``vibronic data``.
        licence: of the data.
        embedded: file inside the package, or
        reference: files below ``VIBRONIC_DATA``, or
        made: function that makes a set which is no file, labels in Vibronic's units.
        lacking: of such a set, what would make it readable here; empty where it is.
        units: of its labels, by name.
        references: what they are relative to, by name.
        crystals: set and part of :mod:`vibronic.data.cdvae`, which has official files and can be downloaded.
    """

    summary: str
    licence: str
    embedded: str = ""
    reference: tuple[str, ...] = ()
    made: Callable[[], list[Atoms]] | None = None
    lacking: Callable[[], str] = str
    units: Mapping[str, str] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    crystals: tuple[str, cdvae.Part | None] | None = None


def _qm9(summary: str, part: qm9.Part) -> Source:
    def lacking() -> str:
        return "" if qm9.installed() else qm9.INSTALL

    return Source(summary, "MIT", made=partial(qm9.molecules, part), lacking=lacking, references=qm9.REFERENCES)


def _crystals(name: str, summary: str, licence: str, counts: tuple[int, int, int]) -> dict[str, Source]:
    """A set of crystals, as far as its files are here, and the three parts of its official split."""

    def one(said: str, part: cdvae.Part | None) -> Source:
        return Source(
            said,
            licence,
            made=partial(cdvae.crystals, name, part),
            lacking=lambda: "" if cdvae.files(name, part) else "set VIBRONIC_DATA, or --download",
            units=cdvae.SETS[name].units,
            references=cdvae.SETS[name].zeros,
            crystals=(name, part),
        )

    parts = zip(cdvae.PARTS, counts, strict=True)
    found = {f"{name}-{part}": one(f"its official part of {count:,} for '{part}'", part) for part, count in parts}
    return {name: one(f"{summary}: all rows at hand", None), **found}


SOURCES = {
    "Ag3SBr": Source("cubic anti-perovskite Ag3SBr, 5 atoms", "CC0", embedded="Ag3SBr.cif"),
    "NaCl": Source("rock salt, 8 atoms", "CC0", embedded="NaCl.cif"),
    "Si": Source("diamond structure, 8 atoms", "CC0", embedded="Si.cif"),
    "SrTiO3": Source("cubic perovskite, 5 atoms; nominal lattice constant", "CC0", embedded="SrTiO3.cif"),
    "Ag3SI": Source("cubic anti-perovskite, 5 atoms; nominal lattice constant", "CC0", embedded="Ag3SI.cif"),
    "Ag3SeBr": Source("cubic anti-perovskite, 5 atoms; nominal lattice constant", "CC0", embedded="Ag3SeBr.cif"),
    "Ag3SeI": Source("cubic anti-perovskite, 5 atoms; nominal lattice constant", "CC0", embedded="Ag3SeI.cif"),
    "Ag3SBr-pbe": Source(
        "displaced 40-atom cells of Ag3SBr with PBE energy, forces, stress, gap, VBM, CBM",
        "CC0",
        embedded="Ag3SBr-pbe.extxyz.gz",
    ),
    "Ag3SI-pbe": Source(
        "snapshots of the dynamics of Ag3SI (40 atoms) with the same labels",
        "CC0",
        embedded="Ag3SI-pbe.extxyz.gz",
    ),
    "Ag6S2BrI-pbe": Source(
        "snapshots of the dynamics of mixed Ag3S(Br, I), half and half (40 atoms), with the same labels",
        "CC0",
        embedded="Ag6S2BrI-pbe.extxyz.gz",
    ),
    "SrTiO3-train": Source(
        "270 displaced 40-atom cells of SrTiO3, VASP energy, forces, stress (pypolymlp)",
        "BSD-3-Clause",
        reference=("thermal/SrTiO3/SrTiO3_train1.extxyz",),
    ),
    "SrTiO3-test": Source(
        "30 displaced 40-atom cells of SrTiO3, VASP energy, forces, stress (pypolymlp)",
        "BSD-3-Clause",
        reference=("thermal/SrTiO3/SrTiO3_test1.extxyz",),
    ),
    "qm9": _qm9("130,831 molecules with B3LYP atomisation energy, HOMO, LUMO, gap, thermochemistry", "all"),
    "qm9-train": _qm9("11,831 of its molecules up to 14 atoms, as in arXiv 2011.07929", "train"),
    "qm9-validation": _qm9("1,479 others of them", "validation"),
    "qm9-test": _qm9("the remaining 1,480 of them", "test"),
    "qm9-large": _qm9("the 116,041 molecules of 15 atoms or more", "large"),
    **_crystals(
        "perov-5",
        "cubic perovskites of 5 atoms, heat of formation and gaps (Castelli 2012)",
        "MIT",
        (11356, 3787, 3785),
    ),
    **_crystals("carbon-24", "carbon of up to 24 atoms at 10 GPa, energy (AIRSS)", "CC-BY 4.0", (6091, 2032, 2030)),
    **_crystals(
        "mp-20", "up to 20 atoms, formation energy, gap, hull (Materials Project)", "CC-BY 4.0", (27136, 9047, 9046)
    ),
    **_crystals("mpts-52", "up to 52 atoms, in order of time (Materials Project)", "CC-BY 4.0", (27380, 5000, 8096)),
}


def source(name: str) -> Source:
    """The named set.

    Raises:
        VibronicError: there is no such set.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known sets: {', '.join(SOURCES)}"
        raise VibronicError(f"'{name}' is neither a file nor a named set; {hint}")
    return SOURCES[name]


def path_of(name: str) -> Path:
    """File of a named set.

    Raises:
        VibronicError: there is no such set, it is no file, or it is a reference set and ``VIBRONIC_DATA`` does not hold it.
    """
    named = source(name)
    if named.made:
        raise VibronicError(f"'{name}' is not a file: 'vibronic data {name} --out FILE' makes one of it")
    if named.embedded:
        return Path(str(resources.files("vibronic").joinpath("data", "sets", named.embedded)))
    root = os.environ.get("VIBRONIC_DATA")
    if not root:
        raise VibronicError(f"'{name}' is not in the package: set VIBRONIC_DATA to the folder of the reference data")
    path = Path(root) / named.reference[0]
    if not path.exists():
        raise VibronicError(f"'{name}' is not below VIBRONIC_DATA: expected {path}")
    return path


def missing(name: str) -> str:
    """What would make a named set readable here; empty where it is."""
    if source(name).made:
        return source(name).lacking()
    try:
        path_of(name)
    except VibronicError:
        return "set VIBRONIC_DATA"
    return ""


def _is_file(name: str | Path) -> bool:
    """Whether this is a file or folder, there or not, rather than a name."""
    path = Path(name)
    return path.exists() or bool(path.suffix) or "/" in str(name)


def _made(name: str | Path) -> Callable[[], list[Atoms]] | None:
    """What makes a set that is no file."""
    return None if _is_file(name) else source(str(name)).made


def resolve(name: str | Path) -> Path:
    """A file or folder as it is, or the file of a named set.

    Raises:
        VibronicError: as :func:`path_of`.
    """
    return Path(name) if _is_file(name) else path_of(str(name))


def structures(name: str | Path) -> list[Atoms]:
    """Structures of a file, folder or named set, labels in Vibronic's units: the one way in for verbs and people.

    Raises:
        VibronicError: as :func:`read_labelled`; there is no such file or set, or it is not installed.
    """
    made = _made(name)
    return made() if made else read_labelled(resolve(name))


def place(name: str | Path, k: int) -> str:
    """Where structure ``k`` (from 0) of :func:`structures` is: the file or named set, and its number there."""
    if not _made(name) and resolve(name).is_dir():
        for file in structure_files(resolve(name)):
            there = len(read_structures(file))
            if k < there:
                return f"{file}, structure {k}"
            k -= there
    return f"{name}, structure {k}"


def units(name: str | Path) -> dict[str, str]:
    """Units by label name that the ``dataset.yaml`` of a file or folder gives, or that are known of a named set."""
    return dict(source(str(name)).units) if _made(name) else declared_units(resolve(name))


def references(name: str | Path) -> dict[str, str]:
    """What the labels of a file, folder or named set are relative to, by name; total energies unless it says so."""
    given = source(str(name)).references if _made(name) else declared_references(resolve(name))
    return {"energy": "total energy, as in the labels", **given}


def crystal(name: str | Path) -> Atoms:
    """The one structure of a file or named set.

    Raises:
        VibronicError: it holds several.
    """
    made = _made(name)
    found = made() if made else read_structures(resolve(name))
    if len(found) != 1:
        raise VibronicError(f"{name} holds {len(found)} structures; one crystal is needed here")
    return found[0]
