"""What a thermal average is made of, what else is to be known about it, and what is missing where it is not as certain as wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.data.dataset import label_of
from vibronic.thermal import average
from vibronic.thermal.average import Posterior, Surrogate, Value
from vibronic.thermal.labels import Undisplaced, Walk
from vibronic.thermal.plan import Plan
from vibronic.thermal.pools import OTHER, ZERO_POINT, Drawn, name

SUSPICIOUS = 0.5
"""Share by which the labelled energy of what was drawn may be off its harmonic one."""


def parts(
    plan: Plan,
    drawn: Drawn,
    still: Undisplaced,
    values: Sequence[Value],
    surrogate: Surrogate | None,
    pools: Sequence[Posterior],
) -> list[dict[str, Any]]:
    """For every temperature the ``parts`` that add up, with the undisplaced crystal, to the average; and beside them what quantum nuclei
    make of it, ``quantum_less_classical``, where there are phonons and a model that tells.

    The motion of quantum nuclei is that of their zero point and the rest, where that can be told.
    """
    found = []
    for k, (t, value) in enumerate(zip(plan.temperatures, values, strict=True)):
        motion: dict[str, Any] = {}
        aside: dict[str, Any] = {}
        if surrogate is not None and plan.method == "phonons":
            here, other = pools[k], surrogate.posterior(drawn.pools[name(t, OTHER)])
            quantum, classical = (here, other) if plan.statistics == "quantum" else (other, here)
            aside["quantum_less_classical"] = _pair(average.difference(quantum, classical))
            if plan.statistics == "quantum":
                cold = surrogate.posterior(drawn.pools[name(t, ZERO_POINT)])
                zero = average.average(cold, still.error, average.pooled(float(cold[0].var()), len(cold[0])))
                motion["zero_point"] = _pair((zero.mean - still.static, zero.half_width))
                motion["thermal"] = _pair(average.difference(here, cold))
        if not motion:
            errors = value.sampling, value.model, value.labels, still.error
            motion["motion"] = _pair((value.mean - still.static, float(np.linalg.norm(errors))))
        if t in still.expansion:
            motion["expansion"] = _pair(still.expansion[t])
        found.append({"parts": motion, **aside})
    return found


def _pair(value: tuple[float, float]) -> dict[str, float]:
    return {"value": value[0], "half_width": value[1]}


def spread(walk: Walk, mine: Sequence[int], surrogate: Surrogate | None, pool: Posterior | None) -> float:
    """Standard deviation of the property over the configurations of one temperature, whose labelled ones are ``mine``: of labels, or of
    predictions and misfit."""
    labels = walk.labels
    if surrogate is None or pool is None:
        return float(np.std([average.value_of(labels.known[p], labels.target) for p in mine], ddof=1))
    return float(np.hypot(pool[0].std(ddof=1), average.misfit_of(surrogate.model, labels.target)))


def ensemble(plan: Plan, walk: Walk, undisplaced: Atoms, drawn: Drawn) -> list[dict[str, Any]]:
    """How far above the undisplaced crystal the labels put what was drawn at random, and where its own phonons put it.

    Effective or capped force constants draw what the labelling engine may find far too costly to be visited, and an average
    over that is not one of the crystal.
    """
    base = label_of(undisplaced, "energy")
    found = []
    for k, t in enumerate(plan.temperatures):
        asked = [p for p in walk.places(0) if p // plan.pool == k and p in walk.labels.known]
        energies = [label_of(walk.labels.known[p], "energy") for p in asked]
        if base is None or len(energies) < 2 or t not in drawn.harmonic or any(e is None for e in energies):
            continue
        n = len(undisplaced)
        above = 1e3 * (np.array(energies, dtype=float) - float(np.asarray(base))) / n
        error, harmonic = float(above.std(ddof=1) / len(above) ** 0.5), 1e3 * drawn.harmonic[t]
        mean = float(above.mean())
        off = abs(mean - harmonic) > SUSPICIOUS * abs(harmonic) + 2 * error
        finding = (
            f"At {t:g} K what was drawn lies {mean:.1f} +/- {error:.1f} meV/atom above the undisplaced crystal by '{plan.engine}', and "
            f"{harmonic:.1f} by the phonons it was drawn from."
        )
        if off:
            finding += " These are not the configurations that the crystal visits: the average is not to be trusted; try --method md."
        row = {"temperature": t, "labelled": mean, "error": error, "harmonic": harmonic, "off": bool(off)}
        found.append({**row, "unit": "meV/atom", "finding": finding})
    return found


def as_good_at_random(foreseen: dict[str, Any], chosen: int) -> int | None:
    """How many labels at random the first model expected to be worth ``chosen`` chosen ones at every temperature; None for more than
    it looked at."""
    curve, random = np.array(foreseen["chosen"]), np.array(foreseen["random"])
    reached = (random <= curve[min(chosen, len(curve) - 1)]).all(axis=1)
    return int(reached.argmax()) if reached.any() else None


def missing(plan: Plan, results: dict[str, Any], seconds: float) -> str:
    """One sentence on what keeps the tolerance from being met; empty when it is met.

    Args:
        seconds: that a model takes for one configuration.
    """
    if results["reached"]:
        return ""
    worst = max(results["temperatures"], key=lambda row: row["half_width"])
    half = f"the interval at {worst['temperature']:g} K is +/- {worst['half_width']:.3g} {results['unit']}"
    errors = {part: worst["errors"][part] for part in ("sampling", "labels", "expansion")}
    left = plan.tolerance**2 - sum(value**2 for value in errors.values())
    if left > 0 and plan.model is None:
        labels = average.alone(worst["spread"], left**0.5, plan.pool)
        return f"{half}: about {labels} labels at this temperature would meet the tolerance; raise --budget above {plan.budget}, or use a model"
    if left > 0:
        return f"{half}, most of it of the model after {results['labels']} labels: raise --budget to {2 * plan.budget}, say"
    largest = max(errors, key=lambda part: errors[part])
    if largest == "sampling":
        more = int(np.ceil(plan.pool * (errors["sampling"] / (0.5 * plan.tolerance)) ** 2))
        return (
            f"{half}, {errors['sampling']:.3g} of it because the pool counts as {worst['independent']:.0f} independent configurations: "
            f"raise --pool to {more} ({_cost(plan, more, seconds)}), or take a larger --supercell with another --out"
        )
    if largest == "expansion":
        return f"{half}, most of it of the labels of strained crystals: converge the engine better (--settings), or --no-expansion true"
    return f"{half}, most of it of the labels themselves: converge the engine better (--settings), or allow a wider one"


def _cost(plan: Plan, pool: int, seconds: float) -> str:
    """Of a larger pool."""
    if plan.method == "md":
        said = f"{(pool - plan.pool) * len(plan.temperatures)} more snapshots of dynamics by '{plan.forces}'"
    else:
        minutes = 3 * pool * len(plan.temperatures) * seconds / 60  # two more pools tell what the motion is made of
        said = f"no labels, about {minutes:.0f} minutes of predictions" if minutes >= 1 else "no labels"
    return said if plan.model else f"{said}; --budget with it, or a model"
