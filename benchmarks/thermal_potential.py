"""How well 300 labels of the embedded engine teach a potential its own dynamics.

Trains PaiNN on 300 configurations of a finished thermal study (see ``thermal_study.py``) and scores it on the study's test
trajectories, of the temperature of the training and of a higher one: phonon-made ones alone, or half of them from an independent
trajectory. The settings are those of ``srtio3``, none tuned here::

    python benchmarks/thermal_potential.py runs/thermal-study      # about six minutes of a core for each training

A killed run goes on with the same command.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import record
from vibronic.core.targets import TARGETS
from vibronic.core.units import GPA
from vibronic.data.dataset import GraphData, labels_of, read_labelled
from vibronic.labelling.executors import processes
from vibronic.learning.prediction import predict
from vibronic.learning.recipe import Training
from vibronic.learning.store import build
from vibronic.learning.training import fit

LABELS = 300
SETS = {"phonons": ("phonons",), "phonons and dynamics": ("phonons", "dynamics")}
NETWORK = {"width": 64, "layers": 3, "cutoff": 5.0, "weights": {"energy": 5.0, "stress": 10.0}}
HOW = Training(epochs=60, ema=0.999, weight_decay=0.1, learning_rate=3e-3)
POTENTIAL = ["energy", "forces", "stress"]


def scores(model, path: Path) -> dict[str, float]:
    """Mean absolute errors on one trajectory; the energy also without the mean error, which no comparison of configurations sees."""
    test = read_labelled(path)
    predicted = predict(model, test)
    labels = [labels_of(a, [TARGETS[t] for t in POTENTIAL]) for a in test]
    each = {t: [np.asarray(p) - label[t] for p, label in zip(predicted[t], labels, strict=True)] for t in POTENTIAL}
    energy = np.array([float(e) / len(a) for e, a in zip(each["energy"], test, strict=True)])
    stress = np.array(each["stress"]) / GPA
    return {
        "energy [meV/atom]": 1e3 * float(np.abs(energy).mean()),
        "energy, mean error taken off [meV/atom]": 1e3 * float(np.abs(energy - energy.mean()).mean()),
        "stress, six components [GPa]": float(np.abs(stress[:, *np.triu_indices(3)]).mean()),
        "pressure [GPa]": float(np.abs(np.trace(stress, axis1=1, axis2=2) / 3).mean()),
        "forces [meV/Angstrom]": 1e3 * float(np.abs(np.concatenate(each["forces"])).mean()),
    }


def one(study: Path, out: Path, crystal: str, name: str, seed: int) -> dict[str, dict[str, float]]:
    """Train on one set of one crystal and score at every temperature."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    parts = SETS[name]
    train = [
        a for part in parts for a in read_labelled(study / crystal / f"{part}-labelled.extxyz")[: LABELS // len(parts)]
    ]
    model = build("painn", targets=POTENTIAL, **NETWORK)
    fit(model, GraphData(train, model.labels, model.cutoff), None, out, HOW, seed, "cpu", progress=False, logs=False)
    return {path.stem: scores(model, path) for path in sorted((study / crystal).glob("test*.extxyz"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/thermal-potential"))
    parser.add_argument("--crystals", nargs="+")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    plan = json.loads((options.study / "plan.json").read_text())
    keys = [(c, s, k) for k in range(options.seeds) for s in SETS for c in options.crystals or plan["crystals"]]
    found: dict[str, dict[str, object]] = {}
    with processes(options.workers) as pool:
        waiting = {
            key: pool.schedule(one, (options.study, options.out / "-".join(map(str, key)).replace(" ", "-"), *key))
            for key in keys
        }
        for (crystal, name, seed), future in waiting.items():
            for where, row in future.result().items():
                kelvin = where.removeprefix("test").strip("-K") or f"{plan['temperature']:g}"
                found.setdefault(f"{crystal}, dynamics at {kelvin} K", {})[f"{name}, seed {seed}"] = row
                print(crystal, kelvin, name, row, flush=True)
    content = {
        "what": f"A potential from {LABELS} labels of the embedded engine, mean absolute errors on molecular dynamics",
        "conditions": f"configurations and test trajectories ({plan['test']} snapshots each) of the study in thermal_study.json, drawn at "
        f"{plan['temperature']:g} K; the last averaged weights, no validation set",
        "targets": {"energy [meV/atom]": 1.0, "stress [GPa]": 0.05},
        "tables": found,
        "settings": {"painn": NETWORK, "training": asdict(HOW)},
    }
    print(record.write("thermal_potential", content, "python benchmarks/thermal_potential.py runs/thermal-study"))


if __name__ == "__main__":
    main()
