import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from vibronic.core.errors import VibronicError
from vibronic.labelling import label as label_module
from vibronic.labelling.engines import engine
from vibronic.labelling.executors import Outcome
from vibronic.labelling.label import label
from vibronic.labelling.ledger import Ledger


def here(structures, name, ledger, **options):
    return label(structures, name, ledger, executor="in-process", progress=False, **options)


def test_labels_are_those_of_ase_in_input_order(tmp_path, coppers):
    coppers[1].set_constraint(FixAtoms([0]))
    coppers[2].info.update(method="rattle", seed=2, band_gap=9.9)
    report = here(coppers, "emt", tmp_path / "l.sqlite")
    assert (report.computed, report.reused, report.failures) == (6, 0, [])
    for atoms, labelled in zip(coppers, report.labelled, strict=True):
        reference = atoms.copy()
        reference.set_constraint()
        reference.calc = EMT()
        np.testing.assert_array_equal(labelled.positions, atoms.positions)
        assert labelled.get_potential_energy() == pytest.approx(reference.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(labelled.get_forces(apply_constraint=False), reference.get_forces(), atol=1e-12)
        np.testing.assert_allclose(labelled.get_stress(), reference.get_stress(), atol=1e-12)
        assert labelled.info["engine"] == "emt"
        assert labelled.info["settings"] == engine("emt").settings_hash
    assert report.labelled[2].info["method"] == "rattle"
    assert "band_gap" not in report.labelled[2].info  # of another engine, not of this one
    assert coppers[2].info["band_gap"] == 9.9


def test_labels_survive_extxyz(tmp_path, coppers):
    report = here(coppers, "emt", tmp_path / "l.sqlite")
    ase.io.write(tmp_path / "labelled.extxyz", report.labelled)
    back = ase.io.read(tmp_path / "labelled.extxyz", ":")
    for atoms, labelled in zip(back, report.labelled, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(labelled.get_potential_energy())
        assert atoms.info["settings"] == engine("emt").settings_hash


def test_second_run_computes_nothing(tmp_path, coppers, misbehaving):
    tricky = misbehaving("none")
    first = here(coppers, tricky, tmp_path / "l.sqlite")
    again = here(coppers[::-1], tricky, tmp_path / "l.sqlite")
    assert len(misbehaving.log()) == 6
    assert (again.computed, again.reused) == (0, 6)
    for a, b in zip(first.labelled, again.labelled[::-1], strict=True):
        np.testing.assert_array_equal(a.get_forces(), b.get_forces())
    assert here(coppers, misbehaving("raise"), tmp_path / "l.sqlite").computed == 6  # other settings, other labels


def test_equal_structures_are_computed_once(tmp_path, coppers, misbehaving):
    report = label([coppers[0]] * 5, misbehaving("none"), tmp_path / "l.sqlite", "local", 2, progress=False)
    assert len(misbehaving.log()) == report.computed == 1
    assert report.reused == 0
    assert len(report.labelled) == 5


def test_only_what_was_in_the_ledger_before_counts_as_reused(tmp_path, coppers):
    twice = [coppers[0], coppers[1], coppers[0]]
    first, again = (here(twice, "emt", tmp_path / "l.sqlite") for _ in range(2))
    assert (first.computed, first.reused) == (2, 0)
    assert (again.computed, again.reused) == (0, 3)


def test_properties_on_request(tmp_path, coppers):
    report = here(coppers, "emt", tmp_path / "l.sqlite", properties=["energy"])
    assert set(report.labelled[0].calc.results) == {"energy"}
    assert here(coppers, "emt", tmp_path / "l.sqlite").computed == 6  # what is missing is computed
    assert here(coppers, "emt", tmp_path / "l.sqlite", properties=["energy"]).computed == 0
    with pytest.raises(VibronicError, match="'emt' gives no 'band_gap'; it gives energy, forces, stress"):
        here(coppers, "emt", tmp_path / "l.sqlite", properties=["band_gap"])


def test_a_molecule_has_no_stress(tmp_path):
    report = here([molecule("H2O")], "emt", tmp_path / "l.sqlite")
    assert set(report.labelled[0].calc.results) == {"energy", "forces"}


def test_an_element_that_the_engine_lacks(tmp_path, coppers):
    report = here([*coppers, bulk("Na")], "emt", tmp_path / "l.sqlite")
    ((index, reason),) = report.failures
    assert index == 6
    assert "(NotImplementedError: No EMT-potential for Na)" in reason
    assert len(report.labelled) == 6
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.counts() == {"done": 6, "failed": 1}


def test_all_failed(tmp_path):
    sodium = [bulk("Na"), bulk("Na", cubic=True), bulk("K")]
    with pytest.raises(VibronicError, match=r"no structure could be labelled; most common reason \(2 of 3\): .*Na"):
        here(sodium, "emt", tmp_path / "l.sqlite")
    with pytest.raises(VibronicError, match="in an earlier run; --retry-failed computes them again"):
        here(sodium, "emt", tmp_path / "l.sqlite")


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        (
            "raise",
            "the engine 'misbehaving' cannot calculate this structure (RuntimeError: no convergence in 60 cycles)",
        ),
        ("nan", "the engine gave a value of 'forces' that is not"),
    ],
)
def test_failures_are_kept_and_retried_only_on_request(tmp_path, coppers, gold, misbehaving, trick, reason):
    tricky = misbehaving(trick)
    for retry, calculations in ((False, 7), (False, 7), (True, 8)):
        report = here([gold, *coppers], tricky, tmp_path / "l.sqlite", retry_failed=retry)
        assert len(misbehaving.log()) == calculations
        assert len(report.labelled) == 6
        ((index, why),) = report.failures
        assert index == 0
        assert why.startswith(reason)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a.positions.__setitem__((1, 2), np.nan), r"structure 1 \(Cu4\) has positions .* not finite"),
        (lambda a: a.positions.__setitem__(1, a.positions[0] + 0.1), "closer than 0.4 Angstrom"),
        (lambda a: a.positions.__setitem__(1, a.positions[0] + a.cell[0]), "closer than 0.4 Angstrom"),
        (lambda a: a.cell.__setitem__(2, a.cell[0]), "without volume"),
        (lambda a: a.numbers.__setitem__(0, 0), "unknown element"),
        (lambda a: a.info.update(charge="plus"), "charge='plus'"),
        (lambda a: a.info.update(spin=np.nan), "spin=nan"),
        (lambda a: a.info.update(occupancy={"0": {"Cu": 0.5}}), "partial occupancies"),
        (lambda a: a.__delitem__(slice(None)), "structure 1 has no atoms"),
    ],
)
def test_nothing_runs_when_a_structure_is_unphysical(tmp_path, coppers, misbehaving, spoil, message):
    spoil(coppers[1])
    with pytest.raises(VibronicError, match=message):
        here(coppers, misbehaving("none"), tmp_path / "l.sqlite")
    assert misbehaving.log() == []
    assert not (tmp_path / "l.sqlite").exists()


