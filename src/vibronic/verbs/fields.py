"""The verb ``density``: the electron density of molecules, as cube files, numbers and a page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibronic.core.errors import VibronicError
from vibronic.core.progress import track
from vibronic.core.provenance import run_record, write_json
from vibronic.core.units import conversion
from vibronic.verbs.common import Setting, say

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from vibronic.core.model import Model
    from vibronic.fields.analysis import Box


ALL_SPACE, ON_POINTS = "nmae_all_space [%]", "nmae_on_cube_points [%]"
NMAE = {ALL_SPACE: "NMAE over all space", ON_POINTS: "NMAE on the points of the reference cube"}
"""Sums of the absolute difference from the reference: over all space, or only where a cube file knows it."""

UNITS = {
    "electrons": "e, integral over all space on atom-centred grids",
    "cube_sum_not_electrons": "e, sum over the points of the cube file: no integral, cores are narrower than a step",
    "charges": "e (Hirshfeld)",
    "lowest": "e/Angstrom^3",
    ALL_SPACE: "% of the electrons, integral of the absolute difference on atom-centred grids",
    ON_POINTS: "% of the electrons, sum of the absolute difference over the points of the cube; cores are not resolved",
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
    ... It holds point values, whose sum is not the count of electrons: cores are narrower than a step. The numbers go
    to rho.json: electrons, dipole and charges, integrated over all space on atom-centred grids.

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
    from vibronic.data import sources
    from vibronic.fields.analysis import box, check_box, numbered, write_cube
    from vibronic.fields.quadrature import check_level
    from vibronic.learning import store
    from vibronic.verbs.learning import _files

    check_level(level)
    check_box(spacing, margin)
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
    known = reference if reference != "dft" else None
    reads = [structures, known, *_files(model)]
    with run_record(out, "density", config, reads=reads, writes=[*cubes[1:], numbers, *pages]) as record:
        comparisons = _comparisons(reference, method, frames)
        rows: list[dict[str, Any]] = []
        drawn = []
        try:
            for k, atoms in enumerate(track(frames, "Densities")):
                row: dict[str, Any] = {"structure": k, "formula": atoms.get_chemical_formula()}
                rows.append(row)
                try:
                    field = density_of(atoms)
                    if remark := getattr(field, "remark", ""):
                        row["remark"] = remark
                    values = box(atoms, field.at, spacing, margin)
                    write_cube(cubes[k], atoms, values, f"electron density, e/Bohr^3, at points (no averages), {model}")
                    row["file"] = cubes[k].name
                    _measure(row, atoms, field.at, values, level, comparisons[k])
                except VibronicError as error:
                    row["error"] = str(error)
                if "electrons" in row:
                    drawn.append((atoms, row, field.at))
        finally:  # whatever ends it, nothing is lost that was computed
            if any("file" in row for row in rows):
                write_json(numbers, {"units": UNITS, "reference": _named(reference, method), "molecules": rows})
        failed = [row for row in rows if "error" in row]
        if not any("file" in row for row in rows):
            raise VibronicError(_failures(structures, failed, rows))
        record["molecules"], record["failed"] = len(frames), len(failed)
        if report is not None:
            _page(Path(report), model, drawn)
    for _, row, _ in drawn:
        _tell(row)
    for remark in sorted({row["remark"] for row in rows if "remark" in row}):
        say(f"note: {remark}")
    say(f"numbers: {numbers}")
    if report is not None:
        say(f"report: {report}")
    if failed:
        raise VibronicError(f"{_failures(structures, failed, rows)}; all that was computed is kept, see {numbers}")
    return Path(cubes[0])


Reference = Callable[["np.ndarray"], "np.ndarray"]
Comparison = Callable[[Reference, int], dict[str, float]]
"""From a density and the level of a grid to its difference from a reference, by name."""


def _measure(
    row: dict[str, Any], atoms: Atoms, field: Reference, values: Box, level: int, compare: Comparison | None
) -> None:
    """Fill the row of a molecule step by step, so that it holds what was found before a failure."""
    import numpy as np

    from vibronic.fields.analysis import analyse

    row["cube_sum_not_electrons"] = values.point_sum
    found = analyse(atoms, field, level)
    row |= {
        "electrons": found.electrons,
        "dipole [e Angstrom]": [float(x) for x in found.dipole],
        "dipole [Debye]": float(np.linalg.norm(found.dipole)) * conversion("e Angstrom", "Debye"),
        "charges": [float(q) for q in found.charges],
        "lowest": found.lowest,
        "electrons_of_negative_part": found.negative,
    }
    if compare is not None:
        row |= compare(field, level)


def _failures(structures: str, failed: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """The first failure, and how many there are."""
    first = failed[0]
    where = f"{structures}, structure {first['structure']}" if len(rows) > 1 else structures
    others = f"; {len(failed) - 1} more of {len(rows)} failed" if len(failed) > 1 else ""
    return f"{where}: {first['error']}{others}"


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


def _comparisons(reference: str | None, method: dict[str, Any] | None, frames: list[Atoms]) -> list[Comparison | None]:
    """How the density of each molecule is compared. Files are read and checked here; DFT waits until it is asked."""
    from vibronic.data import sources
    from vibronic.fields.analysis import read_cube, same_molecule
    from vibronic.fields.samples import molecule_in_basis, unpacked

    if reference is None:
        return [None] * len(frames)
    if reference.endswith(".cube"):
        if len(frames) > 1:
            raise VibronicError(f"{reference} is of one molecule, and there are {len(frames)}; give one of them")
        labelled, known = read_cube(Path(reference))
        same_molecule(frames[0], labelled, reference)
        return [partial(_on_cube, known, frames[0])]
    assert method is not None
    if reference == "dft":
        return [partial(_with_dft, method, atoms) for atoms in frames]
    others = sources.structures(reference)
    if len(others) != len(frames):
        raise VibronicError(f"{reference} has {len(others)} structures, and there are {len(frames)} molecules")
    for k, (atoms, other) in enumerate(zip(frames, others, strict=True)):
        same_molecule(atoms, other, f"{reference}, structure {k}")
        try:
            unpacked(other, molecule_in_basis(other, method["basis"]).nao, method["basis"])
        except VibronicError as error:
            raise VibronicError(f"{reference}, structure {k}: {error}") from error
    return [partial(_with_matrix, method["basis"], other) for other in others]


def _with_dft(method: dict[str, Any], atoms: Atoms, field: Reference, level: int) -> dict[str, float]:
    """Compare with a calculation."""
    from vibronic.fields.density import checked
    from vibronic.labelling import engines

    labelled = checked(atoms).copy()
    solver = engines.engine("pyscf", **method).calculator()
    labelled.info["density_matrix"] = solver.get_property("density_matrix", labelled)
    return _with_matrix(method["basis"], labelled, field, level)


def _with_matrix(basis: str, labelled: Atoms, field: Reference, level: int) -> dict[str, float]:
    """Compare with a density matrix."""
    from vibronic.fields.quadrature import nmae
    from vibronic.fields.samples import density_of_matrix

    return {ALL_SPACE: nmae(field, partial(density_of_matrix, labelled, basis=basis), labelled, level)}


def _on_cube(known: Box, atoms: Atoms, field: Reference, level: int) -> dict[str, float]:
    """Compare on the points of a cube file: only so much is known of its density."""
    import numpy as np

    from vibronic.fields.analysis import resampled

    difference = np.abs(resampled(field, known).values - known.values).sum() * abs(np.linalg.det(known.steps))
    return {ON_POINTS: float(100 * difference / atoms.numbers.sum())}


def _tell(row: dict[str, Any]) -> None:
    dipole = ", ".join(f"{x:.4f}" for x in row["dipole [e Angstrom]"])
    error = "".join(f", {words} {row[key]:.2f} %" for key, words in NMAE.items() if key in row)
    say(
        f"{row['formula']}: {row['electrons']:.4f} electrons, dipole ({dipole}) e Angstrom = "
        f"{row['dipole [Debye]']:.3f} Debye{error}: {row['file']} (its points sum to "
        f"{row['cube_sum_not_electrons']:.2f}; cores are narrower than a step)"
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
        if "remark" in row:
            page.note(row["remark"])
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
