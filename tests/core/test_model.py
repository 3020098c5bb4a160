"""What every model refuses: ions and open shells, however a file says it."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from vibronic.core.errors import VibronicError
from vibronic.core.model import Model


def said(**what: object) -> Atoms:
    atoms = molecule("H2O")
    atoms.info = {k: v for k, v in what.items() if k not in ("charges", "moments")}
    atoms.set_initial_charges(what.get("charges"))
    atoms.set_initial_magnetic_moments(what.get("moments"))
    return atoms


@pytest.fixture
def model() -> Model:
    return Model({}, [], 1.0)


@pytest.mark.parametrize(
    ("atoms", "word"),
    [
        (said(charge=1), "OH2 has charge 1,"),
        (said(charge=-1.0), "charge -1.0"),
        (said(charge="one"), "charge one"),
        (said(total_charge=-2), "total_charge -2"),
        (said(Net_Charge=1), "Net_Charge 1"),
        (said(multiplicity=3), "multiplicity 3"),
        (said(charges=[1, 0, 0]), "initial charges that sum to 1"),
        (said(charges=[-1.31, 0.16, 0.16]), "initial charges that sum to -0.99"),
        (said(charges=[np.nan, 0, 0]), "initial charges that sum to nan"),
        (said(spin=2), "spin 2"),
        (said(moments=[2, 0, 0]), "initial magnetic moments of 2 unpaired electrons"),
        (said(moments=[0.4, 0.3, 0.3]), "initial magnetic moments of 1 unpaired electrons"),
        (said(moments=[0, 1, -1]), "initial magnetic moments of 2"),
    ],
)
def test_ions_and_open_shells(model: Model, atoms: Atoms, word: str) -> None:
    with pytest.raises(VibronicError, match="neutral closed-shell structures only") as refused:
        model.check_neutral(atoms)
    assert word in str(refused.value)


@pytest.mark.parametrize(
    "atoms",
    [
        said(),
        said(charge=0, total_charge=0.0, spin=0),
        said(Charge=0, mult=1),
        said(charges=[-0.664, 0.331, 0.331]),  # predicted, and rounded
        said(moments=[0.01, 0, -0.01]),
    ],
)
def test_what_is_neutral_passes(model: Model, atoms: Atoms) -> None:
    model.check_neutral(atoms)


def test_moments_of_a_crystal_pass_and_its_charge_does_not(model: Model) -> None:
    iron = bulk("Fe", cubic=True)
    iron.set_initial_magnetic_moments([2.2, 2.2])
    model.check_neutral(iron)
    iron.set_initial_charges([1.0, 0.0])
    with pytest.raises(VibronicError, match="sum to 1"):
        model.check_neutral(iron)
