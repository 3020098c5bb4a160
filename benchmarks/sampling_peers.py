"""Our samplers beside phonopy's and hiphive's: the same force constants, and what each draws from them.

    VIBRONIC_DATA=... python benchmarks/sampling_peers.py

hiphive is in the extra ``peers``; what is not installed is left out with the reason. Mean-square displacements are compared with the
analytic ones, covariances in normal modes, where each mode divided by its amplitude is white noise of variance 1.
Writes benchmarks/results/sampling_peers.json.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from ase import Atoms

import record
from vibronic.core.errors import VibronicError
from vibronic.data.sources import crystal
from vibronic.labelling.engines import engine
from vibronic.sampling.harmonic import Statistics, force_constants, mode_variances, thermal_displacements, to_ase
from vibronic.sampling.phonons import ForceConstants, Phonons, read_force_constants
from vibronic.sampling.rattle import Rattle
from vibronic.sampling.sampler import shortest_pair

SNAPSHOTS, TEMPERATURE, REPEATS, SEED = 2000, 300.0, 5, 0
MEASURED = 300
"""Snapshots whose shortest distance is looked up, one neighbour list each."""
RATTLED = 100
"""Structures of a Monte-Carlo rattle: hiphive takes a tenth of a second for each."""
STATISTICS: tuple[Statistics, ...] = ("quantum", "classical")
Draw = Callable[[int, int], Any]
"""``n`` snapshots from a seed, in a generator's own form."""


def ours(constants: ForceConstants, statistics: Statistics, **options: Any) -> Draw:
    """Structures of ASE."""
    return lambda n, seed: Phonons(constants, TEMPERATURE, statistics, **options).sample(constants.supercell, n, seed)


def phonopys(constants: ForceConstants, statistics: Statistics) -> Draw:
    """Its own structures from ``generate_displacements`` where the statistics are its default, else displacements from the class below it."""
    phonopy = constants.phonopy()

    def draw(n: int, seed: int) -> Any:
        if statistics == "quantum":
            phonopy.force_constants = constants.array  # or it would keep the dynamical matrices of the last call
            phonopy.generate_displacements(number_of_snapshots=n, temperature=TEMPERATURE, random_seed=seed)
            return phonopy.supercells_with_displacements
        from phonopy.phonon.random_displacements import RandomDisplacements

        classical = RandomDisplacements(phonopy.supercell, phonopy.primitive, constants.array, dist_func="classical")
        classical.run(TEMPERATURE, number_of_snapshots=n, random_seed=seed)
        return classical.u

    return draw


def hiphives(constants: ForceConstants, statistics: Statistics) -> Draw:
    """Structures of ASE; it takes no seed, its numbers come from NumPy's global state."""
    from hiphive.structure_generation import generate_phonon_rattled_structures

    def draw(n: int, seed: int) -> list[Atoms]:
        np.random.seed(seed)  # noqa: NPY002
        return generate_phonon_rattled_structures(
            constants.supercell, constants.array, n, TEMPERATURE, QM_statistics=statistics == "quantum"
        )

    return draw


def frames_of(drawn: Any, reference: Atoms) -> list[Atoms]:
    """Structures of ASE from any of these forms."""
    if isinstance(drawn, np.ndarray):
        return displaced(reference, drawn)
    return [frame if isinstance(frame, Atoms) else to_ase(frame) for frame in drawn]


def displaced(atoms: Atoms, displacements: np.ndarray) -> list[Atoms]:
    frames = [atoms.copy() for _ in displacements]
    for frame, u in zip(frames, displacements, strict=True):
        frame.positions += u
    return frames


def displacements(frames: list[Atoms], reference: Atoms) -> np.ndarray:
    """(n, N, 3) by the nearest image, as some generators wrap; right for displacements of less than half the cell."""
    difference = np.array([f.positions for f in frames]) - reference.positions
    fractional = np.linalg.solve(reference.cell.array.T, difference.reshape(-1, 3).T).T
    return ((fractional - np.round(fractional)) @ reference.cell.array).reshape(difference.shape)


