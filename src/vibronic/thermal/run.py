"""From a crystal to a property at several temperatures: draw, label, learn, choose, until the error is small enough.

Everything that is drawn follows from the seed, and every label is in the ledger, so the same command goes on wherever it was
stopped: it walks the same way and finds the labels there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.folder import bind
from vibronic.core.provenance import write_json
from vibronic.core.targets import target as named_target
from vibronic.data.dataset import describe, label_of, write_structures
from vibronic.labelling.engines import Engine, engine
from vibronic.labelling.label import label
from vibronic.learning import store
from vibronic.sampling.checks import standard_error
from vibronic.sampling.disorder import strain
from vibronic.sampling.expansion import Expansion
from vibronic.thermal import average, choice
from vibronic.thermal.average import Z95, Surrogate, Value
from vibronic.thermal.plan import FRACTION, REPEATS, Plan
from vibronic.thermal.pools import OTHER, ZERO_POINT, Pools, draw, name

RANDOM_ORDERS = 5


@dataclass
class Labels:
    """Labels of some structures under one engine, through the ledger.

    Attributes:
        known: structure's place among the candidates -> the labelled structure.
        failed: places whose label could not be had.
        order: places in the order in which they were labelled.
        extra: labels of other structures (undisplaced, strained, moved): they count as well.
    """

    engine: Engine
    ledger: Path
    options: dict[str, Any]
    target: str
    known: dict[int, Atoms] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    order: list[int] = field(default_factory=list)
    extra: int = 0

    def ask(self, frames: Sequence[Atoms]) -> list[Atoms | None]:
        """Labelled copies, None where the engine failed.

        Raises:
            VibronicError: none of them can be labelled, or the engine does not give the target.
        """
        report = label(frames, self.engine, self.ledger, **self.options)
        lost = {index for index, _ in report.failures}
        labelled = iter(report.labelled)
        found = [None if k in lost else next(labelled) for k in range(len(frames))]
        for atoms in found:
            if atoms is not None and label_of(atoms, self.target) is None:
                raise VibronicError(
                    f"the engine '{self.engine.name}' does not give '{self.target}'; choose another --target or --engine"
                )
        return found

    def add(self, places: Sequence[int], candidates: Sequence[Atoms]) -> None:
        """Label candidates."""
        if not places:
            return
        for place, atoms in zip(places, self.ask([candidates[k] for k in places]), strict=True):
            if atoms is None:
                self.failed.add(place)
            else:
                self.known[place] = atoms
                self.order.append(place)

    @property
    def count(self) -> int:
        """Labels that were computed, of whatever structure."""
        return len(self.order) + self.extra

    def frames(self) -> list[Atoms]:
        return [self.known[k] for k in self.order]


def run(
    plan: Plan,
    out: Path,
    executor: str = "local",
    workers: int = 1,
    timeout: float | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Carry the plan out in the folder ``out`` and return its results (also in ``results.json``).

    Raises:
        VibronicError: the folder holds another plan; crystal, engines or labels cannot be had.
    """
    out = Path(out)
    labelling = engine(plan.engine, **plan.settings)
    if labelling.name == "files":
        raise VibronicError("a thermal average computes labels as it needs them: choose another --engine than 'files'")
    if plan.target not in (*labelling.properties, "pressure"):
        raise VibronicError(
            f"the engine '{plan.engine}' gives {', '.join(labelling.properties)}, not '{plan.target}'; choose another --target"
        )
    if named_target(plan.target).shape:
        raise VibronicError(f"a thermal average is of one number, not of {plan.target}; energy or pressure are such")
    bind(out, {"study": "thermal-average", **asdict(plan)})
    reference, pools, grown = draw(plan, out, say)
    options = {"executor": executor, "workers": workers, "timeout": timeout}
    labels = Labels(labelling, out / "ledger.sqlite", options, plan.target)
    candidates = [atoms for t in plan.temperatures for atoms in pools[name(t)]]
    where = np.repeat(np.arange(len(plan.temperatures)), plan.pool)
    rng = np.random.default_rng(plan.seed)
    static, strained, label_error = _undisplaced(plan, reference, grown, labels, candidates[0], rng)
    say(f"undisplaced: {plan.target} {static:.5g}; a label repeats itself to {label_error:.2g}")
    if plan.model is None:
        rounds, values = _directly(plan, labels, candidates, where, label_error, rng, say, out)
        surrogate, parts = None, {}
    else:
        rounds, values, surrogate, foreseen = _with_model(
            plan, labels, candidates, where, pools, label_error, rng, say, out
        )
        parts = _parts(plan, pools, surrogate, static)
        store.save(surrogate.model, out / "model", store.Card(data=describe(labels.frames())))
    write_structures(out / "labelled.extxyz", labels.frames())
    results: dict[str, Any] = {
        "plan": asdict(plan),
        "kind": None if surrogate is None else plan.kind,
        "unit": average.unit_of(plan.target),
        "static": static,
        "label_error": label_error,
        "temperatures": [
            {
                "temperature": t,
                **asdict(value),
                "half_width": value.half_width,
                "spread": _spread(labels, where, k, pools[name(t)], surrogate),
                "expansion": strained.get(t),
                **parts.get(t, {}),
            }
            for k, (t, value) in enumerate(zip(plan.temperatures, values, strict=True))
        ],
        "expansion": None if grown is None else asdict(grown),
        "rounds": rounds,
        "labels": labels.count,
        "failed": len(labels.failed),
        "reached": bool(max(v.half_width for v in values) <= plan.tolerance),
        "unseen_mae": None if surrogate is None else float(np.abs(surrogate.unseen).mean()),
        "widening": None if surrogate is None else surrogate.widening,
        "foreseen": foreseen if plan.model is not None else None,
    }
    for row in results["temperatures"]:
        # What as many labels would need if they were averaged: 1.96 s / sqrt(n) = tolerance.
        row["labels_without_model"] = int(np.ceil((Z95 * row["spread"] / plan.tolerance) ** 2))
    results["missing"] = _missing(plan, results)
    write_json(out / "results.json", results)
    return results


