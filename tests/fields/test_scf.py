"""A density as the start of PySCF: its Coulomb matrix is right, and the calculation ends where it would, sooner."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from vibronic.core.errors import VibronicError
from vibronic.fields.atoms import promolecule
from vibronic.fields.expansion import LMAX, RANGES, SHELLS, SIZE, GaussianDensity
from vibronic.fields.quadrature import molecular_grid
from vibronic.fields.samples import density_of_matrix
from vibronic.fields.scales import best_fit, orthonormal
from vibronic.fields.scf import coulomb, initial_density_matrix, structure

pytest.importorskip("pyscf")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture(scope="module")
def water() -> tuple:
    """Water with PySCF's solution, and the closest density that our Gaussians can be: a perfect prediction."""
    from pyscf import dft, gto

    atoms = molecule("H2O")
    mol = gto.M(atom=list(zip(atoms.symbols, atoms.positions.tolist())), basis="6-31G*", verbose=0)
    solved = dft.RKS(mol, xc="PBE").run(chkfile=None)
    matrix = solved.make_rdm1()
    atoms.info["density_matrix"] = matrix[np.tril_indices(len(matrix))]
    grid = molecular_grid(atoms, 1)
    values = density_of_matrix(atoms, grid.points)
    known = (atoms.positions, grid.points, grid.weights, values - promolecule(atoms, grid.points), values)
    positions, *where = map(torch.as_tensor, known)
    numbers = atoms.numbers.tolist()
    fitted = best_fit(positions, numbers, *where)
    coefficients = torch.zeros(len(atoms), SHELLS, SIZE, dtype=torch.float64)
    for a, z in enumerate(numbers):
        for degree in range(LMAX + 1):
            if RANGES[z < 3][degree][1]:
                coefficients[a, :, degree**2 : (degree + 1) ** 2] = orthonormal(z < 3, degree) @ fitted[a][degree]
    return solved, GaussianDensity(structure(mol), coefficients)


def test_the_coulomb_matrix_is_that_of_the_orbitals(water) -> None:
    solved, density = water
    reference = solved.get_j(solved.mol, solved.make_rdm1())
    assert coulomb(density, solved.mol) == pytest.approx(reference, abs=2e-2)
    assert np.abs(reference).max() > 5


@pytest.mark.parametrize("xc", ["PBE", "LDA,VWN", "B3LYP", "TPSS"])
def test_fewer_cycles_to_the_same_energy(water, xc) -> None:
    from pyscf import dft

    solved, density = water
    ends = []
    for start in (None, initial_density_matrix(density, solved.mol, xc)):
        field = dft.RKS(solved.mol, xc=xc)
        field.diis_start_cycle = 0
        field.grids.level = 1
        field.kernel(dm0=start)
        ends.append((field.e_tot, field.cycles))
    assert ends[1][0] == pytest.approx(ends[0][0], abs=1e-7)
    assert ends[1][1] <= ends[0][1] - (3 if xc == "PBE" else 2)


def test_any_basis_will_do(water) -> None:
    from pyscf import gto

    solved, density = water
    mol = gto.M(atom=solved.mol.atom, basis="def2-SVP", verbose=0)
    matrix = initial_density_matrix(density, mol)
    assert np.einsum("ij,ji", matrix, mol.intor("int1e_ovlp")) == pytest.approx(10)


def test_other_molecules_are_refused(water) -> None:
    from pyscf import gto

    _, density = water
    ion = gto.M(atom="O 0 0 0; H 0 0 1", charge=-1, basis="6-31G*", verbose=0)
    with pytest.raises(VibronicError, match="neutral closed-shell"):
        initial_density_matrix(density, ion)
    other = gto.M(atom="O 0 0 0; H 0 0 1; H 0 1 0", basis="6-31G*", verbose=0)
    with pytest.raises(VibronicError, match="another molecule or geometry"):
        initial_density_matrix(density, other)
    assert isinstance(structure(other), Atoms)
