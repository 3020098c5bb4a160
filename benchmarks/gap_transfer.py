"""PBE band gaps of one anti-perovskite learned from others: Ag3SBr, Ag3SI and the mixed crystal Ag3S(Br, I).

Snapshots of dynamics at 300 K of Ag3SI and of the mixed crystal are predicted by tight-binding models of the other crystals alone, of other
trajectories of the crystal itself (for the mixed one: other arrangements of its halogens), and of both. Every trajectory is tested
whole, by models that saw nothing of it; in the mixed crystal every trajectory has an arrangement of its own. The constants are the mean of the
crystal's own other trajectories, and of the others' dynamics at 300 K::

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
TARGETS = {"gap and VBM": ("band_gap", "vbm"), "gap": ("band_gap",)}
"""What is learned; the zero of the VBM is the average potential, which differs from crystal to crystal."""


@dataclass(frozen=True)
class Fit:
    """What is learned, and trajectories of a crystal to test on: one of them, or all of them by a model that saw none."""

    crystal: str
    source: str
    learned: str
    seed: int | None


def frames(name: str) -> list[Atoms]:
    """A set, without the random configurations, half of which are far more violent than any dynamics."""
    return [a for a in structures(SETS[name]) if a.info["method"] != "random"]


def parts(fit: Fit) -> tuple[list[Atoms], list[Atoms]]:
    """Structures to learn from and to test on."""
    own = frames(fit.crystal)
    test = [a for a in own if fit.seed in (None, trajectory(a)[1])]
    train = [] if fit.source == "itself" else [a for name in SETS if name != fit.crystal for a in frames(name)]
    if fit.seed is not None:
        train += [a for a in own if trajectory(a)[1] != fit.seed]
    return train, test


def gaps(fit: Fit) -> tuple[list[float], list[float]]:
    """Band gaps of the test structures, and those of a constant: the mean of what is learned of dynamics at 300 K, and of the crystal itself
    where that is among it."""
    torch.set_num_threads(1)
    train, test = parts(fit)
    model = store.build("tight-binding", targets=list(TARGETS[fit.learned]))
    model.prepare(GraphData(train, model.labels, model.cutoff, model.dtype).batch())
    alike = [a for a in train if a.info["method"] == "md" and trajectory(a)[0] == 300]
    if fit.seed is not None:
        alike = [a for a in alike if a.symbols.formula == test[0].symbols.formula]
    constant = float(np.mean([float(a.info["band_gap"]) for a in alike]))
    return [float(v) for v in predict(model, test)["band_gap"]], [constant] * len(test)


def compared(errors: dict[str, dict[int, float]]) -> dict[str, dict[str, float | None]]:
    """Differences of mean absolute errors between ways of learning, as means over trajectories with 95 % intervals."""
    found: dict[str, dict[str, float | None]] = {}
    for a, b in (
        ("both", "itself"),
        ("both", "mean of itself"),
        ("others", "mean of others"),
        ("itself", "mean of itself"),
    ):
        change = [errors[a][seed] - errors[b][seed] for seed in errors[a]]
        found[f"{a} less {b}"] = {"difference": float(np.mean(change)), "half_width": half_width(change)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    tested = {name: sorted({trajectory(a)[1] for a in frames(name)}) for name in ("Ag3SI", "Ag3S(Br, I)")}
    fits = [
        Fit(name, source, learned, seed)
        for learned in TARGETS
        for name, seeds in tested.items()
        for source in ("others", "itself", "both")
        for seed in ([None] if source == "others" else seeds)
    ]
    found: dict[tuple[str, str], dict[str, list[tuple[int, float, float]]]] = {}
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for fit, (values, constants) in zip(fits, pool.map(gaps, fits), strict=True):
            rows = found.setdefault((fit.crystal, fit.learned), {})
            means = rows.setdefault(f"mean of {fit.source}", []) if fit.source != "both" else []
            for atoms, value, constant in zip(parts(fit)[1], values, constants, strict=True):
                label, seed = float(atoms.info["band_gap"]), trajectory(atoms)[1]
                rows.setdefault(fit.source, []).append((seed, value, label))
                means.append((seed, constant, label))
            print(
                fit,
                len(parts(fit)[0]),
                scores(*(np.array(c) for c in list(zip(*rows[fit.source], strict=True))[1:])),
                flush=True,
            )
    tables, differences = {}, {}
    for (crystal, learned), rows in found.items():
        errors: dict[str, dict[int, float]] = {}
        for name, ones in rows.items():
            seeds, values, labels = (np.array(column) for column in zip(*ones, strict=True))
            errors[name] = {int(s): float(np.abs(values - labels)[seeds == s].mean()) for s in np.unique(seeds)}
            tables[f"{crystal} from {name}, {learned}"] = {
                **scores(values, labels),
                **{f"mae of trajectory {seed}": e for seed, e in errors[name].items()},
            }
        differences |= {f"{crystal}, {learned}, {k}": v for k, v in compared(errors).items()}
    content = {
        "what": "PBE gap of snapshots of dynamics at 300 K (40 atoms), by tight-binding models of other crystals, of the crystal itself, and of both",
        "units": {"*": "eV", "r2": "1", "n": "snapshots"},
        "sets": {name: len(frames(name)) for name in SETS},
        "tables": tables,
        "differences of errors, over trajectories": differences,
    }
    print(record.write("gap_transfer", content, "python benchmarks/gap_transfer.py"))


if __name__ == "__main__":
    main()
