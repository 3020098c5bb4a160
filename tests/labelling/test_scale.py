"""Accidents on a cluster, with counts: nothing is lost, and only what was in flight is computed twice.

Every calculation that begins is a line in a file (``misbehaving.log()``), so a second one of the same structure shows.
"""

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk

from vibronic.core.errors import VibronicError
from vibronic.labelling.label import label
from vibronic.labelling.ledger import Ledger

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

HERE = Path(__file__).parent
N, WORKERS = 40, 2
IN_FLIGHT = 4 * WORKERS
"""What is begun and not yet on the disk, at most: one calculation per worker, and results on their way."""


@pytest.fixture
def hot() -> list[Atoms]:
    structures = [bulk("Cu", cubic=True) for _ in range(N)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
        atoms.positions = atoms.positions.round(8)  # as a file will hold them
    return structures


class Cluster:
    """A Dask scheduler and its workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen] = []

    def start(self) -> "Cluster":
        self.scheduler = self._run("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard")
        options = ("--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard")
        self.workers = [self._run("worker", self.address, *options) for _ in range(WORKERS)]
        return self

    def _run(self, *arguments: str) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
        with (self.folder / "cluster.log").open("a") as log:
            command = [sys.executable, "-m", "dask", *arguments]
            self.processes.append(subprocess.Popen(command, env=environment, cwd=self.folder, stdout=log, stderr=log))
        return self.processes[-1]

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    cluster = Cluster(folder)
    yield cluster.start()
    cluster.stop()


def wait_for(condition, seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for_the_end_of(log: list[str]) -> None:
    """No process that calculated lingers."""
    processes = {int(line.split()[0]) for line in log}
    wait_for(lambda: not any(map(alive, processes)))


def repeated(log: list[str]) -> int:
    """Calculations of a structure that had begun before."""
    return sum(n - 1 for n in Counter(line.split()[1] for line in log).values())


def in_the_middle(misbehaving, accident) -> threading.Thread:
    def happen() -> None:
        wait_for(lambda: len(misbehaving.log()) >= N // 3)
        accident()

    thread = threading.Thread(target=happen)
    thread.start()
    return thread


def safe(ledger: Path) -> int:
    with Ledger(ledger) as book:
        assert book.counts()["failed"] == 0
        return book.counts()["done"]


def finish(hot, misbehaving, ledger: Path, executor: str) -> None:
    """The same call again computes what is missing, a third one nothing."""
    before, begun = safe(ledger), len(misbehaving.log())
    assert begun - IN_FLIGHT <= before < N
    report = label(hot, misbehaving("slow"), ledger, executor, WORKERS, progress=False)
    assert (report.computed, report.reused, len(report.labelled)) == (N - before, before, N)
    assert len(misbehaving.log()) == begun + N - before
    assert repeated(misbehaving.log()) <= IN_FLIGHT
    assert label(hot, misbehaving("slow"), ledger, "in-process", progress=False).computed == 0
    assert len(misbehaving.log()) == begun + N - before


def test_a_worker_is_killed(tmp_path, hot, misbehaving, cluster):
    ledger = tmp_path / "l.sqlite"
    thread = in_the_middle(misbehaving, cluster.workers[0].kill)
    report = label(hot, misbehaving("slow"), ledger, cluster.address, WORKERS, progress=False)
    thread.join()
    assert (report.computed, report.failures, len(report.labelled)) == (N, [], N)
    assert safe(ledger) == N
    begun = len(misbehaving.log())
    assert repeated(misbehaving.log()) == begun - N <= IN_FLIGHT
    assert label(hot, misbehaving("slow"), ledger, "in-process", progress=False).computed == 0
    assert len(misbehaving.log()) == begun
    wait_for_the_end_of(misbehaving.log())


def test_the_scheduler_is_killed_and_started_again(tmp_path, hot, misbehaving, cluster):
    ledger = tmp_path / "l.sqlite"
    thread = in_the_middle(misbehaving, cluster.scheduler.kill)
    with pytest.raises(VibronicError, match="the Dask scheduler is gone; start it and its workers again"):
        label(hot, misbehaving("slow"), ledger, cluster.address, WORKERS, progress=False)
    thread.join()
    for worker in cluster.workers:
        worker.wait(180)
    wait_for_the_end_of(misbehaving.log())
    finish(hot, misbehaving, ledger, cluster.start().address)


def test_dask_keeps_nothing_of_a_calculation_that_is_done(tmp_path):
    """Nor of the moments in which it had nothing to do, of which there are thousands in 100,000 labels."""
    kept: list[Counter] = []

    class Counting(Ledger):
        def record(self, *arguments) -> None:
            super().record(*arguments)
            kept.append(Counter())
            if len(kept) % 10 == 0:
                time.sleep(0.5)  # until the others have finished as well
            if len(kept) == 60:
                gc.collect()
                kept[-1] = Counter(f"{type(t).__module__}.{type(t).__name__}" for t in gc.get_objects())

    structures = [bulk("Cu", cubic=True, a=3.5 + k / 1000) for k in range(60)]
    with Counting(tmp_path / "l.sqlite") as ledger:
        assert label(structures, "emt", ledger, "dask", WORKERS, progress=False).computed == 60
    assert kept[-1]["distributed.spans.Span"] == 1
    for name in ("scheduler.TaskState", "worker_state_machine.TaskState", "client.Future", "client.FutureState"):
        assert kept[-1][f"distributed.{name}"] <= IN_FLIGHT


SCRIPT = """
import resource, sys
sys.path.insert(0, {here!r})
from misbehaving import SPEC
from ase.io import read
from vibronic.core.errors import VibronicError
from vibronic.labelling.engines import ENGINES, engine
from vibronic.labelling.label import label
if __name__ == "__main__":
    if {limit}:
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
    ENGINES[SPEC.name] = SPEC
    slow = engine("misbehaving", trick="slow", folder={folder!r})
    try:
        label(read({structures!r}, ":"), slow, {ledger!r}, {executor!r}, {workers}, progress=False)
    except VibronicError as error:
        sys.exit(str(error))
"""


def in_a_process(tmp_path, hot, ledger: Path, executor: str, limit: int = 0) -> subprocess.Popen:
    """The same call in a process of its own, whose files may not grow beyond ``limit`` bytes."""
    ase.io.write(tmp_path / "hot.extxyz", hot)
    script = tmp_path / "script.py"
    names = {"here": str(HERE), "folder": str(tmp_path), "structures": str(tmp_path / "hot.extxyz")}
    script.write_text(SCRIPT.format(**names, ledger=str(ledger), executor=executor, workers=WORKERS, limit=limit))
    return subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("where", ["dask", "address"])
def test_the_main_process_is_killed(tmp_path, hot, misbehaving, where, request):
    ledger = tmp_path / "l.sqlite"
    executor = "dask" if where == "dask" else request.getfixturevalue("cluster").address
    process = in_a_process(tmp_path, hot, ledger, executor)
    wait_for(lambda: len(misbehaving.log()) >= N // 3)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stderr.close()
    wait_for_the_end_of(misbehaving.log())
    finish(hot, misbehaving, ledger, executor)


def test_the_disk_of_the_ledger_is_full(tmp_path, hot, misbehaving):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        pages = ledger.connection.execute("PRAGMA page_count").fetchone()[0]
        ledger.connection.execute(f"PRAGMA max_page_count = {pages + 6}")  # SQLite's own refusal, as on a full disk
        with pytest.raises(
            VibronicError, match="does not fit on its disk; free some space and repeat the same command"
        ):
            label(hot, misbehaving("slow"), ledger, "dask", WORKERS, progress=False)
    wait_for_the_end_of(misbehaving.log())
    finish(hot, misbehaving, tmp_path / "l.sqlite", "dask")


def test_the_files_of_the_main_process_may_not_grow_any_more(tmp_path, hot, misbehaving):
    """As with a quota: the write itself fails, half done."""
    process = in_a_process(tmp_path, hot, tmp_path / "l.sqlite", "dask", limit=200_000)
    told = process.communicate(timeout=180)[1]
    assert process.returncode == 1
    assert "cannot be written to or read from its disk, which may be full, over a quota or broken" in told
    assert len(told.strip().splitlines()) == 1
    wait_for_the_end_of(misbehaving.log())
    finish(hot, misbehaving, tmp_path / "l.sqlite", "dask")
