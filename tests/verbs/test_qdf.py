"""From labelled molecules on the disk to predictions with intervals, with our field model."""

import csv
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

from vibronic import verbs
from vibronic.cli import main
from vibronic.core.errors import VibronicError
from vibronic.learning import store
from vibronic.learning.prediction import predict
from vibronic.learning.recipe import Training

SMALL = {"cutoffs": [4.0], "points": [60], "momentum": 2, "orbitals": 6, "components": 12}


@pytest.fixture
def molecules(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frames: list[Atoms] = []
    for k in range(120):
        atoms = molecule(("CH4", "H2O", "NH3", "C2H6", "CH3OH")[k % 5])
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        d = atoms.get_all_distances() + 9 * np.eye(len(atoms))
        atoms.info.update(energy=float(np.exp(-d).sum() - len(atoms)), homo=float(-10 + np.exp(-d).mean()))
        frames.append(atoms)
    write(tmp_path / "molecules.extxyz", frames)
    return tmp_path / "molecules.extxyz"


def test_train_and_predict(molecules: Path, tmp_path: Path) -> None:
    folder = verbs.train("qdf", str(molecules), targets=["energy", "homo"], model=SMALL, out=tmp_path / "model")
    assert not (folder / "checkpoints").exists()  # nothing to resume: it was solved for
    assert " 0 fitted numbers" not in (folder / "README.md").read_text()
    verbs.predict(str(folder), str(molecules), out=tmp_path / "p.csv")
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120
    for name in ("energy", "homo"):
        like = [r for r in rows if float(r["novelty"]) <= 1]
        value, low, high = (np.array([float(r[f"{name}{end} [eV]"]) for r in like]) for end in ("", "_low", "_high"))
        assert len(value) > 110
        assert np.ptp(value) > 0.01
        assert (low < value).all()
        assert (value < high).all()


def test_an_ion_is_one_sentence(molecules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = verbs.train("qdf", str(molecules), targets=["energy"], model=SMALL, out=tmp_path / "model")
    triplet, ion = molecule("CH2_s3B1d"), molecule("NH3")
    ion.info["total_charge"] = 1
    for atoms, word in ((triplet, "magnetic moments of 2"), (ion, "total_charge 1")):
        write(tmp_path / "refused.extxyz", atoms)
        refused = str(tmp_path / "refused.extxyz")
        for command in (["predict", str(folder), refused], ["train", "qdf", refused, "--targets", "energy"]):
            assert main([*command, "--out", str(tmp_path / "none")]) == 2
            told = capsys.readouterr().err.strip()
            assert word in told
            assert len(told.splitlines()) == 1


def test_an_error_says_which_structure_it_is_of(molecules: Path, tmp_path: Path) -> None:
    folder = verbs.train("qdf", str(molecules), targets=["energy"], model=SMALL, out=tmp_path / "model")
    model, _ = store.load(folder)
    good = molecule("CH4")
    good.info["energy"] = -1.0
    radical = Atoms("CH3", molecule("CH3").positions)  # refused when the model sees it
    ion, foreign = molecule("NH3"), molecule("SiH4")  # refused before
    ion.info["charge"] = 1
    for bad, word in ((radical, "odd number"), (ion, "charge 1"), (foreign, "never seen Si")):
        frames = [good, good, good, bad]
        with pytest.raises(VibronicError, match=f"^structure 3: .*{word}"):
            predict(model, frames, batch_size=2)
        write(tmp_path / "some.extxyz", frames)
        with pytest.raises(VibronicError, match=rf"some\.extxyz, structure 3: .*{word}"):
            verbs.predict(str(folder), str(tmp_path / "some.extxyz"), out=tmp_path / "p.csv")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.extxyz", [good, good, good])
    write(tmp_path / "set" / "b.extxyz", [good, ion])
    for verb in (verbs.predict, verbs.explain):
        with pytest.raises(VibronicError, match=r"b\.extxyz, structure 1: NH3 has charge 1"):
            verb(str(folder), str(tmp_path / "set"), out=tmp_path / "p.csv")
    with pytest.raises(VibronicError, match=r"b\.extxyz, structure 1: NH3 has charge 1"):
        verbs.train("qdf", str(tmp_path / "set"), targets=["energy"], out=tmp_path / "none")


def test_a_model_is_not_lost_to_another_training(molecules, tmp_path) -> None:
    out = tmp_path / "model"
    verbs.train("qdf", str(molecules), targets=["energy"], model=SMALL, out=out)
    before = (out / "model.safetensors").read_bytes()
    for kind, targets, model in (("qdf", ["homo"], SMALL), ("ridge", ["energy"], None)):
        with pytest.raises(VibronicError, match="holds a model of other settings"):
            verbs.train(kind, str(molecules), targets=targets, model=model, out=out)
    assert (out / "model.safetensors").read_bytes() == before
    verbs.train("qdf", str(molecules), targets=["energy"], model=SMALL, out=out)  # the same may be done again


def test_settings_of_steps_are_refused_where_no_step_is_taken(molecules: Path, tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match=r"qdf is fitted in closed form, without steps: --training\.batch_size"):
        verbs.train("qdf", str(molecules), model=SMALL, training=Training(batch_size=8), out=tmp_path / "model")
