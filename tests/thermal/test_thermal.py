"""The whole way on copper with EMT, whose labels are so cheap that the truth over the pool is known."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from vibronic.cli import main
from vibronic.core.errors import VibronicError
from vibronic.data.dataset import read_structures
from vibronic.labelling.engines import engine
from vibronic.labelling.ledger import Ledger
from vibronic.thermal import report
from vibronic.thermal.plan import Plan
from vibronic.thermal.run import run


@pytest.fixture(scope="module")
def copper(tmp_path_factory):
    path = tmp_path_factory.mktemp("copper") / "Cu.cif"
    write(path, bulk("Cu", "fcc", a=3.59, cubic=True))
    return path


@pytest.fixture(scope="module")
def plan(copper) -> Plan:
    return Plan(
        str(copper), (150.0, 300.0), "energy", "emt", 0.0025, forces="emt", supercell=(2, 2, 2), first=8, batch=4, pool=60,
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
    assert results["labels"] < 60
    for t, row in zip(plan.temperatures, results["temperatures"], strict=True):
        # The pool is the same, so the error of sampling does not count here.
        assert abs(row["mean"] - truth(out, plan)[t]) < 1.5 * np.hypot(row["model"], row["label"])
        assert row["half_width"] == pytest.approx(np.sqrt(row["sampling"] ** 2 + row["model"] ** 2 + row["label"] ** 2))
        assert row["half_width"] <= plan.tolerance


def test_the_parts_are_those_of_equipartition(plan, finished) -> None:
    """A harmonic crystal holds 3/2 kT of potential energy per atom; quantum nuclei hold more, by the same as their zero point at
    0 K."""
    _, results = finished
    for t, row in zip(plan.temperatures, results["temperatures"], strict=True):
        classical = row["zero_point"]["value"] + row["thermal"]["value"] - row["quantum_less_classical"]["value"]
        assert classical == pytest.approx(1.5 * 8.617e-5 * t, rel=0.15)
        assert row["mean"] - results["static"] == pytest.approx(
            row["zero_point"]["value"] + row["thermal"]["value"], abs=1e-9
        )
        assert row["zero_point"]["value"] > 0
        assert row["quantum_less_classical"]["value"] > 0
    assert results["label_error"] < 1e-10


def test_expansion_raises_the_energy(finished) -> None:
    """By a little: the static energy is near its minimum."""
    _, results = finished
    strains = results["expansion"]["strains"]
    assert strains[1] > strains[0] > results["expansion"]["zero_point"] > results["expansion"]["static"]
    assert all(row["expansion"] is not None for row in results["temperatures"])


def test_the_same_command_computes_nothing_again(plan, finished) -> None:
    out, results = finished
    with Ledger(out / "ledger.sqlite") as ledger:
        before = ledger.counts()
    again = run(plan, out, "in-process", say=lambda _: None)
    with Ledger(out / "ledger.sqlite") as ledger:
        assert ledger.counts() == before
    assert before["done"] == results["labels"]
    assert again == results


def test_another_plan_is_refused(plan, finished) -> None:
    with pytest.raises(VibronicError, match="holds a run with another plan"):
        run(replace(plan, tolerance=0.1), finished[0], "in-process", say=lambda _: None)


def test_without_a_model_labels_are_averaged(plan, tmp_path) -> None:
    alone = replace(plan, model=None, tolerance=0.004, expansion=False)
    results = run(alone, tmp_path, "in-process", say=lambda _: None)
    assert results["reached"]
    for t, row in zip(plan.temperatures, results["temperatures"], strict=True):
        assert abs(row["mean"] - truth(tmp_path, plan)[t]) < 2 * row["half_width"]
        assert row["model"] == 0
        assert row["expansion"] is None
    assert "value" not in (tmp_path / "thermal.csv").name
    report.write(tmp_path)


def test_what_is_missing_is_said(plan, tmp_path) -> None:
    small = replace(plan, tolerance=1e-6, budget=16, expansion=False)
    results = run(small, tmp_path / "a", "in-process", say=lambda _: None)
    assert not results["reached"]
    assert "larger pool (--pool" in results["missing"]
    alone = replace(small, model=None)
    results = run(alone, tmp_path / "b", "in-process", say=lambda _: None)
    assert results["labels"] <= 16
    assert "raise --budget, or use a model" in results["missing"]


def test_dynamics_has_no_zero_point(plan, tmp_path) -> None:
    md = replace(plan, method="md", statistics="classical", temperatures=(300.0,), pool=20, tolerance=0.01)
    results = run(md, tmp_path, "in-process", say=lambda _: None)
    assert "zero_point" not in results["temperatures"][0]
    assert "no zero-point motion" in (tmp_path / "pools.json").read_text()
    report.write(tmp_path)


def test_the_report_and_the_table_say_what_the_results_say(finished) -> None:
    out, results = finished
    page = report.write(out).read_text()
    table = (out / "thermal.csv").read_text().splitlines()
    assert table[0].startswith("temperature [K],energy [eV/atom],energy_low [eV/atom]")
    assert len(table) == 3
    values = dict(zip(table[0].split(","), table[1].split(","), strict=True))
    row = results["temperatures"][0]
    assert float(values["energy [eV/atom]"]) == pytest.approx(row["mean"] + row["expansion"], abs=1e-5)
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
    assert "averaging labels alone would need about" in said
    assert json.loads((tmp_path / "run.json").read_text())["reached"] is True
    assert (tmp_path / "report.html").exists()
    assert main(["report", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target", "band_gap"], "the engine 'emt' gives energy, forces, stress, not 'band_gap'"),
        (["--target", "forces"], "a thermal average is of one number"),
        (["--tolerance", "0"], "the tolerance must be positive"),
        (["--temperature", "0"], "at least one temperature above 0 K"),
        (["--temperature", "300", "300"], "the temperatures must differ"),
        (["--model", "painn"], "a model that knows its own uncertainty"),
        (["--first", "4"], "4 first labels are too few"),
        (["--budget", "10", "--first", "16"], "the budget must hold the first ones"),
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


def test_kill_9_and_the_same_command_again(copper, tmp_path) -> None:
    """Whatever had been labelled is not labelled again, and the result is that of a run that was not killed."""
    flags = [
        "--temperature",
        "150",
        "300",
        "--target",
        "energy",
        "--engine",
        "emt",
        "--forces",
        "emt",
        "--tolerance",
        "0.0004",
    ]
    flags += ["--pool", "60", "--executor", "in-process", "--batch", "4", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "vibronic", "thermal", str(copper), *flags]
    subprocess.run([*command, str(whole)], check=True, capture_output=True, timeout=120)
    process = subprocess.Popen([*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 60
    while not (killed / "rounds.json").exists() and time.time() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(killed)], check=True, capture_output=True, timeout=120)
    a, b = (json.loads((folder / "results.json").read_text()) for folder in (whole, killed))
    assert a == b
    with Ledger(whole / "ledger.sqlite") as one, Ledger(killed / "ledger.sqlite") as other:
        assert one.counts() == other.counts()
