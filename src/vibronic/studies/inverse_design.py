"""Which conditioning finds crystals of a wanted property? (arXiv 2406.09263, tables of success rates)

The published diffusion transformer with its two ways of conditioning (CDI, CDS) and ours learn the same crystals of Perov-5,
Carbon-24 and MP-20 in the same number of optimiser steps, and are asked for the lowest value of one property. CDVAE's
predictors judge what comes.

Every training leaves a model, every condition its samples and figures, and what is there is not made again.
``inverse_design_data.py`` says what is learned, ``inverse_design_model.py`` how a model is trained and judged;
``inverse_design_report.py`` (and ``_figures``) reads the files and nothing else.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.folder import bind, content
from vibronic.core.provenance import writable, write_json
from vibronic.core.statistics import half_width
from vibronic.crystals import predictor
from vibronic.crystals.metrics import BENCHMARKS, GROUP, bootstrap
from vibronic.data import cdvae
from vibronic.labelling.executors import processes
from vibronic.studies.inverse_design_data import FEWEST, Predict, prepare
from vibronic.studies.inverse_design_model import CONDITIONS, MODELS, sampled, trained

STUDY = "inverse-design"

PUBLISHED = {
    "CDVAE": {"perov-5": (0.52, 0.65, 0.79), "carbon-24": (0.00, 0.06, 0.06), "mp-20": (0.78, 0.86, 0.90)},
    "SyMat": {"perov-5": (0.73, 0.80, 0.87), "carbon-24": (0.06, 0.13, 0.13), "mp-20": (0.92, 0.97, 0.97)},
    "CDI": {"perov-5": (0.93, 0.97, 0.98), "carbon-24": (0.43, 0.56, 0.57), "mp-20": (0.91, 0.93, 0.95)},
    "CDS": {"perov-5": (0.97, 0.99, 1.00), "carbon-24": (0.56, 0.64, 0.64), "mp-20": (0.63, 0.75, 0.84)},
}
"""SR5, SR10 and SR15 as printed in the paper, after 3,000 to 4,000 epochs on the official training sets."""

SHARES = (
    *(f"sr{p}{ending}" for ending in ("_all", "", f"_best_of_{GROUP}") for p in (5, 10, 15)),
    *("valid_structure", "valid_composition", "valid", "unique", "novel", "hits"),
)

Load = Callable[[str | None, Any], Predict]


@dataclass(frozen=True)
class Plan:
    """What the study does.

    Attributes:
        sets: names in ``vibronic data`` with a published benchmark.
        models: cdi, cds (as published) and vibronic (ours).
        seeds: each has weights and samples of its own; the crystals to learn are the same.
        steps: of the optimiser, for every model, in whole epochs.
        batch_size: crystals of a step; few, because a short training gains more from more steps.
        samples: of each model for each condition.
        evaluations: of the published models' network for each crystal, of the paper's 2,000; ours takes its own number.
        rows: most crystals of a set, drawn at random.
        width: of every network; 128 as in the paper.
        predictor: where CDVAE's property models are (:func:`vibronic.crystals.predictor.load`).
    """

    sets: tuple[str, ...] = tuple(BENCHMARKS)
    models: tuple[str, ...] = tuple(MODELS)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 4000
    batch_size: int = 16
    samples: int = 256
    evaluations: int = 200
    rows: int | None = None
    width: int = 128
    predictor: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("sets", BENCHMARKS), ("models", MODELS), ("seeds", None)):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise VibronicError(f"the study {STUDY} needs {name} that differ, not {list(given)}")
            if known is not None and (unknown := [one for one in given if one not in known]):
                raise VibronicError(f"the study {STUDY} has no {name[:-1]} '{unknown[0]}'; it has {', '.join(known)}")
        if min(self.steps, self.batch_size, self.evaluations) < 1:
            raise VibronicError(f"the study {STUDY} needs at least one step, a crystal in a batch and one evaluation")
        if self.samples < GROUP:
            raise VibronicError(f"the best of {GROUP} needs at least {GROUP} samples, not {self.samples}")
        if self.rows is not None and self.rows < FEWEST:
            raise VibronicError(f"the study {STUDY} needs at least {FEWEST} crystals of a set, not {self.rows}")

    @property
    def fits(self) -> list[tuple[str, str, int]]:
        """Set, model and seed of every training."""
        return [(name, model, seed) for seed in self.seeds for name in self.sets for model in self.models]

    @property
    def described(self) -> dict[str, Any]:
        """The plan without the place of the predictor, which has one content only."""
        return {k: v for k, v in asdict(self).items() if k != "predictor"}


def run(
    plan: Plan,
    out: Path,
    workers: int = 1,
    say: Callable[[str], None] = print,
    load: Load = predictor.load,
    pool: Callable[[int], AbstractContextManager[Any]] = processes,
) -> dict[str, Any]:
    """Carry out the study in the folder ``out`` and return its results (also in ``results.json``).

    Args:
        load: gives a function from crystals to the property of a set.
        pool: where trainings run; it has a method ``schedule(function, arguments)`` that gives a future.

    Raises:
        VibronicError: ``out`` holds a study with another plan, or a set or the predictor is not here.
    """
    out = Path(out)
    for name in plan.sets:  # before anything is computed
        if not cdvae.files(name):
            raise VibronicError(cdvae.absent(name))
        load(plan.predictor, name)
    bind(out, {"study": STUDY, **plan.described})
    sets = {name: prepare(name, plan.rows, out, partial(_predict, load, plan.predictor, name)) for name in plan.sets}
    for name, one in sets.items():
        say(f"{name}: {one['train']} crystals to learn, {one['different']} of them different")
    rows: list[dict[str, Any]] = []
    with pool(workers) as executor:
        futures = [executor.schedule(_unit, (plan, *what, sets[what[0]], out, load)) for what in plan.fits]
        for future in as_completed(futures):
            rows += (new := future.result())
            for row in new:
                say(
                    f"{row['set']}, {row['model']}, seed {row['seed']}, {row['condition']}: SR5 {row['sr5_all']:.2f}, "
                    f"hits {row['hits']:.2f} ({row['sampling_seconds']:.0f} s to sample)"
                )
    rows.sort(
        key=lambda r: (
            plan.sets.index(r["set"]),
            plan.models.index(r["model"]),
            CONDITIONS[r["model"]].index(r["condition"]),
            r["seed"],
        )
    )
    told = {name: {k: v for k, v in one.items() if k not in ("labels", "predicted")} for name, one in sets.items()}
    means = summary(rows)
    results: dict[str, Any] = {"study": STUDY, "plan": plan.described, "sets": told, "published": PUBLISHED}
    results |= {"rows": rows, "summary": means, "verdicts": verdicts(rows)}
    write_json(out / "results.json", results)
    _tables(rows, means, out)
    return results


def _predict(load: Load, place: str | None, name: str, crystals: list[Atoms]) -> np.ndarray:
    return np.asarray(load(place, name)(crystals), dtype=float)


def _unit(
    plan: Plan, name: str, model: str, seed: int, described: dict[str, Any], out: Path, load: Load
) -> list[dict[str, Any]]:
    """Train one model, or read it, and judge its samples for each condition; per-sample figures stay in the files."""
    torch.set_num_threads(1)
    network = cache(partial(trained, plan, name, model, seed, described, out))
    folder = out / "runs" / f"{name}-{model}-{seed}"
    predict = partial(_predict, load, plan.predictor, name)
    rows = []
    for condition in CONDITIONS[model]:
        row = sampled(plan, network, condition, seed, described, predict, folder / condition)
        training = content(folder / "trained.json") or {}
        kept = {k: v for k, v in row.items() if k != "each"}
        rows.append({"set": name, "model": model, "seed": seed, **training, **kept})
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds by set, model and condition; ``sr5_all`` and ``hits`` with their 95 % intervals.

    These are Student's over seeds; of a single seed a bootstrap over its samples, which knows nothing of other trainings.
    """
    found = []
    for key in dict.fromkeys((r["set"], r["model"], r["condition"]) for r in rows):
        mine = [r for r in rows if (r["set"], r["model"], r["condition"]) == key]
        entry: dict[str, Any] = dict(zip(("set", "model", "condition"), key)) | {"seeds": len(mine)}
        for name in (*SHARES, "parameters", "steps", "epochs", "evaluations", "train_seconds", "volume"):
            there = [r[name] for r in mine if r[name] is not None]
            entry[name] = float(np.mean(there)) if there else None
        entry["seconds_64"] = 64 * float(np.mean([r["sampling_seconds"] / r["samples"] for r in mine]))
        for name in ("sr5_all", "hits"):
            half = half_width([r[name] for r in mine])
            if half is None:
                reached = round(mine[0][name] * (n := mine[0]["samples"]))
                entry[f"{name}_interval"] = bootstrap(np.arange(n) < reached)
            else:
                entry[f"{name}_interval"] = (max(0.0, entry[name] - half), min(1.0, entry[name] + half))
        found.append(entry)
    return found