def test_no_structure(tmp_path):
    with pytest.raises(VibronicError, match="there is no structure"):
        here([], "emt", tmp_path / "l.sqlite")


def test_labels_from_files(tmp_path, coppers):
    for index, atoms in enumerate(coppers[:5]):
        atoms.calc = SinglePointCalculator(atoms, energy=float(index), forces=np.ones((4, 3)))
        atoms.info["band_gap"] = 0.5
    coppers[4].calc = SinglePointCalculator(coppers[4], energy=np.nan)
    report = here(coppers, "files", tmp_path / "l.sqlite")
    assert [atoms.get_potential_energy() for atoms in report.labelled] == [0, 1, 2, 3]
    assert report.labelled[0].info["band_gap"] == 0.5
    assert report.failures[1] == (5, "the structure carries no energy")
    assert "not finite" in report.failures[0][1]
    assert (report.computed, report.reused) == (0, 0)
    assert not (tmp_path / "l.sqlite").exists()


def test_labels_from_a_vasp_file(tmp_path, coppers):
    """Reading is ASE's; here the way from a file of a DFT code to a label with its energy, forces and stress."""
    atoms = coppers[0]
    atoms.calc = EMT()
    expected = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    ase.io.write(tmp_path / "frame.extxyz", atoms)
    (labelled,) = here(ase.io.read(tmp_path / "frame.extxyz", ":"), "files", tmp_path / "l.sqlite").labelled
    assert labelled.get_potential_energy() == pytest.approx(expected[0])
    np.testing.assert_allclose(labelled.get_forces(), expected[1], atol=1e-7)
    np.testing.assert_allclose(labelled.get_stress(), expected[2], atol=1e-7)