def timed(tasks: dict[str, Draw], n: int, repeats: int) -> dict[str, float]:
    """Median CPU-seconds of each, in turn, so that a machine whose speed drifts is fair to all."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.process_time()
            task(n, SEED)
            if repeat:  # the first round warms caches and imports
                taken[name].append(time.process_time() - start)
    return {name: median(values) for name, values in taken.items()}


def by_species(u: np.ndarray, reference: Atoms, exact: dict[str, float]) -> dict[str, Any]:
    """<u_x^2> over snapshots, atoms of a species and directions, with the standard error over snapshots."""
    found: dict[str, Any] = {}
    for species, wanted in exact.items():
        each = (u[:, reference.symbols == species] ** 2).mean(axis=(1, 2))
        error = each.std(ddof=1) / np.sqrt(len(each))
        found[f"<u_x^2> {species} [Angstrom^2]"] = float(each.mean())
        found[f"standard error {species}"] = float(error)
        found[f"standard errors off {species}"] = float((each.mean() - wanted) / error)
    return found


def whiteness(u: np.ndarray, constants: ForceConstants, statistics: Statistics) -> dict[str, float]:
    """Covariance of the normal modes over their amplitudes, beside what n independent Gaussian draws would give."""
    modes, n = constants.modes(), len(u)
    mass = np.repeat(constants.supercell.get_masses(), 3)
    amplitude = np.sqrt(mode_variances(modes.frequencies, TEMPERATURE, statistics))
    z = (u.reshape(n, -1) * np.sqrt(mass)) @ modes.vectors / amplitude
    covariance = z.T @ z / n
    m = len(covariance)
    off = covariance[~np.eye(m, dtype=bool)]
    return {
        "mean variance of modes": float(np.diag(covariance).mean()),
        "its standard error if exact": float(np.sqrt(2 / (n * m))),
        "rms of variances about 1, times sqrt(n/2)": float(
            np.sqrt(((np.diag(covariance) - 1) ** 2).mean()) * np.sqrt(n / 2)
        ),
        "rms of correlations, times sqrt(n)": float(np.sqrt((off**2).mean() * n)),
        "largest correlation, times sqrt(n)": float(np.abs(off).max() * np.sqrt(n)),
        "kurtosis": float((z**4).mean() / (z**2).mean() ** 2),
        "drift of the centre of mass, rms [Angstrom]": float(
            np.sqrt((np.average(u, axis=1, weights=mass[::3]) ** 2).sum(axis=1).mean())
        ),
    }


def distances(frames: list[Atoms]) -> dict[str, float]:
    shortest = [shortest_pair(frame)[0] for frame in frames]
    return {
        f"shortest distance of {len(frames)}, mean [Angstrom]": float(np.mean(shortest)),
        f"shortest distance of {len(frames)}, least [Angstrom]": float(np.min(shortest)),
    }


def phonopys_analytic(constants: ForceConstants) -> dict[str, float]:
    """Quantum <u_x^2> by species, from phonopy's sum over the commensurate wave vectors: not our formula."""
    from dataclasses import replace

    phonopy = replace(constants, nac=None).phonopy()
    # The same wave vectors, of the unit cell: the mesh of a diagonal supercell matrix.
    phonopy = type(phonopy)(phonopy.unitcell, phonopy.supercell_matrix, primitive_matrix=np.eye(3))
    phonopy.force_constants = constants.array
    phonopy.run_mesh(
        np.diag(constants.supercell_matrix), is_mesh_symmetry=False, with_eigenvectors=True, is_gamma_center=True
    )
    phonopy.run_thermal_displacements(temperatures=[TEMPERATURE], freq_min=0.01)
    per_atom = np.array(phonopy.thermal_displacements.thermal_displacements)[0].reshape(-1, 3).mean(axis=1)
    symbols = np.array(phonopy.primitive.symbols)
    return {str(s): float(per_atom[symbols == s].mean()) for s in np.unique(symbols)}


