"""Does the engine ``gpaw`` reproduce the labels of a data set computed without Vibronic?

Labels the first ``md`` and the first ``random`` configuration of the Ag3SBr set (40 atoms, minutes each on one core)
and compares them with the labels in the file. Those came from the same version of GPAW, so this checks our settings,
units and band edges, not DFT itself::

    python benchmarks/gpaw_check.py path/to/Ag3SBr_pbe.extxyz.gz
"""

import argparse
import tempfile
from pathlib import Path

import ase.io
import numpy as np

import record
from vibronic.labelling.engines import engine
from vibronic.labelling.label import label
from vibronic.labelling.ledger import Ledger


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Ag3SBr_pbe.extxyz.gz")
    parser.add_argument("--ledger", type=Path, default=Path(tempfile.gettempdir()) / "gpaw_check.sqlite")
    options = parser.parse_args()
    frames = ase.io.read(options.data, ":")
    references = [next(frame for frame in frames if frame.info["method"] == method) for method in ("md", "random")]
    gpaw = engine("gpaw")
    with Ledger(options.ledger) as ledger:
        report = label(references, gpaw, ledger)
        seconds = [ledger.get(atoms, gpaw).seconds for atoms in references]
    rows = []
    for reference, ours, taken in zip(references, report.labelled, seconds, strict=True):
        row = {"method": reference.info["method"], "n_atoms": len(ours), "seconds": taken}
        for name in ("energy", "forces", "stress"):
            values, expected = (np.asarray(atoms.calc.results[name]) for atoms in (ours, reference))
            row[name] = {
                "largest_difference": float(np.abs(values - expected).max()),
                "largest_value": float(np.abs(expected).max()),
            }
        for name in ("band_gap", "vbm", "cbm"):
            row[name] = {"ours": ours.info[name], "reference": float(reference.info[name])}
            row[name]["largest_difference"] = abs(row[name]["ours"] - row[name]["reference"])
        rows.append(row)
    record.write(
        "gpaw_check",
        {
            "question": __doc__.splitlines()[0],
            "structures": rows,
            "settings": gpaw.settings,
            "units": {"energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3", "band_gap, vbm, cbm": "eV"},
            "note": "forces in the file have 8 decimals; seconds on one thread of a machine shared with other work",
        },
        "python benchmarks/gpaw_check.py Ag3SBr_pbe.extxyz.gz",
    )


if __name__ == "__main__":
    main()
