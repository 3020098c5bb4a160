"""Force constants to test with, and a calculator whose every answer is known."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from vibronic.sampling.harmonic import ForceConstants
from vibronic.sampling.phonons import force_constants, read_force_constants
from vibronic.sampling.sampler import displacements_of


class Spring(Calculator):
    """E = u.Phi.u/2 + quartic/4 sum_i |u_i|^4 about a reference; u counts from the centre of mass."""

    implemented_properties = ("energy", "forces")

    def __init__(self, constants: ForceConstants, quartic: float = 0.0) -> None:
        super().__init__()
        self.constants, self.quartic = constants, quartic

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        u = displacements_of([atoms], self.constants.supercell)[0]
        harmonic = np.einsum("ijab,jb->ia", self.constants.array, u)
        square = (u**2).sum(axis=1, keepdims=True)
        gradient = harmonic + self.quartic * square * u
        mass = atoms.get_masses()[:, None]
        self.results = {
            "energy": float((u * harmonic).sum() / 2 + self.quartic * (square**2).sum() / 4),
            "forces": -(gradient - mass / mass.sum() * gradient.sum(axis=0)),
        }


@pytest.fixture(scope="session")
def spring() -> type[Spring]:
    return Spring


@pytest.fixture(scope="session")
def nacl(reference_data) -> ForceConstants:
    """Published: 64 atoms of NaCl."""
    return read_force_constants(reference_data / "thermal/phonopy_examples/NaCl")


@pytest.fixture(scope="session")
def copper_constants() -> ForceConstants:
    """32 atoms of copper by EMT at its own lattice constant."""
    return force_constants(bulk("Cu", a=3.59, cubic=True), (2, 2, 2), EMT(), progress=False)


@pytest.fixture(scope="session")
def unstable(copper_constants) -> ForceConstants:
    """Copper whose softest modes were made imaginary: Phi - c (1 - translations)."""
    n = len(copper_constants.supercell)
    lowest = copper_constants.modes()
    shift = 0.9 * np.median(np.linalg.eigvalsh(copper_constants.array.transpose(0, 2, 1, 3).reshape(3 * n, -1)))
    array = copper_constants.array - shift * np.einsum("ij,ab->ijab", np.eye(n) - 1 / n, np.eye(3))
    constants = ForceConstants(
        copper_constants.unitcell, copper_constants.supercell, copper_constants.supercell_matrix, array
    )
    assert not lowest.unstable.any()
    assert constants.modes().unstable.any()
    return constants


@pytest.fixture
def salt() -> Atoms:
    """Rock salt, two species, 64 atoms, built by ASE in another atom order than phonopy's."""
    return bulk("NaCl", "rocksalt", a=5.69030147617566, cubic=True) * (2, 2, 2)
