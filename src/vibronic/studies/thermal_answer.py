"""What the scores of a thermal study say: sets against one another, what each ingredient brings, and labels saved.

Everything here is arithmetic on the rows of ``results.json``. Ratios are geometric means over seeds with Student's 95 %
interval of the logarithms; they hold what training sets and weights contribute, not the one set of force constants and the
one trajectory that is tested on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vibronic.core.statistics import geometric_mean

Rows = list[dict[str, Any]]

EFFECTS = {
    "amplitude per species": ("random", "species"),
    "directions of a site": ("species", "sites"),
    "correlations": ("sites", "phonons"),
    "right stiffness": ("shuffled", "phonons"),
    "anharmonicity": ("phonons", "dynamics"),
}
"""Ingredient -> the set without it and the set with it. Only the dynamics moves as far as it likes, so that what it brings is
anharmonicity and amplitude together."""
CLAIM = 5.0
"""The claim that is tested: n phonon labels are as good as this many times n random ones."""
EVERYTHING = (0.0, float(np.exp(700.0)))
"""The interval that a single value leaves: finite, since it goes into JSON."""


def comparisons(rows: Rows) -> Iterator[tuple[dict[str, Any], Rows]]:
    """What is compared with one another: rows of one crystal, model, target and test temperature."""
    keys = ("crystal", "model", "target", "temperature_K")
    groups: dict[tuple[Any, ...], Rows] = {}
    for r in rows:
        groups.setdefault(tuple(r.get(k) for k in keys), []).append(r)
    for values, mine in groups.items():
        yield dict(zip(keys, values, strict=True)), mine


def verdicts(rows: Rows) -> Rows:
    """Every set against the phonon set at the largest size of each comparison.

    ``ratio`` is the error of the set over that of the phonon set, ``interval`` its 95 % interval, and the errors of both, a
    value per seed, stand under the names of the sets. ``winner`` is the set whose models are better with that confidence,
    ``open`` where the interval holds 1 or there is one seed, and ``none`` where neither set's models beat a constant (the
    mean of the test labels, or no force at all).
    """
    found = []
    for of, mine in comparisons([r for r in rows if r["set"] != "both"]):
        errors, size = _errors(mine), max(r["size"] for r in mine)
        for label in dict.fromkeys(r["set"] for r in mine):
            if label != "phonons" and (label, size) in errors and ("phonons", size) in errors:
                found.append(
                    {
                        **of,
                        "set": label,
                        "size": size,
                        "unit": mine[0]["unit"],
                        "constant": mine[0]["constant"],
                        "phonons": list(errors["phonons", size].values()),
                        label: list(errors[label, size].values()),
                        **_contrast(errors, label, "phonons", size, mine[0]["constant"]),
                    }
                )
    return found


def effects(rows: Rows, absent: Mapping[str, Collection[str]]) -> Rows:
    """What each ingredient of a training set brings, at the largest size of each comparison.

    ``ratio`` is the error without over the error with it, above 1 where it helps; ``winner`` as in :func:`verdicts`. Only where
    both sets were learned from, and the crystal has the ingredient: ``absent`` holds those that its symmetry leaves out.
    """
    found = []
    for of, mine in comparisons([r for r in rows if r["set"] != "both"]):
        errors, size = _errors(mine), max(r["size"] for r in mine)
        for effect, (without, having) in EFFECTS.items():
            if effect in absent.get(of["crystal"], ()):
                continue  # two sets of one distribution
            if (without, size) in errors and (having, size) in errors:
                contrast = _contrast(errors, without, having, size, mine[0]["constant"])
                found.append({**of, "effect": effect, "without": without, "with": having, "size": size, **contrast})
    return found


def summary(found: Rows) -> Rows:
    """Per ingredient, from :func:`effects`: in how many comparisons it helps, harms or stays open, and its mean ratio.

    The ratio is the geometric mean over crystals, each crystal's over its comparisons; its interval is over crystals, None
    for one. Comparisons in which neither set's models beat a constant count as ``none`` and enter no mean.
    """
    lines = []
    for effect in dict.fromkeys(f["effect"] for f in found):
        mine = [f for f in found if f["effect"] == effect]
        told = [f for f in mine if f["winner"] != "none"]
        logs = [
            float(np.mean([np.log(f["ratio"]) for f in told if f["crystal"] == crystal]))
            for crystal in dict.fromkeys(f["crystal"] for f in told)
        ]
        ratio, low, high = _bounded(logs) if logs else (None, None, None)
        without, having = EFFECTS[effect]
        count = {w: sum(f["winner"] == w for f in mine) for w in (having, without, "open", "none")}
        lines.append(
            {
                "effect": effect,
                "without": without,
                "with": having,
                "helps": count[having],
                "harms": count[without],
                "open": count["open"],
                "none": count["none"],
                "crystals": len(logs),
                "ratio": ratio,
                "interval": [low, high] if len(logs) > 1 else None,
            }
        )
    return lines


def labels_saved(rows: Rows) -> Rows:
    """How many times n random labels the models need to be as good as after n phonon labels.

    Per seed, from straight lines between the sizes of the random set's learning curve in log-log (its best so far, since
    more labels can be left unused). ``factor`` is the geometric mean over seeds, ``interval`` its 95 % interval. A seed
    whose random curve never gets there counts with the largest size, one that is there from the start with the smallest:
    ``above`` and ``below`` count them, and there is no interval then, but the factor is a bound where only one kind occurs.
    ``claim`` says whether the factor is at least ``CLAIM``: ``holds`` where the interval is above it, or where every seed is,
    counted so; ``fails`` where it is below, or every seed is and none is only a lower bound; ``open`` otherwise. n is the largest
    size that leaves room for the claim, else the smallest.
    """
    found = []
    for of, mine in comparisons([r for r in rows if r["set"] in ("phonons", "random")]):
        errors = _errors(mine)
        sizes = sorted(
            {n for label, n in errors if label == "random"} & {n for label, n in errors if label == "phonons"}
        )
        if len(sizes) < 2:
            continue
        n = max([s for s in sizes if CLAIM * s <= sizes[-1]], default=sizes[0])
        seeds = sorted(errors["phonons", n])
        factors, above, below = [], 0, 0
        for seed in seeds:
            curve = np.minimum.accumulate([errors["random", s][seed] for s in sizes])
            aim = errors["phonons", n][seed]
            above += bool(curve[-1] > aim)
            below += bool(curve[0] <= aim)
            # Logarithms and back: a curve that ends at five times n must not end a rounding below it.
            factors.append(round(_crossing(np.log(sizes), np.log(curve), np.log(aim)) / n, 9))
        factor, low, high = _bounded(np.log(factors))
        exact = not above and not below
        if len(seeds) == 1:
            claim = "open"
        elif low >= CLAIM if exact else not below and min(factors) >= CLAIM:
            claim = "holds"
        elif high < CLAIM if exact else not above and max(factors) < CLAIM:
            claim = "fails"
        else:
            claim = "open"
        beaten = mine[0]["constant"] > float(np.mean(list(errors["phonons", n].values())))
        found.append(
            {
                **of,
                "n": n,
                "factor": factor,
                "interval": [low, high] if exact and len(seeds) > 1 else None,
                "above": above,
                "below": below,
                "seeds": len(seeds),
                "claim": claim if beaten else "none",
            }
        )
    return found


def without_offset(row: dict[str, Any]) -> float | None:
    """Mean absolute error of a row once the mean error is taken off every prediction; None where rows keep no predictions.

    In the unit of the row: predictions are kept in that of the labels.
    """
    if row["parity"] is None:
        return None
    difference = np.subtract(row["parity"][1], row["parity"][0])
    raw = float(np.abs(difference).mean())
    return float(np.abs(difference - difference.mean()).mean()) * (row["mae"] / raw if raw else 1.0)


def _bounded(logarithms: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Geometric mean and its interval, which is everything when there is one value."""
    mean, interval = geometric_mean(logarithms)
    return mean, *(interval or EVERYTHING)


