"""Does an attribution hold up? What the prediction does when the bonds that it names go, against bonds that it does not.

Fidelity as in GraphFramEx (Amara et al., arXiv 2206.09677), for regression: the absolute change of the prediction when the
most important bonds are removed (necessity, their fidelity+) or are all that is left (sufficiency, their fidelity-). A number
alone says nothing, since short bonds matter in any model. So every ranking is held against random bonds of equal number
and equal lengths, and against the ranking that untrained models give (Adebayo et al., arXiv 1810.03292): removed from the
trained model, the bonds that an untrained one names must not matter more than others of their lengths.

No model was trained on missing bonds: every one of these predictions is an extrapolation, the more so the more bonds go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.statistics import geometric_mean
from vibronic.explain.attribution import attribute, average, undirected
from vibronic.learning import store

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Shares of the bonds that are removed, or kept."""
BIN = 0.25
"""Angstrom; random bonds have the same number in every length interval of this width."""
EDGES = 100_000
"""Of copies of a structure that are predicted together; bounds the memory."""
ENOUGH = 5
"""Structures below which nothing is said about whether an attribution holds up."""

Present = Callable[[np.ndarray], np.ndarray]
"""From which bonds are there (n, bonds) to the predictions (n,)."""


@dataclass(frozen=True)
class Contrast:
    """One ranking of the bonds against random bonds of the same number and lengths.

    Attributes:
        change: (fractions,) mean absolute change of the prediction for the best-ranked bonds, in the target's unit.
        random: (fractions,) the same for random bonds, mean over draws.
        ratio: change over random, each averaged over the fractions; geometric mean over structures.
        interval: of the ratio, 95 %, Student's over the structures' logarithms; None for a single structure.
        beaten: share of random draws whose change, averaged over the fractions, is below that of the ranking.
    """

    change: list[float]
    random: list[float]
    ratio: float
    interval: tuple[float, float] | None
    beaten: float


@dataclass(frozen=True)
class Fidelity:
    """How well attributions, averaged over models, foretell what removing bonds does to each model.

    Attributes:
        target, unit: what was explained.
        fractions: shares of the bonds.
        models, structures, draws, twins: how many; twins are the untrained models.
        spread: standard deviation of the predictions over the structures, None for a single one: the scale of a change.
        removed: the most important bonds go; a faithful attribution has a ratio above 1.
        kept: only the most important bonds stay; a faithful attribution has a ratio below 1.
        untrained: bonds go that untrained models name; about 1, unless the untrained know something: a Hamiltonian drawn from
            its prior does.
        itself: the untrained models explained to themselves. It tells of the method, not of what was learned, and may well
            be above 1.
        advantage: ratio of ``removed`` over that of ``untrained``.
        advantage_interval: of it, 95 %, as those of the contrasts.
        foretold: correlation, over random bonds of equal number and lengths, of the change with minus the sum of their
            attributions (sensitivity-n, Ancona et al., arXiv 1711.06104); None where no draw differs.
    """

    target: str
    unit: str
    fractions: list[float]
    models: int
    structures: int
    draws: int
    twins: int
    spread: float | None
    removed: Contrast
    kept: Contrast
    untrained: Contrast
    itself: Contrast
    advantage: float
    advantage_interval: tuple[float, float] | None
    foretold: float | None

    @property
    def holds(self) -> bool | None:
        """Whether the named bonds matter more than others of their lengths, and than those that untrained models name; None
        where there are fewer than :data:`ENOUGH` structures to say."""
        if self.structures < ENOUGH or self.removed.interval is None or self.advantage_interval is None:
            return None
        return self.removed.interval[0] > 1 and self.advantage_interval[0] > 1

    def sentences(self) -> list[str]:
        """The findings in words."""

        def said(ratio: float, interval: tuple[float, float] | None) -> str:
            return f"{ratio:.2f} times" + ("" if interval is None else f" ({interval[0]:.2f} to {interval[1]:.2f})")

        verdict = {
            None: f"fewer than {ENOUGH} structures do not say whether the attribution holds up",
            True: "the attribution holds up",
            False: "the attribution is not shown to hold up",
        }[self.holds]
        removed, kept, untrained = (said(c.ratio, c.interval) for c in (self.removed, self.kept, self.untrained))
        return [
            f"without the bonds of largest |attribution| the {self.target} changes {removed} as much as without "
            f"random bonds of equal number and length ({self.structures} structures, {self.draws} draws each)",
            f"with only these bonds it is off {kept} as much as with as many random ones of equal length",
            f"the bonds that {self.twins} untrained models name change it {untrained} as much as random ones; the "
            f"trained attribution is {said(self.advantage, self.advantage_interval)} as telling",
            f"{verdict}: intervals are 95 % over structures, for these {self.models} trained and {self.twins} untrained models, none of "
            "which was trained on missing bonds",
        ]


