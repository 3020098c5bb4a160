"""The crystal sets of CDVAE and DiffCSP, and any CSV of their form: one CIF, an identifier and properties in each row.

Perov-5 are cubic perovskites of five atoms (Castelli 2012), Carbon-24 carbon at 10 GPa from random searches (Pickard 2020),
MP-20 and MPTS-52 crystals of the Materials Project with up to 20 and 52 atoms. What is read once is kept as arrays in the
user's cache, under a name made of the checksums of the files.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os import environ
from pathlib import Path
from typing import Literal

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.data import atomic_numbers

from vibronic.core.errors import VibronicError
from vibronic.core.progress import track
from vibronic.core.provenance import cache_folder, writable
from vibronic.data import tables

Part = Literal["train", "val", "test"]

PARTS: tuple[Part, ...] = ("train", "val", "test")

FORMAT = 1
"""Of the arrays in the cache; another number when their names or meaning change, or when parsing or reducing does."""


@dataclass(frozen=True)
class CrystalSet:
    """A set with an official split.

    Attributes:
        folder: below ``crystals`` in ``VIBRONIC_DATA`` or the cache, where ``train.csv``, ``val.csv`` and ``test.csv`` are.
        address: of these three files.
        blobs: git's identifier of each, as their repository lists them.
        units: of its properties.
        zeros: what its energies are relative to.
        others: further files below ``crystals`` with rows of the set.
    """

    folder: str
    address: str
    blobs: dict[Part, str]
    units: dict[str, str]
    zeros: dict[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()


_CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/main/data"
_DIFFCSP = "https://raw.githubusercontent.com/jiaor17/DiffCSP/main/data"
_MP_ZEROS = {"formation_energy_per_atom": "the elements, as in the Materials Project"}

SETS = {
    "perov-5": CrystalSet(
        "perov_5",
        f"{_CDVAE}/perov_5",
        {
            "train": "0769074b5d51d293b765c4371b8f55c468c9c9f2",
            "val": "4a2c8dde98347dd0e01fa83dcf3982c2abe98f9f",
            "test": "d3c5d5af4b27a2a139149f2bb73c8a3dba9d8ac1",
        },
        # Per atom, as Castelli 2012 draws them: steps of 0.02 are 0.1 eV of five atoms, and LaAlO3 (-0.10) and NaNbO3 (-0.32)
        # have what forming them from the binary oxides gives, divided by five. Matbench calls the same numbers eV per cell.
        {"heat_ref": "eV/atom", "heat_all": "eV/atom", "dir_gap": "eV", "ind_gap": "eV"},
        dict.fromkeys(("heat_ref", "heat_all"), "the competing phases of Castelli 2012, oxygen from water vapour"),
    ),
    "carbon-24": CrystalSet(
        "carbon_24",
        f"{_CDVAE}/carbon_24",
        {
            "train": "5e7ae970fbad8ddc46b6963e8cd6e425f11783a6",
            "val": "b3e29b927883642426ca1d9632d00359b412742b",
            "test": "9beca843fde489de1fe288b32f9e3ff710d42803",
        },
        {"energy_per_atom": "eV/atom"},
        {"energy_per_atom": "total energy of the pseudo-atoms, as published"},
    ),
    "mp-20": CrystalSet(
        "mp_20",
        f"{_CDVAE}/mp_20",
        {
            "train": "b1c9d498565ac2fd8d075a51ff2ef5e51ba6c21f",
            "val": "7efe4d7ebeb4f460ceaad35e5326c42111d9c9a1",
            "test": "5dc643041df53f5ce4970a79930ad262b4f07acd",
        },
        {"formation_energy_per_atom": "eV/atom", "band_gap": "eV", "e_above_hull": "eV/atom", "spacegroup": "1"},
        _MP_ZEROS,
        ("mp_20_biternary/val.csv", "mp_20_subset/subset.csv"),
    ),
    "mpts-52": CrystalSet(
        "mpts_52",
        f"{_DIFFCSP}/mpts_52",
        {
            "train": "28c53b0a0fd3f32fb8078aca8e5b484e372790c6",
            "val": "a377ba0ca7bee37ee69d9f50f8362eaa35d9f690",
            "test": "2e8af159618f63be346b6527f155514323964423",
        },
        {"formation_energy_per_atom": "eV/atom", "energy_above_hull": "eV/atom", "year": "1"},
        _MP_ZEROS,
    ),
}

_REDUNDANT = ("", "cif", "formula", "pretty_formula", "elements")
"""Columns that say what the structure says, and the unnamed one of pandas' row numbers."""


