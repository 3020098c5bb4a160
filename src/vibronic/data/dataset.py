"""Labelled sets: reading and writing structures, checking them, splitting them and batching them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from torch.utils.data import DataLoader, Sampler

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError, VibronicWarning
from vibronic.core.neighbors import neighbor_list
from vibronic.core.provenance import writable
from vibronic.core.targets import TARGETS, Target, target
from vibronic.core.units import conversion
from vibronic.data.tables import add_properties, is_table, table_beside

MIN_DISTANCE = 0.4
"""Atoms closer than this (Angstrom) are a mistake in a file, not a structure; H2 is 0.74."""

_FROM_CALCULATOR = ("energy", "forces", "stress", "dipole")


def read_structures(path: Path | str, check: bool = True) -> list[Atoms]:
    """All structures of a file that ASE reads (CIF, POSCAR, extxyz, xyz, cube, VASP and QE output, gzipped or not).

    Of a CSV, those of its column ``cif`` (:func:`vibronic.data.cdvae.read_csv`). Of a folder, those of all its structure
    files, in the order of their names, with the properties that a ``properties.csv`` among them gives; other files in it
    are passed over, with a warning. Files only: :func:`vibronic.data.sources.structures` reads sets by name as well.

    Args:
        path: file or folder.
        check: refuse what is no structure (:func:`check_structure`). Without it atoms may overlap and cells have no volume, as
            among crystals that a model generated and that are to be counted as they are.

    Raises:
        VibronicError: the file is missing, empty, truncated, binary, holds partial occupancies, unknown elements,
            overlapping atoms, a cell without volume or positions that are not numbers; a table does not fit.
    """
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError

    path = Path(path)
    if not path.exists():
        hint = "" if path.suffix or len(path.parts) > 1 else " (sets by name: vibronic.data.sources.structures)"
        raise VibronicError(f"there is no file {path}{hint}")
    if path.is_dir():
        files = structure_files(path)
        read_too = {path / "dataset.yaml", table_beside(path), *files}
        others = sorted(p.name for p in path.iterdir() if p.is_file() and p not in read_too)
        if not files:
            raise VibronicError(f"the folder {path} holds no structure files")
        if others:
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            warnings.warn(f"{path}: ignored files that hold no structures: {len(others)} ({shown})", VibronicWarning, 2)
        held = [read_structures(file, check) for file in files]
        add_properties(path, files, held)
        return [atoms for frames in held for atoms in frames]
    if path.stat().st_size == 0:
        raise VibronicError(f"the file {path} is empty")
    if is_table(path):
        from vibronic.data.cdvae import read_csv

        return read_csv(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parsers warn about spellings that do not change the structure
            frames = [*read(path, index=":")]
    except UnknownFileTypeError as error:
        raise VibronicError(f"{path} is in no format that ASE recognises; use CIF, POSCAR or extxyz") from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "its reader gives no reason"
        if reason.startswith("Can't read from"):  # of formats that ASE writes only
            raise VibronicError(f"{path} is in no format that ASE reads; use CIF, POSCAR or extxyz") from error
        if isinstance(error, KeyError) and str(error.args[0]).isalpha() and len(error.args[0]) < 4:
            raise VibronicError(f"{path} has an atom of unknown element {reason}") from error
        raise VibronicError(
            f"cannot read {path}: it is damaged, truncated or not a structure file ({reason})"
        ) from error
    if not frames:
        raise VibronicError(f"the file {path} holds no structures")
    for k, atoms in enumerate(frames if check else ()):
        where = f"{path}, structure {k}" if len(frames) > 1 else str(path)
        check_structure(atoms, where)
    return frames


def structure_files(folder: Path) -> list[Path]:
    """The files of a folder that a format of ASE claims, by name or content, sorted; damaged ones among them."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and _claimed(p))


def _claimed(path: Path) -> bool:
    from ase.io.formats import UnknownFileTypeError, extension2format, filetype

    if is_table(path) or path.suffix.lower() in (
        ".json",
        ".md",
        ".yaml",
    ):  # ours, and notes; ASE takes .md for CASTEP's dynamics
        return False
    try:
        return filetype(str(path), guess=False) is not None
    except UnknownFileTypeError:  # also what is said of any empty file
        return path.stat().st_size == 0 and any(suffix[1:] in extension2format for suffix in path.suffixes)
    except (OSError, EOFError):  # cut off within its compression
        return True


