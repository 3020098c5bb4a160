"""Force constants of a supercell: from an engine, from files, and the normal modes they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from vibronic.core.errors import VibronicError
from vibronic.core.units import HBAR, KB, THZ
from vibronic.sampling.sampler import progress_bar

if TYPE_CHECKING:
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

Statistics = Literal["quantum", "classical"]

NO_RESTORING_FORCE = 0.01
"""Modes below this frequency (THz) have no restoring force: their harmonic amplitude is meaningless."""


@dataclass(frozen=True)
class Modes:
    """The 3N - 3 normal modes of a supercell; the three translations are left out.

    Attributes:
        frequencies: (M,) THz, ascending; negative where imaginary.
        vectors: (3N, M) orthonormal eigenvectors of the mass-weighted force constants, as columns.
    """

    frequencies: np.ndarray
    vectors: np.ndarray

    @property
    def unstable(self) -> np.ndarray:
        """(M,) bool: imaginary, or without a restoring force."""
        return self.frequencies < NO_RESTORING_FORCE

    def describe(self) -> str:
        """How many modes are imaginary and how low they go, as part of a sentence."""
        count = int(self.unstable.sum())
        if count == 0:
            return "no mode is imaginary"
        verb = "mode is" if count == 1 else "modes are"
        return (
            f"{count} of {len(self.frequencies)} {verb} imaginary or without restoring force, "
            f"down to {self.frequencies[0]:.2f} THz"
        )


@dataclass(frozen=True)
class BandStructure:
    """Dispersion along a path: ``distance`` (Q,) 1/Angstrom, ``frequencies`` (Q, 3n) THz, labelled ``ticks``."""

    distance: np.ndarray
    frequencies: np.ndarray
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class DensityOfStates:
    """``frequencies`` (K,) THz and ``density`` (K,) modes per THz and primitive cell."""

    frequencies: np.ndarray
    density: np.ndarray


@dataclass
class ForceConstants:
    """Second derivatives of the energy of a supercell.

    Attributes:
        unitcell: the crystal.
        supercell: N atoms, in phonopy's order (atoms of the unit cell outermost).
        supercell_matrix: (3, 3) integers, phonopy's convention (columns: ``supercell = (unitcell.T @ matrix).T``).
        array: (N, N, 3, 3) eV/Angstrom^2, all pairs of the supercell.
        nac: phonopy's parameters of the non-analytical term (Born charges, dielectric tensor), used for the dispersion
            only: at the wave vectors commensurate with the supercell, all that a sample contains, it vanishes.
        primitive_matrix: phonopy's, or "auto".
        findings: plain sentences on where the force constants come from and how good they are.
    """

    unitcell: Atoms
    supercell: Atoms
    supercell_matrix: np.ndarray
    array: np.ndarray
    nac: dict[str, Any] | None = None
    primitive_matrix: np.ndarray | str = "auto"
    findings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.supercell)
        if self.array.shape != (n, n, 3, 3):
            raise VibronicError(
                f"force constants of {n} atoms must have the shape ({n}, {n}, 3, 3), not {self.array.shape}; "
                "check that the supercell is the one they were computed for"
            )
        if not np.isfinite(self.array).all():
            raise VibronicError("the force constants contain values that are not numbers; compute or read them again")

    def phonopy(self) -> Phonopy:
        """A Phonopy object with these force constants, for everything phonopy can do."""
        phonopy = build_phonopy(self.unitcell, self.supercell_matrix, self.primitive_matrix)
        phonopy.force_constants = self.array
        if self.nac is not None:
            phonopy.nac_params = cast(Any, self.nac)
        return phonopy

    def modes(self) -> Modes:
        """Normal modes of the supercell (D = M^-1/2 Phi M^-1/2), the translations projected out exactly.

        Projecting them out imposes the acoustic sum rule; phonons of every commensurate wave vector are contained.
        """
        n = 3 * len(self.supercell)
        mass = np.repeat(self.supercell.get_masses(), 3)
        matrix = self.array.transpose(0, 2, 1, 3).reshape(n, n) / np.sqrt(np.outer(mass, mass))
        translations = np.tile(np.eye(3), (len(self.supercell), 1)) * np.sqrt(mass / mass[::3].sum())[:, None]
        projector = np.eye(n) - translations @ translations.T
        matrix = projector @ (matrix + matrix.T) @ projector / 2
        # Lifting the translations above the spectrum separates them from soft modes to machine precision.
        lift = 2 * np.linalg.norm(matrix) + 1
        values, vectors = np.linalg.eigh(matrix + lift * translations @ translations.T)
        return Modes(np.sign(values[:-3]) * np.sqrt(np.abs(values[:-3])) * THZ, vectors[:, :-3])

    def band_structure(self, npoints: int = 200) -> BandStructure:
        """Dispersion along ASE's standard path of the primitive cell, ``npoints`` in all."""
        from ase.cell import Cell
        from ase.dft.kpoints import parse_path_string

        phonopy = self.phonopy()
        cell = Cell(phonopy.primitive.cell)
        path = cell.bandpath(npoints=0)
        segments = [s for part in parse_path_string(path.path) for s in pairwise(part)]
        ends = [(path.special_points[a], path.special_points[b]) for a, b in segments]
        lengths = [float(np.linalg.norm((b - a) @ cell.reciprocal())) for a, b in ends]
        counts = [max(2, round(npoints * length / sum(lengths))) for length in lengths]
        bands = phonopy.run_band_structure([np.linspace(a, b, k) for (a, b), k in zip(ends, counts)])
        starts = np.cumsum([0.0, *lengths])
        ticks: list[tuple[float, str]] = []
        for (first, last), start, end in zip(segments, starts, starts[1:]):
            if not ticks:
                ticks.append((float(start), first))
            elif ticks[-1][1] != first:
                ticks[-1] = (float(start), f"{ticks[-1][1]}|{first}")
            ticks.append((float(end), last))
        distance = np.concatenate([np.linspace(s, e, k) for s, e, k in zip(starts, starts[1:], counts)])
        return BandStructure(distance, np.concatenate(bands.frequencies), ticks)

    def density_of_states(self, mesh: int | tuple[int, int, int] = 20) -> DensityOfStates:
        """Phonon density of states on a ``mesh`` of wave vectors by the tetrahedron method."""
        phonopy = self.phonopy()
        phonopy.run_mesh([mesh] * 3 if isinstance(mesh, int) else mesh, is_gamma_center=True)
        dos = phonopy.run_total_dos()
        return DensityOfStates(np.array(dos.frequency_points), np.array(dos.dos))