def _undisplaced(
    plan: Plan,
    reference: Atoms,
    grown: Expansion | None,
    labels: Labels,
    example: Atoms,
    rng: np.random.Generator,
) -> tuple[float, dict[float, float], float]:
    """Label of the undisplaced crystal; what its expansion adds, by temperature; and how far a label repeats itself."""
    moved = []
    for _ in range(REPEATS):
        atoms = example.copy()
        atoms.positions += rng.uniform(-1, 1, 3)
        moved.append(atoms)
    frames = [reference, *moved]
    widths: list[float] = []
    if grown is not None:
        widest = max((*grown.strains, grown.zero_point), key=abs) or 1e-3
        widths = [widest, widest / 2]
        frames += [strain(reference, w) for w in widths]
    found = labels.ask(frames)
    labels.extra = len(frames)
    if found[0] is None:
        raise VibronicError(f"the engine '{plan.engine}' cannot label the undisplaced crystal; see 'vibronic doctor'")
    static = average.value_of(found[0], plan.target)
    repeated = [average.value_of(a, plan.target) for a in found[1 : 1 + REPEATS] if a is not None]
    error = float(np.std(repeated, ddof=1)) if len(repeated) > 1 else 0.0
    strained: dict[float, float] = {}
    at = [a for a in found[1 + REPEATS :] if a is not None]
    if grown is not None and len(at) == len(widths):
        shifts = [average.value_of(a, plan.target) - static for a in at]
        # A parabola through the unstrained crystal and both strained ones.
        slope, curve = np.linalg.solve([[w, w**2] for w in widths], shifts)
        strained = {t: float(slope * s + curve * s**2) for t, s in zip(grown.temperatures, grown.strains, strict=True)}
    return static, strained, error


def _with_model(
    plan: Plan,
    labels: Labels,
    candidates: list[Atoms],
    where: np.ndarray,
    pools: Pools,
    label_error: float,
    rng: np.random.Generator,
    say: Callable[[str], None],
    out: Path,
) -> tuple[list[dict[str, Any]], list[Value], Surrogate, dict[str, Any]]:
    """Label, learn and choose until every interval is as narrow as wanted, or the budget is spent."""
    rounds: list[dict[str, Any]] = []
    foreseen: dict[str, Any] = {}
    first = [int(k) for t in range(len(plan.temperatures)) for k in _drawn(where, t, plan, rng)]
    labels.add(first[: plan.first], candidates)
    while True:
        surrogate = average.fit(plan.kind, plan.target, labels.frames(), seed=plan.seed)
        predicted = surrogate.predictions(candidates)
        deviations = surrogate.deviations(candidates)
        values = [
            average.average(
                predicted[where == k],
                deviations[where == k],
                label_error,
                len(labels.order),
                standard_error(predicted[where == k], correlated=plan.method == "md"),
            )
            for k in range(len(plan.temperatures))
        ]
        rounds.append(_round(plan, labels, values, surrogate))
        write_json(out / "rounds.json", rounds)
        say(_told(plan, labels, values))
        goals = torch.stack([deviations[where == k].mean(0) for k in range(len(plan.temperatures))])
        rest = [max(plan.tolerance**2 - v.sampling**2 - v.label**2, (0.3 * plan.tolerance) ** 2) for v in values]
        limits = torch.tensor([r / Z95**2 for r in rest], dtype=torch.float64)
        taken = [*labels.known, *labels.failed]
        if not foreseen:
            foreseen = _foreseen(plan, surrogate, deviations, goals, limits, taken, where, rng)
        left = plan.budget - labels.count
        if max(v.half_width for v in values) <= plan.tolerance or left < 1 or len(taken) == len(candidates):
            return rounds, values, surrogate, foreseen
        if (choice.variances(goals) <= limits).all():
            return rounds, values, surrogate, foreseen  # what is missing is not labels
        n = min(plan.batch, left)
        at_random = round(FRACTION * n)
        chosen = choice.choose(deviations, goals, surrogate.noise, n - at_random, limits, taken)
        free = np.setdiff1d(np.arange(len(candidates)), [*taken, *chosen])
        chosen += [int(k) for k in rng.permutation(free)[:at_random]]
        labels.add(chosen, candidates)


