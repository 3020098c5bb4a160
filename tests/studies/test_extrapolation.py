"""The study extrapolation on a few molecules of QM9: its training sets, its network, its files, and what it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from vibronic import verbs
from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.folder import belongs
from vibronic.data import qm9
from vibronic.studies import extrapolation, extrapolation_report
from vibronic.studies.extrapolation import PARTS, Plan, half_width, scores, training_set
from vibronic.studies.extrapolation_model import MODELS, MessagePassing, untrained

NAMES = ["CH4", "C2H6", "C2H4", "C2H2", "H2O", "H2O2", "NH3", "N2H4", "HCN", "CH3OH", "CH3CHO", "CF4"]
TINY = {"sizes": [20, 40], "seeds": 2, "test": 30, "large": 20, "steps": 3, "epochs": 1, "workers": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    if not qm9.installed():
        pytest.skip("qm9pack is not installed")
    out = tmp_path_factory.mktemp("study")
    verbs.study("extrapolation", out=out, **TINY)
    return out


def test_training_sets_are_nested_and_know_every_element_and_the_smallest() -> None:
    pool = [molecule(name) for name in NAMES]
    sets = [[id(a) for a in training_set(pool, size, seed=3)] for size in (4, 8, 12)]
    assert sets[0] == sets[1][:4] == sets[2][:4]
    assert sets[1] == sets[2][:8]
    assert len(set(sets[2])) == 12
    for seed in range(5):
        chosen = training_set(pool, 5, seed)
        assert {int(z) for a in chosen for z in a.numbers} == {1, 6, 7, 8, 9}
        assert min(len(a) for a in chosen) == 3
    assert len({tuple(id(a) for a in training_set(pool, 12, seed)) for seed in range(5)}) == 5


def test_scores_by_size_and_sign() -> None:
    found = scores(np.array([1.0, -3.0, 2.0]), np.array([5, 5, 7]))
    assert (found["mae"], found["bias"], found["n"]) == (2.0, 0.0, 3)
    assert found["by_size"] == {"5": [2.0, -1.0, 2], "7": [2.0, 2.0, 1]}


def test_interval_of_a_mean() -> None:
    assert half_width(np.array([1.0])) is None
    assert half_width(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)


def test_the_network_knows_no_order_place_or_direction() -> None:
    torch.manual_seed(0)
    model = MessagePassing(width=8, interactions=2, gaussians=8).double()
    molecules = [molecule(name) for name in NAMES]

    def energies(structures: list[Atoms]) -> np.ndarray:
        with torch.no_grad():
            batches = [Batch.from_atoms(a, model.cutoff, dtype=torch.float64) for a in structures]
            return model(Batch.collate(batches))["energy"].numpy()

    changed = []
    for k, atoms in enumerate(molecules):
        other = atoms[np.random.default_rng(k).permutation(len(atoms))]
        other.rotate(37 * (k + 1), (1, 2, 3))
        other.translate((1.0, -2.0, 0.3))
        changed.append(float(energies([other])[0]))
    together = energies(molecules)
    assert np.std(together) > 0
    assert changed == pytest.approx(together, abs=1e-9)


def test_more_molecules_get_more_inducing_points_up_to_a_limit() -> None:
    assert [untrained("qdf", n).config["points"] for n in (100, 11831)] == [[400, 300], [6000, 4000]]


def test_every_fit_is_scored(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    plan = Plan(sizes=(20, 40), seeds=(0, 1))
    assert [(r["model"], r["size"], r["seed"]) for r in results["rows"]] == plan.fits
    assert len(plan.fits) == 4 * 4 + 1
    assert all(np.isfinite(r[part]["mae"]) for r in results["rows"] for part in PARTS)
    assert {r[part]["n"] for r in results["rows"] for part in PARTS} == {30, 20}
    assert all(int(n) >= 15 for r in results["rows"] for n in r["large"]["by_size"])
    assert all(int(n) < 15 for r in results["rows"] for n in r["small"]["by_size"])
    with (finished / "table.csv").open() as file:
        assert len(list(csv.reader(file))) == 1 + len(plan.fits)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics.keys() - {"units"} == metrics["units"].keys()
    assert {f"mae_large_{model}_40" for model in MODELS} <= metrics.keys()


def test_geometry_says_more_than_composition(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["mae_small_qdf_40"] < 0.8 * metrics["mae_small_composition_40"]


def test_the_page(finished: Path) -> None:
    (finished / "report.html").unlink()
    assert verbs.report(finished) == finished / "report.html"
    page = (finished / "report.html").read_text()
    metrics = json.loads((finished / "metrics.json").read_text())
    assert f"{metrics['mae_large_qdf_40']:.2f}" in page
    assert "qdf2020, literature" in page
    assert "not measured here" in page


def test_it_goes_on_where_it_stopped(finished: Path) -> None:
    kept, lost = (finished / "runs" / f"{name}-40-0.json" for name in ("qdf", "ridge"))
    written, before = kept.stat().st_mtime_ns, json.loads(lost.read_text())
    lost.unlink()
    verbs.study("extrapolation", out=finished, **TINY)
    assert kept.stat().st_mtime_ns == written
    assert json.loads(lost.read_text())["large"]["errors"] == pytest.approx(before["large"]["errors"])


def test_another_plan_is_refused(finished: Path) -> None:
    with pytest.raises(VibronicError, match="another plan"):
        verbs.study("extrapolation", out=finished, **{**TINY, "large": 10})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gap": False}, "has no --gap"),
        ({"sizes": [100, 100]}, "sizes that differ"),
        ({"sizes": [3]}, "at least 20"),
        ({"models": ["qdf", "gpt"]}, "no model 'gpt'"),
        ({"large": -1}, "test molecule"),
        ({"steps": 0}, "a step"),
        ({"seeds": 0}, "at least one seed"),
    ],
)
def test_options_it_would_ignore_or_cannot_meet(options: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match=reason):
        verbs.study("extrapolation", out=tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


def test_more_molecules_than_there_are(tmp_path: Path) -> None:
    if not qm9.installed():
        pytest.skip("qm9pack is not installed")
    with pytest.raises(VibronicError, match="fewer than 20000"):
        extrapolation.run(Plan(sizes=(20000,)), tmp_path)


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    assert not belongs(tmp_path, "extrapolation")
    with pytest.raises(VibronicError, match="no finished study"):
        extrapolation_report.write(tmp_path)
