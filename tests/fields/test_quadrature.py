"""Integrals over all space, against closed forms and densities of PySCF."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import Bohr
from scipy.spatial.transform import Rotation

from vibronic.core.errors import VibronicError
from vibronic.fields import quadrature
from vibronic.fields.atoms import promolecule
from vibronic.fields.quadrature import LEVELS, grids, molecular_grid, nmae, shares


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
    points = np.concatenate([np.random.default_rng(0).uniform(-5, 5, (200, 3)), atoms.positions])
    nearest = np.linalg.norm(points[:, None] - atoms.positions, axis=-1).min(1)
    found = np.stack([shares(atoms, points, a, nearest) for a in range(len(atoms))])
    assert found.min() >= 0
    assert found.sum(0) == pytest.approx(1)
    assert found[:, 200:] == pytest.approx(np.eye(len(atoms)), abs=1e-12), "a nucleus belongs to its atom"


def cluster(edge: int) -> Atoms:
    """Molecules of water on a cubic lattice, about as dense as ice."""
    places = np.stack(np.meshgrid(*[np.arange(edge) * 3.1] * 3, indexing="ij"), -1).reshape(-1, 3)
    water = molecule("H2O")
    return Atoms(water.numbers.tolist() * len(places), np.concatenate([water.positions + x for x in places]))


def test_far_atoms_do_not_matter(monkeypatch) -> None:
    atoms = cluster(3)

    def electrons() -> float:
        return sum(float(grid.weights @ promolecule(atoms, grid.points)) for grid in grids(atoms, 0))

    local = electrons()
    assert local == pytest.approx(atoms.numbers.sum(), rel=5e-4)
    monkeypatch.setattr(quadrature, "REACH", 1e3)
    assert local == pytest.approx(electrons(), rel=1e-9)


def test_the_cost_of_a_grid_grows_with_the_molecule_and_no_faster(monkeypatch) -> None:
    """Distances that are computed, per atom."""
    counted = []

    def counting(points, positions, reach):
        for part, near in neighbourhoods(points, positions, reach):
            counted.append(len(points[part]) * len(near))
            yield part, near

    neighbourhoods = quadrature.neighbourhoods
    monkeypatch.setattr(quadrature, "neighbourhoods", counting)
    per_atom = []
    for n in (60, 240):
        counted.clear()
        list(grids(Atoms(f"C{n}", [[1.4 * k, 0, 0] for k in range(n)]), 0))
        per_atom.append(sum(counted) / n)
    assert per_atom[1] < 1.2 * per_atom[0]


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
