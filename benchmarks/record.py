"""What every benchmark writes beside its numbers: where, when and with which code they were measured."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from vibronic.core.provenance import versions, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def _commit() -> str:
    """Short hash of the code, with a + when files of the package differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "src") else "")


COMMIT, LOAD = _commit(), os.getloadavg()[0]
"""When the benchmark started: an hour later both may be others."""


def peers(*packages: str) -> dict[str, str]:
    """Versions of the programs that are compared with."""

    def one(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"

    return {package: one(package) for package in packages}


def write(name: str, content: dict[str, Any], command: str) -> Path:
    """``benchmarks/results/NAME.json`` with commit, date, machine, load and versions."""
    path = RESULTS / f"{name}.json"
    machine = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "load_before": round(LOAD, 2),
        "commit": COMMIT,
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_json(path, {"command": command, **content, "machine": machine, "versions": versions()})
    return path
