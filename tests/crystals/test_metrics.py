"""Totals of generated sets: closed forms, sets made to order, and the verb."""

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.io import write

from vibronic.cli import main
from vibronic.core.errors import VibronicError
from vibronic.crystals.coverage import coverage, fingerprints
from vibronic.crystals.metrics import (
    BENCHMARKS,
    bootstrap,
    density,
    evaluate,
    success_rates,
    thresholds_of,
    wasserstein,
)
from vibronic.crystals.stability import envelope, relaxation, rmsd
from vibronic.verbs import evaluate as verb


def rocksalt(a: float, formula: str = "NaCl") -> Atoms:
    return bulk(formula, "rocksalt", a=a)


@pytest.fixture
def generated() -> list[Atoms]:
    """Two equal rock salts, a new crystal, one whose charges cannot balance, and one whose atoms overlap."""
    unbalanced = Atoms(
        "NaCl2", scaled_positions=[(0, 0, 0), (0.3, 0.3, 0.3), (0.7, 0.7, 0.7)], cell=[5.0] * 3, pbc=True
    )
    overlapping = rocksalt(5.6)
    overlapping.positions[1] = overlapping.positions[0] + 0.1
    return [rocksalt(5.6), rocksalt(5.8), rocksalt(6.0, "KCl"), unbalanced, overlapping]


@pytest.fixture
def reference() -> list[Atoms]:
    frames = [rocksalt(5.5), rocksalt(4.2, "MgO"), rocksalt(4.8, "CaO"), bulk("Cu")]
    for k, atoms in enumerate(frames):
        atoms.info["lattice"] = 5.0 + k
    return frames


def volume(frames: list[Atoms]) -> np.ndarray:
    return np.array([atoms.get_volume() for atoms in frames])


def test_wasserstein_of_shifted_sets_is_the_shift() -> None:
    x = np.random.default_rng(0).normal(size=400)
    assert wasserstein(x, x + 0.3) == pytest.approx(0.3)
    assert wasserstein(x[::-1], x) == pytest.approx(0)
    assert wasserstein([0, 1], [np.nan, 3]) == pytest.approx(2.5)
    assert wasserstein([], [1.0]) is None


def test_bootstrap_is_the_standard_error_of_a_share() -> None:
    flags = np.arange(400) % 4 == 0
    low, high = bootstrap(flags)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.25 * 0.75 / 400), rel=0.1)
    assert low < 0.25 < high
    assert bootstrap(flags) == (low, high) != bootstrap(flags, seed=1)
    assert bootstrap([True] * 20) == (1, 1)
    with pytest.raises(VibronicError):
        bootstrap([])


def test_success_rates() -> None:
    values = np.arange(100.0)
    assert thresholds_of(values) == pytest.approx((4.95, 9.9, 14.85))
    assert thresholds_of(values, "high") == pytest.approx((94.05, 89.1, 84.15))
    assert success_rates(values, thresholds_of(values)) == {"sr5": 0.05, "sr10": 0.1, "sr15": 0.15}
    assert success_rates(values, thresholds_of(values, "high"), "high") == {"sr5": 0.05, "sr10": 0.1, "sr15": 0.15}
    assert success_rates(values, (4, 19, 200), best_of=10) == {
        "sr5_best_of_10": 0.1,
        "sr10_best_of_10": 0.2,
        "sr15_best_of_10": 1.0,
    }
    assert success_rates([np.nan, 1.0, 5.0], (1, 2, 3))["sr15"] == pytest.approx(1 / 3)
    assert success_rates([np.nan, -1.0], (np.inf, 0, -2), "high") == {"sr5": 0, "sr10": 0, "sr15": 0.5}
    for call in (
        lambda: success_rates(values, (1, 2)),
        lambda: success_rates(values[:5], (1, 2, 3), best_of=10),
        lambda: success_rates(values, (1, 2, 3), best_of=0),
        lambda: thresholds_of([np.nan]),
    ):
        with pytest.raises(VibronicError):
            call()


def test_density() -> None:
    assert density(bulk("Cu", a=3.615)) == pytest.approx(8.93, abs=0.01)


