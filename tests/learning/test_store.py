"""Model folders: what they hold, and what they refuse."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from ase.data import chemical_symbols

from vibronic.core.errors import VibronicError
from vibronic.learning import store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = store.build("painn", targets=["energy"], width=8, layers=1)
    card = store.Card(
        {"structures": 3},
        {"mae_energy": 0.01},
        {"mae_energy": "eV/atom"},
        {"energy": 0.02},
        summary="A test.",
        references={"energy": "free atoms"},
    )
    store.save(model, tmp_path / "model", card)
    return tmp_path / "model"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_a_folder_holds(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    assert described["format"] == store.FORMAT
    assert described["kind"] == "painn"
    assert described["targets"] == {"energy": "eV"}
    assert described["config"]["width"] == 8
    assert "torch" in described["versions"]
    readme = (folder / "README.md").read_text()
    assert "mae_energy | 0.01 | eV/atom" in readme
    assert "A test." in readme


def test_the_card_comes_back(folder: Path) -> None:
    _, card = store.load(folder)
    assert card.scores == {"mae_energy": 0.01}
    assert card.intervals == {"energy": 0.02}
    assert card.data == {"structures": 3}
    assert (card.summary, card.references) == ("A test.", {"energy": "free atoms"})


def test_a_folder_of_before_summaries_and_references_loads(folder: Path) -> None:
    path = folder / "config.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in described.items() if k not in ("summary", "references")}))
    _, card = store.load(folder)
    assert (card.summary, card.references) == ("", {})


def test_every_shipped_model_says_what_it_is_for_and_its_zero() -> None:
    for name in store.shipped():
        model, card = store.load(name)
        assert len(card.summary) > 100
        assert card.data["elements"] == [chemical_symbols[z] for z in model.elements.tolist()]
        zeros = {"energy", "heat_ref", "energy_per_atom", "formation_energy_per_atom"}
        assert {t.name for t in model.targets if t.name in zeros} == set(card.references)


def test_loading_imports_nothing_that_the_folder_names(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for kind in ("evil", "evil.Model", "os.system", ["painn"], {"class": "evil"}, None):
        edit(folder, kind=kind)
        with pytest.raises(VibronicError, match="no model kind"):
            store.load(folder)
    assert "evil" not in sys.modules


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "pytorch_model.bin", "last.ckpt"])
def test_a_pickle_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps({}))
    with pytest.raises(VibronicError, match="run code"):
        store.load(folder)


def test_a_pickle_in_disguise_is_not_opened(folder: Path) -> None:
    torch.save(store.build("painn", width=8).state_dict(), folder / "model.safetensors")
    with pytest.raises(VibronicError, match="corrupt"):
        store.load(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_version(folder: Path, version: object) -> None:
    edit(folder, format=version)
    with pytest.raises(VibronicError, match="format version"):
        store.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', "\x00\xff"])
def test_a_corrupt_description(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(VibronicError, match="corrupt"):
        store.load(folder)


@pytest.mark.parametrize(
    "config",
    [
        [],
        "painn",
        {"width": "wide"},
        {"width": -3},
        {"cutoff": 0},
        {"layers": 1.5},
        {"targets": 3},
        {"targets": ["a b"]},
        {"colour": 1},
    ],
)
def test_a_senseless_config(folder: Path, config: object) -> None:
    edit(folder, config=config)
    with pytest.raises(VibronicError):
        store.load(folder)


@pytest.mark.parametrize("damage", ["truncated", "missing", "of another model", "noise"])
def test_damaged_weights(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    elif damage == "noise":
        path.write_bytes(b"\x00" * 100)
    else:
        edit(folder, config={"targets": ["energy"], "width": 16})
    with pytest.raises(VibronicError, match="did not finish" if damage == "missing" else "corrupt"):
        store.load(folder)


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match="no such folder"):
        store.load(tmp_path / "none")
    with pytest.raises(VibronicError, match="not a model folder"):
        store.load(tmp_path)


def test_building_suggests() -> None:
    with pytest.raises(VibronicError, match="did you mean 'width'"):
        store.build("cgcnn", widht=3)
    with pytest.raises(VibronicError, match="choose one of painn, cgcnn, ridge"):
        store.build("transformer")
