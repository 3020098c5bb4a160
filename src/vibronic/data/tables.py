"""Tables of properties: CSV files with a header, whether structures stand in them or beside them."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError

BESIDE = ("properties.csv", "id_prop.csv")
"""Names of the table of properties in a folder of structure files; the first that is there counts."""

RENAMED = {"spacegroup.number": "spacegroup"}
"""Column -> key in ``info``, where the column's name could not be that of a target."""

_INTEGERS = ("spacegroup",)
_MISSING = ("", "nan", "none", "null", "na", "n/a")


def is_table(path: Path | str) -> bool:
    """Whether a file is a CSV, gzipped or not, by its name."""
    return Path(path).name.lower().endswith((".csv", ".csv.gz"))


def content(path: Path) -> bytes:
    """What a file holds, uncompressed.

    Raises:
        VibronicError: it cannot be read, or its compression is damaged.
    """
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise VibronicError(f"cannot read {path}: it is missing or its compression is damaged ({reason})") from error


def rows_of(path: Path, held: bytes | None = None) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV; ``held`` is its content where that is at hand.

    Raises:
        VibronicError: it is empty, no text, cut, or has a column twice.
    """
    csv.field_size_limit(1 << 30)  # of the process; a CIF of many atoms exceeds what the module allows by itself
    try:
        text = (content(path) if held is None else held).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise VibronicError(f"{path} is damaged or no table of comma-separated values ({error})") from error
    if not rows:
        raise VibronicError(f"the file {path} is empty")
    header = [RENAMED.get(name.strip(), name.strip()) for name in rows.pop(0)]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise VibronicError(f"{path} has two columns '{twice[0]}'; remove one of them")
    if len(header) == 1 and (other := next((c for c in ";\t" if c in header[0]), None)):
        what = "semicolons" if other == ";" else "tabs"
        raise VibronicError(f"the fields of {path} are separated by {what}; separate them by commas")
    if not rows:
        raise VibronicError(f"{path} has a header but no rows")
    for k, row in enumerate(rows):
        if len(row) != len(header):
            raise VibronicError(
                f"{path}, row {k + 1} ({row[0][:40]}) has {len(row)} fields where the header has {len(header)}: a comma is "
                "missing or too many, a quotation mark is missing, or the file is cut"
            )
    return header, rows


def column(path: Path, name: str, values: Sequence[str], rows: Sequence[str] = ()) -> np.ndarray:
    """A column as numbers (NaN where there is none) or, if less than half of it are numbers, as text.

    Args:
        rows: names of the rows, for what is said of a wrong one.

    Raises:
        VibronicError: a value among numbers is none.
    """
    numbers, strange = np.full(len(values), np.nan), []
    given = [k for k, value in enumerate(values) if value.strip().lower() not in _MISSING]
    for k in given:
        try:
            numbers[k] = float(values[k])
        except ValueError:
            strange.append(k)
    if not strange:
        return numbers
    if 2 * len(strange) > len(given):
        return np.array(values, dtype=str)
    which = f" ({rows[strange[0]][:40]})" if rows else ""
    raise VibronicError(
        f"{path}, row {strange[0] + 1}{which}: '{name}' is '{values[strange[0]][:40]}', not a number; correct it, or leave it "
        "empty"
    )


def infos(columns: dict[str, np.ndarray], n: int) -> list[dict[str, Any]]:
    """What ``info`` gets from the columns, for each of ``n`` rows; values that are missing are left out."""
    found: list[dict[str, Any]] = [{} for _ in range(n)]
    for name, values in columns.items():
        text = values.dtype.kind == "U"
        for info, value in zip(found, values.tolist(), strict=True):
            if (text and value) or not (text or math.isnan(value)):
                info[name] = int(value) if name in _INTEGERS and not text and value.is_integer() else value
    return found


def table_beside(folder: Path) -> Path | None:
    """The table of properties in a folder of structure files, or None."""
    return next((folder / name for name in BESIDE if (folder / name).is_file()), None)


def add_properties(folder: Path, files: Sequence[Path], structures: Sequence[Sequence[Atoms]]) -> None:
    """Put what the table of a folder says of its structure files into the ``info`` of their structures.

    Its first column names the file, with or without its ending; the others are properties. Without a table nothing is
    done.

    Args:
        files: the structure files, and
        structures: what each of them holds.

    Raises:
        VibronicError: the table is damaged or has no header, names a file twice or one that is not there, misses one, or
            a file holds several structures.
    """
    table = table_beside(folder)
    if table is None:
        return
    header, rows = rows_of(table)
    names = {file.name: k for k, file in enumerate(files)}
    bare: dict[str, list[int]] = {}
    for k, file in enumerate(files):
        bare.setdefault(file.name.split(".")[0] if file.name.endswith(".gz") else file.stem, []).append(k)

    def place(name: str) -> int | None:
        found = bare.get(name, [])
        return names[name] if name in names else found[0] if len(found) == 1 else None

    if place(header[0]) is not None:
        raise VibronicError(f"{table} has no header: begin it with a line such as 'file,band_gap'")
    if len(header) < 2:
        raise VibronicError(f"{table} has one column; the first names the file, further ones are properties")
    named = [row[0].strip() for row in rows]
    columns = {
        name: column(table, name, [row[c] for row in rows], named) for c, name in enumerate(header) if c and name
    }
    seen: dict[int, int] = {}
    for k, (row, info) in enumerate(zip(rows, infos(columns, len(rows)), strict=True)):
        at = place(row[0].strip())
        if at is None:
            raise VibronicError(f"{table}, row {k + 1}: there is no structure file '{row[0].strip()[:80]}' in {folder}")
        if at in seen:
            raise VibronicError(f"{table}, row {k + 1} is about {files[at].name}, as row {seen[at] + 1} is")
        if len(structures[at]) != 1:
            raise VibronicError(
                f"{files[at]} holds {len(structures[at])} structures; {table.name} gives properties of one in each file"
            )
        seen[at] = k
        structures[at][0].info.update(info)
    missing = [file.name for k, file in enumerate(files) if k not in seen]
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise VibronicError(
            f"{table} has no row for {missing[0]}{more}; add it, with empty fields where nothing is known"
        )
