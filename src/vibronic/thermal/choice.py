"""Which configuration to label next: the one that makes the thermal average more certain than any other.

A model with a posterior covariance C = A A^T over configurations (its ``deviations`` A) knows what a label is worth before
it is computed: with noise s it takes C_gj^2 / (C_jj + s^2) off the variance of a weighted average g of the predictions. No
value of a label enters, so a batch can be chosen one after the other without computing any of them (Bayesian
quadrature: O'Hagan, J. Stat. Plan. Inference 29, 245, 1991; sequential A-optimal design).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def variances(goals: Tensor) -> Tensor:
    """(G,) variances of averages, from their deviations (G, r)."""
    return goals.square().sum(1)


def gains(candidates: Tensor, goals: Tensor, noise: float) -> Tensor:
    """(M, G) by how much the variance of every average falls if a candidate is labelled.

    Args:
        candidates: (M, r) deviations of the configurations.
        goals: (G, r) those of the averages: weights (G, M) @ candidates.
        noise: standard deviation of a label about the model.
    """
    shared = candidates @ goals.T
    return shared.square() / (candidates.square().sum(1, keepdim=True) + noise**2)


def learned(candidates: Tensor, goals: Tensor, index: int, noise: float) -> tuple[Tensor, Tensor]:
    """Deviations of candidates and averages once a candidate has been labelled: a rank-one update of the covariance's root."""
    a = candidates[index]
    square = float(a @ a)
    if square == 0:
        return candidates, goals
    factor = (1 - (noise**2 / (noise**2 + square)) ** 0.5) / square
    return candidates - factor * torch.outer(candidates @ a, a), goals - factor * torch.outer(goals @ a, a)


def choose(
    candidates: Tensor, goals: Tensor, noise: float, n: int, limits: Tensor, taken: Sequence[int] = ()
) -> list[int]:
    """``n`` candidates, each the most useful one after those before it.

    Args:
        candidates: (M, r) deviations.
        goals: (G, r) deviations of the averages.
        noise: standard deviation of a label about the model.
        n: how many; fewer where there are not so many.
        limits: (G,) variances that are wanted; averages that have reached them count no more.
        taken: candidates that are labelled, or cannot be.
    """
    free = torch.ones(len(candidates), dtype=torch.bool)
    free[list(taken)] = False
    chosen: list[int] = []
    for _ in range(min(n, int(free.sum()))):
        worth = gains(candidates, goals, noise) / limits
        open_ = variances(goals) > limits
        score = (worth * (open_ if open_.any() else torch.ones_like(open_))).sum(1)
        best = int(torch.where(free, score, -torch.inf).argmax())
        chosen.append(best)
        free[best] = False
        candidates, goals = learned(candidates, goals, best, noise)
    return chosen


def foreseen(candidates: Tensor, goals: Tensor, noise: float, order: Sequence[int]) -> Tensor:
    """(1 + n, G) standard deviations of the averages before any label and after each of those of ``order``."""
    rows = [variances(goals)]
    for index in order:
        candidates, goals = learned(candidates, goals, index, noise)
        rows.append(variances(goals))
    return torch.stack(rows).sqrt()
