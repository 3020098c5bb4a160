"""Configurations from molecular dynamics: slow, but with every anharmonic effect of the engine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator, PropertyNotImplementedError

from vibronic.core.errors import VibronicError
from vibronic.core.neighbors import neighbor_list
from vibronic.sampling.sampler import check_request, progress_bar, provenance, snapshots_from


@dataclass
class Dynamics:
    """Sampler: Langevin dynamics at constant volume and temperature, the centre of mass at rest.

    Classical nuclei. Snapshots keep the energy, forces and stress that the engine computed anyway.

    Attributes:
        calculator: any ASE calculator with forces.
        temperature: K.
        timestep: fs.
        friction: 1/fs.
        equilibration: steps before the first snapshot.
        interval: steps between snapshots; long enough that they decorrelate.
        start: configuration to start from, same atoms and cell; the reference positions if ``None``.
        progress: show a progress bar on standard error.
    """

    calculator: Calculator
    temperature: float
    timestep: float = 2.0
    friction: float = 0.02
    equilibration: int = 200
    interval: int = 20
    start: Atoms | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("temperature", "timestep", "friction", "interval"):
            if not getattr(self, name) > 0:
                raise VibronicError(f"the {name} of the dynamics must be positive, not {getattr(self, name)}")
        if self.equilibration < 0:
            raise VibronicError(f"the equilibration must not be negative, got {self.equilibration} steps")

    def sample(self, atoms: Atoms, n: int, seed: int) -> list[Atoms]:
        """``n`` labelled snapshots of one trajectory.

        Raises:
            VibronicError: ``start`` is another structure, or the trajectory explodes.
        """
        from ase.constraints import FixCom
        from ase.md.langevin import Langevin

        check_request(atoms, n, seed)
        info = provenance(atoms, "md", seed, temperature_K=self.temperature, engine=_name(self.calculator))
        moving = snapshots_from(atoms, np.zeros((1, len(atoms), 3)), {})[0]
        if self.start is not None:
            if not np.array_equal(self.start.numbers, atoms.numbers) or not np.allclose(self.start.cell, atoms.cell):
                raise VibronicError("the start of the dynamics must have the atoms and the cell of the reference")
            shift = atoms.get_center_of_mass() - self.start.get_center_of_mass()
            moving.positions = self.start.positions + shift
        rng = np.random.default_rng(seed)
        moving.calc = self.calculator
        moving.set_constraint(FixCom())
        spread = np.sqrt(moving.get_masses() * units.kB * self.temperature)
        moving.set_momenta(rng.standard_normal((len(moving), 3)) * spread[:, None])
        dynamics = Langevin(
            moving,
            self.timestep * units.fs,
            temperature_K=self.temperature,
            friction=self.friction / units.fs,
            fixcm=False,
            rng=rng,
        )
        bond = _longest_nearest_distance(atoms)
        snapshots = []
        blocks = [min(self.interval, self.equilibration - done) for done in range(0, self.equilibration, self.interval)]
        with progress_bar(self.progress) as bar:
            total = self.equilibration + n * self.interval
            task = bar.add_task(f"Molecular dynamics, {self.temperature:g} K", total=total)
            for k, steps in enumerate([*blocks, *[self.interval] * n]):
                dynamics.run(steps)
                bar.advance(task, steps)
                self._check(moving, bond)
                if k >= len(blocks):
                    snapshots.append(self._labelled(moving, info))
        return snapshots

    def _check(self, moving: Atoms, bond: float) -> None:
        temperature = moving.get_temperature()
        # Kinetic temperatures of a few atoms fluctuate widely; a trajectory that explodes exceeds any such factor.
        if not np.isfinite(moving.positions).all() or not temperature < 10 * self.temperature + 500:
            raise VibronicError(
                f"the dynamics exploded (kinetic temperature {temperature:.0f} K at {self.temperature:g} K); use a "
                "shorter timestep, or an engine that knows this material"
            )
        centre = neighbor_list(moving, 2 * bond)[0]
        if len(np.unique(centre)) < len(moving):
            raise VibronicError(
                f"atoms flew apart: one has no neighbour within {2 * bond:.1f} Angstrom at {self.temperature:g} K; "
                "lower the temperature, or use an engine that knows this material"
            )

    def _labelled(self, moving: Atoms, info: dict[str, object]) -> Atoms:
        from ase.calculators.singlepoint import SinglePointCalculator

        snapshot = snapshots_from(moving, np.zeros((1, len(moving), 3)), info)[0]
        labels = {"energy": moving.get_potential_energy(), "forces": moving.get_forces(apply_constraint=False)}
        if moving.cell.rank == 3:
            with contextlib.suppress(PropertyNotImplementedError):
                labels["stress"] = moving.get_stress(apply_constraint=False)
        snapshot.calc = SinglePointCalculator(snapshot, **labels)
        return snapshot


def _name(calculator: Calculator) -> str:
    return getattr(calculator, "name", None) or type(calculator).__name__.lower()


def _longest_nearest_distance(atoms: Atoms) -> float:
    """Distance (Angstrom) within which every atom of ``atoms`` has a neighbour."""
    cutoff = 3.0
    while cutoff < 50:
        i, j, shift = neighbor_list(atoms, cutoff)
        if len(np.unique(i)) == len(atoms):
            r = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array, axis=1)
            return float(max(r[i == a].min() for a in range(len(atoms))))
        cutoff *= 1.5
    raise VibronicError("an atom has no neighbour within 50 Angstrom; check the structure before running dynamics")