def phonons(constants: ForceConstants, peers: dict[str, Callable[..., Draw]]) -> dict[str, Any]:
    """Speed and statistics of every generator, quantum and classical."""
    reference = constants.supercell
    found: dict[str, Any] = {}
    for statistics in STATISTICS:
        exact_of_atoms = np.trace(thermal_displacements(constants, TEMPERATURE, statistics), axis1=1, axis2=2) / 3
        symbols = np.unique(reference.get_chemical_symbols()).tolist()
        exact = {s: float(exact_of_atoms[reference.symbols == s].mean()) for s in symbols}
        tasks = {name: make(constants, statistics) for name, make in peers.items()}
        seconds = timed(tasks, SNAPSHOTS, REPEATS)
        table: dict[str, Any] = {"analytic": {f"<u_x^2> {s} [Angstrom^2]": v for s, v in exact.items()}}
        if statistics == "quantum":
            own = phonopys_analytic(constants)
            table["analytic, by phonopy"] = {f"<u_x^2> {s} [Angstrom^2]": v for s, v in own.items()}
        for name, task in tasks.items():
            frames = frames_of(task(SNAPSHOTS, SEED), reference)
            u = displacements(frames, reference)
            table[name] = {
                f"CPU-seconds for {SNAPSHOTS:,}": seconds[name],
                **by_species(u, reference, exact),
                **whiteness(u, constants, statistics),
                **distances(frames[:MEASURED]),
            }
        found[statistics] = table
    return found


