import re
from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from vibronic.core.errors import VibronicError
from vibronic.core.units import KB, THZ
from vibronic.sampling.anharmonic import (
    displaced_start,
    effective_force_constants,
    prepare_phonons,
    sscha_force_constants,
)
from vibronic.sampling.checks import minimum_distance
from vibronic.sampling.dynamics import Dynamics
from vibronic.sampling.phonons import (
    Phonons,
    match_atoms,
    mode_variances,
    thermal_displacements,
)
from vibronic.sampling.sampler import displacements_of


def raw(snapshots, reference):
    return np.array([s.positions - reference.positions for s in snapshots])


@pytest.mark.parametrize("statistics", ["quantum", "classical"])
def test_sampled_covariance_is_the_analytic_one(nacl, statistics):
    phonons = Phonons(nacl, 300, statistics)
    u = raw(phonons.sample(nacl.supercell, 2000, 1), nacl.supercell)
    analytic = thermal_displacements(nacl, 300, statistics)
    np.testing.assert_allclose(phonons.thermal_displacements(), analytic, atol=1e-12)
    for species in (11, 17):
        here = nacl.supercell.numbers == species
        values = (u[:, here] ** 2).mean(axis=(1, 2))
        expected = np.trace(analytic[here], axis1=1, axis2=2).mean() / 3
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))
    # correlations between atoms too, not only the diagonal: the mean harmonic energy is k T / 2 for each mode
    energy = np.einsum("nia,ijab,njb->n", u, nacl.array, u, optimize=True) / 2
    if statistics == "classical":
        assert energy.mean() == pytest.approx((3 * 64 - 3) * KB * 300 / 2, rel=4 * np.sqrt(2 / 189 / 2000))


def test_covariance_agrees_with_phonopys_own_draws(nacl):
    phonopy = nacl.phonopy()
    phonopy.init_random_displacements()
    theirs = phonopy.get_random_displacements_at_temperature(300, 2000, random_seed=3)
    ours = raw(Phonons(nacl, 300).sample(nacl.supercell, 2000, 3), nacl.supercell)
    # nearest Na-Cl pair: covariance along the bond
    distance = nacl.supercell.get_distances(0, range(64), mic=True)
    j = int(np.argsort(distance)[1])
    a, b = (np.einsum("na,nb->ab", u[:, 0], u[:, j]) / len(u) for u in (theirs, ours))
    np.testing.assert_allclose(a, b, atol=5 * 0.02 / np.sqrt(2000))
    np.testing.assert_allclose((theirs**2).mean(), (ours**2).mean(), rtol=0.03)


def test_centre_of_mass_stays(nacl):
    u = raw(Phonons(nacl, 300).sample(nacl.supercell, 20, 1), nacl.supercell)
    assert np.abs(np.einsum("nia,i->na", u, nacl.supercell.get_masses())).max() < 1e-9


def test_pairs_average_to_the_reference(nacl):
    snapshots = Phonons(nacl, 300, plus_minus=True).sample(nacl.supercell, 10, 1)
    u = raw(snapshots, nacl.supercell)
    np.testing.assert_allclose(u[::2], -u[1::2], atol=1e-12)
    assert [s.info["pair"] for s in snapshots] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert "pair" not in Phonons(nacl, 300).sample(nacl.supercell, 1, 1)[0].info
    with pytest.raises(VibronicError, match="even"):
        Phonons(nacl, 300, plus_minus=True).sample(nacl.supercell, 3, 1)


def test_temperature_zero(nacl):
    assert np.abs(raw(Phonons(nacl, 0, "classical").sample(nacl.supercell, 2, 1), nacl.supercell)).max() < 1e-12
    zero_point = Phonons(nacl, 0).thermal_displacements()
    assert 0 < zero_point[0, 0, 0] < thermal_displacements(nacl, 300)[0, 0, 0]


def test_selected_modes_only(nacl):
    modes = nacl.modes()
    u = raw(Phonons(nacl, 300, modes=[5, 100]).sample(nacl.supercell, 10, 1), nacl.supercell)
    mass = np.sqrt(np.repeat(nacl.supercell.get_masses(), 3))
    amplitudes = (u.reshape(10, -1) * mass) @ modes.vectors
    others = np.delete(np.arange(amplitudes.shape[1]), [5, 100])
    assert np.abs(amplitudes[:, others]).max() < 1e-9
    assert np.abs(amplitudes[:, [5, 100]]).min() > 1e-6
    for wrong in ([], [-1], [189]):
        with pytest.raises(VibronicError, match="indices"):
            Phonons(nacl, 300, modes=wrong)


