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
        value, low, high = (np.array([float(r[f"{name}{end} [eV]"]) for r in rows]) for end in ("", "_low", "_high"))
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
