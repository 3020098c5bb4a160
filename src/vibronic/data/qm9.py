"""QM9: 130,831 molecules of H, C, N, O, F, up to nine atoms of them not H, at B3LYP/6-31G(2df,p) (Ramakrishnan 2014).

The whole set is in the wheel ``qm9pack``, as text. It is read once and kept as arrays in the user's cache.
"""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from array import array
from contextlib import suppress
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import cache_folder, writable
from vibronic.core.targets import TARGETS
from vibronic.core.units import conversion

Part = Literal["all", "train", "validation", "test", "large"]

INSTALL = "pip install 'vibronic[molecules]'"

FORMAT = 1
"""Of the arrays in the cache; another number when their names or meaning change."""

HARTREE = 27.2114
"""eV; not CODATA's 27.211386, but what the energies of Quantum Deep Field were made with. Ours equal those to the last bit."""

LARGE = 15
"""Atoms from which a molecule is in the part ``large``, to which models of the smaller ones extrapolate."""

LABELS: dict[str, tuple[str, str]] = {
    "energy": ("InternalEnergy_0K_au", "Hartree"),
    "energy_298K": ("InternalEnergy_298K_au", "Hartree"),
    "enthalpy_298K": ("Enthalphy_298K_au", "Hartree"),
    "free_energy_298K": ("GibbsFreeEnergy_298K_au", "Hartree"),
    "zpve": ("ZPVE_au", "Hartree"),
    "homo": ("HOMO_au", "Hartree"),
    "lumo": ("LUMO_au", "Hartree"),
    "band_gap": ("HOMO_LUMO_gap_au", "Hartree"),
    "heat_capacity": ("Heatcapacity_Cv_cal_mol_K", "cal/mol/K"),
    "dipole_moment": ("Dipole_debye", "Debye"),
    "polarizability": ("Polarizability_bohr3", "Bohr^3"),
    "electronic_spatial_extent": ("R2_bohr2", "Bohr^2"),
}
"""Target -> column of the wheel and its unit."""

ATOMS: dict[str, dict[int, float]] = {
    "energy": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "energy_298K": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "enthalpy_298K": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "free_energy_298K": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
}
"""Free atoms, Hartree, from the authors of QM9 (their ``atomref.txt``): subtracted, so that these four are atomisation energies."""

REFERENCES = {
    "energy": "free atoms (atomisation energy at 0 K, with the zero-point energy)",
    **dict.fromkeys(("energy_298K", "enthalpy_298K", "free_energy_298K"), "free atoms at 298.15 K"),
}
"""Target -> its zero."""

_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}


def molecules(part: Part = "all") -> list[Atoms]:
    """The molecules of a part of QM9, in the order of their number in QM9, labels in ``info``.

    ``train``, ``validation`` and ``test`` are the authors' own parts (NeurIPS 2020, arXiv 2011.07929) of the molecules with up
    to 14 atoms: 11,831, 1,479 and 1,480. Their training set held one more, number 58, one of the 3,054 whose geometry failed
    QM9's own check, which the wheel leaves out. ``large`` holds the 116,041 with 15 atoms or more.

    Returns:
        Structures with ``qm9_index`` and the targets of :data:`LABELS` in ``info``, in Vibronic's units.

    Raises:
        VibronicError: qm9pack is not installed, or damaged.
    """
    qm9 = arrays()
    end = np.cumsum(qm9["n_atoms"])
    chosen = _members(part, qm9)
    names = ("qm9_index", *LABELS)
    rows = zip(*(qm9[name][chosen].tolist() for name in names), strict=True)
    return [
        Atoms(numbers=qm9["numbers"][a:b], positions=qm9["positions"][a:b], info=dict(zip(names, row, strict=True)))
        for a, b, row in zip((end - qm9["n_atoms"])[chosen], end[chosen], rows, strict=True)
    ]


