"""Every mistake of a user ends in one clear sentence and status 2, never in a traceback. All through the command line."""

import errno
import gzip
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from vibronic.cli import main
from vibronic.data.dataset import write_structures

Fails = Callable[..., str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, labelled_copper: list[Atoms]) -> Path:
    """A folder with good and bad files, and a good model."""
    here = tmp_path_factory.mktemp("home")
    write_structures(here / "good.extxyz", labelled_copper)
    good = (here / "good.extxyz").read_text()
    lines = good.splitlines(keepends=True)
    write(here / "cu.cif", bulk("Cu", cubic=True))
    cif = (here / "cu.cif").read_text()
    texts = {
        "empty.extxyz": "",
        "blank.cif": "\n\n",
        "truncated.extxyz": "".join(lines[:-2]),
        "half-line.extxyz": "".join(lines[:-1]) + lines[-1][:20],
        "truncated.cif": cif[: cif.index("loop_") + 40],
        "prose.txt": "This is not a structure.\n",
        "prose.extxyz": "This is not a structure.\n",
        "words.extxyz": "2\n\nCu 0 0 zero\nCu 0 0 2\n",
        "partial.cif": cif.replace("1.0000", "0.6000", 1),
        "unknown.extxyz": "2\n\nXx 0 0 0\nCu 0 0 2\n",
        "dummy.extxyz": "2\n\nX 0 0 0\nCu 0 0 2\n",
        "nan.extxyz": "2\n\nCu 0 0 nan\nCu 0 0 2\n",
        "flat.extxyz": '1\nLattice="3 0 0 0 3 0 3 3 0" Properties=species:S:1:pos:R:3 pbc="T T T"\nCu 0 0 0\n',
        "no-length.extxyz": '1\nLattice="3 0 0 0 3 0 0 0 0" Properties=species:S:1:pos:R:3 pbc="T T T"\nCu 0 0 0\n',
        "overlap.extxyz": "2\n\nCu 0 0 0\nCu 0 0 0.1\n",
        "no-atoms.extxyz": "0\n\n",
        "table.csv": "a,b\n1,2\n",
    }
    for name, text in texts.items():
        (here / name).write_text(text)
    (here / "binary.extxyz").write_bytes(np.random.default_rng(0).bytes(5000))
    (here / "binary.cif").write_bytes(b"\x00\xff" * 500)
    (here / "cut.extxyz.gz").write_bytes(gzip.compress(good.encode())[:-30])
    (here / "pickle.pkl").write_bytes(pickle.dumps({"a": 1}))
    (here / "nothing").mkdir()
    water = "3\nwater\nO 0 0 0\nH 0 0 0.96\nH 0.93 0 -0.24\n"
    molecules = {
        "hole": ("b.xyz", ""),
        "collision": ("b.xyz", water.replace("0.96", "0.06")),
        "alchemy": ("b.xyz", water.replace("O", "Qq")),
        "ghost": ("b.xyz", water.replace("O", "X")),
        "tail": ("b.xyz", water[:-10]),
        "lost": ("b.xyz", water.replace("0.96", "nan")),
        "packed": ("b.xyz.gz", ""),
    }
    for name, (file, text) in molecules.items():
        (here / f"molecules-{name}").mkdir()
        (here / f"molecules-{name}" / "a.xyz").write_text(water)
        (here / f"molecules-{name}" / file).write_text(text)
    for value in ("nan", "inf"):
        frames = [a.copy() for a in labelled_copper]
        for a in frames:
            a.info["band_gap"] = 1.0
        frames[3].info["band_gap"] = float(value)
        write_structures(here / f"{value}-label.extxyz", frames)
    frames = [a.copy() for a in labelled_copper]
    del frames[5].info["band_gap"]
    write_structures(here / "gap-missing.extxyz", frames)
    for k, a in enumerate(frames):
        a.info["hardness"] = float(k)
    write_structures(here / "hardness.extxyz", frames)
    for name, text in {
        "unknown": "units: {energy: furlong}",
        "length": "units: {energy: Angstrom}",
        "list": "units: [energy]",
        "broken": "units: {energy",
    }.items():
        (here / f"units-{name}").mkdir()
        shutil.copy(here / "good.extxyz", here / f"units-{name}")
        (here / f"units-{name}" / "dataset.yaml").write_text(text)
    assert main(["train", "ridge", str(here / "good.extxyz"), "--targets", "energy", "--out", str(here / "model")]) == 0
    return here


