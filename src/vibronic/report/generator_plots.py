"""Figures about generators: how they were trained, and whether what they make has what was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from vibronic.core.errors import VibronicError
from vibronic.report.style import (
    DASHES,
    NEUTRAL,
    PALETTE,
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

_FEW = 40
"""Points of a curve, up to which each is marked."""


def training_curves(rows: Rows) -> Figure:
    """The parts of a loss by epoch, a panel for each part and a line for each set; logarithmic where it changes much.

    Args:
        rows: dictionaries with ``epoch``, ``part`` (of the loss), ``set`` and ``value``, in order of the epochs.

    Raises:
        VibronicError: no rows, a missing key or a value that is not finite.
    """
    from plotly.subplots import make_subplots

    parts, sets = (list(dict.fromkeys(column(rows, key))) for key in ("part", "set"))
    finite(column(rows, "value"), "value")
    columns = min(2, len(parts))
    lines = -(-len(parts) // columns)
    figure = make_subplots(
        lines, columns, subplot_titles=parts, horizontal_spacing=0.1, vertical_spacing=min(0.15, 0.4 / lines)
    )
    for p, part in enumerate(parts):
        place = {"row": p // columns + 1, "col": p % columns + 1}
        values = []
        for k, name in enumerate(sets):
            own = [row for row in rows if (row["part"], row["set"]) == (part, name)]
            values += [row["value"] for row in own]
            figure.add_scatter(
                x=[row["epoch"] for row in own],
                y=[row["value"] for row in own],
                mode="lines+markers" if len(own) <= _FEW else "lines",
                line={"color": pick(PALETTE, k), "dash": pick(DASHES, k), "width": 2},
                marker={"size": 5},
                name=str(name),
                legendgroup=str(name),
                showlegend=p == 0,
                hovertemplate="epoch %{x}: %{y:.4g}<extra>" + f"{part}, {name}</extra>",
                **place,
            )
        if min(values) > 0 and max(values) > 3 * min(values):
            marks = decade_marks(min(values), max(values))
            figure.update_yaxes(type="log", tickvals=marks, ticktext=[f"{mark:g}" for mark in marks], **place)
        figure.update_xaxes(title_text="Epoch" if p + columns >= len(parts) else None, **place)
    figure.update_annotations(font={"size": 13})
    legend = {"y": 1 + 34 / (230 * lines)}
    return styled(figure, height=230 * lines + 90, margin={"t": 60}, legend=legend)


def asked_against_found(rows: Rows, reference: ArrayLike, title: str, unit: str = "") -> Figure:
    """Distributions one below the other, that of a reference first; a line where each should be.

    Values far beyond the reference and the lines are counted at the edge of the axis.

    Args:
        rows: dictionaries with ``name``, ``asked`` (a value, or None where nothing was asked) and ``values``.
        reference: values of the training set.
        title: the quantity.
        unit: of it.

    Raises:
        VibronicError: no rows, a missing key, an empty reference, or values that are not finite.
    """
    from plotly.subplots import make_subplots

    known = finite(reference, "the reference").ravel()
    asked = [value for value in column(rows, "asked") if value is not None]
    shown = [("training set", None, known)]
    for name, value, found in zip(column(rows, "name"), column(rows, "asked"), column(rows, "values"), strict=True):
        shown.append((name, value, finite(found, f"'{name}'").ravel() if len(found) else np.zeros(0)))
    low, high = min([known.min(), *asked]), max([known.max(), *asked])
    if not high - low < np.inf:
        raise VibronicError("the reference spans more than a plot can show")
    margin = 0.15 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, 41)
    outline = np.repeat(edges, 2)
    figure = make_subplots(len(shown), 1, shared_xaxes=True, vertical_spacing=0.02)
    for k, (name, value, values) in enumerate(shown, 1):
        color = pick(PALETTE, k - 2) if k > 1 else NEUTRAL
        if len(values):
            share = 100 * np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
            figure.add_scatter(
                x=outline,
                y=np.concatenate([[0], np.repeat(share, 2), [0]]),
                mode="lines",
                line={"color": color, "width": 1.5},
                fill="tozeroy",
                fillcolor=faded(color, 0.25),
                hovertemplate="%{x:.4g}: %{y:.1f} %<extra>" + name + "</extra>",
                showlegend=False,
                row=k,
                col=1,
            )
        if value is not None:
            figure.add_vline(x=value, line={"color": color, "width": 2.5, "dash": "dash"}, row=k, col=1)
        axis = f"y{k if k > 1 else ''} domain"
        figure.add_annotation(
            text=name, x=0, y=0.96, xref="paper", yref=axis, xanchor="left", yanchor="top", showarrow=False
        )
    figure.update_xaxes(range=[float(edges[0]), float(edges[-1])])
    figure.update_xaxes(title_text=with_unit(title, unit), row=len(shown), col=1)
    figure.update_yaxes(rangemode="tozero", showticklabels=False, ticks="", showgrid=False)
    figure.update_annotations(font={"size": 13})
    return styled(figure, height=76 * len(shown) + 80)
