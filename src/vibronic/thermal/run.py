"""From a crystal to a property at several temperatures: draw, label, learn, choose, until the error is small enough.

Everything that is drawn follows from the seed, every label is in the ledger, and which labels were asked for is written down before
they are computed. So the same command goes on wherever it was stopped, and one with another tolerance, budget, batch or pool
goes on from the labels that there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.folder import bind, check_plan
from vibronic.core.provenance import write_json
from vibronic.core.targets import target as named_target
from vibronic.data.dataset import describe, label_of, write_structures
from vibronic.labelling.engines import Engine, engine
from vibronic.labelling.executors import check_place
from vibronic.learning import store
from vibronic.sampling.checks import statistical_inefficiency
from vibronic.thermal import average, choice
from vibronic.thermal.average import Z95, Surrogate, Value
from vibronic.thermal.labels import Labels, Undisplaced, Walk, check_pool, undisplaced
from vibronic.thermal.plan import FEWEST, FRACTION, Plan
from vibronic.thermal.pools import OTHER, ZERO_POINT, Drawn, Pools, draw, name

RANDOM_ORDERS = 5
SUSPICIOUS = 0.5
"""Share by which the labelled energy of what was drawn may be off its harmonic one."""
Say = Callable[[str], None]


def run(
    plan: Plan,
    out: Path,
    executor: str = "local",
    workers: int = 1,
    timeout: float | None = None,
    say: Say = print,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Carry the plan out in the folder ``out`` and return its results (also in ``results.json``).

    Raises:
        VibronicError: the folder holds another plan; crystal, engines or labels cannot be had.
    """
    out = Path(out)
    labelling = _checked(plan)
    check_place(executor, workers, timeout)
    check_plan(out, plan.bound)
    check_pool(plan, out / "rounds.json")
    drawn = draw(plan, out, say)
    bind(out, plan.bound)  # only now: a plan that cannot be drawn binds nothing
    options = {"executor": executor, "workers": workers, "timeout": timeout, "retry_failed": retry_failed}
    labels = Labels(labelling, out / "ledger.sqlite", options, plan.target)
    candidates = [atoms for t in plan.temperatures for atoms in drawn.pools[name(t)]]
    where = np.repeat(np.arange(len(plan.temperatures)), plan.pool)
    turn = _turns(plan)
    rng = np.random.default_rng(plan.seed)
    still = undisplaced(plan, drawn.reference, drawn.expansion, labels, candidates[int(turn.argmin())], rng.random)
    for finding in still.findings:
        say(finding)
    say(f"undisplaced: {plan.target} {still.static:.5g}; a label repeats itself to {still.error:.2g}")
    walk = Walk(out / "rounds.json", labels, candidates, plan.pool)
    surrogate, parts = None, {}
    if plan.model is None:
        values = _directly(plan, where, turn, still, drawn, walk, say)
    else:
        values, surrogate = _with_model(plan, where, turn, still, drawn, walk, say)
        parts = _parts(plan, drawn.pools, surrogate, still)
        store.save(surrogate.model, out / "model", store.Card(data=describe(labels.frames())))
    ensemble = _ensemble(plan, walk, still.atoms, drawn)
    for row in ensemble:
        say(row["finding"])
    write_structures(out / "labelled.extxyz", labels.frames())
    results: dict[str, Any] = {
        "plan": asdict(plan),
        "kind": None if surrogate is None else plan.kind,
        "unit": average.unit_of(plan.target),
        "static": still.static,
        "label_error": still.error,
        "cell": still.cell and dict(zip(("strain", "value", "half_width"), still.cell, strict=True)),
        "findings": [*drawn.findings, *still.findings, *(row["finding"] for row in ensemble)],
        "ensemble": ensemble,
        "temperatures": [
            {
                "temperature": t,
                **asdict(value),
                "half_width": value.half_width,
                "independent": plan.pool / drawn.inefficiency[t],
                "spread": _spread(labels, where, k, drawn.pools[name(t)], surrogate),
                "expansion": _pair(still.expansion.get(t)),
                **parts.get(t, {}),
            }
            for k, (t, value) in enumerate(zip(plan.temperatures, values, strict=True))
        ],
        "expansion": None if drawn.expansion is None else asdict(drawn.expansion),
        "rounds": [{k: v for k, v in r.items() if k not in ("asked", "foreseen")} for r in walk.rounds],
        "labels": labels.count,
        "failed": len(labels.failed),
        "reached": bool(max(v.half_width for v in values) <= plan.tolerance),
        "unseen_mae": None if surrogate is None else float(np.abs(surrogate.unseen).mean()),
        "widening": None if surrogate is None else surrogate.widening,
        "foreseen": walk.rounds[0].get("foreseen") if plan.model is not None else None,
    }
    for row in results["temperatures"]:
        row["labels_without_model"] = average.alone(row["spread"], plan.tolerance)
    results["missing"] = _missing(plan, results)
    write_json(out / "results.json", results)
    return results


