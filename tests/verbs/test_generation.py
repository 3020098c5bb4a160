"""From a folder of CIFs to new crystals, on the command line."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read, write

from vibronic import __version__
from vibronic.cli import main
from vibronic.crystals.validity import structural_validity
from vibronic.learning import store

TINY = [f"--model.{k}={v}" for k, v in {"width": 16, "depth": 1, "heads": 2, "frequencies": 3}.items()]
SHORT = ["--training.epochs", "2", "--training.batch_size", "8", "--device", "cpu"]
Fails = Callable[..., str]


def salts() -> list[Atoms]:
    """24 crystals of rock salt and caesium chloride, of several elements and sizes."""
    found = []
    for a, anion in ((0.0, "F"), (0.5, "Cl"), (0.8, "Br")):
        for k, cation in enumerate(("Li", "Na", "K", "Rb")):
            found.append(bulk(cation + anion, "rocksalt", a=4.0 + a + 0.4 * k))
            found.append(bulk(cation + anion, "cesiumchloride", a=2.5 + 0.6 * a + 0.3 * k))
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``cifs`` with CIFs and properties."""
    here = tmp_path_factory.mktemp("home")
    (here / "cifs").mkdir()
    rows = ["file,band_gap,formation_energy_per_atom"]
    for k, atoms in enumerate(salts()):
        write(here / "cifs" / f"salt-{k}.cif", atoms)
        rows.append(f"salt-{k}.cif,{0.25 * k},{-1 - 0.01 * k}")
    (here / "cifs" / "properties.csv").write_text("\n".join(rows) + "\n")
    return here


@pytest.fixture(scope="module")
def model(home: Path) -> str:
    """A model that has seen two epochs and knows little."""
    out = str(home / "model")
    settings = [*TINY, "--model.pair", "8", *SHORT]
    command = ["train", "crystal-diffusion", str(home / "cifs"), "--condition", "band_gap", *settings, "--out", out]
    assert main(command) == 0
    return out


@pytest.fixture(scope="module")
def published(home: Path) -> str:
    out = str(home / "published")
    settings = [*TINY, "--model.steps", "20", *SHORT, "--training.epochs", "1", "--preset", "takahara2024-cds"]
    command = ["train", "crystal-diffusion", str(home / "cifs"), "--condition", "band_gap", *settings, "--out", out]
    assert main(command) == 0
    return out


def test_what_training_leaves(home: Path, model: str) -> None:
    network, card = store.load(model)
    assert network.kind == "crystal-diffusion"
    assert [t.name for t in network.targets] == ["band_gap"]
    losses = {"loss_species", "loss_coordinates", "loss_lattice", "loss_properties"}
    assert card.scores.keys() == {*losses, "mae_band_gap"}
    assert card.units["mae_band_gap"] == "eV"
    assert all(np.isfinite(v) for v in card.scores.values())
    assert not card.intervals
    told = json.loads((Path(model) / "run.json").read_text())
    assert told["config"]["targets"] == ["band_gap"]
    assert told["structures"] == {"given": 24, "fitted": 19, "validated": 3, "scored": 2}


