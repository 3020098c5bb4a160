"""The study lcao-gcn at its default settings; about ten minutes on one core, and it goes on where it stopped.

    python benchmarks/lcao_gcn.py [FOLDER]

Writes benchmarks/results/lcao_gcn.json from the files that the study leaves in FOLDER (default: runs/lcao-gcn).
"""

import json
import sys
from pathlib import Path

import record
from vibronic import verbs
from vibronic.studies.lcao_gcn import PARTS, summary


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/lcao-gcn")
    verbs.study("lcao-gcn", out=folder, workers=1)
    results = json.loads((folder / "results.json").read_text())
    networks = {
        m["network"]: {
            **{f"{part} [kcal/mol]": [round(m[part], 2), round(m[f"{part}_std"], 2)] for part in PARTS},
            "parameters": m["parameters"],
            "cpu [s]": round(m["cpu_seconds"], 1),
        }
        for m in summary(results["rows"])
    }
    plan = results["plan"]
    record.write(
        "lcao_gcn",
        {
            "what": f"Mean absolute error and its standard deviation over {len(plan['seeds'])} seeds; {plan['size']} molecules of QM9 "
            f"with up to 14 atoms to learn from, {plan['steps']} steps, width {plan['width']}, {plan['layers']} layers; "
            f"{plan['test']} molecules in each test set",
            **networks,
            "graph convolution minus LCAO at nuclei, largest difference": results["equality"]["largest_difference"],
            "plan": plan,
        },
        "vibronic study lcao-gcn",
    )


if __name__ == "__main__":
    main()