def check_structure(atoms: Atoms, where: str = "the structure") -> None:
    """Refuse what no engine could label.

    Raises:
        VibronicError: one sentence that names the first fault.
    """
    if len(atoms) == 0:
        raise VibronicError(f"{where} has no atoms")
    occupancy = atoms.info.get("occupancy")
    if isinstance(occupancy, dict) and any(
        abs(sum(site.values()) - 1) > 1e-6 or len(site) > 1 for site in occupancy.values()
    ):
        raise VibronicError(
            f"{where} has partial occupancies; choose an ordered arrangement first (vibronic.sampling.disorder does)"
        )
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise VibronicError(f"{where} has positions or lattice vectors that are not finite numbers")
    if (atoms.numbers < 1).any():
        raise VibronicError(f"{where} has an atom of unknown element ('X')")
    if atoms.pbc.any():
        lengths = atoms.cell.lengths()
        if (lengths[atoms.pbc] < 1e-3).any() or abs(atoms.cell.complete().volume) < 1e-3:
            raise VibronicError(f"{where} has a unit cell without volume; check the lattice vectors")
    i, j, _ = neighbor_list(atoms, MIN_DISTANCE)
    if len(i):
        a, b = int(i[0]), int(j[0])
        raise VibronicError(
            f"{where}: atoms {a} ({atoms.symbols[a]}) and {b} ({atoms.symbols[b]}) overlap "
            f"(closer than {MIN_DISTANCE} Angstrom)"
        )


def label_of(atoms: Atoms, name: str) -> np.ndarray | float | None:
    """The label of this name in a structure, in Vibronic's units, or None.

    Stress comes as (3, 3); ``pressure`` is -trace(stress)/3.
    """
    if name == "pressure" and name not in atoms.info:
        stress = label_of(atoms, "stress")
        return None if stress is None else -float(np.trace(stress)) / 3
    if name in _FROM_CALCULATOR and atoms.calc is not None:
        results = getattr(atoms.calc, "results", {})
        if name in results:
            value = results[name]
            if name == "stress":
                from ase.stress import voigt_6_to_full_3x3_stress

                return voigt_6_to_full_3x3_stress(value) if np.shape(value) == (6,) else np.asarray(value)
            return value if np.ndim(value) else float(value)
    if name in atoms.info:
        value = atoms.info[name]
        return np.asarray(value) if np.ndim(value) else value
    if name in atoms.arrays:
        return atoms.arrays[name]
    return None


def labels_of(atoms: Atoms, targets: Sequence[Target], where: str = "the structure") -> dict[str, np.ndarray | float]:
    """All asked-for labels of one structure.

    Raises:
        VibronicError: a label is missing (says which are there), of the wrong shape, or not a finite number.
    """
    labels: dict[str, np.ndarray | float] = {}
    for t in targets:
        value = label_of(atoms, t.name)
        if value is None:
            there = [n for n in (*TARGETS, *atoms.info) if label_of(atoms, n) is not None]
            there = [n for n in dict.fromkeys(there) if n in TARGETS or isinstance(atoms.info.get(n), float)]
            raise VibronicError(f"{where} has no label '{t.name}'; it has {', '.join(there) or 'no labels'}")
        shape = (len(atoms), *t.shape) if t.level == "atom" else t.shape
        try:
            numbers = np.asarray(value, dtype=float).reshape(shape)
        except (TypeError, ValueError) as error:
            wanted = f"numbers of shape {shape}" if shape else "a number"
            given = f", but '{value}'" if isinstance(value, str) else ""
            raise VibronicError(f"{where}: the label '{t.name}' is not {wanted}{given}") from error
        if not np.isfinite(numbers).all():
            raise VibronicError(f"{where}: the label '{t.name}' is NaN or infinite; remove it or label it again")
        labels[t.name] = numbers if numbers.ndim else float(numbers)
    return labels


def read_labelled(path: Path | str) -> list[Atoms]:
    """Structures with their labels in Vibronic's units.

    A ``dataset.yaml`` beside the file may give the units it is written in, e.g. ``units: {energy: Hartree}``.

    Raises:
        VibronicError: as :func:`read_structures`; a unit is unknown or measures something else.
    """
    frames = read_structures(path)
    units = declared_units(path)
    try:
        factors = {name: conversion(unit, target(name).unit) for name, unit in units.items() if name in TARGETS}
    except VibronicError as error:
        raise VibronicError(f"dataset.yaml beside {path}: {error}") from error
    factors = {name: f for name, f in factors.items() if f != 1.0}
    for atoms in frames if factors else ():
        results = getattr(atoms.calc, "results", {})
        for name, factor in factors.items():
            for store in (results, atoms.info, atoms.arrays):
                if name in store:
                    store[name] = np.asarray(store[name]) * factor if np.ndim(store[name]) else store[name] * factor
    return frames


