"""How far a generated crystal is from a minimum of energy: relaxation with an engine that is passed in."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator

from vibronic.core.errors import VibronicError
from vibronic.core.progress import track
from vibronic.crystals.matching import distinct
from vibronic.crystals.validity import structural_validity
from vibronic.data.cells import Composition, reduced_composition

UNITS = {
    "energy_before": "eV/atom",
    "energy_after": "eV/atom",
    "relax_rmsd": "Angstrom",
    "relax_volume_ratio": "1",
    "energy_above_reference": "eV/atom",
}
"""Of the columns that :func:`relaxation` gives."""


_RATTLE = 0.01  # Angstrom


def relaxation(structures: Sequence[Atoms], calculator: Calculator, **settings: Any) -> list[dict[str, Any]]:
    """What :func:`relaxed` says of each crystal."""
    return [row for _, row in relaxed(structures, calculator, **settings)]


def relaxed(
    structures: Sequence[Atoms],
    calculator: Calculator,
    max_steps: int = 200,
    fmax: float = 0.05,
    lowest: Mapping[str, float] | None = None,
    progress: bool = True,
) -> list[tuple[Atoms, dict[str, Any]]]:
    """Relax positions and cell of each crystal, without symmetry (atoms start 0.01 Angstrom off), and say how far it went; failures are
    recorded.

    Args:
        structures: not changed.
        calculator: ASE calculator with energy, forces and stress; one for all.
        max_steps: of FIRE, which is slower than LBFGS near a minimum and gets away better from where generators start.
        fmax: eV/Angstrom, largest force left; the cell's generalised forces obey it too.
        lowest: formula -> lowest energy per atom (eV/atom) known at that composition, by the same engine (:func:`envelope`). No hull: that a
            crystal may fall apart into others is not seen.
        progress: show a bar.

    Returns:
        Each crystal, relaxed where that worked and else as it was, with one flat dict: ``energy_before``, ``energy_after`` (eV/atom), ``relax_rmsd`` (Angstrom, see :func:`rmsd`),
        ``relax_volume_ratio`` (relaxed to generated), ``relax_converged``, ``energy_above_reference`` (eV/atom, negative below
        the envelope; None where the composition is not in ``lowest`` or it did not converge) and ``relax_error`` (why there are no numbers, or None).

    Raises:
        VibronicError: ``fmax`` or ``max_steps`` is not positive.
    """
    if not fmax > 0 or max_steps < 1:
        raise VibronicError(
            f"relaxing takes a positive fmax and at least one step, not {fmax} eV/Angstrom and {max_steps}"
        )
    floors = {reduced_composition(Atoms(formula).numbers): energy for formula, energy in (lowest or {}).items()}
    return [_row(atoms, calculator, max_steps, fmax, floors) for atoms in track(structures, "Relaxing", progress)]


def envelope(
    reference: Sequence[Atoms],
    like: Sequence[Atoms],
    calculator: Calculator,
    most: int = 5,
    progress: bool = True,
    **settings: Any,
) -> dict[str, float]:
    """Lowest relaxed energies (eV/atom) of the reference by formula, as ``lowest`` of :func:`relaxed` takes them.

    Args:
        reference: real crystals.
        like: those of the compositions of these alone count.
        calculator: the one that ``like`` is relaxed with.
        most: crystals of one composition that are relaxed, those of the lowest energies as they are.
        settings: of :func:`relaxed`.
    """
    known: dict[Composition, list[Atoms]] = {reduced_composition(atoms.numbers): [] for atoms in like}
    for atoms in reference:
        if (composition := reduced_composition(atoms.numbers)) in known and structural_validity(atoms):
            known[composition].append(atoms)
    chosen = []
    for group in track(list(known.values()), "Energies of the reference", progress):
        group = [group[k] for k in distinct(group)] if len(group) > most else group
        energies = [_energy(atoms, calculator) for atoms in group] if len(group) > most else [0.0] * len(group)
        chosen += [group[k] for k in np.argsort(energies, kind="stable")[:most]]
    lowest: dict[str, float] = {}
    for atoms, row in relaxed(chosen, calculator, progress=progress, **settings):
        if row["relax_converged"]:
            formula = atoms.get_chemical_formula(empirical=True)
            lowest[formula] = min(lowest.get(formula, np.inf), row["energy_after"])
    return lowest


def _energy(atoms: Atoms, calculator: Calculator) -> float:
    """eV/atom as it is; infinite where the engine fails."""
    try:
        return float(calculator.get_potential_energy(atoms.copy())) / len(atoms)
    except Exception:  # of foreign code
        calculator.reset()
        return np.inf


def _row(
    atoms: Atoms, calculator: Calculator, max_steps: int, fmax: float, floors: Mapping[Composition, float]
) -> tuple[Atoms, dict[str, Any]]:
    row: dict[str, Any] = dict.fromkeys(UNITS) | {"relax_converged": False, "relax_error": None}
    if not structural_validity(atoms):
        return atoms, row | {"relax_error": "overlapping atoms or no cell"}
    try:
        moved, before, converged = _relax(atoms, calculator, max_steps, fmax)
        after = moved.get_potential_energy()
    except Exception as error:  # of foreign code on unphysical structures: one of them must not end the rest
        calculator.reset()  # or it would take the crystal that it failed on for one that it knows
        said = f"{error}" if isinstance(error, VibronicError) else f"{type(error).__name__}: {error}"
        return atoms, row | {"relax_error": " ".join(said.split())[:200]}
    if not (np.isfinite(after) and structural_validity(moved)):
        return atoms, row | {"relax_error": "the relaxation ran away"}
    floor = floors.get(reduced_composition(atoms.numbers))
    return moved, row | {
        "energy_before": before / len(atoms),
        "energy_after": after / len(atoms),
        "relax_rmsd": rmsd(atoms, moved),
        "relax_volume_ratio": float(moved.get_volume() / atoms.get_volume()),
        "relax_converged": converged,
        "energy_above_reference": after / len(atoms) - floor if converged and floor is not None else None,
    }


def _relax(atoms: Atoms, calculator: Calculator, max_steps: int, fmax: float) -> tuple[Atoms, float, bool]:
    """The relaxed crystal with its results, its energy before (eV), and whether ``fmax`` was reached."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    moved = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True, info=atoms.info)
    moved.calc = calculator
    before = float(moved.get_potential_energy())
    moved.rattle(_RATTLE, seed=0)  # or an exactly symmetric crystal could never leave a saddle point
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", RuntimeWarning
        )  # a cell that runs away overflows, which is told from its result
        with FIRE(cast(Any, FrechetCellFilter(moved)), logfile=cast(Any, None)) as optimiser:
            converged = bool(optimiser.run(fmax=fmax, steps=max_steps))
    results = {name: moved.calc.results[name] for name in ("energy", "forces", "stress")}
    moved.calc = SinglePointCalculator(moved, **results)  # the next crystal has the same engine
    return moved, before, converged


def rmsd(generated: Atoms, relaxed: Atoms) -> float:
    """Root-mean-square displacement (Angstrom) of the atoms between two states of one crystal, in the same order.

    Displacements are differences of fractional coordinates, shortest images, without their mean (no origin counts), times
    the relaxed cell: a change of the cell alone is none.

    Raises:
        VibronicError: the atoms are not the same.
    """
    if reduced_composition(generated.numbers) != reduced_composition(relaxed.numbers) or len(generated) != len(relaxed):
        raise VibronicError("displacements need the same atoms before and after")
    moved = _fractional(relaxed) - _fractional(generated)
    moved -= moved[0]  # first the drift of one atom, so that the mean is not taken over different images
    moved -= np.round(moved)
    moved -= moved.mean(axis=0)
    return float(np.sqrt(((moved @ relaxed.cell.array) ** 2).sum(axis=1).mean()))


def _fractional(atoms: Atoms) -> np.ndarray:
    return atoms.positions @ np.linalg.inv(atoms.cell.array)
