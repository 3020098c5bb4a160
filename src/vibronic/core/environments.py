"""What surrounds an atom, as numbers that can be compared: whether a structure is like those of a training set."""

from __future__ import annotations

import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.scatter import scatter_mean, scatter_sum

WIDTH = 0.5
"""Angstrom; of the Gaussians, and their spacing from 1 Angstrom to the cutoff."""
MOST = 4096
"""Environments that are remembered of a training set, evenly spaced among all."""
MOST_STRUCTURES = 256
"""Structures that say how far apart those of a training set are."""
FAR = 1e30
"""Reach of a training set of one structure, beside which nothing is unlike; not infinite, because buffers are averaged."""
WITHIN = 0.99
"""Share of the training structures that are not called unlike the others."""


def environments(batch: Batch, elements: Tensor, cutoff: float) -> Tensor:
    """(N, elements * K) smooth radial distribution of the neighbours of each atom, one block for each of their ``elements``."""
    i, j = batch.edge_index
    r = batch.edge_vectors().norm(dim=-1)
    centres = torch.arange(1.0, cutoff, WIDTH, dtype=r.dtype, device=r.device)
    fade = 0.5 * (1 + torch.cos(torch.pi * (r / cutoff).clamp(max=1.0)))
    weights = fade[:, None] * torch.exp(-0.5 * ((r[:, None] - centres) / WIDTH) ** 2)
    place = i * len(elements) + torch.searchsorted(elements, batch.numbers[j])
    return scatter_sum(weights, place, len(batch.numbers) * len(elements)).view(len(batch.numbers), -1)


def nearest(points: Tensor, numbers: Tensor, known: Tensor, known_numbers: Tensor) -> Tensor:
    """(n,) distance of each environment to the nearest known one of the same element; infinite where there is none."""
    found = points.new_full((len(points),), torch.inf)
    for z in torch.unique(numbers):
        mine, theirs = numbers == z, known_numbers == z
        if theirs.any():
            found[mine] = torch.cdist(points[mine], known[theirs]).amin(1)
    return found


class Memory:
    """The environments of a training set.

    Attributes:
        points: (K, d) environments, with the ``numbers`` (K,) of their atoms.
        reach: how far the environments of a structure are from the nearest ones of the others, on average over its atoms, at most
            (:data:`WITHIN` of the structures).
    """

    def __init__(self, batch: Batch, elements: Tensor, cutoff: float) -> None:
        points = environments(batch, elements, cutoff)
        kept = torch.linspace(0, len(points) - 1, min(MOST, len(points)), device=points.device).round().long()
        self.points, self.numbers, owner = points[kept], batch.numbers[kept], batch.index[kept]
        size = batch.n_structures
        asked = torch.linspace(0, size - 1, min(MOST_STRUCTURES, size)).round().long().unique()
        apart = []
        for s in asked.tolist():
            mine = batch.index == s
            others = owner != s
            apart.append(nearest(points[mine], batch.numbers[mine], self.points[others], self.numbers[others]).mean())
        spread = torch.stack(apart)
        spread = spread[torch.isfinite(spread)]
        self.reach = torch.quantile(spread, WITHIN) if len(spread) > 1 else points.new_tensor(FAR)


def novelty(batch: Batch, elements: Tensor, cutoff: float, points: Tensor, numbers: Tensor, reach: Tensor) -> Tensor:
    """(B,) mean distance of a structure's environments to the nearest remembered ones, in units of the reach of those."""
    found = environments(batch, elements, cutoff).to(points.dtype)
    distance = nearest(found, batch.numbers, points, numbers)
    return scatter_mean(distance, batch.index, batch.n_structures) / reach
