"""Figures about explanations: whether attributions hold up, and which vibrations move a property."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vibronic.core.errors import VibronicError
from vibronic.report.style import DASHES, NEUTRAL, PALETTE, SYMBOLS, faded, finite, pick, styled, with_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from vibronic.explain.vibrations import DegenerateSet


def fidelity_curve(found: Mapping[str, Any]) -> Figure:
    """Change of a prediction against the share of bonds that are removed (left) or kept (right).

    Args:
        found: the fields of a :class:`vibronic.explain.fidelity.Fidelity`, as its ``asdict`` gives them and JSON keeps them.

    Raises:
        VibronicError: values that are not finite.
    """
    from plotly.subplots import make_subplots

    titles = ["These bonds removed", "Only these bonds kept"]
    figure = make_subplots(1, 2, shared_yaxes=True, horizontal_spacing=0.05, subplot_titles=titles)
    shares = 100 * finite(found["fractions"], "fractions")
    lines = [
        ("largest |attribution|", 0, [("removed", "change", 1), ("kept", "change", 2)]),
        ("random, equal number and lengths", 1, [("removed", "random", 1), ("kept", "random", 2)]),
        ("named by untrained models", 2, [("untrained", "change", 1)]),
        ("random, equal to those", 3, [("untrained", "random", 1)]),
    ]
    for name, k, parts in lines:
        for part, key, col in parts:
            figure.add_scatter(
                x=shares,
                y=finite(found[part][key], f"'{part}'"),
                mode="lines+markers",
                name=name,
                legendgroup=name,
                showlegend=col == 1,
                line={"color": pick(PALETTE, k), "dash": pick(DASHES, k), "width": 2},
                marker={"size": 7, "symbol": pick(SYMBOLS, k)},
                hovertemplate="%{x:.0f} % of bonds: %{y:.3g}<extra>" + name + "</extra>",
                row=1,
                col=col,
            )
    figure.update_xaxes(title_text="Share of bonds (%)", rangemode="tozero")
    figure.update_yaxes(
        title_text=with_unit(f"|change| of {found['target']}", found["unit"]), rangemode="tozero", col=1
    )
    # The legend takes the place where subplot titles would be.
    return styled(figure, legend={"y": -0.2, "yanchor": "top"})


def mode_contributions(sets: Sequence[DegenerateSet], unit: str, title: str) -> Figure:
    """What each set of degenerate modes adds to the thermal mean of a property (above, with the running sum) and by how much it makes
    it fluctuate (below), against frequency.

    Args:
        sets: of :func:`vibronic.explain.vibrations.by_set`.
        unit: of the property.
        title: the property, for example "Band gap".

    Raises:
        VibronicError: there is none.
    """
    from plotly.subplots import make_subplots

    if not sets:
        raise VibronicError("there is nothing to plot: no mode has a thermal amplitude")
    ordered = sorted(sets, key=lambda one: one.frequency)
    at, count = np.array([s.frequency for s in ordered]), np.array([len(s.modes) for s in ordered])
    heights = np.array([s.shift for s in ordered]), np.array([s.deviation for s in ordered])
    bars = np.array([s.shift_error for s in ordered])
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])
    for row, (height, name) in enumerate(zip(heights, ("shift of the mean", "standard deviation"), strict=True), 1):
        color = pick(PALETTE, row - 1)
        # Stems: a NaN lifts the pen between them.
        x = np.column_stack([at, at, np.full(len(at), np.nan)]).ravel()
        y = np.column_stack([np.zeros(len(at)), height, np.full(len(at), np.nan)]).ravel()
        stem: dict[str, Any] = {"mode": "lines", "line": {"color": color, "width": 2}, "hoverinfo": "skip"}
        figure.add_scatter(x=x, y=y, showlegend=False, **stem, row=row, col=1)
        figure.add_scatter(
            x=at,
            y=height,
            customdata=count,
            mode="markers",
            marker={"color": color, "size": 7},
            error_y={"array": bars, "thickness": 1.2, "width": 3} if row == 1 else None,
            name=name,
            hovertemplate="%{x:.2f} THz, %{customdata} modes: %{y:.3g} " + unit + "<extra></extra>",
            row=row,
            col=1,
        )
        figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1}, row=row, col=1)
    figure.add_scatter(
        x=at,
        y=np.cumsum(heights[0]),
        mode="lines",
        line={"color": faded(NEUTRAL, 0.9), "shape": "hv", "dash": "dash", "width": 1.5},
        name="running sum of the shift",
        hovertemplate="up to %{x:.2f} THz: %{y:.3g} " + unit + "<extra></extra>",
        row=1,
        col=1,
    )
    figure.update_xaxes(title_text="Frequency (THz)", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(title_text=with_unit(f"{title}, shift", unit), row=1, col=1)
    figure.update_yaxes(title_text=with_unit("Deviation", unit), rangemode="tozero", row=2, col=1)
    return styled(figure, height=560)