def fidelity(
    models: Sequence[Model],
    structures: Sequence[Atoms],
    target: str,
    fractions: Sequence[float] = FRACTIONS,
    draws: int = 12,
    twins: int = 2,
    steps: int = 32,
    seed: int = 0,
) -> Fidelity:
    """Fidelity of the attributions of one target, averaged over ``models`` (of equal cutoff, usually of several seeds).

    Args:
        models: trained models; the first one's kind and settings are those of the untrained ones.
        structures: to explain.
        target: name of a scalar target of every model.
        fractions: of the bonds, in (0, 1).
        draws: random sets of bonds for every ranking, fraction and structure.
        twins: untrained models.
        steps: points of the integral of an attribution.
        seed: of the draws and the untrained models.

    Raises:
        VibronicError: nothing to explain, settings that make no sense, a structure without bonds, or what
            :func:`vibronic.explain.attribution.attribute` refuses.
    """
    fractions = [float(f) for f in fractions]
    if not models or not structures or not fractions:
        raise VibronicError("fidelity needs at least one model, one structure and one fraction of the bonds")
    if not all(0 < f < 1 for f in fractions) or min(draws, twins) < 1:
        raise VibronicError("fidelity needs fractions between 0 and 1, and at least one draw and one untrained model")
    rng = np.random.default_rng(seed)
    blank = [untrained(models[0], seed + k) for k in range(twins)]
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {k: [] for k in ("removed", "kept", "untrained", "itself")}
    wholes, foretold = [], []
    for atoms in structures:
        mean = average([attribute(model, atoms, target, steps) for model in models])
        if not len(mean.value):
            raise VibronicError(f"{atoms.symbols} has no bond within the cutoff, so there is nothing to remove")
        present = [_predictor(model, atoms, target) for model in models]
        bins = np.floor(mean.length / BIN).astype(int)
        own = _masks(np.abs(mean.value), bins, fractions, draws, rng)
        changes = np.stack([_changes(f, ~own) for f in present])  # (models, fractions, 1 + draws)
        wholes.append(float(np.mean([f(np.ones((1, len(bins)), bool))[0] for f in present])))
        parts["removed"].append(_split(np.abs(changes)))
        parts["kept"].append(_split(np.abs(np.stack([_changes(f, own) for f in present]))))
        foretold += _correlations(-(own[:, 1:] @ mean.value), changes[:, :, 1:])
        others, themselves = [], []
        for twin in blank:
            masks = _masks(np.abs(attribute(twin, atoms, target, steps).value), bins, fractions, draws, rng)
            others.append(_split(np.abs(np.stack([_changes(f, ~masks) for f in present]))))
            themselves.append(_split(np.abs(_changes(_predictor(twin, atoms, target), ~masks))[None]))
        for name, several in (("untrained", others), ("itself", themselves)):
            parts[name].append((np.concatenate([a for a, _ in several]), np.concatenate([b for _, b in several])))
    logs = {name: np.array([_logarithm(*pair) for pair in part]) for name, part in parts.items()}
    advantage, advantage_interval = geometric_mean(logs["removed"] - logs["untrained"])
    unit = next(t.unit for t in models[0].targets if t.name == target)
    return Fidelity(
        target=target,
        unit=unit,
        fractions=fractions,
        models=len(models),
        structures=len(structures),
        draws=draws,
        twins=twins,
        spread=float(np.std(wholes, ddof=1)) if len(wholes) > 1 else None,
        advantage=advantage,
        advantage_interval=advantage_interval,
        foretold=float(np.mean(foretold)) if foretold else None,
        **{name: _contrast(part, logs[name]) for name, part in parts.items()},
    )


