"""From a crystal to a property at several temperatures: draw, label, learn, choose, until the error is small enough.

Everything that is drawn follows from the seed, every label is in the ledger, and which labels were asked for is written down before
they are computed. So the same command goes on wherever it was stopped, and one with another tolerance, budget, batch or pool
goes on from the labels that there are.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vibronic.core.errors import VibronicError
from vibronic.core.folder import bind, check_plan, content
from vibronic.core.provenance import check_writable, versions, write_json
from vibronic.core.targets import target as named_target
from vibronic.data.dataset import describe, read_labelled, write_structures
from vibronic.data.sources import crystal as read_crystal
from vibronic.labelling.engines import Engine, engine
from vibronic.labelling.executors import check_place
from vibronic.learning import store
from vibronic.sampling.checks import statistical_inefficiency
from vibronic.thermal import answer, average, choice
from vibronic.thermal.average import Z95, Posterior, Surrogate, Value
from vibronic.thermal.labels import Labels, Undisplaced, Walk, check_pool, undisplaced
from vibronic.thermal.plan import FEWEST, FRACTION, Plan
from vibronic.thermal.pools import Drawn, draw, name

RANDOM_ORDERS = 5
Say = Callable[[str], None]


@dataclass(frozen=True)
class Found:
    """What a walk has come to.

    Attributes:
        values: averages, of every temperature.
        stopped: why no further label was asked for.
        surrogate: the last model; None without one.
        pools: what it makes of the pool of each temperature.
        seconds: that it takes for a configuration.
    """

    values: list[Value]
    stopped: answer.Stopped
    surrogate: Surrogate | None = None
    pools: list[Posterior] = field(default_factory=list)
    seconds: float = 0.0


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
    bound = _bound(plan)
    check_plan(out, bound)
    check_pool(plan, out / "rounds.json")
    check_writable(out)
    (out / "results.json").unlink(missing_ok=True)  # of a plan with another tolerance, say
    drawn = draw(plan, out, say)
    bind(out, bound)  # only now: a plan that cannot be drawn binds nothing
    options = {"executor": executor, "workers": workers, "timeout": timeout, "retry_failed": retry_failed}
    labels = Labels(labelling, out / "ledger.sqlite", options, plan.target)
    candidates = [atoms for t in plan.temperatures for atoms in drawn.pools[name(t)]]
    where = np.repeat(np.arange(len(plan.temperatures)), plan.pool)
    turn = _turns(plan)
    rng = np.random.default_rng(plan.seed)
    still = undisplaced(plan, drawn.reference, drawn.expansion, labels, candidates[int(turn.argmin())], rng.random)
    say(
        f"undisplaced: {plan.target} {still.static:.5g}; a label repeats itself to {still.error:.2g} ({labels.extra} labels)"
    )
    walk = Walk(out / "rounds.json", labels, candidates, plan.pool)
    way = _directly if plan.model is None else _with_model
    found = way(plan, where, turn, still, drawn, walk, say)
    values, surrogate, pools = found.values, found.surrogate, found.pools
    write_structures(out / "labelled.extxyz", labels.frames())
    if surrogate is not None:
        store.save(surrogate.model, out / "model", _card(plan, surrogate, out / "labelled.extxyz"))
    ensemble = answer.ensemble(plan, walk, still.atoms, drawn)
    for row in ensemble:
        if not row["off"]:  # or it is told beside the answer
            say(row["finding"])
    mine = [[p for p in labels.order if where[p] == k] for k in range(len(plan.temperatures))]
    first = sum(p in labels.known for p in walk.places(0))
    foreseen = walk.rounds[0].get("foreseen") if surrogate is not None else None
    later = len(labels.order) - first
    chosen = later - _at_random(first, later) if foreseen else 0
    results: dict[str, Any] = {
        "plan": asdict(plan),
        "made_by": _stamp(plan),
        "kind": None if surrogate is None else plan.kind,
        "unit": average.unit_of(plan.target),
        "static": still.static,
        "label_error": still.error,
        "cell": still.cell and dict(zip(("strain", "value", "half_width"), still.cell, strict=True)),
        "findings": [*drawn.findings, *(row["finding"] for row in ensemble if not row["off"])],
        "notes": [*drawn.notes, *still.notes, *(row["finding"] for row in ensemble if row["off"])],
        "ensemble": ensemble,
        "temperatures": [
            {
                "temperature": t,
                "value": value.mean + still.grown(t)[0],
                "half_width": value.half_width,
                "errors": {k: v for k, v in asdict(value).items() if k != "mean"},
                "independent": plan.pool / drawn.inefficiency[t],
                "kinetic": answer.kinetic(plan.target, drawn, t),
                "spread": answer.spread(walk, mine[k], surrogate, pools[k] if pools else None),
                **part,
            }
            for k, (t, value, part) in enumerate(
                zip(plan.temperatures, values, answer.parts(plan, drawn, still, values, surrogate, pools), strict=True)
            )
        ],
        "expansion": None if drawn.expansion is None else asdict(drawn.expansion),
        "rounds": [{k: v for k, v in r.items() if k not in ("asked", "foreseen")} for r in walk.rounds],
        "labels": labels.count,
        "extra": labels.extra,
        "first": first,
        "chosen": chosen,
        "failed": len(labels.failed),
        "reached": bool(max(v.half_width for v in values) <= plan.tolerance),
        "unseen_mae": None if surrogate is None else float(np.abs(surrogate.unseen).mean()),
        "widening": None if surrogate is None else surrogate.widening,
        "foreseen": foreseen,
        "as_good_at_random": answer.as_good_at_random(foreseen, chosen) if foreseen and chosen else None,
    }
    for row in results["temperatures"]:
        row["labels_without_model"] = average.alone(row["spread"], plan.tolerance)
    results["missing"] = answer.missing(plan, results, found.stopped, found.seconds)
    write_json(out / "results.json", results)
    say(
        f"labels: {labels.computed} computed now, {labels.count + len(labels.failed) - labels.computed} were in the ledger"
    )
    return results


def _bound(plan: Plan) -> dict[str, Any]:
    """What a folder is bound to: the plan, and the crystal whatever the name of its file."""
    atoms = read_crystal(plan.crystal)
    text = json.dumps([atoms.numbers.tolist(), atoms.positions.round(6).tolist(), atoms.cell.array.round(6).tolist()])
    return plan.bound | {"content": hashlib.sha256(text.encode()).hexdigest()[:12]}


def carried_out(plan: Plan, out: Path) -> dict[str, Any] | None:
    """The results in the folder ``out`` where this very plan has been carried out there, with these engines and this version, and all
    that it makes is there."""
    made = ["plan.json", "run.json", "results.json", "labelled.extxyz", *(["model"] if plan.model else [])]
    if not all((out / file).exists() for file in made):
        return None
    before, record = content(out / "results.json"), content(out / "run.json")
    wanted = json.loads(json.dumps(asdict(plan)))
    if not isinstance(before, dict) or not isinstance(record, dict):
        return None
    same = before.get("plan") == record.get("config") == wanted and before.get("made_by") == _stamp(plan)
    return before if same else None


def _stamp(plan: Plan) -> dict[str, str]:
    """What results follow from, beside the plan."""
    labels, forces = engine(plan.engine, **plan.settings), engine(plan.forces, **plan.forces_settings)
    made_by = {"content": _bound(plan)["content"], "vibronic": versions()["vibronic"]}
    return made_by | {"labels": labels.settings_hash, "forces": forces.settings_hash}


def _card(plan: Plan, surrogate: Surrogate, labelled: Path) -> store.Card:
    """Of the model that is kept."""
    from vibronic.data import sources

    zeros = sources.references(labelled)
    return store.Card(
        data=describe(read_labelled(labelled)),
        references={t.name: zeros[t.name] for t in surrogate.model.targets if t.name in zeros},
        licence="as the data",
        summary="Learned by 'vibronic thermal'.",
        only="The labels of this model were chosen for a thermal average, not drawn at random: how wrong it was on them promises nothing of "
        "other structures, so it gives no intervals.",
    )


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
    gives = [*labelling.properties, *(["pressure"] if "stress" in labelling.properties else [])]
    if plan.target not in gives:
        raise VibronicError(
            f"the engine '{plan.engine}' gives {', '.join(gives)}, not '{plan.target}'; choose another --target"
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
) -> Found:
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
        began = time.perf_counter()
        predicted, deviations = surrogate.posterior(candidates)
        seconds = (time.perf_counter() - began) / len(candidates)
        pools = [
            (predicted[where == k], deviations[torch.as_tensor(where == k)]) for k in range(len(plan.temperatures))
        ]
        values = [
            average.average(
                pool,
                still.error / counts[k] ** 0.5,
                _sampling(pool[0], surrogate.noise, drawn, t),
                still.grown(t)[1],
            )
            for k, (t, pool) in enumerate(zip(plan.temperatures, pools, strict=True))
        ]
        walk.note(_round(plan, labels, values, still, surrogate, say))
        goals = torch.stack([rows.mean(0) for _, rows in pools])
        limits = torch.tensor([_limit(v, plan.tolerance) for v in values], dtype=torch.float64)
        taken = [*labels.known, *labels.failed]
        if len(walk.rounds) == 1:
            walk.note({"foreseen": _foreseen(plan, surrogate, deviations, goals, limits, taken)})
        left = plan.budget - labels.count
        stopped: answer.Stopped | None = None
        if max(v.half_width for v in values) <= plan.tolerance:
            stopped = "reached"
        elif (choice.variances(goals) <= limits).all():
            stopped = "floor"  # what is missing is not labels
        elif len(taken) == len(candidates):
            stopped = "exhausted"
        elif left < 1:
            stopped = "budget"
        if stopped is not None:
            return Found(values, stopped, surrogate, pools, seconds)
        size = min(plan.batch, left)
        at_random = _at_random(len(labels.order), size)
        wanted = choice.choose(deviations, goals, surrogate.noise, size - at_random, limits, taken)
        free = np.setdiff1d(np.arange(len(candidates)), [*taken, *wanted])
        walk.ask(wanted + _in_turn(free, turn)[:at_random])


def _at_random(before: int, more: int) -> int:
    """How many of so many more labels are drawn at random: of the share of all, so that small batches take turns."""
    return round(FRACTION * (before + more)) - round(FRACTION * before)


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
) -> Found:
    """Average labels of configurations drawn at random, more of them where the interval is widest."""
    labels = walk.labels
    orders = [_in_turn(np.flatnonzero(where == k), turn) for k in range(len(plan.temperatures))]
    each = max(FEWEST, plan.first // len(plan.temperatures))
    if each * len(orders) > plan.first:
        say(
            f"{FEWEST} labels of each temperature to begin with, {each * len(orders)} in all: fewer tell too little of their spread"
        )
    walk.start([p for order in orders for p in order[:each]])
    while True:
        values = []
        counts = _check_labels(plan, where, labels, 2)
        for k, t in enumerate(plan.temperatures):
            mine = [average.value_of(labels.known[p], plan.target) for p in labels.order if where[p] == k]
            error = still.error / len(mine) ** 0.5
            wider = still.grown(t)[1]
            values.append(average.direct(mine, error, plan.pool, drawn.inefficiency[t], wider))
        walk.note(_round(plan, labels, values, still, None, say))
        left = plan.budget - labels.count
        rest = [[p for p in order if p not in labels.known and p not in labels.failed] for order in orders]
        # Where the pool or the expansion alone is surely too wide, what is missing is not labels.
        shares = [average.surely(count) for count in counts]
        wide = [k for k, v in enumerate(values) if v.floor(shares[k]) <= plan.tolerance < v.half_width]
        open_ = [k for k in wide if rest[k]]
        if not open_ or left < 1:
            reached = max(v.half_width for v in values) <= plan.tolerance
            return Found(values, "reached" if reached else "budget" if open_ else "exhausted" if wide else "floor")
        wanted: list[int] = []
        while len(wanted) < min(plan.batch, left) and any(rest[k] for k in open_):
            wanted += [rest[k].pop(0) for k in open_ if rest[k]]
        walk.ask(wanted[: min(plan.batch, left)])


def _round(
    plan: Plan, labels: Labels, values: list[Value], still: Undisplaced, surrogate: Surrogate | None, say: Say
) -> dict[str, Any]:
    """What a round has found, which is also said."""
    each = "; ".join(
        f"{t:g} K {v.mean + still.grown(t)[0]:.5g} +/- {v.half_width:.2g}"
        for t, v in zip(plan.temperatures, values, strict=True)
    )
    say(f"{labels.count} labels: {plan.target} [{average.unit_of(plan.target)}] {each}")
    return {
        "labels": labels.count,
        "mean": [v.mean for v in values],
        "half_width": [v.half_width for v in values],
        "model": [v.model for v in values],
        "unseen_mae": None if surrogate is None else float(np.abs(surrogate.unseen).mean()),
    }
