"""Sums by kind and length: they add up, and the answer comes with an interval over models."""

from dataclasses import replace

import numpy as np
import pytest

from vibronic.core.errors import VibronicError
from vibronic.explain.attribution import Attribution
from vibronic.explain.summary import leading, shares


def bonds(values: list[float]) -> Attribution:
    """Two Ag-S, three Ag-Ag, one Br-S."""
    n = len(values)
    return Attribution(
        i=np.zeros(n, int),
        j=np.arange(n),
        shift=np.zeros((n, 3), int),
        length=np.array([2.4, 2.6, 3.4, 3.6, 3.7, 4.2])[:n],
        value=np.array(values),
        kinds=np.array(["Ag-S", "Ag-S", "Ag-Ag", "Ag-Ag", "Ag-Ag", "Br-S"])[:n],
        whole=1.0,
        bare=0.0,
    )


def test_shares_are_counted_and_add_up() -> None:
    rows = shares([[bonds([4, -2, 1, 1, -1, 1])]])
    total = [r for r in rows if r.low is None]
    assert [(r.kind, r.number) for r in total] == [("Ag-S", 2), ("Ag-Ag", 3), ("Br-S", 1)]
    assert [r.mean for r in total] == pytest.approx([3, 1, 1])
    assert [r.share for r in total] == pytest.approx([0.6, 0.3, 0.1])
    assert [r.of_bonds for r in total] == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    parts = [r for r in rows if r.low is not None]
    assert [(r.kind, r.low, r.high, r.number) for r in parts][:3] == [
        ("Ag-S", 2.0, 2.5, 1),
        ("Ag-S", 2.5, 3.0, 1),
        ("Ag-Ag", 3.0, 3.5, 1),
    ]
    assert sum(r.share for r in parts) == pytest.approx(1)
    assert all(r.mean_half is None and r.share_half is None for r in rows)


def test_intervals_are_over_models() -> None:
    found = [[bonds([4, 2, 1, 1, 1, 1])], [bonds([6, 2, 1, 1, 1, 1])], [bonds([8, 2, 1, 1, 1, 1])]]
    first = shares(found)[0]
    assert first.mean == pytest.approx(4)
    assert first.mean_half == pytest.approx(4.302653 * 1 / np.sqrt(3), rel=1e-6)  # means 3, 4, 5


def test_is_it_silver_sulphur() -> None:
    agreed = [[bonds([4 * s, 2 * s, s, s, s, s])] for s in (1.0, 2.0, 1.5)]
    answer = leading(agreed)
    assert (answer.kind, answer.models, answer.of) == ("Ag-S", 3, 3)
    assert answer.ratio == pytest.approx(3)  # a scale of its own for each model does not matter
    assert answer.interval == pytest.approx((3, 3))
    assert "Ag-S matters most: 3.00 times" in answer.sentence()
    split = leading([[bonds([4, 2, 1, 1, 1, 1])], [bonds([1, 0.5, 2, 2, 2, 1])]])
    assert split.interval[0] < 1
    assert split.models == 1
    assert "the models do not agree" in split.sentence()
    assert "--more" in leading(agreed[:1]).sentence()
    assert leading(agreed[:1]).interval is None


def test_short_bonds_alone_can_be_compared() -> None:
    found = [[bonds([1, 1, 2, 2, 9, 9])]]
    assert leading(found).kind == "Br-S"
    assert (leading(found, 3.6).kind, leading(found, 3.6).second) == ("Ag-Ag", "Ag-S")
    with pytest.raises(VibronicError, match="no bond of up to 1"):
        leading(found, 1.0)


def test_one_kind_alone() -> None:
    assert leading([[bonds([1, 2])]]).sentence() == "all bonds are Ag-S"


def test_refusals() -> None:
    one = bonds([1, 2, 3])
    with pytest.raises(VibronicError, match="same bonds"):
        shares([[one], [replace(one, kinds=np.array(["a", "b", "c"]))]])
    with pytest.raises(VibronicError, match="nothing to sum up"):
        shares([[bonds([])]])
    with pytest.raises(VibronicError, match="positive width"):
        shares([[one]], 0.0)