def _check_labels(plan: Plan, where: np.ndarray, labels: Labels, fewest: int) -> list[int]:
    """How many labels each temperature has.

    Raises:
        VibronicError: one has fewer than ``fewest``.
    """
    counts = np.bincount(where[labels.order], minlength=len(plan.temperatures)).tolist()
    for t, count in zip(plan.temperatures, counts, strict=True):
        if count < fewest:
            raise VibronicError(f"at {t:g} K there are {count} labels to average; {labels.why()}")
    return counts


def _checked(plan: Plan) -> Engine:
    """The engine of the labels, once it is known that it gives the target and that a model learns it.

    Raises:
        VibronicError: it does not.
    """
    labelling = engine(plan.engine, **plan.settings)
    if labelling.name == "files":
        raise VibronicError("a thermal average computes labels as it needs them: choose another --engine than 'files'")
    if plan.target not in (*labelling.properties, "pressure"):
        raise VibronicError(
            f"the engine '{plan.engine}' gives {', '.join(labelling.properties)}, not '{plan.target}'; choose another --target"
        )
    if named_target(plan.target).shape:
        raise VibronicError(f"a thermal average is of one number, not of {plan.target}; energy or pressure are such")
    if plan.model is not None:
        store.build(plan.kind, targets=[plan.target], **_settings(plan, labelling))
    return labelling


def _settings(plan: Plan, labelling: Engine) -> dict[str, Any]:
    """Of the model: a Hamiltonian has the k points of its labels."""
    mesh = labelling.settings.get("kpts")
    return {"mesh": mesh} if plan.kind == "tight-binding" and mesh is not None else {}


def _turns(plan: Plan) -> np.ndarray:
    """(candidates,) the order in which configurations are labelled at random, which a larger pool does not change.

    Those of phonons are independent, so they come one after the other; snapshots of dynamics are dealt out.
    """
    if plan.method == "phonons":
        return np.tile(np.arange(plan.pool, dtype=float), len(plan.temperatures))
    return np.concatenate(
        [np.random.default_rng([plan.seed, k]).random(plan.pool) for k in range(len(plan.temperatures))]
    )


def _with_model(
    plan: Plan,
    where: np.ndarray,
    turn: np.ndarray,
    still: Undisplaced,
    drawn: Drawn,
    walk: Walk,
    say: Say,
) -> tuple[list[Value], Surrogate]:
    """Label, learn and choose until every interval is as narrow as wanted, or the budget is spent."""
    labels, candidates = walk.labels, walk.candidates
    each = [
        plan.first // len(plan.temperatures) + (k < plan.first % len(plan.temperatures)) for k in range(where[-1] + 1)
    ]
    first = [int(p) for k, n in enumerate(each) for p in _in_turn(np.flatnonzero(where == k), turn)[:n]]
    # The undisplaced crystal tells the ridge where zero is; there, levels are degenerate and a Hamiltonian has no derivatives.
    more = [still.atoms] if plan.kind == "ridge" else []
    settings = _settings(plan, labels.engine)
    surveyed = average.survey(plan.kind, plan.target, candidates, settings)
    walk.start(first)
    while True:
        if len(labels.order) < 5:
            raise VibronicError(f"{len(labels.order)} labels are too few to learn from; {labels.why()}")
        counts = _check_labels(plan, where, labels, 1)
        surrogate = average.fit(plan.kind, plan.target, [*labels.frames(), *more], settings, surveyed, plan.seed)
        predicted, deviations = surrogate.predictions(candidates), surrogate.deviations(candidates)
        values = [
            average.average(
                predicted[where == k],
                deviations[where == k],
                still.error / counts[k] ** 0.5,
                _sampling(predicted[where == k], surrogate.noise, drawn, t),
                still.expansion.get(t, (0.0, 0.0))[1],
            )
            for k, t in enumerate(plan.temperatures)
        ]
        walk.note(_round(labels, values, surrogate))
        say(_told(plan, labels, values))
        goals = torch.stack([deviations[where == k].mean(0) for k in range(len(plan.temperatures))])
        limits = torch.tensor([_limit(v, plan.tolerance) for v in values], dtype=torch.float64)
        taken = [*labels.known, *labels.failed]
        if len(walk.rounds) == 1:
            walk.note({"foreseen": _foreseen(plan, surrogate, deviations, goals, limits, taken)})
        left = plan.budget - labels.count
        if max(v.half_width for v in values) <= plan.tolerance or left < 1 or len(taken) == len(candidates):
            return values, surrogate
        if (choice.variances(goals) <= limits).all():
            return values, surrogate  # what is missing is not labels
        size, before = min(plan.batch, left), labels.count
        # The share of all labels, so that small batches take turns.
        at_random = round(FRACTION * (before + size)) - round(FRACTION * before)
        wanted = choice.choose(deviations, goals, surrogate.noise, size - at_random, limits, taken)
        free = np.setdiff1d(np.arange(len(candidates)), [*taken, *wanted])
        walk.ask(wanted + _in_turn(free, turn)[:at_random])


