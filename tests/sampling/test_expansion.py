import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from vibronic.core.errors import VibronicError
from vibronic.core.units import KB
from vibronic.sampling.disorder import strain
from vibronic.sampling.expansion import STRAINS, expansion, free_energy
from vibronic.sampling.harmonic import force_constants

H = 4.135667696e-3
"""Planck's constant, eV per THz."""


def test_free_energy_of_an_oscillator() -> None:
    """Zero point at 0 K; the classical limit at high temperature; the derivative is minus the entropy, which vanishes at 0 K."""
    nu = np.array([5.0])
    assert free_energy(nu, 0.0, "quantum") == pytest.approx(H * 5 / 2, rel=1e-6)
    assert free_energy(nu, 0.0, "classical") == 0
    hot = 1e4
    assert free_energy(nu, hot, "quantum") == pytest.approx(free_energy(nu, hot, "classical"), rel=1e-4)
    assert free_energy(nu, hot, "classical") == pytest.approx(KB * hot * np.log(H * 5 / (KB * hot)), rel=1e-6)
    assert free_energy(nu, 10.0, "quantum") == pytest.approx(free_energy(nu, 0.0, "quantum"), abs=1e-9)


def test_copper_expands_as_phonopy_says() -> None:
    """The same phonons through phonopy's quasi-harmonic approximation, with Vinet's equation of state."""
    from phonopy import run_qha

    atoms, size = bulk("Cu", "fcc", a=3.59), (3, 3, 3)
    ours = expansion(atoms, size, EMT(), (200.0, 400.0), progress=False)
    energies, phonons = [], []
    for value in STRAINS:
        strained = strain(atoms, value)
        strained.calc = EMT()
        energies.append(strained.get_potential_energy())
        phonons.append(force_constants(strained, size, EMT(), progress=False).phonopy())
    # The wave vectors of the supercell, where its modes are.
    found = run_qha(phonons, np.arange(0, 441, 20.0), energies, mesh=[3, 3, 3], exclude_gamma_acoustic=True)
    volumes = dict(zip(np.asarray(found.temperatures), np.asarray(found.equilibrium_volumes), strict=False))
    for t, linear in zip(ours.temperatures, ours.strains, strict=True):
        assert atoms.get_volume() * (1 + linear) ** 3 == pytest.approx(volumes[t], rel=3e-4)
    assert abs(ours.static) < 1e-3 < ours.zero_point < ours.strains[0] < ours.strains[1]


def test_classical_nuclei_have_no_zero_point() -> None:
    atoms = bulk("Cu", "fcc", a=3.59, cubic=True)
    found = expansion(atoms, (2, 2, 2), EMT(), (300.0,), "classical", progress=False)
    assert found.zero_point == found.static
    assert found.strains[0] > found.static
    assert found.vibrations == pytest.approx((0.0,), abs=1e-12)  # 3/2 kT, however soft they are


def test_what_zero_point_motion_costs_it_regains_by_half() -> None:
    """At the lattice of least E + zero-point energy the first is up by k s^2 / 2 and the second down by k s^2, half of that potential energy."""
    atoms = bulk("Cu", "fcc", a=3.59, cubic=True)
    found = expansion(atoms, (2, 2, 2), EMT(), (1.0,), progress=False)

    def static(value: float) -> float:
        strained = strain(atoms, value)
        strained.calc = EMT()
        return 8 * strained.get_potential_energy()

    up = static(found.strains[0]) - static(found.static)
    assert up > 0
    assert found.vibrations[0] == pytest.approx(-up, rel=0.15)
    assert found.errors[0] < 0.05 * (found.strains[0] - found.static)


def test_a_crystal_far_from_relaxed_is_told() -> None:
    with pytest.raises(VibronicError, match=r"relax the crystal first|imaginary"):
        expansion(bulk("Cu", "fcc", a=3.9, cubic=True), (2, 2, 2), EMT(), (300.0,), progress=False)
    with pytest.raises(VibronicError, match="at least five strains"):
        expansion(bulk("Cu"), (2, 2, 2), EMT(), (300.0,), strains=(0.0, 0.01), progress=False)