def verdicts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every two models of a set at the same condition (the minimum), and the conditions of ours.

    ``difference`` is that of the second minus the first in a share of all samples, paired by seed; ``interval`` is Student's 95 % over
    seeds. A bootstrap of three seeds would call one in four equal pairs different: their differences have one sign that often.
    ``winner`` is None where the interval holds 0, or where there is one seed, which says nothing of the next training.
    """
    found = []
    for name in dict.fromkeys(r["set"] for r in rows):
        mine = [r for r in rows if r["set"] == name]
        there = list(dict.fromkeys((r["model"], r["condition"]) for r in mine))
        pairs = [("sr5_all", a, b) for a, b in combinations([w for w in there if w[1] == "minimum"], 2)]
        if ("vibronic", "best") in there:
            pairs.append(("sr5_all", ("vibronic", "minimum"), ("vibronic", "chosen")))
            pairs.append(("hits", ("vibronic", "chosen"), ("vibronic", "best")))
        for share, one, two in pairs:
            by_seed = [{r["seed"]: r[share] for r in mine if (r["model"], r["condition"]) == w} for w in (one, two)]
            gains = np.array([by_seed[1][seed] - by_seed[0][seed] for seed in sorted(by_seed[0])])
            mean, half = float(gains.mean()), half_width(gains)
            entry: dict[str, Any] = {"set": name, "share": share, "first": one, "second": two, "difference": mean}
            entry["interval"] = None if half is None else (mean - half, mean + half)
            decided = half is not None and abs(mean) > half
            found.append(entry | {"winner": (two if mean > 0 else one) if decided else None})
    return found


def _tables(rows: Sequence[dict[str, Any]], means: Sequence[dict[str, Any]], out: Path) -> None:
    """``table.csv``, one line per training and condition, and ``metrics.json``, means over seeds."""
    with writable(out / "table.csv") as path, path.open("w", newline="") as file:
        table = csv.writer(file)
        plain = ["set", "model", "condition", "seed", "parameters", "steps", "epochs", "samples", "evaluations"]
        seconds = {"train_seconds": "training cpu [s]", "sampling_seconds": "sampling cpu [s]"}
        table.writerow([*plain, *SHARES, *seconds.values()])
        for row in rows:
            figures = [row[name] for name in (*SHARES, *seconds)]
            table.writerow([row[name] for name in plain] + ["" if v is None else f"{v:.4f}" for v in figures])
    metrics = {f"{s}_{m['set']}_{m['model']}_{m['condition']}": m[s] for m in means for s in SHARES}
    for m in means:
        for share in ("sr5_all", "hits"):
            ends = zip(("low", "high"), m[f"{share}_interval"], strict=True)
            metrics |= {f"{share}_{m['set']}_{m['model']}_{m['condition']}_{end}": v for end, v in ends}
    write_json(out / "metrics.json", {**metrics, "units": dict.fromkeys(metrics, "share")})