STRUCTURE_FILES = [
    ("missing.extxyz", "no file"),
    ("no/such/folder/POSCAR", "no file"),
    ("NaCL", "did you mean 'NaCl'"),
    ("nothing", "no structure files"),
    ("empty.extxyz", "empty"),
    ("blank.cif", ""),
    ("truncated.extxyz", "truncated"),
    ("half-line.extxyz", "truncated"),
    ("truncated.cif", ""),
    ("prose.txt", "no format"),
    ("prose.extxyz", "damaged"),
    ("words.extxyz", "damaged"),
    ("binary.extxyz", "damaged"),
    ("binary.cif", "damaged"),
    ("cut.extxyz.gz", "damaged"),
    ("pickle.pkl", ""),
    ("partial.cif", "partial occupancies"),
    ("unknown.extxyz", ""),
    ("dummy.extxyz", "unknown element"),
    ("nan.extxyz", "finite"),
    ("flat.extxyz", "volume"),
    ("no-length.extxyz", "volume"),
    ("overlap.extxyz", "atoms 0 (Cu) and 1 (Cu) overlap"),
    ("no-atoms.extxyz", "no"),
    ("molecules-hole", "b.xyz is empty"),
    ("molecules-collision", "b.xyz: atoms 0 (O) and 1 (H) overlap (closer than 0.4 Angstrom)"),
    ("molecules-alchemy", "b.xyz has an atom of unknown element 'Qq'"),
    ("molecules-ghost", "b.xyz has an atom of unknown element"),
    ("molecules-tail", "b.xyz: it is damaged, truncated"),
    ("molecules-lost", "b.xyz has positions or lattice vectors that are not finite numbers"),
    ("molecules-packed", "b.xyz.gz is empty"),
]


@pytest.mark.parametrize(("file", "word"), STRUCTURE_FILES, ids=[f for f, _ in STRUCTURE_FILES])
def test_structures(home: Path, fails: Fails, tmp_path: Path, file: str, word: str) -> None:
    path = file if file == "NaCL" else home / file
    out = tmp_path / "out"
    for verb in (
        ["predict", home / "model", path, "--out", out],
        ["train", "ridge", path, "--targets", "energy", "--out", out],
        ["sample", path, "--method", "rattle", "--amplitude", "0.1", "--out", out],
        ["label", path, "--engine", "emt", "--out", out],
        ["explain", home / "model", path, "--out", out],
        ["data", path],
    ):
        said = fails(*verb)
        assert word in said
        assert file in said
    assert not out.exists()


