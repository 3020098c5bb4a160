"""The targets of ``qdf``, measured with the shipped model: accuracy, symmetries, size consistency, time and memory.

    python benchmarks/fields.py [--model FOLDER_OR_NAME] [--large N]

One thread. Molecules of QM9: the published test split (up to 14 atoms) and those of 15 atoms or more, all 116,041 unless
--large draws fewer. Writes benchmarks/results/fields.json and prints what was measured beside the targets.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

import record
from vibronic.core.units import conversion
from vibronic.data.sources import structures
from vibronic.learning.prediction import predict
from vibronic.learning.store import load

KCAL = conversion("eV", "kcal/mol")
BATCH = 64
APART = 30.0
"""Angstrom between the nearest atoms of two molecules that must not feel one another."""

CHAINS = (10, 20, 41, 83, 166, 332)
"""Carbon atoms of alkanes: 32 to 998 atoms."""

# What was measured -> its unit, and the target where there is one (it must stay below).
QUANTITIES: dict[str, tuple[str, float | None]] = {
    "mae_small": ("kcal/mol", 0.5),
    "mae_large": ("kcal/mol", 1.0),
    "bias_small": ("kcal/mol", None),
    "bias_large": ("kcal/mol", None),
    "mae_rotated_minus_given_small": ("kcal/mol", 0.01),
    "mae_rotated_minus_given_large": ("kcal/mol", 0.01),
    "largest_change_by_rotation_small": ("kcal/mol", None),
    "largest_change_by_rotation_large": ("kcal/mol", None),
    "size_consistency_mean": ("kcal/mol", 0.01),
    "size_consistency_largest": ("kcal/mol", 0.01),
    "cpu_per_molecule_small": ("ms", 1.0),
    "cpu_per_molecule_large": ("ms", 1.0),
    "atoms_per_molecule_small": ("atoms", None),
    "atoms_per_molecule_large": ("atoms", None),
    "cpu_of_training": ("s", 3600.0),
    "exponent_of_time_in_atoms": ("1", None),
    "peak_memory_1000_atoms": ("MB", None),
}


class Energies:
    """Energies (kcal/mol) by the model, and the processor time of each call."""

    def __init__(self, model: str) -> None:
        self.model = load(model)[0]
        self.seconds = 0.0

    def __call__(self, molecules: Sequence[Atoms]) -> np.ndarray:
        start = time.process_time()
        energies = predict(self.model, molecules, BATCH)["energy"]
        self.seconds = time.process_time() - start
        return np.array(energies, dtype=float) * KCAL


def turned(molecules: Sequence[Atoms], rng: np.random.Generator) -> list[Atoms]:
    """Each molecule once, in a direction of its own."""
    turns = Rotation.random(len(molecules), random_state=rng).as_matrix()
    return [Atoms(a.numbers, a.positions @ turn.T) for a, turn in zip(molecules, turns, strict=True)]


def accuracy(energies: Energies, part: str, molecules: list[Atoms]) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Errors as given and turned, and by number of atoms."""
    labels = np.array([a.info["energy"] for a in molecules]) * KCAL
    given = energies(molecules)
    changed = energies(turned(molecules, np.random.default_rng(1)))
    error, atoms = given - labels, np.array([len(a) for a in molecules])
    found = {
        "mae": np.abs(error).mean(),
        "bias": error.mean(),
        "mae_rotated_minus_given": np.abs(changed - labels).mean() - np.abs(error).mean(),
        "largest_change_by_rotation": np.abs(changed - given).max(),
        "atoms_per_molecule": atoms.mean(),
    }
    by_size = [
        {
            "atoms": int(n),
            "molecules": int((atoms == n).sum()),
            "mae [kcal/mol]": round(float(np.abs(error[atoms == n]).mean()), 4),
            "bias [kcal/mol]": round(float(error[atoms == n].mean()), 4),
        }
        for n in np.unique(atoms)
    ]
    return {f"{name}_{part}": float(value) for name, value in found.items()}, by_size


def size_consistency(energies: Energies, molecules: list[Atoms], pairs: int = 200) -> dict[str, float]:
    """Energies of two molecules far apart minus their energies alone."""
    rng = np.random.default_rng(2)
    first, second = ([molecules[k] for k in rng.integers(len(molecules), size=pairs)] for _ in range(2))
    both = []
    for a, b in zip(first, second, strict=True):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        reach = (a.positions @ direction).max() - (b.positions @ direction).min() + APART
        both.append(Atoms([*a.numbers, *b.numbers], np.vstack([a.positions, b.positions + reach * direction])))
    difference = np.abs(energies(both) - energies(first) - energies(second))
    return {"size_consistency_mean": float(difference.mean()), "size_consistency_largest": float(difference.max())}


