"""From atoms to structures: sums for extensive targets, means, and a pooling that suits an extremum."""

import torch
from torch import Tensor, nn

from vibronic.core.scatter import scatter_mean, scatter_sum


def spread(values: Tensor, centre: Tensor | float | None = None) -> Tensor:
    """Root-mean-square deviation from ``centre`` (default: the mean); 1 when there is none to speak of."""
    deviation = ((values - (values.mean() if centre is None else centre)) ** 2).mean().sqrt()
    return deviation if deviation > 1e-8 else torch.ones_like(deviation)


def scatter_softmax(logits: Tensor, index: Tensor, size: int) -> Tensor:
    """Softmax of ``logits`` (n,) within each index."""
    top = logits.new_full((size,), -torch.inf).scatter_reduce(0, index, logits.detach(), "amax")
    weights = torch.exp(logits - top[index])
    return weights / scatter_sum(weights, index, size)[index]


class MeanReadout(nn.Module):
    """Mean over atoms of one value per atom: a quantity to which every atom contributes alike."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Sequential(nn.Linear(width, width // 2), nn.SiLU(), nn.Linear(width // 2, 1))

    def forward(self, features: Tensor, index: Tensor, size: int) -> Tensor:
        return scatter_mean(self.value(features).squeeze(-1), index, size)


class ExtremumReadout(nn.Module):
    """Attention over atoms: a band edge belongs to the few atoms on which its state sits.

    ``sum_i softmax_i(l_i) v_i`` tends to a minimum or maximum when ``l`` follows ``v``, to the mean when ``l`` is flat,
    and does not change when the crystal is repeated.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Linear(width // 2, 2)
        nn.init.zeros_(last.weight[1])  # starts as the mean
        self.head = nn.Sequential(nn.Linear(width, width // 2), nn.SiLU(), last)

    def forward(self, features: Tensor, index: Tensor, size: int) -> Tensor:
        value, logit = self.head(features).unbind(-1)
        return scatter_sum(scatter_softmax(logit, index, size) * value, index, size)
