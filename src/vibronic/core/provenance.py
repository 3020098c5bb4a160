"""What every result carries with it: resolved configuration, versions, seed, machine and seconds (``run.json``)."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
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
    except OSError as error:
        raise VibronicError(
            f"cannot write to {path.parent}: {error.strerror or error}; choose another --out"
        ) from error
    try:
        yield Path(name)
        # mkstemp makes private files, and safetensors another one in its place; results are as readable as any file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except OSError as error:
        raise VibronicError(
            f"cannot write to {path.parent}: {error.strerror or error}; choose another --out"
        ) from error
    finally:
        Path(name).unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where what can be made again is kept: ``VIBRONIC_CACHE``, or ``vibronic`` in the user's cache folder."""
    if own := os.environ.get("VIBRONIC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "vibronic"


def check_writable(folder: Path) -> None:
    """Make ``folder`` and fail before the work, not after it, when nothing can be written there.

    Raises:
        VibronicError: the folder cannot be made or written.
    """
    probe = Path(folder) / ".probe"
    with writable(probe):
        pass
    probe.unlink(missing_ok=True)


def check_paths(reads: Sequence[Path | str | None], writes: Sequence[Path | str]) -> None:
    """Refuse to write over what is read, or over what is written in the same run.

    Args:
        reads: files, and folders of structures; what does not exist is a name, or missed where it is read.
        writes: every file or folder that will be written.

    Raises:
        VibronicError: names the path.
    """
    sources = [Path(path) for path in reads if path is not None and Path(path).exists()]
    inside = [file for folder in sources if folder.is_dir() for file in folder.iterdir()]
    # A folder of structures is read without its tables and records, but for the table of properties.
    notes, tables = (".csv", ".json", ".md", ".yaml"), ("properties.csv", "id_prop.csv")
    sources += [file for file in inside if file.is_file() and (file.suffix not in notes or file.name in tables)]
    targets = [Path(path) for path in writes]
    for k, path in enumerate(targets):
        if any(_same(path, source) for source in sources):
            raise VibronicError(f"{path} is read here and would be overwritten; choose another --out")
        if any(_same(path, other) for other in targets[:k]):
            raise VibronicError(f"{path} would be written twice, one result over the other; choose another --out")


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


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


def _record_of(out: Path) -> Path:
    return out / "run.json" if out.is_dir() else out.with_suffix(".run.json")


@contextmanager
def run_record(
    out: Path,
    verb: str,
    config: Mapping[str, Any],
    seed: int | None = None,
    reads: Sequence[Path | str | None] = (),
    writes: Sequence[Path] = (),
) -> Iterator[dict[str, Any]]:
    """Time a verb and write its ``run.json`` beside ``out`` when it succeeds.

    ``out`` is a file (the record becomes ``<stem>.run.json`` beside it) or a folder (``run.json`` inside it). The
    yielded dictionary is written too: put counts and findings there; with ``unchanged`` in it the record of before stays. ``reads`` are the inputs, ``writes`` the files beside
    ``out`` (see :func:`check_paths`).

    Raises:
        VibronicError: nothing can be written there, an input would be overwritten, or the seed is none; found out before
            the verb starts.
    """
    out = Path(out)
    if seed is not None and not 0 <= seed < 2**32:
        raise VibronicError(f"--seed must be at least 0 and below 2^32, not {seed}")
    check_paths(reads, [out, *writes, _record_of(out)])
    check_writable(out.parent)
    record: dict[str, Any] = {}
    start, cpu = time.perf_counter(), time.process_time()
    yield record
    if record.get("unchanged"):
        return
    write_json(
        _record_of(out),
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
