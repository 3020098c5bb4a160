"""A tight-binding Hamiltonian of a crystal, and the derivatives of its eigenvalues by its matrix elements.

s, p and d orbitals on atoms; Slater-Koster amplitudes that fall off exponentially with distance; on-site energies that every
neighbour shifts and splits, and that follow the electrostatic potential of effective charges. By the theorem of Hellmann and
Feynman the derivative of an eigenvalue is the expectation value of that of the Hamiltonian.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.properties import orbitals
from vibronic.properties.ewald import site_potentials

UNIT_LENGTH = 3.0
"""Angstrom; the distance at which an amplitude has the value that is fitted."""
DECAY, DECAY_D = 3.0, 1.0
"""First guess of the exponent per unit length, and what each d shell adds to it."""
SCALES = {"level": 2.0, "hopping": 0.5, "least": 0.05, "decay": 1.0, "field": 0.3, "charge": 0.3}
"""How far from their first guesses the fitted numbers are expected: eV, a share of the hopping with a least in eV, or elementary charges."""
FADE = 0.6
"""Share of the cutoff from which matrix elements fade out."""


@dataclass(frozen=True)
class Channel:
    """One amplitude: between shell ``l`` of element ``a`` and shell ``k`` of ``b``, or within shell ``l`` of ``a`` by a
    neighbour ``b`` (``k`` None), with ``m`` units of angular momentum about the bond."""

    a: int
    l: int
    b: int
    k: int | None
    m: int

    @property
    def crosses(self) -> bool:
        """Whether it joins two kinds of shells, so that its transpose has to be added."""
        return self.k is not None and (self.a, self.l) != (self.b, self.k)


@dataclass(frozen=True)
class Layout:
    """What is fitted for some ``elements``: an energy for each of ``shells`` (element, l), then an amplitude and an exponent for
    each of ``channels``, then what a unit charge on every element does to the orbitals of every element (a screened charge)."""

    elements: tuple[int, ...]
    shells: tuple[tuple[int, int], ...]
    channels: tuple[Channel, ...]

    def split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """On-site energies, amplitudes, exponents, and charges (elements, elements) of parameters (P,)."""
        n = len(self.elements)
        sizes = [len(self.shells), len(self.channels), len(self.channels), n * n]
        levels, amplitudes, exponents, charges = parameters.split(sizes)
        return levels, amplitudes, exponents, charges.view(n, n)

    def prior(self) -> tuple[np.ndarray, np.ndarray]:
        """First guesses (P,) and expected deviations (P,) from them."""
        levels = [orbitals.shells(z)[l] for z, l in self.shells]
        amplitudes, decays, widths = [], [], []
        for c in self.channels:
            if c.k is None:
                amplitudes.append(0.0)
                decays.append(DECAY)
                widths.append(SCALES["field"])
            else:
                amplitudes.append(orbitals.harrison(min(c.l, c.k), max(c.l, c.k), c.m, UNIT_LENGTH))
                decays.append(DECAY + DECAY_D * ((c.l == 2) + (c.k == 2)))
                widths.append(SCALES["hopping"] * abs(amplitudes[-1]) + SCALES["least"])
        charges = len(self.elements) ** 2
        spread = [SCALES["level"]] * len(levels) + widths + [SCALES["decay"]] * len(decays)
        return (
            np.array([*levels, *amplitudes, *decays, *[0.0] * charges]),
            np.array([*spread, *[SCALES["charge"]] * charges]),
        )


@cache
def layout(elements: tuple[int, ...]) -> Layout:
    """The layout of crystals of these elements (ascending atomic numbers).

    Raises:
        VibronicError: an element that has no valence shells here.
    """
    shells = tuple((z, l) for z in elements for l in orbitals.shells(z))
    hopping = [
        Channel(a, l, b, k, m) for a, l in shells for b, k in shells if (a, l) <= (b, k) for m in range(min(l, k) + 1)
    ]
    fields = [Channel(a, l, b, None, m) for a, l in shells for b in elements for m in range(l + 1)]
    return Layout(elements, shells, tuple(hopping + fields))


@dataclass
class Terms:
    """One structure, ready for a Hamiltonian of any parameters.

    A pair is a bond and a channel that acts along it; an entry is what a pair adds to one element of the matrix.

    Attributes:
        basis: of its elements.
        size: orbitals.
        valence: index of the highest band that holds electrons.
        conduction: of the lowest with room for one: the same, if the number of electrons is odd.
        level: (size,) which on-site energy an orbital has.
        element: (size,) which of the elements an orbital is on.
        site: (size, elements) electrostatic potential there of unit charges on each element, eV.
        channel: (M,) of every pair.
        x: (M,) its length less :data:`UNIT_LENGTH`, in units of it.
        shift: (M, 3) lattice translation, zero for an on-site channel.
        pair: (K,) of every entry; the first ``crossing`` entries are to be added transposed as well.
        place: (K,) row times ``size`` plus column.
        factor: (K,) what multiplies the amplitude of the pair.
        points: k points in units of the reciprocal vectors.
    """

    basis: Layout
    size: int
    valence: int
    conduction: int
    level: Tensor
    element: Tensor
    site: Tensor
    channel: Tensor
    x: Tensor
    shift: Tensor
    pair: Tensor
    place: Tensor
    factor: Tensor
    crossing: int
    points: list[Tensor]


def terms(
    batch: Batch,
    basis: Layout,
    cutoff: float,
    extent: Sequence[float],
    zero: Tensor | None = None,
    mesh: Sequence[int] | None = None,
) -> list[Terms]:
    """The geometry of every structure of a batch, in double precision; differentiable in positions.

    Args:
        batch: with neighbours within ``cutoff``.
        basis: of the elements that occur.
        cutoff: Angstrom.
        extent: Angstrom, along each lattice vector; see :func:`mesh_of`.
        zero: (elements, elements) potentials that count as none.
        mesh: k points of all structures, whatever ``extent`` says.

    Raises:
        VibronicError: no orbital of a structure is empty.
    """
    shells = basis.shells
    batch = batch.to(dtype=torch.float64)
    numbers = batch.numbers.tolist()
    sizes = [[2 * l + 1 for l in orbitals.shells(z)] for z in numbers]
    vectors = batch.edge_vectors()
    distance = torch.sqrt((vectors * vectors).sum(-1))
    fade = ((distance / cutoff - FADE) / (1 - FADE)).clamp(0.0, 1.0)
    presence = batch.weigh(0.5 * (1 + torch.cos(torch.pi * fade)))
    unit, x = vectors / distance[:, None], distance / UNIT_LENGTH - 1
    counts, edges = (
        batch.n_atoms.tolist(),
        torch.bincount(batch.edge_structure, minlength=batch.n_structures).tolist(),
    )
    tall = heights(batch.cell)
    kinds = torch.searchsorted(torch.tensor(basis.elements), batch.numbers)
    sites = site_potentials(batch, torch.tensor(basis.elements), cutoff)
    sites = sites if zero is None else sites - zero[kinds]
    found, atom, edge = [], 0, 0
    for s in range(batch.n_structures):
        mine = slice(edge, edge + edges[s])
        here = list(range(atom, atom + counts[s]))
        total = sum(orbitals.electrons(numbers[i]) for i in here)
        widths = torch.tensor([sum(sizes[i]) for i in here])
        size = int(widths.sum())
        if total // 2 >= size:
            raise VibronicError(
                f"tight-binding has no empty orbital here: {total} electrons fill all {size}; use another model"
            )
        start, level, place = torch.zeros(counts[s], 3, dtype=torch.long), [], 0
        for n, i in enumerate(here):
            for l, width in zip(orbitals.shells(numbers[i]), sizes[i], strict=True):
                start[n, l] = place
                level += [shells.index((numbers[i], l))] * width
                place += width
        i, j = batch.edge_index[:, mine] - atom
        z = batch.numbers[atom : atom + counts[s]]
        found.append(
            Terms(
                basis,
                size,
                (total - 1) // 2,
                total // 2,
                torch.tensor(level),
                torch.repeat_interleave(kinds[here], widths),
                torch.repeat_interleave(sites[here], widths, dim=0),
                *_entries(
                    basis,
                    (z[i], z[j]),
                    (start[i], start[j]),
                    size,
                    unit[mine],
                    presence[mine],
                    x[mine],
                    batch.edge_shift[mine],
                ),
                k_points(mesh or mesh_of(extent, tall[s].tolist())),
            )
        )
        atom, edge = atom + counts[s], edge + edges[s]
    return found


def _entries(
    basis: Layout,
    species: tuple[Tensor, Tensor],
    first: tuple[Tensor, Tensor],
    size: int,
    unit: Tensor,
    presence: Tensor,
    x: Tensor,
    shift: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, int]:
    """Pairs and entries of one structure; ``first`` (E, 3) are the first orbitals of the shells of both ends of a bond."""
    angular, back = orbitals.slater_koster(unit), orbitals.slater_koster(-unit)
    columns: list[list[Tensor]] = [[], [], []]
    pair, place, factor = [], [], []
    crossing = pairs = 0
    channels = sorted(enumerate(basis.channels), key=lambda item: not item[1].crosses)
    for n, c in channels:
        on = torch.nonzero((species[0] == c.a) & (species[1] == c.b)).squeeze(1)
        k, far = (c.l, first[0]) if c.k is None else (c.k, first[1])
        block = angular[c.l, k, c.m][on] if c.l <= k else back[k, c.l, c.m][on].transpose(1, 2)
        row = first[0][on, c.l, None] + torch.arange(2 * c.l + 1)
        column = far[on, k, None] + torch.arange(2 * k + 1)
        pair.append((pairs + torch.arange(len(on)))[:, None, None].expand(block.shape).reshape(-1))
        place.append((row[:, :, None] * size + column[:, None, :]).reshape(-1))
        factor.append((block * presence[on, None, None]).reshape(-1))
        # A neighbour shifts an on-site energy by the same at every k: no Bloch phase.
        for values, mine in zip(columns, (torch.full_like(on, n), x[on], shift[on] * (c.k is not None)), strict=True):
            values.append(mine)
        pairs += len(on)
        crossing += block.numel() * c.crosses
    channel, lengths, shifts = (torch.cat(values) for values in columns)
    # Half of the memory of a fit are these indices.
    small_pair, small_place = (torch.cat(values).to(torch.int32) for values in (pair, place))
    return channel, lengths, shifts, small_pair, small_place, torch.cat(factor), crossing


def _strength(t: Terms, parameters: Tensor, k: Tensor) -> Tensor:
    """(M,) matrix element of every pair, its Bloch phase included."""
    _, amplitude, decay, _ = t.basis.split(parameters)
    strength = amplitude[t.channel] * torch.exp(-decay[t.channel] * t.x)
    return strength * bloch(t.shift, k) if k.any() else strength


def hamiltonian(t: Terms, parameters: Tensor, k: Tensor) -> Tensor:
    """(size, size) Hermitian, real at Gamma."""
    values = _strength(t, parameters, k)[t.pair] * t.factor
    n, blank = t.crossing, values.new_zeros(t.size**2)
    crossing = blank.index_add(0, t.place[:n], values[:n]).view(t.size, t.size)
    within = blank.index_add(0, t.place[n:], values[n:]).view(t.size, t.size)
    levels, _, _, charges = t.basis.split(parameters)
    on_site = levels[t.level] + (charges[t.element] * t.site).sum(1)
    return within + crossing + crossing.mH + torch.diag(on_site)


def band_energies(t: Terms, parameters: Tensor) -> Tensor:
    """(size,) the highest energy of every occupied band over the mesh, and the lowest of every empty one, eV."""
    spectra = torch.stack([torch.linalg.eigvalsh(hamiltonian(t, parameters, k)) for k in t.points])
    return torch.cat([spectra[:, : t.conduction].amax(0), spectra[:, t.conduction :].amin(0)])


def derivatives(t: Terms, parameters: Tensor, bands: set[int]) -> tuple[dict[int, float], dict[int, np.ndarray]]:
    """Energies of these bands, as of :func:`band_energies`, and their derivatives (P,) by the parameters."""
    from scipy.linalg import eigh

    window = min(bands), max(bands)
    solved = [eigh(hamiltonian(t, parameters, k).numpy(), subset_by_index=window) for k in t.points]
    found, slopes = {}, {}
    for band in bands:
        n = band - window[0]
        energies = [energy[n] for energy, _ in solved]
        at = int(np.argmax(energies) if band < t.conduction else np.argmin(energies))
        found[band] = float(energies[at])
        slopes[band] = _expectation(t, parameters, torch.as_tensor(solved[at][1][:, n]), t.points[at])
    return found, slopes


def _expectation(t: Terms, parameters: Tensor, state: Tensor, k: Tensor) -> np.ndarray:
    """(P,) derivatives of the energy of a normalised ``state`` (size,), after Hellmann and Feynman."""
    levels, amplitude, decay, charges = t.basis.split(parameters)
    share = state.abs().square()
    by_level = torch.zeros_like(levels).index_add_(0, t.level, share)
    by_charge = torch.zeros_like(charges).index_add_(0, t.element, share[:, None] * t.site)
    row, column = t.place // t.size, t.place % t.size
    shared = state[row].conj() * state[column] * t.factor
    shared[: t.crossing] *= 2
    shared = shared.new_zeros(len(t.x)).index_add_(0, t.pair, shared)
    shared = (shared * bloch(t.shift, k)).real if k.any() else shared
    shared = shared * torch.exp(-decay[t.channel] * t.x)
    by_amplitude = torch.zeros_like(amplitude).index_add_(0, t.channel, shared)
    by_decay = -amplitude * torch.zeros_like(amplitude).index_add_(0, t.channel, shared * t.x)
    return torch.cat([by_level, by_amplitude, by_decay, by_charge.flatten()]).numpy()


def heights(cell: Tensor) -> Tensor:
    """(B, 3) distances between opposite faces of cells (B, 3, 3), Angstrom; 0 for a molecule."""
    volume = torch.linalg.det(cell).abs()
    across = torch.stack([torch.linalg.cross(cell[:, (k + 1) % 3], cell[:, (k + 2) % 3]) for k in range(3)], dim=1)
    return volume[:, None] / across.norm(dim=-1).clamp(min=1e-12)


def mesh_of(extent: Sequence[float], tall: Sequence[float]) -> tuple[int, ...]:
    """As many k points along each reciprocal vector as make a cell of these heights, repeated, about ``extent`` long, Angstrom."""
    return tuple(max(1, round(e / h)) if h > 0 else 1 for e, h in zip(extent, tall, strict=True))


def k_points(mesh: Sequence[int]) -> list[Tensor]:
    """The points of a Gamma-centred mesh in units of the reciprocal vectors; of k and -k, which have the same energies, one."""
    points: list[Tensor] = []
    for k in np.ndindex(*mesh):
        opposite = tuple(-i % n for i, n in zip(k, mesh, strict=True))
        if k <= opposite:
            points.append(torch.tensor([i / n for i, n in zip(k, mesh, strict=True)], dtype=torch.float64))
    return points


def bloch(shift: Tensor, k: Tensor) -> Tensor:
    """(E,) phases exp(2 pi i k . shift)."""
    return torch.exp(2j * torch.pi * (shift @ k))
