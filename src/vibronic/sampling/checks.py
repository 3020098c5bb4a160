"""Do the configurations mean what they should? Amplitudes, distances, supercell size, coverage of the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import chemical_symbols

from vibronic.core.batch import Batch
from vibronic.core.environments import environments
from vibronic.core.errors import VibronicError
from vibronic.sampling.harmonic import Statistics, force_constants, thermal_displacements
from vibronic.sampling.phonons import Phonons, match_atoms
from vibronic.sampling.sampler import CLOSEST, displacements_of, shortest_pair

MANY = 20
"""Configurations from which a standard error can be estimated well enough to speak of a disagreement."""

FORCE_RANGE = 4.5
"""Angstrom; the shells that bind a crystal, with its largest force constants, lie within it. A supercell that is not twice
as wide folds them onto each other."""


def mean_square_displacements(snapshots: Sequence[Atoms], reference: Atoms) -> dict[str, float]:
    """Species -> <u_x^2> in Angstrom^2: per Cartesian component, about the reference, centre of mass at rest.

    Raises:
        VibronicError: the snapshots are not of ``reference``.
    """
    return {species: mean for species, (mean, _) in _component_statistics(snapshots, reference).items()}


def statistical_inefficiency(values: Sequence[float] | np.ndarray, trajectories: int = 1) -> float:
    """How many consecutive ``values`` (n,) of a trajectory count as one independent value, at least 1.

    g = 1 + 2 sum_k (1 - k/n) rho_k up to the first autocorrelation rho_k that is not positive, beyond which there is
    only noise (Chodera et al., J. Chem. Theory Comput. 3, 26 (2007)). Several ``trajectories`` take turns in ``values``;
    deviations are from their common mean, so what stays in one of them all its length counts too.
    """
    deviation = np.asarray(values, dtype=float) - np.mean(values)
    square = float(deviation @ deviation)
    if square == 0:
        return 1.0
    n = -(-len(deviation) // trajectories)
    terms = np.zeros(n - 1)  # (1 - k/n) rho_k for k = 1, 2, ...
    for one in (deviation[k::trajectories] for k in range(min(trajectories, len(deviation)))):
        terms[: len(one) - 1] += np.correlate(one, one, "full")[len(one) :] / square
    first = int(np.argmax(terms <= 0)) if (terms <= 0).any() else n
    return 1.0 + 2.0 * float(terms[:first].sum())


def standard_error(values: Sequence[float] | np.ndarray, inefficiency: float = 1.0) -> float:
    """Standard error of the mean of ``values`` (n,), in their unit; NaN for fewer than two.

    Args:
        values: one number per configuration.
        inefficiency: g; n values count as n / g independent ones (``statistical_inefficiency``).
    """
    if len(values) < 2:
        return float("nan")
    return float(np.std(values, ddof=1) * np.sqrt(inefficiency / len(values)))


def minimum_distance(snapshots: Sequence[Atoms]) -> float:
    """Shortest distance between two atoms in all snapshots, Angstrom."""
    return min(shortest_pair(snapshot)[0] for snapshot in snapshots)


def check_snapshots(snapshots: Sequence[Atoms], reference: Atoms, phonons: Phonons | None = None) -> list[str]:
    """Plain sentences on amplitudes per species, on the shortest distance and, with ``phonons``, on the agreement.

    The analytic value belongs to the same treatment of imaginary modes and the same selection of modes; the error is
    the standard error of the mean over snapshots, for which pairs +u, -u count once and consecutive snapshots of
    dynamics as often as they are independent; how often that is, is said too.

    Raises:
        VibronicError: the snapshots are not of ``reference``.
    """
    findings = []
    symbols = np.array(reference.get_chemical_symbols())
    analytic = None
    if phonons is not None:
        matrices = phonons.thermal_displacements()[match_atoms(phonons.force_constants.supercell, reference)]
        analytic = np.trace(matrices, axis1=1, axis2=2) / 3
    for species, (mean, error) in _component_statistics(snapshots, reference).items():
        # The two members of a pair +u, -u have the same squares: only one of them is a measurement.
        error *= np.sqrt(2) if phonons is not None and phonons.plus_minus else 1
        sentence = f"{species}: <u_x^2> is {mean:.5f} +/- {error:.5f} Angstrom^2"
        if phonons is not None and analytic is not None:
            expected = float(analytic[symbols == species].mean())
            # A standard error from few configurations is no judge.
            off = len(snapshots) >= MANY and abs(mean - expected) > 4 * error + 1e-9
            sentence += f", the harmonic value {expected:.5f}" + (
                ": more than four standard errors apart, because of rejected draws or another temperature"
                if off
                else ""
            )
        findings.append(sentence + ".")
    if _is_dynamics(snapshots):
        findings.append(independent_snapshots(snapshots, reference))
    shortest, pair, index = min((*shortest_pair(s), k) for k, s in enumerate(snapshots))
    before = shortest_pair(reference)[0]
    advice = "; redraw with a minimum distance" if shortest < CLOSEST * before else ""
    findings.append(
        f"The shortest distance is {shortest:.2f} Angstrom ({pair}, configuration {index}); the reference has "
        f"{before:.2f}{advice}."
    )
    return findings


def check_supercell(atoms: Atoms, cutoff: float = FORCE_RANGE) -> list[str]:
    """A sentence if force constants of range ``cutoff`` (Angstrom) do not fit into the supercell, else nothing.

    A finding and not an error: force constants of a small supercell are exact for its commensurate wave vectors, they
    only interpolate badly between them and leave longer waves out; neighbour lists are correct in any cell.
    """
    if atoms.cell.rank < 3:
        return []
    width = float((1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)).min())
    if width >= 2 * cutoff:
        return []
    return [
        f"The supercell is {width:.1f} Angstrom wide at its narrowest, less than twice the range of {cutoff:g} "
        "Angstrom: atoms feel their own images, so compare with a larger supercell."
    ]


def supercell_convergence(
    atoms: Atoms,
    calculator: Calculator,
    temperature: float,
    sizes: Sequence[tuple[int, int, int]],
    statistics: Statistics = "quantum",
) -> dict[tuple[int, int, int], dict[str, float]]:
    """Size -> species -> <u_x^2> (Angstrom^2), analytic, from the force constants of each supercell of ``atoms``.

    Raises:
        VibronicError: a supercell has imaginary modes.
    """
    result = {}
    for size in sizes:
        constants = force_constants(atoms, size, calculator, progress=False)
        component = np.trace(thermal_displacements(constants, temperature, statistics), axis1=1, axis2=2) / 3
        symbols = np.array(constants.supercell.get_chemical_symbols())
        result[size] = {str(s): float(component[symbols == s].mean()) for s in np.unique(symbols)}
    return result


def coverage(
    training: Sequence[Atoms], target: Sequence[Atoms], cutoff: float = 5.0, quantile: float = 0.95
) -> dict[str, float]:
    """Share of the target's atomic environments that the training set covers, per species and for "all" atoms.

    An environment is covered if its distance to the nearest training environment of the same species is below the
    ``quantile`` of the distances that training environments have to their own nearest neighbour in other training
    configurations. A set covers an independent draw from its own distribution to about ``quantile``.

    Args:
        training: at least two configurations.
        target: typically molecular dynamics at the temperature of interest.
        cutoff: Angstrom, of an environment.
        quantile: of the training set's own distances.

    Raises:
        VibronicError: too few configurations, or species in the target that are absent from the training set.
    """
    from scipy.spatial import cKDTree

    if len(training) < 2 or not target:
        raise VibronicError("coverage needs at least two training configurations and one target configuration")
    species = sorted({int(z) for s in training for z in s.numbers})
    strangers = {chemical_symbols[z] for s in target for z in s.numbers if z not in species}
    if strangers:
        raise VibronicError(f"the target contains {', '.join(sorted(strangers))}, which the training set does not")
    known = [_environments(s, species, cutoff) for s in training]
    asked = [_environments(s, species, cutoff) for s in target]
    covered: dict[str, np.ndarray] = {}
    for z in species:
        parts = [x[s.numbers == z] for x, s in zip(known, training)]
        points = np.concatenate([x[s.numbers == z] for x, s in zip(asked, target)])
        if len(points) == 0:
            continue
        owner = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        cloud = np.concatenate(parts)
        own = [cKDTree(cloud[owner != k]).query(part)[0] for k, part in enumerate(parts)]
        limit = np.quantile(np.concatenate(own), quantile)
        covered[chemical_symbols[z]] = cKDTree(cloud).query(points)[0] <= limit
    shares = {symbol: float(inside.mean()) for symbol, inside in covered.items()}
    return {"all": float(np.concatenate(list(covered.values())).mean()), **shares}


def _environments(atoms: Atoms, species: Sequence[int], cutoff: float) -> np.ndarray:
    batch = Batch.from_atoms(atoms, cutoff, dtype=torch.float64)
    return environments(batch, torch.tensor(species), cutoff).numpy()


def _component_statistics(snapshots: Sequence[Atoms], reference: Atoms) -> dict[str, tuple[float, float]]:
    """Species -> mean and standard error of <u_x^2> over the snapshots."""
    squared = (displacements_of(snapshots, reference) ** 2).mean(axis=2)
    dynamics = _is_dynamics(snapshots)
    symbols = np.array(reference.get_chemical_symbols())
    result = {}
    for species in np.unique(symbols):
        values = squared[:, symbols == species].mean(axis=1)
        result[str(species)] = (
            float(values.mean()),
            standard_error(values, statistical_inefficiency(values) if dynamics else 1.0),
        )
    return result


def _is_dynamics(snapshots: Sequence[Atoms]) -> bool:
    return all(s.info.get("method") == "md" for s in snapshots)


def independent_snapshots(snapshots: Sequence[Atoms], reference: Atoms) -> str:
    """How many independent ones the ordered snapshots of one trajectory count as."""
    results = [getattr(s.calc, "results", {}) for s in snapshots]
    if all("energy" in r for r in results):
        quantity, values = "potential energy", np.array([r["energy"] for r in results])
    else:
        squared = displacements_of(snapshots, reference) ** 2
        quantity, values = "mean-square displacement", squared.sum(axis=2).mean(axis=1)
    n = len(snapshots)
    count = max(1, round(n / statistical_inefficiency(values)))
    advice = "; a longer --interval decorrelates them" if count < n else ""
    return f"The {n} snapshots count as at most {count} independent ones ({quantity}){advice}."
