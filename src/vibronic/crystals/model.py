"""Our generator of crystals: first where, then what.

A crystal is drawn as ``p(N | y) p(L, F | N, y) p(A | L, F, y)`` for the conditions y: a skeleton of unnamed atoms, then their
kinds, one after another, then the skeleton settles around them; some atoms are named anew where they have settled, and so on in
turn, as in Gibbs sampling (though the two steps are not the conditionals of one joint distribution). What a crystal is worth depends on which atom sits on which site, so that the kinds are easiest to choose where
the sites are known. One transformer learns it all: how lattice and coordinates flow from noise to a crystal, its atoms hidden or
known (flow matching, Lipman 2023; on the torus as in FlowMM, Miller 2024), what hidden atoms are (masked diffusion: Hoogeboom
2022, Sahoo 2024), and what properties a crystal has. The last is the factor p(y | A, L, F) of Bayes' theorem: names are drawn
several times for one skeleton, and those chosen whose properties are likely to be the wanted ones, among those whose charges
can balance. Where the species are given, the same flow predicts their structure, taken back and on again several times.

Few evaluations are enough, because the ways of the flow are straight, and few numbers are left where it keeps the symmetry of a
crystal (``symmetry.Symmetry``); where it does not, they are as short as may be. Nothing turns, moves
or reorders a crystal: the lattice is six invariant numbers (``cells.strain_of``), displacements have no drift.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.crystals.cells import Cells, centred, lattice_of, metric_of, shortest_ways, strain_of, strain_of_metric
from vibronic.crystals.conditioning import Asked, ConditionEmbedding
from vibronic.crystals.generator import CLASSES, CrystalGenerator, Progress
from vibronic.crystals.schedules import budget, flow_times
from vibronic.crystals.symmetry import Symmetry
from vibronic.crystals.transformer import CrystalTransformer, Injection, Output
from vibronic.crystals.validity import composition_validity

WEIGHTS = {"species": 1.0, "coordinates": 10.0, "lattice": 1.0, "properties": 0.5}
"""Of the parts of the loss; a displacement on the torus has a variance of 1/12 per coordinate, the others are near 1."""

SKELETON, NAMING = 0.45, 0.35
"""Shares of the training crystals that teach the first two stages; the rest teaches the third."""

_NEARLY = 0.15  # how far from the end of the flow names are learned: a generated skeleton is not quite a crystal's

_CALM = 0.5
"""Spread of the lattices' noise when a crystal settles anew, where training has 1: nearer to the middle of what the network thinks possible
(low-temperature sampling: Ingraham, Nature 623, 1070 (2023)). In a trial with the species and sites of 96 training crystals of MP-20 volumes
were 11 % off (root mean square) instead of 14; without any noise 8 % too small."""

_NAMINGS = (4, 16)
"""Fewest and most names drawn for one skeleton, among which the estimate of the properties chooses: one for each 25 evaluations. Perov-5
hardly gains by more than four, MP-20 does."""

_TRUST = 0.1
"""Error that this choice takes the estimate to have, in standard deviations of the property; tuned on Perov-5, where the error on
unseen crystals is 0.15. A temperature: larger chooses less."""

Geometry = tuple[Tensor, Tensor]
"""Fractional coordinates (B, N, 3) and standardised lattices (B, 6)."""

_SYMPREC = 0.01  # Angstrom, within which the operations of crystals are found, made symmetric or not

_NARROWEST = 0.02  # spread of a lattice number; a set of cubic crystals has none off the diagonal


@dataclass(frozen=True)
class _Choice:
    """How names are drawn: of ``allowed`` elements, with so much ``guidance`` (at most 1) towards what is ``asked``; ``several`` side by
    side, of which one is taken by its likelihood to the power of ``strength``. One element alone is a name only where it is among
    those ``alone``."""

    allowed: Tensor
    asked: Asked
    guidance: float
    strength: float
    several: int
    alone: frozenset[int]

    def possible(self, numbers: np.ndarray) -> bool:
        """Whether charges can balance: of atoms of one element they always could, most of which form no crystal."""
        elements = set(numbers.tolist())
        return composition_validity(numbers) and (len(elements) > 1 or elements <= self.alone)


class CrystalDiffusion(CrystalGenerator):
    """Masked diffusion of species, flow matching of lattice and coordinates.

    Args:
        targets: properties that crystals can be asked for.
        units: of targets that Vibronic does not know.
        width, depth, heads, pair, frequencies, injection: of the network (:class:`CrystalTransformer`).
        dropout: share of the training crystals shown without any condition, for guidance.
        guided: what guidance acts on. Species carry nearly all of what a condition asks for, where there are several, and
            an exaggerated geometry is a crystal less often; of one element's crystals it is all there is.
        distinct: whether equal crystals of a training set are shown once. A set that holds a crystal the more often the
            easier a search found it, as Carbon-24 does its deepest minima, teaches more with its duplicates.
        symprec: Angstrom, within which crystals of the training set are made symmetric, so that equal ones have equal cells;
            0 leaves them as they are.
        tolerance: Angstrom, within which generated crystals are made symmetric: elements may be more symmetric than the sites that they
            were put on, and a free flow ends a little off special positions. Not more than the distortions that matter.
        free: share of the training crystals whose flow is not kept within their symmetry.
    """

    kind = "crystal-diffusion"
    evaluations = 100
    guidance = 2.0
    bounds = True
    estimates = True
    recipe: ClassVar[dict[str, Any]] = {
        "epochs": 600,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "warmup": 0.02,
        "ema": 0.999,
        "clip": 1.0,
        "validate_every": 10,
    }

    center: Tensor
    spread: Tensor

    def __init__(
        self,
        targets: list[str],
        units: dict[str, str] | None = None,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        pair: int = 64,
        frequencies: int = 8,
        injection: tuple[Injection, ...] = ("adaln",),
        dropout: float = 0.15,
        guided: tuple[Literal["species", "geometry"], ...] = ("species",),
        distinct: bool = True,
        symprec: float = 0.01,
        tolerance: float = 0.1,
        free: float = 0.2,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "targets", "units", "__class__")}
        super().__init__(config, targets, units)
        if not injection or not set(injection) <= {"adaln", "cdi", "cds"}:
            raise VibronicError(f"conditions enter by adaln, cdi, cds or several of them, not {list(injection)}")
        if not 0 <= free <= 1:
            raise VibronicError(f"free is a share of the training crystals, at least 0 and at most 1, not {free}")
        if not 0 <= dropout < 1:
            raise VibronicError(f"dropout is a share of the training crystals, at least 0 and below 1, not {dropout}")
        if width % heads or width % 2:
            raise VibronicError(f"width must be even and a multiple of the heads, not {width} for {heads} heads")
        if not set(guided) <= {"species", "geometry"}:
            raise VibronicError(f"guided are species, geometry or both, not {list(guided)}")
        for name, length in (("symprec", symprec), ("tolerance", tolerance)):
            if not 0 <= length < 1:
                raise VibronicError(f"{name} is a length in Angstrom, at least 0 and below 1, not {length}")
        self.dropout, self.guided, self.distinct = dropout, tuple(guided), distinct
        self.symmetric = free < 1
        self.symprec, self.tolerance, self.free = symprec, tolerance, free
        self.conditions = ConditionEmbedding(len(targets), width)
        self.network = CrystalTransformer(
            CLASSES, len(targets), width, depth, heads, pair, frequencies, tuple(injection)
        )
        self.register_buffer("center", torch.zeros(6))
        self.register_buffer("spread", torch.ones(6))

    def prepare(self, batch: Batch) -> None:
        super().prepare(batch)
        cells = Cells.from_batch(batch)
        strain = strain_of(cells.lattice, cells.n_atoms)
        self.center, self.spread = strain.mean(0), strain.std(0, unbiased=False).clamp(min=_NARROWEST)
        self.conditions.prepare(self.values(batch))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        cells, device, values = Cells.from_batch(batch), batch.cell.device, self.values(batch)
        # Every validation sees the same noise, so that epochs can be compared.
        generator = None if self.training else torch.Generator(device).manual_seed(0)
        asked, weight = self.conditions.draw(values, batch.labels["spacegroup"].long(), self.dropout, generator)
        known, mask = (cells.numbers - 1).clamp(min=0), cells.mask
        kept = torch.rand(len(mask), device=device, generator=generator) >= self.free
        symmetry = self._symmetry(cells, kept)
        hidden, time = self._stage(mask, symmetry, generator)
        shown = known.masked_fill(hidden, CLASSES)
        moved, strain = self._noise(cells.fractional, (shown + 1) * mask, symmetry, generator)
        gained = self._strain(cells) - strain
        fractional = cells.fractional - (1 - time)[:, None, None] * moved
        strain = self._keeping(strain + time[:, None] * gained, symmetry, cells.n_atoms)
        out = self._evaluate(shown, mask, time, self.conditions(asked), fractional, strain)
        out = _symmetric(out, mask, symmetry)
        entropy = torch.nn.functional.cross_entropy(out.species.flatten(0, 1), known.flatten(), reduction="none")
        parts = {
            "species": (entropy.view_as(known) * hidden).sum(1) / hidden.sum(1).clamp(min=1),
            "coordinates": ((out.coordinates - moved) ** 2).sum((1, 2)) / (3 * cells.n_atoms),
            "lattice": ((out.lattice - gained) ** 2).mean(1),
        }
        figures = {name: (weight * part).mean() for name, part in parts.items()}
        figures["properties"] = self._property_loss(cells, symmetry, values, generator)
        return {"loss": sum((WEIGHTS[k] * v for k, v in figures.items()), torch.zeros((), device=device)), **figures}

    def _stage(self, mask: Tensor, symmetry: Symmetry, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Hidden atoms (B, N) and time of the flow (B,), as one of the three stages of sampling has them.

        SKELETON: all atoms hidden, any time. NAMING: any number hidden, near the end of the flow. SETTLING: none hidden, any
        time; the only stage there is for crystals of one element.
        """

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, device=mask.device, generator=generator)

        stage, time, share = uniform(len(mask)), uniform(len(mask)), uniform(len(mask))
        skeleton, naming = stage < SKELETON, (stage >= SKELETON) & (stage < SKELETON + NAMING)
        count = torch.where(naming, (share * mask.sum(1)).floor() + 1, torch.where(skeleton, mask.shape[1], 0))
        if len(self.elements) == 1:
            return torch.zeros_like(mask), time
        return _some(mask, count, symmetry.orbits, generator), torch.where(naming, 1 - _NEARLY * time**2, time)

    def _property_loss(
        self, cells: Cells, symmetry: Symmetry, values: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Squared error of the standardised properties, of all crystals or, in training, a quarter of the batch.

        The geometries are near the end of the flow: the estimate must bear what is generated, which is not quite a crystal.
        """
        some = torch.arange(max(1, len(values) // 4) if self.training else len(values), device=values.device)
        cells, symmetry = cells[some], symmetry[some]
        way, strain = self._noise(cells.fractional, cells.numbers, symmetry, generator)
        left = _NEARLY * torch.rand(len(some), device=values.device, generator=generator)
        fractional = cells.fractional - left[:, None, None] * way
        strain = self._keeping(torch.lerp(self._strain(cells), strain, left[:, None]), symmetry, cells.n_atoms)
        estimate = self._estimate(cells.numbers, fractional, strain)
        return ((estimate - self.conditions.standardised(values[some])) ** 2).sum() / max(1, estimate.numel())

    def _noise(
        self, fractional: Tensor, numbers: Tensor, symmetry: Symmetry, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The ways (B, N, 3) from noise to the atoms of crystals, within their symmetry, and the lattices of the noise (B, 6).

        Args:
            fractional: (B, N, 3) where the ways end.
            numbers: (B, N) kinds of the atoms, hidden ones below 0, 0 where there is none; those of a kind may change places.
        """
        mask, free = numbers != 0, symmetry.free
        way = -symmetry.noise(mask, generator)
        if free.any():
            end = fractional[free]
            way[free] = shortest_ways(end - way[free], end, numbers[free])
        strain = torch.randn(len(mask), 6, device=way.device, dtype=way.dtype, generator=generator)
        return way, self._keeping(strain, symmetry, mask.sum(1))

    def _symmetry(self, cells: Cells, kept: Tensor | None = None) -> Symmetry:
        """What the symmetry of crystals leaves free; everything of those that are not ``kept`` (B,)."""
        cells = Cells(cells.numbers, cells.fractional, cells.lattice.to(self.center.dtype))
        return Symmetry.of(cells, max(self.symprec, _SYMPREC), kept)

    def _keeping(self, strain: Tensor, symmetry: Symmetry, n_atoms: Tensor) -> Tensor:
        """Standardised lattices (B, 6) of metric tensors averaged over the operations."""
        if symmetry.free.all():
            return strain
        metric = metric_of((strain * self.spread + self.center).double(), n_atoms)
        kept = (strain_of_metric(symmetry.metrics(metric), n_atoms).to(strain.dtype) - self.center) / self.spread
        return torch.where(symmetry.free[:, None], strain, kept)

    def _strain(self, cells: Cells) -> Tensor:
        """(B, 6) standardised lattices."""
        return (strain_of(cells.lattice, cells.n_atoms) - self.center) / self.spread

    def _evaluate(
        self, species: Tensor, mask: Tensor, time: Tensor, embedded: Tensor, fractional: Tensor, strain: Tensor
    ) -> Output:
        metric = metric_of(strain * self.spread + self.center, mask.sum(1))
        return self.network(species, mask, time, embedded, fractional, strain, metric)

    def _estimate(self, numbers: Tensor, fractional: Tensor, strain: Tensor) -> Tensor:
        """(B, P) standardised properties of crystals, seen without any condition."""
        nothing = strain.new_zeros(len(strain), self.conditions.spacegroups.embedding_dim)
        time = strain.new_ones(len(strain))
        species = (numbers - 1).clamp(min=0)
        return self._evaluate(species, numbers > 0, time, nothing, fractional, strain).properties

    @torch.no_grad()
    def sample(
        self,
        species: Tensor,
        allowed: Tensor,
        asked: Asked,
        evaluations: int,
        guidance: float,
        generator: torch.Generator,
        progress: Progress,
        templates: Cells | None = None,
    ) -> tuple[Cells, Tensor]:
        if int(allowed.sum()) == 1:  # of one element there is nothing to choose
            species = torch.where(species < 0, allowed.nonzero()[0] + 1, species)
        # Guidance up to 1 heeds the conditions as they were learned; beyond, names are also chosen: those that can be, by how likely
        # they have the wanted properties.
        heeded = guidance if "species" in self.guided else min(guidance, 1.0)
        choice = max(0.0, heeded - 1)
        fewest, most = _NAMINGS
        several = min(max(evaluations // 25, fewest), most) if choice and evaluations >= 5 * fewest else 1
        how = _Choice(allowed, asked, min(heeded, 1.0), choice, several, self.memory.alone())
        steered = guidance if "geometry" in self.guided else min(guidance, 1.0)
        mask, free, like = species != 0, species < 0, self.center
        if templates is None:
            symmetry, places = Symmetry.none(mask, like), like.new_zeros(*mask.shape, 3)
        else:
            symmetry, places = self._symmetry(templates), templates.fractional.to(like.dtype)
        condition, n_atoms = self.conditions(asked), mask.sum(1)
        say = partial(self._say, condition, symmetry, guidance=steered)
        keeping = partial(self._keeping, symmetry=symmetry, n_atoms=n_atoms)
        asks = 1 if heeded >= 1 and steered == 1 else 2  # with the conditions, and without
        evaluations = max(1, evaluations // asks)
        tell = lambda steps: progress(asks * steps)  # noqa: E731
        skeleton, passes = budget(evaluations, int(free.sum(1).max()), several)
        way, strain = self._noise(places, species, symmetry, generator)
        geometry = _flow(partial(say, species), keeping, (places - way, strain), flow_times(skeleton), tell)
        for share, back, naming, settling in passes:
            if naming:
                again = _some(free, (share * free.sum(1)).ceil(), symmetry.orbits, generator)
                species = self._name(how, species, again, geometry, symmetry, naming, generator, tell)
            if not settling:
                continue
            way, strain = self._noise(geometry[0], species, symmetry, generator)
            taken = geometry[0] - (1 - back) * way, keeping(torch.lerp(_CALM * strain, geometry[1], back))
            times = back + (1 - back) * flow_times(settling)
            geometry = _flow(partial(say, species), keeping, taken, times, tell)
        fractional, strain = geometry
        lattice = lattice_of(strain * self.spread + self.center, n_atoms)
        cells = Cells(species, fractional % 1, lattice)
        return cells, self.estimate(cells)

    @torch.no_grad()
    def estimate(self, cells: Cells) -> Tensor:
        estimate = self._estimate(cells.numbers, cells.fractional, self._strain(cells))
        return estimate * self.conditions.spread + self.conditions.mean

    def _name(
        self,
        how: _Choice,
        species: Tensor,
        again: Tensor,
        geometry: Geometry,
        symmetry: Symmetry,
        rounds: int,
        generator: torch.Generator,
        progress: Progress,
    ) -> Tensor:
        """Kinds (B, N) of the atoms, some of them, ``again`` (B, N), chosen anew on a given geometry, orbit by orbit.

        Several names are drawn side by side, each in so many ``rounds``; one of them, or of what the atoms are now, is kept with a
        probability that goes with its likelihood to a power (iterated sampling importance resampling). Names whose charges
        cannot balance are kept where there are no others.
        """
        several = how.several
        geometry = geometry[0].repeat_interleave(several, 0), geometry[1].repeat_interleave(several, 0)
        condition = self.conditions(how.asked).repeat_interleave(several, 0)
        found = species.masked_fill(again, -1).repeat_interleave(several, 0)
        symmetry = symmetry[torch.arange(len(species), device=species.device).repeat_interleave(several)]
        for left in range(rounds, 0, -1):
            hidden = found < 0
            said = self._say(condition, symmetry, found, 1.0, geometry, how.guidance)
            chances = said.species.masked_fill(~how.allowed, -torch.inf).softmax(-1)
            drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view_as(found) + 1
            drawn = drawn.gather(1, symmetry.orbits)
            found = torch.where(_some(hidden, (hidden.sum(1) / left).ceil(), symmetry.orbits, generator), drawn, found)
            progress(several)
        if several == 1:
            return found
        found = found.unflatten(0, (-1, several))
        named = (species >= 0).all(1)
        found[named, 0] = species[named]
        estimate = self._estimate(found.flatten(0, 1), *geometry).unflatten(0, (-1, several))
        progress(several)
        likely = how.strength * self.conditions.log_likelihood(how.asked, estimate, _TRUST)
        names = [how.possible(row[row > 0]) for row in found.flatten(0, 1).cpu().numpy()]
        possible = torch.tensor(names, device=found.device).view_as(likely)
        likely = likely.masked_fill(possible.any(1, keepdim=True) & ~possible, -torch.inf)
        chosen = torch.multinomial(likely.softmax(1), 1, generator=generator)
        return found.gather(1, chosen[:, :, None].expand(-1, 1, found.shape[2]))[:, 0]

    def _say(
        self, condition: Tensor, symmetry: Symmetry, species: Tensor, time: float, geometry: Geometry, guidance: float
    ) -> Output:
        """What the network says within a symmetry, by classifier-free guidance: from what it says without a condition towards, and
        beyond, what it says with it."""
        mask, (fractional, strain) = species != 0, geometry
        classes = torch.where(species < 0, CLASSES, (species - 1).clamp(min=0))
        times = condition.new_full((len(species),), time)
        said = self._evaluate(classes, mask, times, condition, fractional, strain)
        if guidance != 1:
            nothing = self._evaluate(classes, mask, times, torch.zeros_like(condition), fractional, strain)
            said = Output(*(torch.lerp(n, a, guidance) for n, a in zip(nothing, said, strict=True)))
        return _symmetric(said, mask, symmetry)


def _symmetric(said: Output, mask: Tensor, symmetry: Symmetry) -> Output:
    """The part of what a network says that keeps the symmetry, and the centre of the crystal."""
    coordinates = centred(said.coordinates, mask)
    if symmetry.free.all():
        return said._replace(coordinates=coordinates)
    return said._replace(species=symmetry.kinds(said.species), coordinates=symmetry.displacements(coordinates))


def _flow(
    say: Callable[[float, Geometry], Output],
    keeping: Callable[[Tensor], Tensor],
    geometry: Geometry,
    times: Tensor,
    progress: Progress,
) -> Geometry:
    """Move a geometry along its velocities, in straight steps, after each of which its lattice is brought to ``keeping`` the
    symmetry."""
    for start, end in itertools.pairwise(times.tolist()):
        said, step = say(start, geometry), end - start
        geometry = geometry[0] + step * said.coordinates, keeping(geometry[1] + step * said.lattice)
        progress(1)
    return geometry


def _some(of: Tensor, count: Tensor, orbits: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, N) some of the atoms in ``of`` (B, N) at random, ``count`` (B,) of each crystal's, or as many more as whole orbits take."""
    order = torch.rand(of.shape, device=of.device, generator=generator).gather(1, orbits).masked_fill(~of, 2)
    before = (order[:, None] < order[:, :, None]).sum(-1)
    return of & (before < count[:, None])
