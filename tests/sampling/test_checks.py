import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from vibronic.core.errors import VibronicError
from vibronic.sampling.checks import (
    check_snapshots,
    check_supercell,
    coverage,
    mean_square_displacements,
    minimum_distance,
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
