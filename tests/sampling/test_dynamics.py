import numpy as np
import pytest
from ase.calculators.emt import EMT

from vibronic.core.errors import VibronicError
from vibronic.sampling.checks import mean_square_displacements
from vibronic.sampling.dynamics import Dynamics
from vibronic.sampling.phonons import thermal_displacements


@pytest.mark.slow
def test_harmonic_crystal_reaches_the_classical_thermal_displacements(copper_constants, spring):
    """Equipartition: Langevin dynamics of springs must find what the modes say, with no free parameter."""
    dynamics = Dynamics(spring(copper_constants), 300, timestep=4, friction=0.005, interval=25)
    snapshots = dynamics.sample(copper_constants.supercell, 400, 0)
    found = mean_square_displacements(snapshots, copper_constants.supercell)["Cu"]
    expected = np.trace(thermal_displacements(copper_constants, 300, "classical")[0]) / 3
    assert found == pytest.approx(expected, rel=0.06)


def test_labels_belong_to_the_positions(copper_constants):
    for snapshot in Dynamics(EMT(), 300, equilibration=5, interval=3).sample(copper_constants.supercell, 3, 0):
        again = snapshot.copy()
        again.calc = EMT()
        assert snapshot.get_potential_energy() == pytest.approx(again.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(snapshot.get_forces(), again.get_forces(), atol=1e-9)
        np.testing.assert_allclose(snapshot.get_stress(), again.get_stress(), atol=1e-9)
        assert snapshot.info["engine"] == "emt"


def test_centre_of_mass_is_at_rest(copper_constants):
    reference = copper_constants.supercell
    start = reference.copy()
    start.rattle(0.05, seed=1)
    start.positions += 5.0
    for snapshot in Dynamics(EMT(), 300, equilibration=5, interval=3, start=start).sample(reference, 3, 0):
        np.testing.assert_allclose(snapshot.get_center_of_mass(), reference.get_center_of_mass(), atol=1e-9)


def test_an_engine_without_stress(copper_constants, spring):
    snapshot = Dynamics(spring(copper_constants), 300, equilibration=1, interval=1).sample(
        copper_constants.supercell, 1, 0
    )[0]
    assert set(snapshot.calc.results) == {"energy", "forces"}


def test_an_explosion_is_told(copper_constants, unstable, spring):
    with pytest.raises(VibronicError, match=r"exploded|flew apart"):
        Dynamics(EMT(), 300, timestep=80, interval=5).sample(copper_constants.supercell, 20, 0)
    with pytest.raises(VibronicError, match=r"exploded|flew apart"):
        Dynamics(spring(unstable), 300, equilibration=2000, interval=20).sample(unstable.supercell, 20, 0)


def test_start_must_be_the_same_structure(copper_constants, copper):
    with pytest.raises(VibronicError, match="start"):
        Dynamics(EMT(), 300, start=copper).sample(copper_constants.supercell, 1, 0)


@pytest.mark.parametrize(
    "setting", [{"temperature": 0}, {"timestep": 0}, {"friction": -1}, {"interval": 0}, {"equilibration": -1}]
)
def test_bad_settings(setting):
    with pytest.raises(VibronicError, match=next(iter(setting))):
        Dynamics(EMT(), **({"temperature": 300} | setting))
