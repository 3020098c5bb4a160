import numpy as np
import pytest
from ase.build import molecule

from vibronic.core.errors import VibronicError
from vibronic.sampling.disorder import strain, substitute, vacancies


def test_substitute_rounds_exactly_and_says_so(anti_perovskite):
    crystal = anti_perovskite * (2, 2, 2)
    mixed = substitute(crystal, "Br", "I", 0.3, seed=1)
    assert (mixed.symbols == "I").sum() == 2
    assert (mixed.symbols == "Br").sum() == 6
    assert "2 of 8" in mixed.info["composition"]
    assert mixed.info["parent"] == crystal.get_chemical_formula(empirical=True)
    np.testing.assert_array_equal(mixed.positions, crystal.positions)
    others = crystal.numbers != 35
    np.testing.assert_array_equal(mixed.numbers[others], crystal.numbers[others])
    assert (crystal.symbols == "Br").sum() == 8
    assert mixed == substitute(crystal, "Br", "I", 0.3, seed=1)
    assert len({str(substitute(crystal, "Br", "I", 0.3, seed=s).symbols) for s in range(8)}) > 1


@pytest.mark.parametrize(("fraction", "count"), [(0, 0), (1, 8), (0.0625, 1)])
def test_substitute_limits(anti_perovskite, fraction, count):
    assert (substitute(anti_perovskite * (2, 2, 2), "Br", "I", fraction, 0).symbols == "I").sum() == count


def test_substitute_brings_the_mass_along(anti_perovskite):
    anti_perovskite.set_masses(anti_perovskite.get_masses())
    assert substitute(anti_perovskite, "Br", "I", 1, 0).get_masses()[4] == pytest.approx(126.9, abs=0.1)


def test_substitute_mistakes(anti_perovskite):
    for arguments, message in (
        (("Br", "I", 1.5), "between 0 and 1"),
        (("Cl", "I", 0.5), "contains no Cl"),
        (("Br", "Q", 0.5), "not a chemical element"),
    ):
        with pytest.raises(VibronicError, match=message):
            substitute(anti_perovskite, *arguments, seed=0)


def test_vacancies(anti_perovskite):
    crystal = anti_perovskite * (2, 2, 2)
    hole = vacancies(crystal, "Ag", 2, seed=0)
    assert len(hole) == 38
    assert (hole.symbols == "Ag").sum() == 22
    assert hole == vacancies(crystal, "Ag", 2, seed=0)
    assert len(vacancies(crystal, "Ag", 0, seed=0)) == 40
    with pytest.raises(VibronicError, match="cannot remove"):
        vacancies(crystal, "S", 9, seed=0)


def test_strain(copper):
    assert strain(copper, 0.01).get_volume() == pytest.approx(copper.get_volume() * 1.01**3)
    sheared = strain(copper, np.array([[0, 0.02, 0], [0, 0, 0], [0, 0, 0]]))
    np.testing.assert_allclose(sheared.get_scaled_positions(), copper.get_scaled_positions(), atol=1e-12)
    deformation = np.linalg.solve(copper.cell.array, sheared.cell.array)
    np.testing.assert_allclose(deformation, deformation.T, atol=1e-12)
    assert deformation[0, 1] == pytest.approx(0.01)
    for wrong, message in ((np.zeros(6), "3 x 3"), (-1.0, "collapses"), (np.nan, "3 x 3")):
        with pytest.raises(VibronicError, match=message):
            strain(copper, wrong)
    with pytest.raises(VibronicError, match="no lattice"):
        strain(molecule("H2O"), 0.01)
