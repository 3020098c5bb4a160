"""Attributions: complete, symmetric, and right where the answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_sum
from vibronic.core.targets import Target
from vibronic.data.dataset import GraphData
from vibronic.explain.attribution import attribute, average
from vibronic.learning import store


class OnlySilverSulphur(Model):
    """A model that looks at nothing but the lengths of its Ag-S bonds."""

    kind = "hand-made"

    def __init__(self) -> None:
        super().__init__({}, [Target("stiffness", "eV")], cutoff=4.0)
        self.elements = torch.tensor([16, 35, 47])

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        i, j = batch.edge_index
        silver_sulphur = (batch.numbers[i] == 47) & (batch.numbers[j] == 16)
        energy = batch.weigh(torch.where(silver_sulphur, torch.exp(-batch.edge_vectors().norm(dim=-1)), 0.0))
        total = scatter_sum(energy, batch.edge_structure, batch.n_structures)
        return {"stiffness": 3.0 + total - 0.5 * total**2}


@pytest.fixture
def rattled(anti_perovskite: Atoms) -> Atoms:
    anti_perovskite.positions += np.random.default_rng(3).normal(0, 0.1, (5, 3))
    return anti_perovskite


@pytest.fixture(scope="module")
def frames() -> list[Atoms]:
    """Labelled Ag3SBr for the models to be prepared on."""
    rng = np.random.default_rng(0)
    sites = [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0)]
    found = []
    for _ in range(12):
        atoms = Atoms("Ag3SBr", scaled_positions=sites, cell=[4.934] * 3, pbc=True)
        atoms.positions += rng.normal(0, 0.15, (5, 3))
        distances = atoms.get_all_distances(mic=True)
        atoms.info |= {"band_gap": float(np.exp(-distances[:3, 3]).sum()), "energy": float(-distances.sum())}
        found.append(atoms)
    return found


@pytest.fixture(params=["painn", "cgcnn", "ridge"])
def model(request: pytest.FixtureRequest, frames: list[Atoms]) -> Model:
    torch.manual_seed(1)
    width = {} if request.param == "ridge" else {"width": 16, "layers": 2}
    model = store.build(request.param, targets=["energy", "band_gap"], cutoff=4.0, **width).double()
    model.prepare(GraphData(frames, model.targets, 4.0).batch().to(dtype=torch.float64))
    return model.eval()


def prediction(model: Model, atoms: Atoms, target: str, bonds: float) -> float:
    batch = Batch.from_atoms(atoms, model.cutoff, dtype=torch.float64)
    batch.edge_weight = torch.full((batch.edge_index.shape[1],), bonds, dtype=torch.float64)
    with torch.no_grad():
        return float(model(batch)[target])


@pytest.mark.parametrize("target", ["energy", "band_gap"])
def test_attributions_add_up(model: Model, rattled: Atoms, target: str) -> None:
    """To f(all bonds) - f(no bonds), the completeness of integrated gradients."""
    found = attribute(model, rattled, target, steps=128 if model.kind == "cgcnn" else 32)
    expected = prediction(model, rattled, target, 1.0) - prediction(model, rattled, target, 0.0)
    assert expected != pytest.approx(0, abs=1e-4)
    tolerance = 2e-2 if model.kind == "cgcnn" else 1e-4  # ReLU has corners, which no quadrature likes
    assert found.value.sum() == pytest.approx(expected, rel=tolerance)
    assert found.per_atom(5).sum() == pytest.approx(found.value.sum())
    assert found.whole == pytest.approx(prediction(model, rattled, target, 1.0), abs=1e-9)
    assert found.bare == pytest.approx(prediction(model, rattled, target, 0.0), abs=1e-9)
    assert found.error == pytest.approx(found.value.sum() - expected, abs=1e-9)


def test_equal_bonds_get_equal_shares(model: Model, anti_perovskite: Atoms) -> None:
    found = attribute(model, anti_perovskite, "band_gap", steps=8)
    for kind, n in {"Ag-S": 6, "Ag-Ag": 12, "Ag-Br": 12}.items():
        nearest = (found.kinds == kind) & (found.length < 3.6)
        assert nearest.sum() == n
        assert np.ptp(found.value[nearest]) < 1e-9 + 1e-6 * np.abs(found.value).max()
    per_atom = found.per_atom(5)
    assert np.allclose(per_atom[:3], per_atom[0], rtol=1e-6)


def test_every_bond_once(rattled: Atoms, model: Model) -> None:
    found = attribute(model, rattled, "band_gap", steps=1)
    assert 2 * len(found.value) == Batch.from_atoms(rattled, 4.0).edge_index.shape[1]
    assert (found.i <= found.j).all()
    vectors = rattled.positions[found.j] - rattled.positions[found.i] + found.shift @ rattled.cell.array
    assert np.allclose(np.linalg.norm(vectors, axis=1), found.length, atol=1e-5)


def test_an_atom_and_its_own_image(frames: list[Atoms]) -> None:
    """In a one-atom cell every bond joins an atom to its image."""
    model = OnlySilverSulphur()
    model.elements = torch.tensor([29])
    found = attribute(model, bulk("Cu"), "stiffness")
    assert len(found.value) == 9  # 18 neighbours within 4 Angstrom
    assert set(found.kinds) == {"Cu-Cu"}


def test_the_bond_that_matters_gets_everything(rattled: Atoms) -> None:
    model = OnlySilverSulphur()
    found = attribute(model, rattled, "stiffness")
    assert (found.value[found.kinds != "Ag-S"] == 0).all()
    assert found.value.sum() == pytest.approx(prediction(model, rattled, "stiffness", 1.0) - 3.0, rel=1e-6)
    # each bond's share is proportional to its term in the sum
    bonds = found.kinds == "Ag-S"
    share = found.value[bonds] / np.exp(-found.length[bonds])
    assert np.ptp(share) < 1e-6 * share.max()


def test_no_bonds_no_attributions() -> None:
    found = attribute(OnlySilverSulphur(), Atoms("Ag"), "stiffness")
    assert len(found.value) == 0
    assert found.per_atom(1).tolist() == [0]


def test_the_mean_over_seeds(rattled: Atoms) -> None:
    one = attribute(OnlySilverSulphur(), rattled, "stiffness")
    other = replace(one, value=3 * one.value, whole=3 * one.whole, bare=3 * one.bare)
    both = average([one, other])
    assert np.allclose(both.value, 2 * one.value)
    assert (both.whole, both.bare) == pytest.approx((2 * one.whole, 2 * one.bare))
    shorter = OnlySilverSulphur()
    shorter.cutoff = 3.0
    with pytest.raises(VibronicError, match="same cutoff"):
        average([one, attribute(shorter, rattled, "stiffness")])


def test_refusals(rattled: Atoms, copper: Atoms) -> None:
    model = OnlySilverSulphur()
    with pytest.raises(VibronicError, match="choose one of stiffness"):
        attribute(model, rattled, "energy")
    with pytest.raises(VibronicError, match="never seen Cu"):
        attribute(model, copper, "stiffness")
    with pytest.raises(VibronicError, match="at least one step"):
        attribute(model, rattled, "stiffness", steps=0)


def test_bonds_of_a_hamiltonian_add_up_and_electrostatics_belongs_to_none(frames: list[Atoms]) -> None:
    model = store.build("tight-binding", targets=["band_gap"], iterations=3)
    model.prepare(GraphData(frames, model.labels, model.cutoff).batch().to(dtype=torch.float64))
    found = [attribute(model, atoms, "band_gap", steps=48) for atoms in frames[:3]]
    for one in found:
        assert abs(one.error) < 0.05 * np.abs(one.value).sum()
    assert np.ptp([one.bare for one in found]) > 1e-4
    *_, charges = model.layout.split(model.values)
    charges.zero_()
    alone = [attribute(model, atoms, "band_gap", steps=2).bare for atoms in frames[:3]]
    assert np.ptp(alone) < 1e-9
