"""The ledger: every label and every failure, in one SQLite file that survives ``kill -9`` and a power cut.

One row per structure and engine with its version and settings. Arrays are JSON lists (exact for 64-bit floats), so any program can read it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS
from vibronic.labelling.engines import Engine

_APPLICATION = 0x56696272  # "Vibr": tells a ledger from any other SQLite file
_VERSION = 2  # 1 had neither the engine's version nor the content of its files in the key
_PATIENCE = 60  # seconds to wait for another process that writes
_SCHEMA = """
CREATE TABLE IF NOT EXISTS labels (
    key TEXT PRIMARY KEY,
    engine TEXT NOT NULL,
    version TEXT NOT NULL,
    settings TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    structure TEXT NOT NULL,
    results TEXT NOT NULL,
    units TEXT NOT NULL,
    reason TEXT,
    seconds REAL NOT NULL,
    date TEXT NOT NULL
) WITHOUT ROWID
"""
# A label is never lost: not to a failure, whichever of two concurrent runs comes last, nor to a run that asked for others.
_RECORD = """
INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET version = excluded.version, status = excluded.status, reason = excluded.reason,
    results = json_patch(labels.results, excluded.results), units = json_patch(labels.units, excluded.units),
    seconds = excluded.seconds, date = excluded.date