def _limit(value: Value, tolerance: float) -> float:
    """Variance of the model that is small enough: it meets the tolerance, or is well below it, or below what no label narrows."""
    left, floor = tolerance**2 - value.half_width**2 + value.model**2, value.floor()
    return max(left, (0.3 * tolerance) ** 2, floor**2 if floor > tolerance else 0.0) / Z95**2


def _sampling(predicted: np.ndarray, noise: float, drawn: Drawn, temperature: float) -> float:
    """Half width of the mean of a pool: of what the model sees, and of what it misses, which follows the dynamics as well."""
    g, n = drawn.inefficiency[temperature], len(predicted)
    own = statistical_inefficiency(predicted, drawn.trajectories) if drawn.trajectories else 1.0
    missed = average.pooled(noise**2 * (1 - 1 / g), n, g)  # the scatter of independent ones is in that of the labels
    return float(np.hypot(average.pooled(float(predicted.var()), n, own), missed))


def _in_turn(places: np.ndarray, turn: np.ndarray) -> list[int]:
    """Places in the order in which they are labelled at random."""
    return [int(k) for k in places[np.argsort(turn[places], kind="stable")]]


def _foreseen(
    plan: Plan,
    surrogate: Surrogate,
    deviations: torch.Tensor,
    goals: torch.Tensor,
    limits: torch.Tensor,
    taken: list[int],
) -> dict[str, Any]:
    """What the first model expects of chosen and of random labels: half widths of the averages after each of them."""
    count = len(deviations)
    n = min(plan.budget - len(taken), int((count - len(taken)) / 2), 150)
    if n < 1:
        return {}
    chosen = choice.choose(deviations, goals, surrogate.noise, n, torch.zeros_like(limits) + 1e-30, taken)
    free, rng = np.setdiff1d(np.arange(count), taken), np.random.default_rng(plan.seed)
    curves = [
        choice.foreseen(deviations, goals, surrogate.noise, [int(k) for k in rng.permutation(free)[:n]])
        for _ in range(RANDOM_ORDERS)
    ]
    return {
        "labels": len(taken),
        "chosen": (Z95 * choice.foreseen(deviations, goals, surrogate.noise, chosen)).tolist(),
        "random": (Z95 * torch.stack(curves).mean(0)).tolist(),
    }


