"""Random displacements without lattice dynamics: the baseline that phonons have to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.neighbors import neighbor_list
from vibronic.sampling.sampler import check_request, displacements_of, draw_accepted, provenance, snapshots_from

Distribution = Literal["gaussian", "uniform-positive", "monte-carlo"]

SWEEPS = 20
"""Monte-Carlo moves of each atom."""
SOFTNESS = 0.1
"""Angstrom above the minimum distance over which a Monte-Carlo move becomes certain to be accepted."""


@dataclass
class Rattle:
    """Sampler: every atom displaced at random.

    Attributes:
        amplitude: Angstrom. "gaussian" and "monte-carlo": root-mean-square displacement of an atom, sqrt(<|u|^2>);
            "uniform-positive": the upper end A of U(0, A).
        distribution: "gaussian", isotropic, mean-free in every configuration; "uniform-positive", each coordinate
            + U(0, A) as in arXiv 2511.15222, which contains a rigid shift of A/2 along (1, 1, 1); "monte-carlo", a
            random walk of single-atom moves, each accepted with a probability that falls to zero at ``min_distance``
            (the idea of hiphive's mc_rattle, Eriksson, Fransson and Erhart, Adv. Theory Simul. 2, 1800184 (2019)).
        per_species: amplitudes of single species, in place of ``amplitude``.
        min_distance: Angstrom; "gaussian" and "uniform-positive" redraw configurations with a shorter distance and
            write the rejected share to ``info["rejected_share"]``; "monte-carlo" needs it.

    Raises:
        VibronicError: at construction, for an impossible setting.
    """

    amplitude: float
    distribution: Distribution = "gaussian"
    per_species: Mapping[str, float] | None = None
    min_distance: float | None = None

    def __post_init__(self) -> None:
        if self.distribution not in ("gaussian", "uniform-positive", "monte-carlo"):
            raise VibronicError(
                f"unknown distribution '{self.distribution}': choose gaussian, uniform-positive or monte-carlo"
            )
        if not all(np.isfinite(a) and a >= 0 for a in (self.amplitude, *(self.per_species or {}).values())):
            raise VibronicError("rattle amplitudes must be lengths of at least 0 Angstrom")
        if self.distribution == "monte-carlo" and self.min_distance is None:
            raise VibronicError("Monte-Carlo rattle needs a minimum distance, for example 0.75 of the shortest bond")

    def sample(self, atoms: Atoms, n: int, seed: int) -> list[Atoms]:
        """``n`` configurations of ``atoms``, a crystal or a molecule.

        Raises:
            VibronicError: the minimum distance cannot be kept, or a species of ``per_species`` is missing.
        """
        check_request(atoms, n, seed)
        rng = np.random.default_rng(seed)
        amplitudes = self._amplitudes(atoms)
        extra: dict[str, float] = {}
        if self.distribution == "monte-carlo":
            assert self.min_distance is not None
            u = _monte_carlo(atoms, n, amplitudes, self.min_distance, rng)
        else:
            sigma = amplitudes if self.distribution == "uniform-positive" else _before_centring(amplitudes)

            def draw(k: int) -> np.ndarray:
                if self.distribution == "uniform-positive":
                    return rng.uniform(size=(k, 1, len(atoms), 3)) * sigma[:, None]
                u = rng.standard_normal((k, 1, len(atoms), 3)) * sigma[:, None] / np.sqrt(3)
                return u - u.mean(axis=2, keepdims=True)

            accepted, rejected = draw_accepted(atoms, n, self.min_distance, draw)
            u = accepted[:, 0]
            if self.min_distance is not None:
                extra = {"rejected_share": rejected}
        # What was reached: close to the minimum distance, less than was asked for.
        reached = np.sqrt(((u - u.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean())
        amplitude = self.amplitude if self.distribution == "uniform-positive" else reached
        info = provenance(atoms, "rattle", seed, distribution=self.distribution, amplitude=float(amplitude), **extra)
        return snapshots_from(atoms, u, info)

    @classmethod
    def matched_to(
        cls,
        snapshots: Sequence[Atoms],
        reference: Atoms,
        per: Literal["overall", "species"] = "overall",
        distribution: Distribution = "gaussian",
        min_distance: float | None = None,
    ) -> Rattle:
        """The rattle with the mean-square displacement of ``snapshots``, over all atoms or species by species.

        Displacements count from the centre of mass, so the rigid shift that "uniform-positive" contains does not
        count as displacement: its A is chosen such that the atoms move relative to each other as much as asked for.

        Raises:
            VibronicError: the snapshots are not of ``reference``, or ``per`` is unknown.
        """
        if per not in ("overall", "species"):
            raise VibronicError(f"amplitudes are matched overall or per species, not '{per}'")
        squared = (displacements_of(snapshots, reference) ** 2).sum(axis=2).mean(axis=0)
        # U(0, A) has the variance A^2/12 per coordinate, of which the centring takes 1/N.
        scale = 2 * np.sqrt(len(reference) / (len(reference) - 1)) if distribution == "uniform-positive" else 1.0
        symbols = np.array(reference.get_chemical_symbols())
        species = None
        if per == "species":
            species = {str(s): float(scale * np.sqrt(squared[symbols == s].mean())) for s in np.unique(symbols)}
        return cls(float(scale * np.sqrt(squared.mean())), distribution, species, min_distance)

    def _amplitudes(self, atoms: Atoms) -> np.ndarray:
        symbols = atoms.get_chemical_symbols()
        missing = set(self.per_species or {}) - set(symbols)
        if missing:
            raise VibronicError(
                f"amplitude given for {', '.join(sorted(missing))}, which {atoms.symbols} does not contain"
            )
        return np.array([(self.per_species or {}).get(s, self.amplitude) for s in symbols])


def _before_centring(amplitudes: np.ndarray) -> np.ndarray:
    """Amplitudes (N,) to draw with, such that they are ``amplitudes`` once the mean displacement is removed.

    Removing the mean turns s_i^2 into s_i^2 (1 - 2/N) + sum_j s_j^2 / N^2.
    """
    n, wanted = len(amplitudes), amplitudes**2
    total = wanted.sum() / (1 - 1 / n)
    if n == 2 or np.ptp(wanted) == 0:
        return np.full(n, np.sqrt(total / n))
    return np.sqrt(np.maximum((wanted - total / n**2) / (1 - 2 / n), 0))


def _monte_carlo(
    atoms: Atoms, n: int, amplitudes: np.ndarray, min_distance: float, rng: np.random.Generator
) -> np.ndarray:
    """Random walks (n, N, 3) of single-atom moves that keep their distance."""
    from scipy.special import erf

    reach = min_distance + SOFTNESS + 10 * amplitudes.max(initial=0.0) / np.sqrt(3)
    i, j, shift = neighbor_list(atoms, reach)
    keep = i != j  # the distance of an atom to its own image is that of the lattice
    i, j, shift = i[keep], j[keep], shift[keep]
    vectors = atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array
    if len(vectors) and np.linalg.norm(vectors, axis=1).min() < min_distance:
        raise VibronicError(
            f"the reference itself has distances below {min_distance} Angstrom; lower the minimum distance"
        )
    pairs = [(j[i == a], vectors[i == a]) for a in range(len(atoms))]
    u = np.zeros((n, len(atoms), 3))
    for sweep in range(SWEEPS):
        # Rejected moves leave the walk behind; the remaining sweeps make up for them, species by species.
        missing = np.sqrt(np.maximum(amplitudes**2 - _reached(u, atoms.numbers), 0))
        steps = rng.standard_normal(u.shape) * _before_centring(missing)[:, None] / np.sqrt(3 * (SWEEPS - sweep))
        luck = rng.uniform(size=(n, len(atoms)))
        for a in rng.permutation(len(atoms)):
            others, reference = pairs[a]
            moved = u[:, a] + steps[:, a]
            if len(others):
                shortest = np.linalg.norm(reference + u[:, others] - moved[:, None], axis=2).min(axis=1)
                refused = luck[:, a] >= erf((shortest - min_distance) / SOFTNESS)
                moved[refused] = u[refused, a]
            u[:, a] = moved
    return u - u.mean(axis=1, keepdims=True)


def _reached(u: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mean-square displacement (N,) of the species of each atom in walks (n, N, 3), the mean of each walk removed."""
    squared = ((u - u.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).mean(axis=0)
    return np.array([squared[numbers == number].mean() for number in numbers])
