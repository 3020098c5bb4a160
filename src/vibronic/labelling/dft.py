"""Thin ASE calculators around GPAW (crystals) and PySCF (molecules) that also give the band edges.

Every structure starts from scratch, so its label does not depend on what the same worker labelled before.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.units import Bohr, Hartree

from vibronic.core.errors import VibronicError


class PlaneWaveDFT(Calculator):
    """Plane-wave PAW calculation with GPAW: energy (extrapolated to zero width), forces, stress and band edges.

    ``vbm`` and ``cbm`` are Kohn-Sham eigenvalues on the given k mesh, eV, relative to the average electrostatic
    potential of the cell; a metal has both at the Fermi level or overlapping, and ``band_gap`` 0. ``eigenvalues`` are
    all that were computed, k point after k point (of one spin, then the other), ascending in each; those far above
    the gap are not converged.

    Args:
        settings: ``xc``; ``ecut``, plane-wave cutoff, eV; ``kpts``, Gamma-centred mesh; ``width``, Fermi-Dirac, eV.
    """

    implemented_properties = [  # noqa: RUF012 - as ASE declares it
        *("energy", "free_energy", "forces", "stress"),
        *("band_gap", "vbm", "cbm", "eigenvalues"),
    ]

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self._dft: Any = None

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Converge the density when the structure is new; the stress, which costs extra, only when asked for."""
        super().calculate(atoms, properties, system_changes)
        if system_changes or self._dft is None:
            self._dft = self._new()
        structure = self.atoms.copy()
        dft = self._dft
        self.results["energy"] = dft.get_potential_energy(structure)
        self.results["free_energy"] = dft.get_potential_energy(structure, force_consistent=True)
        self.results["forces"] = dft.get_forces(structure)
        if "stress" in (properties or ()):
            self.results["stress"] = dft.get_stress(structure)
        if "eigenvalues" in (properties or ()):
            spins, points = range(dft.get_number_of_spins()), range(len(dft.get_ibz_k_points()))
            self.results["eigenvalues"] = np.concatenate([dft.get_eigenvalues(k, s) for s in spins for k in points])
        vbm, cbm = self._edges()
        self.results.update(vbm=vbm, cbm=cbm, band_gap=max(0.0, cbm - vbm))

    def _new(self) -> Any:
        data = importlib.util.find_spec("gpaw_data")
        if "GPAW_SETUP_PATH" not in os.environ and data is not None and data.origin is not None:
            os.environ["GPAW_SETUP_PATH"] = str(Path(data.origin).parent / "setups")
        from gpaw import GPAW

        # The estimated dE/decut corrects the stress for the basis that changes with the cell: without it 400 eV is
        # too little for a stress (Ag3SBr: wrong sign at 350 eV).
        return GPAW(
            mode={"name": "pw", "ecut": self.settings["ecut"], "dedecut": "estimate"},
            xc=self.settings["xc"],
            kpts={"size": self.settings["kpts"], "gamma": True},
            occupations={"name": "fermi-dirac", "width": self.settings["width"]},
            symmetry="off",
            txt=None,
        )

    def _edges(self) -> tuple[float, float]:
        electrons = round(float(self._dft.get_number_of_electrons()))
        if electrons % 2 and self._dft.get_number_of_spins() == 1:
            # A half-filled band: GPAW's HOMO and LUMO would be those of one electron more or less.
            fermi = float(self._dft.get_fermi_level())
            return fermi, fermi
        vbm, cbm = self._dft.get_homo_lumo()
        return float(vbm), float(cbm)


