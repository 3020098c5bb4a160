"""Intervals of means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def half_width(values: Sequence[float] | np.ndarray) -> float | None:
    """Half width of Student's 95 % interval of the mean; None for a single value."""
    from scipy.stats import t

    n = len(values)
    return float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else None
