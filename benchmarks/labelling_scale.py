"""100,000 labels through Dask: does memory grow, what does a label cost, and what is the floor under it?

4-atom copper with EMT on a cluster of this machine (``--executor dask``, two workers). Memory is that of this process, which
holds structures, scheduler and Dask's workers, and of the processes that compute, sampled all the while. Growth is the
slope of a line through the samples between a tenth of the labels and all, before the report with its labelled copies is
made. The floor is what a label needs at least: the bare calculator, one round trip of an empty task through Dask, one
write that reaches the disk. Processor times are given beside wall times, because others may use the machine::

    python benchmarks/labelling_scale.py
"""

import argparse
import logging
import os
import tempfile
import threading
import time
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from ase.build import bulk

import labelling
import record
from vibronic.labelling.label import label
from vibronic.labelling.ledger import Ledger

N, WORKERS = 100_000, 2
EVERY = 2.0
"""Seconds between samples."""


class Counted(Ledger):
    """A ledger that counts what it records."""

    recorded = 0

    def record(self, *arguments: Any, **options: Any) -> None:
        super().record(*arguments, **options)
        self.recorded += 1


class Sampler(threading.Thread):
    """Labels, seconds, resident memory (MB) and processor seconds of this process and of those that it started."""

    def __init__(self, ledger: Counted) -> None:
        super().__init__(daemon=True)
        self.ledger, self.rows, self.stop = ledger, [], threading.Event()

    def run(self) -> None:
        here, start = psutil.Process(), time.perf_counter()
        while not self.stop.wait(EVERY):
            row = {"labels": self.ledger.recorded, "seconds": time.perf_counter() - start}
            for name, processes in (("main", [here]), ("workers", here.children(recursive=True))):
                times = [process.cpu_times() for process in processes]
                row[f"{name}_MB"] = sum(process.memory_info().rss for process in processes) / 1e6
                row[f"{name}_cpu"] = sum(t.user + t.system for t in times)
            self.rows.append(row)


def through_dask(n: int) -> tuple[list[dict[str, float]], dict[str, Any]]:
    structures = labelling.rattled(bulk("Cu", cubic=True), n)
    # On the disk of this checkout, as a user's ledger would be: a temporary folder may be in memory.
    with tempfile.TemporaryDirectory(dir=record.RESULTS) as folder, Counted(Path(folder) / "ledger.sqlite") as ledger:
        sampler = Sampler(ledger)
        sampler.start()
        report = label(structures, "emt", ledger, "dask", WORKERS, progress=False)
        sampler.stop.set()
        sampler.join()
        done = ledger.counts()["done"]
    during = [row for row in sampler.rows if 0.1 * n <= row["labels"] < n]
    labels = np.array([row["labels"] for row in during])
    first, last = during[0], during[-1]

    def per_label(name: str) -> float:
        return 1e3 * (last[name] - first[name]) / (last["labels"] - first["labels"])

    def bytes_per_label(name: str) -> float:
        return 1e6 * float(np.polyfit(labels, [row[name] for row in during], 1)[0])

    ticks = [during[round(k)] for k in np.linspace(0, len(during) - 1, 10)]
    return ticks, {
        "labels": len(report.labelled),
        "computed": report.computed,
        "in_the_ledger": done,
        "label_ms": per_label("seconds"),
        "processor_main_ms": per_label("main_cpu"),
        "processor_workers_ms": per_label("workers_cpu"),
        "growth_main_bytes": bytes_per_label("main_MB"),
        "growth_workers_bytes": bytes_per_label("workers_MB"),
        "total_s": report.seconds,
        "load_after": os.getloadavg()[0],
    }


def _nothing(k: int) -> int:
    return k


def round_trip(n: int = 2000) -> dict[str, float]:
    """Milliseconds of one empty task through Dask, as many at a time as ``label`` keeps waiting."""
    from distributed import Client, LocalCluster

    options = {
        "threads_per_worker": 1,
        "processes": False,
        "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
    }
    with LocalCluster(n_workers=WORKERS, **options) as cluster, Client(cluster) as client:
        executor, pending = client.get_executor(pure=False), set()
        start, processor = time.perf_counter(), time.process_time()
        for k in range(n):
            pending.add(executor.submit(_nothing, k))
            if len(pending) >= 4 * WORKERS:
                pending = wait(pending, return_when=FIRST_COMPLETED).not_done
        wait(pending)
        taken = time.perf_counter() - start, time.process_time() - processor
    return {"dask_task_ms": 1e3 * taken[0] / n, "processor_dask_task_ms": 1e3 * taken[1] / n}


def bare(n: int = 2000) -> dict[str, float]:
    structures = labelling.rattled(bulk("Cu", cubic=True), n)
    processor = time.process_time()
    seconds = labelling.seconds_to_calculate(structures)
    return {"calculator_ms": 1e3 * seconds / n, "processor_calculator_ms": 1e3 * (time.process_time() - processor) / n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=N, help="labels (only all of them are written to results)")
    n = parser.parse_args().n
    floor = {**bare(), "fsync_ms": labelling.disk(), **round_trip()}
    samples, dask = through_dask(n)
    results = {
        "what": "100,000 EMT labels through Dask: memory during the run, cost of a label, and the floor under it",
        "dask": dask,
        "floor": floor,
        "samples": samples,
        "units": {
            "*_ms": "millisecond per label",
            "*_s, seconds, *_cpu": "second",
            "growth_*_bytes": "byte per label",
            "*_MB": "million bytes, resident",
        },
        "seed": labelling.SEED,
    }
    if n == N:
        print(record.write("labelling_scale", results, "python benchmarks/labelling_scale.py").read_text())
    else:
        print(results)


if __name__ == "__main__":
    main()