def declared_units(path: Path | str) -> dict[str, str]:
    """Units by label name, as the ``dataset.yaml`` beside a file (or in a folder) gives them; empty without one.

    Raises:
        VibronicError: the ``dataset.yaml`` is damaged.
    """
    return _declared(path, "units")


def declared_references(path: Path | str) -> dict[str, str]:
    """Zeros by label name, as :func:`declared_units`: ``references: {energy: free atoms}``."""
    return _declared(path, "references")


def _declared(path: Path | str, key: str) -> dict[str, str]:
    import yaml

    path = Path(path)
    sidecar = (path if path.is_dir() else path.parent) / "dataset.yaml"
    if not sidecar.exists():
        return {}
    try:
        described = yaml.safe_load(sidecar.read_text()) or {}
        return {str(name): str(value) for name, value in dict(described.get(key, {})).items()}
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise VibronicError(
            f"{sidecar} is not a description of a data set (expected '{key}: {{name: ...}}')"
        ) from error


def write_structures(path: Path, structures: Sequence[Atoms]) -> None:
    """Write extxyz, atomically, labels and provenance included, in Vibronic's units.

    Raises:
        VibronicError: the folder cannot be written, or a ``dataset.yaml`` in it gives other units to its files.
    """
    from ase.io import write

    foreign = [n for n, unit in declared_units(path).items() if n in TARGETS and conversion(unit, TARGETS[n].unit) != 1]
    if foreign:
        raise VibronicError(
            f"{Path(path).parent / 'dataset.yaml'} gives another unit of '{foreign[0]}' to the files beside it than this "
            "one would have; choose another folder for --out"
        )
    with writable(path) as temporary:
        write(temporary, [plain(atoms) for atoms in structures], format="extxyz")


def plain(atoms: Atoms) -> Atoms:
    """A copy whose calculator, if any, only holds results: what a file can carry."""
    copy = atoms.copy()
    copy.info = {k: v for k, v in copy.info.items() if isinstance(v, (str, int, float, bool, np.generic, np.ndarray))}
    if atoms.calc is not None:
        try:
            results = {k: v for k, v in atoms.calc.results.items() if k in ("energy", "forces", "stress", "dipole")}
        except (AttributeError, PropertyNotImplementedError):
            results = {}
        copy.calc = SinglePointCalculator(copy, **results)
    return copy


def split(
    structures: Sequence[Atoms], fractions: Sequence[float], seed: int, families: Sequence[int] | None = None
) -> list[list[int]]:
    """Random parts of a set, as indices, that never share a family; the first holds every element that there is.

    A family is the structures of one ``parent`` when the set has at least two parents per part. Otherwise (a set grown
    from few crystals) parents are divided, into the +u/-u ``pair`` of one draw, stretches of about five consecutive
    snapshots of one molecular-dynamics trajectory (same parent, seed and temperature; neighbours in time are nearly
    the same configuration, so the fewer of them are parted the better), and single structures for the rest.

    The first part is to be learned, and no model can take an element that it was not shown: families with elements that the
    first part lacks go into it, which may leave another part smaller, or empty.

    Args:
        structures: in the order of time where they come from dynamics.
        fractions: share of each part; they are scaled to sum to 1.
        families: number of each structure's family, where the caller knows better.

    Raises:
        VibronicError: there are fewer families than parts.
    """
    if families is not None:
        names = [str(family) for family in families]
    else:
        names = [str(a.info.get("parent", k)) for k, a in enumerate(structures)]
        if len(set(names)) < 2 * len(fractions):
            names = _families_within(structures, len(fractions))
    members: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        members.setdefault(name, []).append(k)
    if len(members) < len(fractions):
        raise VibronicError(
            f"{len(structures)} structures of {len(members)} families cannot be split into {len(fractions)} parts"
        )
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    ends = np.round(np.cumsum(fractions) / np.sum(fractions) * len(order)).astype(int)
    rank = np.arange(len(ends))  # every part gets at least one family
    ends = np.minimum(np.maximum.accumulate(np.maximum(ends - rank, 1)) + rank, len(order) - rank[::-1])
    learned, *held = (list(part) for part in np.split(np.array(order, dtype=object), ends[:-1]))
    elements = {name: {z for k in ks for z in structures[k].numbers.tolist()} for name, ks in members.items()}
    shown = set().union(*(elements[name] for name in learned))
    for part in held:
        for name in [name for name in part if not elements[name] <= shown]:
            shown |= elements[name]
            learned.append(name)
            part.remove(name)
    return [sorted(k for name in part for k in members[name]) for part in (learned, *held)]


