"""The thermal study end to end on copper with EMT, and the arithmetic of its verdicts."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from vibronic.core.errors import VibronicError
from vibronic.data.dataset import read_labelled, read_structures, write_structures
from vibronic.data.sources import crystal as read_crystal
from vibronic.report.html import Report
from vibronic.sampling.sampler import displacements_of, shortest_pair
from vibronic.studies import (
    thermal,
    thermal_answer,
    thermal_explain,
    thermal_gap,
    thermal_models,
    thermal_report,
    thermal_sets,
)
from vibronic.studies.thermal_plan import SETS, Plan


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
    assert len(keys) == 2 * len(plan.sets) * len(plan.sizes) * len(plan.seeds)
    assert {r["target"] for r in results["rows"] if r["model"] == "painn"} == {"energy", "forces", "pressure"}
    assert all(np.isfinite(r["mae"]) and r["mae"] > 0 and r["n_test"] == plan.test for r in results["rows"])


def test_the_sets_move_equally_far_and_none_is_the_test_set(plan, finished):
    out, _, _ = finished
    folder = out / "Cu"
    frames = {name: read_labelled(folder / f"{name}-labelled.extxyz") for name in plan.sets}
    test = read_labelled(folder / "test.extxyz")
    reference = read_labelled(folder / "reference.extxyz")[0]
    rms = {name: np.sqrt((displacements_of(f, reference) ** 2).sum(2).mean()) for name, f in frames.items()}
    assert rms["random"] == pytest.approx(rms["phonons"], rel=0.08)
    for name in plan.sets:
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
    for verdict in thermal_answer.verdicts(results["rows"]):
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
    for name in plan.sets:
        write_structures(tmp_path / "Cu" / f"{name}.extxyz", read_structures(folder / f"{name}.extxyz"))
    honest = labelling.label

    def fails_twice(structures, *args, **kwargs):
        return honest(structures[:-2] if len(structures) == plan.set_size else structures, *args, **kwargs)

    said: list[str] = []
    monkeypatch.setattr(labelling, "label", fails_twice)
    thermal._label(plan, [tmp_path / "Cu"], tmp_path, 1, said.append)
    assert len(read_labelled(tmp_path / "Cu" / "phonons-labelled.extxyz")) == plan.set_size
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
    (verdict,) = thermal_answer.verdicts(rows)
    assert (verdict["winner"], verdict["ratio"]) == ("phonons", pytest.approx(2.0))
    swapped = [{**r, "set": {"phonons": "random", "random": "phonons"}[r["set"]]} for r in rows]
    assert thermal_answer.verdicts(swapped)[0]["winner"] == "random"
    scattered = [{**r, "mae": r["mae"] * (3 if (r["set"], r["seed"]) == ("phonons", 1) else 1)} for r in rows]
    assert thermal_answer.verdicts(scattered)[0]["winner"] == "open"
    assert thermal_answer.verdicts([r for r in rows if r["seed"] == 0])[0]["winner"] == "open"
    assert thermal_answer.verdicts([{**r, "constant": 0.5} for r in rows])[0]["winner"] == "none"


@pytest.mark.parametrize(
    ("crystal", "expected"),
    [
        (bulk("Si", cubic=True), ["amplitude per species", "directions of a site"]),
        (bulk("NaCl", "rocksalt", a=5.64), ["directions of a site"]),
        (bulk("Mg"), ["amplitude per species"]),
        (read_crystal("Ag3SBr"), []),
    ],
)
def test_symmetry_leaves_ingredients_out(crystal, expected):
    assert thermal_sets.absent(crystal) == expected


def test_seeds_share_no_structure_and_sizes_are_nested(tmp_path: Path):
    plan = Plan(sizes=(4, 7), seeds=(3, 4))
    jobs = [j for j in thermal_models.potential_jobs(plan, "X", tmp_path) if (j.kind, j.set) == ("painn", "phonons")]
    chosen = {(j.seed, j.size): set(j.chosen) for j in jobs}
    assert chosen[3, 4] < chosen[3, 7]
    assert not chosen[3, 7] & chosen[4, 7]
    assert set().union(*chosen.values()) == set(range(plan.set_size))


def test_every_first_seed_draws_anew():
    purposes = [("fit", 0), ("test", 0), ("test", 1), ("test", 2), ("dealing", 0), *((s, 0) for s in SETS)]
    drawn = [Plan(seeds=(k,)).seed(*p) for k in range(5) for p in purposes]
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
    with pytest.raises(VibronicError, match="at least 4"):
        Plan(gap_sizes=(2,))
    with pytest.raises(VibronicError, match="no training set 'phonon'"):
        Plan(sets=("phonon",))
    with pytest.raises(VibronicError, match="'phonons' among them"):
        Plan(sets=("random", "species"))
    with pytest.raises(VibronicError, match="too small"):
        Plan(sizes=(8, 40), pool=30)
    with pytest.raises(VibronicError, match="test temperatures"):
        Plan(test_temperatures=(0,))
    with pytest.raises(VibronicError, match="supercell"):
        Plan(supercell=(2, 2, 0))


def test_the_gap_comparison_keeps_the_dynamics_out_of_training(tmp_path: Path):
    jobs = thermal_models.gap_jobs(Plan(gap_sizes=(6, 10_000)), tmp_path)
    test = read_labelled(tmp_path / "test.extxyz")
    assert {a.info["method"] for a in test} == {"md"}
    for path in {j.train for j in jobs}:
        assert "md" not in {a.info["method"] for a in read_labelled(path)}
    facts = thermal_models.gap_facts(tmp_path)
    smaller = min(facts[s]["number"] for s in thermal_models.GAP_SETS)
    assert {j.size for j in jobs if j.set != "both"} == {6, smaller}
    both = len(read_labelled(tmp_path / "both.extxyz"))
    assert both == facts["phonons"]["number"] + facts["random"]["number"]
    assert {j.size for j in jobs if j.set == "both" and j.kind != "tight-binding"} == {both}
    # A fit without chance differs from seed to seed only by what it learns from.
    fitted = [set(j.chosen) for j in jobs if (j.set, j.kind) == ("both", "tight-binding")]
    assert all(len(f) < both for f in fitted)
    assert fitted[0] != fitted[1]
    apart = [read_labelled(path) for t, path in jobs[0].tests if t is not None]
    assert sum(map(len, apart)) == len(test)
    assert all(len({a.info["temperature_K"] for a in frames}) == 1 for frames in apart)
    said = thermal_gap.introduction(facts)
    assert f"{both + len(test)} configurations" in said
    assert f"{facts['phonons']['closest']:.1f} Angstrom" in said


def test_seeds_draw_from_a_pool_where_there_is_one(tmp_path: Path):
    plan = Plan(sizes=(4, 9), seeds=(3, 4), pool=12)
    jobs = [j for j in thermal_models.potential_jobs(plan, "X", tmp_path) if (j.kind, j.set) == ("painn", "phonons")]
    chosen = {(j.seed, j.size): set(j.chosen) for j in jobs}
    assert plan.set_size == 12
    assert chosen[3, 4] < chosen[3, 9] < set(range(12))
    assert chosen[3, 9] != chosen[4, 9]
    assert all(len(c) == size for (_, size), c in chosen.items())


def ordered(first: str, other: str) -> Atoms:
    """L1_2 alloy."""
    spots = [(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)]
    return Atoms([first, other, other, other], scaled_positions=spots, cell=[3.75] * 3, pbc=True)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """All seven sets of an ordered alloy, whose species move differently, tested at two temperatures."""
    crystal = tmp_path_factory.mktemp("alloy") / "AuCu3.cif"
    write(crystal, ordered("Au", "Cu"))
    plan = Plan(
        crystals=(str(crystal),),
        test_temperatures=(500.0,),
        sets=SETS,
        engine="emt",
        test=6,
        sizes=(4, 8),
        seeds=(0, 1),
        pool=40,
        equilibration=40,
        interval=10,
        steps=4,
        width=8,
        layers=1,
        gap=False,
    )
    out = tmp_path_factory.mktemp("full")
    said: list[str] = []
    return plan, out, thermal.run(plan, out, workers=1, say=said.append), said


def test_all_sets_are_scored_at_all_temperatures(full):
    plan, _, results, _ = full
    keys = [(r["model"], r["target"], r["set"], r["size"], r["seed"], r["temperature_K"]) for r in results["rows"]]
    assert len(set(keys)) == len(keys) == (2 + 3) * len(SETS) * len(plan.sizes) * len(plan.seeds) * 2
    assert {k[-1] for k in keys} == {300.0, 500.0}
    constant = {(r["target"], r["temperature_K"]): r["constant"] for r in results["rows"]}
    assert constant["forces", 500.0] > constant["forces", 300.0]


def test_all_sets_move_equally_far_and_differ_in_what_they_should(full):
    plan, out, _, said = full
    folder = out / "AuCu3"
    reference = read_labelled(folder / "reference.extxyz")[0]
    frames = {name: read_labelled(folder / f"{name}-labelled.extxyz") for name in SETS}
    assert {len(f) for f in frames.values()} == {plan.set_size}
    squared = {name: (displacements_of(f, reference) ** 2).sum(axis=2).mean(axis=0) for name, f in frames.items()}
    for name in SETS:
        wide = 0.25 if name == "dynamics" else 0.06  # the crystal's own, from a short trajectory
        assert np.sqrt(squared[name].mean()) == pytest.approx(np.sqrt(squared["phonons"].mean()), rel=wide)
        rms = thermal_sets.root_mean_square(frames[name], reference)
        assert name == "phonons" or any(f"the {name} set has an rms displacement of" in s for s in said)
        assert rms == pytest.approx(np.sqrt(squared[name].mean()))
    copper = np.array(reference.get_chemical_symbols()) == "Cu"
    lighter = {name: np.sqrt(s[copper].mean() / s[~copper].mean()) for name, s in squared.items()}
    assert lighter["random"] == pytest.approx(1, abs=0.06)
    assert lighter["species"] == pytest.approx(lighter["phonons"], abs=0.08)
    closest = 0.65 * shortest_pair(reference)[0]
    assert min(shortest_pair(a)[0] for a in frames["monte-carlo"]) > closest
    # The trajectory to learn from is none that is tested on, and came with its labels.
    tests = [a for t in plan.tested for a in read_labelled(plan.test_file(folder, t))]
    assert min(np.abs(a.positions - b.positions).max() for a in frames["dynamics"] for b in tests) > 0.01


def test_the_right_stiffness_costs_the_least_energy(full):
    """Per unit of displacement nothing is cheaper than thermal motion: equipartition spends kT/2 on every mode."""
    _, out, _, _ = full
    energy = {
        name: np.mean([a.get_potential_energy() for a in read_labelled(out / "AuCu3" / f"{name}-labelled.extxyz")])
        for name in SETS
    }
    assert energy["phonons"] < min(energy[s] for s in ("random", "species", "sites", "shuffled"))
    assert energy["phonons"] == pytest.approx(
        energy["dynamics"], abs=0.15 * (energy["random"] - energy["phonons"]) + 0.3
    )


def test_what_each_ingredient_brings_follows_from_the_rows(full):
    _, _, results, _ = full
    rows = results["rows"]

    def errors(label: str, of: dict) -> np.ndarray:
        keys = ("crystal", "model", "target", "temperature_K")
        mine = [r for r in rows if all(r[k] == of[k] for k in keys) and (r["set"], r["size"]) == (label, 8)]
        return np.array([r["mae"] for r in sorted(mine, key=lambda r: r["seed"])])

    assert results["absent"] == {"AuCu3": []}  # the sites of Cu have four-fold axes, no more
    found = thermal_answer.effects(rows, {})
    assert len(found) == len(thermal_answer.EFFECTS) * 5 * 2
    some = thermal_answer.effects(rows, {"AuCu3": ["correlations"]})
    assert some == [f for f in found if f["effect"] != "correlations"]
    for f in found:
        assert f["ratio"] == pytest.approx(np.exp(np.mean(np.log(errors(f["without"], f) / errors(f["with"], f)))))
        assert f["interval"][0] < f["ratio"] < f["interval"][1]
    for v in thermal_answer.verdicts(rows):
        assert v["ratio"] == pytest.approx(np.exp(np.mean(np.log(errors(v["set"], v) / errors("phonons", v)))))
    for line in thermal_answer.summary(found):
        assert line["helps"] + line["harms"] + line["open"] + line["none"] == 10
        told = [f["ratio"] for f in found if f["effect"] == line["effect"] and f["winner"] != "none"]
        assert line["ratio"] == (pytest.approx(np.exp(np.mean(np.log(told)))) if told else None)


def test_the_full_study_computes_nothing_again_and_says_every_ratio(full):
    plan, out, results, _ = full
    before = {p: p.stat().st_mtime_ns for p in (*out.rglob("scores.json"), *out.rglob("*.extxyz"))}
    again = thermal.run(plan, out, workers=1, say=lambda _: None)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert json.loads(json.dumps(again["rows"])) == json.loads(json.dumps(results["rows"]))
    text = thermal_report.write(out).read_text()
    for v in thermal_answer.verdicts(results["rows"]):
        assert f"{v['ratio']:.2f}" in text
    assert "Correlations</strong> (sites against phonons)" in text
    assert "intervals over seeds are too narrow" in text
    assert "Labels saved" in text


def curve(label: str, errors: dict[int, list[float]]) -> list[dict]:
    return [{**row(label, k, m), "size": n} for n, several in errors.items() for k, m in enumerate(several)]


def test_labels_saved_are_read_off_the_learning_curve():
    """Random errors 8 / sqrt(n): phonon errors of 8 / sqrt(3 n) are three times as many labels."""
    sizes = (10, 20, 40, 80)
    law = {n: [8 / n**0.5, 8.4 / n**0.5, 7.6 / n**0.5] for n in sizes}
    rows = curve("random", law) + curve("phonons", {n: [e / 3**0.5 for e in law[n]] for n in sizes})
    (found,) = thermal_answer.labels_saved(rows)
    assert (found["n"], found["claim"], found["above"], found["below"]) == (10, "fails", 0, 0)
    assert found["factor"] == pytest.approx(3)
    rows = curve("random", law) + curve("phonons", {n: [e / 6**0.5 for e in law[n]] for n in sizes})
    assert thermal_answer.labels_saved(rows)[0]["claim"] == "holds"
    # Better than the random set ever gets: a bound, and no interval.
    rows = curve("random", law) + curve("phonons", {n: [0.1] * 3 for n in sizes})
    (found,) = thermal_answer.labels_saved(rows)
    assert (found["factor"], found["interval"], found["above"], found["claim"]) == (pytest.approx(8), None, 3, "holds")
    assert thermal_report._factor(found) == "more than 8.0"
    # Sizes that end at five times n: the bound is the claim itself, whatever logarithms round it to.
    two = {n: [8 / n**0.5] * 3 for n in (30, 150)}
    rows = curve("random", two) + curve("phonons", {n: [0.1] * 3 for n in two})
    assert thermal_answer.labels_saved(rows)[0]["claim"] == "holds"
    rows = curve("random", law) + curve("phonons", {n: [7.0] * 3 for n in sizes})
    (found,) = thermal_answer.labels_saved(rows)
    assert (found["factor"], found["below"], found["claim"]) == (pytest.approx(1), 3, "fails")
    assert thermal_answer.labels_saved([r for r in rows if r["seed"] == 0])[0]["claim"] == "open"


def test_more_labels_can_be_left_unused():
    """A learning curve that rises again counts with the best so far."""
    rows = curve("random", {10: [4.0, 4.0], 20: [2.0, 2.0], 40: [3.0, 3.0]})
    rows += curve("phonons", {10: [2.0, 2.0], 20: [1.9, 1.9], 40: [1.8, 1.8]})
    (found,) = thermal_answer.labels_saved(rows)
    assert (found["n"], found["above"], found["factor"]) == (10, 0, pytest.approx(2))


def test_only_crystals_whose_elements_the_others_have_are_held_out():
    family = {f: set(Atoms(f).symbols) for f in ("Ag3SBr", "Ag3SI", "Ag3SeBr", "Ag3SeI", "NaCl", "SrTiO3")}
    found = thermal_models.held_out(family)
    assert list(found) == ["Ag3SBr", "Ag3SI", "Ag3SeBr", "Ag3SeI"]
    assert found["Ag3SI"] == ["Ag3SBr", "Ag3SeBr", "Ag3SeI"]
    del family["Ag3SeI"]
    assert set(thermal_models.held_out(family)) == {"Ag3SBr"}  # S of the one, Br of the other


def test_an_offset_is_told_apart():
    rows = [{"parity": [[1.0, 2.0, 3.0], [2.5, 3.0, 4.5]], "mae": 4000 / 3}, {"parity": None, "mae": 1.0}]
    assert thermal_answer.without_offset(rows[0]) == pytest.approx(2000 / 9)
    assert thermal_answer.without_offset(rows[1]) is None


def test_compounds_teach_one_another(tmp_path: Path):
    files = [str(tmp_path / "CuAu3.cif"), str(tmp_path / "AuCu3.cif")]
    write(files[0], ordered("Cu", "Au"))
    write(files[1], ordered("Au", "Cu"))
    plan = Plan(
        crystals=tuple(files),
        engine="emt",
        test=4,
        sizes=(6,),
        seeds=(0, 1),
        transfer=True,
        equilibration=20,
        steps=4,
        width=8,
        layers=1,
        gap=False,
    )
    out = tmp_path / "study"
    results = thermal.run(plan, out, workers=1, say=lambda _: None)
    assert results["donors"] == {"CuAu3": ["AuCu3"], "AuCu3": ["CuAu3"]}
    assert len(results["transfer"]) == 2 * 2 * 5 * 2
    learned = read_labelled(out / "transfer" / "without-CuAu3-phonons.extxyz")
    assert {a.get_chemical_formula() for a in learned} == {"Au8Cu24"}
    assert all(r["size"] == 6 for r in results["transfer"])
    text = thermal_report.write(out).read_text()
    assert "From compounds to another one" in text
    with pytest.raises(VibronicError, match="nothing can be transferred"):
        thermal.run(replace(plan, crystals=plan.crystals[:1]), tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


def test_the_gap_is_explained_by_the_hamiltonian_and_not_by_a_network_that_learned_nothing(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(thermal_models, "HAMILTONIAN", 8)
    plan = Plan(seeds=(0, 1), gap_sizes=(6,), explained=1)
    folder = tmp_path / "gap"
    jobs = [j for j in thermal_models.gap_jobs(plan, folder) if (j.kind, j.set) == ("tight-binding", "both")]
    rows = thermal_models.learn(jobs, 2)
    assert {r["temperature_K"] for r in rows} == {None, 300.0, 600.0}
    weak = [{**r, "model": "painn", "r2": -0.1} for r in rows]
    found = thermal_explain.explain_gap(plan, folder, jobs, rows + weak)
    assert "bonds" not in found["painn"]
    mine = found["tight-binding"]
    # Completeness: attributions sum to the difference that the bonds make.
    assert mine["error"] < 0.02 * abs(mine["whole"] - mine["bare"])
    assert np.sum(mine["bonds"]["value"]) == pytest.approx(mine["whole"] - mine["bare"], abs=2 * mine["error"] + 1e-6)
    whole = [s for s in mine["shares"] if s["low"] is None]
    assert sum(s["share"] for s in whole) == pytest.approx(1)
    assert all(s["share_half"] > 0 for s in whole)  # no two seeds explain the same fit
    assert mine["fidelity"]["twins"] == thermal_explain.TWINS
    stamp = (folder / "explained.json").stat().st_mtime_ns
    assert thermal_explain.explain_gap(plan, folder, jobs, rows + weak) == found
    assert (folder / "explained.json").stat().st_mtime_ns == stamp
    page = Report("x", "y")
    thermal_gap.together(page, rows + weak, thermal_report._NAMES)
    thermal_gap.explained(page, tmp_path, found, thermal_report._sentence)
    page.write(tmp_path / "x.html")
    text = (tmp_path / "x.html").read_text()
    assert thermal_gap.silver_sulphur(mine["leading"]) in text
    assert "painn is not explained" in text


@pytest.mark.parametrize(
    ("kind", "interval", "said"),
    [
        ("Ag-S", (1.2, 2.0), "Ag-S leads, as"),
        ("Ag-S", (0.9, 2.0), "do not settle it"),
        ("Ag-S", None, "do not settle it"),
        ("Ag-Ag", (1.2, 2.0), "Not Ag-S"),
    ],
)
def test_who_leads_is_said_with_its_interval(kind, interval, said):
    assert said in thermal_gap.silver_sulphur({"kind": kind, "interval": interval})
