"""PaiNN: derivatives of one potential, scales from the training set, and the limits of its readouts."""

import numpy as np
import pytest
import torch
from ase import Atoms

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.scatter import scatter_mean
from vibronic.properties.painn import PaiNN
from vibronic.properties.pair import RadialBasis
from vibronic.properties.readout import ExtremumReadout, scatter_softmax


def energy(model: PaiNN, atoms: Atoms) -> float:
    with torch.no_grad():
        return float(model(Batch.from_atoms(atoms, model.cutoff, dtype=torch.float64))["energy"])


def test_forces_are_minus_the_gradient(painn, structures, predict) -> None:
    h = 1e-4
    for atoms in structures[:2]:
        forces = predict(painn, atoms)["forces"]
        assert np.allclose(forces.sum(0), 0, atol=1e-10)
        for a, axis in ((0, 0), (1, 2), (len(atoms) - 1, 1)):
            ends = []
            for step in (h, -h):
                moved = atoms.copy()
                moved.positions[a, axis] += step
                ends.append(energy(painn, moved))
            assert forces[a, axis] == pytest.approx(-(ends[0] - ends[1]) / (2 * h), rel=1e-5, abs=1e-7)


def test_stress_is_the_strain_derivative_over_the_volume(painn, structures, predict) -> None:
    h = 1e-5
    for atoms in structures[:3]:
        stress = predict(painn, atoms)["stress"]
        for a, b in ((0, 0), (1, 1), (0, 1), (1, 2)):
            ends = []
            for step in (h, -h):
                strain = np.eye(3)
                strain[a, b] += step / 2
                strain[b, a] += step / 2
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                ends.append(energy(painn, moved))
            expected = (ends[0] - ends[1]) / (2 * h) / atoms.get_volume()
            assert stress[a, b] == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_loss_of_forces_has_the_right_gradient(painn, structures, labelled) -> None:
    """Training differentiates the forces in turn; checked against a finite difference of the loss."""
    batch = labelled(painn, structures[:2])
    weight = painn.messages[0].scalar[0].weight
    (gradient,) = torch.autograd.grad(painn.loss(batch)["loss"], weight)
    k = divmod(int(gradient.abs().argmax()), weight.shape[1])
    losses = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            weight[k] += step
            losses.append(float(painn.loss(batch)["loss"]))
        weight[k] += 1e-5
    assert float(gradient[k]) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4)


def test_a_prediction_keeps_no_graph(painn, structures) -> None:
    with torch.no_grad():
        out = painn(Batch.from_atoms(structures[0], painn.cutoff, dtype=torch.float64))
    assert not any(v.requires_grad for v in out.values())


def test_reference_energies_come_from_the_training_set() -> None:
    """With energies linear in the composition nothing is left to learn."""
    atoms = [Atoms("Cu2"), Atoms("CuAg"), Atoms("Ag3Cu"), Atoms("Ag")]
    for k, a in enumerate(atoms):
        a.positions[:, 0] = 2.5 * np.arange(len(a)) + 0.01 * k
    e = {"Cu": -3.0, "Ag": -2.0}
    labels = [sum(e[s] for s in a.symbols) for a in atoms]
    batch = Batch.collate([Batch.from_atoms(a, 4.0, {"energy": v}) for a, v in zip(atoms, labels, strict=True)])
    model = PaiNN(["energy"], width=8, layers=1, cutoff=4.0, pair=False)
    model.prepare(batch)
    assert model.pair.reference[29] == pytest.approx(-3, abs=1e-4)
    assert model.pair.reference[47] == pytest.approx(-2, abs=1e-4)


def test_a_molecule_has_no_stress(painn, predict) -> None:
    assert np.isnan(predict(painn, Atoms("Cu2", positions=[(0, 0, 0), (0, 0, 2.5)]))["stress"]).all()


def test_the_basis_vanishes_smoothly() -> None:
    radial = RadialBasis(6, 5.0).double()
    r = torch.tensor([5.0 - 1e-3, 5.0, 6.0], dtype=torch.float64, requires_grad=True)
    basis = radial(r)
    (slope,) = torch.autograd.grad(basis.sum(), r)
    assert basis.shape == (3, 7)
    assert basis[1:].abs().max() < 1e-12
    assert slope[1:].abs().max() < 1e-12
    assert 0 < basis[0].abs().max() < 1e-7  # third order


@pytest.mark.parametrize("targets", [["forces"], ["stress", "band_gap"], ["energy", "dipole"]])
def test_targets_that_make_no_sense(targets: list[str]) -> None:
    with pytest.raises(VibronicError):
        PaiNN(targets)


def test_the_extremum_readout_reaches_from_mean_to_maximum() -> None:
    index = torch.tensor([0, 0, 0, 1])
    values = torch.tensor([1.0, 2.0, 4.0, 7.0])
    assert torch.allclose(scatter_mean(values, index, 2), torch.tensor([7 / 3, 7.0]))
    sharp = scatter_softmax(100 * values, index, 2)
    assert torch.allclose(sharp, torch.tensor([0.0, 0, 1, 1]))
    assert torch.allclose(scatter_softmax(torch.full((4,), 1e4), index, 2), torch.tensor([1 / 3, 1 / 3, 1 / 3, 1]))
    readout = ExtremumReadout(8)
    features = torch.randn(3, 8)
    same = torch.zeros(3, dtype=torch.long)
    assert torch.allclose(readout(features, same, 1), readout.head(features)[:, 0].mean())  # untrained: the mean
