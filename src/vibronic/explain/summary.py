"""Which kind of bond matters: attributions by kind and by length, with intervals over models of several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vibronic.core.errors import VibronicError
from vibronic.core.statistics import geometric_mean, half_width
from vibronic.explain.attribution import Attribution

WIDTH = 0.5
"""Angstrom; of an interval of length."""


@dataclass(frozen=True)
class Share:
    """What the bonds of one kind, of all lengths or of one interval of length, have of the attribution.

    Attributes:
        kind: such as ``Ag-S``.
        low, high: Angstrom; None for all lengths.
        number: bonds, over all structures.
        mean: mean |attribution| of a bond, in the target's unit; mean over models.
        mean_half: half width of its 95 % interval over models (Student's t), None for a single one.
        share: of the sum of |attribution| over all bonds, mean over models; ``share_half`` as above.
        of_bonds: share of the number of bonds.
    """

    kind: str
    low: float | None
    high: float | None
    number: int
    mean: float
    mean_half: float | None
    share: float
    share_half: float | None
    of_bonds: float


@dataclass(frozen=True)
class Leading:
    """The kind of bond that matters most, bond for bond, beside the next.

    Attributes:
        kind, second: of bond; ``second`` is empty where there is one kind alone.
        ratio: of their mean |attribution|, geometric mean over models.
        interval: of the ratio, 95 % over models (Student's t of the logarithms); None for a single model.
        models: how many put this kind first.
        of: how many models there are.
    """

    kind: str
    second: str
    ratio: float
    interval: tuple[float, float] | None
    models: int
    of: int

    def sentence(self) -> str:
        """The answer in words."""
        if not self.second:
            return f"all bonds are {self.kind}"
        if self.interval is None:
            return (
                f"bond for bond {self.kind} matters most, {self.ratio:.2f} times as much as {self.second}; with one model there "
                "is no interval: add models of other seeds with --more"
            )
        low, high = self.interval
        verdict = "matters most" if low > 1 else "comes first, but the models do not agree on it"
        return (
            f"bond for bond {self.kind} {verdict}: {self.ratio:.2f} times ({low:.2f} to {high:.2f}, 95 % over models) as much as "
            f"{self.second}, and first in {self.models} of {self.of} models"
        )


def shares(found: Sequence[Sequence[Attribution]], width: float = WIDTH) -> list[Share]:
    """Every kind of bond over all lengths, the one that matters most bond for bond first; below it its intervals of length.

    Args:
        found: for every model the attributions of every structure, in the same order.
        width: of the intervals of length, Angstrom.

    Raises:
        VibronicError: there is no bond, the width is not positive, or the models do not see the same bonds.
    """
    if not width > 0:
        raise VibronicError(f"the intervals of length need a positive width, not {width} Angstrom")
    kinds, lengths, sizes = _pooled(found)
    places = np.floor(lengths / width).astype(int)
    whole = sizes.sum(axis=1)

    def share(kind: str, mask: np.ndarray, low: float | None, high: float | None) -> Share:
        mean = sizes[:, mask].mean(axis=1)
        part = sizes[:, mask].sum(axis=1) / np.where(whole > 0, whole, 1)
        return Share(
            kind,
            low,
            high,
            int(mask.sum()),
            float(mean.mean()),
            half_width(mean),
            float(part.mean()),
            half_width(part),
            float(mask.mean()),
        )

    rows = []
    for total in sorted((share(k, kinds == k, None, None) for k in np.unique(kinds).tolist()), key=lambda r: -r.mean):
        own = kinds == total.kind
        rows.append(total)
        rows += [
            share(total.kind, own & (places == p), float(p * width), float((p + 1) * width))
            for p in np.unique(places[own])
        ]
    return rows


def leading(found: Sequence[Sequence[Attribution]], longest: float | None = None) -> Leading:
    """Which kind of bond matters most, bond for bond.

    Args:
        found: as for :func:`shares`.
        longest: count bonds up to this length only, Angstrom; all within the cutoff where none is given.

    Raises:
        VibronicError: there is no such bond, or the models do not see the same bonds.
    """
    kinds, lengths, sizes = _pooled(found)
    if longest is not None:
        keep = lengths <= longest
        if not keep.any():
            raise VibronicError(f"there is no bond of up to {longest:g} Angstrom")
        kinds, sizes = kinds[keep], sizes[:, keep]
    names = np.unique(kinds)
    means = np.stack([sizes[:, kinds == name].mean(axis=1) for name in names], axis=1) + np.finfo(float).tiny
    order = np.argsort(-means.mean(axis=0))
    if len(names) == 1:
        return Leading(str(names[0]), "", 1.0, None, len(means), len(means))
    # A kind of bond that matters nothing at all still gives a number.
    ratio, interval = geometric_mean(np.clip(np.log(means[:, order[0]]) - np.log(means[:, order[1]]), -700, 700))
    first = int((means.argmax(axis=1) == order[0]).sum())
    return Leading(str(names[order[0]]), str(names[order[1]]), ratio, interval, first, len(means))


def _pooled(found: Sequence[Sequence[Attribution]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kinds (bonds,), lengths (bonds,) and |attributions| (models, bonds) of all structures together."""
    if not found or not any(len(a.value) for a in found[0]):
        raise VibronicError("there is no bond within the cutoff, so there is nothing to sum up")
    if any(not np.array_equal(a.kinds, b.kinds) for other in found[1:] for a, b in zip(found[0], other, strict=True)):
        raise VibronicError("the models do not see the same bonds; sum up models of the same cutoff")
    kinds = np.concatenate([a.kinds for a in found[0]])
    lengths = np.concatenate([a.length for a in found[0]])
    return kinds, lengths, np.stack([np.abs(np.concatenate([a.value for a in several])) for several in found])
