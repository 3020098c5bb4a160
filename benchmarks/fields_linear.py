"""Our field model with and without its linear functional, fitted to the same molecules: what the simple part is worth.

    python benchmarks/fields_linear.py

Writes benchmarks/results/fields_linear.json. About five minutes of one core and 8 GB of memory.
"""

from __future__ import annotations

import time

import numpy as np
import torch

import record
from vibronic.core.units import conversion
from vibronic.data.dataset import GraphData
from vibronic.data.sources import structures
from vibronic.learning.prediction import predict
from vibronic.learning.store import build

KCAL = conversion("eV", "kcal/mol")
SETTINGS = {"points": [9000, 6000], "noise": 1.2e-3}
LARGE, SEED = 3000, 0


def main() -> None:
    torch.set_num_threads(1)
    train, large = structures("qm9-train"), structures("qm9-large")
    chosen = np.random.default_rng(SEED).permutation(len(large))[:LARGE]
    sets = {"small": structures("qm9-test"), "large": [large[k] for k in chosen]}
    found = {}
    for name, linear in (("kernel alone", 0.0), ("kernel and linear functional", 8.0)):
        torch.manual_seed(SEED)
        start = time.process_time()
        model = build("qdf", targets=["energy"], linear=linear, **SETTINGS)
        model.prepare(GraphData(train, model.targets, model.cutoff).batch())
        found[name] = {"fit [CPU s]": round(time.process_time() - start, 1)}
        for part, molecules in sets.items():
            error = np.array(predict(model.eval(), molecules, 64)["energy"]) - [a.info["energy"] for a in molecules]
            found[name][f"mae_{part} [kcal/mol]"] = round(float(np.abs(error).mean()) * KCAL, 3)
            found[name][f"bias_{part} [kcal/mol]"] = round(float(error.mean()) * KCAL, 3)
        print(name, found[name], flush=True)
    record.write(
        "fields_linear",
        {
            "what": f"Errors on qm9-test (small) and {LARGE} molecules of qm9-large, after a fit to qm9-train; composition subtracted in both",
            "settings": SETTINGS,
            "seed": SEED,
            **found,
        },
        "python benchmarks/fields_linear.py",
    )


if __name__ == "__main__":
    main()