def test_atom_order_of_the_user_is_kept(nacl, salt):
    """ASE repeats cells in another order than phonopy; the same draw must land on the same atoms."""
    ours = Phonons(nacl, 300).sample(salt, 3, 7)
    theirs = Phonons(nacl, 300).sample(nacl.supercell, 3, 7)
    order = match_atoms(nacl.supercell, salt)
    assert not np.array_equal(order, np.arange(64))
    np.testing.assert_array_equal(ours[0].numbers, salt.numbers)
    np.testing.assert_allclose(raw(ours, salt), raw(theirs, nacl.supercell)[:, order], atol=1e-12)


def test_another_structure_is_refused(nacl, salt, copper):
    shrunk = salt.copy()
    shrunk.set_cell(0.97 * shrunk.cell, scale_atoms=True)
    swapped = salt.copy()
    swapped.numbers = np.where(salt.numbers == 11, 17, 11)
    displaced = salt.copy()
    displaced.positions[3] += 0.3
    for wrong in (copper, shrunk, swapped, displaced):
        with pytest.raises(VibronicError, match="not the supercell"):
            Phonons(nacl, 300).sample(wrong, 1, 0)


def test_minimum_distance(nacl):
    free = Phonons(nacl, 1200).sample(nacl.supercell, 30, 0)
    shortest = np.sort([minimum_distance([s]) for s in free])
    limit = float(np.median(shortest))
    kept = Phonons(nacl, 1200, min_distance=limit).sample(nacl.supercell, 30, 0)
    assert minimum_distance(kept) >= limit
    assert 0.2 < kept[0].info["rejected_share"] < 0.8
    with pytest.raises(VibronicError, match="keep all distances"):
        Phonons(nacl, 1200, min_distance=2.8).sample(nacl.supercell, 5, 0)


