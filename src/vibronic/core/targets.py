"""Targets: what a label is called, its unit, where it lives and how it grows with the system."""

from dataclasses import dataclass
from typing import Literal

from vibronic.core.errors import VibronicError

Level = Literal["structure", "atom", "point"]
Extremum = Literal["highest", "lowest"]


@dataclass(frozen=True)
class Target:
    """A quantity that is labelled, learned and predicted.

    Attributes:
        name: key in ``atoms.info`` / ``atoms.arrays`` and in every file.
        unit: unit inside Vibronic (see ``docs/conventions.md``).
        level: one value per structure, per atom or per grid point.
        extensive: whether the value doubles when the crystal is repeated twice.
        shape: shape of one value; ``()`` for a scalar.
        extremum: the target is the highest or the lowest over the states of the structure (a band edge, a gap), so that a
            pooled prediction should follow the extreme atoms, not the mean.
    """

    name: str
    unit: str
    level: Level = "structure"
    extensive: bool = False
    shape: tuple[int, ...] = ()
    extremum: Extremum | None = None

    @property
    def is_number(self) -> bool:
        """Whether it is one number per structure."""
        return not self.shape and self.level == "structure"


TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("energy", "eV", extensive=True),
        Target("forces", "eV/Angstrom", level="atom", shape=(3,)),
        Target("stress", "eV/Angstrom^3", shape=(3, 3)),
        Target("pressure", "eV/Angstrom^3"),
        Target("band_gap", "eV", extremum="lowest"),
        Target("vbm", "eV", extremum="highest"),
        Target("cbm", "eV", extremum="lowest"),
        Target("homo", "eV", extremum="highest"),
        Target("lumo", "eV", extremum="lowest"),
        Target("dipole", "e Angstrom", shape=(3,)),
        Target("dipole_moment", "e Angstrom"),
        Target("polarizability", "Angstrom^3", extensive=True),
        # <R^2> grows faster than the number of atoms, but a mean over them would say nothing of it at all.
        Target("electronic_spatial_extent", "Angstrom^2", extensive=True),
        Target("zpve", "eV", extensive=True),
        Target("energy_298K", "eV", extensive=True),
        Target("enthalpy_298K", "eV", extensive=True),
        Target("free_energy_298K", "eV", extensive=True),
        Target("energy_per_atom", "eV/atom"),
        Target("formation_energy_per_atom", "eV/atom"),
        Target("e_above_hull", "eV/atom"),
        Target("heat_capacity", "eV/K", extensive=True),
        Target("eigenvalues", "eV", shape=(-1,)),
        Target("density_matrix", "1", shape=(-1,)),
        Target("density_samples", "1", level="atom", shape=(-1, 6)),  # its columns: fields/samples.py
    )
}

POTENTIAL = ("energy", "forces", "stress")
"""Targets that come from one potential by differentiation."""


def target(name: str, unit: str = "1") -> Target:
    """The known target of this name, or an intensive per-structure scalar with ``unit`` for a user's own property."""
    if not name or any(c in name for c in " ,[]="):
        raise VibronicError(f"'{name}' is not a usable target name: use letters, digits and underscores")
    if name == "novelty":
        raise VibronicError("'novelty' is what a model tells beside its targets; choose another name for yours")
    return TARGETS.get(name, Target(name, unit))
