import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from vibronic.core.errors import VibronicError
from vibronic.sampling.checks import (
    check_snapshots,
    check_supercell,
    coverage,
    mean_square_displacements,
    minimum_distance,
    standard_error,
    statistical_inefficiency,
    supercell_convergence,
)
from vibronic.sampling.phonons import Phonons
from vibronic.sampling.rattle import Rattle


def test_mean_square_displacements_of_the_published_crystal(nacl):
    found = mean_square_displacements(Phonons(nacl, 300).sample(nacl.supercell, 2000, 0), nacl.supercell)
    assert found == pytest.approx({"Na": 0.02132, "Cl": 0.01588}, rel=0.02)


def test_findings_agree_with_theory_and_notice_when_they_do_not(nacl, salt):
    phonons = Phonons(nacl, 300, plus_minus=True)
    for reference in (nacl.supercell, salt):
        findings = check_snapshots(phonons.sample(reference, 400, 0), reference, phonons)
        assert len(findings) == 3
        assert not any("apart" in f for f in findings)
    wrong = check_snapshots(Phonons(nacl, 400).sample(nacl.supercell, 200, 0), nacl.supercell, phonons)
    assert sum("apart" in f for f in wrong) == 2
    hot = check_snapshots(Rattle(1.2).sample(nacl.supercell, 5, 0), nacl.supercell)
    assert "minimum distance" in hot[-1]


def autoregressive(memory, shape, seed):
    """Series along axis 0 with the autocorrelation memory^k, so that g = (1 + memory) / (1 - memory)."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    noise[1:] *= np.sqrt(1 - memory**2)
    for k in range(1, len(noise)):
        noise[k] += memory * noise[k - 1]
    return noise


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.8])
def test_standard_error_of_correlated_values(memory):
    series = autoregressive(memory, (500, 300), 0)
    true = series.mean(axis=0).std()
    assert np.mean([standard_error(s, statistical_inefficiency(s)) for s in series.T]) == pytest.approx(true, rel=0.15)
    assert standard_error(series[:, 0]) == pytest.approx(1 / np.sqrt(500), rel=0.15)
    long = autoregressive(memory, 20000, 1)
    assert statistical_inefficiency(long) == pytest.approx((1 + memory) / (1 - memory), rel=0.15)
    in_turn = autoregressive(memory, (5000, 4), 1).ravel()[:-1]  # the last trajectory is one shorter
    assert statistical_inefficiency(in_turn, 4) == pytest.approx((1 + memory) / (1 - memory), rel=0.15)


def test_trajectories_that_stay_apart_count_as_one_value_each():
    """What a trajectory keeps all its length is seen only beside others."""
    noise = np.random.default_rng(0)
    series = noise.standard_normal(4) + 0.01 * noise.standard_normal((50, 4))
    assert statistical_inefficiency(series.ravel(), 4) == pytest.approx(50, rel=0.01)


def test_standard_error_of_few_or_equal_values():
    assert np.isnan(standard_error([1.0]))
    assert standard_error([2.0, 2.0, 2.0], statistical_inefficiency([2.0, 2.0, 2.0])) == 0
    assert statistical_inefficiency([0.0, 1.0]) == statistical_inefficiency([0.0, 1.0], 4) == 1


@pytest.mark.parametrize("labelled", [True, False])
def test_snapshots_of_dynamics_count_as_fewer(nacl, labelled):
    """Configurations that are repeated three times hold a third of the information, and the check must see it."""
    snapshots = [s.copy() for s in Rattle(0.2).sample(nacl.supercell, 80, 0) for _ in range(3)]
    energies = np.repeat(np.random.default_rng(0).standard_normal(80), 3)
    for snapshot, energy in zip(snapshots, energies):
        snapshot.calc = SinglePointCalculator(snapshot, energy=energy) if labelled else None
    plain = check_snapshots(snapshots, nacl.supercell)
    for snapshot in snapshots:
        snapshot.info["method"] = "md"
    findings = check_snapshots(snapshots, nacl.supercell)
    said = next(f for f in findings if "independent" in f)
    assert said.startswith("The 240 snapshots count as ")
    assert 60 <= int(said.split("at most ")[1].split()[0]) <= 100
    assert ("potential energy" in said) == labelled
    errors = [[float(f.split()[5]) for f in found if "+/-" in f] for found in (plain, findings)]
    assert np.array(errors[1]) == pytest.approx(np.sqrt(3) * np.array(errors[0]), rel=0.3)


def test_minimum_distance_sees_periodic_images(copper):
    assert minimum_distance([copper]) == pytest.approx(3.61 / np.sqrt(2))
    assert minimum_distance([bulk("Cu", a=3.61)]) == pytest.approx(3.61 / np.sqrt(2))


def test_supercell_width(copper):
    assert check_supercell(copper * (3, 3, 3), 5) == []
    assert "3.6 Angstrom" in check_supercell(copper * (3, 1, 3), 5)[0]


def test_supercell_convergence():
    sizes = [(2, 2, 2), (3, 3, 3), (4, 4, 4)]
    found = supercell_convergence(bulk("Cu", a=3.59), EMT(), 300, sizes)
    values = [found[size]["Cu"] for size in sizes]
    assert values[0] < values[1] < values[2]  # larger cells hold longer waves
    assert values[2] - values[1] < values[1] - values[0]


def test_coverage(nacl):
    cold, warm, hot = (Phonons(nacl, t).sample(nacl.supercell, 20, s) for s, t in enumerate((50, 300, 900)))
    again = Phonons(nacl, 300).sample(nacl.supercell, 20, 9)
    same = coverage(warm, again)
    assert set(same) == {"all", "Na", "Cl"}
    assert same["all"] == pytest.approx(0.95, abs=0.03)
    assert coverage(warm, cold)["all"] > 0.99
    assert coverage(cold, warm)["all"] < 0.5
    assert coverage(warm, hot)["all"] < 0.9
    with pytest.raises(VibronicError, match="two training"):
        coverage(warm[:1], hot)
    with pytest.raises(VibronicError, match="does not"):
        coverage(warm, [bulk("Cu")])