class TestImaginary:
    def test_refused_by_default(self, unstable):
        with pytest.raises(VibronicError, match=r"modes are imaginary.*down to -\d.*THz.*sscha") as caught:
            Phonons(unstable, 300)
        assert str(int(unstable.modes().unstable.sum())) in str(caught.value)

    def test_freeze_leaves_them_out(self, unstable):
        phonons = Phonons(unstable, 300, imaginary="freeze")
        modes = unstable.modes()
        u = raw(phonons.sample(unstable.supercell, 5, 0), unstable.supercell).reshape(5, -1)
        mass = np.sqrt(np.repeat(unstable.supercell.get_masses(), 3))
        amplitudes = (u * mass) @ modes.vectors
        assert np.abs(amplitudes[:, modes.unstable]).max() < 1e-9
        assert np.abs(amplitudes[:, ~modes.unstable]).max() > 1e-3
        assert any("frozen" in finding for finding in phonons.findings)

    def test_cap_bounds_them(self, unstable):
        low, frozen, high = (
            np.trace(Phonons(unstable, 300, imaginary=choice, cap_frequency=f).thermal_displacements()[0])
            for choice, f in (("cap", 50.0), ("freeze", 0.5), ("cap", 0.5))
        )
        assert low < frozen < high
        with pytest.raises(VibronicError, match="cap frequency"):
            Phonons(unstable, 300, imaginary="cap", cap_frequency=0)

    def test_cap_leaves_a_stable_crystal_alone(self, nacl):
        expected = thermal_displacements(nacl, 300)
        for choice in ("cap", "freeze"):
            phonons = Phonons(nacl, 300, imaginary=choice)
            np.testing.assert_allclose(phonons.thermal_displacements(), expected, atol=1e-12)
            assert len(phonons.findings) == 1

    @pytest.mark.parametrize("softest", [-0.02, 0.02])
    def test_cap_bounds_a_soft_mode_too(self, copper_constants, softest):
        """A mode at +0.02 THz is no better than one at -0.02 THz: both would move atoms by Angstroms."""
        modes = copper_constants.modes()
        signed = modes.frequencies**2 / THZ**2
        signed[0] = np.sign(softest) * (softest / THZ) ** 2
        root = modes.vectors * np.sqrt(np.repeat(copper_constants.supercell.get_masses(), 3))[:, None]
        array = ((root * signed) @ root.T).reshape(32, 3, 32, 3).transpose(0, 2, 1, 3)
        phonons = Phonons(replace(copper_constants, array=array), 300, "classical", "cap", modes=[0], cap_frequency=0.5)
        total = phonons.thermal_displacements().trace(axis1=1, axis2=2) @ copper_constants.supercell.get_masses()
        assert total == pytest.approx(mode_variances(np.array([0.5]), 300, "classical")[0])
        assert phonons.findings[-1].startswith("The cap changed 1 of 93 modes")

    def test_prepare_tells_what_it_did(self, unstable, spring):
        with pytest.raises(VibronicError, match="imaginary"):
            prepare_phonons(unstable, 300)
        _, findings = prepare_phonons(unstable, 300, "freeze")
        assert any("imaginary" in f for f in findings)
        assert any("frozen" in f for f in findings)
        for choice in ("effective", "sscha"):
            with pytest.raises(VibronicError, match="engine"):
                prepare_phonons(unstable, 300, choice)
        with pytest.raises(VibronicError, match="unknown choice"):
            prepare_phonons(unstable, 300, "ignore")

    def test_sscha_stabilises_and_satisfies_its_own_equation(self, unstable, spring):
        """For E = u.Phi.u/2 + g/4 sum |u|^4 the Gaussian average of the curvature is Phi + 5 g <u_x^2>, exactly."""
        g = 300.0
        phonons, findings = prepare_phonons(
            unstable, 300, "sscha", calculator=spring(unstable, quartic=g), snapshots=20, seed=1, progress=False
        )
        assert any("no mode is imaginary" in f for f in findings)
        spread = np.trace(phonons.thermal_displacements()[0]) / 3
        n = len(unstable.supercell)
        expected = unstable.array + 5 * g * spread * np.einsum("ij,ab->ijab", np.eye(n) - 1 / n, np.eye(3))
        found = phonons.force_constants.array
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()

    def test_sscha_tells_its_statistical_error(self, unstable, spring):
        """Few configurations leave an error that the loop, with the same random numbers throughout, cannot see."""

        def told(n: int) -> float:
            fitted = sscha_force_constants(unstable, spring(unstable, quartic=300.0), 300, n=n, progress=False)
            return float(re.search(r"by up to ([\d.]+) THz: the statistical error", fitted.findings[-1]).group(1))

        assert 0 < told(80) < told(4)

    def test_effective_from_dynamics(self, unstable, spring):
        engine = spring(unstable, quartic=300.0)
        phonons, findings = prepare_phonons(
            unstable, 300, "effective", calculator=engine, statistics="classical", seed=1, progress=False
        )
        assert any("explain" in f and "no mode is imaginary" in f for f in findings)
        assert np.isfinite(phonons.thermal_displacements()).all()

    def test_effective_dynamics_starts_off_the_saddle_point(self, unstable, spring):
        class Recorder(spring):
            def calculate(self, atoms=None, *arguments, **more):
                seen.append(atoms.copy())
                super().calculate(atoms, *arguments, **more)

        seen: list = []
        engine = Recorder(unstable, quartic=300.0)
        prepare_phonons(unstable, 300, "effective", calculator=engine, snapshots=2, seed=1, progress=False)
        amplitude = np.sqrt((displacements_of(seen[:1], unstable.supercell) ** 2).sum(axis=2).mean())
        assert 0.05 < amplitude < 0.6
        assert len(seen) > 400 + 2 * 20  # what the pages say it costs

    def test_prepare_says_when_it_caps(self, unstable, spring):
        def findings(cap: float) -> list[str]:
            engine = spring(unstable, quartic=300.0)
            return prepare_phonons(
                unstable, 300, "sscha", "quantum", engine, cap_frequency=cap, snapshots=10, progress=False
            )[1]

        assert not any("cap changed" in f for f in findings(0.01))
        assert any("cap changed" in f and "9 THz" in f for f in findings(9.0))


@pytest.mark.parametrize("temperature", [300.0, 30_000.0, 1e9])
def test_dynamics_starts_displaced_as_far_as_atoms_stay_apart(copper_constants, temperature):
    """So hot that no draw is accepted, it starts colder, and from the reference where that is too hot as well."""
    reference = copper_constants.supercell
    start = displaced_start(copper_constants, temperature, 3)
    moved = float(np.abs(displacements_of([start], reference)).max())
    assert (moved > 0.01) is (temperature < 1e9)
    assert minimum_distance([start]) > 0.65 * minimum_distance([reference])


