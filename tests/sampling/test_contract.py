"""What every sampler promises, whatever its physics."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

from vibronic.core.errors import VibronicError
from vibronic.sampling.dynamics import Dynamics
from vibronic.sampling.phonons import Phonons
from vibronic.sampling.rattle import Rattle


@pytest.fixture(
    params=["quantum", "classical", "pairs", "gaussian", "uniform-positive", "monte-carlo", "md"], ids=lambda name: name
)
def sampler(request, copper_constants):
    return {
        "quantum": lambda: Phonons(copper_constants, 300),
        "classical": lambda: Phonons(copper_constants, 300, "classical", min_distance=1.5),
        "pairs": lambda: Phonons(copper_constants, 300, plus_minus=True),
        "gaussian": lambda: Rattle(0.1),
        "uniform-positive": lambda: Rattle(0.1, "uniform-positive"),
        "monte-carlo": lambda: Rattle(0.1, "monte-carlo", min_distance=1.9),
        "md": lambda: Dynamics(EMT(), 300, equilibration=4, interval=2),
    }[request.param]()


def test_contract(sampler, copper_constants):
    reference = copper_constants.supercell
    before = reference.copy()
    snapshots = sampler.sample(reference, 4, seed=3)
    assert reference == before
    assert reference.calc is None
    assert len(snapshots) == 4
    for snapshot in snapshots:
        assert type(snapshot) is Atoms
        np.testing.assert_array_equal(snapshot.numbers, reference.numbers)
        np.testing.assert_array_equal(snapshot.cell, reference.cell)
        np.testing.assert_array_equal(snapshot.pbc, reference.pbc)
        assert not snapshot.constraints
        u = snapshot.positions - reference.positions
        assert 0 < np.abs(u).max() < 1.5  # never wrapped
        assert snapshot.info["seed"] == 3
        assert snapshot.info["parent"] == "Cu"
        assert snapshot.info["method"] in ("phonons", "rattle", "md")
    assert len({id(snapshot.info) for snapshot in snapshots}) == 4
    if not isinstance(sampler, Rattle):
        assert snapshots[0].info["temperature_K"] == 300


def test_same_seed_same_configurations(sampler, copper_constants):
    def draw(seed):
        return np.array([s.positions for s in sampler.sample(copper_constants.supercell, 2, seed)])

    np.testing.assert_array_equal(draw(5), draw(5))
    assert np.abs(draw(5) - draw(6)).max() > 1e-3


def test_parent_is_kept(sampler, copper_constants):
    atoms = copper_constants.supercell.copy()
    atoms.info["parent"] = "copper, fcc"
    assert sampler.sample(atoms, 2, 0)[0].info["parent"] == "copper, fcc"


def test_impossible_requests(sampler, copper_constants):
    for n, seed in ((0, 0), (-3, 0), (2, -1)):
        with pytest.raises(VibronicError, match=r"at least 1|negative"):
            sampler.sample(copper_constants.supercell, n, seed)
    with pytest.raises(VibronicError, match="two atoms"):
        sampler.sample(Atoms("Cu", cell=[3, 3, 3], pbc=True), 2, 0)


@pytest.mark.parametrize(
    "sampler_of_molecules",
    [Rattle(0.05), Rattle(0.05, "monte-carlo", min_distance=0.7), Dynamics(EMT(), 100, equilibration=0, interval=2)],
    ids=["gaussian", "monte-carlo", "md"],
)
def test_molecules_too(sampler_of_molecules):
    water = molecule("H2O")
    snapshots = sampler_of_molecules.sample(water, 2, 0)
    assert snapshots[0].get_chemical_formula() == "H2O"
    assert not snapshots[0].pbc.any()