def _foreseen(
    plan: Plan,
    surrogate: Surrogate,
    deviations: torch.Tensor,
    goals: torch.Tensor,
    limits: torch.Tensor,
    taken: list[int],
    where: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What the first model expects of chosen and of random labels: standard deviation of the averages after each of them."""
    n = min(plan.budget - len(taken), int((len(where) - len(taken)) / 2), 150)
    if n < 1:
        return {}
    chosen = choice.choose(deviations, goals, surrogate.noise, n, torch.zeros_like(limits) + 1e-30, taken)
    free = np.setdiff1d(np.arange(len(where)), taken)
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
    labels: Labels,
    candidates: list[Atoms],
    where: np.ndarray,
    label_error: float,
    rng: np.random.Generator,
    say: Callable[[str], None],
    out: Path,
) -> tuple[list[dict[str, Any]], list[Value]]:
    """Average labels of configurations drawn at random, more of them where the interval is widest."""
    orders = [list(rng.permutation(np.flatnonzero(where == k))) for k in range(len(plan.temperatures))]
    rounds: list[dict[str, Any]] = []
    each = max(2, plan.first // len(plan.temperatures))
    wanted = [each] * len(orders)
    while True:
        places = [int(p) for order, n in zip(orders, wanted, strict=True) for p in order[:n]]
        labels.add([p for p in places if p not in labels.known and p not in labels.failed], candidates)
        values = []
        for k in range(len(orders)):
            mine = [average.value_of(labels.known[p], plan.target) for p in labels.order if where[p] == k]
            values.append(average.direct(mine, label_error))
        rounds.append(_round(plan, labels, values, None))
        write_json(out / "rounds.json", rounds)
        say(_told(plan, labels, values))
        left = plan.budget - labels.count
        open_ = [k for k, v in enumerate(values) if v.half_width > plan.tolerance and wanted[k] < len(orders[k])]
        if not open_ or left < 1:
            return rounds, values
        for n in range(min(plan.batch, left)):
            wanted[open_[n % len(open_)]] += 1


def _drawn(where: np.ndarray, t: int, plan: Plan, rng: np.random.Generator) -> np.ndarray:
    """The first labels of one temperature; the earlier ones get one more where they cannot be shared out evenly."""
    each, more = divmod(plan.first, len(plan.temperatures))
    return rng.permutation(np.flatnonzero(where == t))[: each + (t < more)]


def _parts(plan: Plan, pools: Pools, surrogate: Surrogate, static: float) -> dict[float, dict[str, Any]]:
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
        zero = average.average(*cold, 0.0, 1, standard_error(cold[0], correlated=False))
        found[t] = {
            "zero_point": {"value": zero.mean - static, "half_width": zero.half_width},
            "thermal": _plain(average.difference(quantum, cold)),
            "quantum_less_classical": _plain(average.difference(quantum, classical)),
        }
    return found


def _plain(value: Value) -> dict[str, float]:
    return {"value": value.mean, "half_width": value.half_width}


def _spread(labels: Labels, where: np.ndarray, k: int, pool: list[Atoms], surrogate: Surrogate | None) -> float:
    """Standard deviation of the property over configurations of one temperature: of labels, or of predictions and misfit."""
    if surrogate is None:
        mine = [average.value_of(labels.known[p], labels.target) for p in labels.order if where[p] == k]
        return float(np.std(mine, ddof=1)) if len(mine) > 1 else float("nan")
    return float(np.hypot(surrogate.predictions(pool).std(ddof=1), average.misfit_of(surrogate.model, labels.target)))


def _round(plan: Plan, labels: Labels, values: list[Value], surrogate: Surrogate | None) -> dict[str, Any]:
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
    parts = {p: worst[p] for p in ("sampling", "model", "label")}
    largest = max(parts, key=lambda p: parts[p])
    half = f"the interval at {worst['temperature']:g} K is +/- {worst['half_width']:.3g} {results['unit']}"
    if plan.model is None:
        more = int(np.ceil((Z95 * worst["spread"] / plan.tolerance) ** 2))
        return (
            f"{half}: about {more} labels at this temperature would meet the tolerance; raise --budget, or use a model"
        )
    if largest == "sampling":
        more = int(np.ceil(plan.pool * (parts["sampling"] / (0.5 * plan.tolerance)) ** 2))
        return f"{half}, most of it of sampling: draw a larger pool (--pool {more}); it costs no labels"
    if largest == "label":
        return f"{half}, most of it of the labels themselves: converge the engine better (--settings), or allow a wider one"
    return f"{half}, most of it of the model after {results['labels']} labels: raise --budget {plan.budget}"