def _directly(
    plan: Plan,
    where: np.ndarray,
    turn: np.ndarray,
    still: Undisplaced,
    drawn: Drawn,
    walk: Walk,
    say: Say,
) -> list[Value]:
    """Average labels of configurations drawn at random, more of them where the interval is widest."""
    labels = walk.labels
    orders = [_in_turn(np.flatnonzero(where == k), turn) for k in range(len(plan.temperatures))]
    each = max(FEWEST, plan.first // len(plan.temperatures))
    walk.start([p for order in orders for p in order[:each]])
    while True:
        values = []
        counts = _check_labels(plan, where, labels, 2)
        for k, t in enumerate(plan.temperatures):
            mine = [average.value_of(labels.known[p], plan.target) for p in labels.order if where[p] == k]
            error = still.error / len(mine) ** 0.5
            wider = still.expansion.get(t, (0.0, 0.0))[1]
            values.append(average.direct(mine, error, plan.pool, drawn.inefficiency[t], wider))
        walk.note(_round(labels, values, None))
        say(_told(plan, labels, values))
        left = plan.budget - labels.count
        rest = [[p for p in order if p not in labels.known and p not in labels.failed] for order in orders]
        # Where the pool or the expansion alone is surely too wide, what is missing is not labels.
        shares = [average.surely(count) for count in counts]
        open_ = [k for k, v in enumerate(values) if v.floor(shares[k]) <= plan.tolerance < v.half_width and rest[k]]
        if not open_ or left < 1:
            return values
        wanted: list[int] = []
        while len(wanted) < min(plan.batch, left) and any(rest[k] for k in open_):
            wanted += [rest[k].pop(0) for k in open_ if rest[k]]
        walk.ask(wanted[: min(plan.batch, left)])


def _ensemble(plan: Plan, walk: Walk, undisplaced: Atoms, drawn: Drawn) -> list[dict[str, Any]]:
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


def _pair(value: tuple[float, float] | None) -> dict[str, float] | None:
    return None if value is None else {"value": value[0], "half_width": value[1]}


def _parts(plan: Plan, pools: Pools, surrogate: Surrogate, still: Undisplaced) -> dict[float, dict[str, Any]]:
    """What the average at each temperature is made of, where there are phonons."""
    if plan.method == "md":
        return {}
    found = {}
    for t in plan.temperatures:
        here, cold, other = (
            (surrogate.predictions(pools[key]), surrogate.deviations(pools[key]))
            for key in (name(t), name(t, ZERO_POINT), name(t, OTHER))
        )
        quantum, classical = (here, other) if plan.statistics == "quantum" else (other, here)
        zero = average.average(*cold, still.error, average.pooled(float(cold[0].var()), len(cold[0])))
        found[t] = {
            "zero_point": _pair((zero.mean - still.static, zero.half_width)),
            "thermal": _pair(average.difference(quantum, cold)),
            "quantum_less_classical": _pair(average.difference(quantum, classical)),
        }
    return found


def _spread(labels: Labels, where: np.ndarray, k: int, pool: list[Atoms], surrogate: Surrogate | None) -> float:
    """Standard deviation of the property over configurations of one temperature: of labels, or of predictions and misfit."""
    if surrogate is None:
        mine = [average.value_of(labels.known[p], labels.target) for p in labels.order if where[p] == k]
        return float(np.std(mine, ddof=1)) if len(mine) > 1 else float("nan")
    return float(np.hypot(surrogate.predictions(pool).std(ddof=1), average.misfit_of(surrogate.model, labels.target)))


def _round(labels: Labels, values: list[Value], surrogate: Surrogate | None) -> dict[str, Any]:
    return {
        "labels": labels.count,
        "mean": [v.mean for v in values],
        "half_width": [v.half_width for v in values],
        "model": [v.model for v in values],
        "unseen_mae": None if surrogate is None else float(np.abs(surrogate.unseen).mean()),
    }


def _told(plan: Plan, labels: Labels, values: list[Value]) -> str:
    each = "; ".join(
        f"{t:g} K {v.mean:.4g} +/- {v.half_width:.2g}" for t, v in zip(plan.temperatures, values, strict=True)
    )
    return f"{labels.count} labels: {plan.target} [{average.unit_of(plan.target)}] {each}"


def _missing(plan: Plan, results: dict[str, Any]) -> str:
    """One sentence on what keeps the tolerance from being met; empty when it is met."""
    if results["reached"]:
        return ""
    worst = max(results["temperatures"], key=lambda row: row["half_width"])
    half = f"the interval at {worst['temperature']:g} K is +/- {worst['half_width']:.3g} {results['unit']}"
    parts = {part: worst[part] for part in ("sampling", "label", "expanding")}
    left = plan.tolerance**2 - sum(value**2 for value in parts.values())
    if left > 0 and plan.model is None:
        labels = average.alone(worst["spread"], left**0.5, plan.pool)
        return f"{half}: about {labels} labels at this temperature would meet the tolerance; raise --budget above {plan.budget}, or use a model"
    if left > 0:
        return f"{half}, most of it of the model after {results['labels']} labels: raise --budget to {2 * plan.budget}, say"
    largest = max(parts, key=lambda part: parts[part])
    if largest == "sampling":
        more = int(np.ceil(plan.pool * (parts["sampling"] / (0.5 * plan.tolerance)) ** 2))
        cost = "--budget with it, or use a model" if plan.model is None else "it costs no labels"
        return (
            f"{half}, {parts['sampling']:.3g} of it because the pool counts as {worst['independent']:.0f} independent configurations: "
            f"raise --pool to {more}; {cost}"
        )
    if largest == "expanding":
        return f"{half}, most of it of the labels of strained crystals: converge the engine better (--settings), or --no-expansion true"
    return f"{half}, most of it of the labels themselves: converge the engine better (--settings), or allow a wider one"
