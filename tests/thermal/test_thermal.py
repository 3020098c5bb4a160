"""The whole way on copper with EMT, whose labels are so cheap that the truth over the pool is known."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import write
from ase.spacegroup import crystal

from vibronic.cli import main
from vibronic.core.errors import VibronicError
from vibronic.core.folder import content
from vibronic.data.dataset import read_structures
from vibronic.labelling.engines import ENGINES, engine
from vibronic.labelling.ledger import Ledger
from vibronic.sampling.checks import statistical_inefficiency
from vibronic.sampling.expansion import Expansion
from vibronic.thermal import average, report
from vibronic.thermal.answer import as_good_at_random, missing
from vibronic.thermal.labels import Labels, _parabola, _spanned
from vibronic.thermal.plan import Plan
from vibronic.thermal.run import _check_labels, run


@pytest.fixture(scope="module")
def copper(tmp_path_factory):
    path = tmp_path_factory.mktemp("copper") / "Cu.cif"
    write(path, bulk("Cu", "fcc", a=3.59, cubic=True))
    return path


@pytest.fixture(scope="module")
def plan(copper) -> Plan:
    return Plan(
        str(copper), (150.0, 300.0), "energy", "emt", 0.00092, forces="emt", supercell=(2, 2, 2), first=8, batch=1, pool=200,
        budget=60,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("thermal") / "run"
    return out, run(plan, out, "in-process", say=lambda _: None)


def truth(out, plan) -> dict[float, float]:
    """The average of every label of the pool, per atom."""
    calculator = engine("emt").calculator()
    found = {}
    for t in plan.temperatures:
        energies = []
        for atoms in read_structures(out / "pools" / f"{t:g}-K.extxyz"):
            atoms.calc = calculator
            energies.append(atoms.get_potential_energy() / len(atoms))
        found[t] = float(np.mean(energies))
    return found


def test_the_truth_lies_in_the_interval_after_a_part_of_the_labels(plan, finished) -> None:
    out, results = finished
    assert results["reached"]
    assert results["missing"] == ""
    assert len(results["rounds"]) >= 2  # it has chosen
    assert results["labels"] < 60
    for t, row in zip(plan.temperatures, results["temperatures"], strict=True):
        # The pool is the same, so the error of sampling does not count here.
        mean = row["value"] - row["parts"]["expansion"]["value"]
        assert abs(mean - truth(out, plan)[t]) < 1.5 * np.hypot(row["errors"]["model"], row["errors"]["labels"])
        assert row["half_width"] == pytest.approx(np.linalg.norm(list(row["errors"].values())))
        assert row["half_width"] <= plan.tolerance


def test_the_parts_are_those_of_equipartition(plan, finished) -> None:
    """A harmonic crystal holds 3/2 kT of potential energy per atom; quantum nuclei hold more, by the same as their zero point at
    0 K."""
    _, results = finished
    for t, row in zip(plan.temperatures, results["temperatures"], strict=True):
        part = {key: one["value"] for key, one in row["parts"].items()}
        by = row["motion"]
        assert by["zero_point"] + by["thermal"] == pytest.approx(part["motion"], abs=1e-9)
        assert part["motion"] - by["quantum_less_classical"] == pytest.approx(1.5 * 8.617e-5 * t, rel=0.15)
        assert row["value"] - results["static"] == pytest.approx(sum(part.values()), abs=1e-9)
        assert by["zero_point"] > 0
        # The virial theorem: oscillators have as much kinetic as potential energy.
        assert row["kinetic"] == pytest.approx(part["motion"], rel=0.15)
        assert by["quantum_less_classical"] > 0
    assert results["label_error"] < 1e-10


def test_classical_nuclei_hold_what_equipartition_gives_them(plan, tmp_path) -> None:
    classical = replace(plan, statistics="classical", temperatures=(200.0,), tolerance=0.002)
    results = run(classical, tmp_path, "in-process", say=lambda _: None)
    (row,) = results["temperatures"]
    assert row["value"] == pytest.approx(results["static"] + sum(p["value"] for p in row["parts"].values()), abs=1e-9)
    assert row["parts"]["motion"]["value"] == pytest.approx(1.5 * 8.617e-5 * 200, rel=0.15)
    assert list(row["motion"]) == ["quantum_less_classical"]
    assert row["motion"]["quantum_less_classical"] > 0
    report.write(tmp_path)


def test_expansion_counts_from_the_static_lattice(plan, finished, tmp_path) -> None:
    """So it does not depend on the cell that is given; how far that is off is said, with what it would add."""
    _, results = finished
    strains, static = results["expansion"]["strains"], results["expansion"]["static"]
    assert strains[1] > strains[0] > results["expansion"]["zero_point"] > static
    added = [row["parts"]["expansion"]["value"] for row in results["temperatures"]]
    # The static energy is least at its own lattice; what vibrations lose as they soften makes up for it at low temperature.
    assert added[1] > added[0] > 0
    assert all(v < 0 for v in results["expansion"]["vibrations"])
    wide = tmp_path / "wide.cif"
    write(wide, bulk("Cu", "fcc", a=3.62, cubic=True))
    other = run(replace(plan, crystal=str(wide), tolerance=0.01), tmp_path / "run", "in-process", say=lambda _: None)
    assert [row["parts"]["expansion"]["value"] for row in other["temperatures"]] == pytest.approx(added, rel=0.1)
    assert other["expansion"]["static"] < -0.005
    assert other["cell"]["value"] < 0
    assert any("not that of least energy by 'emt'" in f and "shorter" in f for f in other["notes"])
    page = report.write(tmp_path / "run").read_text()
    assert "The answer takes the given cell for the crystal at rest" in page


def test_labels_that_scatter_widen_the_interval_of_the_expansion_too() -> None:
    """The weights of three labels: at a labelled strain one of them, and together none at the static lattice."""
    at = [-0.01, 0.0, 0.01]
    assert _parabola(at, 0.01) == pytest.approx([0, 0, 1])
    assert _parabola(at, 0.02) == pytest.approx([1, -3, 3])
    assert _parabola(at, 0.003).sum() == pytest.approx(1)
    grown = Expansion((100.0, 300.0), (0.002, 0.006), 0.001, -0.002, (0.0, 0.0), (0.0, 0.0))
    assert _spanned(grown) == pytest.approx([-0.002, 0.002, 0.006])


def test_the_same_command_computes_nothing_again(plan, finished) -> None:
    out, results = finished
    with Ledger(out / "ledger.sqlite") as ledger:
        before = ledger.counts()
    said: list[str] = []
    again = run(plan, out, "in-process", say=said.append)
    with Ledger(out / "ledger.sqlite") as ledger:
        assert ledger.counts() == before
    assert before["done"] == results["labels"]
    assert again == results
    assert said[-1] == f"labels: 0 computed now, {results['labels']} were in the ledger"


def test_another_plan_is_refused_but_a_tighter_one_goes_on(plan, finished, tmp_path) -> None:
    out, results = finished
    with pytest.raises(VibronicError, match=r"another plan \(target: energy there, pressure here\)"):
        run(replace(plan, target="pressure"), out, "in-process", say=lambda _: None)
    shutil.copytree(out, tmp_path / "more")
    again = run(replace(plan, tolerance=0.0008, pool=400), tmp_path / "more", "in-process", say=lambda _: None)
    assert again["rounds"][: len(results["rounds"]) - 1] == results["rounds"][:-1]
    assert again["labels"] >= results["labels"]
    assert again["reached"]
    with Ledger(tmp_path / "more" / "ledger.sqlite") as ledger:
        assert ledger.counts()["done"] == again["labels"]  # a larger pool begins with the smaller one
    for t in plan.temperatures:
        small, large = (read_structures(f / "pools" / f"{t:g}-K.extxyz") for f in (out, tmp_path / "more"))
        assert len(large) == 400
        assert all(np.array_equal(a.positions, b.positions) for a, b in zip(small, large, strict=False))


def test_a_plan_that_cannot_be_drawn_binds_nothing(plan, tmp_path) -> None:
    with pytest.raises(VibronicError):
        run(replace(plan, crystal="no-such-crystal"), tmp_path, "in-process", say=lambda _: None)
    assert not (tmp_path / "plan.json").exists()


def test_labels_that_fail_are_gone_around(plan, tmp_path, monkeypatch) -> None:
    """One in five fails for good, and a batch may be a single label."""
    calls = iter(range(10_000))

    class Moody(EMT):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            if next(calls) % 5 == 4:
                raise RuntimeError("no convergence")

    monkeypatch.setitem(ENGINES, "moody", replace(ENGINES["emt"], name="moody", build=lambda settings: Moody()))
    loose = replace(plan, engine="moody", batch=1, expansion=False, tolerance=0.002)
    results = run(loose, tmp_path / "a", "in-process", say=lambda _: None)
    assert results["failed"] >= 2
    assert results["reached"]

    class Broken(EMT):
        def calculate(self, *arguments, **options):
            raise RuntimeError("no memory")

    monkeypatch.setitem(ENGINES, "broken", replace(ENGINES["emt"], name="broken", build=lambda settings: Broken()))
    with pytest.raises(VibronicError, match=r"'broken' cannot label the undisplaced crystal; .*no memory"):
        run(replace(loose, engine="broken"), tmp_path / "b", "in-process", say=lambda _: None)


def test_what_phonons_should_not_have_drawn_is_noticed(plan, tmp_path) -> None:
    """Force constants of another material: far too soft for what labels."""
    said: list[str] = []
    results = run(replace(plan, tolerance=0.05, expansion=False), tmp_path / "a", "in-process", say=said.append)
    assert [row["off"] for row in results["ensemble"]] == [False, False]
    for t, row in zip(plan.temperatures, results["ensemble"], strict=True):
        assert row["harmonic"] == pytest.approx(
            1.5 * 0.08617 * t, rel=0.25
        )  # equipartition, and a little of the quantum
        assert row["labelled"] == pytest.approx(row["harmonic"], abs=4 * row["error"])
    soft = replace(plan, imaginary="cap", temperatures=(300.0,), tolerance=0.05, expansion=False)
    path = tmp_path / "b" / "pools.json"
    run(soft, tmp_path / "b", "in-process", say=said.append)
    record = json.loads(path.read_text())
    record["harmonic"] = {"300.0": record["harmonic"]["300.0"] / 4}
    path.write_text(json.dumps(record))
    results = run(soft, tmp_path / "b", "in-process", say=said.append)
    assert results["ensemble"][0]["off"]
    assert "try --method md" in results["notes"][-1]
    assert "try --method md" in report.write(tmp_path / "b").read_text()


def test_snapshots_that_are_alike_count_less() -> None:
    """Labels of a trajectory know its mean, and the trajectory knows that of the dynamics less well."""
    labels = np.random.default_rng(0).normal(size=20)
    free, alike = (average.direct(labels, 0.0, pool=100, inefficiency=g) for g in (1.0, 5.0))
    assert free.half_width == pytest.approx(2.093 * labels.std(ddof=1) / 20**0.5, rel=0.02)
    assert alike.model == free.model
    assert alike.sampling == pytest.approx(2.093 * labels.std(ddof=1) * (0.99 / 19) ** 0.5, rel=1e-3)
    assert average.direct(labels, 0.0, pool=20).half_width == pytest.approx(
        2.093 * labels.std(ddof=1) / 20**0.5, rel=1e-3
    )


@pytest.mark.parametrize("memory", [0.0, 0.8, 0.95, 1.0])
def test_the_interval_of_a_pool_holds_the_mean_of_the_dynamics(memory: float) -> None:
    """Four trajectories of 75 snapshots, from independent ones to four that never change: 95 % of the intervals hold zero."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        series = rng.standard_normal((75, 4))
        for k in range(1, 75):
            series[k] = memory * series[k - 1] + (1 - memory**2) ** 0.5 * series[k]
        values = series.ravel()
        half = average.pooled(float(values.var()), len(values), statistical_inefficiency(values, 4))
        inside.append(abs(values.mean()) <= half)
    assert 0.88 < np.mean(inside) < 0.98


