"""Crystals as dense tensors: invariant lattices, shortest ways on the torus, padding."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.geometry import cell_to_cellpar
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.crystals.cells import (
    Cells,
    centred,
    fourier,
    lattice_of,
    metric_of,
    padded,
    shortest_squared,
    shortest_ways,
    strain_of,
    wrapped,
)
from vibronic.data.cells import reduced

few = settings(max_examples=30, deadline=None, derandomize=True)
seeds = given(seed=st.integers(0, 10**6))


def random_lattice(seed: int) -> Tensor:
    """(1, 3, 3) a skewed cell of a few Angstrom, neither flat nor left-handed."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(2.5, 9, 3)) + rng.normal(0, 0.7, (3, 3))
    return torch.from_numpy(cell)[None]


@few
@seeds
def test_lattice_to_strain_and_back(seed: int) -> None:
    lattice, n = random_lattice(seed), torch.tensor([5])
    again = lattice_of(strain_of(lattice, n), n)
    assert cell_to_cellpar(again[0].numpy()) == pytest.approx(cell_to_cellpar(lattice[0].numpy()), rel=1e-9)
    assert (again[0].triu(1) == 0).all()
    assert float(torch.linalg.det(again[0])) > 0
    assert torch.allclose(metric_of(strain_of(lattice, n), n), lattice @ lattice.mT)


@few
@seeds
def test_the_strain_does_not_see_rotations(seed: int) -> None:
    lattice, n = random_lattice(seed), torch.tensor([3])
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix() * (-1) ** seed)
    assert torch.allclose(strain_of(lattice @ turn, n), strain_of(lattice, n), atol=1e-9)


@few
@seeds
def test_the_strain_is_relative_to_the_volume_per_atom(seed: int) -> None:
    lattice, n = random_lattice(seed), torch.tensor([4])
    # Twice as long in all directions, eight times the atoms: the same crystal, the same six numbers.
    assert torch.allclose(strain_of(2 * lattice, 8 * n), strain_of(lattice, n), atol=1e-9)
    trace = strain_of(lattice, n)[0, [0, 3, 5]].sum()
    volume = torch.linalg.det(lattice[0]).abs()
    assert float(trace) == pytest.approx(float((volume / 4).log()), abs=1e-9)


def test_a_cube_of_one_atom_per_cubic_angstrom_is_zero() -> None:
    assert strain_of(2 * torch.eye(3)[None], torch.tensor([8])).abs().max() < 1e-6


@given(
    numbers=st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6),
    n=st.integers(1, 64),
    double=st.booleans(),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_six_numbers_are_a_cell(numbers: list[float], n: int, double: bool) -> None:
    strain = torch.tensor([numbers], dtype=torch.float64 if double else torch.float32)
    lattice = lattice_of(strain, torch.tensor([n]))
    assert lattice.dtype == strain.dtype
    assert torch.isfinite(lattice).all()
    assert float(torch.linalg.det(lattice.double())[0]) > 0


def test_wrapped_and_centred() -> None:
    x = torch.tensor([0.6, -0.6, 1.2, 3.0])
    assert wrapped(x).numpy() == pytest.approx([-0.4, 0.4, 0.2, 0.0], abs=1e-6)
    mask = torch.tensor([[True, True, False]])
    away = centred(torch.tensor([[[1.0, 2, 3], [3, 2, 1], [9, 9, 9]]]), mask)
    assert away.tolist() == [[[-1, 0, 1], [1, 0, -1], [0, 0, 0]]]


def test_fourier_features_have_the_period_of_the_torus() -> None:
    x = torch.rand(4, 3, dtype=torch.float64)
    found = fourier(x, 5)
    assert found.shape == (4, 30)
    assert torch.allclose(fourier(x + 1, 5), found)
    assert found[0, 1] == pytest.approx(float(torch.sin(4 * torch.pi * x[0, 0])))
    assert found[0, 15 + 2] == pytest.approx(float(torch.cos(6 * torch.pi * x[0, 0])))


