"""The study extrapolation with all molecules that its models can learn from; about an hour of one core, and it goes on where
it stopped.

    python benchmarks/extrapolation.py [FOLDER]

Writes benchmarks/results/extrapolation.json from the files that the study leaves in FOLDER (default: runs/extrapolation).
"""

import json
import sys
from pathlib import Path
from typing import Any

import record
from vibronic import verbs
from vibronic.studies.extrapolation import PARTS, summary

OPTIONS: dict[str, Any] = {"sizes": [100, 300, 1000, 3000, 11831], "seeds": 1, "steps": 1500, "epochs": 1}
COMMAND = "vibronic study extrapolation --sizes 100 300 1000 3000 11831 --seeds 1 --steps 1500 --epochs 1"


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/extrapolation")
    verbs.study("extrapolation", out=folder, workers=1, **OPTIONS)
    results = json.loads((folder / "results.json").read_text())
    means = summary(results["rows"])
    sizes = sorted(results["plan"]["sizes"])
    models = {
        model: {
            f"{part}, {m['size']} molecules": [
                round(m[part], 2),
                *([round(m[f"{part}_half"], 2)] if m["seeds"] > 1 else []),
            ]
            for part in PARTS
            for m in means
            if m["model"] == model
        }
        for model in results["plan"]["models"]
    }
    last = [m for m in means if m["size"] == sizes[-1]]
    record.write(
        "extrapolation",
        {
            "what": "Mean absolute error on small (up to 14 atoms) and large (15 or more) molecules of QM9, and the half width of its "
            f"95 % interval over {len(results['plan']['seeds'])} seeds, kcal/mol, by the number of small molecules to learn from; "
            f"{results['rows'][0]['small']['n']} small and {results['rows'][0]['large']['n']} large test molecules; qdf2020 after "
            f"{results['plan']['epochs']} epoch(s) of its authors' 2,000, and beside it what they published",
            **models,
            "qdf2020, literature": {f"{part}, {sizes[-1]} molecules": results["published"][part] for part in PARTS},
            "with all molecules": [
                {
                    "model": m["model"],
                    "bias on large [kcal/mol]": round(m["large_bias"], 2),
                    "fit [CPU s]": round(m["fit_seconds"], 1),
                    "predict [CPU ms per large molecule]": round(m["large_cpu_ms"], 2),
                    "epochs": m["epochs"],
                }
                for m in last
            ],
            "plan": results["plan"],
        },
        COMMAND,
    )


if __name__ == "__main__":
    main()
