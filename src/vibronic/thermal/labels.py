"""The labels of a run: of configurations of the pools, which were asked for when, and of the undisplaced, moved and strained crystal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.folder import content
from vibronic.core.provenance import write_json
from vibronic.data.dataset import label_of
from vibronic.labelling.engines import Engine
from vibronic.labelling.label import label
from vibronic.sampling.disorder import strain
from vibronic.sampling.expansion import Expansion
from vibronic.thermal.average import unit_of, value_of
from vibronic.thermal.plan import REPEATS, Plan

MOST_FAILURES = 5
"""Configurations that may fail before the engine has to succeed more often than not."""
OFF = 0.002
"""Strain of a cell that is not that of least static energy, above which it is said."""


@dataclass
class Labels:
    """Labels of some structures under one engine, through the ledger.

    Attributes:
        known: structure's place among the candidates -> the labelled structure.
        failed: places whose label could not be had.
        order: places in the order in which they were labelled.
        extra: labels of other structures (undisplaced, strained, moved): they count as well.
        reasons: of failures.
        computed: by the engine now.
    """

    engine: Engine
    ledger: Path
    options: dict[str, Any]
    target: str
    known: dict[int, Atoms] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)
    order: list[int] = field(default_factory=list)
    extra: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    computed: int = 0

    def ask(self, frames: Sequence[Atoms]) -> list[Atoms | None]:
        """Labelled copies, None where the engine failed.

        Raises:
            VibronicError: the engine does not give the target.
        """
        report = label(frames, self.engine, self.ledger, allow_none=True, **self.options)
        self.computed += report.computed
        self.reasons.update(reason for _, reason in report.failures)
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
        """Label candidates.

        Raises:
            VibronicError: the engine fails more often than not.
        """
        if not places:
            return
        for place, atoms in zip(places, self.ask([candidates[k] for k in places]), strict=True):
            if atoms is None:
                self.failed.add(place)
            else:
                self.known[place] = atoms
                self.order.append(place)
        if len(self.failed) > MOST_FAILURES and len(self.failed) > len(self.known):
            raise VibronicError(self.why())

    def why(self) -> str:
        """How many labels could not be had, and the most common reason."""
        asked = len(self.failed) + len(self.known)
        reason = self.reasons.most_common(1)[0][0] if self.reasons else "unknown"
        return (
            f"{len(self.failed)} of {asked} configurations could not be labelled by '{self.engine.name}' (--retry-failed true "
            f"computes them again); most common reason: {reason}"
        )

    @property
    def count(self) -> int:
        """Labels that were computed, of whatever structure."""
        return len(self.order) + self.extra

    def frames(self) -> list[Atoms]:
        """The labelled candidates in the order in which they were labelled."""
        return [self.known[k] for k in self.order]


@dataclass(frozen=True)
class Undisplaced:
    """What is labelled beside the pools.

    Attributes:
        atoms: the undisplaced supercell with its labels.
        static: its value.
        error: half width of the 95 % interval of one label (Student's), by how far it disagrees with itself on a crystal that is moved.
        expansion: temperature -> what the expansion from the static to that temperature's lattice adds, and its half width.
        cell: strain of the lattice of least static energy against the given cell, what it would add, and its half width.
        notes: what is to be known beside the answer.
    """

    atoms: Atoms
    static: float
    error: float
    expansion: dict[float, tuple[float, float]]
    cell: tuple[float, float, float] | None
    notes: list[str]

    def grown(self, temperature: float) -> tuple[float, float]:
        """What the expansion adds at a temperature, and its half width; 0 where there is none."""
        return self.expansion.get(temperature, (0.0, 0.0))


def undisplaced(
    plan: Plan,
    reference: Atoms,
    grown: Expansion | None,
    labels: Labels,
    example: Atoms,
    random: Callable[[int], np.ndarray],
) -> Undisplaced:
    """Label the undisplaced crystal, its strained copies, and one configuration of the pools several times, moved as a whole.

    Args:
        example: the configuration; its own label counts as one of the pool.
        random: numbers in (0, 1), how many.

    Raises:
        VibronicError: the undisplaced crystal cannot be labelled.
    """
    from scipy.stats import t

    moved = []
    for _ in range(REPEATS - 1):
        moved.append(example.copy())
        moved[-1].positions += 2 * random(3) - 1
    strains = [] if grown is None else _spanned(grown)
    found = labels.ask([reference, *moved, *(strain(reference, s) for s in strains), example])
    labels.extra = len(found) - 1
    if found[0] is None:
        raise VibronicError(f"the engine '{plan.engine}' cannot label the undisplaced crystal; {labels.why()}")
    static = value_of(found[0], plan.target)
    repeated = [value_of(a, plan.target) for a in (*found[1:REPEATS], found[-1]) if a is not None]
    error = np.inf
    if len(repeated) > 1:
        error = float(t.ppf(0.975, len(repeated) - 1) * np.std(repeated, ddof=1))
    notes: list[str] = []
    shifts: dict[float, tuple[float, float]] = {}
    cell = None
    if grown is not None:
        at = found[REPEATS : REPEATS + len(strains)]
        if any(a is None for a in at):
            notes.append(f"Without thermal expansion: '{plan.engine}' could not label a strained crystal.")
        else:
            values = np.array([value_of(a, plan.target) for a in at if a is not None])
            for k, (kelvin, s) in enumerate(zip(grown.temperatures, grown.strains, strict=True)):
                weights = _parabola(strains, s) - _parabola(strains, grown.static)
                wrong = float((_parabola(strains, s + grown.errors[k]) - _parabola(strains, s)) @ values)
                # Vibrations change with the volume too: their own energy is known from the phonons, what they do to other properties is not.
                vibrating = grown.vibrations[k] / len(reference) if plan.target == "energy" else 0.0
                half = float(np.hypot(error * np.linalg.norm(weights), wrong))
                shifts[kelvin] = float(weights @ values) + vibrating, half
            cell = grown.static, float(values[0] - static), error * 2**0.5
    if shifts and cell is not None and abs(cell[0]) > OFF:
        notes.append(
            f"The given cell is not that of least energy by '{plan.forces}', which is {100 * abs(cell[0]):.2f} % "
            f"{'longer' if cell[0] > 0 else 'shorter'}. The answer takes the given cell for the crystal at rest and adds the expansion from the cell of least "
            f"energy on. The undisplaced crystal has {cell[1]:+.2g} +/- {cell[2]:.1g} {unit_of(plan.target)} more there. --relax true begins there; --no-expansion true suits "
            "a measured cell, which holds its expansion already."
        )
    return Undisplaced(found[0], static, error, shifts, cell, notes)


def _spanned(grown: Expansion) -> list[float]:
    """Strains to label: of the static lattice, of the one farthest from it, and half way."""
    far = max((*grown.strains, grown.zero_point), key=lambda s: abs(s - grown.static))
    far = far if abs(far - grown.static) > 1e-4 else grown.static + 1e-3
    return [grown.static, (grown.static + far) / 2, far]


def _parabola(at: Sequence[float], x: float) -> np.ndarray:
    """(3,) weights of three values in that of the parabola through them at ``x``."""
    return np.linalg.solve(np.vander(at, 3).T, np.vander([x], 3)[0])


class Walk:
    """Which labels were asked for, round after round, in ``rounds.json``; places count from 0 at every temperature."""

    def __init__(self, path: Path, labels: Labels, candidates: list[Atoms], pool: int) -> None:
        self.path, self.labels, self.candidates, self.pool = path, labels, candidates, pool
        self.rounds = _rounds(path)

    def start(self, first: Sequence[int]) -> None:
        """Label what was asked for before, or else ``first``."""
        if not self.rounds:
            self.ask(first)
            return
        for n in range(len(self.rounds)):
            self.labels.add(self.places(n), self.candidates)

    def ask(self, places: Sequence[int]) -> None:
        """Another round; written down before it is labelled."""
        self.rounds.append({"asked": [divmod(int(k), self.pool) for k in places]})
        self.note({})
        self.labels.add(places, self.candidates)

    def places(self, n: int) -> list[int]:
        """The places that round ``n`` asked for, in the pools of today."""
        return [t * self.pool + k for t, k in self.rounds[n]["asked"]]

    def note(self, found: dict[str, Any]) -> None:
        """What the last round has found."""
        self.rounds[-1] |= found
        write_json(self.path, self.rounds)


def _rounds(path: Path) -> list[dict[str, Any]]:
    """What was asked for so far."""
    return (content(path) if path.exists() else None) or []  # type: ignore[return-value]


def check_pool(plan: Plan, rounds: Path) -> None:
    """Labels were asked for by their places in the pools.

    Raises:
        VibronicError: a pool is smaller than what was labelled of it.
    """
    least = 1 + max((k for one in _rounds(rounds) for _, k in one["asked"]), default=-1)
    if plan.pool < least:
        raise VibronicError(
            f"this run has labelled configurations beyond a pool of {plan.pool}: take --pool {least} or more, or another --out"
        )