def _families_within(structures: Sequence[Atoms], parts: int) -> list[str]:
    """The family of each structure of a set with too few parents to keep each of them whole; see ``split``."""
    names: list[str] = []
    trajectories: dict[str, list[int]] = {}
    for k, atoms in enumerate(structures):
        drawn = [atoms.info.get(key) for key in ("parent", "method", "seed")]
        if "pair" in atoms.info:
            names.append(str([*drawn, "pair", atoms.info["pair"]]))
        else:
            names.append(str([*drawn, "structure", k]))
            if atoms.info.get("method") == "md":
                trajectory = str([*drawn, "temperature", atoms.info.get("temperature_K")])
                trajectories.setdefault(trajectory, []).append(k)
    for trajectory, members in trajectories.items():
        length = min(5, max(1, len(members) // parts))  # a short trajectory still gives something to every part
        for time, k in enumerate(members):
            names[k] = f"{trajectory}, stretch {time // length}"
    return names


class GraphData(torch.utils.data.Dataset):
    """Structures with labels and neighbour lists, computed once; item ``k`` is a :class:`Batch` of one, its geometry as ``dtype``."""

    def __init__(
        self,
        structures: Iterable[Atoms],
        targets: Sequence[Target],
        cutoff: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.graphs = [
            Batch.from_atoms(atoms, cutoff, labels_of(atoms, targets, f"structure {k}"), dtype)
            for k, atoms in enumerate(structures)
        ]

    def __len__(self) -> int:
        return len(self.graphs)

    def __getitem__(self, k: int) -> Batch:
        return self.graphs[k]

    def batch(self) -> Batch:
        """The whole set as one batch."""
        return Batch.collate(self.graphs)


class BucketSampler(Sampler[list[int]]):
    """Batches of structures of similar size, shuffled anew each epoch, the same for the same seed and epoch.

    With several processes a batch is that of one process with ``replicas`` times the size, dealt out among the ranks like
    cards. Ranks see disjoint structures but where the last batch has fewer than there are ranks, which then share them.
    Every batch comes ``turns`` times in a row.
    """

    def __init__(
        self, sizes: Sequence[int], batch_size: int, seed: int, rank: int = 0, replicas: int = 1, turns: int = 1
    ) -> None:
        self.sizes = np.asarray(sizes)
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.replicas, self.turns = rank, replicas, turns
        self.epoch = 0
        self.sampler = self  # where Lightning looks for ``set_epoch``

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer; fixes the order of the coming epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(len(self.sizes) / (self.batch_size * self.replicas)) * self.turns

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.sizes))
        size = self.batch_size * self.replicas
        pool = 32 * size  # sorting within pools keeps batches even and their composition random
        order = np.concatenate(
            [p[np.argsort(self.sizes[p], kind="stable")] for p in np.split(order, range(pool, len(order), pool))]
        )
        batches = [order[k : k + size].tolist() for k in range(0, len(order), size)]
        for k in rng.permutation(len(batches)):
            own = batches[k][self.rank :: self.replicas] or [batches[k][self.rank % len(batches[k])]]
            yield from [own] * self.turns


def loader(data: GraphData, batch_size: int, seed: int, rank: int = 0, replicas: int = 1, turns: int = 1) -> DataLoader:
    """Batches for training, bucketed by atom count."""
    sizes = [len(g.numbers) for g in data.graphs]
    sampler = BucketSampler(sizes, batch_size, seed, rank, replicas, turns)
    return DataLoader(data, batch_sampler=sampler, collate_fn=Batch.collate)


def in_batches(
    structures: Sequence[Atoms], cutoff: float, batch_size: int = 16, dtype: torch.dtype = torch.float32
) -> Iterator[Batch]:
    """Unlabelled structures in order, for prediction."""
    for k in range(0, len(structures), batch_size):
        yield Batch.collate([Batch.from_atoms(atoms, cutoff, dtype=dtype) for atoms in structures[k : k + batch_size]])


def describe(structures: Sequence[Atoms]) -> Mapping[str, object]:
    """What a set holds: counts, formulas and labels with units."""
    names = [n for n in TARGETS if label_of(structures[0], n) is not None]
    formulas = sorted({a.get_chemical_formula("metal" if a.pbc.any() else "hill", empirical=True) for a in structures})
    return {
        "structures": len(structures),
        "atoms": [min(map(len, structures)), max(map(len, structures))],
        "elements": [chemical_symbols[z] for z in sorted({z for a in structures for z in a.numbers.tolist()})],
        "formulas": [*formulas[:10], *(["..."] if len(formulas) > 10 else [])],
        "labels": {n: TARGETS[n].unit for n in names},
        "methods": sorted({str(a.info["method"]) for a in structures if "method" in a.info}),
    }
