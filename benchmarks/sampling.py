"""Seconds per 1,000 snapshots of 64 atoms, ours against phonopy's own generator in the same run.

Force constants: phonopy's published NaCl example (in ``$VIBRONIC_DATA``), or else copper by EMT.
Writes ``benchmarks/results/sampling.json``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import record
from vibronic.sampling.phonons import ForceConstants, Phonons, force_constants, read_force_constants

SNAPSHOTS, TEMPERATURE, REPEATS, SEED = 1000, 300.0, 9, 0
HERE = Path(__file__).resolve().parent


def load() -> tuple[str, ForceConstants]:
    """Force constants of 64 atoms and where they come from."""
    data = Path(os.environ.get("VIBRONIC_DATA", HERE.parents[1] / "shared" / "data"))
    published = data / "thermal/phonopy_examples/NaCl"
    if published.is_dir():
        return "NaCl, published force sets", read_force_constants(published)
    from ase.build import bulk
    from ase.calculators.emt import EMT

    return "fcc Cu (4 x 4 x 4 primitive cells), EMT", force_constants(bulk("Cu", a=3.59), (4, 4, 4), EMT())


def seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    source, constants = load()
    phonopy = constants.phonopy()
    reference = constants.supercell

    def ours_complete() -> None:
        """Diagonalisation and all, to a list of Atoms."""
        Phonons(constants, TEMPERATURE).sample(reference, SNAPSHOTS, SEED)

    def phonopy_complete() -> None:
        """The same from phonopy: dynamical matrices and all, to a list of supercells."""
        phonopy.force_constants = constants.array
        phonopy.generate_displacements(number_of_snapshots=SNAPSHOTS, temperature=TEMPERATURE, random_seed=SEED)
        assert len(phonopy.supercells_with_displacements) == SNAPSHOTS

    ready = Phonons(constants, TEMPERATURE)
    phonopy.init_random_displacements()

    def ours_draw() -> None:
        ready.sample(reference, SNAPSHOTS, SEED)

    def phonopy_draw() -> None:
        """Displacement arrays only: phonopy's best case."""
        phonopy.get_random_displacements_at_temperature(TEMPERATURE, SNAPSHOTS, random_seed=SEED)

    tasks = {
        "ours_draw": ours_draw,
        "phonopy_draw": phonopy_draw,
        "ours_complete": ours_complete,
        "phonopy_complete": phonopy_complete,
    }
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(REPEATS + 1):
        for name, task in tasks.items():
            if name == "phonopy_draw":
                phonopy.force_constants = constants.array
                phonopy.init_random_displacements()
            elapsed = seconds(task)
            if repeat:  # the first round warms caches and imports
                times[name].append(elapsed)
    medians = {name: median(values) for name, values in times.items()}
    result = {
        "what": f"{SNAPSHOTS} snapshots of {len(reference)} atoms at {TEMPERATURE:g} K, {source}",
        "unit": "s per 1,000 snapshots",
        "median": medians,
        "fastest": {name: min(values) for name, values in times.items()},
        "ratio_draw": medians["ours_draw"] / medians["phonopy_draw"],
        "ratio_complete": medians["ours_complete"] / medians["phonopy_complete"],
        "repeats": REPEATS,
        "seed": SEED,
    }
    record.write("sampling", result, "python benchmarks/sampling.py")
    for name, value in medians.items():
        print(f"{name:18s}{value:8.3f} s per 1,000 snapshots")
    print(f"ratio {result['ratio_draw']:.2f} for drawing, {result['ratio_complete']:.2f} from force constants on")


if __name__ == "__main__":
    main()
