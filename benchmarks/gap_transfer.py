"""PBE band gaps of one anti-perovskite learned from others: Ag3SBr, Ag3SI and the mixed crystal Ag3S(Br, I).

Snapshots of dynamics at 300 K of Ag3SI and of the mixed crystal are predicted by tight-binding models of the other crystals alone, of other
trajectories of the crystal itself (for the mixed one: other arrangements of its halogens), and of both. Every trajectory is tested
whole, by models that saw nothing of it. The constant is the mean of the crystal's own other trajectories, or of the others' dynamics at 300 K::

    python benchmarks/gap_transfer.py          # 40 minutes of one core
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from ase import Atoms

import record
from band_gaps import scores, trajectory
from vibronic.core.statistics import half_width
from vibronic.data.dataset import GraphData
from vibronic.data.sources import structures
from vibronic.learning import store
from vibronic.learning.prediction import predict

SETS = {"Ag3SBr": "Ag3SBr-pbe", "Ag3SI": "Ag3SI-pbe", "Ag3S(Br, I)": "Ag6S2BrI-pbe"}
TARGETS = ["band_gap", "vbm"]


@dataclass(frozen=True)
class Fold:
    """A trajectory of a crystal to test on, and what is learned from."""

    crystal: str
    source: str
    seed: int


def frames(name: str) -> list[Atoms]:
    """A set, without the random configurations, half of which are far more violent than any dynamics."""
    return [a for a in structures(SETS[name]) if a.info["method"] != "random"]


def parts(fold: Fold) -> tuple[list[Atoms], list[Atoms]]:
    """Structures to learn from and to test on."""
    own = frames(fold.crystal)
    train = [] if fold.source == "itself" else [a for name in SETS if name != fold.crystal for a in frames(name)]
    if fold.source != "others":
        train += [a for a in own if trajectory(a)[1] != fold.seed]
    return train, [a for a in own if trajectory(a)[1] == fold.seed]


def predicted(fold: Fold) -> list[float]:
    """Band gaps of the trajectory."""
    torch.set_num_threads(1)
    train, test = parts(fold)
    model = store.build("tight-binding", targets=TARGETS)
    model.prepare(GraphData(train, model.labels, model.cutoff, model.dtype).batch())
    return [float(v) for v in predict(model, test)["band_gap"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    folds = [
        Fold(name, source, seed)
        for name in ("Ag3SI", "Ag3S(Br, I)")
        for source in ("others", "itself", "both")
        for seed in sorted({trajectory(a)[1] for a in frames(name)})
    ]
    found: dict[str, list[tuple[np.ndarray, np.ndarray, float]]] = {}
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for fold, values in zip(folds, pool.map(predicted, folds), strict=True):
            train, test = parts(fold)
            labels = np.array([float(a.info["band_gap"]) for a in test])
            alike = [a for a in train if a.info["method"] == "md" and trajectory(a)[0] == 300]
            if fold.source == "both":
                alike = [a for a in alike if a.symbols.formula == test[0].symbols.formula]
            constant = float(np.mean([float(a.info["band_gap"]) for a in alike]))
            found.setdefault(f"{fold.crystal} from {fold.source}", []).append((np.array(values), labels, constant))
            print(
                fold, len(train), np.abs(np.array(values) - labels).mean(), np.abs(constant - labels).mean(), flush=True
            )
    tables = {}
    for name, ones in found.items():
        errors = [values - labels for values, labels, _ in ones]
        biases = [float(e.mean()) for e in errors]
        tables[name] = {
            **scores(np.concatenate([v for v, _, _ in ones]), np.concatenate([y for _, y, _ in ones])),
            "mae_half_width_over_trajectories": half_width([float(np.abs(e).mean()) for e in errors]),
            "bias_half_width_over_trajectories": half_width(biases),
            "mae_of_the_constant": float(np.concatenate([np.abs(c - y) for _, y, c in ones]).mean()),
        }
        print(name, tables[name], flush=True)
    content = {
        "what": "PBE gap of snapshots of dynamics at 300 K (40 atoms), by tight-binding models of other crystals, of the crystal itself, and of both",
        "units": {"*": "eV", "r2": "1", "n": "snapshots"},
        "sets": {name: len(frames(name)) for name in SETS},
        "tables": tables,
    }
    print(record.write("gap_transfer", content, "python benchmarks/gap_transfer.py"))


if __name__ == "__main__":
    main()