def test_crystals_from_it(home: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new.extxyz"
    command = ["generate", model, "-n", "6", "--condition", "band_gap=2.5", "--keep", "all", "--evaluations", "6"]
    assert main([*command, "--seed", "7", "--out", str(out), "--cifs", str(tmp_path / "cifs")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "6 crystals" in said
    frames = read(out, ":")
    assert len(frames) == 6
    for k, atoms in enumerate(frames):
        assert atoms.info.keys() >= {"id", "seed", "valid", "unique", "novel", "band_gap_asked", "band_gap_estimate"}
        assert atoms.info["id"] == f"7-{k}"
        assert float(atoms.info["band_gap_asked"]) == 2.5
        assert atoms.pbc.all()
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["id"] for r in rows] == [a.info["id"] for a in frames]
    assert [r["formula"] for r in rows] == [a.get_chemical_formula("metal") for a in frames]
    assert [int(r["n_atoms"]) for r in rows] == [len(a) for a in frames]
    for row, atoms in zip(rows, frames, strict=True):
        volume, distance = row["volume_per_atom [Angstrom^3]"], row["shortest_distance [Angstrom]"]
        if not structural_validity(atoms):
            assert volume == distance == ""
            continue
        assert float(volume) == pytest.approx(atoms.get_volume() / len(atoms), rel=1e-4)
        pairs = atoms.repeat(3).get_all_distances(mic=True)  # an atom's own images too
        assert float(distance) == pytest.approx(pairs[pairs > 0].min(), rel=1e-4)
    counts = json.loads(out.with_suffix(".json").read_text())
    assert counts["counts"]["candidates"] == counts["counts"]["delivered"] == 6
    assert counts["evaluations_per_crystal"] == 6
    assert counts["sampling_cpu_seconds"] >= 0
    record = json.loads((tmp_path / "new.run.json").read_text())
    assert (record["verb"], record["seed"]) == ("generate", 7)
    assert record["config"]["conditions"] == ["band_gap=2.5"]
    assert record["config"]["keep"] == "all"
    cifs = sorted((tmp_path / "cifs").iterdir())
    assert [p.name for p in cifs] == [f"{a.info['id']}-{a.get_chemical_formula('metal')}.cif" for a in frames]
    told = cifs[0].read_text()
    assert told.startswith(f"# made by Vibronic {__version__}, {model}, --seed 7\n")
    assert f"# band_gap_estimate: {frames[0].info['band_gap_estimate']}" in told
    first = read(cifs[0])
    assert sorted(first.numbers) == sorted(frames[0].numbers)
    assert abs(first.cell.volume) == pytest.approx(abs(frames[0].cell.volume), rel=1e-3)
    assert main([*command, "--out", str(out)]) == 0
    assert f"{out} is there already and will be replaced" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_files(model: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        command = ["generate", model, "-n", "3", "--keep", "all", "--evaluations", "4"]
        assert main([*command, "--out", str(tmp_path / f"{name}.extxyz")]) == 0
    for ending in ("extxyz", "csv"):
        assert (tmp_path / f"a.{ending}").read_text() == (tmp_path / f"b.{ending}").read_text()


def test_every_kind_of_request(model: str, tmp_path: Path) -> None:
    requests: list[tuple[list[str], Callable[[Atoms], bool]]] = [
        (["--composition", "NaCl"], lambda a: sorted(a.symbols) == ["Cl", "Na"]),
        (["--system", "Li", "F"], lambda a: set(a.symbols) <= {"Li", "F"}),
        (["--system", "Li-F"], lambda a: set(a.symbols) <= {"Li", "F"}),
        (["--atoms", "2"], lambda a: len(a) == 2),
        (["--spacegroup", "225", "--guidance", "2"], lambda a: a.info["spacegroup_asked"] == 225),
        (["--condition", "band_gap<3"], lambda a: a.info["band_gap_asked"] == "<3"),
        (["--best", "band_gap:highest"], lambda a: str(a.info["band_gap_asked"]).startswith(">=")),
    ]
    for options, holds in requests:
        command = ["generate", model, "-n", "2", "--keep", "all", "--evaluations", "4", *options]
        assert main([*command, "--out", str(tmp_path / "x.extxyz")]) == 0, options
        frames = read(tmp_path / "x.extxyz", ":")
        assert len(frames) == 2
        assert all(holds(a) for a in frames), options


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--condition", "hardness=1"], "knows nothing of 'hardness'"),
        (["--condition", "band_gap"], "the condition 'band_gap' is not understood"),
        (["--condition", "band_gap=1", "band_gap<2"], "asked for twice"),
        (["--best", "band_gap:middle"], "--best is NAME, NAME:lowest or NAME:highest, not band_gap:middle"),
        (["--best", "colour"], "knows nothing of 'colour'"),
        (["--composition", "UO2"], "has never seen O, U"),
        (["--composition", "Salt"], "'Salt' is no chemical formula"),
        (["--system", "Na", "Cl", "--composition", "NaCl"], "leave out the chemical system"),
        (["--atoms", "50"], "the model knows cells of 2 atoms, not of 50"),
        (["--spacegroup", "231"], "--spacegroup is an international number from 1 to 230, not 231"),
        (["--spacegroup", "14"], "no crystal of space group 14"),
        (["--guidance", "-1"], "the guidance is between 0 and 100"),
        (["--evaluations", "0"], "at least 1 evaluation"),
        (["-n", "0"], "-n is the number of crystals"),
        (["--condition", ""], "--condition is empty"),
        (["--system"], "--system is empty"),
        (["--composition", "NaCl02"], "is the letter O meant?"),
        (["--device", "abacus"], "cannot use device 'abacus'"),
        (["--relax", "nothing"], "unknown engine 'nothing'"),
        (["--keep", "some"], "keep"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_one_sentence_for_every_mistake(
    options: list[str], reason: str, model: str, tmp_path: Path, fails: Fails
) -> None:
    said = fails("generate", model, "-n", "1", "--evaluations", "2", "--out", tmp_path / "x.extxyz", *options)
    assert reason in said
    assert not (tmp_path / "x.extxyz").exists()


def test_a_wish_beyond_what_was_learned_is_measured_from_the_nearest(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", model, "-n", "4", "--keep", "all", "--evaluations", "4", "--condition", "band_gap=50"]
    assert main([*command, "--out", str(tmp_path / "x.extxyz")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "lies outside the training range of band_gap" in said
    highest = float(store.load(model)[0].memory.column("band_gap").max())
    assert f" of {highest:.4g}, the nearest that was learned" in said


def test_nothing_worth_keeping_is_said(model: str, tmp_path: Path, fails: Fails) -> None:
    """Nothing of so young a model that is placed freely has space group 225 within its tolerance."""
    shutil.copytree(model, tmp_path / "model")
    out = tmp_path / "x.extxyz"
    said = fails("generate", model, "-n", "1", "--evaluations", "1", "--spacegroup", "225", "--free", "--out", out)
    assert "of 20 candidates is worth keeping" in said
    assert "--keep all" in said
    assert not out.exists()


def test_models_of_the_other_sort(model: str, home: Path, tmp_path: Path, fails: Fails, labelled_copper) -> None:
    from vibronic.data.dataset import write_structures

    write_structures(tmp_path / "cu.extxyz", labelled_copper)
    assert main(["train", "ridge", str(tmp_path / "cu.extxyz"), "--out", str(tmp_path / "ridge")]) == 0
    said = fails("generate", tmp_path / "ridge", "--out", tmp_path / "x.extxyz")
    assert "is a ridge, which predicts and makes no crystals" in said
    said = fails("predict", model, home / "cifs" / "salt-0.cif", "--out", tmp_path / "p.csv")
    assert "crystal-diffusion makes crystals and predicts nothing of given ones; use 'vibronic generate'" in said
    said = fails("explain", model, home / "cifs" / "salt-0.cif", "--out", tmp_path / "w.csv")
    assert "vibronic generate" in said
    assert "there is no model" in fails("generate", tmp_path / "nowhere", "--out", tmp_path / "x.extxyz")


def test_outputs_do_not_overwrite_each_other(model: str, tmp_path: Path, fails: Fails) -> None:
    command = ["generate", model, "-n", "1", "--keep", "all", "--evaluations", "2", "--out"]
    fails(*command, tmp_path / "new.csv")
    fails(*command, tmp_path / "new.json")
    fails(*command, Path(model) / "model.safetensors")


# --- the published model ---


def test_the_published_model(published: str, tmp_path: Path, fails: Fails) -> None:
    network, card = store.load(published)
    assert (network.kind, network.config["condition"], network.config["width"]) == ("takahara2024", "cds", 16)
    told = json.loads((Path(published) / "run.json").read_text())["config"]
    assert (told["preset"], told["training"]["optimizer"]) == ("takahara2024-cds", "adam")
    assert card.scores.keys() == {"loss_lattice", "loss_coordinates", "loss_species", "loss_cross_entropy"}
    out = tmp_path / "x.extxyz"
    command = ["generate", published, "-n", "3", "--keep", "all", "--evaluations", "10", "--out", str(out)]
    assert main([*command, "--condition", "band_gap=1"]) == 0
    frames = read(out, ":")
    assert len(frames) == 3
    assert all("band_gap_estimate" not in a.info for a in frames)
    assert main([*command, "--best", "band_gap"]) == 0
    assert {float(a.info["band_gap_asked"]) for a in read(out, ":")} == {float(network.memory.column("band_gap").min())}
    assert main([*command, "--condition", "band_gap=1", "--composition", "NaCl"]) == 0
    assert "needs a value of band_gap" in fails(*command)
    assert "neither bounds nor space groups" in fails(*command, "--condition", "band_gap<1")
    assert "no guidance" in fails(*command, "--condition", "band_gap=1", "--guidance", "2")


# --- training ---


def test_all_properties_that_the_data_carries(home: Path, tmp_path: Path) -> None:
    command = ["train", "crystal-diffusion", str(home / "cifs"), *TINY, "--model.pair", "8", *SHORT]
    assert main([*command, "--training.epochs", "1", "--out", str(tmp_path / "m")]) == 0
    assert {t.name for t in store.load(tmp_path / "m")[0].targets} == {"band_gap", "formation_energy_per_atom"}


def test_crystals_without_the_property_are_left_out_and_rare_elements_learned(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cifs"
    shutil.copytree(home / "cifs", folder)
    write(folder / "rare.cif", bulk("AgI", "zincblende", a=6.5))
    text = (folder / "properties.csv").read_text().replace("salt-1.cif,0.25,", "salt-1.cif,,")
    (folder / "properties.csv").write_text(text + "rare.cif,1.0,-0.5\n")
    command = ["train", "crystal-diffusion", str(folder), "--condition", "band_gap", *TINY, "--model.pair", "8", *SHORT]
    command += ["--training.epochs", "1"]
    for seed in range(6):
        out = tmp_path / f"m{seed}"
        assert main([*command, "--seed", str(seed), "--out", str(out)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "1 of 25 structures" in said
        assert "they have no 'band_gap' (first: salt-1.cif, structure 0)" in said
        assert {47, 53} <= set(store.load(out)[0].elements.tolist())
        told = json.loads((out / "run.json").read_text())["structures"]
        assert told["given"] == 25
        assert sum(told.values()) == 25 + 24


def test_a_file_to_score_on_must_be_whole(
    home: Path, tmp_path: Path, fails: Fails, labelled_copper: list[Atoms]
) -> None:
    from vibronic.data.dataset import write_structures

    write_structures(tmp_path / "cu.extxyz", labelled_copper)
    frames = [*labelled_copper]
    frames[3] = frames[3].copy()
    del frames[3].info["band_gap"]
    write_structures(tmp_path / "test.extxyz", frames)
    command = ["train", "ridge", tmp_path / "cu.extxyz", "--targets", "band_gap", "--test", tmp_path / "test.extxyz"]
    assert "structure 3 has no label 'band_gap'" in fails(*command, "--out", tmp_path / "m")


def test_equal_crystals_are_not_held_out_from_themselves(tmp_path: Path) -> None:
    crystals = []
    for k, atoms in enumerate(salts()):
        for scale in (1.0, 1.001, 0.999):
            again = atoms.copy()
            again.set_cell(atoms.cell * scale, scale_atoms=True)
            again.info = {"band_gap": 0.1 * k}
            crystals.append(again)
    write(tmp_path / "salts.extxyz", crystals)
    command = ["train", "crystal-diffusion", str(tmp_path / "salts.extxyz"), *TINY, "--model.pair", "8", *SHORT]
    command += ["--training.epochs", "1", "--model.distinct", "false", "--units.band_gap", "eV"]
    assert main([*command[:-2], "--condition", "band_gap", "--out", str(tmp_path / "m")]) == 0
    told = json.loads((tmp_path / "m" / "run.json").read_text())["structures"]
    assert told["fitted"] % 3 == 0
    assert told["fitted"] / 3 + told["validated"] + told["scored"] == 24
    assert min(told.values()) > 0


def test_a_property_without_values_to_choose_from(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cifs"
    shutil.copytree(home / "cifs", folder)
    lines = (folder / "properties.csv").read_text().splitlines()
    (folder / "properties.csv").write_text("\n".join(["file,band_gap", *(f"{x.split(',')[0]},1.5" for x in lines[1:])]))
    command = ["train", "crystal-diffusion", str(folder), *TINY, "--model.pair", "8", *SHORT, "--training.epochs", "1"]
    assert main([*command, "--out", str(tmp_path / "m")]) == 0
    assert "band_gap is 1.5 in every crystal to learn" in capsys.readouterr().out


def test_a_finished_training_says_so_and_what_another_one_differs_in(
    home: Path, tmp_path: Path, fails: Fails, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "crystal-diffusion", str(home / "cifs"), *TINY, "--model.pair", "8", *SHORT]
    command += ["--out", str(tmp_path / "m")]
    assert main(command) == 0
    capsys.readouterr()
    before = {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir() if file.is_file()}
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "all 2 epochs are done" in said
    assert "nothing is left to do" in said
    assert {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir() if file.is_file()} == before
    (tmp_path / "m" / "model.safetensors").unlink()
    assert main(command) == 0
    assert (tmp_path / "m" / "model.safetensors").read_bytes() == before["model.safetensors"]
    said = fails(*command, "--training.epochs", "3")
    assert "holds a training with other settings or data (training.epochs 2, now 3)" in said


@pytest.mark.parametrize(("preset", "setting"), [("vibronic", "pair=8"), ("takahara2024-cdi", "steps=20")])
def test_without_any_property(preset: str, setting: str, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for k, atoms in enumerate(salts()[:12]):
        write(tmp_path / "bare" / f"{k}.cif", atoms)
    command = ["train", "crystal-diffusion", str(tmp_path / "bare"), *TINY, *SHORT, "--preset", preset]
    command += [f"--model.{setting}"]
    assert main([*command, "--training.epochs", "1", "--out", str(tmp_path / "m")]) == 0
    assert store.load(tmp_path / "m")[0].targets == []
    command = ["generate", str(tmp_path / "m"), "-n", "2", "--keep", "all", "--evaluations", "4"]
    assert main([*command, "--out", str(tmp_path / "x.extxyz")]) == 0
    assert len(read(tmp_path / "x.extxyz", ":")) == 2


def test_data_that_cannot_be_learned(home: Path, tmp_path: Path, fails: Fails, labelled_copper) -> None:
    out = ["--out", tmp_path / "m"]
    folder = tmp_path / "cifs"
    shutil.copytree(home / "cifs", folder)
    said = fails("train", "crystal-diffusion", folder, "--condition", "e_above_hull", *out)
    assert "has no label 'e_above_hull'; it has" in said
    assert "band_gap" in said
    said = fails("train", "crystal-diffusion", folder, "--condition", "hardness", *out)
    assert "has no 'hardness'; it has band_gap, formation_energy_per_atom" in said
    assert "did you mean 'band_gap'?" in fails("train", "crystal-diffusion", folder, "--condition", "band_gpa", *out)
    table = folder / "properties.csv"
    text = table.read_text()
    table.write_text(text.replace("band_gap", "hardness"))
    said = fails("train", "crystal-diffusion", folder, "--condition", "hardness", *out)
    assert "what is the unit of 'hardness'? give it with --units.hardness UNIT" in said
    table.write_text(text.replace(",", ";"))
    assert "are separated by semicolons" in fails("train", "crystal-diffusion", folder, *out)
    table.write_text(text)
    said = fails("train", "crystal-diffusion", folder, "--condition", "energy", *out)
    assert "does not grow with the cell" in said
    assert "--condition is for crystal-diffusion" in fails("train", "ridge", folder, "--condition", "band_gap", *out)
    said = fails("train", "crystal-diffusion", folder, "--condition", "band_gap", "--targets", "band_gap", *out)
    assert "--condition" in said
    said = fails("train", "painn", folder, "--targets", "band_gap", "--preset", "takahara2024-cds", *out)
    assert "belongs to crystal-diffusion, not painn" in said

    disordered = (folder / "salt-3.cif").read_text().replace("1.0000", "0.5000", 1)
    (folder / "salt-3.cif").write_text(disordered)
    said = fails("train", "crystal-diffusion", folder, "--condition", "band_gap", *out)
    assert "salt-3.cif has partial occupancies" in said

    molecule = tmp_path / "molecule.extxyz"
    write(molecule, Atoms("H2", positions=[(0, 0, 0), (0, 0, 0.74)], info={"band_gap": 1.0}))
    said = fails("train", "crystal-diffusion", molecule, "--condition", "band_gap", *out)
    assert "not periodic in three directions" in said
    large = bulk("Cu", cubic=True).repeat(3)
    large.positions += np.random.default_rng(0).normal(0, 0.05, large.positions.shape)
    large.info["band_gap"] = 1.0
    write(tmp_path / "large.extxyz", large)
    said = fails("train", "crystal-diffusion", tmp_path / "large.extxyz", "--condition", "band_gap", *out)
    assert "108 atoms in its primitive cell, more than 64" in said