def test_padded() -> None:
    assert padded([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]


# --- ways from noise to a crystal ---

NUMBERS = torch.tensor([[11, 11, 17, 17, 17, 0], [8, 8, 8, 8, 22, 38]])


@few
@seeds
def test_shortest_ways(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, end = (torch.rand(2, 6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    way = shortest_ways(start, end, NUMBERS)
    mask = NUMBERS > 0
    assert (way * mask[..., None]).sum(1).abs().max() < 1e-9
    assert (way[~mask] == 0).all()
    for b in range(2):
        for z in NUMBERS[b][mask[b]].unique():
            same = NUMBERS[b] == z
            # Back from its atoms one is at its points, each once, moved somewhere as a whole.
            left = (end - way)[b, same]
            apart = wrapped(left[:, None] - start[b, same])
            shifts = [apart[0, k] for k in range(len(left))]
            assert any(
                torch.allclose(
                    wrapped(apart - shift).abs().amax(-1).amin(1), torch.zeros(len(left), dtype=left.dtype), atol=1e-9
                )
                for shift in shifts
            )


def test_they_are_shorter_than_naive_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = NUMBERS.repeat(100, 1)
    start, end = (torch.rand(200, 6, 3, generator=generator) for _ in range(2))
    mask = numbers > 0
    way = shortest_ways(start, end, numbers)
    naive = centred(wrapped(end - start), mask)
    assert float((way**2).sum()) < 0.75 * float((naive**2).sum())


def test_a_crystal_on_its_own_atoms_does_not_move() -> None:
    generator = torch.Generator().manual_seed(0)
    end = torch.rand(1, 5, 3, generator=generator, dtype=torch.float64)
    numbers = torch.tensor([[8, 8, 8, 22, 38]])
    assert shortest_ways(end[:, [2, 0, 1, 3, 4]] + 0.05, end, numbers).abs().max() < 1e-9


# --- batches and structures ---


def crystals() -> list[Atoms]:
    found = [bulk("Cu"), bulk("NaCl", "rocksalt", a=5.64, cubic=True), bulk("ZnO", "wurtzite", a=3.25, c=5.2)]
    found[1].translate((1.3, -7.0, 22.0))  # atoms outside the cell are the same crystal
    return found


def test_batch_to_cells_to_structures() -> None:
    given = crystals()
    cells = Cells.from_batch(Batch.collate([Batch.from_atoms(a, 0.0) for a in given]))
    assert cells.numbers.shape == (3, 8)
    assert cells.n_atoms.tolist() == [1, 8, 4]
    assert cells.mask.sum().item() == 13
    assert (cells.fractional[~cells.mask] == 0).all()
    assert ((cells.fractional >= 0) & (cells.fractional <= 1)).all()
    for before, after in zip(given, cells.to_atoms(), strict=True):
        assert after.numbers.tolist() == before.numbers.tolist()
        assert after.cell.array == pytest.approx(before.cell.array, abs=1e-5)
        assert after.pbc.all()
        away = after.get_scaled_positions(wrap=False) - before.get_scaled_positions(wrap=False)
        assert away - np.round(away) == pytest.approx(0, abs=1e-5)
        inside = after.get_scaled_positions(wrap=False)
        assert ((inside > -1e-9) & (inside < 1 + 1e-9)).all()


def test_the_shortest_image_is_that_of_ase() -> None:
    """In reduced cells, also very oblique ones, and where a displacement of 1/2 leaves the side to rounding."""
    rng = np.random.default_rng(0)
    primitive = bulk("NaCl", "rocksalt", 5.64)
    frames = [reduced(primitive)]
    for shift in rng.normal(0, 3, (5, 3)):
        frames.append(reduced(Atoms("NaCl", primitive.positions + shift, cell=primitive.cell, pbc=True)))
    for _ in range(20):
        cell = 3 * np.eye(3) + 1.5 * rng.normal(size=(3, 3))
        frames.append(reduced(Atoms("NaClKF", scaled_positions=rng.random((4, 3)), cell=cell, pbc=True)))
    for atoms in frames:
        scaled = torch.from_numpy(atoms.get_scaled_positions())
        metric = torch.from_numpy(atoms.cell.array @ atoms.cell.array.T)[None]
        found = shortest_squared(wrapped(scaled[:, None] - scaled)[None], metric)[0].sqrt()
        assert found.numpy() == pytest.approx(atoms.get_all_distances(mic=True), abs=1e-6)
