"""Several networks of one kind that start from different weights: their mean, and how far they disagree.

Deep ensembles (Lakshminarayanan, Pritzel, Blundell, arXiv 1612.01474). The members are trained together, in one training
with one set of checkpoints: the loss is the sum of theirs, and they have nothing in common but
the order of the batches and the largest norm of the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.learning import store


class Ensemble(Model):
    """The mean of several networks, with their deviations.

    Args:
        targets: names.
        units: unit of a target that Vibronic does not know.
        member: kind of the networks.
        members: how many, at least 2.
        settings: of each.
    """

    kind = "ensemble"

    def __init__(
        self,
        targets: Sequence[str] = ("energy", "forces", "stress"),
        units: dict[str, str] | None = None,
        member: str = "painn",
        members: int = 4,
        settings: dict[str, Any] | None = None,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        if members < 2:
            raise VibronicError(f"an ensemble has at least 2 members, not {members}")
        if member == "ensemble":
            raise VibronicError("the members of an ensemble are networks, not ensembles")
        built = [store.build(member, targets=targets, units=units, **(settings or {})) for _ in range(members)]
        first = built[0]
        if first.closed_form:
            raise VibronicError(f"{member} is fitted in closed form, so all members would be equal; train one")
        if first.generates or first.turns > 1 or first.predicts:
            raise VibronicError(f"an ensemble is of networks for properties, not of {member}")
        super().__init__(config, first.targets, first.cutoff)
        self.members = nn.ModuleList(built)

    def prepare(self, batch: Batch) -> None:
        """Every member, from the same training set."""
        super().prepare(batch)
        for member in self._models():
            member.prepare(batch)

    def _models(self) -> list[Model]:
        return [member for member in self.members if isinstance(member, Model)]

    def _predictions(self, batch: Batch) -> dict[str, Tensor]:
        """Target -> (members, ...)."""
        found = [member(batch) for member in self._models()]
        return {t.name: torch.stack([one[t.name] for one in found]) for t in self.targets}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean predictions; the mean of forces is the force of the mean energy."""
        return {name: values.mean(0) for name, values in self._predictions(batch).items()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The sum of the members' losses, and the mean of their other figures."""
        found = [member.loss(batch) for member in self._models()]
        figures = {name: torch.stack([one[name] for one in found]) for name in found[0]}
        return {name: values.sum() if name == "loss" else values.mean() for name, values in figures.items()}

    def posterior(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mean predictions and deviations (B, members) from them, over the root of the members less one."""
        predicted = self._predictions(batch)
        mean = {name: values.mean(0) for name, values in predicted.items()}
        numbers = [t.name for t in self.targets if t.is_number]
        scale = (len(self.members) - 1) ** 0.5
        return mean, {name: ((predicted[name] - mean[name]).T / scale).detach() for name in numbers}

    def novelty(self, batch: Batch) -> Tensor | None:
        """As its first member has it: all of them saw the same structures."""
        return self._models()[0].novelty(batch)

    @property
    def size(self) -> int:
        """Of all members."""
        return sum(member.size for member in self._models())
