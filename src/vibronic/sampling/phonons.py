"""Configurations drawn from lattice vibrations."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.units import THZ
from vibronic.sampling.files import read_force_constants
from vibronic.sampling.harmonic import (
    BandStructure,
    DensityOfStates,
    ForceConstants,
    Modes,
    Statistics,
    force_constants,
    mode_variances,
    thermal_displacements,
)
from vibronic.sampling.sampler import (
    check_request,
    draw_accepted,
    provenance,
    sentence,
    snapshots_from,
)

__all__ = [
    "BandStructure",
    "DensityOfStates",
    "ForceConstants",
    "Modes",
    "Phonons",
    "force_constants",
    "mode_variances",
    "read_force_constants",
    "thermal_displacements",
]

Imaginary = Literal["refuse", "freeze", "effective", "sscha", "cap"]

CAP_FREQUENCY = 0.3
"""THz; under "cap" no mode counts as softer. Fits to tens of snapshots do not know frequencies better than this."""


@dataclass
class Phonons:
    """Sampler: displacements along the normal modes of a supercell in thermal equilibrium.

    ``u = M^-1/2 E sigma E^T z`` with z standard normal: the symmetric square root of the covariance, so the result
    does not depend on how degenerate eigenvectors happen to be oriented, and configurations change smoothly with
    temperature and force constants. The centre of mass stays where it is.

    Attributes:
        force_constants: of the supercell to sample; only its own (commensurate) wave vectors occur, where the
            non-analytical term of polar crystals vanishes.
        temperature: K.
        statistics: "quantum" (Bose-Einstein, with zero-point motion) or "classical" (equipartition).
        imaginary: modes that are imaginary or below 0.01 THz, which have no harmonic amplitude: "refuse" raises an
            error, "freeze" leaves them out. "cap" gives every mode the modulus of its frequency, but at least
            ``cap_frequency``, which bounds soft modes too. Two better remedies replace the force constants:
            ``anharmonic.prepare_phonons``.
        plus_minus: configurations come as pairs +u, -u, which cancels odd orders in every average; ``info["pair"]``
            numbers them.
        modes: indices of the modes (ascending frequency, translations not counted) to displace; all if ``None``.
        min_distance: Angstrom; configurations (pairs) with a shorter distance are redrawn, and the share of rejected
            draws is written to ``info["rejected_share"]``.
        cap_frequency: THz, for "cap".
        frequencies: (K,) THz, of every displaced mode, as it is treated.
        amplitudes: (K,) sqrt(amu) Angstrom, its standard deviation.
        vectors: (3N, K) their eigenvectors.

    Raises:
        VibronicError: at construction, for unstable modes that are refused or an impossible setting.
    """

    force_constants: ForceConstants
    temperature: float
    statistics: Statistics = "quantum"
    imaginary: Literal["refuse", "freeze", "cap"] = "refuse"
    plus_minus: bool = False
    modes: Sequence[int] | None = None
    min_distance: float | None = None
    cap_frequency: float = CAP_FREQUENCY
    findings: list[str] = field(init=False, repr=False)
    frequencies: np.ndarray = field(init=False, repr=False)
    amplitudes: np.ndarray = field(init=False, repr=False)
    vectors: np.ndarray = field(init=False, repr=False)
    method: str = field(init=False, default="phonons", repr=False)
    _root: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        all_modes = self.force_constants.modes()
        frequencies, unstable = all_modes.frequencies, all_modes.unstable
        included = np.ones(len(frequencies), bool)
        self.findings = [sentence(all_modes.describe())]
        if self.imaginary not in ("refuse", "freeze", "cap"):
            raise VibronicError(
                f"unknown choice '{self.imaginary}' for imaginary modes: choose refuse, freeze or cap "
                "(effective and sscha change the force constants: prepare_phonons)"
            )
        if unstable.any() and self.imaginary == "refuse":
            raise VibronicError(
                f"{all_modes.describe()}, so the harmonic crystal is unstable and has no thermal amplitudes; choose "
                "effective or sscha (force constants at the temperature, need an engine), freeze (leave these modes "
                "out) or cap (bound them), or relax the crystal first"
            )
        if unstable.any() and self.imaginary == "freeze":
            included &= ~unstable
            self.findings.append(f"These {unstable.sum()} modes are frozen: nothing moves along them.")
        if self.imaginary == "cap":
            if not self.cap_frequency > 0:
                raise VibronicError(f"the cap frequency must be positive, not {self.cap_frequency} THz")
            # A mode just above zero moves as far, and as wrongly, as one just below.
            frequencies = np.maximum(np.abs(frequencies), self.cap_frequency)
            changed = int((frequencies != all_modes.frequencies).sum())
            if changed:
                self.findings.append(
                    f"The cap changed {changed} of {len(frequencies)} modes: they get the modulus of their frequency, "
                    f"but at least {self.cap_frequency:g} THz."
                )
        if self.modes is not None:
            chosen = np.asarray(self.modes, dtype=int)
            if chosen.size == 0 or chosen.min() < 0 or chosen.max() >= len(frequencies):
                raise VibronicError(f"modes must be indices from 0 to {len(frequencies) - 1}")
            included &= np.isin(np.arange(len(frequencies)), chosen)
        self.vectors = all_modes.vectors[:, included]
        self.frequencies = frequencies[included]
        self.spread(np.sqrt(mode_variances(self.frequencies, self.temperature, self.statistics)))

    def spread(self, amplitudes: np.ndarray) -> None:
        """Give the modes other amplitudes (K,), sqrt(amu) Angstrom."""
        self.amplitudes = amplitudes
        mass = np.repeat(self.force_constants.supercell.get_masses(), 3)
        self._root = (self.vectors * amplitudes) @ self.vectors.T / np.sqrt(mass)  # z @ _root = displacement

    def potential_energy(self) -> float:
        """Mean harmonic energy of what is drawn, by the force constants it is drawn from, before any rejection, eV."""
        mass = np.repeat(self.force_constants.supercell.get_masses(), 3)
        n = len(mass)
        dynamical = self.force_constants.array.transpose(0, 2, 1, 3).reshape(n, n) / np.sqrt(np.outer(mass, mass))
        stiffness = np.einsum("ik,ij,jk->k", self.vectors, dynamical, self.vectors, optimize=True)
        return float(0.5 * self.amplitudes**2 @ stiffness)

    def kinetic_energy(self) -> float:
        """Mean kinetic energy of the displaced modes as oscillators of their frequencies, eV: by the virial theorem omega^2 sigma^2 / 2."""
        variances = mode_variances(self.frequencies, self.temperature, self.statistics)
        return float(0.5 * (self.frequencies / THZ) ** 2 @ variances)

    def scaled(self, factor: float) -> Phonons:
        """Another sampler that moves everything ``factor`` times as far."""
        other = copy(self)
        other.spread(factor * self.amplitudes)
        return other

    def sample(self, atoms: Atoms, n: int, seed: int) -> list[Atoms]:
        """``n`` configurations of the supercell ``atoms``, which may order its atoms as it likes.

        Raises:
            VibronicError: ``atoms`` is not the supercell of the force constants, ``n`` is odd with ``plus_minus``,
                or nearly all draws violate ``min_distance``.
        """
        check_request(atoms, n, seed)
        order = match_atoms(self.force_constants.supercell, atoms)
        rng = np.random.default_rng(seed)
        if self.plus_minus and n % 2:
            raise VibronicError(f"configurations in pairs +u, -u need an even number, not {n}")

        def draw(k: int) -> np.ndarray:
            u = (rng.standard_normal((k, 3 * len(atoms))) @ self._root).reshape(k, 1, len(atoms), 3)[:, :, order]
            return np.concatenate([u, -u], axis=1) if self.plus_minus else u

        u, rejected = draw_accepted(atoms, n // 2 if self.plus_minus else n, self.min_distance, draw)
        extra = {} if self.min_distance is None else {"rejected_share": rejected}
        info = provenance(atoms, self.method, seed, temperature_K=self.temperature, statistics=self.statistics, **extra)
        snapshots = snapshots_from(atoms, u.reshape(n, len(atoms), 3), info)
        if self.plus_minus:
            for k, snapshot in enumerate(snapshots):
                snapshot.info["pair"] = k // 2
        return snapshots

    def thermal_displacements(self) -> np.ndarray:
        """Mean-square displacement matrices <u u^T> (N, 3, 3) in Angstrom^2 of what is drawn, before any rejection.

        Atoms are in the order of ``force_constants.supercell``. Without frozen, capped or unselected modes this is
        the ``thermal_displacements`` of the force constants.
        """
        root = self._root.reshape(len(self._root), -1, 3)
        return np.einsum("kia,kib->iab", root, root)


def match_atoms(reference: Atoms, atoms: Atoms, tolerance: float = 0.1) -> np.ndarray:
    """For every atom of ``atoms`` the index (N,) of the same atom in ``reference``, by position modulo the lattice.

    Raises:
        VibronicError: cell, species or positions (within ``tolerance`` Angstrom) are not those of ``reference``.
    """
    advice = (
        f"the structure {atoms.symbols} is not the supercell of the force constants ({reference.symbols}) at its "
        "reference positions; use the same supercell, or force_constants.supercell itself"
    )
    if len(atoms) != len(reference) or not np.allclose(atoms.cell, reference.cell, atol=tolerance / 5):
        raise VibronicError(advice)
    difference = atoms.get_scaled_positions()[:, None] - reference.get_scaled_positions()[None]
    distance = np.linalg.norm((difference - np.round(difference)) @ reference.cell.array, axis=2)
    order = distance.argmin(axis=1)
    if (
        distance.min(axis=1).max() > tolerance
        or len(set(order)) < len(order)
        or not np.array_equal(atoms.numbers, reference.numbers[order])
    ):
        raise VibronicError(advice)
    return order
