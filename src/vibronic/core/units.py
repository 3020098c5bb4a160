"""Physical constants and unit conversion, on top of ASE's constants.

Inside Vibronic: Angstrom, eV, Kelvin, amu, stress in eV/Angstrom^3 with ASE's sign. ``convert`` brings other units in.
"""

from ase import units as _ase

from vibronic.core.errors import VibronicError

KB = _ase.kB
"""Boltzmann's constant, eV/K."""
GPA = _ase.GPa
"""One gigapascal in eV/Angstrom^3."""
AMU = _ase._amu
EV = _ase._e

HBAR = 1e10 * _ase._hbar / (_ase._e * _ase._amu) ** 0.5
"""hbar in Angstrom sqrt(eV amu), so that hbar * omega is in eV when omega is in sqrt(eV / (Angstrom^2 amu))."""
THZ = 1e-12 * 1e10 * (_ase._e / _ase._amu) ** 0.5 / 6.283185307179586
"""Frequency in THz of an angular frequency of 1 sqrt(eV / (Angstrom^2 amu))."""

_SCALES: dict[str, dict[str, float]] = {
    "energy": {
        "eV": 1.0,
        "meV": 1e-3,
        "Hartree": _ase.Hartree,
        "Ry": _ase.Rydberg,
        "kcal/mol": _ase.kcal / _ase.mol,
        "kJ/mol": _ase.kJ / _ase.mol,
    },
    "energy per atom": {"eV/atom": 1.0, "meV/atom": 1e-3},
    "force": {
        "eV/Angstrom": 1.0,
        "meV/Angstrom": 1e-3,
        "Hartree/Bohr": _ase.Hartree / _ase.Bohr,
        "Ry/Bohr": _ase.Rydberg / _ase.Bohr,
    },
    "stress": {"eV/Angstrom^3": 1.0, "GPa": _ase.GPa, "kbar": 0.1 * _ase.GPa, "bar": 1e-4 * _ase.GPa},
    "length": {"Angstrom": 1.0, "Bohr": _ase.Bohr, "nm": 10.0},
    "area": {"Angstrom^2": 1.0, "Bohr^2": _ase.Bohr**2},
    "volume": {"Angstrom^3": 1.0, "Bohr^3": _ase.Bohr**3},
    "heat capacity": {"eV/K": 1.0, "J/mol/K": 1e-3 * _ase.kJ / _ase.mol, "cal/mol/K": 1e-3 * _ase.kcal / _ase.mol},
    "dipole": {"e Angstrom": 1.0, "Debye": _ase.Debye},
    "number": {"1": 1.0, "": 1.0},
}


def conversion(from_unit: str, to_unit: str) -> float:
    """Factor that turns a value in ``from_unit`` into one in ``to_unit``.

    Raises:
        VibronicError: a unit is unknown, or the two measure different quantities.
    """
    if from_unit == to_unit:
        return 1.0
    for scale in _SCALES.values():
        if from_unit in scale and to_unit in scale:
            return scale[from_unit] / scale[to_unit]
    known = {u for scale in _SCALES.values() for u in scale if u}
    for unit in (from_unit, to_unit):
        if unit not in known:
            raise VibronicError(f"unknown unit '{unit}'; known units: {', '.join(sorted(known))}")
    raise VibronicError(f"cannot convert '{from_unit}' to '{to_unit}': they measure different quantities")
