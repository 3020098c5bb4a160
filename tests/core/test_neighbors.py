"""The neighbour list against ASE's, where neighbour lists go wrong."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list as ase_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from vibronic.core.errors import VibronicError
from vibronic.core.neighbors import neighbor_list


def edges(i: np.ndarray, j: np.ndarray, shift: np.ndarray) -> set[tuple[int, ...]]:
    listed = [(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)]
    assert len(listed) == len(set(listed))
    return set(listed)


def outside(atoms: Atoms) -> Atoms:
    """The same crystal with its atoms moved by lattice vectors, so that they lie outside the cell."""
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(1).integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    return atoms


CASES = {
    "primitive": bulk("Cu"),
    "tiny cell, many images": Atoms("Po", cell=[1.3] * 3, pbc=True),
    "skewed": Atoms(
        "Cu2", scaled_positions=[(0, 0, 0), (0.3, 0.4, 0.5)], cell=[[4, 0, 0], [9, 3.5, 0], [-7, 8, 4]], pbc=1
    ),
    "left-handed": Atoms("Cu", cell=[[0, 3, 0], [3, 0, 0], [0, 0, 3]], pbc=True),
    "elongated": Atoms("Cu2", positions=[(0, 0, 0), (1, 1, 20)], cell=[2.5, 2.5, 40], pbc=True),
    "outside the cell": outside(bulk("NaCl", "rocksalt", a=5.64, cubic=True)),
    "molecule": molecule("C6H6"),
    "molecule of more atoms than all pairs are computed for": Atoms(bulk("Cu").repeat((4, 6, 9)), pbc=False),
    "molecule in a box": Atoms(molecule("H2O"), cell=[3, 3, 3], pbc=False),
    "slab": fcc111("Cu", (2, 2, 3), vacuum=4.0),
    "slab without third vector": Atoms("Cu2", positions=[(0, 0, 0), (0, 0, 2)], cell=[2.5, 2.5, 0], pbc=(1, 1, 0)),
    "chain": Atoms("Cu", cell=[2.5, 0, 0], pbc=(1, 0, 0)),
}


@pytest.mark.parametrize("atoms", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("cutoff", [3.1, 5.3])
def test_equals_ase(atoms: Atoms, cutoff: float) -> None:
    i, j, shift = neighbor_list(atoms, cutoff)
    assert edges(i, j, shift) == edges(*ase_neighbor_list("ijS", atoms, cutoff))
    assert (np.diff(i) >= 0).all()
    vectors = atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array
    assert (np.linalg.norm(vectors, axis=1) < cutoff).all()


def test_both_ways_to_a_molecule_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    clouds = [Atoms(f"C{n}", positions=rng.uniform(0, 6, (n, 3))) for n in (1, 2, 18, 40)]
    pairs = [neighbor_list(cloud, 4.0) for cloud in clouds]
    monkeypatch.setattr("vibronic.core.neighbors.ALL_PAIRS", 0)
    for cloud, (i, j, shift) in zip(clouds, pairs, strict=True):
        other = neighbor_list(cloud, 4.0)
        assert edges(i, j, shift) == edges(*other)
        assert [a.dtype for a in (i, j, shift)] == [a.dtype for a in other]
        assert (np.diff(i) >= 0).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 6))
def test_equals_ase_in_random_cells(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    cell = rng.normal(0, 2.5, (3, 3))
    cell += 2.0 * np.sign(np.linalg.det(cell)) * np.eye(3)
    if abs(np.linalg.det(cell)) < 5:
        cell = 3 * np.eye(3)
    atoms = Atoms(f"Cu{n}", scaled_positions=rng.uniform(-2, 2, (n, 3)), cell=cell, pbc=True)
    assert edges(*neighbor_list(atoms, 4.0)) == edges(*ase_neighbor_list("ijS", atoms, 4.0))


def test_no_neighbours() -> None:
    i, j, shift = neighbor_list(Atoms("Cu"), 5.0)
    assert len(i) == len(j) == 0
    assert shift.shape == (0, 3)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan")])
def test_refuses_a_senseless_cutoff(cutoff: float) -> None:
    with pytest.raises(VibronicError, match="cutoff"):
        neighbor_list(bulk("Cu"), cutoff)


def test_refuses_a_flat_cell() -> None:
    with pytest.raises(VibronicError, match="no volume"):
        neighbor_list(Atoms("Cu", cell=[[1, 0, 0], [0, 1, 0], [1, 1, 0]], pbc=True), 3.0)
