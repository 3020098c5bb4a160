"""The configurations that a thermal average is over: many of each temperature, since drawing them costs no label."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from vibronic.core.errors import VibronicError
from vibronic.core.folder import content
from vibronic.core.provenance import write_json
from vibronic.core.units import KB
from vibronic.data.dataset import read_structures, write_structures
from vibronic.data.sources import crystal as read_crystal
from vibronic.labelling.engines import engine
from vibronic.sampling.anharmonic import displaced_start, prepare_phonons
from vibronic.sampling.checks import check_supercell, statistical_inefficiency
from vibronic.sampling.dynamics import Dynamics
from vibronic.sampling.expansion import Expansion, expansion
from vibronic.sampling.harmonic import ForceConstants, force_constants
from vibronic.sampling.phonons import Phonons
from vibronic.sampling.relax import relax
from vibronic.sampling.sampler import CLOSEST, displacements_of, sentence, shortest_pair
from vibronic.thermal.plan import Plan

TRAJECTORIES = 4
"""Of dynamics at each temperature: where a property keeps something for longer than one of them lasts, the others show it."""
FEW = 10
"""Independent configurations below which an interval is not to be relied on."""
EQUILIBRATION = 500
"""Steps of each before its first snapshot, from a displaced start."""
ZERO_POINT = "zero-point"
OTHER = "other statistics"

Pools = dict[str, list[Atoms]]
"""Configurations by temperature (``300 K``); with phonons also at 0 K (``300 K zero-point``, by the force constants of 300 K) and
with the other statistics (``300 K other statistics``), drawn with the same random numbers, so that differences are sharp."""


def name(temperature: float, part: str = "") -> str:
    """Key of a pool."""
    return f"{temperature:g} K {part}".strip()


@dataclass(frozen=True)
class Drawn:
    """What is drawn before any label.

    Attributes:
        reference: the undisplaced supercell.
        pools: configurations by key.
        expansion: None where there is none.
        harmonic: mean harmonic energy per atom (eV) of the pool of each temperature (K), for phonons.
        kinetic: mean kinetic energy per atom (eV) of the nuclei at each temperature (K).
        trajectories: of dynamics at each temperature, which take turns in the pool; 0 for phonons.
        inefficiency: how many configurations of each temperature count as one; 1 for phonons.
        findings: plain sentences.
        notes: others that belong beside the answer.
    """

    reference: Atoms
    pools: Pools
    expansion: Expansion | None
    harmonic: dict[float, float]
    kinetic: dict[float, float]
    trajectories: int
    inefficiency: dict[float, float]
    findings: list[str]
    notes: list[str]


def draw(plan: Plan, out: Path, say: Callable[[str], None]) -> Drawn:
    """Drawn once, then read; drawn anew where a larger pool is wanted, of which the smaller one is the beginning.

    Raises:
        VibronicError: the crystal, the engine of the forces, its imaginary modes, or a temperature give no configurations.
    """
    record = out / "pools.json"
    found = content(record) if record.exists() else None
    if found is None or found["pool"] < plan.pool or "kinetic" not in found:  # which early versions lack
        _draw(plan, out, record)
        found = json.loads(record.read_text())
    pools = {
        key: read_structures(out / "pools" / f"{key.replace(' ', '-')}.extxyz")[: plan.pool] for key in found["pools"]
    }
    grown = None
    if found["expansion"] is not None:
        fields = found["expansion"]
        grown = Expansion(**fields | {k: tuple(fields[k]) for k in ("temperatures", "strains", "errors", "vibrations")})
    harmonic, kinetic = ({float(t): float(v) for t, v in found[key].items()} for key in ("harmonic", "kinetic"))
    reference = read_structures(out / "reference.extxyz")[0]
    trajectories = found.get("trajectories", 1 if plan.method == "md" else 0)  # one, before there were several
    inefficiency, findings, notes = dict.fromkeys(plan.temperatures, 1.0), found["findings"], found["notes"]
    if trajectories:
        for t in plan.temperatures:
            inefficiency[t] = _slowest(pools[name(t)], reference, trajectories)
            count = plan.pool / inefficiency[t]
            few = ", too few to be sure of its interval: a larger --pool, or another --seed" if count < FEW else ""
            said = f"{t:g} K: {plan.pool} snapshots of {trajectories} trajectories count as {count:.0f} independent ones{few}."
            (notes if few else findings).append(said)
    for finding in [*findings, *notes]:
        say(finding)
    return Drawn(reference, pools, grown, harmonic, kinetic, trajectories, inefficiency, findings, notes)


def _trajectories(
    constants: ForceConstants, calculator: Calculator, temperature: float, pool: int, seed: tuple[int, int]
) -> list[Atoms]:
    """Snapshots of independent trajectories in turn, so that a larger pool begins with a smaller one."""
    each = []
    for k in np.random.SeedSequence(seed).generate_state(TRAJECTORIES).tolist():
        start = displaced_start(constants, temperature, k)
        dynamics = Dynamics(calculator, temperature, equilibration=EQUILIBRATION, start=start, progress=True)
        each.append(dynamics.sample(constants.supercell, -(-pool // TRAJECTORIES), k))
    return [atoms for moment in zip(*each, strict=True) for atoms in moment][:pool]


def _slowest(snapshots: list[Atoms], reference: Atoms, trajectories: int) -> float:
    """Statistical inefficiency of the slowest of: potential energy, pressure, and how far the atoms of each element are displaced."""
    squared = (displacements_of(snapshots, reference) ** 2).sum(axis=2)
    known = [squared[:, reference.numbers == z].mean(axis=1) for z in np.unique(reference.numbers)]
    known.append(np.array([a.calc.results["energy"] for a in snapshots]))
    if all("stress" in a.calc.results for a in snapshots):
        known.append(np.array([a.calc.results["stress"][:3].mean() for a in snapshots]))
    return max(statistical_inefficiency(values, trajectories) for values in known)


def _draw(plan: Plan, out: Path, record: Path) -> None:
    atoms = read_crystal(plan.crystal)
    if not atoms.pbc.all():
        raise VibronicError(f"{plan.crystal} is not periodic in three directions; a thermal average needs a crystal")
    calculator = engine(plan.forces, **plan.forces_settings).calculator()
    atoms.info.setdefault("parent", Path(plan.crystal).stem)
    parent = atoms.info["parent"]
    findings = []
    if plan.relax:
        before, atoms = atoms, relax(atoms, calculator)
        atoms.info["parent"] = parent
        findings.append(
            f"Relaxed: the volume changed by {100 * (atoms.get_volume() / before.get_volume() - 1):+.2f} %."
        )
    pools: Pools = {}
    found: Expansion | None = None
    harmonic, kinetic = {}, {t: 1.5 * KB * t for t in plan.temperatures}
    constants = force_constants(atoms, plan.supercell, calculator)
    reference = constants.supercell
    reference.info["parent"] = parent
    findings += check_supercell(reference)
    notes = [sentence(f) for f in constants.findings if "not relaxed" in f]
    if plan.method == "md":
        for k, t in enumerate(plan.temperatures):
            pools[name(t)] = _trajectories(constants, calculator, t, plan.pool, (plan.seed, k))
        findings.append("Dynamics is classical: it has no zero-point motion.")
    else:
        closest = CLOSEST * shortest_pair(reference)[0]
        for t in plan.temperatures:
            sampler, said = prepare_phonons(
                constants, t, plan.imaginary, plan.statistics, calculator, min_distance=closest, seed=plan.seed
            )
            findings += said if len(plan.temperatures) == 1 else [f"{t:g} K: {finding}" for finding in said]
            other = "classical" if plan.statistics == "quantum" else "quantum"
            kinds = {"": (t, plan.statistics), ZERO_POINT: (0.0, "quantum"), OTHER: (t, other)}
            for part, (temperature, statistics) in kinds.items():
                alike = Phonons(
                    sampler.force_constants,
                    temperature,
                    statistics,  # type: ignore[arg-type]
                    sampler.imaginary,
                    min_distance=closest,
                    cap_frequency=sampler.cap_frequency,
                )
                pools[name(t, part)] = alike.sample(reference, plan.pool, plan.seed)
                if not part:
                    harmonic[t] = alike.potential_energy() / len(reference)
                    kinetic[t] = alike.kinetic_energy() / len(reference)
    if plan.expansion and not plan.expands:
        findings.append(
            "A pressure is that of the given cell, from the positions of the nuclei: their motion adds its own."
        )
    if plan.expands:
        try:
            found = expansion(atoms, plan.supercell, calculator, plan.temperatures, plan.statistics)
        except VibronicError as error:
            notes.append(f"Without thermal expansion: {error}.")
    for key, frames in pools.items():
        write_structures(out / "pools" / f"{key.replace(' ', '-')}.extxyz", frames)
    write_structures(out / "reference.extxyz", [reference])
    write_json(
        record,
        {
            "pool": plan.pool,
            "findings": findings,
            "notes": notes,
            "pools": list(pools),
            "expansion": None if found is None else vars(found),
            "harmonic": harmonic,
            "kinetic": kinetic,
            "trajectories": TRAJECTORIES if plan.method == "md" else 0,
        },
    )
