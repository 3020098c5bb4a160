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


def keep_demo(demo: Path) -> None:
    """The table of the demo: errors of every model, set, size and seed, and what its report concludes."""
    from vibronic.studies.thermal_answer import verdicts

    def at(v: dict) -> str:
        return "" if v["temperature_K"] is None else f" at {v['temperature_K']:g} K"

    results = json.loads((demo / "results.json").read_text())
    run = json.loads((demo / "run.json").read_text())
    kept = {
        "what": "the demo: mean absolute errors on molecular dynamics, training sets from phonons and random",
        "seconds": run["seconds"],
        "largest size": {
            f"{v['crystal']} {v['model']} {v['target']} [{v['unit']}] n={v['size']}{at(v)}": {
                "phonons": sum(v["phonons"]) / len(v["phonons"]),
                "random": sum(v["random"]) / len(v["random"]),
                "constant": v["constant"],
                "random / phonons": v["ratio"],
                "95 % interval": v["interval"],
                "better": v["winner"],
            }
            for v in verdicts(results["rows"])
        },
        "rows": [{k: v for k, v in row.items() if k != "parity"} for row in results["rows"]],
        "plan": results["plan"],
    }
    record.write("thermal_demo", kept, "vibronic demo")


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
            keep_demo(demo)
            shutil.copy(demo / "report.html", record.ROOT / "vibronic-demo.html")
    found["unit"] = "s"
    record.write("fresh_clone", found, "python benchmarks/fresh_clone.py")


if __name__ == "__main__":
    main()
