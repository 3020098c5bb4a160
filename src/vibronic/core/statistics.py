"""Means of a few values and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def half_width(values: Sequence[float] | np.ndarray) -> float | None:
    """Half width of Student's 95 % interval of the mean; None for a single value."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None


def geometric_mean(logarithms: Sequence[float] | np.ndarray) -> tuple[float, tuple[float, float] | None]:
    """Geometric mean of values given by their logarithms, and its 95 % interval (Student's t of these); None for a single value."""
    mean, half = float(np.mean(logarithms)), half_width(logarithms)
    if half is None:
        return float(np.exp(mean)), None
    low, high = np.exp(np.clip([mean - half, mean + half], -700.0, 700.0)).tolist()
    return float(np.exp(mean)), (low, high)
