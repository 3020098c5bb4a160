"""Thermal expansion in the quasi-harmonic approximation: at every temperature the volume of least free energy.

F(V, T) = E(V) + sum over modes of the free energy of an oscillator whose frequency depends on the volume, and on nothing
else (Born and Huang, Dynamical Theory of Crystal Lattices, 1954; Togo et al., Phys. Rev. B 81, 174301, 2010). Strains are
isotropic: exact for cubic crystals, and for others the expansion without a change of shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from vibronic.core.errors import VibronicError
from vibronic.core.units import HBAR, KB, THZ
from vibronic.sampling.disorder import strain
from vibronic.sampling.harmonic import Statistics, force_constants, mode_variances
from vibronic.sampling.relax import relax
from vibronic.sampling.sampler import progress_bar

STRAINS = (-0.015, -0.0075, 0.0, 0.0075, 0.015, 0.0225, 0.03)
"""Isotropic strains of lengths at which the free energy is computed: crystals expand, so more of them are positive."""


@dataclass(frozen=True)
class Expansion:
    """Linear strains of least free energy.

    Attributes:
        temperatures: (T,) K.
        strains: (T,) relative change of lengths against the given crystal.
        zero_point: that of the zero-point motion alone; 0 for classical nuclei.
        static: that without any motion of the nuclei: not 0 where the given crystal is not relaxed.
        errors: (T,) by how much the expansion from the static lattice on would differ with a quartic polynomial in place of a cubic one.
        vibrations: (T,) eV, by how much the mean potential energy of the supercell's vibrations changes from the static lattice to that
            of the temperature; 0 for classical nuclei.
    """

    temperatures: tuple[float, ...]
    strains: tuple[float, ...]
    zero_point: float
    static: float
    errors: tuple[float, ...]
    vibrations: tuple[float, ...]


def free_energy(frequencies: np.ndarray, temperature: float, statistics: Statistics) -> float:
    """Helmholtz free energy of oscillators, eV: quantum with its zero point, or its classical limit kT ln(hbar omega / kT).

    Args:
        frequencies: (M,) THz, positive.
        temperature: K, at least 0.
        statistics: "quantum" or "classical".
    """
    # hbar in the units of the frequencies, from those in which amplitudes are computed (amu Angstrom^2).
    quantum = HBAR * np.asarray(frequencies) / THZ
    thermal = KB * temperature
    if statistics == "classical":
        return float(thermal * np.log(quantum / thermal).sum()) if thermal else 0.0
    zero_point = float(quantum.sum()) / 2
    return zero_point + (float(thermal * np.log1p(-np.exp(-quantum / thermal)).sum()) if thermal else 0.0)


def expansion(
    atoms: Atoms,
    supercell: tuple[int, int, int],
    calculator: Calculator,
    temperatures: Sequence[float],
    statistics: Statistics = "quantum",
    strains: Sequence[float] = STRAINS,
    progress: bool = True,
) -> Expansion:
    """Thermal expansion of a crystal, from phonons at several volumes.

    The positions in the cell are relaxed at every strain. A cubic polynomial in the strain is fitted to the free energies.

    Args:
        atoms: the unit cell.
        supercell: repeats, for the phonons.
        calculator: of energy and forces.
        temperatures: K.
        statistics: of the nuclei.
        strains: of lengths; at least five.
        progress: show a progress bar on standard error.

    Raises:
        VibronicError: imaginary modes at one of the strains, or no minimum between the smallest and the largest.
    """
    if len(strains) < 5:
        raise VibronicError(f"the quasi-harmonic approximation needs at least five strains, not {len(strains)}")
    energies, frequencies = [], []
    cells = np.prod(supercell)
    with progress_bar(progress) as bar:
        for value in bar.track(strains, description="Phonons at several volumes"):
            strained = relax(strain(atoms, value), calculator, cell=False)
            strained.calc = calculator
            energies.append(strained.get_potential_energy() * cells)
            modes = force_constants(strained, supercell, calculator, progress=False).modes()
            if modes.unstable.any():
                raise VibronicError(
                    f"at a strain of {100 * value:+.2f} % {modes.describe()}, so there is no quasi-harmonic free energy; "
                    "leave the expansion out"
                )
            frequencies.append(modes.frequencies)

    x = np.asarray(strains)

    def least(temperature: float | None, degree: int = 3) -> float:
        """Strain of the minimum of the free energy, or of the energy where there is no temperature."""
        thermal = [0.0 if temperature is None else free_energy(f, temperature, statistics) for f in frequencies]
        return _minimum(x, np.asarray(energies) + thermal, temperature, degree)

    found, static, other = tuple(least(t) for t in temperatures), least(None), least(None, 4)
    vibrations = []
    for t, s in zip(temperatures, found, strict=True):
        potential = [0.5 * (f / THZ) ** 2 @ mode_variances(f, t, statistics) for f in frequencies]
        vibrations.append(float(np.diff(np.polyval(np.polyfit(x, potential, 3), [static, s]))[0]))
    errors = tuple(abs(s - static - (least(t, 4) - other)) for t, s in zip(temperatures, found, strict=True))
    return Expansion(tuple(temperatures), found, least(0.0), static, errors, tuple(vibrations))


def _minimum(x: np.ndarray, y: np.ndarray, temperature: float | None, degree: int) -> float:
    """Of the polynomial through the points: the root of its derivative, within them, where it is lowest."""
    polynomial = np.polynomial.Polynomial.fit(x, y, degree)
    roots = polynomial.deriv().roots()
    roots = roots[np.abs(roots.imag) < 1e-9].real
    roots = roots[(roots >= x.min()) & (roots <= x.max()) & (polynomial.deriv(2)(roots) > 0)]
    root = roots[np.argmin(polynomial(roots))] if len(roots) else np.nan
    if not len(roots):
        at = "without temperature" if temperature is None else f"at {temperature:g} K"
        raise VibronicError(
            f"the free energy {at} has no minimum between strains of {100 * x.min():+.2f} and {100 * x.max():+.2f} %; relax "
            "the crystal first, or lower the temperature"
        )
    return float(root)
