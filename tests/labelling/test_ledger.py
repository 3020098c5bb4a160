import json
import multiprocessing
import sqlite3

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from misbehaving import record_many

from vibronic.core.errors import VibronicError
from vibronic.labelling.engines import engine
from vibronic.labelling.ledger import Ledger, structure_key


def test_what_goes_in_comes_out_bit_for_bit(tmp_path, coppers):
    atoms, emt = coppers[0], engine("emt")
    results = {"energy": 0.1 + 0.2, "forces": np.random.default_rng(0).normal(size=(4, 3)).tolist()}
    with Ledger(tmp_path / "new" / "ledger.sqlite") as ledger:
        assert ledger.get(atoms, emt) is None
        ledger.record(atoms, emt, results, seconds=1.5)
    with Ledger(tmp_path / "new" / "ledger.sqlite") as ledger:
        entry = ledger.get(atoms, emt)
        assert entry.results == results
        assert (entry.reason, entry.seconds) == (None, 1.5)
        assert ledger.counts() == {"done": 1, "failed": 0}
        assert ledger.connection.execute("SELECT units FROM labels").fetchone()[0] == (
            '{"energy": "eV", "forces": "eV/Angstrom"}'
        )
        assert ledger.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert ledger.connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_failures_keep_their_reason_and_structure(tmp_path, coppers):
    emt = engine("emt")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.record(coppers[0], emt, {}, reason="no convergence")
        (failure,) = ledger.failures()
        assert failure["reason"] == "no convergence"
        assert failure["engine"] == "emt"
        assert failure["atoms"] == coppers[0]
        ledger.record(coppers[0], emt, {"energy": 1.0})
        assert ledger.failures() == []
        ledger.record(coppers[0], emt, {}, reason="worse luck")
        assert ledger.get(coppers[0], emt).results == {"energy": 1.0}


def test_a_label_keeps_what_another_run_did_not_ask_for(tmp_path, coppers):
    emt, numbers = (
        engine("emt"),
        np.random.default_rng(0).normal(size=(50, 3)) * 10.0 ** np.arange(-150, 150, 2).reshape(50, 3),
    )
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.record(coppers[0], emt, {"energy": 1.0, "forces": numbers.tolist()})
        ledger.record(coppers[0], emt, {"energy": 2.0, "stress": [0.1 + 0.2] * 6})
        kept = ledger.get(coppers[0], emt).results
        units = ledger.connection.execute("SELECT units FROM labels").fetchone()[0]
    assert kept == {"energy": 2.0, "forces": numbers.tolist(), "stress": [0.1 + 0.2] * 6}  # to the last bit
    assert json.loads(units) == {"energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}


def test_records_together_are_on_disk_at_the_end_of_the_block_all_or_none(tmp_path, coppers):
    small, large = {"energy": 1.0}, {"forces": np.ones((2000, 3)).tolist()}
    with Ledger(tmp_path / "ledger.sqlite") as ledger, Ledger(tmp_path / "ledger.sqlite") as other:

        def record(*records, interrupted=False):
            with ledger.together():
                for k, results in records:
                    ledger.record(coppers[k], engine("emt"), results)
                    assert other.get(coppers[k], engine("emt")) is None
                if interrupted:
                    raise KeyboardInterrupt

        record((0, small), (1, small), (2, large))
        assert other.counts()["done"] == 3
        with pytest.raises(KeyboardInterrupt):
            record((3, small), interrupted=True)
        assert other.counts()["done"] == 3
        pages = ledger.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(VibronicError, match="free some space"):
            record((4, small), (5, large))
        assert other.counts()["done"] == 3
        record((4, small))  # fits into what is left
        assert other.counts()["done"] == 4


@settings(deadline=None, max_examples=25)
@given(noise=st.floats(-4e-10, 4e-10), step=st.sampled_from([1e-7, -1e-7, 1e-3]), axis=st.integers(0, 2))
def test_key_ignores_noise_and_sees_changes(noise, step, axis):
    emt = engine("emt")
    atoms = Atoms("AgCu", [(0, 0, 0), (1.23456789, 2, 2)], cell=[4.0] * 3, pbc=True)
    noisy, moved, strained = atoms.copy(), atoms.copy(), atoms.copy()
    noisy.positions += noise
    moved.positions[1, axis] += step
    strained.cell[axis, axis] += step
    assert structure_key(noisy, emt) == structure_key(atoms, emt)
    assert structure_key(moved, emt) != structure_key(atoms, emt)
    assert structure_key(strained, emt) != structure_key(atoms, emt)


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: atoms.set_chemical_symbols("CuAg"),
        lambda atoms: atoms.set_pbc((True, True, False)),
        lambda atoms: atoms.set_initial_magnetic_moments([1, 0]),
        lambda atoms: atoms.set_initial_charges([1, 0]),
        lambda atoms: atoms.info.update(charge=1),
        lambda atoms: atoms.info.update(spin=2),
    ],
)
def test_key_sees_all_that_a_label_depends_on(change, gpaw_settings):
    atoms = Atoms("AgCu", [(0, 0, 0), (2, 2, 2)], cell=[4.0] * 3, pbc=True)
    changed = atoms.copy()
    change(changed)
    assert structure_key(changed, engine("emt")) != structure_key(atoms, engine("emt"))
    assert structure_key(atoms, engine("gpaw", ecut=500)) != structure_key(atoms, engine("gpaw"))
    unrelated = atoms.copy()
    unrelated.info["seed"] = 7
    unrelated.set_initial_magnetic_moments([0, 0])
    assert structure_key(unrelated, engine("emt")) == structure_key(atoms, engine("emt"))


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VibronicError, match=r"cannot open the ledger .*choose another folder"):
        Ledger(tmp_path / "file" / "ledger.sqlite")
    with pytest.raises(VibronicError, match="cannot be opened"):
        Ledger(tmp_path)