def _errors(rows: Rows) -> dict[tuple[str, int], dict[int, float]]:
    """(set, size) -> seed -> error, seeds in order."""
    found: dict[tuple[str, int], dict[int, float]] = {}
    for r in sorted(rows, key=lambda r: r["seed"]):
        found.setdefault((r["set"], r["size"]), {})[r["seed"]] = r["mae"]
    return found


def _contrast(
    errors: dict[tuple[str, int], dict[int, float]], worse: str, better: str, size: int, constant: float
) -> dict[str, Any]:
    """Error of one set over that of another, and which is better."""
    first, second = (errors[label, size] for label in (worse, better))
    seeds = [s for s in first if s in second]
    ratio, low, high = _bounded([np.log(first[s]) - np.log(second[s]) for s in seeds])
    if min(np.mean(list(first.values())), np.mean(list(second.values()))) >= constant:
        winner = "none"
    else:
        winner = better if low > 1 else worse if high < 1 else "open"
    return {"ratio": ratio, "interval": [low, high], "winner": winner}


def _crossing(sizes: np.ndarray, errors: np.ndarray, aim: float) -> float:
    """Size at which a falling curve of logarithms meets ``aim``; its first or last size where it never does."""
    if errors[0] <= aim:
        return float(np.exp(sizes[0]))
    if errors[-1] > aim:
        return float(np.exp(sizes[-1]))
    k = int(np.argmax(errors <= aim))
    share = (errors[k - 1] - aim) / (errors[k - 1] - errors[k])
    return float(np.exp(sizes[k - 1] + share * (sizes[k] - sizes[k - 1])))
