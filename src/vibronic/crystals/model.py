"""Our generator of crystals: first what, then where.

A crystal is drawn as ``p(N | y) p(A | N, y) p(L, F | A, y)`` for the conditions y. One transformer learns both stages: the
species by masked diffusion (hidden atoms are revealed in any order; Hoogeboom 2022, Sahoo 2024), lattice and coordinates given
the species by flow matching (Lipman 2023; on the torus as in FlowMM, Miller 2024) along straight lines, so that some twenty
evaluations are enough. A given composition, a chemical system or the structure of a known composition need no other model: the
first stage is then constrained or left out. The flow never turns, moves or reorders a crystal: the lattice is six invariant
numbers (``cells.strain_of``), displacements have no drift.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.crystals.cells import Cells, centred, lattice_of, metric_of, shortest_paths, strain_of
from vibronic.crystals.conditioning import Asked, ConditionEmbedding
from vibronic.crystals.generator import CLASSES, CrystalGenerator, Progress
from vibronic.crystals.schedules import flow_times
from vibronic.crystals.transformer import CrystalTransformer, Injection, Output

WEIGHTS = {"species": 1.0, "coordinates": 10.0, "lattice": 1.0, "properties": 0.5}
"""Of the parts of the loss; a displacement on the torus has a variance of 1/12 per coordinate, the others are near 1."""

_NARROWEST = 0.02  # spread of a lattice number; a set of cubic crystals has none off the diagonal
_SHAKEN = 0.01  # fractional; the estimate of properties must bear crystals that are not quite relaxed


class CrystalDiffusion(CrystalGenerator):
    """Masked diffusion of species, then flow matching of lattice and coordinates.

    Args:
        targets: properties that crystals can be asked for.
        units: of targets that Vibronic does not know.
        width, depth, heads, pair, frequencies, injection: of the network (:class:`CrystalTransformer`).
        dropout: share of the training crystals shown without any condition, for guidance.
    """

    kind = "crystal-diffusion"
    evaluations = 20
    bounds = True
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
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "targets", "units", "__class__")}
        super().__init__(config, targets, units)
        if not injection or not set(injection) <= {"adaln", "cdi", "cds"}:
            raise VibronicError(f"conditions enter by adaln, cdi, cds or several of them, not {list(injection)}")
        if not 0 <= dropout < 1:
            raise VibronicError(f"dropout is a share of the training crystals, at least 0 and below 1, not {dropout}")
        if width % heads or width % 2:
            raise VibronicError(f"width must be even and a multiple of the heads, not {width} for {heads} heads")
        self.dropout = dropout
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
        cells, device = Cells.from_batch(batch), batch.cell.device
        # Every validation sees the same noise, so that epochs can be compared.
        generator = None if self.training else torch.Generator(device).manual_seed(0)
        asked, weight = self.conditions.draw(
            self.values(batch), batch.labels["spacegroup"].long(), self.dropout, generator
        )
        embedded = self.conditions(asked)
        parts = {
            "species": self._species_loss(cells, embedded, generator),
            **self._geometry_loss(cells, embedded, generator),
        }
        figures = {name: (weight * part).mean() for name, part in parts.items()}
        figures["properties"] = self._property_loss(cells, self.values(batch), generator)
        return {"loss": sum((WEIGHTS[k] * v for k, v in figures.items()), torch.zeros(())), **figures}

    def _species_loss(self, cells: Cells, embedded: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B,) mean cross-entropy of the hidden atoms, any number of them hidden with equal probability."""
        mask, device = cells.mask, embedded.device
        order = torch.rand(mask.shape, device=device, generator=generator).masked_fill(~mask, 2).argsort(1).argsort(1)
        share = torch.rand(len(mask), device=device, generator=generator)
        hidden = mask & (order < (share * cells.n_atoms).floor()[:, None] + 1)
        known = (cells.numbers - 1).clamp(min=0)
        logits = self.network.species(known.masked_fill(hidden, CLASSES), mask, embedded)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), known.flatten(), reduction="none")
        return (losses.view_as(known) * hidden).sum(1) / hidden.sum(1)

    def _geometry_loss(self, cells: Cells, embedded: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        """(B,) squared errors of the velocities at random times along the paths from noise to the crystal."""
        mask, device = cells.mask, embedded.device
        time = torch.rand(len(mask), device=device, generator=generator)
        strain, fractional = self._noise(mask, embedded, generator)
        gained = self._strain(cells) - strain
        fractional, moved = shortest_paths(fractional, cells.fractional, cells.numbers)
        strain, fractional = strain + time[:, None] * gained, fractional + time[:, None, None] * moved
        out = self._evaluate((cells.numbers - 1).clamp(min=0), mask, time, embedded, fractional, strain)
        errors = (centred(out.coordinates, mask) - moved) ** 2
        return {
            "coordinates": errors.sum((1, 2)) / (3 * cells.n_atoms),
            "lattice": ((out.lattice - gained) ** 2).mean(1),
        }

    def _property_loss(self, cells: Cells, values: Tensor, generator: torch.Generator | None) -> Tensor:
        """Squared error of the standardised properties of nearly clean crystals, of a quarter of the batch."""
        some = slice(0, max(1, len(values) // 4))
        cells = Cells(cells.numbers[some], cells.fractional[some], cells.lattice[some])
        shake = torch.randn(cells.fractional.shape, device=values.device, generator=generator)
        estimate = self._estimate(cells.numbers, cells.fractional + _SHAKEN * shake, self._strain(cells))
        return ((estimate - self.conditions.standardised(values[some])) ** 2).mean()

    def _noise(self, mask: Tensor, like: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Where the flow starts: a standard normal lattice (B, 6) and uniform coordinates (B, N, 3)."""
        strain = torch.randn(len(mask), 6, device=like.device, dtype=like.dtype, generator=generator)
        return strain, torch.rand(*mask.shape, 3, device=like.device, dtype=like.dtype, generator=generator)

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
    ) -> tuple[Cells, Tensor]:
        mask, embedded = species != 0, self.conditions(asked)
        reveal = min(int((species < 0).sum(1).max()), max(1, evaluations // 2))
        for left in range(reveal, 0, -1):
            species = self._reveal(species, allowed, embedded, guidance, left, generator)
            progress(1)
        classes = (species - 1).clamp(min=0)
        strain, fractional = self._noise(mask, embedded, generator)
        times = flow_times(max(1, evaluations - reveal)).to(embedded)
        for start, end in itertools.pairwise(times):
            velocity = partial(self._velocity, classes, mask, start.expand(len(mask)), fractional, strain)
            moving, straining = _guided(velocity, embedded, guidance)
            fractional, strain = fractional + (end - start) * moving, strain + (end - start) * straining
            progress(1)
        lattice = lattice_of(strain * self.spread + self.center, mask.sum(1))
        estimate = self._estimate(species, fractional, strain) * self.conditions.spread + self.conditions.mean
        return Cells(species, fractional % 1, lattice), estimate

    def _reveal(
        self, species: Tensor, allowed: Tensor, embedded: Tensor, guidance: float, left: int, generator: torch.Generator
    ) -> Tensor:
        """Choose the kind of a share ``1 / left`` of the atoms that are still hidden (-1), any of them."""
        hidden, mask = species < 0, species != 0
        classes = torch.where(hidden, CLASSES, (species - 1).clamp(min=0))
        (logits,) = _guided(lambda e: (self.network.species(classes, mask, e).log_softmax(-1),), embedded, guidance)
        chances = logits.masked_fill(~allowed, -torch.inf).softmax(-1)
        drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view_as(species) + 1
        order = torch.rand(species.shape, device=species.device, generator=generator).masked_fill(~hidden, 2)
        now = hidden & (order.argsort(1).argsort(1) < (hidden.sum(1) / left).ceil()[:, None])
        return torch.where(now, drawn, species)

    def _velocity(
        self, classes: Tensor, mask: Tensor, time: Tensor, fractional: Tensor, strain: Tensor, embedded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How coordinates (B, N, 3) and lattice (B, 6) move."""
        out = self._evaluate(classes, mask, time, embedded, fractional, strain)
        return centred(out.coordinates, mask), out.lattice


def _guided(evaluate: Callable[[Tensor], tuple[Tensor, ...]], embedded: Tensor, guidance: float) -> tuple[Tensor, ...]:
    """Classifier-free guidance: from what is said without a condition towards, and beyond, what is said with it."""
    asked = evaluate(embedded)
    if guidance == 1:
        return asked
    return tuple(torch.lerp(n, a, guidance) for n, a in zip(evaluate(torch.zeros_like(embedded)), asked, strict=True))