LABELS = [
    ("nan-label.extxyz", "--targets band_gap", "structure 3: the label 'band_gap' is NaN"),
    ("inf-label.extxyz", "--targets band_gap", "structure 3: the label 'band_gap' is NaN or infinite"),
    ("good.extxyz", "--targets vbm", "no label 'vbm'; it has"),
    ("good.extxyz", "--targets hardness", "has no 'hardness'; it has band_gap"),
    ("hardness.extxyz", "--targets hardness", "what is the unit of 'hardness'"),
    ("good.extxyz", "--targets forces", "painn"),
    ("good.extxyz", "--targets band,gap", ""),
    ("cu.cif", "", "carries no energies"),
    ("cu.cif", "--targets energy", "no label 'energy'; it has no labels"),
    ("units-unknown/good.extxyz", "--targets energy", "unknown unit 'furlong'"),
    ("units-unknown", "--targets energy", "unknown unit 'furlong'"),
    ("units-length", "--targets energy", "cannot convert 'Angstrom' to 'eV'"),
    ("units-list", "--targets energy", "not a description of a data set"),
    ("units-broken", "--targets energy", "not a description of a data set"),
    ("good.extxyz", "--targets energy --units.energy Hartree", "dataset.yaml"),
    ("good.extxyz", "--targets energy --units.enrgy Hartree", "--units.enrgy is of no target"),
    ("good.extxyz", "--units.hardness GPa", "the targets are energy, pressure"),
    ("good.extxyz", "--targets energy --seed -1", "--seed must be at least 0"),
    ("good.extxyz", "--targets energy --fractions 0 0.5 0.5", "--fractions"),
    ("good.extxyz", "--targets energy --fractions 0.5 -0.1 0.5", "--fractions"),
    ("good.extxyz", "--targets energy --validation missing.extxyz", "no file missing.extxyz"),
    ("good.extxyz", "--targets energy --preset paper2025", "belongs to cgcnn"),
    ("good.extxyz", "--targets energy --model.radial 1", "radial"),
    ("good.extxyz", "--targets energy --model.width 8", "no setting 'width'"),
    ("good.extxyz", "--targets energy --model.radail 8", "did you mean 'radial'"),
    ("good.extxyz", "--targets energy --model.cutoff -1", "positive"),
    ("good.extxyz", "--targets energy --model.cutoff far", "'cutoff' of the model 'ridge' must be a finite number"),
    ("good.extxyz", "--targets energy --model.radial 8.5", "must be a whole number, not 8.5"),
    ("good.extxyz", "--targets energy --model.angle_cutoff 0", "positive"),
    ("good.extxyz", "--targets energy --training.epochs 0", "training.epochs"),
    ("good.extxyz", "--targets energy --devices 0", "--devices"),
    ("good.extxyz", "--targets energy --devices 2", "--devices would change nothing"),
    ("good.extxyz", "--targets energy --training.epochs 5", "closed form, without steps: --training.epochs would"),
]


@pytest.mark.parametrize(("file", "flags", "word"), LABELS)
def test_labels_units_and_settings(home: Path, fails: Fails, tmp_path: Path, file: str, flags: str, word: str) -> None:
    assert word in fails("train", "ridge", home / file, *flags.split(), "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "flag", "word"),
    [
        ("painn", "width=2.5", "'width' of the model 'painn' must be a whole number, not 2.5"),
        ("painn", "width=1", "at least 2"),
        ("painn", "layers=0", "at least one layer"),
        ("painn", "basis=-1", "radial function"),
        ("painn", "cutoff=.inf", "a finite number"),
        ("painn", "pair=maybe", "true or false"),
        ("cgcnn", "layers=true", "a whole number, not True"),
        ("cgcnn", "width=0", "positive width"),
        ("cgcnn", "cutoff=-2", "positive cutoff"),
        ("cgcnn", "dropout=much", "'dropout' of the model 'cgcnn' must be a finite number"),
        ("cgcnn", "sigmoid=1", "true or false"),
    ],
)
def test_settings_of_a_network(home: Path, fails: Fails, tmp_path: Path, kind: str, flag: str, word: str) -> None:
    run = ["train", kind, home / "good.extxyz", "--targets", "band_gap", f"--model.{flag}", "--out", tmp_path / "m"]
    assert word in fails(*run)


def test_a_device_that_is_not_here(home: Path, fails: Fails, tmp_path: Path) -> None:
    run = ["train", "cgcnn", home / "good.extxyz", "--targets", "band_gap", "--model.width", "4"]
    assert "abacus" in fails(*run, "--device", "abacus", "--out", tmp_path / "out")
    assert "abacus" in fails(
        "predict", home / "model", home / "good.extxyz", "--device", "abacus", "--out", tmp_path / "p.csv"
    )


def test_a_folder_with_another_training(home: Path, fails: Fails, tmp_path: Path) -> None:
    run = [
        "train",
        "cgcnn",
        home / "good.extxyz",
        "--targets",
        "band_gap",
        "--model.width",
        "4",
        "--training.epochs",
        "1",
    ]
    run += ["--device", "cpu", "--out", tmp_path / "m"]
    assert main([str(a) for a in run]) == 0
    assert "other settings or data" in fails(*run, "--seed", "9")


# --- the command line itself ---

