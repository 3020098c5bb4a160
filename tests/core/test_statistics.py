"""Means of a few values and their intervals."""

import numpy as np
import pytest

from vibronic.core.statistics import geometric_mean, half_width


def test_the_interval_is_students():
    """Ratios 2, 2.2, 1.8: mean of logs 0.690, standard error 0.058, t(2) = 4.303."""
    mean, (low, high) = geometric_mean(np.log([2.0, 2.2, 1.8]))
    assert mean == pytest.approx(7.92 ** (1 / 3))
    assert low == pytest.approx(1.553, abs=0.01)
    assert high == pytest.approx(2.561, abs=0.02)


def test_one_value_has_no_interval():
    assert geometric_mean([np.log(3.0)]) == (pytest.approx(3.0), None)
    assert half_width([3.0]) is None


def test_a_wide_interval_stays_finite():
    assert all(np.isfinite(geometric_mean([-600.0, 600.0])[1]))
