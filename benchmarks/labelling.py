"""What labelling costs on top of the calculations, and what a second worker gains.

Overhead: 4-atom copper with EMT, time of ``label()`` minus the time of the bare calculator, per structure, the start of
the workers taken out by a longer and a shorter run. Scaling: 40-atom Ag3SBr with SevenNet, one worker against two in
turn, so that a machine whose speed drifts is fair to both::

    python benchmarks/labelling.py
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from ase import Atoms
from ase.build import bulk

import record
from vibronic.labelling.engines import engine
from vibronic.labelling.label import label

SEED, REPEATS = 0, 3
TARGET_OVERHEAD_MS = 5.0
TARGET_SPEEDUP = 1.8


def rattled(atoms: Atoms, n: int) -> list[Atoms]:
    rng = np.random.default_rng(SEED)
    structures = [atoms.copy() for _ in range(n)]
    for structure in structures:
        structure.positions += rng.normal(scale=0.05, size=structure.positions.shape)
    return structures


def seconds_to_label(structures: list[Atoms], name: str, executor: str, workers: int) -> float:
    # On the disk of this checkout, as a user's ledger would be: a temporary folder may be in memory.
    with tempfile.TemporaryDirectory(dir=record.RESULTS) as folder:
        start = time.perf_counter()
        label(structures, name, Path(folder) / "ledger.sqlite", executor, workers, progress=False)
        return time.perf_counter() - start


def seconds_to_calculate(structures: list[Atoms]) -> float:
    calculator = engine("emt").calculator()
    start = time.perf_counter()
    for structure in structures:
        atoms = structure.copy()
        atoms.calc = calculator
        _ = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    return time.perf_counter() - start


def overhead(executor: str, few: int = 100, many: int = 1100) -> dict[str, float]:
    """Milliseconds per structure that ``label`` adds to the calculator."""
    structures = rattled(bulk("Cu", cubic=True), many)
    bare, labelled = [], []
    for _ in range(REPEATS):
        bare.append(seconds_to_calculate(structures) / many)
        short = seconds_to_label(structures[:few], "emt", executor, 1)
        labelled.append((seconds_to_label(structures, "emt", executor, 1) - short) / (many - few))
    return {
        "calculator_ms": 1e3 * median(bare),
        "label_ms": 1e3 * median(labelled),
        "overhead_ms": 1e3 * median(b - a for a, b in zip(bare, labelled, strict=True)),
    }


def disk(n: int = 200) -> float:
    """Milliseconds for one small write that reaches the disk: the floor under any ledger."""
    with tempfile.TemporaryFile(dir=record.RESULTS) as probe:
        start = time.perf_counter()
        for _ in range(n):
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
        return 1e3 * (time.perf_counter() - start) / n


def scaling(few: int = 80, many: int = 320) -> dict[str, object]:
    """One worker against two, with the start of the workers (seconds each) and without it."""
    scaled = [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0)]
    cell = Atoms("Ag3SBr", scaled_positions=scaled, cell=[4.934] * 3, pbc=True)
    structures = rattled(cell.repeat(2), many)
    seconds: dict[tuple[int, int], list[float]] = {(n, workers): [] for n in (few, many) for workers in (1, 2)}
    for _ in range(2):
        for (n, workers), taken in seconds.items():
            taken.append(seconds_to_label(structures[:n], "sevennet", "local", workers))
    mean = {key: sum(taken) / len(taken) for key, taken in seconds.items()}
    each = {workers: (mean[many, workers] - mean[few, workers]) / (many - few) for workers in (1, 2)}
    return {
        **{f"{n} structures, {workers} workers (s)": taken for (n, workers), taken in seconds.items()},
        "one_worker_s_per_structure": each[1],
        "two_workers_s_per_structure": each[2],
        "speedup": each[1] / each[2],
        f"speedup_of_{many}_with_start": mean[many, 1] / mean[many, 2],
    }


def main() -> None:
    results = {
        "what": "Overhead of label and ledger, and two workers against one",
        "overhead": {executor: overhead(executor) for executor in ("in-process", "local")},
        "fsync_ms": disk(),
        "scaling": scaling(),
        "targets": {"overhead_ms": TARGET_OVERHEAD_MS, "speedup": TARGET_SPEEDUP},
        "units": {"*_ms": "millisecond per structure", "*_s": "second"},
        "seed": SEED,
    }
    print(record.write("labelling", results, "python benchmarks/labelling.py").read_text())


if __name__ == "__main__":
    main()
