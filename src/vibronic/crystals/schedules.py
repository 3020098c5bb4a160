"""Noise schedules: how much of a crystal is left at every step of a diffusion."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor


def cosine_alphas(steps: int, offset: float = 0.008, largest_beta: float = 0.999) -> Tensor:
    """Cumulative signal ``abar_t`` of the cosine schedule (Nichol and Dhariwal 2021, eq. 17).

    Args:
        steps: T.
        offset: s, which keeps the first steps from being too small.
        largest_beta: bound on a single step's noise, so that the last one stays defined.

    Returns:
        (T + 1,) in double precision; 1 at t = 0, before any noise.
    """
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    ideal = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    betas = (1 - ideal[1:] / ideal[:-1]).clamp(max=largest_beta)
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])


def geometric_sigmas(steps: int, smallest: float, largest: float) -> Tensor:
    """Widths of a variance-exploding diffusion, ``sigma_1 (sigma_T / sigma_1)^((t - 1) / (T - 1))``.

    Returns:
        (T + 1,) in double precision, in the unit of the two bounds; 0 at t = 0.
    """
    t = torch.linspace(0, 1, steps, dtype=torch.float64)
    return torch.cat([torch.zeros(1, dtype=torch.float64), smallest * (largest / smallest) ** t])


def strided(steps: int, evaluations: int) -> list[tuple[int, int]]:
    """Pairs ``(t, s)`` with t > s that lead from T to 0 in at most ``evaluations`` even strides, as DDIM takes them."""
    times = torch.linspace(steps, 0, min(evaluations, steps) + 1).round().long().tolist()
    return list(itertools.pairwise(times))


def flow_times(evaluations: int) -> Tensor:
    """(evaluations + 1,) even times from 0 (noise) to 1 (data)."""
    return torch.linspace(0, 1, evaluations + 1)
