"""Relaxation of positions and cell that keeps the symmetry of the crystal."""

from __future__ import annotations

from typing import Any, cast

from ase import Atoms
from ase.calculators.calculator import Calculator

from vibronic.core.errors import VibronicError


def relax(atoms: Atoms, calculator: Calculator, fmax: float = 1e-3, cell: bool = True, max_steps: int = 500) -> Atoms:
    """The nearest structure of the same symmetry without forces (and stress).

    Args:
        atoms: a crystal or a molecule; it is not changed.
        calculator: any ASE calculator with forces, and stress if the cell moves.
        fmax: eV/Angstrom, largest force left; the cell's generalised forces obey it too.
        cell: relax the lattice vectors of a crystal as well.
        max_steps: of the optimiser.

    Returns:
        A copy with the final energy, forces and stress attached.

    Raises:
        VibronicError: ``fmax`` is not reached within ``max_steps``.
    """
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter
    from ase.optimize import LBFGS

    if not fmax > 0:
        raise VibronicError(f"fmax must be positive, not {fmax} eV/Angstrom")
    crystal = atoms.cell.rank == 3 and atoms.pbc.all()
    relaxed = atoms.copy()
    relaxed.calc = calculator
    if crystal:
        relaxed.set_constraint(FixSymmetry(relaxed))
    target = FrechetCellFilter(relaxed) if crystal and cell else relaxed
    with LBFGS(cast(Any, target), logfile=cast(Any, None)) as optimiser:
        if not optimiser.run(fmax=fmax, steps=max_steps):
            residual = float((target.get_forces() ** 2).sum(axis=1).max() ** 0.5)
            raise VibronicError(
                f"{atoms.symbols} did not relax: forces of {residual:.3g} eV/Angstrom are left after {max_steps} steps "
                f"(wanted {fmax:g}); start from a better structure or allow more steps or a larger fmax"
            )
    relaxed.set_constraint()
    labels = {"energy": relaxed.get_potential_energy(), "forces": relaxed.get_forces()}
    if crystal and cell:
        labels["stress"] = relaxed.get_stress()
    relaxed.calc = SinglePointCalculator(relaxed, **labels)
    return relaxed