def mode_variances(frequencies: np.ndarray, temperature: float, statistics: Statistics) -> np.ndarray:
    """Variance of the mass-weighted normal-mode amplitudes in thermal equilibrium.

    Quantum: ``hbar / (2 omega) coth(hbar omega / 2 k T)``, classical: ``k T / omega^2`` (Maradudin et al., Theory of
    Lattice Dynamics in the Harmonic Approximation, 1971, eq. 2.4.24).

    Args:
        frequencies: (M,) THz, positive.
        temperature: K; 0 leaves the zero-point motion (quantum) or nothing (classical).
        statistics: "quantum" or "classical".

    Returns:
        (M,) amu Angstrom^2.

    Raises:
        VibronicError: the temperature is negative or the statistics unknown.
    """
    if not (np.isfinite(temperature) and temperature >= 0):
        raise VibronicError(f"the temperature must be a number of kelvins of at least 0, not {temperature}")
    omega = np.asarray(frequencies) / THZ
    if statistics == "classical":
        return KB * temperature / omega**2
    if statistics == "quantum":
        return HBAR / (2 * omega) / (np.tanh(HBAR * omega / (2 * KB * temperature)) if temperature > 0 else 1.0)
    raise VibronicError(f"unknown statistics '{statistics}': choose quantum or classical")


def thermal_displacements(
    force_constants: ForceConstants, temperature: float, statistics: Statistics = "quantum"
) -> np.ndarray:
    """Analytic mean-square displacement matrices <u u^T> of every atom of the supercell, (N, 3, 3) in Angstrom^2.

    Raises:
        VibronicError: there are modes without a finite amplitude.
    """
    modes = force_constants.modes()
    if modes.unstable.any():
        raise VibronicError(
            f"{modes.describe()}, so the harmonic thermal displacements do not exist; use effective force constants"
        )
    n = len(force_constants.supercell)
    e = modes.vectors.reshape(n, 3, -1)
    variances = mode_variances(modes.frequencies, temperature, statistics)
    return np.einsum("iam,m,ibm->iab", e, variances, e) / force_constants.supercell.get_masses()[:, None, None]


