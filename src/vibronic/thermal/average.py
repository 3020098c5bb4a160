"""A thermal average from labels and a model of them: its value, and what its error is made of.

The average at a temperature is the regression estimator of survey sampling (Cochran, Sampling Techniques, chapter 7): the mean of the
predictions over the pool, plus by how much the labels of that temperature are off the model on average. A model held to a prior
draws temperatures together; that correction puts them where their labels are.

Three errors are told apart: of sampling (the pool is finite), of the model (its posterior covariance, widened by how wrong it was
on labels that it had not seen), and of the labels (how far an engine disagrees with itself on the same crystal, moved). The
thermal expansion, a difference of labels, adds its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.model import Model
from vibronic.core.progress import track
from vibronic.core.targets import target as named_target
from vibronic.core.units import GPA
from vibronic.data.dataset import GraphData, in_batches, label_of
from vibronic.learning import store
from vibronic.thermal.plan import FEWEST

FOLDS = 5
BATCH = 4
MANY = 500
"""Predictions above which a bar shows how many are made."""
SURVEYED = 200
"""Configurations of the pool that scales are taken from."""
Z95 = 1.959964
"""Half width of a 95 % interval in standard deviations."""


Posterior = tuple[np.ndarray, Tensor]
"""Predictions (n,) and deviations (n, r), whose products are the covariances of the predictions, in the unit that is shown."""


@dataclass(frozen=True)
class Value:
    """An average and the half widths of its 95 % intervals, in the unit that is shown (:func:`unit_of`).

    Attributes:
        mean: the average.
        sampling: because the pool is finite; no label narrows it.
        model: because labels are few: of the model, or without one of their mean.
        labels: because an engine disagrees with itself.
        expansion: of what the expansion adds.
    """

    mean: float
    sampling: float = 0.0
    model: float = 0.0
    labels: float = 0.0
    expansion: float = 0.0

    @property
    def half_width(self) -> float:
        """All of them together; they are independent."""
        return float(np.sqrt(self.sampling**2 + self.model**2 + self.labels**2 + self.expansion**2))

    def floor(self, share: float = 1.0) -> float:
        """What no further label narrows: the pool (a share of it), and the expansion."""
        return float(np.hypot(share * self.sampling, self.expansion))


@dataclass(frozen=True)
class Level:
    """By how much the labels of one temperature are off a model.

    Attributes:
        shift: mean of label minus prediction.
        deviation: (r,) mean of the model's deviations at these labels, which it errs by as well.
        noise: standard error of the shift by the scatter of the labels about the model.
    """

    shift: float
    deviation: Tensor
    noise: float


@dataclass(frozen=True)
class Surrogate:
    """A model of the labels so far, and how it did on labels that it had not seen.

    Attributes:
        model: fitted to all of them.
        target: name of what is averaged.
        noise: scatter of a label about the model.
        levels: of every temperature (K) that has labels.
        widening: at least 1: root-mean-square of the errors on unseen labels, in units of what the model foresaw.
        unseen: error of each label, predicted without it.
    """

    model: Model
    target: str
    noise: float
    levels: dict[float, Level] = field(default_factory=dict)
    widening: float = 1.0
    unseen: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def posterior(self, frames: Sequence[Atoms]) -> Posterior:
        """At the level of the labels of their temperature, and widened: deviations (n, r + temperatures)."""
        starts = track(range(0, len(frames), BATCH), "Predicting configurations", len(frames) > MANY)
        parts = (next(in_batches(frames[k : k + BATCH], self.model.cutoff, BATCH, self.model.dtype)) for k in starts)
        return self.at_levels(parts, [temperature_of(a) for a in frames])

    def at_levels(self, batches: Iterable[Batch], temperatures: Sequence[float | None]) -> Posterior:
        """The same of batches."""
        predictions, rows = _posterior(self.model, self.target, batches)
        own = rows.new_zeros(len(rows), len(self.levels))
        column = {t: k for k, t in enumerate(self.levels)}
        for n, t in enumerate(temperatures):
            if t in self.levels:
                predictions[n] += self.levels[t].shift
                rows[n] -= self.levels[t].deviation
                own[n, column[t]] = self.levels[t].noise
        return predictions, self.widening * torch.cat([rows, own], dim=1)


def temperature_of(atoms: Atoms) -> float | None:
    """K, that a configuration was drawn at."""
    return atoms.info.get("temperature_K")


def targets_for(kind: str, target: str, frames: Sequence[Atoms]) -> list[str]:
    """What the model learns: the target, and a band edge beside a gap where the labels hold one."""
    edges = [other for other in ("vbm",) if other != target and label_of(frames[0], other) is not None]
    return [target, *(edges if kind == "tight-binding" else [])]


def survey(kind: str, target: str, pool: Sequence[Atoms], settings: dict[str, Any] | None = None) -> Tensor | None:
    """What a model wants to know of the pool before it is fitted; no label enters."""
    model = store.build(kind, targets=[target], **(settings or {}))
    some = pool[:: max(1, len(pool) // SURVEYED)]
    return model.survey(GraphData(some, [], model.cutoff, model.dtype).batch())


def fit(
    kind: str,
    target: str,
    frames: Sequence[Atoms],
    settings: dict[str, Any] | None = None,
    surveyed: Tensor | None = None,
    seed: int = 0,
) -> Surrogate:
    """A model of the labels of ``frames``, judged by cross-validation; ``surveyed`` is of :func:`survey`.

    Raises:
        VibronicError: the model refuses the target or the structures.
    """
    names = targets_for(kind, target, frames)
    template = store.build(kind, targets=names, **(settings or {}))
    graphs = GraphData(frames, template.labels, template.cutoff, template.dtype).graphs
    labels, drawn = np.array([value_of(a, target) for a in frames]), [temperature_of(a) for a in frames]

    def fitted(part: np.ndarray) -> Surrogate:
        model = store.build(kind, targets=names, **(settings or {}))
        model.surveyed = surveyed
        mine = [graphs[k] for k in part]
        model.prepare(Batch.collate(mine))
        return _levelled(model.eval(), target, mine, labels[part], [drawn[k] for k in part])

    folds = min(FOLDS, len(frames))
    fold = np.random.default_rng(seed).permutation(np.arange(len(frames)) % folds)
    unseen, foreseen = np.zeros(len(frames)), np.zeros(len(frames))
    for k in track(range(folds), "Cross-validating", len(frames) > MANY / 10):
        one, held = fitted(np.flatnonzero(fold != k)), np.flatnonzero(fold == k)
        predicted, rows = one.at_levels((graphs[j] for j in held), [drawn[j] for j in held])
        unseen[held] = predicted - labels[held]
        foreseen[held] = (rows.square().sum(1) + one.noise**2).sqrt().numpy()
    whole = fitted(np.arange(len(frames)))
    widening = max(1.0, float(np.sqrt(np.mean((unseen / np.maximum(foreseen, 1e-12)) ** 2))))
    return replace(whole, noise=widening * whole.noise, widening=widening, unseen=unseen)


def _levelled(
    model: Model, target: str, graphs: Sequence[Batch], labels: np.ndarray, drawn: Sequence[float | None]
) -> Surrogate:
    """A fitted model with the levels of the temperatures of its labels."""
    predictions, rows = _posterior(model, target, graphs)
    off, noise, levels = labels - predictions, misfit_of(model, target), {}
    for t in sorted({t for t in drawn if t is not None}):
        mine = np.array([other == t for other in drawn])
        levels[t] = Level(
            float(off[mine].mean()), rows[torch.as_tensor(mine)].mean(0), noise / float(mine.sum()) ** 0.5
        )
    return Surrogate(model, target, noise, levels)


def _posterior(model: Model, target: str, batches: Iterable[Batch]) -> Posterior:
    """Of the model alone."""
    predictions, rows = [], []
    for batch in batches:
        predicted, deviations = model.posterior(batch)
        assert deviations is not None
        divisor = torch.as_tensor(divisors(target, batch.n_atoms.numpy()))
        predictions.append(predicted[target].detach().double() / divisor)
        rows.append(deviations[target].detach().double() / divisor[:, None])
    return torch.cat(predictions).numpy(), torch.cat(rows)


def misfit_of(model: Model, target: str) -> float:
    """Scatter of a label about the model in the unit that is shown."""
    return model.misfit[target] / (GPA if target == "pressure" else 1.0)


def value_of(atoms: Atoms, target: str) -> float:
    """The label of a structure in the unit that is shown."""
    value = label_of(atoms, target)
    assert value is not None
    return float(np.asarray(value)) / float(divisors(target, np.array([len(atoms)]))[0])


def divisors(target: str, atoms: np.ndarray) -> np.ndarray:
    """(n,) what makes the values of structures with so many ``atoms`` those that are shown to people: extensive ones per atom, pressures in GPa."""
    if named_target(target).extensive:
        return atoms.astype(float)
    return np.full(len(atoms), GPA if target == "pressure" else 1.0)


def unit_of(target: str) -> str:
    """The unit that goes with it."""
    t = named_target(target)
    return f"{t.unit}/atom" if t.extensive else "GPa" if target == "pressure" else t.unit


def pooled(variance: float, n: int, inefficiency: float = 1.0) -> float:
    """Half width of the mean of a pool by its being finite: of the 95 % interval of Student for n / g independent values.

    Args:
        variance: of all n values.
        n: configurations.
        inefficiency: g, how many of them count as one; deviations are from their own mean, so that the fewer they count as, the
            more the variance falls short.
    """
    from scipy.stats import t

    count = n / inefficiency
    return float(t.ppf(0.975, count - 1) * np.sqrt(variance / (count - 1))) if count > 1 else np.inf


def average(pool: Posterior, labels: float, sampling: float, expansion: float = 0.0) -> Value:
    """The average over a pool.

    Args:
        pool: what a model makes of it, widened.
        labels: half width by the error of the labels.
        sampling: half width by the pool's being finite (:func:`pooled`).
        expansion: half width of what the expansion adds.
    """
    model = float(pool[1].mean(0).square().sum().sqrt())
    return Value(float(pool[0].mean()), sampling, Z95 * model, labels, expansion)


def direct(
    values: Sequence[float], labels: float, pool: int, inefficiency: float = 1.0, expansion: float = 0.0
) -> Value:
    """The average of labels alone, drawn at random from a pool; Student's interval, since there may be few.

    The labels tell the mean of the pool to within s^2 (1 - m/n) / m, and the pool that of the dynamics, whose snapshots are alike, to
    within s^2 g / n.

    Args:
        values: (m,) labels of some of the pool.
        labels: half width by the error of the labels.
        pool: n, configurations they were drawn from.
        inefficiency: g, how many of them count as one; 1 where they are independent.
        expansion: half width of what the expansion adds.
    """
    from scipy.stats import t

    m = len(values)
    if m < 2:
        return Value(float(np.mean(values)) if m else np.nan, np.inf)
    variance = float(np.var(values, ddof=1))
    few = float(t.ppf(0.975, m - 1)) * (variance * max(0.0, 1 - m / pool) / m) ** 0.5
    sampling = pooled(variance * (1 - 1 / pool), pool, inefficiency)
    return Value(float(np.mean(values)), sampling, few, labels, expansion)


def alone(spread: float, tolerance: float, pool: float = np.inf) -> int:
    """How many labels tell the mean of a pool to within a tolerance when they are averaged; 95 %, for many of them."""
    if spread == 0:
        return FEWEST
    return max(FEWEST, int(np.ceil(1 / (1 / pool + (tolerance / (Z95 * spread)) ** 2))))


def surely(count: int) -> float:
    """Share of the standard deviation of ``count`` labels that the true one has at least (97.5 %, by chi squared)."""
    from scipy.stats import chi2

    return float(np.sqrt((count - 1) / chi2.ppf(0.975, count - 1)))