def test_labels_that_an_average_alone_needs() -> None:
    """The half width of so many labels of a pool is the tolerance, or just below."""
    n = average.alone(1.0, 0.2, 200)
    assert 1.96 * (1 / n - 1 / 200) ** 0.5 <= 0.2 < 1.96 * (1 / (n - 1) - 1 / 200) ** 0.5
    assert average.alone(1.0, 0.2) == 97  # (1.96 / 0.2)^2


def test_without_a_model_labels_are_averaged(plan, tmp_path) -> None:
    alone = replace(plan, model=None, tolerance=0.004, expansion=False)
    results = run(alone, tmp_path, "in-process", say=lambda _: None)
    assert results["reached"]
    for t, row in zip(plan.temperatures, results["temperatures"], strict=True):
        assert abs(row["value"] - truth(tmp_path, plan)[t]) < 2 * row["half_width"]
        assert list(row["parts"]) == ["motion"]
        assert results["static"] + row["parts"]["motion"]["value"] == pytest.approx(row["value"])
    report.write(tmp_path)


def test_a_budget_that_is_spent_is_said_and_a_larger_one_goes_on(plan, finished, tmp_path) -> None:
    _, results = finished
    short = run(replace(plan, budget=results["labels"] - 1), tmp_path, "in-process", say=lambda _: None)
    assert not short["reached"]
    assert "of it of the model" in short["missing"]
    assert f"raise --budget to {2 * (results['labels'] - 1)}" in short["missing"]
    again = run(plan, tmp_path, "in-process", say=lambda _: None)
    assert again["reached"]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.counts()["done"] == again["labels"]  # those before were of use