def test_dynamics_does_not_start_moving_the_way_it_is_displaced(copper_constants):
    """Momenta are drawn from the same seed: displacements by the same numbers would be ahead of them in every mode."""
    displaced = displacements_of([displaced_start(copper_constants, 300, 3)], copper_constants.supercell)[0]
    momenta = np.random.default_rng(3).standard_normal(displaced.shape)
    assert abs(np.corrcoef(momenta.ravel(), displaced.ravel())[0, 1]) < 0.3
    same = Phonons(copper_constants, 300, "classical", "cap", cap_frequency=1.0).sample(
        copper_constants.supercell, 1, 3
    )
    assert np.corrcoef(momenta.ravel(), displacements_of(same, copper_constants.supercell)[0].ravel())[0, 1] > 0.5


def test_sscha_of_a_harmonic_crystal_is_that_crystal(copper_constants, spring):
    again = sscha_force_constants(copper_constants, spring(copper_constants), 300, n=10, progress=False)
    np.testing.assert_allclose(again.array, copper_constants.array, atol=1e-6)


def test_sscha_that_does_not_converge(unstable, spring):
    with pytest.raises(VibronicError, match="still move"):
        sscha_force_constants(
            unstable, spring(unstable, quartic=30.0), 300, n=4, max_iterations=1, tolerance=1e-9, progress=False
        )
    with pytest.raises(VibronicError, match="mixing"):
        sscha_force_constants(unstable, spring(unstable), 300, mixing=0, progress=False)


def test_effective_force_constants_recover_a_harmonic_crystal(copper_constants, spring):
    engine = spring(copper_constants)
    snapshots = Phonons(copper_constants, 300).sample(copper_constants.supercell, 8, 0)
    for snapshot in snapshots:
        snapshot.calc = engine
        snapshot.calc = SinglePointCalculator(snapshot, forces=snapshot.get_forces())
        snapshot.wrap()  # snapshots from other programs are wrapped, and the fit must not care
    fitted = effective_force_constants(copper_constants, snapshots)
    np.testing.assert_allclose(fitted.array, copper_constants.array, atol=1e-6)
    assert "100.0 %" in fitted.findings[-1]


def test_effective_force_constants_need_forces(copper_constants, nacl):
    with pytest.raises(VibronicError, match="forces"):
        effective_force_constants(copper_constants, [copper_constants.supercell.copy()])
    labelled = Dynamics(EMT(), 100, equilibration=0, interval=1).sample(copper_constants.supercell, 1, 0)
    with pytest.raises(VibronicError, match="same order"):
        effective_force_constants(nacl, labelled)


def test_draws_do_not_depend_on_the_orientation_of_degenerate_modes(nacl, monkeypatch):
    """Eigenvectors of degenerate modes differ between machines; configurations must not."""
    before = Phonons(nacl, 300).sample(nacl.supercell, 2, 0)
    modes = nacl.modes()
    same = np.isclose(modes.frequencies, modes.frequencies[40], atol=1e-6)
    assert same.sum() > 1
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(same.sum(), same.sum())))[0]
    modes.vectors[:, same] = modes.vectors[:, same] @ rotation
    monkeypatch.setattr(type(nacl), "modes", lambda self: modes)
    after = Phonons(nacl, 300).sample(nacl.supercell, 2, 0)
    np.testing.assert_allclose(raw(after, nacl.supercell), raw(before, nacl.supercell), atol=1e-9)


def test_displacements_of_ignores_drift_and_wrapping(nacl):
    snapshots = Phonons(nacl, 300).sample(nacl.supercell, 3, 0)
    expected = displacements_of(snapshots, nacl.supercell)
    np.testing.assert_allclose(expected, raw(snapshots, nacl.supercell), atol=1e-9)
    for snapshot in snapshots:
        snapshot.positions += (7.3, -20.1, 3.0)
    np.testing.assert_allclose(displacements_of(snapshots, nacl.supercell), expected, atol=1e-9)


def test_kinetic_energy_is_that_of_equipartition_and_of_the_virial_theorem(copper_constants):
    """Classical: kT / 2 for each mode, capped or not. Quantum: as much as the harmonic potential energy."""
    modes = len(copper_constants.modes().frequencies)
    classical = Phonons(copper_constants, 300, "classical", "cap", cap_frequency=3.0)
    assert classical.kinetic_energy() == pytest.approx(modes * KB * 300 / 2)
    quantum = Phonons(copper_constants, 100, "quantum")
    assert quantum.kinetic_energy() == pytest.approx(quantum.potential_energy(), rel=1e-6)