def test_interrupt_leaves_the_ledger_sound(tmp_path, coppers, misbehaving, monkeypatch):
    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    import misbehaving as engines

    original = engines.Misbehaving.calculate
    monkeypatch.setattr(engines.Misbehaving, "calculate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        here(coppers, misbehaving("none"), tmp_path / "l.sqlite")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger.counts() == {"done": 3, "failed": 0}
    report = here(coppers, misbehaving("none"), tmp_path / "l.sqlite")
    assert (report.reused, report.computed) == (3, 3)


def test_futures_do_not_pile_up(tmp_path, monkeypatch):
    most, waiting = [], []

    @contextmanager
    def lazy(*_):
        def submit(atoms, properties):
            waiting.append(Future())
            most.append(sum(not future.done() for future in waiting))
            if most[-1] == 8:
                waiting[-1].set_result(Outcome({"energy": 1.0, "forces": [], "stress": []}))
            return waiting[-1]

        yield submit

    def release(pending, **_):
        next(iter(pending)).set_result(Outcome({"energy": 1.0, "forces": [], "stress": []}))

    monkeypatch.setattr(label_module, "named_executor", lazy)
    monkeypatch.setattr(label_module, "wait", release)
    structures = [Atoms("Cu", cell=[3 + i / 1000] * 3, pbc=True) for i in range(100)]
    report = label(structures, "emt", tmp_path / "l.sqlite", "local", workers=2, progress=False)
    assert report.computed == 100
    assert max(most) == 8


def once_all_are_there(count, settle):
    """An executor whose calculations end when the last of ``count`` has been submitted, as ``settle`` says of their futures."""

    @contextmanager
    def place(*_):
        futures = []

        def submit(atoms, properties):
            futures.append(Future())
            if len(futures) == count:
                settle(futures)
            return futures[-1]

        yield submit

    return place


def test_what_finished_before_the_place_failed_is_kept(tmp_path, coppers, monkeypatch):
    """A scheduler that goes takes its own calculations along, not those whose results are here already."""

    def settle(futures):
        futures[0].cancel()
        futures[0].set_running_or_notify_cancel()
        for finished in futures[2:4]:
            finished.set_result(Outcome({"energy": 1.0, "forces": [], "stress": []}))

    monkeypatch.setattr(label_module, "named_executor", once_all_are_there(len(coppers), settle))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(VibronicError, match="the Dask scheduler is gone"):
            label(coppers, "emt", ledger, "dask", workers=2, progress=False)
        assert ledger.counts() == {"done": 2, "failed": 0}


def test_a_result_that_does_not_fit_takes_no_other_along(tmp_path, coppers, monkeypatch):
    def settle(futures):
        for k, future in enumerate(futures):  # the third is too large for the disk
            forces = np.ones((4 if k != 2 else 4000, 3)).tolist()
            future.set_result(Outcome({"energy": 1.0, "forces": forces, "stress": [0.0] * 6}))

    monkeypatch.setattr(label_module, "named_executor", once_all_are_there(len(coppers), settle))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        pages = ledger.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.connection.execute(f"PRAGMA max_page_count = {pages + 5}")
        with pytest.raises(VibronicError, match="free some space and repeat the same command"):
            label(coppers, "emt", ledger, "dask", workers=2, progress=False)
        assert ledger.counts() == {"done": 5, "failed": 0}


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from misbehaving import SPEC
from ase.io import read
from vibronic.labelling.engines import ENGINES, engine
from vibronic.labelling.label import label
if __name__ == "__main__":
    ENGINES[SPEC.name] = SPEC
    slow = engine("misbehaving", trick="slow", folder={here!r})
    label(read({structures!r}, ":"), slow, {ledger!r}, "local", 2, progress=False)
"""


def test_kill_9_loses_only_what_is_in_flight(tmp_path, misbehaving):
    psutil = pytest.importorskip("psutil")
    structures = [bulk("Cu", cubic=True) for _ in range(40)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
        atoms.positions = atoms.positions.round(8)  # as the file will hold them
    ase.io.write(tmp_path / "hot.extxyz", structures)
    ledger, script = tmp_path / "l.sqlite", tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(
            folder=str(Path(__file__).parent),
            here=str(tmp_path),
            structures=str(tmp_path / "hot.extxyz"),
            ledger=str(ledger),
        )
    )
    process = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 60
    while len(misbehaving.log()) < 12:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()

    workers = {int(line.split()[0]) for line in misbehaving.log()}
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in workers):
        assert time.monotonic() < deadline, "worker processes outlive their parent"
        time.sleep(0.05)
    begun = len(misbehaving.log())
    with Ledger(ledger) as book:
        safe = book.counts()["done"]
    assert 0 < begun - 5 <= safe < 40  # two in flight, two begun as the others ended, one on its way to the disk

    structures = ase.io.read(tmp_path / "hot.extxyz", ":")
    again = here(structures, misbehaving("slow"), ledger)
    assert (again.computed, again.reused) == (40 - safe, safe)
    assert len(misbehaving.log()) == begun + 40 - safe
    assert here(structures, misbehaving("slow"), ledger).computed == 0
