"""Figures of the reports, in one house style; every function takes plain rows or arrays and returns a plotly figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from vibronic.core.errors import VibronicError
from vibronic.report.style import (
    DASHES,
    NEUTRAL,
    PALETTE,
    SYMBOLS,
    WEBGL_POINTS,
    Rows,
    column,
    decade_marks,
    faded,
    finite,
    pick,
    styled,
    with_unit,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def learning_curves(rows: Rows, metric: str, unit: str = "") -> Figure:
    """Error against the number of training structures: every seed a point, their median a line, min to max a band.

    Args:
        rows: dictionaries with ``size`` (structures), ``seed``, ``model``, ``set`` (the training set) and ``value``.
        metric: name of ``value``, for example "MAE of the band gap".
        unit: unit of ``value``.

    Returns:
        A figure with logarithmic axes; the value axis is linear when a value is zero or negative (R2 can be).

    Raises:
        VibronicError: no rows, a missing key, a size below 1 or a value that is not finite.
    """
    import plotly.graph_objects as go

    sizes = finite(column(rows, "size"), "size")
    values = finite(column(rows, "value"), "value")
    if (sizes < 1).any():
        raise VibronicError("a learning curve needs training sets of at least one structure")
    models, sets = (list(dict.fromkeys(column(rows, key))) for key in ("model", "set"))
    labels = list(zip(column(rows, "model"), column(rows, "set")))
    seeds = np.array([str(s) for s in column(rows, "seed")])

    figure = go.Figure()
    for model, name in dict.fromkeys(labels):
        chosen = np.array([label == (model, name) for label in labels])
        x, y = sizes[chosen], values[chosen]
        grid = np.unique(x)
        low, median, high = (np.array([f(y[x == size]) for size in grid]) for f in (np.min, np.median, np.max))
        # A lone training set leaves colour free to tell the models apart.
        color = pick(PALETTE, sets.index(name) if len(sets) > 1 else models.index(model))
        label = " · ".join([str(name)] * (len(sets) > 1) + [str(model)] * (len(models) > 1)) or str(model)
        shared: dict[str, Any] = {"legendgroup": label, "name": label}
        if (high > low).any():
            figure.add_scatter(
                x=np.concatenate([grid, grid[::-1]]),
                y=np.concatenate([high, low[::-1]]),
                fill="toself",
                fillcolor=faded(color, 0.16),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **shared,
            )
        figure.add_scatter(
            x=x,
            y=y,
            mode="markers",
            marker={"color": faded(color, 0.55), "size": 6, "symbol": pick(SYMBOLS, models.index(model))},
            customdata=seeds[chosen],
            hovertemplate="seed %{customdata}: %{y:.4g}<extra></extra>",
            showlegend=False,
            **shared,
        )
        figure.add_scatter(
            x=grid,
            y=median,
            mode="lines+markers",
            line={"color": color, "width": 2.5, "dash": pick(DASHES, models.index(model))},
            marker={"color": color, "size": 9, "symbol": pick(SYMBOLS, models.index(model))},
            hovertemplate="%{x} structures, median %{y:.4g}<extra>" + label + "</extra>",
            **shared,
        )
    ticks = np.unique(sizes)
    figure.update_xaxes(
        title_text="Training structures", type="log", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks]
    )
    figure.update_yaxes(title_text=with_unit(metric, unit))
    if (values > 0).all():
        marks = decade_marks(float(values.min()), float(values.max()))
        figure.update_yaxes(type="log", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks])
    return styled(figure)


def parity(groups: Mapping[str, tuple[ArrayLike, ArrayLike]], unit: str, title: str) -> Figure:
    """Predicted against reference values with the line of perfect prediction; MAE and R2 stand in the legend.

    Args:
        groups: name -> (reference, predicted), both of the same shape; arrays of any rank are flattened.
        unit: unit of the values.
        title: the quantity, for example "Band gap".

    Raises:
        VibronicError: nothing to plot, shapes that differ, or values that are not finite.
    """
    import plotly.graph_objects as go

    pairs = {}
    for name, (reference, predicted) in groups.items():
        x, y = (finite(v, f"'{name}'").ravel() for v in (reference, predicted))
        if x.shape != y.shape:
            raise VibronicError(f"'{name}' has {len(x)} reference but {len(y)} predicted values; they must match")
        pairs[name] = (x, y)
    if not pairs:
        raise VibronicError("there is nothing to plot: no groups were given")

    everything = np.concatenate([np.concatenate(pair) for pair in pairs.values()])
    low, high = float(everything.min()), float(everything.max())
    margin = 0.04 * (high - low) or 0.5
    ends = [low - margin, high + margin]
    figure = go.Figure()
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": NEUTRAL, "width": 1.5}, hoverinfo="skip", showlegend=False
    )
    many = everything.size / 2 > WEBGL_POINTS
    for k, (name, (x, y)) in enumerate(pairs.items()):
        error, spread = np.abs(y - x).mean(), np.sum((x - x.mean()) ** 2)
        r2 = f"{1 - np.sum((y - x) ** 2) / spread:.3f}".replace("-", "−") if spread > 0 else "–"
        figure.add_trace(
            (go.Scattergl if many else go.Scatter)(
                x=x,
                y=y,
                mode="markers",
                name=f"{name}: MAE {error:.3g} {unit}, R² {r2}",
                marker={"color": pick(PALETTE, k), "opacity": 0.35 if many else 0.7, "size": 4 if many else 6.5}
                | {"symbol": pick(SYMBOLS, k)},
                hovertemplate="reference %{x:.4g}<br>predicted %{y:.4g}<extra>" + name + "</extra>",
            )
        )
    figure.update_xaxes(title_text=with_unit(f"{title}, reference", unit), range=ends, constrain="domain")
    figure.update_yaxes(title_text=with_unit(f"{title}, predicted", unit), range=ends, constrain="domain")
    return styled(figure, width=560, height=560, yaxis={"scaleanchor": "x"}, legend={"orientation": "v"})


def dispersion(
    bands: Mapping[str, Sequence[tuple[ArrayLike, ArrayLike]]],
    ticks: Sequence[tuple[float, str]],
    dos: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> Figure:
    """Phonon dispersions over one another (for example before and after an effective fit), densities of states beside.

    Args:
        bands: name -> segments of the path, each (distance (Q,) 1/Angstrom, frequencies (Q, M) THz, imaginary ones
            negative). A line is broken between segments and wherever a distance repeats.
        ticks: (distance, label) of the special points; "G", "GAMMA" and "Gamma" become the Greek letter.
        dos: name -> (frequencies (K,) THz, density (K,) states per THz).

    Raises:
        VibronicError: nothing to plot, shapes that do not fit, or values that are not finite.
    """
    from plotly.subplots import make_subplots

    if not bands or not all(bands.values()):
        raise VibronicError("there is nothing to plot: no bands were given")
    columns = 2 if dos else 1
    figure = make_subplots(1, columns, shared_yaxes=True, column_widths=[0.78, 0.22][:columns], horizontal_spacing=0.03)
    lowest, highest, end = 0.0, 0.0, 0.0
    names = list(dict.fromkeys([*bands, *(dos or {})]))
    for name, segments in bands.items():
        style = {"color": pick(PALETTE, names.index(name)), "dash": pick(DASHES, names.index(name)), "width": 1.6}
        xs, ys = [], []
        for distance, frequencies in segments:
            x, y = finite(distance, f"the path of '{name}'"), finite(frequencies, f"'{name}'")
            if y.ndim != 2 or len(x) != len(y):
                raise VibronicError(f"'{name}' needs frequencies of shape (points, bands), not {y.shape} for {len(x)}")
            breaks = np.flatnonzero(np.diff(x) == 0) + 1
            # One trace for all bands: a NaN row lifts the pen, so the legend and the file stay small.
            xs.append(np.append(np.insert(x, breaks, np.nan), np.nan))
            ys.append(np.vstack([np.insert(y, breaks, np.nan, axis=0), np.full((1, y.shape[1]), np.nan)]))
            lowest, highest, end = min(lowest, float(y.min())), max(highest, float(y.max())), max(end, float(x.max()))
        if len({y.shape[1] for y in ys}) > 1:
            raise VibronicError(f"the segments of '{name}' differ in their number of bands")
        stacked = np.concatenate(ys)
        figure.add_scatter(
            x=np.tile(np.concatenate(xs), stacked.shape[1]),
            y=stacked.T.ravel(),
            mode="lines",
            name=name,
            legendgroup=name,
            line=style,
            hovertemplate="%{y:.2f} THz<extra>" + name + "</extra>",
            row=1,
            col=1,
        )
    for name, (frequencies, density) in (dos or {}).items():
        color = pick(PALETTE, names.index(name))
        figure.add_scatter(
            x=finite(density, f"the density of '{name}'"),
            y=finite(frequencies, f"the density of '{name}'"),
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=name not in bands,
            line={"color": color, "dash": pick(DASHES, names.index(name)), "width": 1.6},
            fill="tozerox",
            fillcolor=faded(color, 0.12),
            hovertemplate="%{y:.2f} THz<extra>" + name + "</extra>",
            row=1,
            col=2,
        )
    if lowest < -0.05:
        floor = 1.35 * lowest
        figure.add_hrect(y0=floor, y1=0, fillcolor=PALETTE[1], opacity=0.1, line_width=0, layer="below")
        label = {"xref": "x domain", "yanchor": "bottom", "xanchor": "right", "showarrow": False, "font": {"size": 12}}
        figure.add_annotation(text="imaginary", x=0.995, y=floor, **label)
        figure.update_yaxes(range=[floor, 1.04 * highest])
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1})
    for position, _ in ticks:
        figure.add_vline(x=position, line={"color": NEUTRAL, "width": 1}, row=1, col=1)
    labels = ["Γ" if label.upper() in ("G", "GAMMA", "Γ") else label.replace("|G", "|Γ") for _, label in ticks]
    figure.update_xaxes(
        title_text="Wave vector", tickvals=[p for p, _ in ticks], ticktext=labels, range=[0, end], showgrid=False, col=1
    )
    figure.update_yaxes(title_text="Frequency (THz)", col=1)
    if dos:
        figure.update_xaxes(title_text="States/THz", rangemode="tozero", nticks=4, col=2)
    return styled(figure)


def mean_square_displacement(rows: Rows) -> Figure:
    """Sampled mean-square displacements with their error bars beside the thermal displacement of theory.

    Args:
        rows: dictionaries with ``set``, ``species``, ``sampled`` and ``theory`` (either may be None where unknown) and,
            if known, ``error`` (one standard error of ``sampled``); Angstrom^2 per Cartesian component.

    Raises:
        VibronicError: no rows, or a missing key.
    """
    import plotly.graph_objects as go

    sets, species = (list(dict.fromkeys(column(rows, key))) for key in ("set", "species"))
    for key in ("sampled", "theory"):
        finite([v for v in column(rows, key) if v is not None] or [0.0], key)
    width = 0.7 / len(species)
    figure = go.Figure()
    for k, element in enumerate(species):
        own = [row for row in rows if row["species"] == element]
        x = [sets.index(row["set"]) + (k - (len(species) - 1) / 2) * width for row in own]
        color, symbol = pick(PALETTE, k), pick(SYMBOLS, k)
        figure.add_scatter(
            x=x,
            y=[row["theory"] for row in own],
            mode="markers",
            marker={"color": color, "size": 22, "symbol": "line-ew", "line": {"color": color, "width": 3}},
            showlegend=False,
            hovertemplate=f"{element}, theory: " + "%{y:.4f} Å²<extra></extra>",
        )
        figure.add_scatter(
            x=x,
            y=[row["sampled"] for row in own],
            error_y={"array": [row.get("error") or 0 for row in own], "thickness": 1.5, "width": 4},
            mode="markers",
            marker={"color": color, "size": 9, "symbol": symbol},
            name=str(element),
            hovertemplate=f"{element}, sampled: " + "%{y:.4f} Å²<extra></extra>",
        )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        name="theory",
        marker={"size": 16, "symbol": "line-ew", "line": {"color": NEUTRAL, "width": 3}},
    )
    figure.update_xaxes(tickvals=list(range(len(sets))), ticktext=[str(s) for s in sets], showgrid=False)
    figure.update_xaxes(range=[-0.5, len(sets) - 0.5])
    figure.update_yaxes(title_text="⟨<i>u</i>²⟩ per component (Å²)", rangemode="tozero")
    return styled(figure)


def attribution_by_bond(rows: Rows) -> Figure:
    """How much each type of bond matters to a prediction: distribution by type, and weight against length.

    Args:
        rows: dictionaries with ``bond`` (for example "Ag-S"), ``length`` (Angstrom) and ``weight`` (0 to 1).

    Raises:
        VibronicError: no rows, a missing key, or values that are not finite.
    """
    from plotly.subplots import make_subplots

    bonds = np.array([str(b) for b in column(rows, "bond")])
    lengths = finite(column(rows, "length"), "length")
    weights = finite(column(rows, "weight"), "weight")
    order = sorted(dict.fromkeys(bonds), key=lambda bond: -float(np.median(weights[bonds == bond])))
    figure = make_subplots(1, 2, shared_yaxes=True, column_widths=[0.42, 0.58], horizontal_spacing=0.04)
    for k, bond in enumerate(order):
        chosen = bonds == bond
        color = pick(PALETTE, k)
        figure.add_box(
            y=weights[chosen],
            name=bond,
            legendgroup=bond,
            showlegend=False,
            boxpoints="outliers",
            line={"color": color, "width": 1.5},
            fillcolor=faded(color, 0.2),
            marker={"color": color, "size": 4},
            row=1,
            col=1,
        )
        figure.add_scatter(
            x=lengths[chosen],
            y=weights[chosen],
            mode="markers",
            name=f"{bond} ({chosen.sum()})",
            legendgroup=bond,
            marker={"color": color, "opacity": 0.6, "size": 6, "symbol": pick(SYMBOLS, k)},
            hovertemplate="%{x:.2f} Å, weight %{y:.2f}<extra>" + bond + "</extra>",
            row=1,
            col=2,
        )
    figure.update_xaxes(title_text="Bond", showgrid=False, col=1)
    figure.update_xaxes(title_text="Length (Å)", col=2)
    figure.update_yaxes(title_text="Attribution weight", col=1)
    return styled(figure)


def histogram(groups: Mapping[str, ArrayLike], unit: str, title: str = "Value") -> Figure:
    """Distributions over common bins (numpy's ``auto`` rule), each as a share of its own group in per cent.

    Args:
        groups: name -> values, flattened.
        unit: unit of the values.
        title: the quantity, for example "Band gap".

    Raises:
        VibronicError: nothing to plot, or values that are not finite.
    """
    import plotly.graph_objects as go

    arrays = {name: finite(values, f"'{name}'").ravel() for name, values in groups.items()}
    if not arrays:
        raise VibronicError("there is nothing to plot: no groups were given")
    pooled = np.concatenate(list(arrays.values()))
    # numpy's rule can ask for thousands of bins when the groups are far apart.
    edges = np.histogram_bin_edges(pooled, bins="auto")
    if len(edges) > 81:
        edges = np.histogram_bin_edges(pooled, bins=80)
    outline = np.repeat(edges, 2)
    figure = go.Figure()
    for k, (name, values) in enumerate(arrays.items()):
        share = 100 * np.histogram(values, edges)[0] / len(values)
        color = pick(PALETTE, k)
        figure.add_scatter(
            x=outline,
            y=np.concatenate([[0], np.repeat(share, 2), [0]]),
            mode="lines",
            name=name,
            line={"color": color, "width": 2},
            fill="tozeroy",
            fillcolor=faded(color, 0.15),
            hovertemplate="%{x:.4g}: %{y:.1f} %<extra>" + name + "</extra>",
        )
    step = edges[1] - edges[0]
    figure.update_xaxes(title_text=with_unit(title, unit), range=[edges[0] - step, edges[-1] + step])
    figure.update_yaxes(title_text="Share (%)", rangemode="tozero")
    return styled(figure)


def error_by_size(rows: Rows, metric: str, unit: str = "", boundary: float | None = None) -> Figure:
    """An error by the number of atoms of a structure, a line for each model, on a logarithmic axis.

    Args:
        rows: dictionaries with ``model``, ``atoms``, ``value`` (positive) and ``n``, the structures behind it.
        metric: name of ``value``.
        unit: unit of ``value``.
        boundary: atoms where the training set ends; a line is drawn there.

    Raises:
        VibronicError: no rows, a missing key or a value that is not finite.
    """
    import plotly.graph_objects as go

    models = list(dict.fromkeys(column(rows, "model")))
    finite(column(rows, "value"), "value")
    figure = go.Figure()
    for k, model in enumerate(models):
        mine = [row for row in rows if row["model"] == model]
        figure.add_scatter(
            x=column(mine, "atoms"),
            y=column(mine, "value"),
            customdata=column(mine, "n"),
            mode="lines+markers",
            line={"color": pick(PALETTE, k), "dash": pick(DASHES, k), "width": 2},
            marker={"size": 8, "symbol": pick(SYMBOLS, k)},
            name=str(model),
            hovertemplate="%{x} atoms: %{y:.3g}, %{customdata} structures<extra>" + str(model) + "</extra>",
        )
    if boundary is not None:
        figure.add_vline(x=boundary, line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    figure.update_xaxes(title_text="Atoms in the structure")
    figure.update_yaxes(title_text=with_unit(metric, unit), type="log")
    return styled(figure)


def comparison(rows: Rows, metric: str, unit: str = "") -> Figure:
    """A score of several models on several test sets: every seed a point.

    Args:
        rows: dictionaries with ``model``, ``set`` (the test set), ``seed`` and ``value``.
        metric: name of ``value``.
        unit: unit of ``value``.

    Raises:
        VibronicError: no rows, a missing key or a value that is not finite.
    """
    import plotly.graph_objects as go

    models, sets = (list(dict.fromkeys(column(rows, key))) for key in ("model", "set"))
    seeds, values = column(rows, "seed"), finite(column(rows, "value"), "value")
    figure = go.Figure()
    for k, name in enumerate(sets):
        chosen = [i for i, row in enumerate(rows) if row["set"] == name]
        figure.add_scatter(
            x=[models.index(rows[i]["model"]) + 0.3 * (k - (len(sets) - 1) / 2) for i in chosen],
            y=values[chosen],
            mode="markers",
            marker={"color": pick(PALETTE, k), "size": 10, "symbol": pick(SYMBOLS, k)},
            name=str(name),
            customdata=[seeds[i] for i in chosen],
            hovertemplate="%{y:.3g}, seed %{customdata}<extra>" + str(name) + "</extra>",
        )
    figure.update_xaxes(tickvals=list(range(len(models))), ticktext=[str(m) for m in models], showgrid=False)
    figure.update_yaxes(title_text=with_unit(metric, unit), rangemode="tozero")
    return styled(figure)