@pytest.mark.parametrize(
    ("model", "cost"),
    [("auto", r"raise --pool to \d+ \(no labels, about \d+ minutes of predictions\), or take a larger --supercell"),
     (None, r"so no more was labelled: raise --pool to \d+ \(--budget with it, or a model\)")],
)  # fmt: skip
def test_no_label_is_spent_on_what_the_pool_leaves(plan, tmp_path, model, cost) -> None:
    small = replace(plan, tolerance=1e-6, budget=23, expansion=False, model=model)
    results = run(small, tmp_path, "in-process", say=lambda _: None)
    assert not results["reached"]
    assert re.search(cost, results["missing"])
    assert "200 independent configurations" in results["missing"]
    richer = run(replace(small, budget=60), tmp_path, "in-process", say=lambda _: None)
    assert richer["labels"] == results["labels"] <= 23


def test_dynamics_has_no_zero_point(plan, tmp_path) -> None:
    md = replace(plan, method="md", statistics="classical", temperatures=(300.0,), pool=22, tolerance=0.01)
    results = run(md, tmp_path, "in-process", say=lambda _: None)
    (row,) = results["temperatures"]
    assert list(row["parts"]) == ["motion", "expansion"]
    assert row["motion"] == {}
    assert row["value"] == pytest.approx(results["static"] + sum(p["value"] for p in row["parts"].values()), abs=1e-9)
    said = " ".join(results["findings"])
    assert "no zero-point motion" in said
    assert "4 trajectories" in said
    pool = read_structures(tmp_path / "pools" / "300-K.extxyz")
    seeds = [atoms.info["seed"] for atoms in pool]
    assert len(pool) == 22
    assert seeds == [*seeds[:4] * 5, *seeds[:2]]  # in turn
    assert len(set(seeds)) == 4
    report.write(tmp_path)


