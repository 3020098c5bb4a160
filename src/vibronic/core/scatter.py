"""From atoms, edges or points to what they belong to: sums and means of rows that share an index."""

import torch
from torch import Tensor


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum rows of ``values`` (n, ...) that share an ``index`` (n,) into (size, ...)."""
    return values.new_zeros((size, *values.shape[1:])).index_add_(0, index, values)


def scatter_mean(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Mean of the rows that share an index."""
    count = torch.bincount(index, minlength=size).clamp(min=1).to(values)
    return scatter_sum(values, index, size) / count.view(-1, *[1] * (values.ndim - 1))