def heard(task: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a generator gives, and everything it says: warnings, prints, log records, or its refusal."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            said.append(f"logged: {entry.getMessage()}")

    ear, loggers = Ear(), [logging.getLogger(), logging.getLogger("hiphive"), logging.getLogger("phonopy")]
    for logger in loggers:
        logger.addHandler(ear)
    printed = io.StringIO()
    try:
        with (
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            warnings.simplefilter("always")
            drawn = task()
    except VibronicError as error:
        return None, [f"refused: {error}"]
    finally:
        for logger in loggers:
            logger.removeHandler(ear)
    said += [f"warned: {w.message}" for w in warned]
    # A record that propagates is heard twice.
    return drawn, list(dict.fromkeys([*said, *(f"printed: {line}" for line in printed.getvalue().splitlines())]))


def unstable(constants: ForceConstants, peers: dict[str, Callable[..., Draw]]) -> dict[str, Any]:
    """What each does with imaginary modes."""
    modes, reference = constants.modes(), constants.supercell
    tasks = {name: make(constants, "quantum") for name, make in peers.items()}
    for choice in ("freeze", "cap"):
        tasks[f"ours, {choice}"] = lambda n, seed, choice=choice: ours(constants, "quantum", imaginary=choice)(n, seed)
    table: dict[str, Any] = {}
    for name, task in tasks.items():
        drawn, said = heard(lambda task=task: task(SNAPSHOTS, SEED))
        table[name] = {"says": "; ".join(said) or "nothing"}
        if drawn is None:
            continue
        if name.startswith("ours"):
            table[name]["says"] = " ".join(
                Phonons(constants, TEMPERATURE, imaginary=name.split()[1]).findings  # type: ignore[arg-type]
            )
        frames = frames_of(drawn, reference)
        u = displacements(frames, reference)
        size = np.linalg.norm(u, axis=2)
        for species in np.unique(reference.get_chemical_symbols()):
            of = size[:, reference.symbols == species]
            table[name][f"rms displacement of {species} [Angstrom]"] = float(np.sqrt((of**2).mean()))
        table[name] |= {"largest [Angstrom]": float(size.max()), **distances(frames[:MEASURED])}
    title = f"{int(modes.unstable.sum())} of {len(modes.frequencies)} modes imaginary, down to {modes.frequencies[0]:.2f} THz"
    return {title: table}


def rattles(atoms: Atoms, amplitude: float, closest: float, hiphive: bool) -> dict[str, Any]:
    """Random displacements of one root-mean-square size (Angstrom per atom), free and with a shortest distance."""
    steps = 10  # hiphive's default number of Monte-Carlo rounds; its displacements grow with the root of them
    tasks: dict[str, tuple[Draw, int]] = {
        "ours, gaussian": (lambda n, seed: Rattle(amplitude).sample(atoms, n, seed), SNAPSHOTS),
        "ours, gaussian redrawn": (
            lambda n, seed: Rattle(amplitude, min_distance=closest).sample(atoms, n, seed),
            RATTLED,
        ),
        "ours, Monte-Carlo": (
            lambda n, seed: Rattle(amplitude, "monte-carlo", min_distance=closest).sample(atoms, n, seed),
            RATTLED,
        ),
    }
    if hiphive:
        from hiphive.structure_generation import generate_mc_rattled_structures, generate_rattled_structures

        per_axis = amplitude / np.sqrt(3)
        tasks["hiphive, gaussian"] = (lambda n, s: generate_rattled_structures(atoms, n, per_axis, seed=s), SNAPSHOTS)
        tasks["hiphive, Monte-Carlo"] = (
            lambda n, s: generate_mc_rattled_structures(
                atoms, n, per_axis / np.sqrt(steps), closest, seed=s, n_iter=steps
            ),
            RATTLED,
        )
    table: dict[str, Any] = {}
    for name, (task, n) in tasks.items():
        try:
            seconds = timed({name: task}, n, 3)[name]
        except VibronicError as error:
            table[name] = {"says": f"refused: {error}"}
            continue
        frames = task(n, SEED)
        u = displacements(frames, atoms)
        shift = u.mean(axis=1, keepdims=True)
        shortest = np.array([shortest_pair(frame)[0] for frame in frames[:MEASURED]])
        table[name] = {
            "CPU-seconds per 1,000": 1000 * seconds / n,
            "rms displacement, mean removed [Angstrom]": float(np.sqrt(((u - shift) ** 2).sum(axis=2).mean())),
            "rms of the mean [Angstrom]": float(np.sqrt((shift**2).sum(axis=2).mean())),
            "shortest distance, least [Angstrom]": float(shortest.min()),
            "share with a distance below the limit": float((shortest < closest).mean()),
        }
    return {f"{amplitude} Angstrom asked for, no distance below {closest}": table}


def main() -> None:
    if "VIBRONIC_DATA" not in os.environ:
        sys.exit("set VIBRONIC_DATA to the folder of the reference data, which holds phonopy's examples")
    data = Path(os.environ["VIBRONIC_DATA"]) / "thermal" / "phonopy_examples"
    hiphive = find_spec("hiphive") is not None
    peers: dict[str, Callable[..., Draw]] = {"ours": ours, "phonopy": phonopys}
    skipped = {}
    if hiphive:
        peers["hiphive"] = hiphives
    else:
        skipped["hiphive"] = "not installed: pip install 'vibronic[peers]'"
    sets = {name: read_force_constants(data / name) for name in ("NaCl", "SnO2")}
    tables: dict[str, Any] = {}

    def add(system: str, found: dict[str, Any]) -> None:
        for title, table in found.items():
            tables[f"{system}: {title}"] = table
            print(f"{system}: {title}", json.dumps(table, indent=1), flush=True)

    for name, constants in sets.items():
        add(f"{name}, {len(constants.supercell)} atoms", phonons(constants, peers))
    soft = force_constants(crystal("Ag3SBr"), (2, 2, 2), engine("sevennet").calculator(), progress=False)
    add("Ag3SBr, SevenNet", unstable(soft, peers))
    add("CaTiO3", unstable(read_force_constants(data / "CaTiO3"), peers))
    add("Ag3SBr rattled, 40 atoms", rattles(soft.supercell, 0.45, 1.9, hiphive))
    add("NaCl rattled, 64 atoms", rattles(sets["NaCl"].supercell, 0.25, 2.2, hiphive))
    content = {
        "what": f"The same force constants in three generators: {SNAPSHOTS:,} snapshots at {TEMPERATURE:g} K, from force constants to "
        "structures (phonopy, classical: to displacements). Standard errors are over snapshots; roots of n times correlations are 1 for independent Gaussian modes.",
        "tables": tables,
        "skipped": skipped or "nothing",
        "repeats": REPEATS,
        "seed": SEED,
        "peers": record.peers("phonopy", "hiphive"),
    }
    record.write("sampling_peers", content, "python benchmarks/sampling_peers.py")


if __name__ == "__main__":
    main()
