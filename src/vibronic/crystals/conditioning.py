"""What is asked of a crystal: a value of a property, a bound on it, a space group; drawn in training, parsed from requests.

A condition is a value and what it means: nothing is asked, the property equals it, is at most it, or is at least it. An interval is
asked for by values of the training set within it, a different one for each crystal. Bounds are learned as such: a crystal of property y is shown with bounds drawn above (below) y and weighted so that the model is that of
all crystals of the training set within the bound, but for the most extreme two in a hundred, whose weights are cut off at 4 (of two
bounds at once, one in twenty).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vibronic.core.errors import VibronicError

NOTHING, EQUAL, AT_MOST, AT_LEAST, BETWEEN = range(5)
SPACE_GROUPS = 230
_CENTRES = 16
_SIGNS = {"=": EQUAL, "<": AT_MOST, "<=": AT_MOST, ">": AT_LEAST, ">=": AT_LEAST}


@dataclass
class Asked:
    """Conditions of ``B`` crystals on ``P`` properties.

    Attributes:
        value: (B, P) in the units of the properties.
        kind: (B, P) one of NOTHING, EQUAL, AT_MOST, AT_LEAST.
        spacegroup: (B,) international number; 0 where none is asked for.
    """

    value: Tensor
    kind: Tensor
    spacegroup: Tensor


@dataclass(frozen=True)
class Condition:
    """One property of a request: ``heat_ref=-0.3``, ``band_gap>=1.5``, ``1<band_gap<=2``.

    Attributes:
        value: in the unit of the property; the lower end of an interval.
        upper: end of an interval.
        strict: whether the lower and the upper end are themselves outside.
    """

    name: str
    kind: int
    value: float
    upper: float = math.inf
    strict: tuple[bool, bool] = (False, False)

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value that is met."""
        if self.kind == BETWEEN:
            return self.value, self.upper
        low = self.value if self.kind == AT_LEAST else -math.inf
        return low, self.value if self.kind == AT_MOST else math.inf

    def __str__(self) -> str:
        if self.kind == BETWEEN:
            low, high = ("<" if strict else "<=" for strict in self.strict)
            return f"{self.value:g}{low}{self.name}{high}{self.upper:g}"
        return f"{self.name}{'=' if self.kind == EQUAL else ''}{self.wish}"

    @property
    def wish(self) -> str:
        """Without the name: ``-0.3``, ``>=1.5``, ``1 to 2``."""
        if self.kind == BETWEEN:
            return f"{self.value:g} to {self.upper:g}"
        sign = {AT_MOST: "<" if self.strict[1] else "<=", AT_LEAST: ">" if self.strict[0] else ">="}
        return f"{sign.get(self.kind, '')}{self.value:g}"

    @classmethod
    def parse(cls, text: str) -> Condition:
        """A condition from what people type.

        Raises:
            VibronicError: it has not the form NAME=VALUE, NAME<VALUE, NAME>VALUE or VALUE<NAME<VALUE.
        """
        number = r"([-+.\deE]+)"
        found = re.fullmatch(rf"\s*(?:{number}\s*(<=?)\s*)?([^\s=<>]+)\s*(<=|>=|=|<|>)\s*{number}\s*", text)
        try:
            low, first, name, sign, high = found.groups() if found else ("",) * 5
            ends = [float(end) for end in (low, high) if end is not None]
        except ValueError:
            ends = []
        if not ends or not all(map(math.isfinite, ends)) or (len(ends) == 2 and sign not in ("<", "<=")):
            raise VibronicError(
                f"the condition '{text}' is not understood; write NAME=VALUE, 'NAME<VALUE', 'NAME>VALUE' or "
                "'VALUE<NAME<VALUE' with numbers"
            )
        if len(ends) == 1:
            return cls(name, _SIGNS[sign], ends[0], strict=(sign == ">", sign == "<"))
        if ends[0] >= ends[1]:
            raise VibronicError(f"nothing is within the condition '{text}'; give the lower end first")
        return cls(name, BETWEEN, ends[0], ends[1], (first == "<", sign == "<"))

    def met(self, values: Tensor) -> Tensor:
        """Which values keep a bound, or both; all of them where the condition is no bound."""
        low, high = self.ends
        above = values > low if self.strict[0] else values >= low
        return above & (values < high if self.strict[1] else values <= high)

    def seen(self, values: Tensor) -> Condition:
        """What a network can be asked for instead that has seen ``values``: a bound that one of them has, a value within their
        range; the nearest value where none keeps the bounds."""
        if self.kind != EQUAL and bool((met := self.met(values)).any()):
            low, high = (float(end) for end in values[met].aminmax())
            return Condition(self.name, self.kind, high if self.kind == AT_MOST else low, high)
        wanted = (self.value + self.upper) / 2 if self.kind == BETWEEN else self.value
        low, high = (float(end) for end in values.aminmax())
        return Condition(self.name, EQUAL if self.kind == BETWEEN else self.kind, min(max(wanted, low), high))


