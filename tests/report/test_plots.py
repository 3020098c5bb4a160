"""The numbers inside the figures are the numbers that were given; axes carry units; nonsense is refused."""

import numpy as np
import pytest

from vibronic.core.errors import VibronicError
from vibronic.report import plots, style

ROWS = [
    {"size": size, "seed": seed, "model": model, "set": name, "value": value * size**-0.5 * (1 + 0.1 * seed)}
    for model, name, value in (("painn", "phonons", 1.0), ("painn", "random", 2.0), ("ridge", "random", 3.0))
    for size in (100, 25)
    for seed in (0, 1, 5)
]


def traces(figure, **wanted):
    return [t for t in figure.data if all(t[k] == v for k, v in wanted.items())]


def test_learning_curves_draw_median_range_and_every_seed():
    figure = plots.learning_curves(ROWS, "MAE", "eV")
    (median,) = traces(figure, name="random · painn", mode="lines+markers")
    np.testing.assert_array_equal(median.x, [25, 100])
    np.testing.assert_allclose(median.y, [2 / 5 * 1.1, 2 / 10 * 1.1])
    (points,) = traces(figure, name="random · painn", mode="markers")
    assert len(points.y) == 6
    assert set(points.customdata) == {"0", "1", "5"}
    (band,) = traces(figure, name="random · painn", fill="toself")
    np.testing.assert_allclose(band.y, [2 / 5 * 1.5, 2 / 10 * 1.5, 2 / 10, 2 / 5])
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert figure.layout.yaxis.title.text == "MAE (eV)"
    assert [t.name for t in figure.data if t.showlegend is None] == [
        "phonons · painn",
        "random · painn",
        "random · ridge",
    ]


def test_learning_curves_of_a_score_that_can_be_negative_are_linear():
    rows = [{"size": n, "seed": 0, "model": "m", "set": "s", "value": v} for n, v in ((10, -0.4), (100, 0.8))]
    figure = plots.learning_curves(rows, "R²")
    assert figure.layout.yaxis.type is None
    assert figure.layout.yaxis.title.text == "R²"
    assert not traces(figure, fill="toself"), "one seed has no range"


def test_one_training_set_tells_models_apart_by_colour():
    rows = [{"size": 10, "seed": 0, "model": m, "set": "s", "value": 1.0} for m in ("a", "b")]
    lines = traces(plots.learning_curves(rows, "MAE", "eV"), mode="lines+markers")
    assert [t.name for t in lines] == ["a", "b"]
    assert lines[0].line.color != lines[1].line.color


def test_decade_marks_cover_narrow_and_wide_ranges():
    narrow = [m for m in style.decade_marks(0.031, 0.09) if 0.031 <= m <= 0.09]
    assert narrow == [0.04, 0.05, 0.06, 0.08]
    assert {0.001, 0.02, 0.5, 10.0} < set(style.decade_marks(0.001, 10))


def test_parity_scores_and_square_axes():
    reference = np.array([1.0, 2.0, 3.0, 4.0])
    figure = plots.parity({"test": (reference, [1.1, 1.9, 3.1, 3.9])}, "eV", "Band gap")
    assert figure.data[1].name == "test: MAE 0.1 eV, R² 0.992"
    assert figure.data[1].type == "scatter"
    assert figure.layout.xaxis.range == figure.layout.yaxis.range
    np.testing.assert_array_equal(figure.data[0].x, figure.data[0].y)
    assert figure.layout.xaxis.title.text == "Band gap, reference (eV)"
    assert figure.layout.yaxis.scaleanchor == "x"


def test_parity_flattens_forces_and_switches_to_webgl_for_many_points():
    forces = np.random.default_rng(0).normal(size=(20, 100, 3))
    figure = plots.parity({"forces": (forces, forces)}, "eV/Å", "Force")
    assert figure.data[1].type == "scattergl"
    assert len(figure.data[1].x) == 6000
    assert figure.data[1].name.endswith("R² 1.000")


def test_parity_of_a_constant_reference_has_no_r2():
    assert plots.parity({"a": ([1, 1], [1, 2])}, "eV", "Gap").data[1].name == "a: MAE 0.5 eV, R² –"


def test_dispersion_lifts_the_pen_between_segments_and_shades_imaginary_modes():
    first = (np.array([0.0, 0.5]), np.array([[-1.0, 1.0], [0.0, 2.0]]))
    second = (np.array([0.5, 0.8, 0.8, 1.0]), np.array([[3.0, 4.0], [3.1, 4.1], [5.0, 6.0], [5.1, 6.1]]))
    ticks = [(0.0, "GAMMA"), (0.5, "X"), (0.8, "K|G"), (1.0, "L")]
    figure = plots.dispersion({"0 K": [first, second]}, ticks, {"0 K": ([-1.0, 0, 6], [0.5, 1, 2])})
    bands, dos = figure.data
    np.testing.assert_array_equal(bands.x[:8], [0, 0.5, np.nan, 0.5, 0.8, np.nan, 0.8, 1.0])
    np.testing.assert_array_equal(bands.y[:8], [-1, 0, np.nan, 3, 3.1, np.nan, 5, 5.1])
    np.testing.assert_array_equal(bands.y[9:17], [1, 2, np.nan, 4, 4.1, np.nan, 6, 6.1])
    np.testing.assert_array_equal(dos.x, [0.5, 1, 2])
    assert dos.showlegend is False
    assert list(figure.layout.xaxis.ticktext) == ["Γ", "X", "K|Γ", "L"]
    assert figure.layout.yaxis.title.text == "Frequency (THz)"
    assert [a.text for a in figure.layout.annotations] == ["imaginary"]
    assert any(s.type == "rect" and s.y1 == 0 and s.y0 < -1 for s in figure.layout.shapes)


