"""The house style of figures: colours, template, and what every figure checks before it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from vibronic.core.errors import VibronicError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from plotly.graph_objects.layout import Template

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito (2008), told apart with every common colour blindness; black and yellow are left out because each
# vanishes in one of the two colour schemes. Symbols and dashes repeat the distinction for a black-and-white print.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
DASHES = ("solid", "dash", "dot", "dashdot")
NEUTRAL = "#808080"
WEBGL_POINTS = 5000


@cache
def _template() -> Template:
    import plotly.graph_objects as go

    axis = {
        "automargin": True,
        "gridcolor": "#e4e4e2",
        "linecolor": "#8a8a88",
        "minor": {"ticks": ""},
        "showline": True,
        "ticks": "outside",
        "tickcolor": "#8a8a88",
        "ticklen": 4,
        "title": {"standoff": 10},
        "zeroline": False,
    }
    return go.layout.Template(
        layout={
            "colorway": list(PALETTE),
            "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#222"},
            "height": 440,
            "hoverlabel": {"font": {"size": 13}},
            "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#8a8a88", "activecolor": "#4a4a48"},
            "margin": {"l": 60, "r": 16, "t": 24, "b": 50},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": axis,
            "yaxis": axis,
        }
    )


def styled(figure: Figure, **layout: Any) -> Figure:
    """The figure in the house style."""
    return figure.update_layout(template=_template(), **layout)


def pick(options: Sequence[str], index: int) -> str:
    """An option by its index, from the first again after the last."""
    return options[index % len(options)]


def faded(color: str, opacity: float) -> str:
    """A colour ``#rrggbb`` that lets what is behind it through."""
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def with_unit(name: str, unit: str) -> str:
    """The title of an axis."""
    return f"{name} ({unit})" if unit and unit != "1" else name


def finite(values: ArrayLike, what: str) -> np.ndarray:
    """Numbers to plot.

    Raises:
        VibronicError: there is none, or one is not finite.
    """
    array = np.asarray(values, dtype=float)
    if array.size == 0:
        raise VibronicError(f"there is nothing to plot: {what} is empty")
    if not np.isfinite(array).all():
        raise VibronicError(f"{what} holds {np.sum(~np.isfinite(array))} values that are not finite; leave them out")
    return array


def column(rows: Rows, key: str) -> list[Any]:
    """The value of ``key`` in every row.

    Raises:
        VibronicError: there is no row, or one lacks it.
    """
    if not rows:
        raise VibronicError("there is nothing to plot: no rows were given")
    missing = [k for k, row in enumerate(rows) if key not in row]
    if missing:
        raise VibronicError(f"row {missing[0]} has no '{key}'; its keys are {', '.join(map(str, rows[missing[0]]))}")
    return [row[key] for row in rows]


def decade_marks(low: float, high: float) -> list[float]:
    """Round values of a logarithmic axis; plotly's own labels leave out the leading digits within a decade."""
    steps = (1, 2, 5) if high / low > 8 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [float(f"{step}e{decade}") for decade in decades for step in steps]
