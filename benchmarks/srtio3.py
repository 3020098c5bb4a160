"""SrTiO3 (270 training, 30 test cells of 40 atoms, VASP): the potential against the descriptor ridge.

    VIBRONIC_DATA=... python benchmarks/srtio3.py --out runs/srtio3

Writes benchmarks/results/srtio3.json. One process and one thread per seed; a killed run goes on with the same command.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import record
from vibronic.core.units import GPA
from vibronic.data.dataset import label_of, labels_of
from vibronic.data.sources import structures
from vibronic.labelling.executors import processes
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


def fit(kind: str, targets: list[str], settings: dict, how: Training, folder: Path, seed: int) -> dict[str, object]:
    """Train one model on all training cells and score it."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    train(
        kind,
        "SrTiO3-train",
        targets,
        test="SrTiO3-test",
        fractions=(1.0, 0.0, 0.0),
        model=settings,
        training=how,
        device="cpu",
        out=folder,
        seed=seed,
    )
    return {**scores(folder), "seconds_of_this_run": round(time.perf_counter() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/srtio3"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--cutoff", type=float, default=5.0)
    parser.add_argument("--energy", type=float, default=5.0, help="weight in the loss; forces have 50")
    parser.add_argument("--stress", type=float, default=10.0, help="weight in the loss")
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    network = {
        "width": options.width,
        "layers": options.layers,
        "cutoff": options.cutoff,
        "weights": {"energy": options.energy, "stress": options.stress},
    }
    how = Training(
        epochs=options.epochs, ema=0.999, weight_decay=options.weight_decay, learning_rate=options.learning_rate
    )
    results = {"ridge": fit("ridge", ["energy", "pressure"], {}, how, options.out / "ridge", 0)}
    with processes(options.seeds) as pool:
        targets = ["energy", "forces", "stress"]
        running = {
            f"painn, seed {seed}": pool.schedule(
                fit, ("painn", targets, network, how, options.out / f"painn-{seed}", seed)
            )
            for seed in range(options.seeds)
        }
        results |= {name: future.result() for name, future in running.items()}
    content = {
        "what": "SrTiO3, 270 training cells, all fitted (the network keeps its last averaged weights), 30 test cells",
        "targets": {"mae_energy [meV/atom]": 3.2, "mae_pressure [GPa]": 0.059},
        **results,
        "settings": {"painn": network, "training": asdict(how)},
    }
    command = " ".join(f"--{k} {v}" for k, v in vars(options).items() if k != "out")
    record.write("srtio3", content, f"python benchmarks/srtio3.py {command}")


if __name__ == "__main__":
    main()
