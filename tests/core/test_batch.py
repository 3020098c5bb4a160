"""Batches: geometry, labels, collation."""

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from vibronic.core.batch import Batch, widest


def test_edges_of_the_anti_perovskite(anti_perovskite: Atoms) -> None:
    batch = Batch.from_atoms(anti_perovskite, 3.0, dtype=torch.float64)
    i, j = batch.edge_index
    kinds = {frozenset((anti_perovskite.symbols[a], anti_perovskite.symbols[b])) for a, b in zip(i, j, strict=True)}
    assert kinds == {frozenset(("Ag", "S"))}
    assert len(i) == 2 * 6  # six Ag around S, a/2 away
    assert np.allclose(batch.edge_vectors().norm(dim=-1), 4.934 / 2)


def test_edge_vectors_differentiate_through_cell_and_positions(copper: Atoms) -> None:
    batch = Batch.from_atoms(copper, 3.0, dtype=torch.float64)
    batch.cell.requires_grad_()
    batch.positions.requires_grad_()
    batch.edge_vectors().square().sum().backward()
    assert batch.cell.grad is not None
    assert batch.cell.grad.abs().sum() > 0
    assert batch.positions.grad is not None
    assert torch.allclose(batch.positions.grad, torch.zeros_like(batch.positions.grad), atol=1e-9)  # by symmetry


def test_collate_equals_its_parts(copper: Atoms, anti_perovskite: Atoms) -> None:
    structures = [copper, molecule("H2O"), anti_perovskite]
    parts = [
        Batch.from_atoms(a, 4.0, {"energy": float(k), "forces": np.full((len(a), 3), k)})
        for k, a in enumerate(structures)
    ]
    whole = Batch.collate(parts)
    assert whole.n_structures == 3
    assert whole.n_atoms.tolist() == [4, 3, 5]
    assert torch.equal(whole.edge_vectors(), torch.cat([p.edge_vectors() for p in parts]))
    assert torch.equal(
        torch.bincount(whole.edge_structure, minlength=3), torch.tensor([p.edge_index.shape[1] for p in parts])
    )
    assert whole.labels["energy"].tolist() == [0, 1, 2]
    assert torch.equal(whole.labels["forces"][:, 0], whole.index.double())
    assert np.allclose(whole.volume(), [copper.get_volume(), 0, anti_perovskite.get_volume()])


def test_the_stress_of_three_atoms_is_one_label_not_three() -> None:
    """A (3, 3) stress looks like three per-atom vectors when there are three atoms."""
    atoms = Atoms("Cu3", positions=[(0, 0, 0), (0, 0, 2), (0, 2, 0)], cell=[5] * 3, pbc=True)
    batch = Batch.from_atoms(atoms, 3.0, {"stress": np.eye(3), "forces": np.zeros((3, 3))})
    assert batch.labels["stress"].shape == (1, 3, 3)
    assert batch.labels["forces"].shape == (3, 3)


def test_to_converts_the_geometry_and_keeps_integers() -> None:
    batch = Batch.from_atoms(bulk("Cu"), 4.0).to(dtype=torch.float64)
    assert batch.positions.dtype == batch.edge_shift.dtype == batch.cell.dtype == torch.float64
    assert batch.numbers.dtype == batch.edge_index.dtype == torch.int64


def test_labels_keep_all_their_digits() -> None:
    energy = -140_000.001234  # single precision has steps of 16 meV there
    batch = Batch.from_atoms(bulk("Cu"), 4.0, {"energy": energy, "forces": np.full((1, 3), 1 / 3)})
    assert batch.positions.dtype == torch.float32
    for same in (batch, batch.to("cpu", torch.float32), Batch.collate([batch, batch]).select(torch.tensor([1]))):
        assert float(same.labels["energy"]) == energy
        assert same.labels["forces"].dtype == torch.float64
    assert widest("mps") == torch.float32


def test_weigh_scales_rows() -> None:
    batch = Batch.from_atoms(bulk("Cu"), 3.0)
    edges = torch.ones(batch.edge_index.shape[1], 2)
    assert batch.weigh(edges) is edges
    batch.edge_weight = torch.arange(len(edges)).float()
    assert torch.equal(batch.weigh(edges)[:, 1], batch.edge_weight)


def test_select_is_the_batch_of_the_selected() -> None:
    atoms = [bulk("Cu"), bulk("NaCl", "rocksalt", a=5.6), bulk("Si"), bulk("Cu", cubic=True)]
    parts = [
        Batch.from_atoms(a, 4.0, {"energy": float(k), "forces": np.full((len(a), 3), k)}) for k, a in enumerate(atoms)
    ]
    some, expected = Batch.collate(parts).select(torch.tensor([1, 3])), Batch.collate([parts[1], parts[3]])
    for name in ("positions", "numbers", "cell", "index", "edge_index", "edge_shift"):
        assert torch.equal(getattr(some, name), getattr(expected, name)), name
    for name, value in expected.labels.items():
        assert torch.equal(some.labels[name], value)