COMMANDS = [
    ("smaple NaCl", "did you mean 'sample'"),
    ("frobnicate", "no verb 'frobnicate'"),
    ("--frobnicate", "no verb"),
    ("sample", "crystal"),
    ("train ridge", "data"),
    ("sample NaCl --temprature 300", "did you mean 'temperature'"),
    ("sample NaCl --temperature hot", "temperature"),
    ("sample NaCl --temperature", "temperature"),
    ("sample NaCl -n many", "n"),
    ("sample NaCl -n 2.5", "n"),
    ("sample NaCl --supercell 2 2", "supercell"),
    ("sample NaCl --supercell a b c", "supercell"),
    ("sample NaCl --method magic", "expected one of 'phonons', 'rattle', 'md', got 'magic'"),
    ("sample NaCl --imaginary ignore", "imaginary"),
    ("sample NaCl --seed 1.5", "seed"),
    ("sample NaCl --method rattle --amplitude 0.1 --seed -1", "--seed must be at least 0"),
    ("sample NaCl extra words", "extra"),
    ("sample NaCl --method rattle", "--amplitude"),
    ("sample NaCl --method rattle --amplitude -1", ""),
    ("sample NaCl --method rattle --amplitude 0.1 -n 0", ""),
    ("sample NaCl --method rattle --amplitude 0.1 --supercell 0 1 1", ""),
    ("sample NaCl --method rattle --amplitude 0.1 --match x.extxyz", "either"),
    ("sample NaCl --method rattle --match missing.extxyz", "no file"),
    ("sample NaCl --method rattle --amplitude 0.1 --substitute Br", "--substitute looks like"),
    ("sample NaCl --method rattle --amplitude 0.1 --substitute Cl:Br:half", "not a number"),
    ("sample NaCl --method rattle --amplitude 0.1 --substitute Br:I:0.5", "Br"),
    ("sample NaCl --method rattle --amplitude 0.1 --vacancies Cl:many", "not a number"),
    ("sample NaCl --method rattle --amplitude 0.1 --vacancies Cl:99999", ""),
    ("sample NaCl --engine abacus", "unknown engine 'abacus'"),
    ("sample NaCl --engine emt", "EMT"),
    ("sample Ag3SBr-pbe --engine emt", "182 structures"),
    ("sample NaCl --engine emt --settings.ecut 400", "no setting 'ecut'"),
    ("sample NaCl --force-constants missing.yaml", "missing.yaml"),
    ("sample NaCl --force-constants x.yaml --relax", "force constants"),
    ("label NaCl --engine abacus", "unknown engine"),
    ("label NaCl --engine emt --executor in-process", "no structure could be labelled"),
    ("label NaCl --engine files", "no structure could be labelled"),
    ("label NaCl --engine emt --workers 0", "worker"),
    ("label NaCl --engine emt --timeout -1", "time-out"),
    ("label NaCl --engine emt --executor cloud", "executor"),
    ("train transformer NaCl", "kind"),
    ("train ridge NaCl --training.epochs many", "epochs"),
    ("train ridge NaCl --training.optimizer sgd", "optimizer"),
    ("train ridge NaCl --training.momentum 0.9", "momentum"),
    ("predict nowhere NaCl", "no model 'nowhere'"),
    ("explain nowhere NaCl", "no model 'nowhere'"),
    ("vibrations nowhere NaCl", "no model 'nowhere'"),
    ("vibrations", "model"),
    ("evaluate molecules x.csv --reference NaCl", "what"),
    ("evaluate crystals missing.extxyz --reference NaCl", "missing.extxyz"),
    ("evaluate crystals NaCl.extxyz --relax nothing", "unknown engine 'nothing'"),
    ("evaluate crystals NaCl.extxyz --coverage-sample -1", "--coverage-sample"),
    ("evaluate crystals NaCl.extxyz --predictor x.whl", "--property"),
    ("evaluate predictions p.csv --reference NaCl --property gap", "'evaluate crystals'"),
    ("evaluate predictions missing.csv --reference NaCl", "missing.csv"),
    ("evaluate predictions missing.csv", "--reference"),
    ("study alchemy", "name"),
    ("report nowhere", "nowhere"),
    ("sample --config missing.yaml", "missing.yaml"),
]


