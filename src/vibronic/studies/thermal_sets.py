"""The training sets of the thermal study: of one mean-square displacement, as far as atoms stay apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import write_json
from vibronic.data.cells import from_spglib
from vibronic.data.dataset import read_labelled, write_structures
from vibronic.data.sources import crystal as read_crystal
from vibronic.labelling.engines import engine
from vibronic.sampling.harmonic import ForceConstants
from vibronic.sampling.sampler import CLOSEST, Sampler, displacements_of, shortest_pair
from vibronic.studies.thermal_plan import Plan

if TYPE_CHECKING:
    from vibronic.sampling.phonons import Phonons

CLOSE_ENOUGH = 0.03
"""Relative difference of root-mean-square displacements below which two sets move equally far."""
COMPARED = 200
"""Configurations of a set whose atomic environments are compared with those of the dynamics."""


def harmonic_phonons(plan: Plan, name: str, folder: Path) -> ForceConstants:
    """The relaxed crystal and its harmonic force constants: seconds, so computed anew rather than kept."""
    from vibronic.sampling.phonons import force_constants
    from vibronic.sampling.relax import relax

    path = folder / "relaxed.extxyz"
    calculator = engine(plan.engine).calculator()
    relaxed = read_labelled(path)[0] if path.exists() else relax(read_crystal(name), calculator)
    relaxed.info["parent"] = folder.name
    found = force_constants(relaxed, plan.supercell, calculator, progress=False)
    found.supercell.info["parent"] = folder.name
    return found


def draw(plan: Plan, name: str, folder: Path) -> list[str]:
    """Write every training set of a crystal, and return what was found; ``sampling.json`` holds what the report shows."""
    from vibronic.sampling.anharmonic import effective_force_constants
    from vibronic.sampling.checks import (
        check_snapshots,
        coverage,
        independent_snapshots,
        standard_error,
        statistical_inefficiency,
    )
    from vibronic.sampling.phonons import Phonons

    path = folder / "sampling.json"
    if path.exists():
        return json.loads(path.read_text())["findings"]
    harmonic = harmonic_phonons(plan, name, folder)
    reference = harmonic.supercell
    findings = [f"harmonic phonons: {harmonic.modes().describe()}"]
    chosen = harmonic
    if harmonic.modes().unstable.any():
        chosen = effective_force_constants(harmonic, read_labelled(folder / "fit.extxyz"))
        findings += [
            f"effective force constants at {plan.temperature:g} K: {f}"
            for f in chosen.findings[len(harmonic.findings) :]
        ]
    closest = CLOSEST * shortest_pair(reference)[0]
    # A short trajectory may leave a few modes soft or without a restoring force; they are bounded, and that is said.
    phonons = Phonons(chosen, plan.temperature, plan.statistics, "cap", min_distance=closest)
    findings += phonons.findings[1:]
    drawn = plan.set_size + max(4, plan.set_size // 5)  # some may fail to be labelled
    sets = {"phonons": phonons.sample(reference, drawn, plan.seed("phonons"))}
    for label in plan.sets:
        if label == "dynamics":
            sets[label] = read_labelled(folder / "learn.extxyz")
            findings.append(f"{_moved(label, sets[label], sets['phonons'], reference)}: as the crystal moves by itself")
            findings.append(f"the dynamics to learn from: {independent_snapshots(sets[label], reference)}")
        elif label != "phonons":
            sets[label], finding = _matched(plan, label, phonons, sets["phonons"], reference)
            findings.append(finding)
    test = read_labelled(plan.test_file(folder, plan.temperature))
    theory = phonons.thermal_displacements()
    symbols = np.array(reference.get_chemical_symbols())
    displacements = []
    for label, frames in {**sets, "test dynamics": test}.items():
        squared = (displacements_of(frames, reference) ** 2).mean(axis=2)
        for s in sorted(set(symbols)):
            per_frame = squared[:, symbols == s].mean(axis=1)
            displacements.append(
                {
                    "species": s,
                    "set": label,
                    "sampled": per_frame.mean(),
                    "error": standard_error(
                        per_frame, statistical_inefficiency(per_frame) if "dynamics" in label else 1.0
                    ),
                    "theory": np.trace(theory[symbols == s].mean(axis=0)) / 3 if label == "phonons" else None,
                }
            )
    findings += check_snapshots(sets["phonons"], reference, phonons)
    findings.append(f"the dynamics it is tested on: {independent_snapshots(test, reference)}")
    order = np.random.default_rng(plan.seed("dealing", 1)).permutation(plan.set_size)
    for label, frames in sets.items():
        share = coverage(frames[:: -(-len(frames) // COMPARED)], test)["all"]
        findings.append(
            f"the {label} set covers {100 * share:.0f} % of the atomic environments of the dynamics (as near to one of its own "
            "as 95 % of its own are to one another)"
        )
        # Consecutive snapshots are alike: mixed, a part of them is spread over the whole trajectory.
        kept = [frames[k] for k in order] if label == "dynamics" else frames
        write_structures(folder / f"{label}.extxyz", kept)
    write_structures(folder / "reference.extxyz", [reference])
    constants = {"harmonic": harmonic} | ({"effective": chosen} if chosen is not harmonic else {})
    content = {
        "findings": findings,
        "rms": {label: root_mean_square(frames, reference) for label, frames in {**sets, "test": test}.items()},
        "displacements": displacements,
        "bands": {label: asdict(fc.band_structure()) for label, fc in constants.items()},
        "dos": {label: asdict(fc.density_of_states(12)) for label, fc in constants.items()},
    }
    write_json(path, content)
    return findings


def absent(crystal: Atoms) -> list[str]:
    """Ingredients of a training set that two sets of a crystal do not tell apart, by its elements and the symmetry of its sites."""
    one = ["amplitude per species"] if len(set(crystal.numbers)) == 1 else []
    return [*one, *(["directions of a site"] if _isotropic(crystal) else [])]


def _isotropic(crystal: Atoms) -> bool:
    """Whether every atom must move as far in all directions: no other symmetric tensor is left as it is by the rotations of its site."""
    positions, cell = crystal.get_scaled_positions(), crystal.cell.array
    found = from_spglib("get_symmetry", (cell, positions, crystal.numbers), symprec=1e-3)
    if found is None:
        return False
    tensor = np.diag([1.0, 2.0, 4.0]) + 0.3 * (np.ones((3, 3)) - np.eye(3))  # of no symmetry
    for x in positions:
        image = found["rotations"] @ x + found["translations"] - x
        site = found["rotations"][np.abs((image - np.round(image)) @ cell).max(axis=1) < 1e-2]
        rotations = cell.T @ site @ np.linalg.inv(cell.T)
        mean = np.mean(rotations @ tensor @ rotations.transpose(0, 2, 1), axis=0)
        if np.abs(mean - np.eye(3) * np.trace(mean) / 3).max() > 1e-3:
            return False
    return True


def _matched(
    plan: Plan, label: str, phonons: Phonons, wanted: Sequence[Atoms], reference: Atoms
) -> tuple[list[Atoms], str]:
    """A set with the mean-square displacement of the phonon set, or the nearest to it that keeps atoms apart."""
    aim, n, seed = root_mean_square(wanted, reference), len(wanted), plan.seed(label)  # type: ignore[arg-type]
    sampler_of = _samplers(plan, label, phonons, wanted, reference)
    factor, frames = 1.0, None
    for smaller in range(10):
        factor = 0.9**smaller
        if frames := _try(sampler_of(factor), reference, n, seed):
            break
    if not frames:
        raise VibronicError(
            f"no displacements of {reference.symbols} near {aim:.2f} Angstrom keep atoms apart ({label} set)"
        )
    for _ in range(2):  # rejected configurations are the wider ones
        off = root_mean_square(frames, reference) / aim
        if abs(off - 1) < CLOSE_ENOUGH or (factor < 1 and off < 1):
            break
        factor /= off
        again = _try(sampler_of(factor), reference, n, seed)
        if not again or abs(root_mean_square(again, reference) / aim - 1) >= abs(off - 1):
            break
        frames = again
    said = _moved(label, frames, wanted, reference)
    short = 1 - root_mean_square(frames, reference) / aim
    if short > CLOSE_ENOUGH:
        said += f", {100 * short:.0f} % less: with larger displacements hardly any configuration keeps its atoms apart"
    return frames, said


def _samplers(
    plan: Plan, label: str, phonons: Phonons, wanted: Sequence[Atoms], reference: Atoms
) -> Callable[[float], Sampler]:
    """From a factor on all displacements to the sampler of a set; 1 is matched to the phonon set."""
    from vibronic.sampling.controls import independent, shuffled
    from vibronic.sampling.rattle import Rattle

    closest = phonons.min_distance
    if label in ("shuffled", "sites"):
        base = shuffled(phonons, plan.seed("dealing"), 1.0) if label == "shuffled" else independent(phonons)
        # What is matched is what the phonon set reached after its own rejections.
        aim = root_mean_square(wanted, reference) ** 2 * len(reference)
        scale = np.sqrt(aim / np.trace(base.thermal_displacements().sum(axis=0)))
        return lambda factor: base.scaled(factor * scale)
    matched = Rattle.matched_to(
        wanted,
        reference,
        per="species" if label == "species" else "overall",
        distribution="monte-carlo" if label == "monte-carlo" else "gaussian",
        min_distance=closest,
    )

    def scaled(factor: float) -> Rattle:
        species = {s: a * factor for s, a in matched.per_species.items()} if matched.per_species else None
        return replace(matched, amplitude=matched.amplitude * factor, per_species=species)

    return scaled


def _try(sampler: Sampler, reference: Atoms, n: int, seed: int) -> list[Atoms] | None:
    """Configurations, or None where hardly any keeps its atoms apart."""
    try:
        return sampler.sample(reference, n, seed)
    except VibronicError:
        return None


def _moved(label: str, frames: Sequence[Atoms], phonons: Sequence[Atoms], reference: Atoms) -> str:
    moved, wanted = root_mean_square(frames, reference), root_mean_square(phonons, reference)
    return f"the {label} set has an rms displacement of {moved:.3f} Angstrom per atom, the phonon set {wanted:.3f}"


def root_mean_square(snapshots: Sequence[Atoms], reference: Atoms) -> float:
    """Root-mean-square displacement of an atom, sqrt(<|u|^2>), Angstrom."""
    return float(np.sqrt((displacements_of(snapshots, reference) ** 2).sum(axis=2).mean()))
