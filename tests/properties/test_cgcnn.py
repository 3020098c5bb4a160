"""The paper's network: its bounds, its scales, its preset."""

import numpy as np
import pytest
import torch
from ase import Atoms

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.properties.cgcnn import PAPER2025, CrystalGraph
from vibronic.properties.elements import ELECTRONEGATIVITY


def test_the_sigmoid_cannot_leave_the_training_range(structures, labelled) -> None:
    """The fault of the paper's model, kept and visible."""
    torch.manual_seed(0)
    model = CrystalGraph(["band_gap"], width=16, layers=2, cutoff=4.0, sigmoid=True).double()
    batch = labelled(model, structures)
    model.prepare(batch)
    with torch.no_grad():
        model.output.weight.mul_(100)
        predicted = model.eval()(batch)["band_gap"]
    y = batch.labels["band_gap"]
    assert y.min() <= predicted.min()
    assert predicted.max() <= y.max()


def test_scales_come_from_the_training_set(structures, labelled) -> None:
    model = CrystalGraph(["energy", "band_gap"], width=8, layers=1, cutoff=4.0).double()
    batch = labelled(model, structures)
    model.prepare(batch)
    assert model.low.numpy() == pytest.approx(
        [float((batch.labels["energy"] / batch.n_atoms).mean()), float(batch.labels["band_gap"].mean())]
    )
    nodes = (model.table[batch.numbers] - model.node_low) / model.node_span
    assert nodes.min() == 0
    assert nodes.max() == 1


def test_dropout_only_while_training(structures) -> None:
    torch.manual_seed(0)
    model = CrystalGraph(width=32, dropout=0.5, cutoff=4.0)
    batch = Batch.from_atoms(structures[0], 4.0)
    assert torch.equal(model.eval()(batch)["band_gap"], model(batch)["band_gap"])
    model.train()
    assert not torch.equal(model(batch)["band_gap"], model(batch)["band_gap"])


def test_the_preset_is_the_scripts() -> None:
    assert PAPER2025["model"] == {
        "width": 128,
        "layers": 3,
        "cutoff": 5.5,
        "pooling": "mean",
        "dropout": 0.4,
        "sigmoid": True,
    }
    assert (
        PAPER2025["training"].items()
        >= {"epochs": 600, "batch_size": 128, "learning_rate": 1e-4, "optimizer": "adam", "clip": 0.0}.items()
    )
    assert PAPER2025["fractions"] == (0.7, 0.15, 0.15)
    CrystalGraph(**PAPER2025["model"])


@pytest.mark.parametrize(
    "settings", [{"targets": ["forces"]}, {"targets": ["stress"]}, {"pooling": "median"}, {"dropout": 1.0}]
)
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(VibronicError):
        CrystalGraph(**settings)


def test_a_training_set_without_bonds() -> None:
    model = CrystalGraph(cutoff=4.0)
    with pytest.raises(VibronicError, match="within the cutoff"):
        model.prepare(Batch.from_atoms(Atoms("Cu"), 4.0, {"band_gap": 1.0}))


def test_electronegativities() -> None:
    assert [ELECTRONEGATIVITY[z] for z in (1, 8, 9, 16, 35, 47, 55, 79, 92)] == [
        2.2,
        3.44,
        3.98,
        2.58,
        2.96,
        1.93,
        0.79,
        2.54,
        1.38,
    ]
    assert len(ELECTRONEGATIVITY) == 104
    assert np.isfinite(ELECTRONEGATIVITY).all()
