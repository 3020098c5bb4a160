"""What every benchmark writes beside its numbers: where, when and with which code they were measured."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vibronic.core.provenance import versions, write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LOAD_AT_START = os.getloadavg()[0]


def commit() -> str:
    """Short hash of the code, with a + when files of the package differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "src") else "")


def write(name: str, content: dict[str, Any], command: str) -> Path:
    """``benchmarks/results/NAME.json`` with commit, date, machine, load and versions."""
    path = RESULTS / f"{name}.json"
    machine = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "load_before": round(LOAD_AT_START, 2),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_json(path, {"command": command, **content, "machine": machine, "versions": versions()})
    return path
