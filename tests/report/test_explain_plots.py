"""The numbers inside the figures of explanations are those that were given."""

import numpy as np
import pytest

from vibronic.core.errors import VibronicError
from vibronic.explain.vibrations import DegenerateSet
from vibronic.report.explain_plots import fidelity_curve, mode_contributions


def contrast(height: float) -> dict:
    return {"change": [height, 2 * height], "random": [0.5 * height, height]}


def test_every_curve_of_fidelity_is_where_it_belongs():
    parts = {"removed": contrast(1.0), "kept": contrast(3.0), "untrained": contrast(0.7)}
    figure = fidelity_curve({"target": "band_gap", "unit": "eV", "fractions": [0.1, 0.2], **parts})
    left = {t.name: list(t.y) for t in figure.data if t.xaxis == "x"}
    right = {t.name: list(t.y) for t in figure.data if t.xaxis == "x2"}
    assert left["largest |attribution|"] == [1.0, 2.0]
    assert left["random, equal number and lengths"] == [0.5, 1.0]
    assert left["named by untrained models"] == [0.7, 1.4]
    assert right == {"largest |attribution|": [3.0, 6.0], "random, equal number and lengths": [1.5, 3.0]}
    assert list(figure.data[0].x) == [10, 20]
    assert figure.layout.yaxis.title.text == "|change| of band_gap (eV)"
    with pytest.raises(VibronicError, match="not finite"):
        fidelity_curve({"target": "g", "unit": "eV", "fractions": [0.1, np.nan], **parts})


def test_degenerate_modes_are_one_point():
    sets = [DegenerateSet(np.array([3]), 5.0, -0.5, 0.1, 1.0), DegenerateSet(np.array([1, 2]), 2.0, 0.4, 0.5, 5.0)]
    figure = mode_contributions(sets, "eV", "Gap")
    above, below = (next(t for t in figure.data if t.name == n) for n in ("shift of the mean", "standard deviation"))
    assert list(above.x) == [2.0, 5.0]
    assert list(above.y) == pytest.approx([0.4, -0.5])
    assert list(above.customdata) == [2, 1]
    assert list(above.error_y.array) == pytest.approx([0.5, 0.1])
    assert list(below.y) == pytest.approx([5.0, 1.0])
    (running,) = [t for t in figure.data if t.name == "running sum of the shift"]
    assert list(running.y) == pytest.approx([0.4, -0.1])
    assert figure.layout.yaxis.title.text == "Gap, shift (eV)"


def test_refusals():
    with pytest.raises(VibronicError, match="no mode has a thermal amplitude"):
        mode_contributions([], "eV", "Gap")