@pytest.mark.parametrize(("command", "word"), COMMANDS, ids=[c for c, _ in COMMANDS])
def test_commands(fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, word: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert word in fails(*command.split())


YAML = [
    ("crystal: NaCl\ntemprature: 300\n", "did you mean 'temperature'"),
    ("crystal: NaCl\ntemperature: hot\n", "temperature"),
    ("crystal: NaCl\nsupercell: [2, 2]\n", "supercell"),
    ("crystal: NaCl\nsupercell: 2\n", "supercell"),
    ("crystal: [NaCl]\n", "crystal"),
    ("crystal: NaCl\nmethod: [phonons\n", ""),
    ("- crystal\n", ""),
    ("just words\n", ""),
    ("", "key: value"),
    ("\x00\x01", ""),
]


@pytest.mark.parametrize(("text", "word"), YAML, ids=[repr(t) for t, _ in YAML])
def test_yaml(fails: Fails, tmp_path: Path, text: str, word: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert word in fails("sample", "--config", tmp_path / "c.yaml")


def test_an_engine_that_is_not_installed(fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "chgnet" else find(name, *a))
    said = fails("label", "NaCl", "--engine", "chgnet", "--out", tmp_path / "x.extxyz")
    assert "not installed; install it with: pip install chgnet" in said


# --- physics ---


def test_imaginary_modes_need_a_decision(fails: Fails, tmp_path: Path) -> None:
    """Simple cubic copper falls apart, in EMT as in nature."""
    write(tmp_path / "sc.cif", bulk("Cu", "sc", a=2.4))
    said = fails("sample", tmp_path / "sc.cif", "--engine", "emt", "-n", "2", "--out", tmp_path / "hot.extxyz")
    assert "imaginary" in said
    for remedy in ("freeze", "effective", "sscha", "cap"):
        assert remedy in said
    assert not (tmp_path / "hot.extxyz").exists()
    run = [
        "sample",
        tmp_path / "sc.cif",
        "--engine",
        "emt",
        "-n",
        "2",
        "--imaginary",
        "freeze",
        "--out",
        tmp_path / "hot.extxyz",
    ]
    assert main([str(a) for a in run]) == 0


@pytest.mark.parametrize("temperature", [-5, "nan"])
def test_temperatures_that_do_not_exist(home: Path, fails: Fails, tmp_path: Path, temperature: object) -> None:
    for method in ("phonons", "md"):
        run = ["sample", home / "cu.cif", "--engine", "emt", "--method", method, "--temperature", temperature]
        assert "temperature" in fails(*run, "--supercell", "1", "1", "1", "-n", "2", "--out", tmp_path / "x.extxyz")


@pytest.mark.slow
def test_imaginary_modes_of_the_paper_crystal(fails: Fails, tmp_path: Path) -> None:
    assert "imaginary" in fails("sample", "Ag3SBr", "-n", "2", "--out", tmp_path / "hot.extxyz")


def test_elements_the_model_never_saw(home: Path, fails: Fails, tmp_path: Path) -> None:
    for verb in ("predict", "explain"):
        assert "never seen Na, Cl; it was trained on Cu only" in fails(
            verb, home / "model", "NaCl", "--out", tmp_path / "x.csv"
        )


def test_phonons_of_a_molecule(fails: Fails, tmp_path: Path) -> None:
    write(tmp_path / "h2.xyz", Atoms("H2", positions=[(0, 0, 0), (0, 0, 0.74)]))
    assert "phonons need a crystal" in fails(
        "sample", tmp_path / "h2.xyz", "--engine", "emt", "--out", tmp_path / "x.extxyz"
    )


# --- where nothing can be written ---


def everything_that_writes(home: Path) -> dict[str, list]:
    good = home / "good.extxyz"
    (home / "p.csv").unlink(missing_ok=True)
    assert main(["predict", str(home / "model"), str(good), "--out", str(home / "p.csv")]) == 0
    return {
        "sample": ["sample", home / "cu.cif", "--method", "rattle", "--amplitude", "0.1", "-n", "2"],
        "label": ["label", home / "cu.cif", "--engine", "emt", "--executor", "in-process"],
        "train": ["train", "ridge", good, "--targets", "energy"],
        "train a network": [
            "train",
            "cgcnn",
            good,
            "--targets",
            "band_gap",
            "--model.width",
            "4",
            "--training.epochs",
            "1",
        ],
        "predict": ["predict", home / "model", good],
        "explain": ["explain", home / "model", good, "--steps", "1"],
        "vibrations": [
            "vibrations",
            home / "model",
            home / "cu.cif",
            "--engine",
            "emt",
            "--supercell",
            "1",
            "1",
            "1",
            "-n",
            "4",
        ],
        "evaluate": ["evaluate", "predictions", home / "p.csv", "--reference", good],
        "data": ["data", "NaCl"],
    }


WRITERS = ["sample", "label", "train", "train a network", "predict", "explain", "vibrations", "evaluate", "data"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_place_below_a_regular_file(home: Path, fails: Fails, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in fails(*everything_that_writes(home)[name], "--out", tmp_path / "file" / "out.dat")


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(home: Path, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    command = everything_that_writes(home)[name]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device" in fails(*command, "--out", tmp_path / "new" / "out.dat")
    left = [p for p in (tmp_path / "new").rglob("*") if p.is_file() and "sqlite" not in p.name]
    assert left == []


def test_a_disk_that_fills_up_while_training(
    home: Path, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    command = [*everything_that_writes(home)["train a network"], "--device", "cpu"]
    assert "No space left on device" in fails(*command, "--out", tmp_path / "m")
    monkeypatch.undo()
    assert main([str(a) for a in [*command, "--out", tmp_path / "m"]]) == 0  # and the same command goes on


OVERWRITES = [
    ("predict {m} hot.extxyz --out hot.extxyz", "hot.extxyz is read here"),
    ("predict {m} hot.forces.extxyz --out hot.csv", "hot.forces.extxyz is read here"),
    ("predict {m} hot.extxyz --out {m}/config.json", "config.json is read here"),
    ("explain {m} hot.extxyz --steps 1 --out hot.extxyz", "hot.extxyz is read here"),
    ("explain {m} hot.extxyz --steps 1 --report hot.extxyz", "hot.extxyz is read here"),
    ("explain {m} hot.extxyz --steps 1 --out w.csv --report w.csv", "w.csv would be written twice"),
    ("vibrations {m} cu.cif --engine emt --out cu.cif", "cu.cif is read here"),
    ("evaluate predictions p.csv --reference hot.extxyz --out p.csv", "p.csv is read here"),
    ("evaluate predictions p.csv --reference hot.extxyz --out hot.extxyz", "hot.extxyz is read here"),
    ("label hot.extxyz --engine emt --executor in-process --out hot.extxyz", "hot.extxyz is read here"),
    ("label hot.extxyz --engine emt --executor in-process --ledger hot.extxyz", "hot.extxyz is read here"),
    (
        "label hot.extxyz --engine emt --executor in-process --ledger z.extxyz --out z.extxyz",
        "z.extxyz would be written",
    ),
    ("sample cu.cif --method rattle --amplitude 0.1 -n 2 --out cu.cif", "cu.cif is read here"),
    ("sample cu.cif --method rattle --match hot.extxyz -n 2 --out hot.extxyz", "hot.extxyz is read here"),
    ("train ridge hot.extxyz --targets energy --out hot.extxyz", "hot.extxyz is read here"),
    ("data hot.extxyz --out hot.extxyz", "hot.extxyz is read here"),
]


@pytest.mark.parametrize(("command", "word"), OVERWRITES, ids=[c for c, _ in OVERWRITES])
def test_an_input_is_never_overwritten(
    home: Path, fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, word: str
) -> None:
    everything_that_writes(home)
    shutil.copytree(home / "model", tmp_path / "m")
    for copy, file in {"hot.extxyz": "good.extxyz", "hot.forces.extxyz": "good.extxyz"}.items():
        shutil.copy(home / file, tmp_path / copy)
    for file in ("cu.cif", "p.csv"):
        shutil.copy(home / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert word in fails(*command.format(m="m").split())
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


# --- model folders ---


def edited(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def cut(name: str, n: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n]) and None


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (lambda f: [p.unlink() for p in f.iterdir()], "not a model folder"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "did not finish"),
    "truncated weights": (cut("model.safetensors", 200), "corrupt"),
    "truncated config": (cut("config.json", 50), "corrupt"),
    "empty config": (cut("config.json", 0), "corrupt"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "corrupt"),
    "newer version": (edited(format=99), "format version 99"),
    "newer version with other keys": (
        lambda f: (f / "config.json").write_text('{"format": 2, "model": "painn"}'),
        "format version 2",
    ),
    "intervals of the wrong type": (edited(intervals=[1]), "'intervals' is not a table"),
    "intervals that are no numbers": (edited(intervals={"energy": "wide"}), "'intervals' are not numbers"),
    "no scores": (edited(scores=None), "'scores' is not a table"),
    "config that is a folder": (
        lambda f: ((f / "config.json").unlink(), (f / "config.json").mkdir()),
        "config.json cannot be read (Is a directory)",
    ),
    "unknown kind": (edited(kind="oracle"), "no model kind 'oracle'"),
    "kind that is code": (edited(kind="os.system"), "no model kind"),
    "unknown setting": (edited(config={"magic": 1}), "no setting 'magic'"),
    "config of the wrong type": (edited(config=[1]), "corrupt"),
    "a pickle": (lambda f: (f / "model.pkl").write_bytes(pickle.dumps(1)), "run code"),
    "a torch file": (lambda f: (f / "model.pt").write_bytes(b""), "run code"),
}


@pytest.mark.parametrize("damage", MODELS)
def test_model_folders(home: Path, fails: Fails, tmp_path: Path, damage: str) -> None:
    shutil.copytree(home / "model", tmp_path / "model")
    harm, word = MODELS[damage]
    harm(tmp_path / "model")
    for verb in ("predict", "explain", "vibrations"):
        assert word in fails(verb, tmp_path / "model", home / "good.extxyz", "--out", tmp_path / "x.csv")


# --- tables ---


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda rows: rows[:5], "rows"),
        (lambda rows: [rows[0], *(r.replace("Cu4", "Ag4") for r in rows[1:])], "Ag4"),
        (lambda rows: [rows[0], rows[1].replace(",4,", ",4,x"), *rows[2:]], "not a number"),
        (lambda rows: [rows[0], "0,Cu4,4,nan,,", *rows[2:]], "not a finite number"),
        (lambda rows: [rows[0], "0,Cu4,4,,,", *rows[2:]], "not a number"),
        (lambda rows: ["structure,formula,n_atoms", *(f"{k},Cu4,4" for k in range(24))], "no column of predictions"),
        (lambda rows: [rows[0].replace("[eV]", "[furlong]"), *rows[1:]], "unknown unit"),
        (lambda rows: [rows[0].replace("[eV]", "[Angstrom]"), *rows[1:]], "different quantities"),
        (lambda rows: ["a,b", "1,2"], "no column 'structure'"),
    ],
)
def test_tables_of_predictions(home: Path, fails: Fails, tmp_path: Path, change: Callable, word: str) -> None:
    everything_that_writes(home)
    rows = (home / "p.csv").read_text().splitlines()
    (tmp_path / "p.csv").write_text("\n".join(change(rows)) + "\n")
    run = [
        "evaluate",
        "predictions",
        tmp_path / "p.csv",
        "--reference",
        home / "good.extxyz",
        "--out",
        tmp_path / "m.json",
    ]
    assert word in fails(*run)


@pytest.mark.parametrize("flags", ["--batch-size 0", "--batch-size -3"])
def test_senseless_batches(home: Path, fails: Fails, tmp_path: Path, flags: str) -> None:
    assert "batch size" in fails(
        "predict", home / "model", home / "good.extxyz", *flags.split(), "--out", tmp_path / "x.csv"
    )


def test_explaining_what_is_not_predicted(home: Path, fails: Fails, tmp_path: Path) -> None:
    run = ["explain", home / "model", home / "good.extxyz", "--out", tmp_path / "x.csv"]
    assert "choose one of energy" in fails(*run, "--target", "band_gap")
    assert "at least one step" in fails(*run, "--steps", "0")