def read_csv(path: Path | str, reduce: bool = False) -> list[Atoms]:
    """The crystals of a CSV with the columns ``cif`` and, where there is one, ``material_id``, and any properties.

    Args:
        path: gzipped or not.
        reduce: each as :func:`vibronic.data.cells.reduced` makes it.

    Returns:
        Structures in the order of the rows; in ``info`` ``material_id``, properties as floats (``spacegroup`` an integer),
        and other columns as text.

    Raises:
        VibronicError: names the file and the row (from 1, after the header) that is damaged, disordered or no crystal.
    """
    path = Path(path)
    if not path.exists():
        raise VibronicError(f"there is no file {path}")
    return _atoms(_arrays(path, reduce))


def crystals(name: str, part: Part | None = None, reduce: bool = False) -> list[Atoms]:
    """The crystals of a set of :data:`SETS`: of one part of its official split, or all rows at hand.

    Returns:
        As :func:`read_csv`; a ``material_id`` that came before is left out.

    Raises:
        VibronicError: as :func:`read_csv`; there is no file of the set here, and how to get it.
    """
    found = files(name, part)
    if not found:
        raise VibronicError(absent(name, part))
    frames: list[Atoms] = []
    seen: set[str] = set()
    for file in found:
        frames += [atoms for atoms in _atoms(_arrays(file, reduce)) if atoms.info.get("material_id") not in seen]
        seen |= {atoms.info["material_id"] for atoms in frames if "material_id" in atoms.info}
    return frames


def files(name: str, part: Part | None = None) -> list[Path]:
    """The files of a set, or of one part of it, that are here: below ``VIBRONIC_DATA``, or downloaded."""
    one = _set(name)
    wanted = [f"{one.folder}/{p}.csv" for p in ((part,) if part else PARTS)] + list(() if part else one.others)
    roots = [Path(environ["VIBRONIC_DATA"])] if environ.get("VIBRONIC_DATA") else []
    places = [
        [root / "crystals" / (file + ending) for root in (*roots, cache_folder()) for ending in ("", ".gz")]
        for file in wanted
    ]
    return [next(path for path in paths if path.is_file()) for paths in places if any(p.is_file() for p in paths)]


def absent(name: str, part: Part | None = None) -> str:
    """Both ways to a set that is not here, in one sentence."""
    one = _set(name)
    full = f"{name}-{part}" if part else name
    file = f"{part}.csv" if part else "train.csv, val.csv or test.csv"
    return (
        f"'{full}' is not here: put {file}, gzipped or not, into crystals/{one.folder} of the folder that VIBRONIC_DATA "
        f"names, or fetch it with 'vibronic data {full} --download'"
    )


def blob(held: bytes) -> str:
    """Git's identifier of a file of this content, which is what its repository lists."""
    return hashlib.sha1(b"blob %d\0" % len(held) + held, usedforsecurity=False).hexdigest()


def described(name: str, part: Part | None = None) -> list[str]:
    """Where a set comes from: for every file that is here or official one line with address, checksum and verdict."""
    one = _set(name)
    here = files(name, part)
    lines = []
    for p in (part,) if part else PARTS:
        said = f"{p}: {one.address}/{p}.csv (git blob {one.blobs[p]})"
        own = files(name, p)
        if not own:
            lines.append(f"{said}: not here")
            continue
        here.remove(own[0])
        same = blob(tables.content(own[0])) == one.blobs[p]
        lines.append(f"{said}: {own[0]} is {'' if same else 'not '}the official file")
    return lines + [f"also: {path}, which is no official file" for path in here]


