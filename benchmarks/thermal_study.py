"""What the full thermal study finds: which ingredient of a training set brings what, and how many random labels a phonon label is worth.

Keeps the conclusions of a finished study and the errors of all its models::

    vibronic study thermal --crystals Ag3SBr NaCl SrTiO3 Si \\
        --sets phonons random species sites shuffled monte-carlo dynamics --temperature 300 --test_temperatures 500 \\
        --sizes 30 150 --seeds 3 --pool 300 --steps 600 --test 40 --gap_sizes 10 20 40 --explained 8 --out runs/thermal-study
    python benchmarks/thermal_study.py runs/thermal-study           # hours of two cores for the first, seconds for this

Writes benchmarks/results/thermal_study.json, or the name given by ``--name``: thermal_study_large has two sets of up to 1,000 labels
(``--sets phonons random --sizes 200 1000 --pool 1000 --steps 1200 --gap false``).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import record
from vibronic.studies.thermal_answer import effects, labels_saved, summary, verdicts


def errors(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean absolute errors of every model, a value per seed."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = f"{row['crystal']}, {row['model']}, {row['target']} [{row['unit']}]{at(row)}"
        table = found.setdefault(key, {"constant": row["constant"]})
        table.setdefault(f"{row['set']}, n={row['size']}", []).append(row["mae"])
    return found


def at(row: dict[str, Any]) -> str:
    return "" if row.get("temperature_K") is None else f" at {row['temperature_K']:g} K"


def command_of(plan: dict[str, Any], name: str) -> str:
    """The command line that made the study."""
    words = ["vibronic study thermal", f"--seeds {len(plan['seeds'])}"]
    names = ("crystals", "sets", "temperature", "test_temperatures", "sizes", "pool", "steps", "test")
    for key in (*names, "transfer", "gap", "gap_sizes", "explained"):
        value = plan[key]
        if value not in (None, []):
            words.append(
                f"--{key} " + (" ".join(f"{v}" for v in value) if isinstance(value, list) else str(value).lower())
            )
    folder = f"runs/{name.replace('_', '-')}"
    return " ".join([*words, f"--out {folder} && python benchmarks/thermal_study.py {folder} --name {name}"])


def keep(folder: Path, name: str, command: str | None = None) -> Path:
    """Write the conclusions of the study in ``folder`` to benchmarks/results/NAME.json."""
    results = json.loads((folder / "results.json").read_text())
    rows = results["rows"]
    found = effects(rows, results.get("absent", {}))
    content = {
        "what": "Training sets of one mean-square displacement and what their models know of molecular dynamics",
        "plan": results["plan"],
        "tables": {
            "what each ingredient brings, error without / with it": {
                line["effect"]: {k: v for k, v in line.items() if k != "effect"} for line in summary(found)
            },
            "random labels that make up for n phonon labels, as a factor": {
                f"{s['crystal']}, {s['model']}, {s['target']}{at(s)}": {
                    k: s[k] for k in ("n", "factor", "interval", "above", "below", "claim")
                }
                for s in labels_saved(rows)
            },
            "error of each set / error of the phonon set, largest size": {
                f"{v['crystal']}, {v['model']}, {v['target']}{at(v)}, {v['set']}": {
                    "ratio": v["ratio"],
                    "interval": v["interval"],
                    "better": v["winner"],
                }
                for v in verdicts(rows)
            },
        },
        "effects": found,
        "errors": errors(rows),
        **({"transfer": errors(results["transfer"]), "donors": results["donors"]} if "transfer" in results else {}),
    }
    return record.write(name, content, command or command_of(results["plan"], name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="thermal_study")
    options = parser.parse_args()
    print(keep(options.folder, options.name))


if __name__ == "__main__":
    main()
