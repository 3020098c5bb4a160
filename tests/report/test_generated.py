"""The page about a trained generator: what the training leaves, what the page says of it, and that it computes nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from ase.io import read

from vibronic import verbs
from vibronic.core.errors import VibronicError
from vibronic.crystals import showcase
from vibronic.data.dataset import GraphData, write_structures
from vibronic.learning import store
from vibronic.learning.recipe import Training
from vibronic.report import generated, generated_file, generator_plots
from vibronic.report.gallery import GALLERY

EPOCHS = 2


def crystals() -> list[Atoms]:
    """64 salts of two structures, all different, with an invented property that grows with the cell."""
    families = [("Li Na K Rb", "F Cl Br I"), ("Mg Ca Sr Ba", "O S Se Te")]
    pairs = [(x, y) for ions, others in families for x in ions.split() for y in others.split()]
    found = []
    for x, y in pairs:
        apart = float(covalent_radii[atomic_numbers[x]] + covalent_radii[atomic_numbers[y]])
        found.append(bulk(x + y, "rocksalt", a=2 * apart))
        found.append(bulk(x + y, "cesiumchloride", a=2 * apart / 3**0.5))
    for atoms in found:
        atoms.info["band_gap"] = float(atoms.get_volume() / 10)
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model folder, and what the training printed."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("generated")
    write_structures(folder / "salts.extxyz", crystals())
    with contextlib.redirect_stdout(io.StringIO()) as said:
        verbs.train(
            "crystal-diffusion",
            str(folder / "salts.extxyz"),
            condition=["band_gap"],
            model={"width": 16, "depth": 1, "heads": 2, "pair": 8},
            training=Training(epochs=EPOCHS, batch_size=16),
            device="cpu",
            out=folder / "model",
        )
    return folder / "model", said.getvalue()


@pytest.fixture
def folder(trained: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the model folder that a test may spoil."""
    import shutil

    return Path(shutil.copytree(trained[0], tmp_path / "model"))


def text_of(page: Path) -> str:
    return page.read_text().split("<main>")[1].split("</main>")[0]


def test_a_training_ends_with_samples_and_a_page(trained: tuple[Path, str]) -> None:
    model, said = trained
    assert f"report: {model / 'report.html'}" in said
    assert (model / "report.html").stat().st_size > 1e6, "the libraries are inside the page"
    about, frames = json.loads((model / "samples.json").read_text()), read(model / "samples.extxyz", ":")
    assert len(frames) == about["metrics"]["n"] == 6 * showcase.EACH
    assert about["groups"][0]["asked"] is None
    asked = [group["asked"] for group in about["groups"][1:]]
    assert asked == sorted(asked)
    assert len(asked) == len(showcase.QUANTILES)
    for k, group in enumerate(about["groups"]):
        own = [a for a in frames if a.info["group"] == k]
        assert len(own) == group["n"]
        assert {a.info.get("band_gap_asked") for a in own} == {group["asked"]}
        assert np.mean([a.info["valid"] for a in own]) == pytest.approx(group["valid"])
        valid = [a.info["band_gap_estimate"] for a in own if a.info["valid"]]
        if group["asked"] is not None and valid:
            deviation = np.abs(np.array(valid) - group["asked"]).mean()
            assert group["deviation"] == pytest.approx(deviation, rel=1e-5)
            assert group["deviation_low"] <= group["deviation"] <= group["deviation_high"]
    for name in generated.SHARES:
        if (share := about["metrics"][name]) is not None:
            assert about["metrics"][f"{name}_low"] <= share <= about["metrics"][f"{name}_high"]
    flagged = sum(a.info["valid"] and a.info["unique"] and a.info["novel"] for a in frames)
    assert flagged / len(frames) == pytest.approx(about["metrics"]["valid_unique_novel"])


def test_the_page_says_what_stands_behind_its_numbers(trained: tuple[Path, str]) -> None:
    shown = text_of(trained[0] / "report.html")
    for title in ("What it is", "Training", "What it makes", "Asked and estimated", "Gallery"):
        assert f">{title}</h2>" in shown
    assert "own estimates" in shown
    assert "No calculation and no independent model stands behind them" in shown
    assert "band_gap (eV)" in shown
    assert '"name":"validation"' in shown, "an epoch was validated, though the recipe does so every tenth only"
    assert 0 < shown.count('class="crystal"') <= GALLERY
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown)
    assert len(cells) > 40
    assert not {"nan", "None", "inf"} & {cell.strip("<code>/") for cell in cells}


def test_the_same_seed_gives_the_same_samples(folder: Path) -> None:
    model, _ = store.load(_without_checkpoints(folder))
    frames, about = showcase.showcase(model, seed=0)
    before = json.loads((folder / "samples.json").read_text())
    assert {**about, "seconds": 0} == {**before, "seconds": 0}
    assert [len(a) for a in frames] == [len(a) for a in read(folder / "samples.extxyz", ":")]


def _without_checkpoints(folder: Path) -> Path:
    import shutil

    shutil.rmtree(folder / "checkpoints")
    return folder


def test_the_page_is_made_of_files_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model.safetensors").unlink()
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert verbs.report(folder) == folder / "report.html"
    assert "report: " in capsys.readouterr().out
    assert (folder / "report.html").read_bytes() == before


def test_what_is_missing_is_said(folder: Path) -> None:
    (folder / "samples.json").unlink()
    (folder / "run.json").unlink()
    for table in (folder / "logs").glob("*/metrics.csv"):
        table.unlink()
    shown = text_of(generated.write(folder))
    assert "holds no samples" in shown
    assert "no logs" in shown
    assert "Gallery" not in shown


