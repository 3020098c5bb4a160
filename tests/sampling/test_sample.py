"""The verb 'sample': the order of its steps, what it says, and options that reach the samplers."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from vibronic.core.errors import VibronicError
from vibronic.sampling.relax import relax
from vibronic.verbs.configurations import sample


@pytest.fixture
def run(tmp_path: Path):
    """Run the verb on copper with EMT: configurations and findings."""
    write(tmp_path / "Cu.cif", bulk("Cu", a=3.61, cubic=True))

    def run(**options) -> tuple[list[Atoms], list[str]]:
        options = {"engine": "emt", "n": 4, "crystal": str(tmp_path / "Cu.cif")} | options
        out = sample(out=tmp_path / "hot.extxyz", **options)
        return read(out, ":"), json.loads((tmp_path / "hot.run.json").read_text())["findings"]

    return run


def test_a_relaxed_crystal_stays_strained(run):
    frames, _ = run(relax=True, strain=0.02)
    expected = relax(bulk("Cu", a=3.61, cubic=True), EMT()).cell.lengths() * 2 * 1.02
    np.testing.assert_allclose(frames[0].cell.lengths(), expected, atol=1e-4)


@pytest.mark.parametrize("change", [{"substitute": "Cu:Au:0.25"}, {"vacancies": "Cu:1"}])
def test_a_changed_crystal_is_relaxed_again(run, change):
    """Phonons are an expansion about a point without forces."""
    asis, told = run(imaginary="cap", **change)
    relaxed, quiet = run(imaginary="cap", relax=True, **change)
    assert any("not relaxed" in finding for finding in told)
    assert not any("not relaxed" in finding for finding in quiet)
    assert len(relaxed[0]) == len(asis[0])


def test_arrangements_share_the_configurations(run, tmp_path):
    change = {"method": "rattle", "substitute": "Cu:Au:0.25", "arrangements": 3, "seed": 5}
    frames, findings = run(amplitude=0.1, n=7, **change)
    parents = [f.info["parent"] for f in frames]
    assert parents == [f"Cu, arrangement {k}" for k in (0, 0, 0, 1, 1, 2, 2)]
    assert [f.info["seed"] for f in frames] == [5, 5, 5, 6, 6, 7, 7]
    gold = {parent: tuple(np.flatnonzero(f.numbers == 79)) for parent, f in zip(parents, frames, strict=True)}
    assert len(set(gold.values())) == 3
    assert {len(sites) for sites in gold.values()} == {8}
    assert sum(f.startswith("Arrangement 2: ") for f in findings) == 3
    # the same arrangements again, each with the amplitude of its own configurations
    write(tmp_path / "match.extxyz", frames)
    again, _ = run(match=tmp_path / "match.extxyz", n=6, **change)
    assert [tuple(np.flatnonzero(f.numbers == 79)) for f in again[::2]] == list(gold.values())
    # the first arrangement is the one of a run without the option
    del change["arrangements"]
    alone, _ = run(amplitude=0.1, n=3, **change)
    np.testing.assert_array_equal([f.positions for f in alone], [f.positions for f in frames[:3]])
    assert alone[0].info["parent"] == "Cu"


def test_arrangements_of_pairs_and_impossible_ones(run):
    frames, _ = run(vacancies="Cu:1", arrangements=2, n=6, plus_minus=True, imaginary="cap", supercell=(2, 1, 1))
    assert [(f.info["parent"][-1], f.info["pair"]) for f in frames] == [
        *[("0", 0), ("0", 0), ("0", 1), ("0", 1)],
        *[("1", 0), ("1", 0)],
    ]
    for wrong, word in (
        ({"arrangements": 2}, "substitute"),
        ({"arrangements": 0, "vacancies": "Cu:1"}, "at least 1"),
        ({"arrangements": 5, "vacancies": "Cu:1"}, "cannot share 4"),
        ({"arrangements": 2, "vacancies": "Cu:1", "plus_minus": True, "n": 5}, "in pairs"),
    ):
        with pytest.raises(VibronicError, match=word):
            run(**wrong)


def test_a_narrow_supercell_is_told(run):
    def told(supercell) -> bool:
        return any("narrowest" in finding for finding in run(method="rattle", amplitude=0.1, supercell=supercell)[1])

    assert told((2, 2, 2))
    assert not told((3, 3, 3))


def test_dynamics_say_how_many_snapshots_are_independent(run):
    options = {"method": "md", "n": 8, "equilibration": 10, "supercell": (1, 1, 1)}
    _, findings = run(interval=1, **options)
    said = next(f for f in findings if "independent" in f)
    assert said.startswith("The 8 snapshots count as ")
    assert said.endswith("(potential energy); a longer --interval decorrelates them.")


def test_options_reach_what_they_are_for(run):
    assert any("displacements of 0.03 Angstrom" in f for f in run(displacement=0.03)[1])
    assert any("from 3 snapshots" in f for f in run(imaginary="effective", snapshots=3, supercell=(1, 1, 1))[1])
    assert any("of 4 configurations" in f for f in run(imaginary="sscha", snapshots=4)[1])
    assert any("at least 9 THz" in f for f in run(imaginary="cap", cap_frequency=9.0)[1])
    for wrong in ({"displacement": 0.0}, {"method": "md", "friction": 0.0}, {"imaginary": "cap", "cap_frequency": 0.0}):
        with pytest.raises(VibronicError, match="must be positive"):
            run(**wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "rattle", "amplitude": 0.1, "modes": [1, 2]}, "--modes is for --method phonons"),
        ({"method": "rattle", "amplitude": 0.1, "timestep": 1.0}, "--timestep is for --method md"),
        ({"amplitude": 0.1}, "--amplitude is for --method rattle"),
        ({"method": "md", "min_distance": 2.0}, "--min_distance is for --method phonons or rattle"),
        ({"method": "rattle", "amplitude": 0.1, "vacancies": "Cu:1.7"}, "whole atoms"),
        ({"method": "rattle", "amplitude": 0.1, "min_distance": 100.0}, "those of the reference begin at"),
    ],
)
def test_what_would_be_ignored_or_is_impossible_is_refused(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("Cu.cif", bulk("Cu", cubic=True))
    with pytest.raises(VibronicError, match=said):
        sample("Cu.cif", engine="emt", n=2, **options)


def test_a_random_set_is_matched_to_a_phonon_set_of_the_same_crystal(tmp_path, monkeypatch):
    """The first comparison anyone makes: both methods must order the atoms of a supercell alike."""
    monkeypatch.chdir(tmp_path)
    write("AuCu.cif", bulk("AuCu", "cesiumchloride", a=3.0))
    hot = sample("AuCu.cif", engine="emt", imaginary="cap", n=40, out=Path("hot.extxyz"))
    random = sample("AuCu.cif", method="rattle", match=hot, n=40, out=Path("random.extxyz"))
    moving = sample("AuCu.cif", method="md", engine="emt", n=1, equilibration=1, interval=1, out=Path("md.extxyz"))
    first, second, third = (read(p, 0) for p in (hot, random, moving))
    assert first.symbols.get_chemical_formula(mode="reduce") == second.symbols.get_chemical_formula(mode="reduce")
    assert (first.numbers == third.numbers).all()
    assert np.abs(first.positions - second.positions).max() < 2.0  # the same atom at the same place
