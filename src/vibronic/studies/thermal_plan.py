"""What the thermal study does, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vibronic.core.errors import VibronicError

GAP_POOL = 19
"""Structures of the smaller one of the two training sets with DFT band gaps."""


@dataclass(frozen=True)
class Plan:
    """What the study does; the defaults are the small form that a laptop finishes in minutes.

    Attributes:
        crystals: files or names of ``vibronic data``.
        temperature: K, of the sampling and of the dynamics it is tested on.
        statistics: of the phonon set; classical, because the dynamics is.
        supercell: repeats of the conventional cell.
        engine: labels everything (see ``vibronic doctor``).
        test: snapshots of the dynamics that every model is scored on.
        sizes: of the training sets.
        seeds: each has training sets and network weights of its own; the first also seeds the sampling.
        timestep, friction: of the Langevin dynamics, fs and 1/fs.
        equilibration, interval: steps of the dynamics before the first snapshot and between snapshots.
        fit_snapshots: snapshots of a second trajectory for effective force constants, where modes are imaginary.
        steps: optimiser steps of every network.
        width, layers, cutoff: of the networks; the cutoff in Angstrom.
        gap: also compare on the DFT band gaps of Ag3SBr that ship with the package.
        gap_sizes: training set sizes of that comparison.
    """

    crystals: tuple[str, ...] = ("Ag3SBr", "NaCl")
    temperature: float = 300.0
    statistics: Literal["quantum", "classical"] = "classical"
    supercell: tuple[int, int, int] = (2, 2, 2)
    engine: str = "sevennet"
    test: int = 20
    sizes: tuple[int, ...] = (8, 16, 32)
    seeds: tuple[int, ...] = (0, 1, 2)
    timestep: float = 5.0
    friction: float = 0.01
    equilibration: int = 80
    interval: int = 6
    fit_snapshots: int = 60
    steps: int = 300
    width: int = 32
    layers: int = 2
    cutoff: float = 4.5
    gap: bool = True
    gap_sizes: tuple[int, ...] = (6, 10, 16)

    def __post_init__(self) -> None:
        if len({Path(c).stem for c in self.crystals}) < len(self.crystals):
            raise VibronicError("two crystals have the same name; rename one of the files")
        if min(self.sizes) < 4:
            raise VibronicError("a training set needs at least 4 structures")
        if not self.seeds:
            raise VibronicError("the study needs at least one seed")
        if len(set(self.seeds)) < len(self.seeds):
            raise VibronicError(f"the seeds of a study must differ, not {self.seeds}")
        if self.gap and max(self.gap_sizes) > GAP_POOL:
            raise VibronicError(f"the sets with DFT gaps hold {GAP_POOL} structures: gap sizes are at most {GAP_POOL}")
        for name in ("temperature", "timestep", "test", "steps"):
            if not getattr(self, name) > 0:
                raise VibronicError(f"the {name} of a study must be positive, not {getattr(self, name)}")
        if min(self.supercell) < 1:
            raise VibronicError(f"the supercell must be three repeats of at least 1, not {self.supercell}")

    @property
    def pool(self) -> int:
        """Structures of each kind to label: every seed has its own."""
        return len(self.seeds) * max(self.sizes)

    def seed(self, purpose: Literal["fit", "test", "phonons", "random"]) -> int:
        """Of a draw of structures; different for every purpose and for every first seed."""
        return 4 * self.seeds[0] + ("fit", "test", "phonons", "random").index(purpose)