def download(name: str, part: Part | None = None) -> list[Path]:
    """Fetch the official files of a set, or of a part of it, into the cache, but for those that are here already.

    Returns:
        The files fetched.

    Raises:
        VibronicError: the network or the address is not to be reached, what came is not the official file, or the cache
            cannot be written.
    """
    import gzip
    from http.client import HTTPException
    from urllib.request import urlopen

    one = _set(name)
    fetched = []
    for p in (part,) if part else PARTS:
        if any(blob(tables.content(file)) == one.blobs[p] for file in files(name, p)):
            continue
        address = f"{one.address}/{p}.csv"
        try:
            with urlopen(address, timeout=60) as answer:
                held = answer.read()
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise VibronicError(
                f"cannot fetch {address} ({reason}); without a network, put the file into crystals/{one.folder} of the "
                "folder that VIBRONIC_DATA names"
            ) from error
        if blob(held) != one.blobs[p]:
            raise VibronicError(
                f"{address} is not the file it was (git blob {blob(held)} instead of {one.blobs[p]}); nothing was kept"
            )
        file = cache_folder() / "crystals" / one.folder / f"{p}.csv.gz"
        try:
            with writable(file) as temporary:
                temporary.write_bytes(gzip.compress(held, mtime=0))
        except VibronicError as error:
            raise VibronicError(f"cannot write to the cache {file.parent}; set VIBRONIC_CACHE to a folder") from error
        fetched.append(file)
    return fetched


def _set(name: str) -> CrystalSet:
    if name not in SETS:
        raise VibronicError(f"there is no crystal set '{name}'; known sets: {', '.join(SETS)}")
    return SETS[name]


# --- arrays, once ---


def _arrays(path: Path, reduce: bool) -> dict[str, np.ndarray]:
    """A file as flat arrays of ``M`` crystals with ``N`` atoms in all, from the cache or made.

    Returns:
        ``n_atoms`` (M,), ``numbers`` (N,), ``cells`` (M, 3, 3) and ``positions`` (N, 3) in Angstrom, and every column as
        ``info NAME`` (M,), numbers or text.
    """
    held = tables.content(path)
    kept = cache_folder() / f"crystals-{blob(held)}-{'reduced' if reduce else 'given'}-{FORMAT}.npz"
    arrays = _cached(kept)
    if arrays is None:
        arrays = _reduced(_arrays(path, False)) if reduce else _parsed(path, held)
        # Where no cache can be written, the next time is as slow as this one.
        with suppress(VibronicError), writable(kept) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]  # mypy takes them for its option allow_pickle
    return arrays