def test_stable_dispersion_is_not_shaded():
    figure = plots.dispersion({"a": [([0.0, 1.0], [[0.0], [2.0]])]}, [(0.0, "G"), (1.0, "X")])
    assert not figure.layout.annotations
    assert not [s for s in figure.layout.shapes if s.type == "rect"]


def test_mean_square_displacement_keeps_values_errors_and_gaps():
    rows = [
        {"set": "phonons", "species": "Ag", "sampled": 0.044, "theory": 0.045, "error": 0.002},
        {"set": "phonons", "species": "S", "sampled": 0.018, "theory": 0.0181},
        {"set": "MD", "species": "Ag", "sampled": 0.05, "theory": None},
    ]
    figure = plots.mean_square_displacement(rows)
    (silver,) = traces(figure, name="Ag", showlegend=None)
    assert list(silver.y) == [0.044, 0.05]
    assert list(silver.error_y.array) == [0.002, 0]
    assert silver.x[1] - silver.x[0] == 1
    theory = figure.data[0]
    assert list(theory.y) == [0.045, None]
    assert list(figure.layout.xaxis.ticktext) == ["phonons", "MD"]
    assert "Å²" in figure.layout.yaxis.title.text


def test_attribution_orders_bonds_by_their_median_weight():
    rows = [{"bond": b, "length": 2 + w, "weight": w} for b, w in (("Ag-Ag", 0.1), ("Ag-S", 0.9), ("Ag-S", 0.8))]
    figure = plots.attribution_by_bond(rows)
    boxes = traces(figure, type="box")
    assert [b.name for b in boxes] == ["Ag-S", "Ag-Ag"]
    assert list(boxes[0].y) == [0.9, 0.8]
    assert traces(figure, name="Ag-S (2)")[0].marker.color == boxes[0].line.color
    assert figure.layout.xaxis2.title.text == "Length (Å)"


def test_histogram_shares_add_up_over_common_bins():
    rng = np.random.default_rng(1)
    figure = plots.histogram({"a": rng.normal(size=200), "b": rng.normal(3, 1, size=(10, 5))}, "eV", "Gap")
    for trace in figure.data:
        np.testing.assert_allclose(np.sum(trace.y[1:-1:2]), 100)
    np.testing.assert_array_equal(figure.data[0].x, figure.data[1].x)
    assert figure.layout.xaxis.title.text == "Gap (eV)"


def test_histogram_of_distant_groups_stays_small():
    far = {"a": np.linspace(0, 1e-3, 50), "b": 1e6 + np.linspace(0, 1e-3, 50)}
    assert len(plots.histogram(far, "eV").data[0].x) <= 164


def test_error_by_size_draws_each_model_and_the_boundary():
    rows = [{"model": m, "atoms": n, "value": n * v, "n": 12} for m, v in (("a", 1.0), ("b", 2.0)) for n in (13, 15)]
    figure = plots.error_by_size(rows, "MAE", "kcal/mol", boundary=14.5)
    assert [(t.name, list(t.x), list(t.y)) for t in figure.data] == [
        ("a", [13, 15], [13, 15]),
        ("b", [13, 15], [26, 30]),
    ]
    assert figure.layout.shapes[0].x0 == 14.5
    assert figure.layout.yaxis.title.text == "MAE (kcal/mol)"
    assert not plots.error_by_size(rows, "MAE").layout.shapes


def test_every_figure_has_the_house_style():
    figure = plots.histogram({"a": [1.0, 2.0, 2.5]}, "eV")
    assert figure.layout.template.layout.colorway == plots.PALETTE
    assert figure.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plots.learning_curves([], "MAE", "eV"), "no rows"),
        (lambda: plots.learning_curves([{"size": 1}], "MAE", "eV"), "row 0 has no 'value'"),
        (lambda: plots.learning_curves([ROWS[0] | {"value": np.nan}], "MAE", "eV"), "not finite"),
        (lambda: plots.learning_curves([ROWS[0] | {"size": 0}], "MAE", "eV"), "at least one structure"),
        (lambda: plots.parity({}, "eV", "Gap"), "no groups"),
        (lambda: plots.parity({"a": ([1, 2], [1])}, "eV", "Gap"), "2 reference but 1 predicted"),
        (lambda: plots.parity({"a": ([1, np.inf], [1, 1])}, "eV", "Gap"), "not finite"),
        (lambda: plots.error_by_size([], "MAE"), "no rows"),
        (lambda: plots.histogram({}, "eV"), "no groups"),
        (lambda: plots.histogram({"a": []}, "eV"), "'a' is empty"),
        (lambda: plots.dispersion({}, []), "no bands"),
        (lambda: plots.dispersion({"a": [([0, 1], [[1.0]])]}, []), "shape"),
        (lambda: plots.dispersion({"a": [([0], [[1.0]]), ([1], [[1.0, 2.0]])]}, []), "differ in their number"),
        (lambda: plots.mean_square_displacement([]), "no rows"),
        (lambda: plots.attribution_by_bond([{"bond": "a", "length": 1}]), "no 'weight'"),
    ],
)
def test_nonsense_is_told_in_one_sentence(call, words):
    with pytest.raises(VibronicError, match=words):
        call()
