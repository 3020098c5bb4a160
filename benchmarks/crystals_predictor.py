"""Errors and processor time of CDVAE's property models, read by vibronic.crystals.predictor.

    python benchmarks/crystals_predictor.py [--wheel WHEEL] [--rows 500] [--pymatgen 100]

The data are those of CDVAE (github.com/txie-93/cdvae) as crystals/*/*.csv.gz in the folder VIBRONIC_DATA, or
../shared/data beside the checkout. The same number of rows is drawn from each file, and Perov-5's test set is taken whole as
well. On some of the rows the bonds are compared with pymatgen's, and what they lead to with what ours do. One thread.
Writes benchmarks/results/crystals_predictor.json.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read

import record
from vibronic.crystals.bonds import bonds
from vibronic.crystals.predictor import Name, Predictor, graph, load

FILES: dict[str, tuple[Name, str]] = {
    "perov_5/test": ("perov-5", "CDVAE's test set"),
    "perov_5/val": ("perov-5", "CDVAE's validation set"),
    "carbon_24/val": ("carbon-24", "CDVAE's validation set"),
    "mp_20_biternary/val": ("mp-20", "binaries and ternaries of MP-20; some may be of CDVAE's training set"),
}


def rows_of(file: Path, target: str, count: int | None) -> tuple[list[Atoms], np.ndarray]:
    """Crystals and labels of all rows, or of some drawn with seed 0."""
    with gzip.open(file, "rt", newline="") as opened:
        rows = list(csv.DictReader(opened))
    if count is not None:
        rows = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))[:count]]
    crystals = [read(io.StringIO(row["cif"]), format="cif") for row in rows]
    return crystals, np.array([float(row[target]) for row in rows])  # type: ignore[return-value]


def score(model: Predictor, crystals: list[Atoms], labels: np.ndarray) -> dict[str, Any]:
    """Errors, and CPU-milliseconds per crystal in all and for the graph alone."""
    model(crystals[:32])  # imports and warm-up
    start = time.process_time()
    error = model(crystals) - labels
    whole = time.process_time() - start
    start = time.process_time()
    for atoms in crystals:
        graph(atoms)
    graphs = time.process_time() - start
    there = np.isfinite(error)
    square = np.square(error[there]).sum() / np.square(labels[there] - labels[there].mean()).sum()
    return {
        "crystals": len(crystals),
        "without a prediction": int((~there).sum()),
        "atoms": round(float(np.mean([len(atoms) for atoms in crystals])), 1),
        "mae": round(float(np.abs(error[there]).mean()), 5),
        "median": round(float(np.median(np.abs(error[there]))), 5),
        "rmse": round(float(np.sqrt(np.square(error[there]).mean())), 5),
        "r2": round(1 - float(square), 4),
        "cpu [ms]": round(1000 * whole / len(crystals), 2),
        "cpu of the graph [ms]": round(1000 * graphs / len(crystals), 2),
    }


def beside_pymatgen(crystals: list[Atoms]) -> dict[str, Any]:
    """Crystals whose bonds are pymatgen's, one by one, and what pymatgen takes for them."""
    from pymatgen.analysis.graphs import StructureGraph
    from pymatgen.analysis.local_env import CrystalNN
    from pymatgen.io.ase import AseAtomsAdaptor

    strategy = CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)
    same, seconds = 0, 0.0
    for atoms in crystals:
        structure = AseAtomsAdaptor.get_structure(atoms)
        start = time.process_time()
        theirs = StructureGraph.from_local_env_strategy(structure, strategy)
        seconds += time.process_time() - start
        wanted = set()
        for i, j, image in theirs.graph.edges(data="to_jimage"):
            wanted |= {(i, j, *map(int, image)), (j, i, *(-int(k) for k in image))}
        found = bonds(atoms)
        same += found is not None and set(map(tuple, np.column_stack(found).tolist())) == wanted
    return {
        "crystals": len(crystals),
        "with the same bonds": same,
        "pymatgen's cpu [ms]": round(1000 * seconds / max(len(crystals), 1), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", help="the wheel or its folder; found as load(None, ...) does if not given")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--pymatgen", type=int, default=100, help="rows whose bonds are compared with pymatgen's")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of readers of CIF files
    root = Path(os.environ.get("VIBRONIC_DATA", record.ROOT.parent / "shared" / "data")) / "crystals"
    results: dict[str, Any] = {}
    for file, (name, what) in FILES.items():
        model = load(chosen.wheel, name)
        crystals, labels = rows_of(root / f"{file}.csv.gz", model.target, chosen.rows)
        results[file] = {
            "model": name,
            "target": f"{model.target} [{model.unit}]",
            "rows": what,
            **score(model, crystals, labels),
            "bonds": beside_pymatgen(crystals[: chosen.pymatgen]),
        }
        print(file, results[file], flush=True)
    model = load(chosen.wheel, "perov-5")
    whole = score(model, *rows_of(root / "perov_5/test.csv.gz", model.target, None))
    results["perov_5/test, whole"] = {"model": "perov-5", "target": "heat_ref [eV]", **whole}
    print("whole test set of Perov-5", whole)
    record.write("crystals_predictor", results, "python benchmarks/crystals_predictor.py")


if __name__ == "__main__":
    main()
