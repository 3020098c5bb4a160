"""What every result carries with it: resolved configuration, versions, seed, machine and seconds (``run.json``)."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from vibronic.core.errors import VibronicError

_PACKAGES = ("vibronic", "torch", "ase", "numpy", "phonopy", "symfc", "sevenn", "lightning", "gpaw", "pyscf")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on; packages that are absent are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def writable(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block succeeds, so no half-written file is ever seen.

    Raises:
        VibronicError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        # mkstemp makes private files; results are as readable as any other file of the user.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
    except OSError as error:
        raise VibronicError(
            f"cannot write to {path.parent}: {error.strerror or error}; choose another --out"
        ) from error
    try:
        yield Path(name)
        os.replace(name, path)
    except OSError as error:
        raise VibronicError(
            f"cannot write to {path.parent}: {error.strerror or error}; choose another --out"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Make ``folder`` and fail before the work, not after it, when nothing can be written there.

    Raises:
        VibronicError: the folder cannot be made or written.
    """
    probe = Path(folder) / ".probe"
    with writable(probe):
        pass
    probe.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, atomically; numpy values become plain numbers."""

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"cannot write {type(value).__name__} as JSON")

    with writable(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=plain) + "\n")


@contextmanager
def run_record(out: Path, verb: str, config: Mapping[str, Any], seed: int | None = None) -> Iterator[dict[str, Any]]:
    """Time a verb and write its ``run.json`` beside ``out`` when it succeeds.

    ``out`` is a file (the record becomes ``<stem>.run.json`` beside it) or a folder (``run.json`` inside it). The
    yielded dictionary is written too: put counts and findings there.

    Raises:
        VibronicError: nothing can be written there; found out before the verb starts.
    """
    out = Path(out)
    check_writable(out.parent)
    record: dict[str, Any] = {}
    start, cpu = time.perf_counter(), time.process_time()
    yield record
    write_json(
        out / "run.json" if out.is_dir() else out.with_suffix(".run.json"),
        {
            "verb": verb,
            "config": dict(config),
            "seed": seed,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - start, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "python": sys.version.split()[0]},
            "versions": versions(),
            **record,
        },
    )
