import asyncio
import os
import socket
import subprocess
import sys
import time
import warnings
from concurrent.futures import Future
from contextlib import suppress

import numpy as np
import pytest

from vibronic.core.errors import VibronicError
from vibronic.labelling import executors
from vibronic.labelling.engines import engine
from vibronic.labelling.executors import calculate, executor, processes
from vibronic.labelling.label import label


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "slurm"}, "unknown executor 'slurm'; choose in-process, local, dask or a Dask address"),
        ({"workers": 0}, "at least one worker"),
        ({"timeout": 0}, "positive number of seconds"),
        ({"executor": "in-process", "timeout": 5}, "use the executor 'local' for a time-out"),
    ],
)
def test_options_that_make_no_sense(tmp_path, coppers, options, message):
    with pytest.raises(VibronicError, match=message):
        label(coppers, "emt", tmp_path / "l.sqlite", progress=False, **options)


def test_local_gives_the_same_labels(tmp_path, coppers):
    one = label(coppers, "emt", tmp_path / "one.sqlite", "in-process", progress=False)
    two = label(coppers, "emt", tmp_path / "two.sqlite", "local", workers=2, progress=False)
    assert two.computed == 6
    for a, b in zip(one.labelled, two.labelled, strict=True):
        np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=1e-12)


def test_workers_run_one_thread_and_the_parent_is_left_alone(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    emt = engine("emt")
    with executor("local", emt):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ
    assert os.environ["MKL_NUM_THREADS"] == "7"


def test_hung_calculation_is_stopped_and_the_others_go_on(tmp_path, coppers, gold, misbehaving):
    report = label([gold, *coppers], misbehaving("hang"), tmp_path / "l.sqlite", "local", timeout=3, progress=False)
    assert report.failures == [(0, "stopped after the time-out of 3 s")]
    assert len(report.labelled) == 6


@pytest.mark.parametrize("name", ["local", "dask"])
def test_an_engine_that_hangs_as_it_starts_is_given_up(tmp_path, coppers, misbehaving, monkeypatch, name):
    if name == "dask":
        pytest.importorskip("distributed")
    monkeypatch.setattr(executors, "START", 2.0)
    with pytest.raises(VibronicError, match="or the engine is not ready after 2 s"):
        label(coppers, misbehaving("hang as it starts"), tmp_path / "l.sqlite", name, 2, timeout=0.1, progress=False)


def test_an_engine_may_take_longer_to_start_than_a_structure(tmp_path, coppers, misbehaving):
    slow = misbehaving("start slowly")
    assert label(coppers, slow, tmp_path / "l.sqlite", "local", timeout=1, progress=False).failures == []


def test_processes_need_a_worker():
    with pytest.raises(VibronicError, match="at least one worker, not 0"), processes(0):
        pass


def test_dead_process_is_replaced_and_its_structure_tried_once_more(tmp_path, coppers, gold, misbehaving):
    report = label([gold, *coppers], misbehaving("die"), tmp_path / "a.sqlite", "local", workers=2, progress=False)
    assert report.failures == [(0, "its process died, 2 times (a crash, or no memory left)")]
    assert len(report.labelled) == 6
    assert len(misbehaving.log()) == 8  # gold twice, everything else once

    report = label([gold, *coppers], misbehaving("die once"), tmp_path / "b.sqlite", "local", progress=False)
    assert report.failures == []
    assert len(misbehaving.log()) == 8 + 8


def test_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from ase.build import bulk\n"
        "from vibronic.labelling.label import label\n"
        f"label([bulk('Cu')], 'emt', {str(tmp_path / 'l.sqlite')!r}, 'local', progress=False)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("vibronic.core.errors.VibronicError: the worker processes")


def test_a_failed_calculator_is_built_anew(gold, coppers, misbehaving):
    tricky = misbehaving("raise")
    assert "(RuntimeError: no convergence in 60 cycles)" in calculate(tricky, gold, ("energy",)).reason
    assert calculate(tricky, coppers[0], ("energy",)).reason is None


@pytest.mark.parametrize("name", ["local", "dask"])
def test_leaving_on_an_exception_kills_what_runs(gold, misbehaving, name):
    psutil = pytest.importorskip("psutil")
    if name == "dask":
        pytest.importorskip("distributed")

    def leave():
        with executor(name, misbehaving("hang"), workers=1) as submit:
            submit(gold, ("energy",))
            while not misbehaving.log():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert not psutil.pid_exists(int(misbehaving.log()[0].split()[0]))


def test_a_stress_given_as_a_matrix_is_stored_in_voigt_order(gold, misbehaving):
    gold.rattle(0.1, seed=0)
    matrix, voigt = (calculate(misbehaving(trick), gold, ("stress",)).results["stress"] for trick in ("matrix", "none"))
    np.testing.assert_allclose(matrix, voigt, atol=1e-12)
    assert len(set(np.round(voigt, 9))) == 6  # six different numbers, so that an order can be wrong


class TestDask:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("distributed")

    def test_hang_death_and_labels(self, tmp_path, coppers, gold, misbehaving):
        for trick, reason in (("hang", "stopped after the time-out"), ("die", "its process died, 2 times")):
            report = label(
                [gold, *coppers], misbehaving(trick), tmp_path / f"{trick}.sqlite", "dask", 2, timeout=3, progress=False
            )
            ((index, why),) = report.failures
            assert index == 0
            assert why.startswith(reason)
            reference = label(coppers, misbehaving("none"), tmp_path / "none.sqlite", "in-process", progress=False)
            for a, b in zip(report.labelled, reference.labelled, strict=True):
                np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=1e-12)

    @pytest.mark.slow
    def test_workers_at_an_address(self, tmp_path, coppers):
        import dask
        from distributed import LocalCluster

        options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None, "silence_logs": 50}
        with dask.config.set({"distributed.worker.daemon": False}), LocalCluster(**options) as cluster:
            report = label(coppers, "emt", tmp_path / "l.sqlite", cluster.scheduler_address, 2, progress=False)
            assert report.computed == 6
        with LocalCluster(**options) as cluster, pytest.raises(VibronicError, match="start them with --no-nanny"):
            label(coppers, "emt", tmp_path / "m.sqlite", cluster.scheduler_address, progress=False)

    def test_a_scheduler_that_dies_as_it_sends_leaves_no_future_open(self):
        from distributed.comm import CommClosedError

        class Broken:
            async def _result(self):
                raise CommClosedError

        future = Future()
        asyncio.run(executors._settle(Broken(), future))
        with pytest.raises(VibronicError, match="the Dask scheduler is gone"):
            executors.outcome_of(future, None)

    def test_another_cluster_on_this_machine_is_no_cause_for_a_warning(self, tmp_path, coppers):
        with socket.socket() as taken:
            with suppress(OSError):  # it may be taken already
                taken.bind(("", 8787))  # Dask's usual port
                taken.listen()
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                label(coppers, "emt", tmp_path / "l.sqlite", "dask", progress=False)
            assert told == []

    def test_nobody_at_the_address(self, tmp_path, coppers, monkeypatch):
        with pytest.raises(VibronicError, match="no Dask scheduler answers at nowhere://x:1"):
            label(coppers, "emt", tmp_path / "l.sqlite", "nowhere://x:1", progress=False)
