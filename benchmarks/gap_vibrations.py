"""Which vibrations of Ag3SBr move its band gap by a Hamiltonian fitted to DFT labels, and whether DFT agrees.

A ``tight-binding`` model of the shipped set, effective force constants at 300 K, derivatives of the gap along every mode, and along the
strongest ones central differences of new GPAW labels at one thermal configuration, through the verbs ``train`` and
``vibrations``. Needs GPAW; nine labels of a minute and a half. What the folder holds is not computed again::

    python benchmarks/gap_vibrations.py --out runs/gap-vibrations
"""

import argparse
import csv
import json
from pathlib import Path

import record
from vibronic.verbs.modes import vibrations
from vibronic.verbs.training import train

MODES = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("runs/gap-vibrations"))
    out = parser.parse_args().out
    run, table = out / "vibrations.run.json", out / "vibrations.csv"
    if not run.exists():
        train("tight-binding", "Ag3SBr-pbe", targets=["band_gap", "vbm"], fractions=(0.9, 0.05, 0.05), out=out / "gap")
        vibrations(
            str(out / "gap"),
            "Ag3SBr",
            target="band_gap",
            imaginary="effective",
            statistics="classical",
            temperature=300.0,
            n=60,
            check="gpaw",
            check_modes=MODES,
            check_displacement=0.05,
            report=out / "vibrations.html",
            out=table,
        )
    found = json.loads(run.read_text())
    with table.open() as file:
        rows = list(csv.DictReader(file))
    frequency, shift = "frequency [THz]", "shift [eV]"
    sets: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        sets.setdefault(row["set"], []).append(row)
    largest = sorted(sets.values(), key=lambda part: -abs(sum(float(r[shift] or 0) for r in part)))[:8]
    check = found["check"]
    content = {
        "what": "Band gap of Ag3SBr (40 atoms), classical nuclei at 300 K, effective force constants from SevenNet, 60 thermal configurations",
        "units": {"derivative": "eV/(Angstrom sqrt(amu))", "second derivative": "eV/(Angstrom^2 amu)", "shift": "eV"},
        "tables": {
            "thermal shift of the gap": {
                "all orders": {"eV": found["shift_all_orders"], "standard error": found["shift_all_orders_error"]},
                "sum of the shares of the modes": {"eV": found["shift"]},
            },
            f"along the {len(check['modes'])} strongest modes, against labels by gpaw": {
                order: {"mean absolute error": scores["mae"], "R2": scores["r2"]}
                for order, scores in check["agreement"].items()
            },
            "sets of modes that shift the gap most": {
                f"{float(part[0][frequency]):.2f} THz": {
                    "modes": len(part),
                    "shift [eV]": sum(float(r[shift] or 0) for r in part),
                }
                for part in largest
            },
        },
        "check": check,
        "findings": found["findings"],
        "made": {k: found[k] for k in ("date", "seconds", "machine", "versions")},
    }
    print(record.write("gap_vibrations", content, "python benchmarks/gap_vibrations.py --out runs/gap-vibrations"))


if __name__ == "__main__":
    main()
