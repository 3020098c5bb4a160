"""What the thermal study does, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vibronic.core.errors import VibronicError

SETS = ("phonons", "random", "species", "sites", "shuffled", "monte-carlo", "dynamics")
"""Training sets of one mean-square displacement. phonons: the covariance of the lattice vibrations; random: isotropic, one
amplitude for all atoms; species: isotropic, one amplitude per species; sites: every atom by itself, as far in every direction as
in the phonon set; shuffled: the amplitudes of the modes dealt to other eigenvectors; monte-carlo: single-atom moves that keep atoms apart; dynamics: a trajectory that is not tested on."""

Purpose = Literal[
    "fit", "test", "phonons", "random", "species", "sites", "shuffled", "dealing", "monte-carlo", "dynamics"
]


@dataclass(frozen=True)
class Plan:
    """What the study does; the defaults are the small form that a laptop finishes in minutes.

    Attributes:
        crystals: files or names of ``vibronic data``.
        temperature: K, of the sampling and of the dynamics it is tested on.
        test_temperatures: K, of more dynamics to test on, each a trajectory of its own.
        sets: which of ``SETS`` to learn from, the phonons always among them.
        statistics: of the phonon set; classical, because the dynamics is.
        supercell: repeats of the conventional cell.
        engine: labels everything (see ``vibronic doctor``).
        test: snapshots of each dynamics that every model is scored on.
        sizes: of the training sets.
        seeds: each has training sets and network weights of its own; the first also seeds the sampling.
        pool: structures of each set that all seeds draw their training sets from; None for sets that share nothing.
        transfer: also learn from all crystals but one, and test on the dynamics of that one, where its elements allow.
        timestep, friction: of the Langevin dynamics, fs and 1/fs.
        equilibration, interval: steps of the dynamics before the first snapshot and between snapshots.
        fit_snapshots: snapshots of a second trajectory for effective force constants, where modes are imaginary.
        steps: optimiser steps of every network.
        width, layers, cutoff: of the networks; the cutoff in Angstrom.
        gap: also compare on the DFT band gaps of Ag3SBr that ship with the package.
        gap_sizes: training set sizes of that comparison, as far as the smaller set goes.
        explained: snapshots on which the band gap is explained.
    """

    crystals: tuple[str, ...] = ("Ag3SBr", "NaCl")
    temperature: float = 300.0
    test_temperatures: tuple[float, ...] = ()
    sets: tuple[str, ...] = ("phonons", "random")
    statistics: Literal["quantum", "classical"] = "classical"
    supercell: tuple[int, int, int] = (2, 2, 2)
    engine: str = "sevennet"
    test: int = 20
    sizes: tuple[int, ...] = (8, 16, 32)
    seeds: tuple[int, ...] = (0, 1, 2)
    pool: int | None = None
    transfer: bool = False
    timestep: float = 5.0
    friction: float = 0.01
    equilibration: int = 80
    interval: int = 6
    fit_snapshots: int = 60
    steps: int = 240
    width: int = 32
    layers: int = 2
    cutoff: float = 4.5
    gap: bool = True
    gap_sizes: tuple[int, ...] = (8, 16)
    explained: int = 2

    def __post_init__(self) -> None:
        if len({Path(c).stem for c in self.crystals}) < len(self.crystals):
            raise VibronicError("two crystals have the same name; rename one of the files")
        if unknown := [s for s in self.sets if s not in SETS]:
            raise VibronicError(f"there is no training set '{unknown[0]}'; choose of {', '.join(SETS)}")
        if "phonons" not in self.sets or len(set(self.sets)) < len(self.sets):
            raise VibronicError("the sets of a study are different ones with 'phonons' among them")
        if min(self.sizes) < 4 or min(self.gap_sizes) < 4:
            raise VibronicError("a training set needs at least 4 structures")
        if not self.seeds:
            raise VibronicError("the study needs at least one seed")
        if len(set(self.seeds)) < len(self.seeds):
            raise VibronicError(f"the seeds of a study must differ, not {self.seeds}")
        if self.pool is not None and self.pool < max(self.sizes):
            raise VibronicError(f"a pool of {self.pool} structures is too small for training sets of {max(self.sizes)}")
        for name in ("temperature", "timestep", "test", "steps", "explained"):
            if not getattr(self, name) > 0:
                raise VibronicError(f"the {name} of a study must be positive, not {getattr(self, name)}")
        if any(not t > 0 for t in self.test_temperatures):
            raise VibronicError(f"test temperatures must be positive, not {self.test_temperatures}")
        if min(self.supercell) < 1:
            raise VibronicError(f"the supercell must be three repeats of at least 1, not {self.supercell}")

    @property
    def set_size(self) -> int:
        """Structures of each set to label: without a pool every seed has its own."""
        return self.pool or len(self.seeds) * max(self.sizes)

    @property
    def tested(self) -> tuple[float, ...]:
        """K, of every dynamics to test on; that of the sampling comes first."""
        return tuple(dict.fromkeys((float(self.temperature), *map(float, self.test_temperatures))))

    def test_file(self, folder: Path, temperature: float) -> Path:
        """Where the test snapshots of one temperature are."""
        return folder / ("test.extxyz" if temperature == self.temperature else f"test-{temperature:g}K.extxyz")

    def chosen(self, seed: int, size: int) -> tuple[int, ...]:
        """Which structures of a set one seed learns from; smaller sizes are part of larger ones."""
        if self.pool is not None:
            return tuple(np.random.default_rng(seed).permutation(self.pool)[:size].tolist())
        start = self.seeds.index(seed) * max(self.sizes)
        return tuple(range(start, start + size))

    def seed(self, purpose: Purpose, k: int = 0) -> int:
        """Of a draw of structures, or of the ``k``-th of a kind; different for every purpose and for every first seed."""
        first = ("fit", "test", "phonons", "random")
        if purpose in first and k == 0:
            return 4 * self.seeds[0] + first.index(purpose)
        words = [self.seeds[0], k, *purpose.encode()]
        return int(np.random.SeedSequence(words).generate_state(1)[0])