def test_rows_and_totals(generated: list[Atoms], reference: list[Atoms]) -> None:
    rows, totals = evaluate(
        generated,
        reference,
        property="lattice",
        predict=volume,
        thresholds=(44, 50, 60),
        coverage_sample=0,
        unit="Angstrom^3",
        progress=False,
    )
    assert [r["valid_structure"] for r in rows] == [True, True, True, True, False]
    assert [r["valid_composition"] for r in rows] == [True, True, True, False, True]
    assert [r["unique"] for r in rows] == [True, False, True, None, None]
    assert [r["same_as"] for r in rows] == [0, 0, 2, None, None]
    assert [r["novel"] for r in rows] == [False, False, True, None, None]
    assert [r["spacegroup"] for r in rows[:3]] == [225] * 3
    assert [r["formula"] for r in rows] == ["NaCl", "NaCl", "KCl", "NaCl2", "NaCl"]
    assert rows[0]["volume_per_atom"] == pytest.approx(5.6**3 / 8)
    assert rows[0]["lattice"] == pytest.approx(5.6**3 / 4)
    assert rows[3]["lattice"] == pytest.approx(125)
    assert rows[4]["lattice"] is None
    assert totals["n"] == 5
    shares = {"valid_structure": 0.8, "valid_composition": 0.8, "valid": 0.6, "unique": 2 / 3, "novel": 1 / 3}
    shares |= {"valid_unique_novel": 0.2, "hits": 0.0}
    shares |= {"sr5": 1 / 3, "sr10": 2 / 3, "sr15": 1.0, "sr5_all": 0.2, "sr10_all": 0.4, "sr15_all": 0.6}
    for name, value in shares.items():
        assert totals[name] == pytest.approx(value), name
        assert totals[f"{name}_low"] <= value <= totals[f"{name}_high"]
    assert totals["sr5_best_of_10"] is None  # not ten samples
    counts = [2, 2, 2], [2, 2, 2, 1]
    assert totals["wasserstein_elements"] == pytest.approx(wasserstein(*counts))
    assert totals["wasserstein_density"] == pytest.approx(
        wasserstein([density(a) for a in generated[:3]], [density(a) for a in reference])
    )
    assert totals["wasserstein_lattice"] == pytest.approx(wasserstein(volume(generated[:3]), volume(reference)))
    assert totals["units"]["wasserstein_lattice"] == totals["units"]["threshold5"] == "Angstrom^3"
    assert totals["units"]["valid"] == "share"
    assert totals["units"].keys() == totals.keys() - {"units"}
    json.dumps(totals, allow_nan=False)


def test_hits_are_valid_new_and_good(generated: list[Atoms], reference: list[Atoms]) -> None:
    options = {"property": "lattice", "predict": volume, "coverage_sample": 0, "progress": False}
    _, totals = evaluate([*generated, *generated], reference, **options, thresholds=(60, 70, 80), better="low")
    assert totals["hits"] == pytest.approx(0.1)  # the second KCl is a duplicate
    assert totals["sr5_best_of_10"] == 1.0
    _, totals = evaluate(generated, reference, **options, better="high")
    assert totals["threshold5"] == pytest.approx(np.percentile([5, 6, 7, 8], 95))
    assert totals["sr5_all"] == totals["sr15_all"] == pytest.approx(0.6)


def test_what_is_missing_is_left_out_or_said(generated: list[Atoms], reference: list[Atoms]) -> None:
    rows, totals = evaluate(generated)
    assert "novel" not in totals
    assert "hits" not in totals
    assert rows[0]["novel"] is None
    _, totals = evaluate(generated[-1:], reference, property="lattice", predict=volume, coverage_sample=0)
    assert totals["valid"] == 0.0
    assert totals["unique"] is None
    assert totals["wasserstein_density"] is None
    assert totals["sr5"] is None
    assert totals["sr5_all"] == 0.0
    with pytest.raises(VibronicError, match="no generated crystals"):
        evaluate([])
    with pytest.raises(VibronicError, match="both or neither"):
        evaluate(generated, property="lattice")
    with pytest.raises(VibronicError, match="no values of 'gap'"):
        evaluate(generated, reference, property="gap", predict=volume)
    with pytest.raises(VibronicError, match="shape"):
        evaluate(generated, reference, property="lattice", predict=lambda _: np.zeros(1))


def test_coverage(generated: list[Atoms], reference: list[Atoms]) -> None:
    recall, precision = coverage(reference, reference, (1e-6, 1e-6), progress=False)
    assert recall.all()
    assert precision.all()
    recall, precision = coverage(generated, reference, BENCHMARKS["mp-20"].cutoffs, progress=False)
    assert recall.tolist()[0] is True
    assert precision.tolist()[:2] == [True, True]
    assert precision.tolist()[4] is False  # no fingerprint
    recall, precision = coverage([bulk("W")], reference[:1], (0.2, 4.0), progress=False)
    assert not recall.any()
    assert not precision.any()
    assert [len(c) for c in coverage(reference, reference * 2, (0.2, 4.0), sample=3, progress=False)] == [3, 3]
    recall, precision = coverage(generated[-1:], reference, (0.2, 4.0), progress=False)
    assert not recall.any()
    assert precision.tolist() == [False]
    with pytest.raises(VibronicError, match="no crystal of the reference"):
        coverage(reference, generated[-1:], (0.2, 4.0), progress=False)
    with pytest.raises(VibronicError, match="coverage needs"):
        coverage([], reference, (0.2, 4.0))


