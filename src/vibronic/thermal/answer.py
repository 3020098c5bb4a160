"""What a thermal average is made of, what else is to be known about it, and what is missing where it is not as certain as wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from ase import Atoms

from vibronic.core.units import GPA
from vibronic.data.dataset import label_of
from vibronic.thermal import average
from vibronic.thermal.average import Posterior, Surrogate, Value
from vibronic.thermal.labels import Undisplaced, Walk
from vibronic.thermal.plan import Plan
from vibronic.thermal.pools import OTHER, ZERO_POINT, Drawn, name

Stopped = Literal["reached", "budget", "exhausted", "floor"]
"""Why no further label is asked for: the tolerance is met, the budget spent, all is labelled, or what labels narrow is small enough."""
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
    """For every temperature the ``parts`` that add up, with the undisplaced crystal, to the average; and how a model divides the ``motion``
    among them, where there are phonons.

    The motion is at the level of labels and as certain as the average. How it divides rests on configurations of other temperatures and
    statistics, of which no label tells: ``zero_point`` and ``thermal`` add up to it for quantum nuclei, ``quantum_less_classical`` is how
    much higher it is for them than for classical ones.
    """
    found = []
    for k, (t, value) in enumerate(zip(plan.temperatures, values, strict=True)):
        error = float(np.linalg.norm([value.sampling, value.model, value.labels, still.error]))
        made_of = {"motion": {"value": value.mean - still.static, "half_width": error}}
        if t in still.expansion:
            made_of["expansion"] = dict(zip(("value", "half_width"), still.expansion[t], strict=True))
        divided = {}
        if surrogate is not None and plan.method == "phonons":
            here, other = pools[k][0].mean(), surrogate.posterior(drawn.pools[name(t, OTHER)])[0].mean()
            divided["quantum_less_classical"] = float(here - other if plan.statistics == "quantum" else other - here)
            if plan.statistics == "quantum":
                cold = surrogate.posterior(drawn.pools[name(t, ZERO_POINT)])[0].mean()
                divided |= {"zero_point": float(cold) - still.static, "thermal": float(here - cold)}
        found.append({"parts": made_of, "motion": divided})
    return found


def kinetic(target: str, drawn: Drawn, temperature: float) -> float | None:
    """What the kinetic energy of the nuclei adds, which no label holds: to an energy per atom (eV), or to a pressure (GPa; two thirds of
    it per volume); None for other properties."""
    if target not in ("energy", "pressure"):
        return None
    atoms, energy = drawn.reference, drawn.kinetic[temperature]
    return energy if target == "energy" else 2 / 3 * energy * len(atoms) / atoms.get_volume() / GPA


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
    """How many labels at random the first model expected to bring the widest interval as far down as ``chosen`` chosen ones; None where
    that is more of either than it looked at."""
    curve, random = (np.max(foreseen[kind], axis=1) for kind in ("chosen", "random"))
    reached = random <= curve[chosen] if chosen < len(curve) else np.zeros(1, bool)
    return int(reached.argmax()) if reached.any() else None


def missing(plan: Plan, results: dict[str, Any], stopped: Stopped, seconds: float) -> str:
    """One sentence on what keeps the tolerance from being met; empty when it is met.

    Args:
        stopped: why no further label was asked for.
        seconds: that a model takes for one configuration.
    """
    if results["reached"]:
        return ""
    worst = max(results["temperatures"], key=lambda row: row["half_width"])
    half = f"the interval at {worst['temperature']:g} K is +/- {worst['half_width']:.3g} {results['unit']}"
    errors = {part: worst["errors"][part] for part in ("sampling", "labels", "expansion")}
    left = plan.tolerance**2 - sum(value**2 for value in errors.values())
    if stopped == "exhausted":
        return f"{half}, and every configuration of the pools is labelled: raise --pool above {plan.pool}"
    if stopped == "budget" and left > 0 and plan.model is None:
        labels = average.alone(worst["spread"], left**0.5, plan.pool)
        return f"{half}: about {labels} labels at this temperature would meet the tolerance; raise --budget above {plan.budget}, or use a model"
    if stopped == "budget" and left > 0:
        return f"{half} after {results['labels']} labels, {worst['errors']['model']:.2g} of it of the model: raise --budget to {2 * plan.budget}, say"
    largest = max(errors, key=lambda part: errors[part])
    if largest == "sampling":
        said = f"{half}, {errors['sampling']:.3g} of it because the pool counts as {worst['independent']:.0f} independent configurations: "
        if not np.isfinite(errors["sampling"]):
            return f"{said}raise --pool above {plan.pool} by far"
        # Nine tenths of what the other errors leave, as far as they are small.
        others = (
            errors["labels"] ** 2 + errors["expansion"] ** 2 + min(worst["errors"]["model"], 0.3 * plan.tolerance) ** 2
        )
        room = 0.9 * max(plan.tolerance**2 - others, (0.5 * plan.tolerance) ** 2) ** 0.5
        more = int(np.ceil(plan.pool * (errors["sampling"] / room) ** 2))
        if plan.model is None:
            said = f"{half}: the pool of {worst['independent']:.0f} independent configurations leaves {errors['sampling']:.3g} of it, so no more was labelled: "
        return f"{said}raise --pool to {more} ({_cost(plan, more, seconds)}), or take a larger --supercell with another --out"
    if largest == "expansion":
        return f"{half}, most of it of the labels of strained crystals: converge the engine better (--settings), or --no-expansion true"
    return f"{half}, most of it of the labels themselves: converge the engine better (--settings), or allow a wider one"


def _cost(plan: Plan, pool: int, seconds: float) -> str:
    """Of a larger pool."""
    if plan.method == "md":
        cost = [f"so many snapshots of dynamics by '{plan.forces}' anew for each temperature"]
    elif plan.model is None:
        cost = []
    else:
        pools = 3 if plan.statistics == "quantum" else 2  # two of them, or one, tell how the motion divides
        minutes = pools * pool * len(plan.temperatures) * seconds / 60
        cost = ["no labels", *([f"about {minutes:.0f} minutes of predictions"] if minutes >= 1 else [])]
    return ", ".join([*cost, *([] if plan.model else ["--budget with it, or a model"])])