def test_the_report_and_the_table_say_what_the_results_say(finished) -> None:
    out, results = finished
    page = report.write(out).read_text()
    table = (out / "thermal.csv").read_text().splitlines()
    assert table[0].startswith("temperature [K],energy [eV/atom],energy_low [eV/atom]")
    assert len(table) == 3
    values = dict(zip(table[0].split(","), table[1].split(","), strict=True))
    row = results["temperatures"][0]
    assert float(values["energy [eV/atom]"]) == pytest.approx(row["value"], abs=1e-5)
    added = [
        values[f"{n} [eV/atom]"] for n in ("undisplaced", "zero_point_motion", "thermal_motion", "thermal_expansion")
    ]
    assert sum(map(float, added)) == pytest.approx(row["value"], abs=1e-4)
    motion = float(values["zero_point_motion [eV/atom]"]) + float(values["thermal_motion [eV/atom]"])
    assert float(values["motion_of_the_nuclei [eV/atom]"]) == pytest.approx(motion, abs=1e-4)
    for words in ("zero-point motion", "How many labels", "five-fold cross-validation", "labels without a model"):
        assert words in page


def test_the_verb(copper, tmp_path, capsys) -> None:
    flags = ["--temperature", "200", "400", "--target", "pressure", "--engine", "emt", "--forces", "emt"]
    flags += [
        "--tolerance",
        "0.5",
        "--pool",
        "30",
        "--first",
        "8",
        "--executor",
        "in-process",
        "--out",
        str(tmp_path),
    ]
    assert main(["thermal", str(copper), *flags]) == 0
    said = capsys.readouterr().out
    assert "200 K: pressure" in said
    assert "averaging labels alone would need up to" in said
    assert json.loads((tmp_path / "run.json").read_text())["reached"] is True
    assert (tmp_path / "report.html").exists()
    assert main(["report", str(tmp_path)]) == 0
    record = (tmp_path / "run.json").read_text()
    assert main(["thermal", str(copper), *flags]) == 0
    again = capsys.readouterr().out
    assert "nothing is left to do" in again
    assert "200 K: pressure" in again
    assert (tmp_path / "run.json").read_text() == record
    shutil.rmtree(tmp_path / "model")  # what is missing is made again
    assert main(["thermal", str(copper), *flags]) == 0
    assert "nothing is left to do" not in capsys.readouterr().out
    assert (tmp_path / "model" / "config.json").exists()
    assert main(["thermal", str(copper), *flags, "--tolerance", "0.6"]) == 0
    assert "nothing is left to do" not in capsys.readouterr().out


