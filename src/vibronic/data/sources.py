"""Structures and sets by name: what ships with the package, and reference sets in the folder ``VIBRONIC_DATA``."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.data.dataset import read_labelled, read_structures


@dataclass(frozen=True)
class Source:
    """A named set.

    Attributes:
        summary: one line for ``vibronic data``.
        licence: of the data.
        embedded: file inside the package, or
        reference: files below ``VIBRONIC_DATA``.
    """

    summary: str
    licence: str
    embedded: str = ""
    reference: tuple[str, ...] = ()


SOURCES = {
    "Ag3SBr": Source("cubic anti-perovskite Ag3SBr, 5 atoms", "CC0", embedded="Ag3SBr.cif"),
    "NaCl": Source("rock salt, 8 atoms", "CC0", embedded="NaCl.cif"),
    "Ag3SBr-pbe": Source(
        "58 displaced 40-atom cells of Ag3SBr with PBE energy, forces, stress, gap, VBM, CBM",
        "CC0",
        embedded="Ag3SBr-pbe.extxyz.gz",
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
}


def path_of(name: str) -> Path:
    """File of a named set.

    Raises:
        VibronicError: there is no such set, or it is a reference set and ``VIBRONIC_DATA`` does not hold it.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known sets: {', '.join(SOURCES)}"
        raise VibronicError(f"'{name}' is neither a file nor a named set; {hint}")
    source = SOURCES[name]
    if source.embedded:
        return Path(str(resources.files("vibronic").joinpath("data", "sets", source.embedded)))
    root = os.environ.get("VIBRONIC_DATA")
    if not root:
        raise VibronicError(f"'{name}' is not in the package: set VIBRONIC_DATA to the folder of the reference data")
    path = Path(root) / source.reference[0]
    if not path.exists():
        raise VibronicError(f"'{name}' is not below VIBRONIC_DATA: expected {path}")
    return path


def available(name: str) -> bool:
    """Whether a named set can be read here."""
    try:
        return path_of(name).exists()
    except VibronicError:
        return False


def resolve(name: str | Path) -> Path:
    """A file or folder as it is, or the file of a named set."""
    path = Path(name)
    if path.exists() or path.suffix or "/" in str(name):
        return path
    return path_of(str(name))


def structures(name: str | Path) -> list[Atoms]:
    """Structures of a file, folder or named set, labels in Vibronic's units."""
    return read_labelled(resolve(name))


def crystal(name: str | Path) -> Atoms:
    """The one structure of a file or named set.

    Raises:
        VibronicError: it holds several.
    """
    found = read_structures(resolve(name))
    if len(found) != 1:
        raise VibronicError(f"{name} holds {len(found)} structures; one crystal is needed here")
    return found[0]
