"""Phonons of crystals that are not harmonic: force constants for one temperature, and what to do when modes are imaginary."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from vibronic.core.errors import VibronicError
from vibronic.core.units import THZ
from vibronic.sampling.harmonic import ForceConstants, Modes, Statistics, engine_forces, force_r2
from vibronic.sampling.phonons import CAP_FREQUENCY, Imaginary, Phonons
from vibronic.sampling.sampler import CLOSEST, displacements_of, progress_bar, sentence, shortest_pair

SOFTEST = 1.0
"""THz; no mode starts softer than this on the way to self-consistent or effective phonons."""


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

    "effective" and "sscha" replace the force constants (:func:`renormalised`). Modes that stay imaginary or softer than
    ``cap_frequency`` (THz) all the same are treated as by "cap", and a finding says so.

    Raises:
        VibronicError: the engine is missing, or the choice is unknown.
    """
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
        return sampler, [sentence(finding) for finding in [*force_constants.findings, *sampler.findings]]
    prepared = renormalised(
        force_constants,
        temperature,
        imaginary,
        statistics,
        calculator,
        snapshots=snapshots,
        seed=seed,
        progress=progress,
    )
    # The dynamics or the iterations are paid for: a few soft modes that are left are bounded, and that is said.
    sampler = sampler_of(prepared, imaginary="cap")
    return sampler, [sentence(finding) for finding in [*prepared.findings, *sampler.findings[1:]]]


def renormalised(
    force_constants: ForceConstants,
    temperature: float,
    imaginary: Literal["effective", "sscha"],
    statistics: Statistics = "quantum",
    calculator: Calculator | None = None,
    snapshots: int = 40,
    seed: int = 0,
    progress: bool = True,
) -> ForceConstants:
    """Force constants for one temperature, with what was found on the way.

    "effective" runs molecular dynamics of the supercell with ``calculator`` (2 fs steps, 400 of them to equilibrate,
    then ``snapshots`` snapshots 20 apart) and fits force constants; "sscha" iterates with ``snapshots`` configurations.
    Both are done even when no mode is imaginary: they are better force constants for that temperature.

    Raises:
        VibronicError: the engine is missing.
    """
    from vibronic.sampling.dynamics import Dynamics

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
    without = f"without temperature, {force_constants.modes().describe()}"
    return replace(prepared, findings=[*force_constants.findings, without, *prepared.findings[known:]])


def displaced_start(constants: ForceConstants, temperature: float, seed: int) -> Atoms:
    """Where to start dynamics of ``constants.supercell``: a crystal on a saddle point takes long to leave it by itself.

    Displaced as if it were harmonic and classical; colder where atoms would come too close.
    """
    reference = constants.supercell
    closest = CLOSEST * shortest_pair(reference)[0]
    # Dynamics draws its momenta from the same seed, and they must not follow the displacements.
    own = int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])
    for kelvin in (temperature, temperature / 4, temperature / 16):
        start = Phonons(constants, kelvin, "classical", "cap", min_distance=closest, cap_frequency=SOFTEST)
        with contextlib.suppress(VibronicError):
            return start.sample(reference, 1, own)[0]
    return reference.copy()


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