def test_fingerprints_do_not_depend_on_the_cell(reference: list[Atoms]) -> None:
    structure, composition = fingerprints([reference[0], reference[0].repeat((2, 1, 1))], progress=False)
    assert structure.shape == (2, 61)
    assert composition.shape == (2, 132)
    np.testing.assert_allclose(structure[1], structure[0], atol=1e-6)
    np.testing.assert_allclose(composition[1], composition[0], atol=1e-9)


class Failing(Calculator):
    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        raise RuntimeError("no\nsuch element")


def test_relaxation_finds_the_minimum_and_how_far_it_was() -> None:
    minimum = relaxation([bulk("Cu", a=3.6)], EMT(), progress=False)[0]["energy_after"]
    start = bulk("Cu", cubic=True)
    start.positions[0] += (0.2, 0.1, 0)
    start.set_cell(start.cell.array * 1.03, scale_atoms=True)
    overlapping = bulk("Cu", cubic=True)
    overlapping.positions[:] = 0
    found = relaxation([start, overlapping], EMT(), lowest={"Cu": minimum - 0.5}, fmax=0.02, progress=False)
    assert found[0]["relax_converged"]
    assert found[0]["energy_after"] == pytest.approx(minimum, abs=2e-3)
    assert found[0]["energy_before"] > found[0]["energy_after"]
    assert found[0]["energy_above_reference"] == pytest.approx(found[0]["energy_after"] - minimum + 0.5)
    expected = np.hypot(0.2, 0.1) * np.sqrt(1 / 4 - 1 / 16)
    assert found[0]["relax_rmsd"] == pytest.approx(expected, rel=0.03)
    assert found[1]["relax_rmsd"] is None
    assert found[1]["relax_error"]
    assert not relaxation([start], EMT(), max_steps=1, progress=False)[0]["relax_converged"]
    failed = relaxation([start], Failing(), progress=False)[0]
    assert failed["relax_error"] == "RuntimeError: no such element"
    twice = relaxation([bulk("Si"), bulk("Si"), start], EMT(), progress=False)
    assert twice[0]["relax_error"] == twice[1]["relax_error"] == "NotImplementedError: No EMT-potential for Si"
    assert twice[2]["relax_converged"]
    assert relaxation([start], EMT(), lowest={"Al": 0.0}, progress=False)[0]["energy_above_reference"] is None
    with pytest.raises(VibronicError, match="positive fmax"):
        relaxation([start], EMT(), max_steps=0)


def test_a_symmetric_crystal_leaves_its_saddle_point() -> None:
    simple = bulk("Cu", "sc", a=2.4).repeat(2)
    found = relaxation([simple], EMT(), max_steps=400, progress=False)[0]
    assert found["relax_rmsd"] > 0.1
    symmetric = relaxation([bulk("Cu", a=3.6, cubic=True)], EMT(), progress=False)[0]
    assert symmetric["relax_rmsd"] < 0.02


def test_displacements_know_no_origin_image_or_strain() -> None:
    before = bulk("Cu", cubic=True)
    after = before.copy()
    after.positions += (1.3, -0.4, 2.0)
    after.set_cell(after.cell.array * 1.1, scale_atoms=True)
    after.positions[2] += after.cell.array[1]
    assert rmsd(before, after) == pytest.approx(0, abs=1e-12)
    with pytest.raises(VibronicError, match="same atoms"):
        rmsd(before, bulk("Cu"))


def test_relaxation_in_the_totals() -> None:
    copper = bulk("Cu", cubic=True)
    copper.positions[0] += 0.1
    rows, totals = evaluate([copper], relax=partial(relaxation, calculator=EMT(), progress=False), progress=False)
    assert rows[0]["relax_converged"]
    assert totals["relax_rmsd"] == pytest.approx(rows[0]["relax_rmsd"])
    assert totals["relax_converged"] == 1.0
    assert totals["energy_above_reference"] is None
    assert totals["units"]["relax_rmsd"] == "Angstrom"


