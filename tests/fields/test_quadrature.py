"""Integrals over all space, against closed forms and densities of PySCF."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import Bohr
from scipy.spatial.transform import Rotation

from vibronic.core.errors import VibronicError
from vibronic.fields.quadrature import LEVELS, becke, molecular_grid, nmae


def gaussians(atoms: Atoms, points: np.ndarray, exponent: float = 3.0) -> np.ndarray:
    """One electron on every atom."""
    d2 = ((points[:, None] - atoms.positions) ** 2).sum(-1)
    return ((exponent / np.pi) ** 1.5 * np.exp(-exponent * d2)).sum(1)


@pytest.mark.parametrize("exponent", [0.6, 30.0, 3000.0])
def test_one_atom_is_exact(exponent) -> None:
    atoms = Atoms("C", [[1, 2, 3]])
    grid = molecular_grid(atoms, 3)
    assert grid.weights @ gaussians(atoms, grid.points, exponent) == pytest.approx(1, abs=1e-7)


def test_finer_levels_are_closer() -> None:
    atoms = molecule("CH3CHO")
    errors = []
    for level in LEVELS:
        grid = molecular_grid(atoms, level)
        errors.append(abs(grid.weights @ gaussians(atoms, grid.points) / len(atoms) - 1))
    assert errors[1] < 3e-4
    assert errors[3] < 3e-5
    assert errors[5] < 1e-6


def test_the_electrons_of_a_density() -> None:
    gto = pytest.importorskip("pyscf.gto")
    from pyscf import scf

    atoms = molecule("H2O")
    mol = gto.M(atom=list(zip(atoms.symbols, atoms.positions.tolist())), basis="6-31G*", verbose=0)
    matrix = scf.RHF(mol).run(chkfile=None).make_rdm1()
    for level, tolerance in ((1, 1e-4), (2, 1e-5), (4, 1e-6)):
        grid = molecular_grid(atoms, level)
        values = mol.eval_gto("GTOval_sph", grid.points / Bohr)
        count = grid.weights @ np.einsum("pi,ij,pj->p", values, matrix, values, optimize=True) / Bohr**3
        assert count == pytest.approx(10, rel=tolerance)


def test_a_turned_molecule_has_the_same_integrals() -> None:
    atoms = molecule("CH3OH")
    counts = []
    for seed in range(3):
        turned = atoms.copy()
        turned.positions = atoms.positions @ Rotation.random(random_state=seed).as_matrix().T
        grid = molecular_grid(turned, 2)
        counts.append(grid.weights @ gaussians(turned, grid.points))
    assert np.ptp(counts) < 1e-4 * len(atoms)


def test_the_shares_of_all_atoms_are_one_anywhere() -> None:
    atoms = molecule("C6H6")
    points = np.random.default_rng(0).uniform(-5, 5, (200, 3))
    shares = np.stack([becke(atoms, points, a) for a in range(len(atoms))])
    assert shares.min() >= 0
    assert shares.sum(0) == pytest.approx(1)


def test_far_atoms_do_not_matter() -> None:
    """A chain longer than the neighbours that are asked is integrated as well as a short one."""
    chain = Atoms("C40", [[1.4 * k, 0, 0] for k in range(40)])
    grid = molecular_grid(chain, 1)
    assert grid.weights @ gaussians(chain, grid.points) == pytest.approx(40, rel=1e-3)


def test_the_distance_of_a_density_from_itself_and_from_nothing() -> None:
    atoms = molecule("N2")

    def density(points: np.ndarray) -> np.ndarray:
        return 7 * gaussians(atoms, points)

    assert nmae(density, density, atoms) == 0
    assert nmae(density, lambda points: np.zeros(len(points)), atoms) == pytest.approx(100, rel=1e-3)


def test_impossible_grids_are_one_sentence() -> None:
    with pytest.raises(VibronicError, match="level 9"):
        molecular_grid(molecule("H2"), 9)
    with pytest.raises(VibronicError, match="periodic"):
        molecular_grid(Atoms("H", cell=[3, 3, 3], pbc=True))
