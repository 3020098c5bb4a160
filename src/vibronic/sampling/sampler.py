"""The contract of every sampler, and what all of them share: requests, snapshots, rejection, displacements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.neighbors import neighbor_list

if TYPE_CHECKING:
    from rich.progress import Progress


CLOSEST = 0.65
"""Share of the shortest bond below which no pair should come: engines fail there and thermal motion does not go."""


class Sampler(Protocol):
    """Turns one supercell at its reference positions into ``n`` configurations of it."""

    def sample(self, atoms: Atoms, n: int, seed: int) -> list[Atoms]:
        """``n`` configurations with the cell and atom order of ``atoms``.

        Positions are reference + displacement (never wrapped); ``info`` holds ``method``, ``temperature_K`` (where
        there is one), ``seed`` and ``parent``. The same seed gives the same configurations.
        """
        ...


def check_request(atoms: Atoms, n: int, seed: int) -> None:
    """Refuse what no sampler can do."""
    if len(atoms) < 2:
        raise VibronicError("a sampler needs at least two atoms: with one, every displacement is a translation")
    if n < 1:
        raise VibronicError(f"the number of configurations must be at least 1, not {n}")
    if seed < 0:
        raise VibronicError(f"the seed must not be negative, got {seed}")


def provenance(atoms: Atoms, method: str, seed: int, **extra: Any) -> dict[str, Any]:
    """The ``info`` of a snapshot of ``atoms``."""
    parent = atoms.info.get("parent", atoms.get_chemical_formula(empirical=True))
    return {"method": method, "seed": seed, "parent": parent, **extra}


def snapshots_from(atoms: Atoms, displacements: np.ndarray, info: dict[str, Any]) -> list[Atoms]:
    """Copies of ``atoms`` displaced by ``displacements`` (n, N, 3), each with its own copy of ``info``."""
    bare = Atoms(cell=atoms.cell, pbc=atoms.pbc, numbers=atoms.numbers, positions=atoms.positions)
    if atoms.has("masses"):
        bare.set_masses(atoms.get_masses())
    snapshots = []
    for displacement in displacements:
        snapshot = bare.copy()
        snapshot.positions += displacement
        snapshot.info = dict(info)
        snapshots.append(snapshot)
    return snapshots


def draw_accepted(
    atoms: Atoms, n: int, min_distance: float | None, draw: Callable[[int], np.ndarray]
) -> tuple[np.ndarray, float]:
    """Draw until ``n`` displacements keep every distance above ``min_distance``.

    Args:
        atoms: the reference.
        n: accepted draws wanted.
        min_distance: Angstrom; ``None`` accepts everything.
        draw: ``draw(k)`` gives displacements (k, g, N, 3): ``g`` displacements that stand or fall together.

    Returns:
        Displacements (n, g, N, 3) and the rejected share of the draws.

    Raises:
        VibronicError: fewer than one draw in fifty is accepted, or none could be.
    """
    if min_distance is None:
        return draw(n), 0.0
    if min_distance > 1.2 * (shortest := shortest_pair(atoms)[0]):
        raise VibronicError(
            f"no configuration keeps all distances above {min_distance:g} Angstrom: those of the reference begin at "
            f"{shortest:.2f}; lower the minimum distance"
        )
    accepted: list[np.ndarray] = []
    drawn = 0
    trial = atoms.copy()
    while len(accepted) < n:
        for group in draw(max(n - len(accepted), 10)):
            drawn += 1
            close = False
            for displacement in group:
                trial.positions = atoms.positions + displacement
                close = close or len(neighbor_list(trial, min_distance)[0]) > 0
            if not close:
                accepted.append(group)
            if len(accepted) == n:
                break
        if drawn >= 50 * (len(accepted) + 1) + 100:
            raise VibronicError(
                f"only {len(accepted)} of {drawn} configurations keep all distances above {min_distance} Angstrom; "
                "lower the minimum distance, the temperature or the amplitude"
            )
    return np.array(accepted), 1.0 - n / drawn


def displacements_of(snapshots: Sequence[Atoms], reference: Atoms) -> np.ndarray:
    """Displacements (n, N, 3) in Angstrom from ``reference``, nearest image, centre of mass at rest.

    Raises:
        VibronicError: there are no snapshots, or one has other atoms than the reference.
    """
    from ase.geometry import find_mic

    if not snapshots:
        raise VibronicError("there are no snapshots to compare with the reference")
    if any(not np.array_equal(s.numbers, reference.numbers) for s in snapshots):
        raise VibronicError(
            f"the snapshots do not have the atoms of the reference {reference.symbols} in the same order; "
            "give the supercell they were drawn from"
        )
    difference = np.array([s.positions - reference.positions for s in snapshots])
    if reference.pbc.any():
        # A rigid drift of more than half a cell would fold atoms apart, so it goes first.
        difference -= np.median(difference, axis=1, keepdims=True)
        difference = find_mic(difference.reshape(-1, 3), reference.cell, reference.pbc)[0].reshape(difference.shape)
    masses = reference.get_masses()[:, None]
    return difference - (masses * difference).sum(axis=1, keepdims=True) / masses.sum()


def shortest_pair(atoms: Atoms) -> tuple[float, str]:
    """Shortest distance (Angstrom) between two atoms, periodic images included, and the pair, such as "Cl-Na".

    Raises:
        VibronicError: there is no pair within 100 Angstrom.
    """
    cutoff = 2.0
    while cutoff < 100:
        i, j, shift = neighbor_list(atoms, cutoff)
        if len(i):
            r = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shift @ atoms.cell.array, axis=1)
            k = int(r.argmin())
            return float(r[k]), "-".join(sorted((atoms.symbols[i[k]], atoms.symbols[j[k]])))
        cutoff *= 1.5
    raise VibronicError("no two atoms are within 100 Angstrom of each other; check the structure")


def progress_bar(show: bool) -> Progress:
    """A progress bar on standard error that leaves no trace, and none at all where nobody watches."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (show and console.is_terminal))


def sentence(text: str) -> str:
    """A finding as a sentence."""
    return text[0].upper() + text[1:].rstrip(".") + "."
