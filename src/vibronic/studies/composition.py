"""One energy per element: the floor under every comparison, and what the networks of the studies stand on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_sum
from vibronic.core.targets import target


class Composition(Model):
    """One energy per element, by least squares."""

    kind = "composition"
    reference: Tensor

    def __init__(self, config: dict[str, Any] | None = None, cutoff: float = 0.1) -> None:
        super().__init__(config or {}, [target("energy")], cutoff)
        self.register_buffer("reference", torch.zeros(10, dtype=torch.float64))

    def prepare(self, batch: Batch) -> None:
        """Energies of the elements."""
        super().prepare(batch)
        self.reference = composition(batch)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Energy (B,), eV."""
        return {"energy": self._constant(batch)}

    def _constant(self, batch: Batch) -> Tensor:
        return scatter_sum(self.reference[batch.numbers], batch.index, batch.n_structures)


class OnComposition(Composition):
    """What composition leaves, in units of its spread, is the sum that a network gives (``_sum``); see ``_distance``."""

    scale: Tensor

    def __init__(self, config: dict[str, Any], cutoff: float) -> None:
        super().__init__(config, cutoff)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))

    def prepare(self, batch: Batch) -> None:
        """Energies of the elements, and the spread of what they leave."""
        super().prepare(batch)
        self.scale = (batch.labels["energy"] - self._constant(batch)).std()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Energy (B,), eV."""
        return {"energy": self._sum(batch) * self.scale + self._constant(batch)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The distance of the network's sum from what composition leaves, in units of its spread."""
        predicted = self._sum(batch)
        wanted = ((batch.labels["energy"] - self._constant(batch)) / self.scale).to(predicted)
        return {"loss": self._distance(predicted, wanted)}

    def _sum(self, batch: Batch) -> Tensor:
        raise NotImplementedError

    def _distance(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        raise NotImplementedError


def composition(batch: Batch) -> Tensor:
    """(10,) energy of each element by least squares, eV, at its atomic number."""
    counts = torch.zeros(batch.n_structures, 10, dtype=torch.float64)
    ones = torch.ones(len(batch.numbers), dtype=torch.float64)
    counts.index_put_((batch.index, batch.numbers), ones, accumulate=True)
    return torch.linalg.lstsq(counts, batch.labels["energy"][:, None], driver="gelsd").solution[:, 0]