def _cached(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays in a file; None where it is missing or damaged."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as kept:
            found = {name: kept[name] for name in kept.files}
            n, atoms = len(found["n_atoms"]), int(found["n_atoms"].sum())
            whole = found["positions"].shape == (atoms, 3) and found["numbers"].shape == (atoms,)
            whole &= found["cells"].shape == (n, 3, 3)
            whole &= all(len(values) == n for name, values in found.items() if name.startswith("info "))
    except (OSError, ValueError, KeyError, EOFError, TypeError, IndexError, AttributeError, zipfile.BadZipFile):
        return None
    return found if whole else None


def _atoms(arrays: dict[str, np.ndarray]) -> list[Atoms]:
    end = np.cumsum(arrays["n_atoms"])
    columns = {name.removeprefix("info "): values for name, values in arrays.items() if name.startswith("info ")}
    infos = tables.infos(columns, len(end))
    return [
        Atoms(numbers=arrays["numbers"][a:b], positions=arrays["positions"][a:b], cell=cell, pbc=True, info=info)
        for a, b, cell, info in zip(end - arrays["n_atoms"], end, arrays["cells"], infos, strict=True)
    ]


def _flat(structures: Sequence[Atoms]) -> dict[str, np.ndarray]:
    return {
        "n_atoms": np.array([len(atoms) for atoms in structures]),
        "numbers": np.concatenate([atoms.numbers for atoms in structures]),
        "positions": np.concatenate([atoms.positions for atoms in structures]),
        "cells": np.array([atoms.cell.array for atoms in structures]),
    }


def _reduced(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from vibronic.data.cells import reduced

    new = [reduced(atoms) for atoms in track(_atoms(arrays), "Reducing cells")]
    columns = {name: values for name, values in arrays.items() if name.startswith("info ")}
    for name, values in columns.items():
        if values.dtype.kind == "f":  # extensive properties are of the smaller cell now
            columns[name] = np.array([atoms.info.get(name.removeprefix("info "), np.nan) for atoms in new], dtype=float)
    return {**_flat(new), **columns}


# --- text ---


def _parsed(path: Path, held: bytes) -> dict[str, np.ndarray]:
    """The arrays from the text of a file."""
    from vibronic.data.dataset import check_structure

    header, rows = tables.rows_of(path, held)
    if "cif" not in header:
        raise VibronicError(
            f"{path} has no column 'cif'; a table of structures has one with the text of a CIF in every row, and this has "
            f"{', '.join(name for name in header if name)[:200]}"
        )
    structures = []
    for k, row in enumerate(rows):
        where = f"{path}, row {k + 1}"
        if "material_id" in header:
            where += f" ({row[header.index('material_id')][:40]})"
        structures.append(_crystal(row[header.index("cif")], where))
        check_structure(structures[-1], where)
    arrays = _flat(structures)
    for c, name in enumerate(header):
        values = [row[c] for row in rows]
        if name not in _REDUNDANT:
            arrays[f"info {name}"] = np.array(values) if name == "material_id" else tables.column(path, name, values)
    return arrays


_FORM = re.compile(
    r"\n_symmetry_space_group_name_H-M\s+'P 1'\n_cell_length_a\s+(\S+)\n_cell_length_b\s+(\S+)\n_cell_length_c\s+(\S+)\n"
    r"_cell_angle_alpha\s+(\S+)\n_cell_angle_beta\s+(\S+)\n_cell_angle_gamma\s+(\S+)\n"
    r".*'x, y, z'\nloop_\n\s*_atom_site_type_symbol\n\s*_atom_site_label\n\s*_atom_site_symmetry_multiplicity\n"
    r"\s*_atom_site_fract_x\n\s*_atom_site_fract_y\n\s*_atom_site_fract_z\n\s*_atom_site_occupancy\n([^_#]+)$",
    re.DOTALL,
)
"""What pymatgen writes of a crystal without symmetry: lattice parameters, then seven words for each atom."""


def _crystal(text: str, where: str) -> Atoms:
    """The crystal of a CIF: read off where pymatgen wrote it without symmetry, else left to ASE."""
    text = text.replace("\r\n", "\n")
    found = _FORM.search("\n" + text)
    words = found[7].split() if found else []
    if found and words and len(words) % 7 == 0 and all(word in ("1", "1.0") for word in words[6::7]):
        try:
            numbers = [atomic_numbers[symbol] for symbol in words[::7]]
            cell = Cell.fromcellpar([float(found[k]) for k in range(1, 7)])
            fractional = np.array([words[3::7], words[4::7], words[5::7]], dtype=float).T
            return Atoms(numbers=numbers, positions=fractional @ cell.array, cell=cell, pbc=True)
        except (KeyError, ValueError, AssertionError, ZeroDivisionError):
            pass  # ASE may know better, and else says that it cannot read it
    return _by_ase(text, where)


def _by_ase(text: str, where: str) -> Atoms:
    import warnings

    from ase.io import read

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parsers warn about spellings that do not change the structure
            atoms = read(io.StringIO(text), index=-1, format="cif")
            assert isinstance(atoms, Atoms)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VibronicError(f"cannot read the CIF of {where}: it is damaged or cut ({reason})") from error
    from vibronic.data.dataset import check_structure

    check_structure(atoms, where)
    plain: Atoms = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
    return plain
