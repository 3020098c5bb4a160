"""Training and explaining as verbs: what they take, print and record."""

import json
from pathlib import Path

import pytest
from ase import Atoms

from vibronic.data.dataset import write_structures
from vibronic.learning.recipe import Training
from vibronic.verbs import train


@pytest.fixture
def data(tmp_path: Path, labelled_copper: list[Atoms]) -> str:
    write_structures(tmp_path / "data.extxyz", labelled_copper)
    return str(tmp_path / "data.extxyz")


def recorded(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def test_what_the_user_changed_wins_over_the_preset(data: str, tmp_path: Path) -> None:
    how = Training(epochs=1, learning_rate=1e-3)
    paper = {"targets": ["band_gap"], "preset": "paper2025", "device": "cpu"}
    train("cgcnn", data, **paper, training=how, model={"width": 8}, out=tmp_path / "a")
    record = recorded(tmp_path / "a")
    used = {
        name: record["config"]["training"][name] for name in ("epochs", "learning_rate", "batch_size", "clip", "ema")
    }
    assert used == {"epochs": 1, "learning_rate": 1e-3, "batch_size": 128, "clip": 0.0, "ema": 0.0}
    assert record["config"]["model"].items() >= {"width": 8, "dropout": 0.4, "sigmoid": True}.items()
    assert record["config"]["fractions"] == [0.7, 0.15, 0.15]
    assert record["structures"] == {"fitted": 17, "validated": 3, "scored": 4}
    trained = json.loads((tmp_path / "a" / "training.json").read_text())["training"]
    assert trained == record["config"]["training"]  # what is recorded is what was done
    train("cgcnn", data, **paper, training=how, fractions=(0.5, 0.25, 0.25), out=tmp_path / "b")
    assert recorded(tmp_path / "b")["structures"] == {"fitted": 12, "validated": 6, "scored": 6}


@pytest.mark.parametrize(
    ("files", "sizes"),
    [
        ({}, "19 to fit, 3 to validate, 2 to score"),
        ({"validation": "data"}, "21 to fit, 24 to validate, 3 to score"),
        ({"validation": "data", "test": "data"}, "24 to fit, 24 to validate, 24 to score"),
    ],
)
def test_the_split_is_told(files: dict, sizes: str, data: str, tmp_path: Path, capsys) -> None:
    chosen = dict.fromkeys(files, data)
    train("cgcnn", data, ["band_gap"], **chosen, training=Training(epochs=1), device="cpu", out=tmp_path / "m")
    assert sizes in capsys.readouterr().out


def test_a_ridge_is_fitted_to_all_but_the_scored(data: str, tmp_path: Path, capsys) -> None:
    train("ridge", data, ["band_gap"], out=tmp_path / "m")
    assert "22 to fit, 0 to validate, 2 to score" in capsys.readouterr().out
