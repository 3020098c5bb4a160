"""SrTiO3 (270 training, 30 test cells of 40 atoms, VASP): the potential against the descriptor ridge.

    VIBRONIC_DATA=... python benchmarks/srtio3.py --out runs/srtio3

Writes benchmarks/results/srtio3.json. A killed run goes on with the same command.
"""

import argparse
import os
import platform
import resource
import time
from pathlib import Path

import numpy as np
import torch

from vibronic.core.provenance import versions, write_json
from vibronic.core.units import GPA
from vibronic.data.dataset import label_of, labels_of
from vibronic.data.sources import structures
from vibronic.learning.prediction import predict
from vibronic.learning.recipe import Training
from vibronic.learning.store import load
from vibronic.verbs import train


def scores(folder: Path) -> dict[str, float]:
    """Errors on the 30 test cells, in the units people compare."""
    model, _ = load(folder)
    test = structures("SrTiO3-test")
    predicted = predict(model, test)
    energy = np.array([p / len(a) - label_of(a, "energy") / len(a) for p, a in zip(predicted["energy"], test)]) * 1e3
    if "stress" in predicted:
        predicted["pressure"] = [-np.trace(s) / 3 for s in predicted["stress"]]
    pressure = np.array([p - label_of(a, "pressure") for p, a in zip(predicted["pressure"], test)]) / GPA
    found = {
        "mae_energy [meV/atom]": np.abs(energy).mean(),
        "rmse_energy [meV/atom]": np.sqrt((energy**2).mean()),
        "mae_pressure [GPa]": np.abs(pressure).mean(),
        "rmse_pressure [GPa]": np.sqrt((pressure**2).mean()),
    }
    if "forces" in predicted:
        forces = next(t for t in model.targets if t.name == "forces")
        error = np.concatenate([p - labels_of(a, [forces])["forces"] for p, a in zip(predicted["forces"], test)])
        found["mae_forces [eV/Angstrom]"] = np.abs(error).mean()
        found["rmse_forces [eV/Angstrom]"] = np.sqrt((error**2).mean())
    return {k: float(v) for k, v in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/srtio3"))
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, object] = {}
    network = {"width": options.width, "layers": options.layers, "cutoff": options.cutoff}
    how = Training(epochs=options.epochs, ema=0.999)
    for name, kind, targets, settings in (
        ("ridge", "ridge", ["energy", "pressure"], {}),
        ("painn", "painn", ["energy", "forces", "stress"], network),
    ):
        folder = options.out / name
        start, cpu = time.perf_counter(), time.process_time()
        train(
            kind,
            "SrTiO3-train",
            targets,
            test="SrTiO3-test",
            fractions=(0.9, 0.1, 0.0),
            model=settings,
            training=how,
            device="cpu",
            out=folder,
            seed=options.seed,
        )
        results[name] = {
            **scores(folder),
            "settings": load(folder)[0].config,
            "epochs": options.epochs if kind == "painn" else None,
            "seconds_of_this_run": round(time.perf_counter() - start, 1),
            "cpu_seconds_of_this_run": round(time.process_time() - cpu, 1),
        }
    write_json(
        Path(__file__).parent / "results" / "srtio3.json",
        {
            "what": "SrTiO3, 270 training cells (243 to fit, 27 to choose the epoch; the ridge fits all), 30 test cells",
            "targets": {"energy [meV/atom]": 3.2, "pressure [GPa]": 0.059},
            "command": f"python benchmarks/srtio3.py --epochs {options.epochs} --width {options.width}"
            f" --layers {options.layers} --cutoff {options.cutoff} --seed {options.seed}",
            "seed": options.seed,
            "threads": 1,
            "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
            "versions": versions(),
            **results,
        },
    )


if __name__ == "__main__":
    main()