def _no_groups(folder: Path) -> None:
    about = json.loads((folder / "samples.json").read_text())
    del about["groups"]
    (folder / "samples.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_groups, "damaged"),
        (lambda f: (f / "samples.json").write_text("{"), "damaged"),
        (lambda f: (f / "samples.extxyz").unlink(), "there is no file"),
        (lambda f: (f / "config.json").write_text('{"kind": "painn", "targets": {}}'), "which predicts"),
        (lambda f: (f / "config.json").unlink(), "config.json|no finished study"),
    ],
)
def test_what_is_damaged_is_one_sentence(folder: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(folder)
    with pytest.raises(VibronicError, match=said) as told:
        generated.write(folder)
    assert "\n" not in str(told.value)


def test_a_training_that_went_on_has_one_curve(folder: Path) -> None:
    logs = folder / "logs"
    for file in logs.glob("*/metrics.csv"):
        file.unlink()
    for version, rows in {"version_0": "0,9\n1,8\n2,7\n", "version_2": "2,1\n3,inf\n", "version_10": "4,2\n"}.items():
        (logs / version).mkdir(exist_ok=True)
        (logs / version / "metrics.csv").write_text("epoch,train_loss\n" + rows)
    curve = generated._logged(logs)
    assert [(row["epoch"], row["value"]) for row in curve] == [(0, 9), (1, 8), (2, 1), (4, 2)]


def test_whatever_fails_costs_the_page_and_not_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(showcase, "showcase", broken)
    write_structures(tmp_path / "salts.extxyz", crystals()[:30])
    out = verbs.train(
        "crystal-diffusion",
        str(tmp_path / "salts.extxyz"),
        condition=["band_gap"],
        model={"width": 16, "depth": 1, "heads": 2, "pair": 8},
        training=Training(epochs=1),
        device="cpu",
        out=tmp_path / "model",
    )
    assert "no report, the model is complete: out of memory\n" in capsys.readouterr().out
    assert (out / "model.safetensors").exists()
    assert (out / "run.json").exists()
    assert not (out / "report.html").exists()
    assert "holds no samples" in text_of(generated.write(out))


def test_a_slow_model_without_estimates_is_sampled_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The published model: a value of every property for each crystal, no unconditional samples, no estimates."""
    monkeypatch.setattr(showcase, "EVALUATIONS", 4)
    torch.manual_seed(0)
    model = store.build(
        "takahara2024", targets=["band_gap", "energy_per_atom"], width=8, depth=1, heads=1, frequencies=4, steps=10
    )
    frames = crystals()
    for atoms in frames:
        atoms.info["energy_per_atom"] = -float(atoms.info["band_gap"])
    found = [model.labelled(atoms) for atoms in frames]
    model.prepare(GraphData(found, model.labels, 0.0).batch())
    made, about = showcase.showcase(model.eval())
    assert [group["n"] for group in about["groups"]] == [showcase.FEW] * len(showcase.QUANTILES)
    assert all(group["deviation"] is None for group in about["groups"])
    assert all(a.info["energy_per_atom_asked"] != "" for a in made)
    (tmp_path / "logs").mkdir()
    store.save(model, tmp_path, store.Card({"structures": 64, "atoms": [2, 2], "elements": ["Na"]}))
    write_structures(tmp_path / "samples.extxyz", made)
    (tmp_path / "samples.json").write_text(json.dumps(about))
    shown = text_of(generated.write(tmp_path))
    assert "fewer than the model" in shown
    assert "gives no estimate of band_gap" in shown


def test_a_file_of_generate_has_a_page(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.extxyz"
    verbs.generate(str(_without_checkpoints(folder)), n=4, condition=["band_gap=3"], keep="all", device="cpu", out=new)
    assert verbs.report(new) == tmp_path / "new.html"
    shown = text_of(tmp_path / "new.html")
    assert "band_gap (eV)" in shown
    assert "own estimates" in shown
    assert shown.count("candidates") > 0
    write_structures(tmp_path / "salts.extxyz", crystals())
    with pytest.raises(VibronicError, match="what 'generate' wrote"):
        generated_file.write(tmp_path / "salts.extxyz")


def test_no_valid_crystal_is_a_note_and_no_empty_gallery(folder: Path) -> None:
    frames = read(folder / "samples.extxyz", ":")
    for atoms in frames:
        atoms.info["valid"] = False
    write_structures(folder / "samples.extxyz", frames)
    shown = text_of(generated.write(folder))
    assert "None of the crystals is valid" in shown
    assert 'class="gallery"' not in shown


def test_figures_take_empty_groups_and_refuse_nothing_at_all() -> None:
    rows = [{"name": "asked 1", "asked": 1.0, "values": []}, {"name": "nothing", "asked": None, "values": [-50, 2.0]}]
    figure = generator_plots.asked_against_found(rows, [0.0, 1.0, 2.0], "gap", "eV")
    assert len(figure.data) == 2
    assert max(figure.data[1].y) == 50, "half of the values is at the edge"
    curve = [{"epoch": k, "part": "loss", "set": "training", "value": 10.0**-k} for k in range(4)]
    assert generator_plots.training_curves(curve).layout.yaxis.type == "log"
    with pytest.raises(VibronicError, match="nothing to plot"):
        generator_plots.training_curves([])
    with pytest.raises(VibronicError, match="nothing to plot"):
        generator_plots.asked_against_found(rows, [], "gap")