def test_another_crystal_in_the_same_file_is_refused(copper, tmp_path, capsys) -> None:
    path = tmp_path / "crystal.cif"
    shutil.copy(copper, path)
    flags = "--target energy --engine emt --forces emt --tolerance 1 --pool 20 --no-expansion true --executor in-process --first 8".split()  # noqa: SIM905
    command = ["thermal", str(path), *flags, "--out", str(tmp_path / "run")]
    assert main(command) == 0
    write(path, bulk("Ag", "fcc", a=4.06, cubic=True))
    capsys.readouterr()
    assert main(command) == 2
    assert "another plan (content" in capsys.readouterr().err


def test_what_chosen_labels_were_worth_in_random_ones() -> None:
    """By the widest interval; nothing is said beyond what was foreseen."""
    foreseen = {"chosen": [[4, 1], [2, 1], [1, 1]], "random": [[4, 1], [3, 1], [2, 0.9], [1.5, 0.8]]}
    assert as_good_at_random(foreseen, 1) == 2
    assert as_good_at_random(foreseen, 2) is None  # random ones do not get there
    assert as_good_at_random(foreseen, 3) is None  # nor did it look so far
    assert as_good_at_random({"chosen": [[1], [1]], "random": [[1], [1]]}, 1) == 0


@pytest.mark.parametrize(
    ("stopped", "errors", "words"),
    [
        ("budget", {"model": 0.02, "sampling": 0.01}, "0.02 of it of the model: raise --budget to 80"),
        ("floor", {"model": 0.0055, "sampling": 0.0195}, "raise --pool to 381"),
        ("exhausted", {"model": 0.02, "sampling": 0.01}, "every configuration of the pools is labelled: raise --pool above 300"),
        ("floor", {"sampling": np.inf}, "raise --pool above 300 by far"),
        ("floor", {"labels": 0.03}, "most of it of the labels themselves"),
        ("budget", {"expansion": 0.03}, "most of it of the labels of strained crystals"),
    ],
)  # fmt: skip
def test_what_is_missing_follows_from_why_it_stopped(plan, stopped, errors, words) -> None:
    wanted = replace(plan, tolerance=0.02, budget=40, pool=300)
    parts = {"sampling": 0.0, "model": 0.0, "labels": 0.0, "expansion": 0.0} | errors
    row = {"temperature": 300.0, "half_width": 0.03, "errors": parts, "independent": 300.0, "spread": 0.1}
    results = {"reached": False, "temperatures": [row], "unit": "eV", "labels": 40}
    assert words in missing(wanted, results, stopped, 0.002)


