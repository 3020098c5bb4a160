"""Force constants from phonopy's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.sampling.harmonic import ForceConstants, build_phonopy, force_r2, from_phonopy, to_ase

_CRYSTALS = ("phonopy_disp.yaml", "phonopy_params.yaml", "phonopy_params.yaml.xz", "phonopy.yaml")
_VALUES = ("FORCE_CONSTANTS", "force_constants.hdf5", "FORCE_SETS")


def read_force_constants(
    path: str | Path, unitcell: Atoms | None = None, supercell: tuple[int, int, int] | None = None
) -> ForceConstants:
    """Read phonopy's files, in the units of whichever code they were made with.

    ``path`` is a phonopy*.yaml (also .xz), a FORCE_SETS, FORCE_CONSTANTS or force_constants.hdf5, or a folder. What
    the file itself does not hold is taken from the files beside it: forces or force constants from FORCE_CONSTANTS,
    force_constants.hdf5 or FORCE_SETS, the crystal from phonopy_disp.yaml, phonopy_params.yaml, phonopy.yaml or, with
    ``supercell``, from ``unitcell`` or POSCAR-unitcell; Born charges from BORN.

    Raises:
        VibronicError: a file is missing, cannot be read or does not fit the others.
    """
    path = Path(path)
    if not path.exists():
        raise VibronicError(f"{path} does not exist; give a phonopy.yaml, FORCE_SETS or FORCE_CONSTANTS file")
    try:
        return _read(path, unitcell, supercell)
    except VibronicError:
        raise
    except Exception as error:  # phonopy's parsers fail in as many ways as files can be broken
        raise VibronicError(f"cannot read force constants from {path}: {error or type(error).__name__}") from error


def _read(path: Path, unitcell: Atoms | None, supercell: tuple[int, int, int] | None) -> ForceConstants:
    from phonopy import file_IO
    from phonopy.interface.phonopy_yaml import PhonopyYaml
    from phonopy.physical_units import get_calculator_physical_units

    folder = path if path.is_dir() else path.parent
    is_yaml = path.is_file() and path.name.endswith((".yaml", ".yml", ".xz"))
    crystals = [path] if is_yaml else [folder / name for name in _CRYSTALS if (folder / name).exists()]
    data: Any = PhonopyYaml()
    if unitcell is None and crystals:
        data.read(crystals[0])
        units = get_calculator_physical_units(data.calculator)
        cell = to_ase(data.unitcell)
        cell.set_cell(cell.cell * units.distance_to_A, scale_atoms=True)
        matrix = np.eye(3, dtype=int) if data.supercell_matrix is None else data.supercell_matrix
        phonopy: Any = build_phonopy(cell, matrix, "auto" if data.primitive_matrix is None else data.primitive_matrix)
    else:
        units = get_calculator_physical_units(None)
        phonopy = build_phonopy(*_given_crystal(path, folder, unitcell, supercell))

    # A file that is named outright is the source; otherwise a yaml file's own values come before what lies beside it.
    values = path if path.is_file() and not is_yaml else None
    array, dataset = (None, None) if values else (data.force_constants, data.dataset)
    if values is None and array is None:
        values = next((folder / name for name in _VALUES if (folder / name).exists()), None)
    if values is not None and values.name.startswith("FORCE_CONSTANTS"):
        array = file_IO.parse_FORCE_CONSTANTS(values, p2s_map=phonopy.primitive.p2s_map)
    elif values is not None and values.suffix == ".hdf5":
        array = file_IO.read_force_constants_hdf5(values, p2s_map=phonopy.primitive.p2s_map)
    elif values is not None:
        dataset = file_IO.parse_FORCE_SETS(values, natom=len(phonopy.supercell))

    findings = [f"force constants read from {path.name}"]
    if array is not None:
        phonopy.force_constants = array * units.force_to_eVperA / units.distance_to_A
    else:
        phonopy.dataset = _scaled(dataset, units.distance_to_A, units.force_to_eVperA, path)
        findings += _fit_to_dataset(phonopy)
    nac = data.nac_params
    if nac is None and (folder / "BORN").exists():
        nac = file_IO.parse_BORN(phonopy.primitive, filename=folder / "BORN")
    if nac is not None:  # lengths and energies are now in Angstrom and eV, whatever the file's were
        phonopy.nac_params = {**nac, "factor": get_calculator_physical_units(None).nac_factor}
    return from_phonopy(phonopy, findings)


def _given_crystal(
    path: Path, folder: Path, unitcell: Atoms | None, supercell: tuple[int, int, int] | None
) -> tuple[Atoms, np.ndarray]:
    poscar = folder / "POSCAR-unitcell"
    if unitcell is None and poscar.exists():
        from ase.io.vasp import read_vasp

        unitcell = read_vasp(poscar)
    if unitcell is None or supercell is None:
        raise VibronicError(
            f"no crystal found beside {path}: put a phonopy_disp.yaml there, or give the unit cell and the supercell"
        )
    return unitcell, np.diag(supercell)


def _fit_to_dataset(phonopy: Any) -> list[str]:
    """Force constants from the displacements and forces of ``phonopy.dataset``; findings."""
    if "displacements" not in phonopy.dataset:
        phonopy.produce_force_constants(show_drift=False)
        phonopy.symmetrize_force_constants(use_symfc_projector=True, show_drift=False)
        return []
    phonopy.produce_force_constants(fc_calculator="symfc", show_drift=False)
    r2 = force_r2(phonopy.force_constants, phonopy.dataset["displacements"], phonopy.dataset["forces"])
    return [f"they explain {100 * r2:.1f} % of the variance of the forces they were fitted to"]


def _scaled(dataset: dict[str, Any] | None, length: float, force: float, path: Path) -> dict[str, Any]:
    """A phonopy data set in Angstrom and eV/Angstrom."""
    dataset = dataset or {}
    entries = dataset.get("first_atoms", [])
    if "forces" in dataset and "displacements" in dataset:
        return {"displacements": dataset["displacements"] * length, "forces": dataset["forces"] * force}
    if not entries or any("forces" not in entry for entry in entries):
        raise VibronicError(f"{path} has no forces, and no FORCE_SETS or FORCE_CONSTANTS lies beside it")
    scaled = [
        {
            **entry,
            "displacement": np.array(entry["displacement"]) * length,
            "forces": np.array(entry["forces"]) * force,
        }
        for entry in entries
    ]
    return {**dataset, "first_atoms": scaled}
