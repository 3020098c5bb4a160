"""What labelling costs on top of the calculations, and what a second worker gains.

Overhead: 4-atom copper with EMT, time of ``label()`` minus the time of the bare calculator, per structure, the start of
the workers taken out by a longer and a shorter run. Scaling: 40-atom Ag3SBr with SevenNet, one worker against two,
start of the workers included and excluded. Run it on a quiet machine::

    python benchmarks/labelling.py
"""

import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk

from vibronic.core.provenance import versions, write_json
from vibronic.labelling.engines import engine
from vibronic.labelling.label import label

OUT = Path(__file__).parent / "results" / "labelling.json"
SEED = 0
TARGET_OVERHEAD_MS = 5.0
TARGET_SPEEDUP = 1.8


def rattled(atoms: Atoms, n: int) -> list[Atoms]:
    rng = np.random.default_rng(SEED)
    structures = [atoms.copy() for _ in range(n)]
    for structure in structures:
        structure.positions += rng.normal(scale=0.05, size=structure.positions.shape)
    return structures


def seconds_to_label(structures: list[Atoms], name: str, executor: str, workers: int, folder: Path) -> float:
    ledger = folder / f"{name}-{executor}-{workers}-{len(structures)}.sqlite"
    start = time.perf_counter()
    label(structures, name, ledger, executor, workers, progress=False)
    return time.perf_counter() - start


def overhead(executor: str, folder: Path, few: int = 100, many: int = 600) -> dict[str, float]:
    """Milliseconds per structure that ``label`` adds to the calculator."""
    structures = rattled(bulk("Cu", cubic=True), many)
    calculator = engine("emt").calculator()
    start = time.perf_counter()
    for structure in structures:
        atoms = structure.copy()
        atoms.calc = calculator
        _ = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    bare = (time.perf_counter() - start) / many
    short = seconds_to_label(structures[:few], "emt", executor, 1, folder)
    long = seconds_to_label(structures, "emt", executor, 1, folder)
    per_structure = (long - short) / (many - few)
    return {"calculator_ms": 1e3 * bare, "label_ms": 1e3 * per_structure, "overhead_ms": 1e3 * (per_structure - bare)}


def disk(folder: Path, n: int = 200) -> float:
    """Milliseconds for one small write that reaches the disk: the floor under any ledger."""
    with (folder / "probe").open("wb") as probe:
        start = time.perf_counter()
        for _ in range(n):
            probe.write(b"x" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
        return 1e3 * (time.perf_counter() - start) / n


def scaling(folder: Path, few: int = 8, many: int = 48) -> dict[str, float]:
    scaled = [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0)]
    cell = Atoms("Ag3SBr", scaled_positions=scaled, cell=[4.934] * 3, pbc=True)
    structures = rattled(cell.repeat(2), many)
    found = {}
    for workers, name in ((1, "one_worker"), (2, "two_workers")):
        short = seconds_to_label(structures[:few], "sevennet", "local", workers, folder)
        long = seconds_to_label(structures, "sevennet", "local", workers, folder)
        found[f"{name}_s"] = long
        found[f"{name}_s_per_structure"] = (long - short) / (many - few)
    found["speedup"] = found["one_worker_s_per_structure"] / found["two_workers_s_per_structure"]
    found["speedup_with_start"] = found["one_worker_s"] / found["two_workers_s"]
    return found


def main() -> None:
    with tempfile.TemporaryDirectory(dir=OUT.parent) as name:
        folder = Path(name)
        load = os.getloadavg()[0]
        results = {
            "overhead": {executor: overhead(executor, folder) for executor in ("in-process", "local")},
            "fsync_ms": disk(folder),
            "scaling": scaling(folder),
        }
    write_json(
        OUT,
        {
            **results,
            "targets": {"overhead_ms": TARGET_OVERHEAD_MS, "speedup": TARGET_SPEEDUP},
            "units": {"*_ms": "millisecond per structure", "*_s": "second"},
            "seed": SEED,
            "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "load_before": load},
            "versions": versions(),
        },
    )
    print(OUT.read_text())


if __name__ == "__main__":
    main()
