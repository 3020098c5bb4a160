"""The verb ``vibrations``: its table, what it says, its check against labels, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from vibronic.core.units import THZ
from vibronic.data.dataset import write_structures
from vibronic.learning.recipe import Training
from vibronic.verbs import train, vibrations

Table = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, labelled_copper: list[Atoms]) -> Path:
    """Two networks that know forces, a ridge, and copper at EMT's lattice constant."""
    here = tmp_path_factory.mktemp("vibrations")
    write_structures(here / "data.extxyz", labelled_copper)
    write(here / "cu.cif", bulk("Cu", a=3.59, cubic=True))
    small = {"model": {"width": 8, "layers": 1, "cutoff": 3.5}, "training": Training(epochs=2), "device": "cpu"}
    for seed in (0, 1):
        targets = ["energy", "forces", "band_gap"]
        train("painn", str(here / "data.extxyz"), targets, **small, out=here / f"net-{seed}", seed=seed)
    train("ridge", str(here / "data.extxyz"), ["energy"], out=here / "ridge")
    return here


def read(path: Path) -> Table:
    rows = list(csv.DictReader(path.read_text().splitlines()))
    return {k: np.array([float(row[k]) if row[k] else np.nan for row in rows]) for k in rows[0]}


def test_a_row_per_mode_and_a_page(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"engine": "emt", "supercell": (2, 2, 2), "n": 20}
    out = vibrations(
        str(home / "net-0"),
        str(home / "cu.cif"),
        "energy",
        more=[str(home / "net-1")],
        check="emt",
        check_modes=5,
        check_displacement=0.01,
        report=tmp_path / "v.html",
        out=tmp_path / "v.csv",
        **common,
    )
    table, record = read(out), json.loads((tmp_path / "v.run.json").read_text())
    assert len(table["mode"]) == 93  # 32 atoms
    assert (np.diff(table["frequency [THz]"]) >= 0).all()
    assert table["shift [eV]"].sum() == pytest.approx(record["shift"], rel=1e-5)
    assert (table["shift_error [eV]"] > 0).all()
    assert "spread_shift [eV]" in table
    # where labels are: five modes, and their energies bend by about omega^2
    checked = ~np.isnan(table["label_derivative [eV/(Angstrom sqrt(amu))]"])
    assert checked.sum() == 5
    bend = table["label_second_derivative [eV/(Angstrom^2 amu)]"][checked]
    assert bend == pytest.approx((table["frequency [THz]"][checked] / THZ) ** 2, rel=0.5)
    assert record["check"]["agreement"]["first"]["r2"] > 0.9  # the pair potential alone knows copper
    said = capsys.readouterr().out
    assert f"shift the energy by {record['shift_all_orders']:+.4g}" in said
    assert "against labels by emt" in said
    assert "no mode is imaginary" in said
    page = (tmp_path / "v.html").read_text()
    for word in ("The strongest modes", "Checked against labels", '"links"', '"move"'):
        assert word in page
    assert record["config"]["check"] == "emt"
    before = (tmp_path / "v.csv").read_text()
    vibrations(
        str(home / "net-0"),
        str(home / "cu.cif"),
        "energy",
        more=[str(home / "net-1")],
        out=tmp_path / "v.csv",
        **common,
    )
    again = read(tmp_path / "v.csv")
    assert "label_derivative [eV/(Angstrom sqrt(amu))]" not in again
    assert again["shift [eV]"].tolist() == table["shift [eV]"].tolist()
    assert before != (tmp_path / "v.csv").read_text()


def test_imaginary_modes_have_no_share(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Simple cubic copper falls apart."""
    write(tmp_path / "sc.cif", bulk("Cu", "sc", a=2.4))
    vibrations(
        str(home / "ridge"),
        str(tmp_path / "sc.cif"),
        engine="emt",
        n=4,
        report=tmp_path / "v.html",
        out=tmp_path / "v.csv",
    )
    table = read(tmp_path / "v.csv")
    imaginary = table["frequency [THz]"] < 0
    assert imaginary.any()
    for name in ("sigma [Angstrom sqrt(amu)]", "shift [eV]", "deviation [eV]"):
        assert np.isnan(table[name][imaginary]).all()
    assert not np.isnan(table["second_derivative [eV/(Angstrom^2 amu)]"]).any()
    assert "left empty, not zero" in capsys.readouterr().out
    assert "unknown, not zero" in (tmp_path / "v.html").read_text()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--target band_gap", "no scalar target 'band_gap'; choose one of energy"),
        ("--target forces", "no scalar target 'forces'"),
        ("--temperature -5", "kelvins"),
        ("-n 3", "even number of at least 4"),
        ("--check emt --check-modes 0", "--check-modes must be at least 1"),
        ("--check emt --check-displacement 0", "must be positive"),
        ("--check abacus", "unknown engine 'abacus'"),
        ("--engine abacus", "unknown engine 'abacus'"),
        ("--imaginary cap", "expected one of 'leave', 'effective', 'sscha', got 'cap'"),
        ("--force-constants missing.yaml", "missing.yaml does not exist"),
        ("--force-constants missing.yaml --relax", "leave --relax out"),
        ("--supercell 0 1 1", "supercell"),
        ("--more nowhere", "no model 'nowhere'"),
        ("--seed -1", "--seed must be at least 0"),
        ("--out {crystal}", "is read here"),
        ("--report {crystal}", "is read here"),
        ("--check emt --ledger {crystal}", "is read here"),
    ],
)
def test_refusals(home: Path, tmp_path: Path, fails: Callable[..., str], options: str, word: str) -> None:
    crystal = tmp_path / "cu.cif"
    crystal.write_text((home / "cu.cif").read_text())
    typed = options.format(crystal=crystal).split()
    out = [] if "--out" in typed else ["--out", tmp_path / "v.csv"]
    small = [] if "--supercell" in typed else ["--supercell", "1", "1", "1"]
    engine = [] if "--engine" in typed else ["--engine", "emt"]
    assert word in fails("vibrations", home / "ridge", crystal, *small, *engine, *typed, *out)
    assert not (tmp_path / "v.csv").exists()


def test_what_cannot_vibrate(home: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    write(tmp_path / "cu2.xyz", Atoms("Cu2", positions=[(0, 0, 0), (0, 0, 2.2)]))
    out = ["--engine", "emt", "--out", tmp_path / "v.csv"]
    assert "phonons need a crystal" in fails("vibrations", home / "ridge", tmp_path / "cu2.xyz", *out)
    assert "never seen Na, Cl" in fails("vibrations", home / "ridge", "NaCl", *out)
    assert "no file" in fails("vibrations", home / "ridge", "missing.cif", *out)
