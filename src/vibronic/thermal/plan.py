"""What a thermal average is of, and how it is found, as plain values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vibronic.core.errors import VibronicError

HOTTEST = 10_000.0
"""K; no crystal is one above."""
REPEATS = 4
"""Labels of one configuration, all but the first of it moved as a whole, which must not change a label."""
EXTRA = 1 + (REPEATS - 1) + 3
"""Most labels of other structures than those of the pools: undisplaced, moved, strained."""
FEWEST = 8
"""Labels of one temperature below which an average of labels alone does not stop: it would too often stop by chance."""
FREE = ("tolerance", "batch", "budget", "pool")
"""What may change when a run goes on: none of it makes a label worthless."""
KINDS = ("ridge", "tight-binding")
"""Models that know the covariance of their predictions."""
FRACTION = 0.125
"""Share of a batch that is drawn at random, so that the model is also judged where it did not choose."""


@dataclass(frozen=True)
class Plan:
    """A thermal average; the defaults suit a crystal of some tens of atoms in the supercell.

    Attributes:
        crystal: file or name.
        temperatures: K.
        target: what is averaged.
        engine: labels it, with ``settings``.
        tolerance: wanted half width of the 95 % interval, in the target's unit (of an energy per atom, of a pressure in GPa).
        forces: engine of the vibrations, with ``forces_settings``.
        method: phonons or md.
        statistics: quantum or classical nuclei; dynamics is classical.
        imaginary: what to do about imaginary modes (see ``vibronic sample``).
        supercell: repeats of the crystal's cell.
        relax: relax the crystal first.
        model: kind of model, ``auto``, or None to average labels alone.
        first: labels before the first model, drawn at random over the temperatures.
        batch: labels between two models.
        budget: most labels.
        pool: configurations of each temperature.
        expansion: also find the quasi-harmonic expansion; a pressure has none.
        seed: of everything that is drawn.
    """

    crystal: str
    temperatures: tuple[float, ...]
    target: str
    engine: str
    tolerance: float
    settings: dict[str, Any] = field(default_factory=dict)
    forces: str = "sevennet"
    forces_settings: dict[str, Any] = field(default_factory=dict)
    method: Literal["phonons", "md"] = "phonons"
    statistics: Literal["quantum", "classical"] = "quantum"
    imaginary: Literal["refuse", "freeze", "effective", "sscha", "cap"] = "refuse"
    supercell: tuple[int, int, int] = (2, 2, 2)
    relax: bool = False
    model: str | None = "auto"
    first: int = 16
    batch: int = 8
    budget: int = 200
    pool: int = 300
    expansion: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperatures or not all(0 < t <= HOTTEST for t in self.temperatures):
            raise VibronicError(f"give at least one temperature, all of them above 0 and up to {HOTTEST:g} K")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise VibronicError(f"the temperatures must differ, not {', '.join(f'{t:g}' for t in self.temperatures)}")
        if not 0 < self.tolerance < math.inf:
            raise VibronicError(f"the tolerance must be positive, not {self.tolerance:g}")
        if self.model is not None and self.model not in ("auto", *KINDS):
            raise VibronicError(
                f"a thermal average needs a model that knows its own uncertainty: auto, {' or '.join(KINDS)}, not '{self.model}'"
            )
        if self.first < 2 * len(self.temperatures) or self.first < 8:
            raise VibronicError(
                f"{self.first} first labels are too few: 8 at least, and two for each of {len(self.temperatures)} temperatures"
            )
        if self.method == "md" and (self.statistics != "classical" or self.imaginary != "refuse"):
            raise VibronicError(
                "dynamics is classical and knows no imaginary modes: leave --statistics quantum and --imaginary out, or use phonons"
            )
        first = self.first if self.model else max(self.first, FEWEST * len(self.temperatures))
        if self.batch < 1:
            raise VibronicError(f"a batch needs at least one label, not {self.batch}")
        if self.budget < first + EXTRA:
            raise VibronicError(
                f"a budget of {self.budget} labels is too small: {first + EXTRA} at least, the first {first} and {EXTRA} of the undisplaced crystal"
            )
        if self.pool < 20:
            raise VibronicError(f"a pool of {self.pool} configurations for each temperature is too small; 20 at least")
        if min(self.supercell) < 1:
            raise VibronicError(f"the supercell must be three repeats of at least 1, not {self.supercell}")

    @property
    def bound(self) -> dict[str, Any]:
        """What a folder is bound to, beside the crystal itself, whatever the name of its file."""
        return {"study": "thermal-average", **{k: v for k, v in asdict(self).items() if k not in (*FREE, "crystal")}}

    @property
    def expands(self) -> bool:
        """Whether an expansion is looked for: a pressure is that of the given cell, and none at all in one that has expanded; a band edge
        counts from the average potential, which is set anew at every volume."""
        return self.expansion and self.target not in ("pressure", "vbm", "cbm")

    @property
    def kind(self) -> str:
        """The kind of model, once ``auto`` is resolved: band edges are eigenvalues."""
        if self.model not in (None, "auto"):
            return str(self.model)
        return "tight-binding" if self.target in ("band_gap", "vbm", "cbm") else "ridge"