def force_constants(
    atoms: Atoms,
    supercell: tuple[int, int, int] | np.ndarray,
    calculator: Calculator,
    displacement: float = 0.01,
    progress: bool = True,
) -> ForceConstants:
    """Force constants by finite displacements, as few as the symmetry of the crystal allows.

    Args:
        atoms: the unit cell; it should be relaxed (see ``relax``), but is taken as it is.
        supercell: repetitions along the three lattice vectors, or a (3, 3) integer matrix.
        calculator: any ASE calculator.
        displacement: Angstrom.
        progress: show a progress bar on standard error.

    Raises:
        VibronicError: the crystal is not periodic, the request makes no sense, or the engine returns no numbers.
    """
    if displacement <= 0:
        raise VibronicError(f"the displacement must be positive, not {displacement} Angstrom")
    phonopy = build_phonopy(atoms, supercell)
    if len(phonopy.supercell) < 2:
        raise VibronicError(
            "one atom in the supercell has no vibrations; repeat the cell, for example --supercell 2 2 2"
        )
    phonopy.generate_displacements(distance=displacement)
    cells = [phonopy.supercell, *(phonopy.supercells_with_displacements or [])]
    described = f"Force constants, {len(cells)} calculations of {len(phonopy.supercell)} atoms"
    with progress_bar(progress) as bar:
        forces = [engine_forces(to_ase(cell), calculator) for cell in bar.track(cells, description=described)]
    # Forces that the reference itself feels are no response to the displacement.
    phonopy.forces = np.array(forces[1:]) - forces[0]
    phonopy.produce_force_constants(show_drift=False)
    phonopy.symmetrize_force_constants(use_symfc_projector=True, show_drift=False)
    residual = float(np.abs(forces[0]).max())
    findings = [f"force constants from {len(cells) - 1} displacements of {displacement} Angstrom"]
    if residual > 0.05:
        findings.append(f"the reference is not relaxed: forces up to {residual:.2f} eV/Angstrom; consider --relax")
    return from_phonopy(phonopy, findings)


def engine_forces(atoms: Atoms, calculator: Calculator) -> np.ndarray:
    """Forces (N, 3) in eV/Angstrom; an engine that returns anything but numbers is an error told in one sentence."""
    atoms.calc = calculator
    forces = atoms.get_forces()
    if not np.isfinite(forces).all():
        raise VibronicError(f"the engine returned forces that are not numbers for {atoms.symbols}")
    return forces


def force_r2(array: np.ndarray, displacements: np.ndarray, forces: np.ndarray) -> float:
    """Share of the variance of ``forces`` (n, N, 3) that the harmonic forces of ``displacements`` (n, N, 3) explain."""
    residual = forces + np.einsum("ijab,njb->nia", array, displacements, optimize=True)
    return 1 - float((residual**2).sum() / (forces**2).sum())


def repeat(unitcell: Atoms, repeats: tuple[int, int, int]) -> Atoms:
    """The supercell of a crystal in phonopy's order of atoms, as force constants have it."""
    from phonopy.structure.cells import get_supercell

    return to_ase(get_supercell(to_phonopy(unitcell), supercell_matrix(repeats)))


def build_phonopy(unitcell: Atoms, matrix: Any, primitive_matrix: Any = "auto") -> Phonopy:
    from phonopy import Phonopy
    from phonopy.structure.cells import guess_primitive_matrix

    cell = to_phonopy(unitcell)
    if isinstance(primitive_matrix, str) and primitive_matrix == "auto":
        primitive_matrix = guess_primitive_matrix(cell)
    return Phonopy(cell, supercell_matrix(matrix), primitive_matrix=primitive_matrix)


def to_phonopy(unitcell: Atoms) -> PhonopyAtoms:
    from phonopy.structure.atoms import PhonopyAtoms

    if unitcell.cell.rank < 3:
        raise VibronicError(
            "phonons need a crystal with three lattice vectors; a molecule can be sampled by rattle or md"
        )
    return PhonopyAtoms(
        symbols=unitcell.get_chemical_symbols(),
        cell=unitcell.cell.array,
        scaled_positions=unitcell.get_scaled_positions(),
        masses=unitcell.get_masses(),
    )


def supercell_matrix(repeats: Any) -> np.ndarray:
    """(3, 3) integers, from three repeats or from such a matrix."""
    matrix = np.array(repeats)
    if matrix.shape == (3,):
        matrix = np.diag(matrix)
    if matrix.shape != (3, 3) or not np.issubdtype(matrix.dtype, np.integer) or round(np.linalg.det(matrix)) < 1:
        raise VibronicError("the supercell must be three positive integers or a 3 x 3 integer matrix, such as 2 2 2")
    return matrix


def to_ase(cell: PhonopyAtoms) -> Atoms:
    return Atoms(cell.symbols, scaled_positions=cell.scaled_positions, cell=cell.cell, masses=cell.masses, pbc=True)


def from_phonopy(phonopy: Phonopy, findings: list[str]) -> ForceConstants:
    from phonopy.harmonic.force_constants import compact_fc_to_full_fc

    array = np.array(phonopy.force_constants)
    if array.shape[0] != array.shape[1]:
        array = compact_fc_to_full_fc(phonopy.primitive, array)
    return ForceConstants(
        unitcell=to_ase(phonopy.unitcell),
        supercell=to_ase(phonopy.supercell),
        supercell_matrix=np.array(phonopy.supercell_matrix),
        array=np.array(array),
        nac=cast(Any, phonopy.nac_params),
        primitive_matrix=np.array(phonopy.primitive_matrix),
        findings=findings,
    )
