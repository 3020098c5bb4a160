"""Training and explaining as verbs: what they take, print and record."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from vibronic.core.errors import VibronicError
from vibronic.data.dataset import read_structures, write_structures
from vibronic.learning.recipe import Training
from vibronic.verbs import evaluate, explain, predict, train


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
    assert record["structures"] == {"given": 24, "fitted": 17, "validated": 3, "scored": 4}
    trained = json.loads((tmp_path / "a" / "training.json").read_text())["training"]
    assert trained == record["config"]["training"]  # what is recorded is what was done
    train("cgcnn", data, **paper, training=how, fractions=(0.5, 0.25, 0.25), out=tmp_path / "b")
    assert recorded(tmp_path / "b")["structures"] == {"given": 24, "fitted": 12, "validated": 6, "scored": 6}


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


@pytest.fixture
def seeds(data: str, tmp_path: Path) -> list[str]:
    """Networks that differ in their seed."""
    folders = [tmp_path / f"seed-{seed}" for seed in (0, 1, 2)]
    small = {"model": {"width": 8, "layers": 1, "cutoff": 3.5}, "training": Training(epochs=1), "device": "cpu"}
    for seed, folder in enumerate(folders):
        train("painn", data, ["band_gap"], **small, out=folder, seed=seed)
    return [str(folder) for folder in folders]


def read(path: Path) -> tuple[list[str], list[dict[str, str]], np.ndarray]:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return list(rows[0]), rows, np.array([float(r["attribution [eV]"]) for r in rows])


def test_explanations_add_up_and_say_so(data: str, seeds: list[str], tmp_path: Path, capsys) -> None:
    explain(seeds[0], data, steps=8, out=tmp_path / "why.csv")
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "why.run.json").read_text())
    header, rows, values = read(tmp_path / "why.csv")
    assert header == ["structure", "atom_i", "atom_j", "shift", "bond", "length [Angstrom]", "attribution [eV]"]
    sums = np.bincount([int(r["structure"]) for r in rows], values)
    difference = np.array(record["all_bonds"]) - record["no_bonds"]
    assert len(sums) == 24
    assert sums - difference == pytest.approx(record["completeness_error"], abs=1e-4)
    assert f"with none {np.mean(record['no_bonds']):.6g} eV" in said
    assert "cgcnn" not in said


def test_explanations_by_atoms_over_seeds(data: str, seeds: list[str], tmp_path: Path) -> None:
    alone = []
    for k, seed in enumerate(seeds):
        explain(seed, data, by="atoms", steps=4, out=tmp_path / f"{k}.csv")
        header, _, values = read(tmp_path / f"{k}.csv")
        assert header == ["structure", "atom", "element", "attribution [eV]"]
        assert len(values) == 24 * 4
        alone.append(values)
    explain(seeds[0], data, more=seeds[1:], by="atoms", steps=4, out=tmp_path / "mean.csv")
    header, rows, values = read(tmp_path / "mean.csv")
    assert header[-1] == "spread [eV]"
    assert values == pytest.approx(np.mean(alone, axis=0), rel=1e-4, abs=1e-7)
    assert [float(r["spread [eV]"]) for r in rows] == pytest.approx(np.std(alone, axis=0, ddof=1), rel=1e-3, abs=1e-7)
    explain(seeds[0], data, more=seeds[1:], steps=4, out=tmp_path / "bonds.csv")
    assert read(tmp_path / "bonds.csv")[2].sum() == pytest.approx(values.sum(), abs=1e-4)


def test_the_paper_network_is_explained_with_a_warning(data: str, tmp_path: Path, capsys) -> None:
    train("cgcnn", data, ["band_gap"], training=Training(epochs=1), device="cpu", out=tmp_path / "m")
    explain(str(tmp_path / "m"), data, steps=2, out=tmp_path / "why.csv")
    assert "the shortest bond counts as absent" in capsys.readouterr().out


def test_an_explanation_is_tested_and_reported(data: str, seeds: list[str], tmp_path: Path, capsys) -> None:
    page = tmp_path / "why.html"
    explain(seeds[0], data, more=seeds[1:], steps=2, fidelity=True, report=page, out=tmp_path / "why.csv")
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "why.run.json").read_text())
    found = record["fidelity"]
    assert (found["models"], found["structures"], found["unit"]) == (3, 8, "eV")
    assert found["removed"]["interval"][0] <= found["removed"]["ratio"] <= found["removed"]["interval"][1]
    assert f"changes {found['removed']['ratio']:.2f} times" in said
    assert "none of which was trained on missing bonds" in said
    rows = record["shares"]
    assert [r["share"] for r in rows if r["low"] is None] == pytest.approx([1.0])
    assert sum(r["share"] for r in rows if r["low"] is not None) == pytest.approx(1.0)
    assert all(r["mean_half"] is not None for r in rows)
    assert record["leading"]["kind"] == "Cu-Cu"
    assert f"report: {page}" in said
    text = page.read_text()
    for word in (
        "Is it one kind of bond?",
        "Does the explanation hold up?",
        "named by untrained models",
        "bond weight 0",
    ):
        assert word in text
    explain(seeds[0], data, steps=2, report=page, out=tmp_path / "why.csv")
    assert "Does the explanation hold up?" not in page.read_text()


def test_models_of_other_targets_are_not_averaged(data: str, seeds: list[str], tmp_path: Path) -> None:
    train("ridge", data, ["energy"], out=tmp_path / "other")
    with pytest.raises(VibronicError, match="other has no scalar target 'band_gap'; choose one of energy"):
        explain(seeds[0], data, more=[str(tmp_path / "other")], out=tmp_path / "why.csv")


@pytest.fixture
def predicted(data: str, tmp_path: Path) -> Path:
    """A table of energies, stresses and gaps, with forces beside it."""
    small = {"model": {"width": 8, "layers": 1, "cutoff": 3.5}, "training": Training(epochs=1), "device": "cpu"}
    train("painn", data, ["energy", "forces", "stress", "band_gap"], **small, out=tmp_path / "m")
    return predict(str(tmp_path / "m"), data, out=tmp_path / "p.csv")


def test_stress_and_forces_are_scored(
    predicted: Path, data: str, tmp_path: Path, labelled_copper: list[Atoms], capsys
) -> None:
    found = evaluate("predictions", predicted, data, tmp_path / "m.json")
    assert set(found) == {
        *("n", "units"),
        *(f"{s}_{t}" for s in ("mae", "rmse", "r2") for t in ("energy", "forces", "stress", "band_gap")),
    }
    frames = read_structures(tmp_path / "p.forces.extxyz")
    pairs = list(zip(frames, labelled_copper, strict=True))
    forces = np.concatenate([a.get_forces() - b.get_forces() for a, b in pairs])
    stress = np.stack([a.get_stress(voigt=False) - b.get_stress(voigt=False) for a, b in pairs])
    assert found["mae_forces"] == pytest.approx(np.abs(forces).mean(), rel=1e-5)
    assert found["rmse_stress"] == pytest.approx(np.sqrt((stress**2).mean()), rel=1e-5)
    assert found["units"]["mae_forces"] == "eV/Angstrom"
    predicted.with_name("p.forces.extxyz").unlink()
    assert evaluate("predictions", predicted, data, tmp_path / "m.json") == {
        **{k: v for k, v in found.items() if "forces" not in k},
        "units": {k: v for k, v in found["units"].items() if "forces" not in k},
    }


def test_what_the_reference_does_not_carry_is_said(
    predicted: Path, tmp_path: Path, labelled_copper: list[Atoms], capsys
) -> None:
    frames = [a.copy() for a in labelled_copper]
    for a, b in zip(frames, labelled_copper, strict=True):
        a.calc = SinglePointCalculator(a, energy=b.calc.results["energy"])
    write_structures(tmp_path / "few.extxyz", frames)
    found = evaluate("predictions", predicted, str(tmp_path / "few.extxyz"), tmp_path / "m.json")
    assert "mae_energy" in found
    assert "mae_stress" not in found
    said = capsys.readouterr().out
    assert all(f"{name}: not scored" in said for name in ("forces", "stress"))


def test_forces_of_other_predictions_are_refused(
    predicted: Path, data: str, tmp_path: Path, labelled_copper: list[Atoms]
) -> None:
    write_structures(tmp_path / "p.forces.extxyz", labelled_copper)
    with pytest.raises(VibronicError, match="not of the same predictions"):
        evaluate("predictions", predicted, data, tmp_path / "m.json")
    write_structures(tmp_path / "p.forces.extxyz", labelled_copper[:3])
    with pytest.raises(VibronicError, match="3 rows"):
        evaluate("predictions", predicted, data, tmp_path / "m.json")


def test_an_own_target_may_end_like_a_bound(data: str, tmp_path: Path, labelled_copper: list[Atoms]) -> None:
    table = tmp_path / "p.csv"
    table.write_text("structure,formula,n_atoms,gap_low [eV]\n0,Cu4,4,1.5\n")
    atoms = labelled_copper[0].copy()
    atoms.info["gap_low"] = 1.0
    write_structures(tmp_path / "one.extxyz", [atoms])
    assert evaluate("predictions", table, str(tmp_path / "one.extxyz"), tmp_path / "m.json")["mae_gap_low"] == 0.5


def test_the_zero_of_energies_goes_from_the_data_to_the_table(data: str, tmp_path: Path, capsys) -> None:
    def told() -> tuple[str, str]:
        folder = train("ridge", data, ["energy", "band_gap"], out=tmp_path / "m")
        table = predict(str(folder), data, out=tmp_path / "p.csv")
        rows = list(csv.DictReader(table.read_text().splitlines()))
        said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("zero of"))
        assert f"Zero of energy: {rows[0]['energy_reference']}." in (folder / "README.md").read_text()
        assert "band_gap_reference" not in rows[0]
        return rows[0]["energy_reference"], said

    assert told() == ("total energy, as in the labels", "zero of energy: total energy, as in the labels")
    (tmp_path / "dataset.yaml").write_text("references: {energy: free atoms}")
    assert told() == ("free atoms", "zero of energy: free atoms")
