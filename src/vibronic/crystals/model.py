"""Our generator of crystals.

One transformer learns three things at once: how lattice and coordinates flow from noise to a crystal (flow matching, Lipman
2023; on the torus as in FlowMM, Miller 2024), what hidden atoms are (masked diffusion, any of them hidden: Hoogeboom 2022,
Sahoo 2024), and what properties a crystal has. The time of the flow and the number of hidden atoms are drawn independently, so
that species may be chosen before, during or after the flow, or be given: a composition's structure, a chemical system and free
generation are one model. Twenty evaluations are enough, because the ways of the flow are straight and as short as symmetry
allows. Nothing turns, moves or reorders a crystal: the lattice is six invariant numbers (``cells.strain_of``), displacements
have no drift.
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

Geometry = tuple[Tensor, Tensor]
"""Fractional coordinates (B, N, 3) and standardised lattices (B, 6)."""

_NARROWEST = 0.02  # spread of a lattice number; a set of cubic crystals has none off the diagonal
_SHAKEN = 0.01  # fractional; the estimate of properties must bear crystals that are not quite relaxed


class CrystalDiffusion(CrystalGenerator):
    """Masked diffusion of species, flow matching of lattice and coordinates.

    Args:
        targets: properties that crystals can be asked for.
        units: of targets that Vibronic does not know.
        width, depth, heads, pair, frequencies, injection: of the network (:class:`CrystalTransformer`).
        dropout: share of the training crystals shown without any condition, for guidance.
        reveal: time of the flow, 0 to 1, at which the species are chosen.
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
        reveal: float = 1.0,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "targets", "units", "__class__")}
        super().__init__(config, targets, units)
        if not injection or not set(injection) <= {"adaln", "cdi", "cds"}:
            raise VibronicError(f"conditions enter by adaln, cdi, cds or several of them, not {list(injection)}")
        if not 0 <= dropout < 1:
            raise VibronicError(f"dropout is a share of the training crystals, at least 0 and below 1, not {dropout}")
        if not 0 <= reveal <= 1:
            raise VibronicError(f"reveal is a time of the flow between 0 and 1, not {reveal}")
        if width % heads or width % 2:
            raise VibronicError(f"width must be even and a multiple of the heads, not {width} for {heads} heads")
        self.dropout, self.reveal = dropout, reveal
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
        hidden = self._hide(mask, generator)
        shown = known.masked_fill(hidden, CLASSES)
        time = torch.rand(len(mask), device=device, generator=generator)
        fractional, strain = self._noise(mask, values, generator)
        gained = self._strain(cells) - strain
        fractional, moved = shortest_paths(fractional, cells.fractional, (shown + 1) * mask)
        strain, fractional = strain + time[:, None] * gained, fractional + time[:, None, None] * moved
        out = self._evaluate(shown, mask, time, self.conditions(asked), fractional, strain)
        entropy = torch.nn.functional.cross_entropy(out.species.flatten(0, 1), known.flatten(), reduction="none")
        parts = {
            "species": (entropy.view_as(known) * hidden).sum(1) / hidden.sum(1).clamp(min=1),
            "coordinates": ((centred(out.coordinates, mask) - moved) ** 2).sum((1, 2)) / (3 * cells.n_atoms),
            "lattice": ((out.lattice - gained) ** 2).mean(1),
        }
        figures = {name: (weight * part).mean() for name, part in parts.items()}
        figures["properties"] = self._property_loss(cells, values, generator)
        return {"loss": sum((WEIGHTS[k] * v for k, v in figures.items()), torch.zeros((), device=device)), **figures}

    def _hide(self, mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, N) atoms whose kind is hidden: none of them in a quarter of the crystals, all in a quarter, else any number."""

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, device=mask.device, generator=generator)

        order = uniform(*mask.shape).masked_fill(~mask, 2).argsort(1).argsort(1)
        share = (2 * uniform(len(mask)) - 0.5).clamp(0, 1)
        return mask & (order < (share * mask.sum(1)).round()[:, None])

    def _property_loss(self, cells: Cells, values: Tensor, generator: torch.Generator | None) -> Tensor:
        """Squared error of the standardised properties of nearly clean crystals, of a quarter of the batch."""
        if not self.targets:
            return values.new_zeros(())
        some = slice(0, max(1, len(values) // 4))
        cells = Cells(cells.numbers[some], cells.fractional[some], cells.lattice[some])
        shake = torch.randn(cells.fractional.shape, device=values.device, generator=generator)
        estimate = self._estimate(cells.numbers, cells.fractional + _SHAKEN * shake, self._strain(cells))
        return ((estimate - self.conditions.standardised(values[some])) ** 2).mean()

    def _noise(self, mask: Tensor, like: Tensor, generator: torch.Generator | None) -> Geometry:
        """Where the flow starts: uniform coordinates (B, N, 3) and a standard normal lattice (B, 6)."""
        fractional = torch.rand(*mask.shape, 3, device=like.device, dtype=like.dtype, generator=generator)
        return fractional, torch.randn(len(mask), 6, device=like.device, dtype=like.dtype, generator=generator)

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
        geometry = self._noise(species != 0, asked.value, generator)
        say = partial(self._say, self.conditions(asked), guidance)
        reveal = min(int((species < 0).sum(1).max()), max(1, evaluations // 2))
        flow = max(1, evaluations - reveal)
        before = round(self.reveal * flow) if reveal else 0
        times = flow_times(flow).tolist()
        for k, (start, end) in enumerate(itertools.pairwise(times)):
            if k == before:
                species = self._reveal(species, allowed, start, geometry, say, reveal, generator, progress)
            out = say(species, start, geometry)
            geometry = geometry[0] + (end - start) * out.coordinates, geometry[1] + (end - start) * out.lattice
            progress(1)
        species = self._reveal(
            species, allowed, 1.0, geometry, say, reveal if before == flow else 0, generator, progress
        )
        fractional, strain = geometry
        lattice = lattice_of(strain * self.spread + self.center, (species != 0).sum(1))
        estimate = self._estimate(species, fractional, strain) * self.conditions.spread + self.conditions.mean
        return Cells(species, fractional % 1, lattice), estimate

    def _reveal(
        self,
        species: Tensor,
        allowed: Tensor,
        time: float,
        geometry: Geometry,
        say: Callable[[Tensor, float, Geometry], Output],
        evaluations: int,
        generator: torch.Generator,
        progress: Progress,
    ) -> Tensor:
        """Choose the kinds of the hidden atoms (-1), some of them, any of them, in each evaluation."""
        for left in range(evaluations, 0, -1):
            hidden = species < 0
            chances = say(species, time, geometry).species.masked_fill(~allowed, -torch.inf).softmax(-1)
            drawn = torch.multinomial(chances.flatten(0, 1), 1, generator=generator).view_as(species) + 1
            order = torch.rand(species.shape, device=species.device, generator=generator).masked_fill(~hidden, 2)
            now = order.argsort(1).argsort(1) < (hidden.sum(1) / left).ceil()[:, None]
            species = torch.where(hidden & now, drawn, species)
            progress(1)
        return species

    def _say(self, condition: Tensor, guidance: float, species: Tensor, time: float, geometry: Geometry) -> Output:
        """What the network says, by classifier-free guidance: from what it says without a condition towards, and beyond,
        what it says with it."""
        mask, (fractional, strain) = species != 0, geometry
        classes = torch.where(species < 0, CLASSES, (species - 1).clamp(min=0))
        times = condition.new_full((len(species),), time)
        asked = self._evaluate(classes, mask, times, condition, fractional, strain)
        if guidance != 1:
            nothing = self._evaluate(classes, mask, times, torch.zeros_like(condition), fractional, strain)
            asked = Output(*(torch.lerp(n, a, guidance) for n, a in zip(nothing, asked, strict=True)))
        return asked._replace(coordinates=centred(asked.coordinates, mask))
