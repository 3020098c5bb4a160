"""Configurations drawn from lattice vibrations, and what to do when the harmonic crystal is unstable."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from vibronic.core.errors import VibronicError
from vibronic.core.units import THZ
from vibronic.sampling.files import read_force_constants
from vibronic.sampling.harmonic import (
    BandStructure,
    DensityOfStates,
    ForceConstants,
    Modes,
    Statistics,
    engine_forces,
    force_constants,
    force_r2,
    mode_variances,
    thermal_displacements,
)
from vibronic.sampling.sampler import (
    CLOSEST,
    check_request,
    displacements_of,
    draw_accepted,
    progress_bar,
    provenance,
    shortest_pair,
    snapshots_from,
)

__all__ = [
    "BandStructure",
    "DensityOfStates",
    "ForceConstants",
    "Modes",
    "Phonons",
    "effective_force_constants",
    "force_constants",
    "mode_variances",
    "displaced_start",
    "prepare_phonons",
    "read_force_constants",
    "sscha_force_constants",
    "thermal_displacements",
]

Imaginary = Literal["refuse", "freeze", "effective", "sscha", "cap"]

CAP_FREQUENCY = 0.3
"""THz; under "cap" no mode counts as softer. Fits to tens of snapshots do not know frequencies better than this."""

SOFTEST = 1.0
"""THz; no mode starts softer than this on the way to self-consistent or effective phonons."""


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
            ``prepare_phonons``.
        plus_minus: configurations come as pairs +u, -u, which cancels odd orders in every average; ``info["pair"]``
            numbers them.
        modes: indices of the modes (ascending frequency, translations not counted) to displace; all if ``None``.
        min_distance: Angstrom; configurations (pairs) with a shorter distance are redrawn, and the share of rejected
            draws is written to ``info["rejected_share"]``.
        cap_frequency: THz, for "cap".
        amplitudes: (K,) sqrt(amu) Angstrom, standard deviation of every displaced mode.
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
    amplitudes: np.ndarray = field(init=False, repr=False)
    vectors: np.ndarray = field(init=False, repr=False)
    method: str = field(init=False, default="phonons", repr=False)
    _root: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        all_modes = self.force_constants.modes()
        frequencies, unstable = all_modes.frequencies, all_modes.unstable
        included = np.ones(len(frequencies), bool)
        self.findings = [_sentence(all_modes.describe())]
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
        self.spread(np.sqrt(mode_variances(frequencies[included], self.temperature, self.statistics)))

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


def effective_force_constants(reference: ForceConstants, snapshots: Sequence[Atoms]) -> ForceConstants:
    """Temperature-dependent effective force constants: the symmetric ones that best explain the snapshots' forces.

    Least squares of F = -Phi u over molecular-dynamics snapshots (Hellman, Abrikosov and Simak, Phys. Rev. B 84,
    180301 (2011)) in the symmetry-adapted basis of symfc. Displacements count from the reference positions, not from
    the average ones: the symmetry of the reference is kept even when atoms sit off centre, as they do on average.

    Args:
        reference: gives the supercell and its symmetry; its values do not enter.
        snapshots: of ``reference.supercell`` (same atom order), with forces.

    Raises:
        VibronicError: snapshots without forces, of another crystal, or too few of them.
    """
    forces = []
    for snapshot in snapshots:
        if snapshot.calc is None or "forces" not in snapshot.calc.results:
            raise VibronicError("effective force constants need snapshots with forces; label them first")
        forces.append(snapshot.calc.results["forces"])
    displacements = displacements_of(snapshots, reference.supercell)
    fitted, r2 = _Fit(reference)(displacements, np.array(forces))
    finding = (
        f"effective force constants from {len(snapshots)} snapshots explain {100 * r2:.1f} % of the variance of their "
        f"forces; {fitted.modes().describe()}"
    )
    return replace(fitted, findings=[*reference.findings, finding])


def sscha_force_constants(
    reference: ForceConstants,
    calculator: Calculator,
    temperature: float,
    statistics: Statistics = "quantum",
    n: int = 40,
    mixing: float = 0.35,
    tolerance: float = 0.05,
    max_iterations: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> ForceConstants:
    """Self-consistent harmonic force constants: Phi = <d2V/du2> over the Gaussian that Phi itself spreads out.

    Least-squares force constants of Gaussian samples are that average (Errea, Calandra and Mauri, Phys. Rev. B 89,
    064302 (2014)), so the loop is: sample with the current Phi, compute forces, fit with symfc, mix. This is our own
    loop: phonopy's SSCHA runs with pypolymlp potentials only, this one with any ASE calculator. All iterations use the
    same random numbers, in +/- pairs, so it converges to a fixed point instead of wandering with the noise. How far
    that fixed point depends on the random numbers is measured in the end with ``n`` fresh configurations: the largest
    change of a frequency is told as the statistical error. Phi stays positive definite: it starts from the moduli of
    imaginary frequencies, and a step changes no squared frequency by more than a part of itself.

    Args:
        reference: first guess (imaginary modes allowed); its reference positions stay fixed.
        calculator: any ASE calculator.
        temperature: K.
        statistics: of the modes.
        n: configurations, an even number, computed in every iteration and once more for the statistical error.
        mixing: share of the residual that a step adds at first, in (0, 1]; less once it overshoots.
        tolerance: THz; converged when no eigenfrequency is further than this from its fit.
        max_iterations: before giving up.
        seed: of the random numbers.
        progress: show a progress bar on standard error.

    Raises:
        VibronicError: no convergence, or an impossible setting.
    """
    if not 0 < mixing <= 1:
        raise VibronicError(f"the mixing must lie in (0, 1], not {mixing}")
    modes = reference.modes()
    moduli = np.maximum(np.abs(modes.frequencies), SOFTEST)
    current = _from_modes(reference, (modes.vectors * moduli**2) @ modes.vectors.T)
    change, fit = np.inf, _Fit(reference)
    with progress_bar(progress) as bar:
        task = bar.add_task(f"Self-consistent phonons, {temperature:g} K", total=(max_iterations + 1) * n)

        def fit_to_draw(constants: ForceConstants, seed: int) -> tuple[ForceConstants, float]:
            snapshots = Phonons(constants, temperature, statistics, plus_minus=True).sample(
                constants.supercell, n, seed
            )
            displacements = displacements_of(snapshots, constants.supercell)
            forces = []
            for snapshot in snapshots:
                forces.append(engine_forces(snapshot, calculator))
                bar.advance(task)
            return fit(displacements, np.array(forces))

        for iteration in range(1, max_iterations + 1):
            fitted, r2 = fit_to_draw(current, seed)
            modes, before = fitted.modes(), change
            change = float(np.abs(modes.frequencies - current.modes().frequencies).max())
            if change < tolerance and not modes.unstable.any():
                fresh, _ = fit_to_draw(fitted, seed + 1)
                error = float(np.abs(fresh.modes().frequencies - modes.frequencies).max())
                finding = (
                    f"self-consistent force constants at {temperature:g} K after {iteration} iterations of {n} "
                    f"configurations explain {100 * r2:.1f} % of the variance of the forces; {modes.describe()}; other "
                    f"random numbers changed a frequency by up to {error:.2f} THz: the statistical error is of this order"
                )
                return replace(fitted, findings=[*reference.findings, finding])
            mixing = mixing / 2 if change > before else min(1.2 * mixing, 1.0)
            current = _step(current, modes, mixing)
    raise VibronicError(
        f"the self-consistent phonons still move by {change:.2f} THz after {max_iterations} iterations; use more "
        "configurations, a smaller mixing or more iterations, or effective force constants"
    )


def _from_modes(reference: ForceConstants, dynamical_matrix: np.ndarray) -> ForceConstants:
    """Force constants of a mass-weighted matrix (3N, 3N) in THz^2."""
    root_mass = np.sqrt(np.repeat(reference.supercell.get_masses(), 3)) / THZ
    n = len(reference.supercell)
    array = (dynamical_matrix * np.outer(root_mass, root_mass)).reshape(n, 3, n, 3).transpose(0, 2, 1, 3)
    return replace(reference, array=array.copy())


def _step(current: ForceConstants, fitted: Modes, mixing: float) -> ForceConstants:
    """Move towards ``fitted`` by a bounded relative change, D^1/2 (1 + K) D^1/2, which stays positive definite."""
    modes = current.modes()
    root = modes.vectors * modes.frequencies
    overlap = (fitted.vectors.T @ modes.vectors) / modes.frequencies
    signed = np.sign(fitted.frequencies) * fitted.frequencies**2
    relative, directions = np.linalg.eigh((overlap.T * signed) @ overlap - np.eye(len(signed)))
    root = root @ directions
    return _from_modes(current, (root * (1 + np.clip(mixing * relative, -0.3, 0.5))) @ root.T)


def prepare_phonons(
    force_constants: ForceConstants,
    temperature: float,
    imaginary: Imaginary = "refuse",
    statistics: Statistics = "quantum",
    calculator: Calculator | None = None,
    plus_minus: bool = False,
    min_distance: float | None = None,
    cap_frequency: float = CAP_FREQUENCY,
    snapshots: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Phonons, list[str]]:
    """A sampler for one temperature with the chosen remedy against imaginary modes, and what was found on the way.

    "effective" runs molecular dynamics of the supercell with ``calculator`` (2 fs steps, 400 of them to equilibrate,
    then ``snapshots`` snapshots 20 apart) and fits force constants; "sscha" iterates with ``snapshots`` configurations.
    Both are done even when no mode is imaginary: they are better force constants for that temperature. Modes that stay
    imaginary or softer than ``cap_frequency`` (THz) all the same are treated as by "cap", and a finding says so.

    Raises:
        VibronicError: the engine is missing, or the choice is unknown.
    """
    from vibronic.sampling.dynamics import Dynamics

    sampler_of = partial(
        Phonons,
        temperature=temperature,
        statistics=statistics,
        plus_minus=plus_minus,
        min_distance=min_distance,
        cap_frequency=cap_frequency,
    )
    if imaginary != "effective" and imaginary != "sscha":
        sampler = sampler_of(force_constants, imaginary=imaginary)
        return sampler, [_sentence(finding) for finding in [*force_constants.findings, *sampler.findings]]
    if calculator is None:
        raise VibronicError(f"'{imaginary}' computes forces: it needs an engine, such as --engine sevennet")
    if imaginary == "effective":
        dynamics = Dynamics(
            calculator,
            temperature,
            timestep=2.0,
            equilibration=400,
            interval=20,
            start=displaced_start(force_constants, temperature, seed),
            progress=progress,
        )
        labelled = dynamics.sample(force_constants.supercell, snapshots, seed)
        prepared = effective_force_constants(force_constants, labelled)
    else:
        prepared = sscha_force_constants(
            force_constants, calculator, temperature, statistics, n=snapshots, seed=seed, progress=progress
        )
    known = len(force_constants.findings)
    findings = [
        *force_constants.findings,
        f"without temperature, {force_constants.modes().describe()}",
        *prepared.findings[known:],
    ]
    # The dynamics or the iterations are paid for: a few soft modes that are left are bounded, and that is said.
    sampler = sampler_of(prepared, imaginary="cap")
    findings += sampler.findings[1:]
    return sampler, [_sentence(finding) for finding in findings]


def displaced_start(constants: ForceConstants, temperature: float, seed: int) -> Atoms:
    """Where to start dynamics of ``constants.supercell``: a crystal on a saddle point takes long to leave it by itself."""
    reference, closest = constants.supercell, CLOSEST * shortest_pair(constants.supercell)[0]
    start = Phonons(constants, temperature, "classical", "cap", min_distance=closest, cap_frequency=SOFTEST)
    return start.sample(reference, 1, seed)[0]


class _Fit:
    """Least-squares force constants with the symmetry of a reference; the basis (slow) is made once."""

    def __init__(self, reference: ForceConstants) -> None:
        from symfc import Symfc
        from symfc.utils.utils import SymfcAtoms

        cell = reference.supercell
        scaled = cell.get_scaled_positions()
        self.reference = reference
        self.symfc = Symfc(SymfcAtoms(cell=cell.cell.array, scaled_positions=scaled, numbers=cell.numbers))
        self.symfc.compute_basis_set(max_order=2)

    def __call__(self, displacements: np.ndarray, forces: np.ndarray) -> tuple[ForceConstants, float]:
        """Force constants from (n, N, 3) displacements and forces, and the R^2 of the forces."""
        self.symfc.displacements, self.symfc.forces = displacements, forces
        self.symfc.solve(max_order=2, is_compact_fc=False)
        array = np.array(self.symfc.force_constants[2])
        return replace(self.reference, array=array), force_r2(array, displacements, forces)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."
