"""A predicted density as the start of a PySCF calculation.

    network, _ = vibronic.learning.store.load("qdf-density")
    mol = gto.M(atom="molecule.xyz", basis="6-31G*")
    mf = dft.RKS(mol, xc="PBE")
    mf.diis_start_cycle = 0  # the first matrix is good enough to extrapolate from
    mf.kernel(dm0=initial_density_matrix(network.density_of(structure(mol)), mol, xc="PBE"))

The Kohn-Sham matrix of the predicted density is built once: its Coulomb part from integrals over its Gaussians, its
exchange-correlation part on a grid. Its occupied orbitals are the start, so that any basis set will do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.units import Bohr

from vibronic.core.errors import VibronicError
from vibronic.fields.atoms import free_atom
from vibronic.fields.expansion import RANGES, START, GaussianDensity

GRID = 1
"""Level of PySCF's grid: the start needs no finer one."""

_POINTS = 8_000


def initial_density_matrix(density: GaussianDensity, mol: Any, xc: str = "PBE") -> np.ndarray:
    """(nao, nao) density matrix to start ``kernel(dm0=...)`` of a restricted calculation from.

    Args:
        density: of the molecule, from a model's ``density_of``; its atoms must be those of ``mol``.
        mol: PySCF's molecule, in any basis.
        xc: functional of the one matrix that is built. Exact exchange needs orbitals, which a density has not, so PBE
            stands in for hybrids; PBE or LDA for functionals of the kinetic-energy density.

    Raises:
        VibronicError: the molecule is charged, has unpaired electrons, or other atoms than the density.
    """
    from pyscf import dft

    if mol.charge or mol.spin:
        raise VibronicError(
            "the density is of a neutral closed-shell molecule, and this one is charged or has unpaired electrons"
        )
    there = (
        mol.atom_charges().shape == density.atoms.numbers.shape and (mol.atom_charges() == density.atoms.numbers).all()
    )
    if not there or np.abs(mol.atom_coords() * Bohr - density.atoms.positions).max() > 1e-3:
        raise VibronicError(
            "the density is of another molecule or geometry than mol, or its atoms are in another order"
        )
    solver = dft.RKS(mol, xc=xc)
    integrator = solver._numint
    if integrator.libxc.is_hybrid_xc(xc) or integrator._xc_type(xc) not in ("LDA", "GGA"):
        xc = "PBE"
    matrix = solver.get_hcore() + coulomb(density, mol) + _exchange_correlation(density, mol, xc)
    energies, orbitals = solver.eig(matrix, solver.get_ovlp())
    return solver.make_rdm1(orbitals, solver.get_occ(energies, orbitals))


def structure(mol: Any) -> Atoms:
    """PySCF's molecule as a structure, to predict its density."""
    atoms = Atoms(mol.atom_charges(), mol.atom_coords() * Bohr)
    atoms.info = {"charge": mol.charge, "spin": mol.spin}
    return atoms


def coulomb(density: GaussianDensity, mol: Any) -> np.ndarray:
    """(nao, nao) Coulomb matrix of a density, Hartree, from three-centre integrals over its Gaussians, atom by atom."""
    from pyscf import df

    packed = np.zeros(mol.nao * (mol.nao + 1) // 2)
    for a in range(mol.natm):
        fitting, coefficients = _as_basis(density, a, mol.atom_coord(a))
        packed += df.incore.aux_e2(mol, fitting, "int3c2e", aosym="s2ij") @ coefficients
    matrix = np.zeros((mol.nao, mol.nao))
    matrix[np.tril_indices(mol.nao)] = packed
    return matrix + np.tril(matrix, -1).T


def _as_basis(density: GaussianDensity, a: int, place: np.ndarray) -> tuple[Any, np.ndarray]:
    """The part of the density on one atom as functions of a PySCF basis and their coefficients."""
    from pyscf import gto

    z = int(density.atoms.numbers[a])
    exponents, values = free_atom(z)
    shells: list[list] = []
    coefficients: list[float] = []
    for exponent, value in zip(exponents * Bohr**2, values * Bohr**3):
        shells.append([0, [float(exponent), 1.0]])
        coefficients.append(float(value * np.sqrt(4 * np.pi) / gto.gto_norm(0, exponent)))
    # PySCF sorts shells by momentum, and these are; within one momentum they keep their order.
    for degree, (low, high) in enumerate(RANGES[z < 3]):
        for k in range(low, high):
            exponent = START * Bohr**2 * 2.0**k
            shells.append([degree, [exponent, 1.0]])
            block = density.coefficients[a, k, degree**2 : (degree + 1) ** 2].numpy()
            coefficients += (block * Bohr ** (3 + degree) / gto.gto_norm(degree, exponent)).tolist()
    symbol = chemical_symbols[z]
    basis = gto.M(atom=[[symbol, tuple(place)]], basis={symbol: shells}, unit="Bohr", spin=None, verbose=0)
    return basis, np.array(coefficients)


def _exchange_correlation(density: GaussianDensity, mol: Any, xc: str) -> np.ndarray:
    """(nao, nao) matrix of the exchange-correlation potential of a density, Hartree."""
    from pyscf import dft

    grids = dft.gen_grid.Grids(mol)
    grids.level = GRID
    grids.build()
    integrator = dft.numint.NumInt()
    kind = integrator._xc_type(xc)
    matrix = np.zeros((mol.nao, mol.nao))
    for k in range(0, len(grids.weights), _POINTS):
        points, weights = grids.coords[k : k + _POINTS], grids.weights[k : k + _POINTS]
        value, slope = density.with_gradient(points * Bohr)
        positive = value > 1e-9
        rho = np.vstack([np.where(positive, value, 0) * Bohr**3, np.where(positive[:, None], slope, 0).T * Bohr**4])
        rho = rho[0] if kind == "LDA" else rho
        potential = integrator.eval_xc_eff(xc, rho, deriv=1, xctype=kind)[1] * weights
        potential[0] *= 0.5  # the sum with the transpose counts it twice
        functions = integrator.eval_ao(mol, points, deriv=0 if kind == "LDA" else 1)
        functions = functions[None] if kind == "LDA" else functions
        half = functions[0].T @ np.einsum("xpi,xp->pi", functions, potential)
        matrix += half + half.T
    return matrix
