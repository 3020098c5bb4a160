"""Units and targets."""

import numpy as np
import pytest
from ase import units
from ase.calculators.lj import LennardJones
from ase.vibrations import Vibrations

from vibronic.core.errors import VibronicError
from vibronic.core.targets import TARGETS, Target, target
from vibronic.core.units import GPA, HBAR, KB, THZ, conversion


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "expected"),
    [
        (1.0, "Hartree", "eV", 27.211386),
        (1.0, "Hartree/Bohr", "eV/Angstrom", 51.422067),
        (160.21766, "GPa", "eV/Angstrom^3", 1.0),
        (10.0, "kbar", "GPa", 1.0),
        (1.0, "Debye", "e Angstrom", 0.20819434),
        (23.060548, "kcal/mol", "eV", 1.0),
        (1.0, "Bohr^2", "Angstrom^2", 0.28002852),
        (1.0, "Bohr^3", "Angstrom^3", 0.14818471),
        (1.98720426, "cal/mol/K", "eV/K", 8.6173333e-5),  # the gas constant and Boltzmann's
        (4.184, "J/mol/K", "cal/mol/K", 1.0),
        (250.0, "meV/atom", "eV/atom", 0.25),
        (3.0, "spins", "spins", 3.0),
    ],
)
def test_conversion(value: float, from_unit: str, to_unit: str, expected: float) -> None:
    assert value * conversion(from_unit, to_unit) == pytest.approx(expected, rel=1e-6)


def test_every_conversion_has_its_inverse() -> None:
    for a, b in (("Ry", "meV"), ("bar", "GPa"), ("nm", "Bohr")):
        assert conversion(a, b) * conversion(b, a) == pytest.approx(1)


@pytest.mark.parametrize(("bad", "word"), [("furlong", "unknown unit"), ("Angstrom", "different quantities")])
def test_conversion_refuses(bad: str, word: str) -> None:
    with pytest.raises(VibronicError, match=word):
        conversion(bad, "eV")


def test_constants() -> None:
    assert pytest.approx(0.025852, rel=1e-4) == KB * 300
    assert units.GPa == GPA
    # hbar omega of 1 THz is 4.135667 meV: both constants speak of the same angular frequency
    assert pytest.approx(4.135667e-3, rel=1e-6) == HBAR * (1 / THZ)


def test_thz_agrees_with_the_vibrations_of_ase(tmp_path, monkeypatch) -> None:
    """Frequency of a Lennard-Jones dimer, from its curvature and from ASE."""
    from ase import Atoms

    monkeypatch.chdir(tmp_path)
    distance = 2 ** (1 / 6) * 3.4
    dimer = Atoms("Ar2", positions=[(0, 0, 0), (0, 0, distance)])
    dimer.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=1e3, smooth=False)
    curvature = 72 * 0.0104 / distance**2 * 1.0
    reduced = dimer.get_masses()[0] / 2
    ours = np.sqrt(curvature / reduced) * THZ
    vibrations = Vibrations(dimer, delta=1e-4)
    vibrations.run()
    theirs = vibrations.get_frequencies()[-1].real * units._c * 100 * 1e-12  # from 1/cm
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_known_targets_are_named_by_their_key() -> None:
    assert all(name == t.name for name, t in TARGETS.items())
    thermal = {"zpve", "energy_298K", "enthalpy_298K", "free_energy_298K", "heat_capacity"}
    grows = {"energy", "polarizability", "electronic_spatial_extent", *thermal}
    assert {t.name for t in TARGETS.values() if t.extensive} == grows


def test_the_unit_of_every_known_target_converts() -> None:
    for t in TARGETS.values():
        with pytest.raises(VibronicError, match="unknown unit 'furlong'"):
            conversion(t.unit, "furlong")


def test_own_target() -> None:
    assert target("hardness", "GPa") == Target("hardness", "GPa")
    assert target("energy", "kcal/mol").unit == "eV"  # a known target has its own unit


@pytest.mark.parametrize("name", ["", "band gap", "a,b", "x[0]", "a=b"])
def test_unusable_target_name(name: str) -> None:
    with pytest.raises(VibronicError, match="usable"):
        target(name)