def merged(conditions: Sequence[Condition]) -> list[Condition]:
    """Conditions, one for each property: two bounds from both sides become an interval.

    Raises:
        VibronicError: a property is asked for twice otherwise, or nothing is within its bounds.
    """
    found: dict[str, Condition] = {}
    for one in conditions:
        other = found.get(one.name)
        if other is None:
            found[one.name] = one
            continue
        if {one.kind, other.kind} != {AT_MOST, AT_LEAST}:
            raise VibronicError(
                f"'{one.name}' is asked for twice; give one condition for each property, or a bound from either side"
            )
        low, high = sorted((one, other), key=lambda c: c.kind == AT_MOST)
        if low.value >= high.value:
            raise VibronicError(f"nothing is within the conditions '{low}' and '{high}'")
        strict = (low.strict[0], high.strict[1])
        found[one.name] = Condition(one.name, BETWEEN, low.value, high.value, strict)
    return list(found.values())


class ConditionEmbedding(nn.Module):
    """Conditions as vectors (B, width), 0 where nothing is asked; properties add up.

    A value enters as smooth bumps across the range of the training set, so that what is learned of one value helps its
    neighbours, beside the standardised value itself.
    """

    ranked: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, properties: int, width: int) -> None:
        super().__init__()
        self.register_buffer("ranked", torch.zeros(properties, 2))
        self.register_buffer("mean", torch.zeros(properties))
        self.register_buffer("spread", torch.ones(properties))
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(_CENTRES + 4, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(properties)
        )
        self.spacegroups = nn.Embedding(SPACE_GROUPS + 1, width, padding_idx=0)

    def prepare(self, values: Tensor) -> None:
        """Take ranges and ranks from the training set's values (S, P)."""
        self.ranked = values.T.sort(1).values.float().contiguous()
        mean = values.mean(0)
        self.mean, self.spread = mean.float(), (values - mean).square().mean(0).sqrt().clamp(min=1e-6).float()

    def standardised(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.spread

    def forward(self, asked: Asked) -> Tensor:
        found, within = self.spacegroups(asked.spacegroup), self.within(asked.value)
        centres = torch.linspace(0, 1, _CENTRES, device=found.device)
        for k, network in enumerate(self.networks):
            kind = asked.kind[:, k]
            low, high = self.ranked[k, 0], self.ranked[k, -1]
            value = within[:, k]
            place = (value - low) / (high - low).clamp(min=1e-6)
            bumps = torch.exp(-0.5 * ((place[:, None] - centres) * _CENTRES) ** 2)
            means = torch.nn.functional.one_hot(kind, 4)[:, 1:].to(bumps.dtype)
            scaled = ((value - self.mean[k]) / self.spread[k])[:, None]
            embedded = network(torch.cat([bumps, scaled, means], -1))
            found = found + embedded * (kind > NOTHING)[:, None]
        return found

    def within(self, value: Tensor) -> Tensor:
        """Values (B, P), those outside the training set's range moved to its ends: beyond there is nothing to interpolate."""
        return torch.minimum(torch.maximum(value, self.ranked[:, 0]), self.ranked[:, -1])

    def log_likelihood(self, asked: Asked, estimate: Tensor, error: float) -> Tensor:
        """Logarithm of the probability (B, S) that crystals have the wanted properties, up to a constant.

        Args:
            estimate: (B, S, P) standardised properties of S crystals for each request, with independent normal errors.
            error: their standard deviation.
        """
        away = (self.standardised(self.within(asked.value))[:, None] - estimate) / error
        kind = asked.kind[:, None].expand_as(away)
        parts = torch.where(kind == EQUAL, -0.5 * away**2, torch.special.log_ndtr(away * (1 - 2 * (kind == AT_LEAST))))
        return (parts * (kind != NOTHING)).sum(-1)

    def rank(self, values: Tensor, within: Tensor | float = 0.5) -> Tensor:
        """Share of the training set below each value (B, P), within (0, 1).

        Args:
            within: place among those of equal value, 0 to 1 (B, P).
        """
        count = self.ranked.shape[1]
        found = values.new_zeros(2, *values.shape)
        for k, ranked in enumerate(self.ranked):
            column = values[:, k].contiguous()
            found[0, :, k] = torch.searchsorted(ranked, column)
            found[1, :, k] = torch.searchsorted(ranked, column, right=True)
        first, last = found[0], torch.maximum(found[1], found[0] + 1)
        return (first + within * (last - first)).clamp(0.5, count - 0.5) / count

    def quantile(self, ranks: Tensor) -> Tensor:
        """Value (B, P) below which a share ``ranks`` (B, P) of the training set lies."""
        count = self.ranked.shape[1]
        places = (ranks * count).long().clamp(0, count - 1)
        return self.ranked.gather(1, places.T).T

    def draw(
        self, values: Tensor, spacegroup: Tensor, dropout: float, generator: torch.Generator | None
    ) -> tuple[Asked, Tensor]:
        """Conditions to train on, and the weight (B,) of each crystal's loss.

        All conditions are left out with probability ``dropout``, for classifier-free guidance (Ho and Salimans 2022); of
        the others each property is asked for with probability 3/4 where there are several, the space group with 1/4.

        For a bound "at most" the rank of the bound is ``r^v`` for a crystal of rank r and uniform v. Its density is
        ``1 / (c |log r|)`` for c above r, so that the weight ``|log r|`` (whose mean is 1) leaves the training set
        restricted to the bound.
        """

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, device=values.device, generator=generator)

        batch, properties = values.shape
        kind = torch.full_like(values, EQUAL, dtype=torch.long)
        which = uniform(batch, properties)
        kind[which < 0.5] = AT_MOST
        kind[which < 0.25] = AT_LEAST
        # Among equals, as the metals of a set of band gaps, ranks are dealt out: as one they would weigh too much or nothing.
        rank = self.rank(values, uniform(batch, properties))
        share = uniform(batch, properties)
        above, below = self.quantile(rank**share), self.quantile(1 - (1 - rank) ** share)
        above, below = torch.maximum(above, values), torch.minimum(below, values)
        value = torch.where(kind == AT_MOST, above, torch.where(kind == AT_LEAST, below, values))
        weight = torch.where(kind == AT_MOST, -rank.log(), torch.where(kind == AT_LEAST, -(1 - rank).log(), 1.0))
        if properties > 1:
            kind[uniform(batch, properties) < 0.25] = NOTHING
        kept = uniform(batch) >= dropout
        kind = kind * kept[:, None]
        weight = torch.where(kind > NOTHING, weight, 1.0).prod(1)
        spacegroup = spacegroup * (kept & (uniform(batch) < 0.25))
        return Asked(value, kind, spacegroup), weight.clamp(max=4.0)


def beyond(condition: Condition, values: Tensor, unit: str = "") -> str | None:
    """What is to be said of a wish that none of the training ``values`` answers, in one sentence; None where there is nothing."""
    low, high = (float(end) for end in values.aminmax())
    slack = 1e-6 * max(abs(low), abs(high))  # the range is known in single precision
    if condition.kind == EQUAL:
        outside = not low - slack <= condition.value <= high + slack
    else:
        ends = condition.ends[0] - slack, condition.ends[1] + slack
        outside = not bool(((values >= ends[0]) & (values <= ends[1]) | condition.met(values)).any())
    if not outside:
        return None
    within = "lies outside" if condition.seen(values).value in (low, high) else "is met by no crystal within"
    return (
        f"{condition} {within} the training range of {condition.name}, {low:.4g} to {high:.4g}{unit}: the model is asked for the "
        f"nearest value, {condition.seen(values).value:.4g}{unit}"
    )
