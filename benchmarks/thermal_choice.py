"""How many labels does a thermal average need: averaged alone, through a model of random ones, or of chosen ones?

A pool of configurations per temperature is labelled in full by the embedded engine, so that the truth of the pool is known. Then
labels are handed out as if they were expensive: at random, or chosen by ``vibronic.thermal.choice``, in batches of eight after 16
first ones, as many of each batch at random as in ``vibronic thermal``; the ridge of the package learns from them and predicts the rest of the
pool, at the level of the labels of each temperature. The error is that of the pool's own mean, without that of the pool. ``labels`` is how many are needed until it stays below a level, over
the seeds and temperatures: the root-mean-square error, which a single fit gone wrong can rule, and the ``typical`` one (1.48 times the median
of its modulus). ``saved`` is the ratio of random to chosen at that level. The levels are set by averages of labels alone: the errors that
50, 100, 200, 400 and 800 of them leave (spread / sqrt(n); fewer of a finite pool, whose mean they know the better). ``covered`` is how often the 95 % interval of the model, widened by cross-validation as
in ``vibronic thermal``, holds the pool's mean, over all numbers of labels::

    python benchmarks/thermal_choice.py                # about an hour of one core, half of it labels

The pool of NaCl is of phonons. That of Ag3SBr is of dynamics: effective force constants of this soft crystal draw configurations ten times as
far above the undisplaced crystal as equipartition has them.
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
from vibronic.sampling.dynamics import Dynamics
from vibronic.sampling.harmonic import force_constants
from vibronic.sampling.phonons import Phonons
from vibronic.sampling.relax import relax
from vibronic.thermal import choice
from vibronic.thermal.average import FOLDS, Z95
from vibronic.thermal.plan import FRACTION

CRYSTALS = {"NaCl": "phonons", "Ag3SBr": "md"}
TEMPERATURES = (200.0, 400.0)
POOL, FIRST, BATCH, MOST, SEEDS = 300, 16, 8, 160, 20
LEVELS = (50, 100, 200, 400, 800)
CACHE = Path(tempfile.gettempdir()) / "vibronic-thermal-choice"


def pool_of(name: str) -> list[list]:
    """Labelled pools, one per temperature; kept in a temporary folder, since a killed benchmark should not label again."""
    found = []
    calculator = engine("sevennet").calculator()
    relaxed = None
    for k, t in enumerate(TEMPERATURES):
        path = CACHE / f"{name}-{CRYSTALS[name]}-{t:g}.extxyz"
        if not path.exists():
            relaxed = relax(crystal(name), calculator) if relaxed is None else relaxed
            if CRYSTALS[name] == "md":
                dynamics = Dynamics(calculator, t, timestep=5.0, friction=0.01, equilibration=200, interval=8)
                write_structures(path, dynamics.sample(relaxed.repeat((2, 2, 2)), POOL, k))
            else:
                constants = force_constants(relaxed, (2, 2, 2), calculator)
                drawn = Phonons(constants, t, "quantum", min_distance=1.6).sample(constants.supercell, POOL, 1)
                write_structures(path, label(drawn, "sevennet", CACHE / "ledger.sqlite", workers=1).labelled)
        found.append(read_labelled(path))
    return found


class Learner:
    """The ridge of the package on features that are computed once, with a level for each temperature as in ``vibronic thermal``."""

    def __init__(self, frames: list, where: np.ndarray) -> None:
        self.model = DescriptorRidge(["energy"])
        batch = GraphData(frames, self.model.targets, self.model.cutoff).batch()
        self.model.elements = torch.unique(batch.numbers)
        self.rows = torch.cat([self.model.features(batch.select(torch.tensor([k]))) for k in range(len(frames))])
        self.scale = self.rows.std(0, correction=0)
        self.scale[self.scale <= 1e-8] = torch.inf
        self.at = torch.nn.functional.one_hot(torch.as_tensor(where)).double()  # (frames, temperatures)

    def once(
        self, places: np.ndarray, labels: np.ndarray, wanted: np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor, float]:
        """Predictions for some places, their deviations and the noise, from the labels of others."""
        x = (self.rows - self.rows[places].mean(0)) / self.scale
        y = torch.as_tensor(labels[places])
        fitted = ridge(x[places], y - y.mean(), free=1)
        value, deviations = x @ fitted.coefficients + y.mean(), x @ covariance_root(x[places], fitted)
        share = self.at[places] / self.at[places].sum(0).clamp(min=1)
        shift, mean = share.T @ (y - value[places]), share.T @ deviations[places]
        at = self.at[wanted]
        own = at * fitted.noise / self.at[places].sum(0).clamp(min=1).sqrt()
        deviations = torch.cat([deviations[wanted] - at @ mean, own], dim=1)
        return (value[wanted] + at @ shift).numpy(), deviations, fitted.noise

    def fit(self, places: list[int], labels: np.ndarray) -> tuple[np.ndarray, torch.Tensor, float]:
        """Of all structures, deviations and noise widened by how wrong the model was on labels that it had not seen."""
        places = np.array(places)
        fold = np.random.default_rng(0).permutation(np.arange(len(places)) % FOLDS)
        pulls = []
        for k in range(FOLDS):
            held = places[fold == k]
            predicted, deviations, noise = self.once(places[fold != k], labels, held)
            foreseen = (deviations.square().sum(1) + noise**2).sqrt().numpy()
            pulls += list((predicted - labels[held]) / np.maximum(foreseen, 1e-12))
        widening = max(1.0, float(np.sqrt(np.mean(np.square(pulls)))))
        predicted, deviations, noise = self.once(places, labels, np.arange(len(labels)))
        # The truth here is the mean of the pool, of which the labels are a part.
        deviations[:, -self.at.shape[1] :] *= (1 - self.at[places].sum(0) / self.at.sum(0)).sqrt()
        return predicted, widening * deviations, widening * noise


def replay(
    learner: Learner, labels: np.ndarray, where: np.ndarray, seed: int, chosen: bool
) -> dict[int, list[tuple[float, float]]]:
    """Errors of the averages after each batch, and half widths of their intervals, by number of labels."""
    rng = np.random.default_rng(seed)
    places = [
        int(k) for t in range(len(TEMPERATURES)) for k in rng.permutation(np.flatnonzero(where == t))[: FIRST // 2]
    ]
    errors = {}
    truth = [labels[where == t].mean() for t in range(len(TEMPERATURES))]
    while True:
        predicted, deviations, noise = learner.fit(places, labels)
        errors[len(places)] = [
            (float(predicted[where == t].mean() - truth[t]), Z95 * float(deviations[where == t].mean(0).norm()))
            for t in range(len(TEMPERATURES))
        ]
        if len(places) >= MOST:
            return errors
        goals = torch.stack([deviations[where == t].mean(0) for t in range(len(TEMPERATURES))])
        picked: list[int] = []
        if chosen:
            picked = choice.choose(
                deviations,
                goals,
                noise,
                BATCH - round(FRACTION * BATCH),
                torch.full((len(goals),), 1e-30, dtype=goals.dtype),
                places,
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
    learner = Learner(frames, where)
    rows = []
    for target, unit in (("energy", "eV/atom"), ("pressure", "GPa")):
        per = np.array([len(a) if target == "energy" else GPA for a in frames])
        labels = np.array([float(np.asarray(label_of(a, target))) for a in frames]) / per
        curves: dict[str, dict[int, float]] = {}
        typical: dict[str, dict[int, float]] = {}
        covered: dict[str, float] = {}
        for kind in ("random", "chosen"):
            runs = [replay(learner, labels, where, seed, kind == "chosen") for seed in range(SEEDS)]
            errors = {n: np.abs([[e for e, _ in run[n]] for run in runs]) for n in runs[0]}
            covered[kind] = float(
                np.mean([abs(e) <= half for run in runs for pairs in run.values() for e, half in pairs])
            )
            curves[kind] = {n: float(np.sqrt(np.mean(e**2))) for n, e in errors.items()}
            typical[kind] = {n: float(1.4826 * np.median(e)) for n, e in errors.items()}
        spread = float(np.sqrt(np.mean([labels[where == t].var() for t in range(len(pools))])))
        levels = []
        for alone in LEVELS:
            level = spread / alone**0.5
            # So many of each temperature; in a pool of finite size fewer know its mean as well.
            row = {"level": level, "labels_alone": round(alone / (1 + alone / POOL)) * len(pools)}
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
                "covered": covered,
                "levels": levels,
                "rmse": curves,
                "typical": typical,
            }
        )
        print(json.dumps({k: v for k, v in rows[-1].items() if k not in ("rmse", "typical")}), flush=True)
    return rows


def tables(rows: list[dict]) -> dict[str, dict]:
    """For each crystal and target, by the labels that an average of labels alone needs: labels of the other two; and coverage."""
    coverage = {
        f"{row['crystal']}, {row['target']}": {f"{kind} labels": share for kind, share in row["covered"].items()}
        for row in rows
    }
    return {"share of averages within their 95 % interval": coverage} | {
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
        "conditions": f"SevenNet labels, pools of {POOL} at {' and '.join(f'{t:g}' for t in TEMPERATURES)} K (NaCl: quantum phonons, "
        f"Ag3SBr: Langevin dynamics, 40 fs apart), ridge, {SEEDS} seeds; errors are against the mean of the pool",
        "tables": tables(rows),
        "rows": rows,
    }
    print(record.write("thermal_choice", content, "python benchmarks/thermal_choice.py"))


if __name__ == "__main__":
    main()
