"""The thermal study end to end on copper with EMT, and the arithmetic of its verdicts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from vibronic.core.errors import VibronicError
from vibronic.data.dataset import read_labelled, read_structures, write_structures
from vibronic.sampling.sampler import displacements_of
from vibronic.studies import thermal, thermal_models, thermal_report
from vibronic.studies.thermal_plan import Plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    crystal = tmp_path_factory.mktemp("crystal") / "Cu.cif"
    write(crystal, bulk("Cu", cubic=True))
    return Plan(
        crystals=(str(crystal),),
        engine="emt",
        test=6,
        sizes=(4, 12),
        seeds=(0, 1),
        equilibration=40,
        steps=6,
        gap=False,
    )


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    said: list[str] = []
    results = thermal.run(plan, out, workers=1, say=said.append)
    return out, results, said


def test_every_model_set_size_and_seed_is_scored(plan, finished):
    _, results, _ = finished
    keys = {(r["model"], r["set"], r["size"], r["seed"]) for r in results["rows"]}
    assert len(keys) == 2 * len(thermal_models.SETS) * len(plan.sizes) * len(plan.seeds)
    assert {r["target"] for r in results["rows"] if r["model"] == "painn"} == {"energy", "forces", "pressure"}
    assert all(np.isfinite(r["mae"]) and r["mae"] > 0 and r["n_test"] == plan.test for r in results["rows"])


def test_the_sets_move_equally_far_and_none_is_the_test_set(finished):
    out, _, _ = finished
    folder = out / "Cu"
    frames = {name: read_labelled(folder / f"{name}-labelled.extxyz") for name in thermal_models.SETS}
    test = read_labelled(folder / "test.extxyz")
    reference = read_labelled(folder / "reference.extxyz")[0]
    rms = {name: np.sqrt((displacements_of(f, reference) ** 2).sum(2).mean()) for name, f in frames.items()}
    assert rms["random"] == pytest.approx(rms["phonons"], rel=0.08)
    for name in thermal_models.SETS:
        closest = min(np.abs(a.positions - b.positions).max() for a in frames[name] for b in test)
        assert closest > 0.01


def test_a_small_ridge_model_learns_the_energy(finished):
    _, results, _ = finished
    best = min(r["r2"] for r in results["rows"] if (r["model"], r["target"], r["size"]) == ("ridge", "energy", 12))
    assert best > 0.5


def test_the_same_command_computes_nothing_again(plan, finished):
    out, results, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("scores.json")}
    before |= {p: p.stat().st_mtime_ns for p in out.rglob("*.extxyz")}
    again = thermal.run(plan, out, workers=1, say=lambda _: None)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert json.loads(json.dumps(again["rows"])) == json.loads(json.dumps(results["rows"]))


def test_another_plan_does_not_mix_into_the_folder(plan, finished):
    out, _, _ = finished
    with pytest.raises(VibronicError, match="another plan"):
        thermal.run(replace(plan, temperature=500.0), out, workers=1)


def test_the_report_says_what_the_rows_say(finished):
    out, results, _ = finished
    page = thermal_report.write(out)
    text = page.read_text()
    assert "Do lattice vibrations teach more" in text
    for verdict in thermal_report.verdicts(results["rows"]):
        assert f"{verdict['ratio']:.2f}" in text


def test_a_folder_without_a_study_is_one_sentence(tmp_path):
    with pytest.raises(VibronicError, match="no finished study"):
        thermal_report.write(tmp_path)
    for content in ("{", "{}", "[]"):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(VibronicError, match="damaged"):
            thermal_report.write(tmp_path)


def test_a_mistake_does_not_bind_the_folder(plan, tmp_path):
    for wrong in ({"crystals": ("nowhere.cif",)}, {"engine": "nosuch"}):
        with pytest.raises(VibronicError):
            thermal.run(replace(plan, **wrong), tmp_path)
    assert not (tmp_path / "plan.json").exists()


def test_a_spare_takes_the_place_of_what_cannot_be_labelled(plan, finished, tmp_path, monkeypatch):
    from vibronic.labelling import label as labelling

    folder = finished[0] / "Cu"
    for name in thermal_models.SETS:
        write_structures(tmp_path / "Cu" / f"{name}.extxyz", read_structures(folder / f"{name}.extxyz"))
    honest = labelling.label

    def fails_twice(structures, *args, **kwargs):
        return honest(structures[:-2] if len(structures) == plan.pool else structures, *args, **kwargs)

    said: list[str] = []
    monkeypatch.setattr(labelling, "label", fails_twice)
    thermal._label(plan, [tmp_path / "Cu"], tmp_path, 1, said.append)
    assert len(read_labelled(tmp_path / "Cu" / "phonons-labelled.extxyz")) == plan.pool
    assert all("2 configurations" in sentence for sentence in said)
    (tmp_path / "Cu" / "phonons-labelled.extxyz").unlink()
    monkeypatch.setattr(labelling, "label", lambda s, *args, **kwargs: honest(s[:1], *args, **kwargs))
    with pytest.raises(VibronicError, match="too many configurations of Cu"):
        thermal._label(plan, [tmp_path / "Cu"], tmp_path, 1, said.append)


def row(label: str, seed: int, mae: float, constant: float = 9.0) -> dict:
    return {
        "crystal": "X",
        "model": "m",
        "target": "energy",
        "set": label,
        "size": 9,
        "seed": seed,
        "mae": mae,
        "constant": constant,
        "unit": "eV",
    }


def test_a_winner_needs_an_interval_without_one():
    rows = [row("phonons", k, m) for k, m in enumerate((1.0, 1.1, 0.9))]
    rows += [row("random", k, m) for k, m in enumerate((2.0, 2.2, 1.8))]
    (verdict,) = thermal_report.verdicts(rows)
    assert (verdict["winner"], verdict["ratio"]) == ("phonons", pytest.approx(2.0))
    swapped = [{**r, "set": {"phonons": "random", "random": "phonons"}[r["set"]]} for r in rows]
    assert thermal_report.verdicts(swapped)[0]["winner"] == "random"
    scattered = [{**r, "mae": r["mae"] * (3 if (r["set"], r["seed"]) == ("phonons", 1) else 1)} for r in rows]
    assert thermal_report.verdicts(scattered)[0]["winner"] == "open"
    assert thermal_report.verdicts([r for r in rows if r["seed"] == 0])[0]["winner"] == "open"
    assert thermal_report.verdicts([{**r, "constant": 0.5} for r in rows])[0]["winner"] == "none"


def test_the_interval_is_students(plan):
    """Ratios 2, 2.2, 1.8 over seeds: mean of logs 0.690, standard error 0.058, t(2) = 4.303."""
    _, low, high = thermal_report._geometric(np.log([2.0, 2.2, 1.8]))
    assert low == pytest.approx(1.553, abs=0.01)
    assert high == pytest.approx(2.561, abs=0.02)


def test_seeds_share_no_structure_and_sizes_are_nested(tmp_path: Path):
    plan = Plan(sizes=(4, 7), seeds=(3, 4))
    jobs = [j for j in thermal_models.potential_jobs(plan, "X", tmp_path) if (j.kind, j.set) == ("painn", "phonons")]
    chosen = {(j.seed, j.size): set(j.chosen) for j in jobs}
    assert chosen[3, 4] < chosen[3, 7]
    assert not chosen[3, 7] & chosen[4, 7]
    assert set().union(*chosen.values()) == set(range(plan.pool))


def test_every_first_seed_draws_anew():
    drawn = [Plan(seeds=(k,)).seed(p) for k in range(5) for p in ("fit", "test", "phonons", "random")]
    assert len(set(drawn)) == len(drawn)


def test_an_impossible_plan_is_refused():
    with pytest.raises(VibronicError, match="at least one seed"):
        Plan(seeds=())
    with pytest.raises(VibronicError, match="same name"):
        Plan(crystals=("a/POSCAR", "b/POSCAR"))
    with pytest.raises(VibronicError, match="at least 4"):
        Plan(sizes=(2,))
    with pytest.raises(VibronicError, match="temperature of a study must be positive"):
        Plan(temperature=-10)
    with pytest.raises(VibronicError, match="differ"):
        Plan(seeds=(1, 1))
    with pytest.raises(VibronicError, match="at most 19"):
        Plan(gap_sizes=(20,))
    with pytest.raises(VibronicError, match="supercell"):
        Plan(supercell=(2, 2, 0))


def test_the_gap_comparison_keeps_the_dynamics_out_of_training(tmp_path: Path):
    jobs = thermal_models.gap_jobs(Plan(), tmp_path)
    test = read_labelled(tmp_path / "test.extxyz")
    assert {a.info["method"] for a in test} == {"md"}
    for path in {j.train for j in jobs}:
        assert "md" not in {a.info["method"] for a in read_labelled(path)}
    assert {j.size for j in jobs if j.set == "both"} == {39}
