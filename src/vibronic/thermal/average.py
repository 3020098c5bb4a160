"""A thermal average from labels and a model of them: its value, and what its error is made of.

The average at a temperature is the regression estimator of survey sampling (Cochran, Sampling Techniques, chapter 7): the mean of the
predictions over the pool, plus by how much the labels of that temperature are off the model on average. A model held to a prior
draws temperatures together; that correction puts them where their labels are.

Three errors are told apart: of sampling (the pool is finite), of the model (its posterior covariance, widened by how wrong it was
on labels that it had not seen), and of the labels (how far an engine disagrees with itself on the same crystal, moved). The
thermal expansion, a difference of labels, adds its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from vibronic.core.model import Model
from vibronic.core.targets import target as named_target
from vibronic.core.units import GPA
from vibronic.data.dataset import GraphData, in_batches, label_of
from vibronic.learning import store
from vibronic.learning.prediction import predict
from vibronic.thermal.plan import FEWEST

FOLDS = 5
BATCH = 16
SURVEYED = 200
"""Configurations of the pool that scales are taken from."""
Z95 = 1.959964
"""Half width of a 95 % interval in standard deviations."""


@dataclass(frozen=True)
class Value:
    """An average and the half widths of its 95 % intervals, in the unit that is shown (:func:`unit_of`).

    Attributes:
        mean: the average.
        sampling: because the pool is finite; no label narrows it.
        model: because labels are few: of the model, or without one of their mean.
        label: because an engine disagrees with itself.
        expanding: of what the expansion adds.
    """

    mean: float
    sampling: float = 0.0
    model: float = 0.0
    label: float = 0.0
    expanding: float = 0.0

    @property
    def half_width(self) -> float:
        """All of them together; they are independent."""
        return float(np.sqrt(self.sampling**2 + self.model**2 + self.label**2 + self.expanding**2))

    def floor(self, share: float = 1.0) -> float:
        """What no further label narrows: the pool (a share of it), and the expansion."""
        return float(np.hypot(share * self.sampling, self.expanding))


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

    def predictions(self, frames: Sequence[Atoms]) -> np.ndarray:
        """(n,) predictions, at the level of the labels of their temperature."""
        shifts = [self.levels[t].shift if t in self.levels else 0.0 for t in map(temperature_of, frames)]
        return values_of(self.model, self.target, frames) + shifts

    def deviations(self, frames: Sequence[Atoms]) -> Tensor:
        """(n, r + temperatures) whose products are the covariances of the predictions, widened."""
        rows = deviations_of(self.model, self.target, frames)
        own = rows.new_zeros(len(frames), len(self.levels))
        column = {t: k for k, t in enumerate(self.levels)}
        for n, t in enumerate(map(temperature_of, frames)):
            if t in self.levels:
                rows[n] -= self.levels[t].deviation
                own[n, column[t]] = self.levels[t].noise
        return self.widening * torch.cat([rows, own], dim=1)


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
    return model.survey(GraphData(some, [], model.cutoff).batch().to(dtype=model.dtype))


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

    def fitted(part: Sequence[Atoms]) -> Surrogate:
        model = store.build(kind, targets=names, **(settings or {}))
        model.surveyed = surveyed
        model.prepare(GraphData(part, model.labels, model.cutoff).batch().to(dtype=model.dtype))
        return _levelled(model.eval(), target, part)

    folds = min(FOLDS, len(frames))
    fold = np.random.default_rng(seed).permutation(np.arange(len(frames)) % folds)
    unseen, foreseen = np.zeros(len(frames)), np.zeros(len(frames))
    labels = np.array([value_of(a, target) for a in frames])
    for k in range(folds):
        one = fitted([a for a, f in zip(frames, fold, strict=True) if f != k])
        held = [a for a, f in zip(frames, fold, strict=True) if f == k]
        unseen[fold == k] = one.predictions(held) - labels[fold == k]
        foreseen[fold == k] = (one.deviations(held).square().sum(1) + one.noise**2).sqrt().numpy()
    whole = fitted(frames)
    widening = max(1.0, float(np.sqrt(np.mean((unseen / np.maximum(foreseen, 1e-12)) ** 2))))
    return replace(whole, noise=widening * whole.noise, widening=widening, unseen=unseen)


def _levelled(model: Model, target: str, frames: Sequence[Atoms]) -> Surrogate:
    """A fitted model with the levels of the temperatures of its labels."""
    off = np.array([value_of(a, target) for a in frames]) - values_of(model, target, frames)
    rows, noise = deviations_of(model, target, frames), misfit_of(model, target)
    levels = {}
    drawn = [temperature_of(a) for a in frames]
    for t in sorted({t for t in drawn if t is not None}):
        mine = np.array([other == t for other in drawn])
        levels[t] = Level(
            float(off[mine].mean()), rows[torch.as_tensor(mine)].mean(0), noise / float(mine.sum()) ** 0.5
        )
    return Surrogate(model, target, noise, levels)


def values_of(model: Model, target: str, frames: Sequence[Atoms]) -> np.ndarray:
    """(n,) predictions in the units that are shown."""
    return np.array(predict(model, frames, batch_size=BATCH)[target], dtype=float) / divisors(target, frames)


def deviations_of(model: Model, target: str, frames: Sequence[Atoms]) -> Tensor:
    """(n, r) deviations in the units that are shown."""
    rows = []
    for batch in in_batches(frames, model.cutoff, BATCH, model.dtype):
        found = model.deviations(batch)
        assert found is not None
        rows.append(found[target].detach().double())
    return torch.cat(rows) / torch.as_tensor(divisors(target, frames))[:, None]


def misfit_of(model: Model, target: str) -> float:
    """Scatter of a label about the model in the unit that is shown."""
    return model.misfit[target] / (GPA if target == "pressure" else 1.0)


def value_of(atoms: Atoms, target: str) -> float:
    """The label of a structure in the unit that is shown."""
    value = label_of(atoms, target)
    assert value is not None
    return float(np.asarray(value)) / float(divisors(target, [atoms])[0])


def divisors(target: str, frames: Sequence[Atoms]) -> np.ndarray:
    """(n,) what makes a value one that is shown to people: extensive targets per atom, pressures in GPa."""
    extensive = named_target(target).extensive
    return np.array([float(len(a)) if extensive else GPA if target == "pressure" else 1.0 for a in frames])


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


def average(
    predictions: np.ndarray, deviations: Tensor, label: float, sampling: float, expanding: float = 0.0
) -> Value:
    """The average over a pool.

    Args:
        predictions: (n,) of a model.
        deviations: (n, r), widened.
        label: half width by the error of the labels.
        sampling: half width by the pool's being finite (:func:`pooled`).
        expanding: half width of what the expansion adds.
    """
    model = float(deviations.mean(0).square().sum().sqrt())
    return Value(float(predictions.mean()), sampling, Z95 * model, label, expanding)


def difference(a: tuple[np.ndarray, Tensor], b: tuple[np.ndarray, Tensor]) -> tuple[float, float]:
    """The average of pool ``a`` minus that of ``b``, both (predictions, deviations), drawn with the same random numbers; and its half width."""
    change = a[0] - b[0]
    model = float((a[1].mean(0) - b[1].mean(0)).square().sum().sqrt())
    return float(change.mean()), float(np.hypot(Z95 * model, pooled(float(change.var()), len(change))))


def direct(
    labels: Sequence[float], label: float, pool: int, inefficiency: float = 1.0, expanding: float = 0.0
) -> Value:
    """The average of labels alone, drawn at random from a pool; Student's interval, since there may be few.

    The labels tell the mean of the pool to within s^2 (1 - m/n) / m, and the pool that of the dynamics, whose snapshots are alike, to
    within s^2 g / n.

    Args:
        labels: (m,) of some of the pool.
        label: half width by the error of the labels.
        pool: n, configurations they were drawn from.
        inefficiency: g, how many of them count as one; 1 where they are independent.
        expanding: half width of what the expansion adds.
    """
    from scipy.stats import t

    m = len(labels)
    if m < 2:
        return Value(float(np.mean(labels)) if m else np.nan, np.inf)
    variance = float(np.var(labels, ddof=1))
    few = float(t.ppf(0.975, m - 1)) * (variance * max(0.0, 1 - m / pool) / m) ** 0.5
    sampling = pooled(variance * (1 - 1 / pool), pool, inefficiency)
    return Value(float(np.mean(labels)), sampling, few, label, expanding)


def alone(spread: float, tolerance: float, pool: float = np.inf) -> int:
    """How many labels tell the mean of a pool to within a tolerance when they are averaged; 95 %, for many of them."""
    return max(FEWEST, int(np.ceil(1 / (1 / pool + (tolerance / (Z95 * spread)) ** 2))))


def surely(count: int) -> float:
    """Share of the standard deviation of ``count`` labels that the true one has at least (97.5 %, by chi squared)."""
    from scipy.stats import chi2

    return float(np.sqrt((count - 1) / chi2.ppf(0.975, count - 1)))
