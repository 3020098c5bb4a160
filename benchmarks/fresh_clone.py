"""Seconds of set-up, ``make demo`` and ``make test`` on a fresh clone of this checkout's last commit.

    python benchmarks/fresh_clone.py [setup demo test]

Writes benchmarks/results/fresh_clone.json and copies the demo's results beside it.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import record
import thermal_study


def main() -> None:
    targets = sys.argv[1:] or ["setup", "demo", "test"]
    path = record.RESULTS / "fresh_clone.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "vibronic"
        subprocess.run(["git", "clone", "--quiet", str(record.ROOT), str(clone)], check=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, check=True, capture_output=True, text=True)
        for target in dict.fromkeys(["setup", *targets]):
            start = time.perf_counter()
            run = subprocess.run(["make", target], cwd=clone)
            found[target] = {
                "seconds": round(time.perf_counter() - start, 1),
                "status": run.returncode,
                "commit": commit.stdout.strip(),
                "load_average_after": os.getloadavg()[0],
            }
        demo = clone / "vibronic-demo"
        if (demo / "results.json").exists():
            thermal_study.keep(demo, "thermal_demo", "vibronic demo")
            shutil.copy(demo / "report.html", record.ROOT / "vibronic-demo.html")
    found["unit"] = "s"
    record.write("fresh_clone", found, "python benchmarks/fresh_clone.py")


if __name__ == "__main__":
    main()