def _members(part: Part, qm9: dict[str, np.ndarray]) -> np.ndarray:
    """Places of the molecules of a part."""
    if part == "all":
        return np.arange(len(qm9["n_atoms"]))
    if part == "large":
        return np.flatnonzero(qm9["n_atoms"] >= LARGE)
    packed = resources.files("vibronic").joinpath("data", "sets", "qm9-split.json.gz").read_bytes()
    parts = json.loads(gzip.decompress(packed))
    if part not in parts:
        raise VibronicError(f"QM9 has no part '{part}'; choose one of all, {', '.join(parts)}, large")
    return np.flatnonzero(np.isin(qm9["qm9_index"], parts[part]))


def installed() -> bool:
    """Whether the wheel with the data is here."""
    return _wheel() is not None


def _wheel() -> metadata.Distribution | None:
    # Never imported: the package needs pandas and setuptools' pkg_resources, and has nothing but its data to offer.
    try:
        return metadata.distribution("qm9pack")
    except metadata.PackageNotFoundError:
        return None


@cache
def arrays() -> dict[str, np.ndarray]:
    """QM9 as flat, read-only arrays of ``M`` molecules with ``N`` atoms in all.

    Returns:
        ``qm9_index`` (M,), ``n_atoms`` (M,), ``numbers`` (N,), ``positions`` (N, 3) in Angstrom, and every target of
        :data:`LABELS` (M,) in Vibronic's units.

    Raises:
        VibronicError: qm9pack is not installed, or damaged.
    """
    wheel = _wheel()
    if wheel is None:
        raise VibronicError(f"QM9 is in the package qm9pack, which is not installed; install it with: {INSTALL}")
    kept = cache_folder() / f"qm9-{wheel.version}-{FORMAT}.npz"
    qm9 = _cached(kept)
    if qm9 is None:
        qm9 = _parsed(Path(str(wheel.locate_file("qm9pack/data"))))
        # Where no cache can be written, the next time is as slow as this one.
        with suppress(VibronicError), writable(kept) as temporary:
            np.savez(temporary, **qm9)  # type: ignore[arg-type]  # mypy takes them for its option allow_pickle
    for values in qm9.values():
        values.flags.writeable = False
    return qm9


def _cached(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays in a file; None where it is missing or damaged."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            qm9 = {name: kept[name] for name in ("qm9_index", "n_atoms", "numbers", "positions", *LABELS)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return qm9 if len(qm9["numbers"]) == len(qm9["positions"]) == qm9["n_atoms"].sum() else None


def _parsed(folder: Path) -> dict[str, np.ndarray]:
    """The arrays from the wheel's text, in a few seconds."""
    index, n_atoms, numbers, positions = array("q"), array("q"), array("q"), array("d")
    values = {name: array("d") for name in LABELS}
    try:
        for k in (1, 2, 3):
            with (folder / f"qm9_part{k}.csv").open(newline="") as file:
                for row in csv.DictReader(file):
                    elements = row["Elements"].strip("[]").replace("'", "").split(",")
                    index.append(int(row["Index"]))
                    n_atoms.append(len(elements))
                    numbers.extend(_NUMBERS[element] for element in elements)
                    # "0." and "1." are numbers of this list, though not of JSON.
                    positions.extend(map(float, row["XYZ_Ang"].replace("[", "").replace("]", "").split(",")))
                    for name, (column, _) in LABELS.items():
                        values[name].append(float(row[column]))
        qm9 = {"qm9_index": np.array(index), "n_atoms": np.array(n_atoms), "numbers": np.array(numbers)}
        qm9["positions"] = np.array(positions).reshape(len(numbers), 3)
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise VibronicError(
            f"the data of qm9pack is damaged ({error}); install it again with pip install --force-reinstall qm9pack"
        ) from error
    molecule = np.repeat(np.arange(len(n_atoms)), qm9["n_atoms"])
    for name, (_, unit) in LABELS.items():
        free = np.zeros(10)
        free[list(ATOMS.get(name, {}))] = list(ATOMS.get(name, {}).values())
        # bincount adds atom by atom, as the authors did; a sum by pairs differs in the last bits.
        label = np.array(values[name]) - np.bincount(molecule, weights=free[qm9["numbers"]])
        qm9[name] = label * (HARTREE if unit == "Hartree" else conversion(unit, TARGETS[name].unit))
    return qm9