WHERE labels.status = 'failed' OR excluded.status = 'done'
"""


@dataclass(frozen=True)
class Entry:
    """What the ledger knows of one structure under one engine: ``results`` by name, or the ``reason`` of a failure."""

    results: dict[str, Any]
    reason: str | None
    seconds: float
    date: str


def structure_key(atoms: Atoms, engine: Engine) -> str:
    """sha256 of what the label depends on: elements, positions and cell (to 1e-8 Angstrom), periodicity, initial
    magnetic moments and charges, ``info["charge"]``, ``info["spin"]``, and :attr:`Engine.settings_hash`."""
    digest = hashlib.sha256()
    digest.update(atoms.numbers.astype("<i8").tobytes())
    digest.update(atoms.pbc.astype("<i8").tobytes())
    for lengths in (atoms.positions, atoms.cell.array):
        # Integers have no negative zero, which would otherwise make two keys of one structure.
        digest.update(np.round(lengths * 1e8).astype("<i8").tobytes())
    for name in ("initial_magmoms", "initial_charges"):
        if atoms.has(name) and atoms.get_array(name).any():
            digest.update(name.encode() + np.round(atoms.get_array(name) * 1e8).astype("<i8").tobytes())
    for name in ("charge", "spin"):
        if atoms.info.get(name) is not None:
            digest.update(f"{name}={float(atoms.info[name])}".encode())
    digest.update(engine.settings_hash.encode())
    return digest.hexdigest()


class Ledger:
    """Labels on disk; use it as a context manager. Several processes may share one file.

    A result is on the disk when :meth:`record` returns (write-ahead log, synchronous FULL), or the block of
    :meth:`together` in which it was called ends.

    Raises:
        VibronicError: (any method) the file is not a ledger, is damaged or locked, or its folder or disk refuses.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None)
        try:
            with self._errors():
                self._prepare()
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self) -> None:
        def pragma(name: str) -> int:
            return int(self.connection.execute(f"PRAGMA {name}").fetchone()[0])

        tables = self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and pragma("application_id") != _APPLICATION:
            raise VibronicError(f"{self.path} is an SQLite file of another program, not a ledger; choose another name")
        if tables and pragma("user_version") != _VERSION:
            raise VibronicError(
                f"{self.path} was written by another version of vibronic, which names labels differently; "
                "choose another --ledger"
            )
        self._write_ahead()
        self.connection.execute("PRAGMA synchronous = FULL")
        if not tables:
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            self.connection.execute(f"PRAGMA user_version = {_VERSION}")
            self.connection.execute(_SCHEMA)
            self.connection.execute("COMMIT")

    def _write_ahead(self) -> None:
        """Switch to the write-ahead log. SQLite does not wait by itself while another process does the same."""
        for patience in range(_PATIENCE * 10, -1, -1):
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or not patience:
                    raise
                time.sleep(0.1)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was recorded stays."""
        self.connection.close()

    def get(self, atoms: Atoms, engine: Engine) -> Entry | None:
        """What is known of this structure under this engine and its settings, or None."""
        with self._errors():
            row = self.connection.execute(
                "SELECT results, reason, seconds, date FROM labels WHERE key = ?", (structure_key(atoms, engine),)
            ).fetchone()
        return None if row is None else Entry(json.loads(row[0]), *row[1:])

    def record(
        self,
        atoms: Atoms,
        engine: Engine,
        results: dict[str, Any],
        reason: str | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Write a label, or with a ``reason`` a failure; a label already there is never replaced by a failure, and keeps
        the properties that are not computed anew.

        Args:
            atoms: the structure.
            engine: what computed it.
            results: finite numbers and nested lists of them by property name, in Vibronic's units.
            reason: why there is no label.
            seconds: wall time of the calculation.
        """
        structure = {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            "pbc": atoms.pbc.tolist(),
        }
        row = (
            structure_key(atoms, engine),
            engine.name,
            engine.version,
            json.dumps(engine.settings, sort_keys=True),
            "done" if reason is None else "failed",
            json.dumps(structure),
            json.dumps(results, allow_nan=False),
            json.dumps({name: TARGETS[name].unit for name in results}),
            reason,
            seconds,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with self._errors():
            self.connection.execute(_RECORD, row)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Records of this block reach the disk at its end, all or none: for the price of one."""
        with self._errors():
            self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            with self._errors():
                self.connection.execute("COMMIT")
        finally:
            if self.connection.in_transaction:  # SQLite has rolled back by itself where its disk failed
                self.connection.execute("ROLLBACK")

    def failures(self) -> list[dict[str, Any]]:
        """``engine``, ``settings``, ``reason``, ``seconds``, ``date`` and ``atoms`` of every failure, oldest first."""
        with self._errors():
            rows = self.connection.execute(
                "SELECT engine, settings, reason, seconds, date, structure FROM labels WHERE status = 'failed' "
                "ORDER BY date, key"
            ).fetchall()
        return [
            {
                "engine": engine,
                "settings": json.loads(settings),
                "reason": reason,
                "seconds": seconds,
                "date": date,
                "atoms": Atoms(**json.loads(structure)),
            }
            for engine, settings, reason, seconds, date, structure in rows
        ]

    def counts(self) -> dict[str, int]:
        """How many structures are ``done`` and ``failed``."""
        with self._errors():
            rows = self.connection.execute("SELECT status, count(*) FROM labels GROUP BY status").fetchall()
        return {"done": 0, "failed": 0, **dict(rows)}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise VibronicError(
                f"cannot open the ledger {self.path}: {error.strerror or error}; choose another folder"
            ) from error
        except sqlite3.Error as error:
            raise VibronicError(f"the ledger {self.path} {_advice(str(error))}") from error


def _advice(message: str) -> str:
    for symptom, advice in (
        ("is full", "does not fit on its disk; free some space and repeat the same command, nothing recorded is lost"),
        (
            "disk I/O error",
            "cannot be written to or read from its disk, which may be full, over a quota or broken; see to it and repeat the "
            "same command, nothing recorded is lost",
        ),
        ("readonly", "cannot be written; check the permissions of the file and its folder, or choose another folder"),
        ("unable to open", "cannot be opened; check that its folder exists and can be written, and that it is a file"),
        ("not a database", "is not an SQLite file; choose another name"),
        ("malformed", "is damaged; move it away, or rescue it with: sqlite3 LEDGER .recover"),
        ("locked", "has been locked by another process for a minute; wait for it to end"),
    ):
        if symptom in message:
            return advice
    return f"fails with: {message}"
