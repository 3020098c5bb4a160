"""Schedules: how much of a crystal is left at every step of a diffusion, and how a flow shares out its evaluations."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

PASSES = ((1.0, 0.5), (0.6, 0.5), (0.6, 0.6), (0.6, 0.7), (0.6, 0.7), (0.6, 0.8), (0.6, 0.85), (0.4, 0.9))
"""Share of the atoms that are named in each pass, and the time of the flow, 0 (noise) to 1, from which the skeleton settles anew.
Chosen among plans of 4, 5, 6 and 8 passes by trials on Perov-5: fewer leave more crystals off the wish."""

RESTARTS = (0.6, 0.7, 0.8, 0.85)
"""Times of the flow from which crystals of given species settle again and again, as errors of the flow shrink each time (restart
sampling: Xu 2023). Chosen among ten plans by trials on Carbon-24."""

STEPS = 5  # of each such time


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


def budget(evaluations: int, hidden: int, several: int) -> tuple[int, list[tuple[float, float, int, int]]]:
    """Steps to a skeleton, and of each pass its share and time (:data:`PASSES`), its rounds of naming and its steps to settle.

    A round takes an evaluation for each of ``several`` names, and choosing among them one more. The first naming, of all
    ``hidden`` atoms, gets three times what the later ones get; where there is little to share out, there are half as many, or it
    is the only one. Where nothing is to be named, four fifths go into restarts. In all there are no more than ``evaluations``.
    """
    if not hidden:
        times = evaluations // (STEPS * (len(RESTARTS) + 1))
        restarts = [(0.0, back, 0, STEPS) for back in RESTARTS for _ in range(times)]
        return evaluations - STEPS * len(restarts), restarts
    choosing = several if several > 1 else 0
    for passes in (PASSES, PASSES[::2]):
        rounds = len(passes) + 2
        each = (evaluations - len(passes) * choosing) // (10 + 2 * len(passes) + rounds * several)
        if each > 0:
            plan = [(*one, min(hidden, each if k else 3 * each), 2 * each) for k, one in enumerate(passes)]
            break
    else:
        naming = max(1, min(hidden, evaluations // (4 * several)))
        plan = [(*PASSES[0], naming, evaluations // 4)]
    return evaluations - sum(naming * several + choosing + settling for *_, naming, settling in plan), plan
