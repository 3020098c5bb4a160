"""The study inverse-design, one set after another; each goes on where it stopped.

    python benchmarks/inverse_design.py [FOLDER [SET ...]]

On one core about 45 minutes for Perov-5 (4,000 steps, 256 samples) and two hours for each of Carbon-24 and MP-20, whose larger
cells get 3,000 steps, 128 samples and 100 evaluations. Writes benchmarks/results/inverse_design.json from the files that the study
leaves in FOLDER/SET (default: runs/inverse-design); sets that are not asked for stay in it.
"""

import json
import sys
from pathlib import Path

import record
from vibronic import verbs
from vibronic.studies.inverse_design import SHARES

SHORTER = {"steps": 3000, "samples": 128, "evaluations": 100}
SETS = {"perov-5": {}, "carbon-24": SHORTER, "mp-20": SHORTER}
FIGURES = (*SHARES, "volume", "train_seconds", "seconds_64", "epochs")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/inverse-design")
    path = record.RESULTS / "inverse_design.json"
    found = json.loads(path.read_text())["sets"] if path.exists() else {}
    for name in sys.argv[2:] or SETS:
        verbs.study("inverse-design", sets=[name], workers=1, out=folder / name, **SETS[name])
        results = json.loads((folder / name / "results.json").read_text())
        means = {
            f"{m['model']}, {m['condition']}": {k: None if m[k] is None else round(m[k], 4) for k in FIGURES}
            | {f"{k}_95": [round(v, 4) for v in m[f"{k}_interval"]] for k in ("sr5_all", "hits")}
            for m in results["summary"]
        }
        found[name] = {"means over seeds": means, "verdicts": results["verdicts"], "plan": results["plan"]}
        found[name]["data"] = results["sets"][name]
    record.write("inverse_design", {"sets": found}, "python benchmarks/inverse_design.py")


if __name__ == "__main__":
    main()
