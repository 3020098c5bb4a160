"""Controls of the phonon set: what stays, what goes."""

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from vibronic.sampling.controls import independent, shuffled
from vibronic.sampling.harmonic import force_constants
from vibronic.sampling.phonons import Phonons
from vibronic.sampling.sampler import displacements_of


@pytest.fixture(scope="module")
def phonons() -> Phonons:
    """Of an ordered alloy with a heavy and a light element."""
    spots = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    atoms = Atoms("AuCu3", scaled_positions=spots, cell=[3.708] * 3, pbc=True)
    return Phonons(force_constants(atoms, (2, 2, 2), EMT(), progress=False), 300, "classical", "cap")


def covariance(sampler: Phonons) -> np.ndarray:
    """Mass-weighted, (3N, 3N)."""
    return (sampler.vectors * sampler.amplitudes**2) @ sampler.vectors.T


def test_eigenvectors_and_total_variance_stay_and_the_covariance_goes(phonons):
    other = shuffled(phonons, 3, factor=1.0)
    assert np.array_equal(other.vectors, phonons.vectors)
    assert np.sort(other.amplitudes) == pytest.approx(np.sort(phonons.amplitudes))
    before, after = covariance(phonons), covariance(other)
    assert np.trace(after) == pytest.approx(np.trace(before))
    assert np.linalg.eigvalsh(after) == pytest.approx(np.linalg.eigvalsh(before), abs=1e-9 * np.trace(before))
    assert np.linalg.norm(after - before) > 0.3 * np.linalg.norm(before)


def test_rescaled_it_moves_as_far(phonons):
    other = shuffled(phonons, 3)
    wanted, found = (np.trace(p.thermal_displacements().sum(axis=0)) for p in (phonons, other))
    assert found == pytest.approx(wanted)
    ratio = np.sort(other.amplitudes) / np.sort(phonons.amplitudes)
    assert np.ptp(ratio) < 1e-9


def test_configurations_have_the_analytic_amplitude_and_a_resting_centre(phonons):
    other, reference = shuffled(phonons, 3), phonons.force_constants.supercell
    frames = other.sample(reference, 400, 0)
    u = displacements_of(frames, reference)
    expected = np.trace(other.thermal_displacements().sum(axis=0)) / len(reference)
    assert (u**2).sum(axis=2).mean() == pytest.approx(expected, rel=0.06)
    moved = np.array([a.get_center_of_mass() - reference.get_center_of_mass() for a in frames])
    assert np.abs(moved).max() < 1e-8
    assert {a.info["method"] for a in frames} == {"shuffled-phonons"}


def test_the_original_is_not_touched_and_the_seed_deals(phonons):
    amplitudes, root = phonons.amplitudes.copy(), phonons.thermal_displacements()
    one, again, two = shuffled(phonons, 1), shuffled(phonons, 1), shuffled(phonons, 2)
    assert np.array_equal(one.amplitudes, again.amplitudes)
    assert not np.allclose(one.amplitudes, two.amplitudes)
    assert np.array_equal(phonons.amplitudes, amplitudes)
    assert np.array_equal(phonons.thermal_displacements(), root)
    assert phonons.method == "phonons"


def test_independent_sites_keep_their_own_matrices_and_lose_the_rest(phonons):
    other, n = independent(phonons), len(phonons.force_constants.supercell)
    before, after = phonons.thermal_displacements(), other.thermal_displacements()
    assert np.abs(after - before).max() < 4 / n * np.abs(before).max()  # the centre of mass rests
    mass = np.repeat(phonons.force_constants.supercell.get_masses(), 3)
    scaled = covariance(other) / np.sqrt(np.outer(mass, mass))
    blocks = np.kron(np.eye(n), np.ones((3, 3))).astype(bool)
    true = covariance(phonons) / np.sqrt(np.outer(mass, mass))
    assert np.linalg.norm(true[~blocks]) > 3 * np.linalg.norm(scaled[~blocks])
    copper, gold = (np.diagonal(before[phonons.force_constants.supercell.numbers == z].mean(axis=0)) for z in (29, 79))
    assert np.ptp(copper) < copper.max()  # averages over sites of one element are isotropic in a cubic crystal ...
    assert np.ptp(np.linalg.eigvalsh(before[phonons.force_constants.supercell.numbers == 29][0])) > 0.1 * copper.mean()
    assert np.ptp(gold) < 1e-6  # ... and gold's are at every site


def test_independent_sites_move_apart_from_one_another(phonons):
    reference = phonons.force_constants.supercell
    frames = independent(phonons).sample(reference, 600, 1)
    u = displacements_of(frames, reference)
    found = np.einsum("nia,nib->iab", u, u) / len(u)
    assert found == pytest.approx(independent(phonons).thermal_displacements(), abs=0.2 * found.max())
    i, j = 0, int(np.argsort(reference.get_all_distances(mic=True)[0])[1])
    alike = np.corrcoef(u[:, i, 0], u[:, j, 0])[0, 1]
    assert abs(alike) < 0.15
    moved = np.array([a.get_center_of_mass() - reference.get_center_of_mass() for a in frames])
    assert np.abs(moved).max() < 1e-8
