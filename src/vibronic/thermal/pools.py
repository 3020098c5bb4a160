"""The configurations that a thermal average is over: many of each temperature, since drawing them costs no label."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.folder import content
from vibronic.core.provenance import write_json
from vibronic.data.dataset import read_structures, write_structures
from vibronic.data.sources import crystal as read_crystal
from vibronic.labelling.engines import engine
from vibronic.sampling.checks import statistical_inefficiency
from vibronic.sampling.dynamics import Dynamics
from vibronic.sampling.expansion import Expansion, expansion
from vibronic.sampling.harmonic import force_constants, repeat
from vibronic.sampling.phonons import Phonons, prepare_phonons
from vibronic.sampling.relax import relax
from vibronic.sampling.sampler import CLOSEST, shortest_pair
from vibronic.thermal.plan import Plan

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
        inefficiency: how many snapshots of the dynamics at each temperature count as one; 1 for phonons.
        findings: plain sentences.
    """

    reference: Atoms
    pools: Pools
    expansion: Expansion | None
    harmonic: dict[float, float]
    inefficiency: dict[float, float]
    findings: list[str]


def draw(plan: Plan, out: Path, say: Callable[[str], None]) -> Drawn:
    """Drawn once, then read; drawn anew where a larger pool is wanted, of which the smaller one is the beginning.

    Raises:
        VibronicError: the crystal, the engine of the forces, its imaginary modes, or a temperature give no configurations.
    """
    record = out / "pools.json"
    found = content(record) if record.exists() else None
    if found is None or found["pool"] < plan.pool:
        _draw(plan, out, record)
        found = json.loads(record.read_text())
    for finding in found["findings"]:
        say(finding)
    pools = {
        key: read_structures(out / "pools" / f"{key.replace(' ', '-')}.extxyz")[: plan.pool] for key in found["pools"]
    }
    grown = None
    if found["expansion"] is not None:
        fields = found["expansion"]
        grown = Expansion(**fields | {k: tuple(fields[k]) for k in ("temperatures", "strains")})
    harmonic, inefficiency = ({float(t): float(v) for t, v in found[k].items()} for k in ("harmonic", "inefficiency"))
    reference = read_structures(out / "reference.extxyz")[0]
    return Drawn(reference, pools, grown, harmonic, inefficiency, found["findings"])


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
    harmonic, inefficiency = {}, dict.fromkeys(plan.temperatures, 1.0)
    if plan.method == "md":
        reference = repeat(atoms, plan.supercell)
        reference.info["parent"] = parent
        for k, t in enumerate(plan.temperatures):
            dynamics = Dynamics(calculator, t, progress=True)
            pools[name(t)] = dynamics.sample(reference, plan.pool, plan.seed + k)
            inefficiency[t] = statistical_inefficiency([a.get_potential_energy() for a in pools[name(t)]])
        findings.append("Dynamics is classical: it has no zero-point motion.")
    else:
        constants = force_constants(atoms, plan.supercell, calculator)
        constants.supercell.info["parent"] = parent
        reference = constants.supercell
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
    if plan.expansion and not plan.expands:
        findings.append(
            "A pressure is that of the given cell, from the positions of the nuclei: their motion adds its own."
        )
    if plan.expands:
        try:
            found = expansion(atoms, plan.supercell, calculator, plan.temperatures, plan.statistics)
        except VibronicError as error:
            findings.append(f"Without thermal expansion: {error}.")
    for key, frames in pools.items():
        write_structures(out / "pools" / f"{key.replace(' ', '-')}.extxyz", frames)
    write_structures(out / "reference.extxyz", [reference])
    write_json(
        record,
        {
            "pool": plan.pool,
            "findings": findings,
            "pools": list(pools),
            "expansion": None if found is None else vars(found),
            "harmonic": harmonic,
            "inefficiency": inefficiency,
        },
    )
