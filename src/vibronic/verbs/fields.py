"""The verb ``density``: the electron density of molecules, as cube files, numbers and a page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import run_record, write_json
from vibronic.core.units import conversion
from vibronic.verbs.common import Setting, say

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from vibronic.core.model import Model
    from vibronic.fields.analysis import Analysis, Box


ALL_SPACE, ON_POINTS = "nmae_all_space [%]", "nmae_on_cube_points [%]"
NMAE = {ALL_SPACE: "NMAE over all space", ON_POINTS: "NMAE on the points of the reference cube"}
"""Sums of the absolute difference from the reference: over all space, or only where a cube file knows it."""

UNITS = {
    "electrons": "e, integral over all space on atom-centred grids",
    "cube_sum_not_electrons": "e, sum over the points of the cube file: no integral, because cores are narrower than a step",
    "charges": "e (Hirshfeld)",
    "lowest": "e/Angstrom^3",
    ALL_SPACE: "% of the electrons, integral of the absolute difference on atom-centred grids",
    ON_POINTS: "% of the electrons, sum of the absolute difference over the points of the cube file; cores are not resolved",
}
"""Units and meanings, as rho.json gives them."""


def density(
    model: str,
    structures: str,
    spacing: float = 0.2,
    margin: float = 3.0,
    level: int = 2,
    reference: str | None = None,
    settings: dict[str, Setting] | None = None,
    report: Path | None = None,
    out: Path = Path("rho.cube"),
) -> Path:
    """Predict the electron density of a molecule: a cube file, its electrons, dipole and atomic charges.

      vibronic density qdf-density molecule.xyz --out rho.cube
      vibronic density qdf-density molecule.xyz --reference dft --report rho.html

    The cube file is in Bohr and e/Bohr^3, as programs expect; a file of several molecules gives rho-000.cube, rho-001.cube,
    ... It holds point values, whose sum is not the count of electrons: cores are narrower than a step. The numbers go to
    rho.json: electrons, dipole and charges, integrated over all space on atom-centred grids.

    Args:
        model: model folder, or the name of a shipped model (see 'vibronic models').
        structures: file, folder or name of neutral closed-shell molecules.
        spacing: of the box, Angstrom.
        margin: of the box round the nuclei, Angstrom.
        level: of the grid to integrate on, 0 (coarse) to 5.
        reference: to compare with: a cube file of the molecule, a file of the same molecules labelled with
            density_matrix, or dft (with PySCF, here and now).
        settings: of PySCF for that reference, e.g. --settings.basis def2-SVP. Left out, it is PBE in the basis that the
            model learned from (6-31G* where it learned from no density), with def2-universal-jfit and grid level 1.
        report: page with isosurfaces, e.g. rho.html.
        out: cube file.

    Returns:
        The cube file (the first one).
    """
    from rich.progress import track

    from vibronic.data import sources
    from vibronic.fields.analysis import analyse, box, numbered, write_cube
    from vibronic.learning import store
    from vibronic.verbs.learning import _files

    network, _ = store.load(model)
    density_of = getattr(network, "density_of", None)
    if density_of is None:
        raise VibronicError(f"the model {model} ({network.kind}) has no density; 'qdf-density' is a kind that has")
    frames = sources.structures(structures)
    cubes = numbered(out, len(frames))
    numbers = Path(out).with_suffix(".json")
    pages = [] if report is None else [Path(report)]
    config = {"model": model, "structures": structures, "spacing": spacing, "margin": margin, "level": level}
    method = _method(network, reference, settings)
    config |= {"reference": reference, "settings": method, "report": report}
    known = reference if reference not in (None, "dft") else None
    reads = [structures, known, *_files(model)]
    with run_record(out, "density", config, reads=reads, writes=[*cubes[1:], numbers, *pages]) as record:
        fields = []  # before the references, which may take minutes each: what the model refuses needs none
        for k, atoms in enumerate(frames):
            try:
                fields.append(density_of(atoms))
            except VibronicError as error:
                raise VibronicError(f"{_where(structures, k, frames)}: {error}") from error
        references = _references(reference, method, frames)
        rows, drawn = [], []
        for k, (atoms, field) in enumerate(track(list(zip(frames, fields, strict=True)), "Densities", transient=True)):
            try:
                found = analyse(atoms, field.at, level, references[k])
                values = box(atoms, field.at, spacing, margin)
            except VibronicError as error:
                raise VibronicError(f"{_where(structures, k, frames)}: {error}") from error
            write_cube(cubes[k], atoms, values, f"electron density, e/Bohr^3, at points (no averages), {model}")
            rows.append(_row(cubes[k], atoms, found, values))
            if known is not None and known.endswith(".cube"):
                rows[-1][ON_POINTS] = _nmae_on_cube(Path(known), atoms, field.at)
            if report is not None:
                drawn.append((atoms, rows[-1], field.at))
        write_json(numbers, {"units": UNITS, "reference": _named(reference, method), "molecules": rows})
        record["molecules"] = len(frames)
        if report is not None:
            _page(Path(report), model, drawn)
    for row in rows:
        _tell(row)
    say(f"numbers: {numbers}")
    if report is not None:
        say(f"report: {report}")
    return Path(cubes[0])


Reference = Callable[["np.ndarray"], "np.ndarray"]


def _where(structures: str, k: int, frames: list[Atoms]) -> str:
    return f"{structures}, structure {k}" if len(frames) > 1 else structures


def _method(network: Model, reference: str | None, settings: dict[str, Setting] | None) -> dict[str, Any] | None:
    """Settings of PySCF: what is given, over those of the densities that the model learned from."""
    from vibronic.labelling import engines

    if reference is None or reference.endswith(".cube"):
        if settings:
            raise VibronicError("--settings are of PySCF; they need --reference dft, or a file with density matrices")
        return None
    basis = getattr(network, "basis", "6-31G*")
    given = {"xc": "PBE", "basis": basis, "fitting": "def2-universal-jfit", "grid": 1, **(settings or {})}
    return engines.engine("pyscf", **given).settings


def _named(reference: str | None, method: dict[str, Any] | None) -> str | None:
    """What the densities are compared with."""
    if reference != "dft" or method is None:
        return reference
    return (
        f"{method['xc']}/{method['basis']} (PySCF, fitting {method['fitting'] or 'none'}, grid level {method['grid']})"
    )


def _references(reference: str | None, method: dict[str, Any] | None, frames: list[Atoms]) -> list[Reference | None]:
    """A reference density for each molecule, where it can be asked anywhere."""
    import numpy as np

    from vibronic.data import sources
    from vibronic.data.dataset import label_of
    from vibronic.fields.analysis import read_cube, same_molecule
    from vibronic.fields.samples import density_of_matrix

    if reference is None:
        return [None] * len(frames)
    if reference.endswith(".cube"):
        if len(frames) > 1:
            raise VibronicError(f"{reference} is of one molecule, and there are {len(frames)}; give one of them")
        same_molecule(frames[0], read_cube(Path(reference))[0], reference)
        return [None]
    assert method is not None
    if reference == "dft":
        from vibronic.fields.density import checked
        from vibronic.labelling import engines

        labelled = [checked(atoms).copy() for atoms in frames]
        for atoms in labelled:
            solver = engines.engine("pyscf", **method).calculator()
            atoms.info["density_matrix"] = solver.get_property("density_matrix", atoms)
    else:
        labelled = sources.structures(reference)
        if len(labelled) != len(frames):
            raise VibronicError(f"{reference} has {len(labelled)} structures, and there are {len(frames)} molecules")
    for k, (atoms, other) in enumerate(zip(frames, labelled, strict=True)):
        same_molecule(atoms, other, f"{reference}, structure {k}")
        matrix = label_of(other, "density_matrix")
        if matrix is None or not np.isfinite(matrix).all():
            raise VibronicError(
                f"{reference}, structure {k}, has no 'density_matrix' of finite numbers to compare with"
            )
    return [partial(density_of_matrix, other, basis=method["basis"]) for other in labelled]


def _nmae_on_cube(path: Path, atoms: Atoms, field: Reference) -> float:
    """Percent of the electrons, on the points of a cube file: only so much is known of its density."""
    import numpy as np

    from vibronic.fields.analysis import read_cube, resampled

    known = read_cube(path)[1]
    difference = np.abs(resampled(field, known).values - known.values).sum() * abs(np.linalg.det(known.steps))
    return float(100 * difference / atoms.numbers.sum())


def _row(path: Path, atoms: Atoms, found: Analysis, values: Box) -> dict[str, Any]:
    import numpy as np

    row = {
        "file": path.name,
        "formula": atoms.get_chemical_formula(),
        "electrons": found.electrons,
        "cube_sum_not_electrons": values.point_sum,
        "dipole [e Angstrom]": [float(x) for x in found.dipole],
        "dipole [Debye]": float(np.linalg.norm(found.dipole)) * conversion("e Angstrom", "Debye"),
        "charges": [float(q) for q in found.charges],
        "lowest": found.lowest,
        "electrons_of_negative_part": found.negative,
    }
    return row if found.nmae is None else {**row, ALL_SPACE: found.nmae}


def _tell(row: dict[str, Any]) -> None:
    dipole = ", ".join(f"{x:.4f}" for x in row["dipole [e Angstrom]"])
    error = "".join(f", {words} {row[key]:.2f} %" for key, words in NMAE.items() if key in row)
    say(
        f"{row['formula']}: {row['electrons']:.4f} electrons, dipole ({dipole}) e Angstrom = {row['dipole [Debye]']:.3f} "
        f"Debye{error}: {row['file']} (its points sum to {row['cube_sum_not_electrons']:.2f}; cores are narrower than a step)"
    )


def _page(path: Path, model: str, drawn: list[tuple[Atoms, dict[str, Any], Reference]]) -> None:
    """Isosurfaces of each density and of its difference from free atoms, the numbers and the charges."""
    from vibronic.fields.analysis import box, box_shape
    from vibronic.fields.atoms import promolecule
    from vibronic.report.html import Report
    from vibronic.report.volume import POINTS, Volume

    page = Report("Electron density", f"Predicted by {model}, molecule by molecule")
    for atoms, row, field in drawn:
        spacing = 0.2
        while box_shape(atoms, spacing, margin=2.5).prod() > POINTS:
            spacing *= 1.05
        values = box(atoms, field, spacing, margin=2.5)
        free = box(atoms, partial(promolecule, atoms), spacing, margin=2.5)
        page.section(row["formula"])
        surface = [(0.3, "#5b8cc9", "0.3 e/Angstrom^3")]
        caption = "Electron density: the surface at 0.3 e/Angstrom^3."
        page.crystal(atoms, caption, volume=Volume(values.origin, values.steps, values.values, surface))
        level = 0.08
        surfaces = [(level, "#2b7bba", f"+{level} e/Angstrom^3"), (-level, "#c8503c", f"-{level} e/Angstrom^3")]
        difference = Volume(values.origin, values.steps, values.values - free.values, surfaces)
        caption = (
            "What bonding moves: the density minus that of free, spherical atoms. Electrons gather where it is blue (bonds, "
            "lone pairs) and leave where it is red."
        )
        page.crystal(atoms, caption, volume=difference)
        quantities = [
            ["electrons, all space", row["electrons"]],
            [
                "sum over the points of the cube file: not the electrons, cores are narrower than a step",
                row["cube_sum_not_electrons"],
            ],
            ["dipole, Debye", row["dipole [Debye]"]],
            ["electrons of the negative part", row["electrons_of_negative_part"]],
        ]
        quantities += [[f"{words}, % of the electrons", row[key]] for key, words in NMAE.items() if key in row]
        page.table(["quantity", "value"], quantities, "Integrals of the density.")
        rows = [[k, symbol, q] for k, (symbol, q) in enumerate(zip(atoms.symbols, row["charges"], strict=True))]
        page.table(["atom", "element", "charge, e"], rows, "Hirshfeld charges, with free PBE/6-31G* atoms.")
    page.write(path)