def untrained(model: Model, seed: int) -> Model:
    """A model of the same kind and settings that has learned nothing, with random weights.

    Scales and references are those of the trained one. What a closed-form fit found (``Model.fitted``) is dealt out anew,
    so that it keeps its size but not its meaning; a Hamiltonian is drawn from its prior, which is not ignorant.

    Raises:
        VibronicError: the model is fitted in closed form and does not say to which of its numbers.
    """
    if model.closed_form and not model.fitted:
        raise VibronicError(f"there is no untrained {model.kind} to compare with; leave the fidelity out")
    twin = deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    if not model.closed_form:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = store.build(model.kind, **model.config)
        with torch.no_grad():
            for mine, new in zip(twin.parameters(), fresh.parameters(), strict=True):
                mine.copy_(new)
        for module in twin.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.reset_running_stats()
    twin.forget(generator)
    return twin.eval()


def _predictor(model: Model, atoms: Atoms, target: str) -> Present:
    batch = Batch.from_atoms(atoms, model.cutoff, dtype=model.dtype)
    bond = torch.as_tensor(undirected(batch)[2])
    most = max(1, EDGES // max(1, len(bond)))

    def predictions(present: np.ndarray) -> np.ndarray:
        found = []
        for part in torch.as_tensor(present).to(model.dtype).split(most):
            copies = Batch.collate([batch] * len(part))
            with torch.no_grad():
                found.append(model(replace(copies, edge_weight=part[:, bond].flatten()))[target].double())
        return torch.cat(found).numpy()

    return predictions


def _masks(
    importance: np.ndarray, bins: np.ndarray, fractions: Sequence[float], draws: int, rng: np.random.Generator
) -> np.ndarray:
    """(fractions, 1 + draws, bonds): the most important bonds, then random ones as many in every bin of length."""
    order = np.argsort(-importance, kind="stable")
    masks = np.zeros((len(fractions), 1 + draws, len(bins)), bool)
    for mask, fraction in zip(masks, fractions, strict=True):
        mask[0, order[: max(1, round(fraction * len(bins)))]] = True
        for k in np.unique(bins[mask[0]]):
            members = np.flatnonzero(bins == k)
            number = mask[0, members].sum()
            drawn = members[rng.random((draws, len(members))).argsort(axis=1)[:, :number]]
            np.put_along_axis(mask[1:], drawn, True, axis=1)
    return masks


def _changes(predict: Present, present: np.ndarray) -> np.ndarray:
    """(fractions, 1 + draws) prediction with these bonds minus that with all."""
    flat = present.reshape(-1, present.shape[-1])
    found = predict(np.vstack([np.ones((1, flat.shape[1]), bool), flat]))
    return (found[1:] - found[0]).reshape(present.shape[:-1])


def _split(changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over models of (models, fractions, 1 + draws), as (1, fractions) of the ranking and (1, fractions, draws)."""
    mean = changes.mean(axis=0)
    return mean[None, :, 0], mean[None, :, 1:]


def _correlations(foretold: np.ndarray, changes: np.ndarray) -> list[float]:
    """Over the draws, for every model and fraction where they differ, from (fractions, draws) and (models, ...)."""
    found = []
    for of_model in changes:
        for a, b in zip(foretold, of_model, strict=True):
            if len(a) > 2 and min(np.ptp(a), np.ptp(b)) > 1e-9 * max(np.abs(a).max(), np.abs(b).max()):
                found.append(float(np.corrcoef(a, b)[0, 1]))
    return found


def _logarithm(top: np.ndarray, random: np.ndarray) -> float:
    """Of the ratio in one structure, mean over rankings: (rankings, fractions) against (rankings, fractions, draws)."""
    tiny = np.finfo(float).tiny  # nothing over nothing is 1
    return float(np.log((top.mean(axis=-1) + tiny) / (random.mean(axis=(1, 2)) + tiny)).mean())


def _contrast(part: list[tuple[np.ndarray, np.ndarray]], logarithms: np.ndarray) -> Contrast:
    ratio, interval = geometric_mean(logarithms)
    beaten = [(b.mean(axis=1) < a.mean(axis=-1)[:, None]).mean() for a, b in part]
    return Contrast(
        change=np.mean([a.mean(axis=0) for a, _ in part], axis=0).tolist(),
        random=np.mean([b.mean(axis=(0, 2)) for _, b in part], axis=0).tolist(),
        ratio=ratio,
        interval=interval,
        beaten=float(np.mean(beaten)),
    )