def test_the_verb(
    tmp_path: Path, generated: list[Atoms], reference: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "generated.extxyz", generated)
    write(tmp_path / "reference.extxyz", reference)
    out = tmp_path / "m.json"
    command = [
        "evaluate",
        "crystals",
        str(tmp_path / "generated.extxyz"),
        "--reference",
        str(tmp_path / "reference.extxyz"),
    ]
    assert main([*command, "--coverage-sample", "2", "--out", str(out)]) == 0
    totals = json.loads(out.read_text())
    assert totals["valid"] == pytest.approx(0.6)
    assert totals["coverage_precision"] <= 1
    rows = list(csv.DictReader((tmp_path / "m.csv").read_text().splitlines()))
    assert len(rows) == 5
    assert rows[4]["density [g/cm^3]"] == ""
    assert rows[2]["novel"] == "True"
    assert (tmp_path / "m.run.json").exists()

    class Predictor:
        unit = "eV"
        __call__ = staticmethod(volume)

    asked = []

    class Module:
        @staticmethod
        def load(source: Path | None, name: str) -> Predictor:
            asked.append((source, name))
            return Predictor()

    monkeypatch.setitem(__import__("sys").modules, "vibronic.crystals.predictor", Module)
    found = verb(
        "crystals",
        tmp_path / "generated.extxyz",
        str(tmp_path / "reference.extxyz"),
        out,
        "heat_ref",
        coverage_sample=0,
    )
    assert asked == [(None, "perov-5")]
    assert found["threshold5"] == BENCHMARKS["perov-5"].thresholds[0]
    assert found["units"]["wasserstein_heat_ref"] == "eV"
    assert "heat_ref [eV]" in (tmp_path / "m.csv").read_text().splitlines()[0]
    with pytest.raises(VibronicError, match="no model predicts 'gap'"):
        verb("crystals", tmp_path / "generated.extxyz", None, out, "gap")


def test_the_verb_says_what_cannot_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "g.extxyz", [Atoms("Cu2", cell=[2.0] * 3, pbc=True)])
    verb("crystals", tmp_path / "g.extxyz", None, tmp_path / "m.json")
    assert "none of 1 crystals is valid" in capsys.readouterr().out
    copper = bulk("Cu")
    copper.info |= {"valid": True, "novel": True}
    write(tmp_path / "g.extxyz", copper)
    verb("crystals", tmp_path / "g.extxyz", None, tmp_path / "m.json")
    assert "shares of all candidates need --keep all" in capsys.readouterr().out
    write(tmp_path / "g.extxyz", [bulk("Si")])
    verb("crystals", tmp_path / "g.extxyz", None, tmp_path / "m.json", relax="emt")
    said = capsys.readouterr().out
    assert "1 of 1 crystals could not be relaxed: " in said, said


def test_the_verb_relaxes(tmp_path: Path) -> None:
    copper = bulk("Cu", cubic=True)
    copper.positions[0] += 0.1
    write(tmp_path / "g.extxyz", copper)
    found = verb("crystals", tmp_path / "g.extxyz", None, tmp_path / "m.json", relax="emt")
    assert found["relax_converged"] == 1.0
    assert found["energy_above_reference"] is None
    write(tmp_path / "r.extxyz", [bulk("Cu", "bcc", a=2.9), bulk("Cu"), bulk("Al")])
    found = verb(
        "crystals",
        tmp_path / "g.extxyz",
        str(tmp_path / "r.extxyz"),
        tmp_path / "m.json",
        relax="emt",
        coverage_sample=0,
    )
    assert found["energy_above_reference"] == pytest.approx(0, abs=2e-3)


def test_the_lowest_known_energies_are_those_of_the_compositions_asked_for() -> None:
    reference = [bulk("Cu", "bcc", a=2.9), bulk("Cu", "sc", a=2.4), bulk("Cu"), bulk("Al")]
    reference.append(Atoms("Cu"))  # no crystal
    found = envelope(reference, [bulk("Cu", cubic=True)], EMT(), progress=False)
    energies = [row["energy_after"] for row in relaxation(reference[:3], EMT(), progress=False)]
    assert found == {"Cu": pytest.approx(min(energies))}
    one = envelope(reference[:2], [bulk("Cu")], EMT(), most=1, progress=False)  # the lower as they are
    assert one == {"Cu": pytest.approx(energies[0])}
    assert envelope(reference, [bulk("Cu")], EMT(), max_steps=1, fmax=1e-9, progress=False) == {}
