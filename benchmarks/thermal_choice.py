"""How many labels does a thermal average need: averaged alone, through a model of random ones, or of chosen ones?

A pool of configurations per temperature is labelled in full by the embedded engine, so that the truth of the pool is known. Then
labels are handed out as if they were expensive: at random, or chosen by ``vibronic.thermal.choice``, in batches of eight after 16
first ones, a quarter of each batch at random as in ``vibronic thermal``; the ridge of the package learns from them and predicts the rest of the
pool. ``labels`` is how many are needed until the error of the average, over the seeds and temperatures, stays below a level: the
root-mean-square error, which a single fit gone wrong can rule, and the ``typical`` one (1.48 times the median of its modulus). ``saved`` is
the ratio of random to chosen at that level. The levels are set by averages of labels alone: the errors that 50, 100, 200 and
400 of them leave (spread / sqrt(n))::

    python benchmarks/thermal_choice.py                # about half an hour of one core, most of it labels
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import record
from vibronic.core.units import GPA
from vibronic.data.dataset import GraphData, label_of, read_labelled, write_structures
from vibronic.data.sources import crystal
from vibronic.labelling.engines import engine
from vibronic.labelling.label import label
from vibronic.properties.descriptors import DescriptorRidge
from vibronic.properties.linear import covariance_root, ridge
from vibronic.sampling.harmonic import force_constants
from vibronic.sampling.phonons import prepare_phonons
from vibronic.sampling.relax import relax
from vibronic.thermal import choice

CRYSTALS = {"NaCl": "refuse", "Ag3SBr": "effective"}
TEMPERATURES = (200.0, 400.0)
POOL, FIRST, BATCH, MOST, SEEDS = 300, 16, 8, 160, 20
LEVELS = (50, 100, 200, 400)
CACHE = Path(tempfile.gettempdir()) / "vibronic-thermal-choice"


def pool_of(name: str) -> list[list]:
    """Labelled pools, one per temperature; kept in a temporary folder, since a killed benchmark should not label again."""
    found = []
    calculator = engine("sevennet").calculator()
    constants = None
    for t in TEMPERATURES:
        path = CACHE / f"{name}-{t:g}.extxyz"
        if not path.exists():
            if constants is None:
                constants = force_constants(relax(crystal(name), calculator), (2, 2, 2), calculator)
            sampler, _ = prepare_phonons(constants, t, CRYSTALS[name], "quantum", calculator, min_distance=1.6)
            drawn = sampler.sample(constants.supercell, POOL, 1)
            write_structures(path, label(drawn, "sevennet", CACHE / "ledger.sqlite", workers=1).labelled)
        found.append(read_labelled(path))
    return found


class Learner:
    """The ridge of the package on features that are computed once."""

    def __init__(self, frames: list) -> None:
        model = DescriptorRidge(["energy"])
        batch = GraphData(frames, model.targets, model.cutoff).batch()
        model.elements = torch.unique(batch.numbers)
        self.rows = torch.cat([model.features(batch.select(torch.tensor([k]))) for k in range(len(frames))])

    def fit(self, places: list[int], labels: np.ndarray) -> tuple[np.ndarray, torch.Tensor, float]:
        """Predictions of all, their deviations and the noise, from the labels of some."""
        x = self.rows[places]
        mean, scale = x.mean(0), x.std(0, correction=0)
        scale = torch.where(scale > 1e-8, scale, torch.inf)
        y = torch.as_tensor(labels[places])
        fitted = ridge((x - mean) / scale, y - y.mean(), free=1)
        everything = (self.rows - mean) / scale
        deviations = torch.cat(
            [
                everything @ covariance_root((x - mean) / scale, fitted),
                torch.full((len(self.rows), 1), fitted.noise / len(places) ** 0.5, dtype=self.rows.dtype),
            ],
            dim=1,
        )
        return (everything @ fitted.coefficients + y.mean()).numpy(), deviations, fitted.noise


def replay(learner: Learner, labels: np.ndarray, where: np.ndarray, seed: int, chosen: bool) -> dict[int, list[float]]:
    """Errors of the averages after each batch, by number of labels."""
    rng = np.random.default_rng(seed)
    places = [
        int(k) for t in range(len(TEMPERATURES)) for k in rng.permutation(np.flatnonzero(where == t))[: FIRST // 2]
    ]
    errors = {}
    truth = [labels[where == t].mean() for t in range(len(TEMPERATURES))]
    while True:
        predicted, deviations, noise = learner.fit(places, labels)
        errors[len(places)] = [float(predicted[where == t].mean() - truth[t]) for t in range(len(TEMPERATURES))]
        if len(places) >= MOST:
            return errors
        goals = torch.stack([deviations[where == t].mean(0) for t in range(len(TEMPERATURES))])
        picked: list[int] = []
        if chosen:
            picked = choice.choose(
                deviations, goals, noise, 3 * BATCH // 4, torch.full((len(goals),), 1e-30, dtype=goals.dtype), places
            )
        free = np.setdiff1d(np.arange(len(labels)), [*places, *picked])
        places += picked + [int(k) for k in rng.permutation(free)[: BATCH - len(picked)]]


def first_below(curve: dict[int, float], level: float) -> int | None:
    """The number of labels from which the error stays below a level."""
    sizes = sorted(curve)
    bad = [n for n in sizes if curve[n] > level]
    after = [n for n in sizes if not bad or n > bad[-1]]
    return after[0] if after else None


def measured(name: str) -> list[dict]:
    pools = pool_of(name)
    frames = [a for pool in pools for a in pool]
    where = np.repeat(np.arange(len(pools)), [len(p) for p in pools])
    learner = Learner(frames)
    rows = []
    for target, unit in (("energy", "eV/atom"), ("pressure", "GPa")):
        per = np.array([len(a) if target == "energy" else GPA for a in frames])
        labels = np.array([float(np.asarray(label_of(a, target))) for a in frames]) / per
        curves: dict[str, dict[int, float]] = {}
        typical: dict[str, dict[int, float]] = {}
        for kind in ("random", "chosen"):
            runs = [replay(learner, labels, where, seed, kind == "chosen") for seed in range(SEEDS)]
            errors = {n: np.abs([run[n] for run in runs]) for n in runs[0]}
            curves[kind] = {n: float(np.sqrt(np.mean(e**2))) for n, e in errors.items()}
            typical[kind] = {n: float(1.4826 * np.median(e)) for n, e in errors.items()}
        spread = float(np.sqrt(np.mean([labels[where == t].var() for t in range(len(pools))])))
        levels = []
        for alone in LEVELS:
            level = spread / alone**0.5
            row = {"level": level, "labels_alone": alone * len(pools)}  # so many of each temperature
            for how, found in (("rmse", curves), ("typical", typical)):
                needed = {kind: first_below(curve, level) for kind, curve in found.items()}
                both = needed["random"] and needed["chosen"]
                row[how] = {**needed, "saved": needed["random"] / needed["chosen"] if both else None}
            levels.append(row)
        rows.append(
            {
                "crystal": name,
                "target": target,
                "unit": unit,
                "spread": spread,
                "levels": levels,
                "rmse": curves,
                "typical": typical,
            }
        )
        print(json.dumps({k: v for k, v in rows[-1].items() if k not in ("rmse", "typical")}), flush=True)
    return rows


def tables(rows: list[dict]) -> dict[str, dict]:
    """For each crystal and target, by the labels that an average of labels alone needs: labels of the other two."""
    return {
        f"{row['crystal']}, {row['target']}: labels needed where labels alone take so many": {
            str(level["labels_alone"]): {
                f"{kind}, {how} error": "never" if level[how][kind] is None else level[how][kind]
                for how in ("typical", "rmse")
                for kind in ("random", "chosen")
            }
            for level in row["levels"]
        }
        for row in rows
    }


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for name in CRYSTALS for row in measured(name)]
    content = {
        "what": "Labels for a thermal average: alone, through a model of random ones, and of chosen ones",
        "conditions": f"SevenNet labels, pools of {POOL} at {' and '.join(f'{t:g}' for t in TEMPERATURES)} K, quantum phonons "
        f"(Ag3SBr: effective force constants), ridge, {SEEDS} seeds",
        "tables": tables(rows),
        "rows": rows,
    }
    print(record.write("thermal_choice", content, "python benchmarks/thermal_choice.py"))


if __name__ == "__main__":
    main()