class MolecularDFT(Calculator):
    """Kohn-Sham DFT of a molecule with PySCF; unrestricted when electrons are unpaired.

    ``info["charge"]`` (default 0) and ``info["spin"]`` (number of unpaired electrons, default 0 or 1 by parity) of the
    structure are used. ``density_matrix`` is that of both spins in PySCF's order of the basis functions, the rows of its
    lower triangle one after another, to 1e-7.

    Args:
        settings: ``xc`` and ``basis``, names as PySCF knows them, a basis with its effective cores; ``fitting``,
            auxiliary basis for the Coulomb energy (density fitting; empty for none); ``grid``, level of the
            exchange-correlation grid from 1 to 9.
    """

    implemented_properties = ["energy", "forces", "dipole", "homo", "lumo", "density_matrix"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.settings = settings
        self._converged: Any = None

    def calculate(
        self, atoms: Atoms | None = None, properties: list[str] | None = None, system_changes: list[str] = all_changes
    ) -> None:
        """Converge when the structure is new; forces, which cost extra, only when asked for.

        Raises:
            VibronicError: the structure is periodic, its spin does not fit, the basis lacks an element, or the SCF does
                not converge.
        """
        super().calculate(atoms, properties, system_changes)
        if system_changes or self._converged is None:
            self._converged = self._solve()
        field = self._converged
        energies, occupations = np.atleast_2d(field.mo_energy), np.atleast_2d(field.mo_occ)
        empty = energies[occupations == 0]
        self.results.update(
            energy=float(field.e_tot) * Hartree,
            dipole=np.asarray(field.dip_moment(unit="AU", verbose=0)) * Bohr,
            homo=float(energies[occupations > 0].max()) * Hartree,
            lumo=float(empty.min()) * Hartree if empty.size else np.nan,
        )
        if "forces" in (properties or ()):
            self.results["forces"] = -field.nuc_grad_method().kernel() * Hartree / Bohr
        if "density_matrix" in (properties or ()):
            total = np.asarray(field.make_rdm1()).reshape(-1, field.mol.nao, field.mol.nao).sum(0)
            self.results["density_matrix"] = np.round(total[np.tril_indices(len(total))], 7) + 0.0  # no -0.0

    def _solve(self) -> Any:
        from pyscf import dft, gto

        atoms = self.atoms
        if atoms.pbc.any():
            raise VibronicError("the engine 'pyscf' labels molecules; use 'gpaw' for a periodic structure")
        charge = int(atoms.info.get("charge", 0))
        electrons = int(atoms.numbers.sum()) - charge
        spin = int(atoms.info.get("spin", electrons % 2))
        if spin % 2 != electrons % 2 or not 0 <= spin <= electrons:
            raise VibronicError(f"{electrons} electrons cannot leave {spin} unpaired; correct 'charge' or 'spin'")
        basis, elements = self.settings["basis"], sorted(set(atoms.get_chemical_symbols()))
        for kind, name in (("basis", basis), ("fitting", self.settings["fitting"])):
            missing = [e for e in elements if name and not _has(name, e)]
            if missing:
                raise VibronicError(
                    f"PySCF has no {kind} {name} for {', '.join(missing)}; choose another with --settings.{kind} "
                    "(the def2 sets go up to Rn)"
                )
        geometry = list(zip(atoms.get_chemical_symbols(), atoms.positions.tolist()))
        # A basis of valence orbitals, as def2-SVP from Rb on, means nothing without the potential of its cores.
        cores = {e: basis for e in elements if gto.basis.load_ecp(basis, e)}
        mol = gto.M(atom=geometry, basis=basis, ecp=cores, charge=charge, spin=spin, unit="Angstrom", verbose=0)
        field = (dft.UKS if spin else dft.RKS)(mol, xc=self.settings["xc"])
        if self.settings["fitting"]:
            field = field.density_fit(auxbasis=self.settings["fitting"])
        field.grids.level = self.settings["grid"]
        field.run()
        if not field.converged:
            raise VibronicError(f"the self-consistent field did not converge in {field.max_cycle} cycles")
        return field


def _has(basis: str, element: str) -> bool:
    from pyscf import gto

    try:
        return bool(gto.basis.load(basis, element))
    except (RuntimeError, KeyError):  # an unknown basis, or one without the element
        return False