def test_read_only(tmp_path, coppers):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.connection.execute("PRAGMA query_only = ON")  # as on a read-only disk: SQLite's own refusal
        with pytest.raises(VibronicError, match="cannot be written; check the permissions"):
            ledger.record(coppers[0], engine("emt"), {"energy": 0.0})


def test_full_disk_keeps_what_was_recorded(tmp_path, coppers):
    emt = engine("emt")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.record(coppers[0], emt, {"energy": 1.0})
        pages = ledger.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(VibronicError, match="free some space and repeat the same command"):
            ledger.record(coppers[1], emt, {"forces": np.ones((2000, 3)).tolist()})
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.get(coppers[0], emt).results == {"energy": 1.0}


def test_foreign_and_damaged_files(tmp_path, coppers):
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all, but long enough to be looked at as one " * 100)
    with pytest.raises(VibronicError, match="is not an SQLite file"):
        Ledger(text)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    with pytest.raises(VibronicError, match="of another program"):
        Ledger(foreign)
    newer = tmp_path / "newer.sqlite"
    with Ledger(newer) as ledger:
        ledger.connection.execute("PRAGMA user_version = 99")
    with pytest.raises(VibronicError, match="another version of vibronic"):
        Ledger(newer)
    damaged = tmp_path / "damaged.sqlite"
    with Ledger(damaged) as ledger:
        for atoms in coppers:
            ledger.record(atoms, engine("emt"), {"forces": np.ones((200, 3)).tolist()})
    content = bytearray(damaged.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    damaged.write_bytes(content)
    with Ledger(damaged) as ledger, pytest.raises(VibronicError, match="is damaged"):
        ledger.counts()


def test_two_processes_share_a_new_ledger(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    path = tmp_path / "ledger.sqlite"
    workers = [context.Process(target=record_many, args=(path, first, barrier)) for first in (0, 20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    with Ledger(path) as ledger:
        assert ledger.counts() == {"done": 50, "failed": 0}