def milliseconds(energies: Energies, molecules: list[Atoms], rounds: int = 5) -> float:
    """CPU time per molecule in batches, neighbour lists included; the best round, others share the machine."""
    spent = []
    for _ in range(rounds):
        energies(molecules)
        spent.append(1000 * energies.seconds / len(molecules))
    return min(spent)


def alkane(n: int) -> Atoms:
    """A straight chain of ``n`` carbon atoms with its hydrogens, all-trans."""
    k = np.arange(n)
    up = np.where(k % 2, 1.0, -1.0)
    carbon = np.stack([1.27 * k, 0.43 * up, 0 * k], axis=1)
    hydrogen = [np.stack([1.27 * k, 1.06 * up, z * np.ones(n)], axis=1) for z in (-0.89, 0.89)]
    ends = [[-0.89, 0.23, 0.0], [1.27 * (n - 1) + 0.89, -0.23 * up[-1], 0.0]]
    return Atoms("C" * n + "H" * (2 * n + 2), np.vstack([carbon, *hydrogen, ends]))


def scaling(model: str) -> list[dict[str, float]]:
    """Time and memory of single molecules, small ones first: a process knows only the peak of its whole life."""
    torch.set_num_threads(1)
    energies = Energies(model)
    energies([alkane(1)])
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = []
    for n in CHAINS:
        chain = alkane(n)
        spent = milliseconds(energies, [chain])
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024
        rows.append({"atoms": len(chain), "cpu [ms]": round(spent, 2), "peak memory above start [MB]": round(peak, 1)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qdf-qm9", help="model folder or name of a shipped model")
    parser.add_argument(
        "--large", type=int, default=0, help="molecules of 15 atoms or more, drawn at random; 0 for all"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        chains = fresh.submit(scaling, options.model).result()
    energies = Energies(options.model)
    sets = {"small": structures("qm9-test"), "large": structures("qm9-large")}
    if options.large:
        drawn = np.random.default_rng(0).permutation(len(sets["large"]))[: options.large]
        sets["large"] = [sets["large"][k] for k in sorted(drawn)]
    measured: dict[str, float] = {}
    sizes = []
    for part, molecules in sets.items():
        some = [molecules[k] for k in np.random.default_rng(3).permutation(len(molecules))[:1000]]
        measured[f"cpu_per_molecule_{part}"] = milliseconds(energies, some)
        found, by_size = accuracy(energies, part, molecules)
        measured |= found
        sizes += by_size
        print(part, {k: round(v, 4) for k, v in measured.items() if k.endswith(part)}, flush=True)
    measured |= size_consistency(energies, [*sets["small"], *sets["large"]])
    atoms, spent = (np.array([row[key] for row in chains]) for key in ("atoms", "cpu [ms]"))
    measured["exponent_of_time_in_atoms"] = float(np.polyfit(np.log(atoms[-4:]), np.log(spent[-4:]), 1)[0])
    measured["peak_memory_1000_atoms"] = chains[-1]["peak memory above start [MB]"]
    told = Path(options.model) / "run.json"
    if told.exists():
        measured["cpu_of_training"] = json.loads(told.read_text())["cpu_seconds"]
    measured = {name: measured[name] for name in QUANTITIES if name in measured}
    targets = {name: goal for name, (_, goal) in QUANTITIES.items() if goal is not None and name in measured}
    content: dict[str, Any] = {
        "what": f"Measured beside the targets: {len(sets['small']):,} molecules of qm9-test (small) and {len(sets['large']):,} of "
        f"qm9-large (large); each turned once at random; 200 random pairs {APART:g} Angstrom apart; processor time in batches of "
        f"{BATCH}, neighbour lists included, best of 5; single alkanes of up to {chains[-1]['atoms']} atoms, the time's exponent "
        "from the four longest",
        "model": Path(options.model).name,
        "measured": measured,
        "target (below)": targets,
        "by_size": sizes,
        "alkanes": chains,
        "units": {name: unit for name, (unit, _) in QUANTITIES.items() if name in measured},
    }
    shipped = options.model == parser.get_default("model")
    record.write("fields", content, "python benchmarks/fields.py" + " --model FOLDER" * (not shipped))
    for name, value in measured.items():
        goal = QUANTITIES[name][1]
        verdict = "" if goal is None else f"target < {goal:g}: " + ("met" if value < goal else "missed")
        print(f"{name:36s} {value:10.4f} {QUANTITIES[name][0]:9s} {verdict}")


if __name__ == "__main__":
    main()