def test_a_property_that_does_not_move_needs_few_labels() -> None:
    assert average.alone(0.0, 0.1) == 8  # the gap of a metal


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "band_gap"], "the engine 'emt' gives energy, forces, stress, pressure, not 'band_gap'"),
        (["--target", "forces"], "a thermal average is of one number"),
        (["--tolerance", "0"], "the tolerance must be positive"),
        (["--temperature", "0"], "all of them above 0 and up to 10000 K"),
        (["--temperature", "nan"], 'option "temperature"'),
        (["--temperature", "1e9"], "all of them above 0 and up to 10000 K"),
        (["--no-model", "true", "--model", "ridge"], "averages labels alone: leave --model ridge out"),
        (["--temperature", "300", "300"], "the temperatures must differ"),
        (["--model", "painn"], "a model that knows its own uncertainty"),
        (["--first", "4"], "4 first labels are too few"),
        (["--budget", "10", "--first", "16"], "a budget of 10 labels is too small: 23 at least"),
        (["--method", "md", "--statistics", "quantum"], "dynamics is classical"),
        (["--method", "md", "--imaginary", "cap"], "knows no imaginary modes"),
        (["--workers", "0"], "at least one worker"),
        (["--executor", "abacus"], "unknown executor 'abacus'"),
        (["--pool", "5"], "20 at least"),
        (["--engine", "files"], "computes labels as it needs them"),
        (["--model", "tight-binding"], "tight-binding gives vbm, cbm, band_gap, not energy"),
    ],
)
def test_bad_requests(copper, tmp_path, capsys, flags, message) -> None:
    usual = [
        "--target",
        "energy",
        "--engine",
        "emt",
        "--forces",
        "emt",
        "--tolerance",
        "0.1",
        "--executor",
        "in-process",
    ]
    usual += ["--pool", "20", "--out", str(tmp_path / "x")]
    assert main(["thermal", str(copper), *usual, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x" / "pools.json").exists()  # refused before anything is computed


def numbers(content) -> Iterator[float]:
    """All numbers in what JSON holds, in order."""
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from numbers(value)
    elif isinstance(content, int | float):
        yield float(content)


def test_kill_9_and_the_same_command_again(tmp_path) -> None:
    """Whatever had been labelled is not labelled again, and the result is that of a run that was not killed."""
    path = tmp_path / "Cu3Au.cif"
    write(path, crystal(["Au", "Cu"], [(0, 0, 0), (0.5, 0.5, 0)], spacegroup=221, cellpar=[3.72] * 3 + [90] * 3))
    flags = [
        "--temperature",
        "300",
        "--target",
        "pressure",
        "--engine",
        "emt",
        "--forces",
        "emt",
        "--tolerance",
        "0.04",
        "--pool",
        "400",
    ]
    flags += ["--executor", "in-process", "--first", "8", "--batch", "1", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "vibronic", "thermal", str(path), *flags]
    subprocess.run([*command, str(whole)], check=True, capture_output=True, timeout=120)
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while time.time() < deadline:
        rounds = content(killed / "rounds.json") if (killed / "rounds.json").exists() else []
        if len(rounds) > 1 and "labels" in rounds[1]:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "results.json").exists()
    subprocess.run([*command, str(killed)], check=True, capture_output=True, timeout=120)
    a, b = (json.loads((folder / "results.json").read_text()) for folder in (whole, killed))
    assert len(a["rounds"]) >= 3
    # Down to what the linear algebra rounds differently from process to process.
    assert np.array(list(numbers(a))) == pytest.approx(np.array(list(numbers(b))), rel=1e-6, abs=1e-9)
    with Ledger(whole / "ledger.sqlite") as one, Ledger(killed / "ledger.sqlite") as other:
        assert one.counts() == other.counts()


def test_a_pool_smaller_than_what_was_labelled_of_it_is_refused(plan, tmp_path):
    """Labels are known by their places in the pools: in a smaller one they would be other configurations."""
    (tmp_path / "rounds.json").write_text(json.dumps([{"asked": [[0, 3], [1, 45]]}]))
    with pytest.raises(VibronicError, match="take --pool 46 or more"):
        run(replace(plan, pool=40), tmp_path, "in-process", say=lambda _: None)
    assert not (tmp_path / "pools").exists()


def test_a_temperature_without_labels_is_refused(plan):
    labels = Labels(engine("emt"), "", {}, plan.target)
    labels.order, labels.failed = [0, 1], {2, 3}
    with pytest.raises(VibronicError, match="at 300 K there are 0 labels to average; 2 of 2 configurations"):
        _check_labels(plan, np.repeat([0, 1], 2), labels, 1)
