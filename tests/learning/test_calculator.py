"""A model as an ASE calculator."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.io import write
from ase.md.verlet import VelocityVerlet
from ase.units import fs

from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.data.dataset import GraphData, read_structures
from vibronic.learning import store
from vibronic.learning.calculator import ModelCalculator
from vibronic.learning.prediction import predict


@pytest.fixture
def potential(labelled_copper: list[Atoms]) -> Model:
    model = store.build("painn", targets=["energy", "forces", "stress", "band_gap"], width=8, layers=1, cutoff=4.0)
    model.prepare(GraphData(labelled_copper, model.targets, 4.0).batch())
    return model.double()


def test_forces_and_stress_are_those_ase_finds_numerically(potential: Model, labelled_copper) -> None:
    atoms = labelled_copper[0].copy()
    atoms.calc = ModelCalculator(potential)
    assert np.allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), rtol=1e-5, atol=1e-7)
    assert np.allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), rtol=1e-5, atol=1e-8)
    assert atoms.get_stress().shape == (6,)
    assert isinstance(atoms.calc.results["band_gap"], float)
    assert atoms.calc.results["free_energy"] == atoms.get_potential_energy()


def test_energy_is_conserved_in_dynamics(potential: Model, labelled_copper) -> None:
    atoms = labelled_copper[0].copy()
    atoms.calc = ModelCalculator(potential)
    atoms.set_velocities(np.random.default_rng(0).normal(0, 0.02, (4, 3)))
    start = atoms.get_total_energy()
    VelocityVerlet(atoms, 1.0 * fs).run(50)
    assert atoms.get_kinetic_energy() > 0.01
    assert atoms.get_total_energy() == pytest.approx(start, abs=0.02 * atoms.get_kinetic_energy())


def test_from_a_folder_and_for_models_without_parameters(labelled_copper, tmp_path) -> None:
    model = store.build("ridge", targets=["energy"], cutoff=4.0)
    model.prepare(GraphData(labelled_copper, model.targets, 4.0).batch())
    store.save(model, tmp_path / "floor", store.Card())
    atoms = labelled_copper[0].copy()
    atoms.calc = ModelCalculator(tmp_path / "floor")
    assert atoms.get_potential_energy() == pytest.approx(labelled_copper[0].calc.results["energy"], abs=0.1)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_forces()


def test_unseen_elements(potential: Model) -> None:
    atoms = bulk("Ag")
    atoms.calc = ModelCalculator(potential)
    with pytest.raises(VibronicError, match="never seen Ag"):
        atoms.get_potential_energy()


def test_overlapping_atoms_are_refused_in_the_words_of_every_other_way(potential: Model, tmp_path) -> None:
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.1]])
    overlap = "atoms 0 (Cu) and 1 (Cu) overlap (closer than 0.4 Angstrom)"
    atoms.calc = ModelCalculator(potential)
    with pytest.raises(VibronicError) as refused:
        atoms.get_potential_energy()
    assert str(refused.value) == f"Cu2: {overlap}"
    with pytest.raises(VibronicError) as refused:
        predict(potential, [bulk("Cu"), atoms])
    assert str(refused.value) == f"structure 1: Cu2: {overlap}"
    write(tmp_path / "overlap.extxyz", Atoms("Cu2", atoms.positions))
    with pytest.raises(VibronicError) as refused:
        read_structures(tmp_path / "overlap.extxyz")
    assert str(refused.value).endswith(f"overlap.extxyz: {overlap}")
