"""One self-contained HTML page: text, figures, tables and crystals that need no network."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import writable
from vibronic.report.crystal import Bond, color_scale, scene
from vibronic.report.volume import Volume

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# The browser itself is told to fetch nothing, whatever a figure or a library would like to load.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; worker-src blob:"
)
NUMBER = re.compile(r"[<>≤≥≈~±]?\s*[-−+]?\d[\d\s.,]*(\s*[×x]\s*10\S+|[eE][-−+]?\d+)?(\s*±\s*[\d.,]+)?\s*%?")


class Report:
    """A page that is filled from top to bottom and then written.

    Text and captions may hold ``**bold**`` and `` `code` ``; everything else, tags included, appears as it was typed.

    Args:
        title: heading of the page.
        subtitle: one line below it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self._blocks: list[str] = []
        self._sections: list[str] = []
        self._count = {"figure": 0, "table": 0, "plot": 0, "crystal": 0}

    def section(self, title: str) -> None:
        """Start a section; it appears in the table of contents."""
        self._sections.append(title)
        self._blocks.append(f'<h2 id="section-{len(self._sections)}">{_inline(title)}</h2>')

    def text(self, text: str) -> None:
        """Paragraphs, separated by blank lines; a paragraph whose lines all start with "- " is a list."""
        self._blocks += _paragraphs(text)

    def note(self, text: str) -> None:
        """A call-out for what the reader must not miss, for example imaginary modes."""
        self._blocks.append(f'<aside class="note" role="note">{"".join(_paragraphs(text))}</aside>')

    def figure(self, figure: Figure, caption: str) -> None:
        """A plotly figure, for example from :mod:`vibronic.report.plots`."""
        self._count["plot"] += 1
        width, height = figure.layout.width, figure.layout.height or 440
        # A figure with a width of its own keeps its proportions on a narrow screen; any other keeps its height.
        style = f"max-width:{width:g}px;aspect-ratio:{width:g}/{height:g}" if width else f"height:{height:g}px"
        widget = _widget("plot", figure.to_json(), f"Plot: {caption}", style)
        self._caption("figure", widget, caption)

    def crystal(
        self,
        atoms: Atoms,
        caption: str,
        bonds: Iterable[Bond] | None = None,
        volume: Volume | None = None,
        motion: np.ndarray | None = None,
    ) -> None:
        """A structure that can be turned.

        Args:
            atoms: molecule or crystal; the unit cell of a crystal is outlined.
            caption: what it shows.
            bonds: (i, j, (sx, sy, sz), weight 0 to 1), see :func:`vibronic.report.crystal.scene`.
            volume: a field whose isosurfaces are drawn, too.
            motion: (N, 3) Angstrom, the displacements of a vibration: atoms move to and fro, with arrows.

        Raises:
            VibronicError: the structure cannot be drawn, or a bond or a motion is impossible.
        """
        bonds = None if bonds is None else list(bonds)
        content = scene(atoms, bonds, motion)
        if volume is not None:
            content["volume"] = volume.scene()
        self._count["crystal"] += 1
        formula = (
            atoms.get_chemical_formula("metal", empirical=True) if atoms.pbc.any() else atoms.get_chemical_formula()
        )
        viewer = _widget("crystal", json.dumps(content), f"Structure of {formula}, {len(atoms)} atoms: {caption}")
        legend = "".join(
            f'<span><i class="element" style="background:{look["color"]}"></i>{symbol}</span>'
            for symbol, look in content["elements"].items()
        )
        if bonds:
            stops = ", ".join(color_scale(np.linspace(0, 1, 11).tolist()))
            legend += (
                '<span class="scale">bond weight 0'
                f'<i style="background:linear-gradient(to right, {stops})"></i>1</span>'
            )
        for surface in content.get("volume", {}).get("surfaces", ()):
            legend += (
                f'<span><i class="element" style="background:{surface["color"]}"></i>{escape(surface["label"])}</span>'
            )
        hint = '<span class="hint">drag to turn, click and scroll to zoom, double-click to reset</span>'
        self._caption("figure", f'{viewer}<p class="legend">{legend}{hint}</p>', caption)

    def gallery(self, crystals: Iterable[tuple[Atoms, str]]) -> None:
        """Structures side by side, each with its caption; browsers draw about 16 on a page.

        Raises:
            VibronicError: one cannot be drawn.
        """
        self._blocks.append('<div class="gallery">')
        for atoms, caption in crystals:
            self.crystal(atoms, caption)
        self._blocks.append("</div>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> None:
        """A table; columns of numbers are right aligned and floats share the decimals that their size deserves.

        Args:
            columns: headings, with units.
            rows: strings, numbers or None (shown as a dash), one per column.
            caption: what it shows.

        Raises:
            VibronicError: a row has more or fewer cells than there are columns.
        """
        for k, row in enumerate(rows):
            if len(row) != len(columns):
                raise VibronicError(f"row {k} of the table has {len(row)} cells for {len(columns)} columns")
        cells = [_column([row[c] for row in rows]) for c in range(len(columns))]
        numeric = [' class="number"' if _is_numeric(column) else "" for column in cells]
        head = "".join(f'<th scope="col"{a}>{_inline(name)}</th>' for name, a in zip(columns, numeric))
        body = "".join(
            "<tr>" + "".join(f"<td{a}>{_inline(cell)}</td>" for cell, a in zip(row, numeric)) + "</tr>"
            for row in zip(*cells)
        )
        # Focusable, so that a table wider than a telephone can be scrolled from the keyboard too.
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        label = escape(_plain(caption), quote=True)
        self._caption(
            "table", f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>', caption
        )

    def provenance(self, record: Mapping[str, Any]) -> None:
        """What made the page (configuration, versions, seed, seconds), folded away."""
        rows = "".join(
            f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>' for key, value in _flat(record)
        )
        self._blocks.append(
            f'<details class="provenance"><summary>How this page was made</summary>'
            f'<div class="scroll"><table><tbody>{rows}</tbody></table></div></details>'
        )

    def write(self, path: Path | str) -> int:
        """Write the page in one step (never half a file) and return its size in bytes.

        Raises:
            VibronicError: the file cannot be written.
        """
        page = self._page().encode()
        with writable(Path(path)) as temporary:
            temporary.write_bytes(page)
        return len(page)

    def _caption(self, kind: str, content: str, caption: str) -> None:
        self._count[kind] += 1
        label = f'<span class="label">{kind.capitalize()} {self._count[kind]}.</span>'
        text = f"<figcaption>{label} {_inline(caption)}</figcaption>"
        inside = text + content if kind == "table" else content + text
        self._blocks.append(f'<figure class="{kind}" id="{kind}-{self._count[kind]}">{inside}</figure>')

    def _page(self) -> str:
        subtitle = f'<p class="subtitle">{_inline(self.subtitle)}</p>' if self.subtitle else ""
        entries = "".join(f'<li><a href="#section-{k}">{_inline(t)}</a></li>' for k, t in enumerate(self._sections, 1))
        contents = f'<nav aria-label="Contents"><h2>Contents</h2><ol>{entries}</ol></nav>' if entries else ""
        scripts, credits = "", []
        if self._count["plot"]:
            from plotly.offline import get_plotlyjs

            scripts += _script(get_plotlyjs())
            credits.append("plotly.js (MIT licence)")
        if self._count["crystal"]:
            # The licence of 3Dmol asks to travel with every copy.
            scripts += _script(f"/*\n{_asset('3Dmol.LICENSE')}\n*/\n{_asset('3Dmol-min.js')}")
            credits.append("3Dmol.js (BSD 3-clause licence)")
        if scripts:
            scripts += _script(_asset("report.js"))
        drawn = f" Drawn with {' and '.join(credits)}, both inside this file." if len(credits) == 2 else ""
        drawn = f" Drawn with {credits[0]}, inside this file." if len(credits) == 1 else drawn
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(_plain(self.title))}</title>\n<style>\n{_asset('report.css')}</style>\n</head>\n<body>\n"
            f"<header><h1>{_inline(self.title)}</h1>{subtitle}</header>\n{contents}\n"
            f"<main>\n{chr(10).join(self._blocks)}\n</main>\n<footer><p>Written by Vibronic.{drawn}</p></footer>\n"
            f"{scripts}</body>\n</html>\n"
        )


def _asset(name: str) -> str:
    return (files("vibronic.report") / "assets" / name).read_text(encoding="utf-8")


def _script(code: str) -> str:
    """An inline script; the two sequences that would end or confuse the element are escaped inside string literals."""
    code = re.sub(r"</(script)", r"<\\/\1", code, flags=re.IGNORECASE).replace("<!--", "<\\!--")
    return f"<script>\n{code}\n</script>\n"


def _widget(kind: str, data: str, label: str, style: str = "") -> str:
    """A place that ``report.js`` fills from the JSON inside it; until then, or without JavaScript, a sentence."""
    data = data.replace("<", "\\u003c")
    what = "This plot" if kind == "plot" else "This structure"
    return (
        f'<div class="{kind}" role="img" aria-label="{escape(_plain(label), quote=True)}"'
        f"{f' style={chr(34)}{style}{chr(34)}' if style else ''}>"
        f'<p class="fallback">{what} is drawn by JavaScript{" and WebGL" * (kind == "crystal")}, '
        "which your browser does not run here; the caption says what it shows.</p>"
        f'<script type="application/json">{data}</script></div>'
    )


def _inline(text: str) -> str:
    parts = re.split(r"`([^`]+)`", str(text))
    for k, part in enumerate(parts):
        safe = escape(part, quote=True)
        parts[k] = f"<code>{safe}</code>" if k % 2 else re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return "".join(parts)


def _plain(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"\1", str(text)).replace("`", "")


def _paragraphs(text: str) -> list[str]:
    blocks = [block.strip() for block in re.split(r"\n\s*\n", str(text)) if block.strip()]
    out = []
    for block in blocks:
        lines = [line.strip() for line in block.splitlines()]
        if all(line.startswith("- ") for line in lines):
            out.append("<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>")
        else:
            out.append(f"<p>{_inline(' '.join(lines))}</p>")
    return out


def _column(values: Sequence[Any]) -> list[str]:
    """Cells as text: three significant digits for the smallest float of the column, at least, and the same decimals."""
    floats = [abs(float(v)) for v in values if isinstance(v, float | np.floating) and math.isfinite(v) and v]
    decimals = min(6, max(0, 2 - math.floor(math.log10(min(floats))))) if floats else 1
    # A column over more than five decades would be all zeros or all digits: there each cell has its own digits.
    spread = decimals == 6 or (bool(floats) and max(floats) / min(floats) > 1e5)
    return [_cell(v, None if spread else decimals) for v in values]


def _cell(value: Any, decimals: int | None) -> str:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        # A narrow no-break space parts thousands in every language.
        number = int(value)
        return (f"{number:,}".replace(",", "\u202f") if abs(number) >= 10_000 else str(number)).replace("-", "−")
    if isinstance(value, float | np.floating):
        text = f"{value:.3g}" if decimals is None else f"{value:.{decimals}f}"
        mantissa, _, exponent = text.partition("e")
        if exponent:
            power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
            return f"{mantissa.replace('-', '−')} × 10{power}"
        return text.replace("-", "−")
    return str(value)


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [c.strip() for c in cells if c.strip() not in ("", "–", "-")]
    return bool(filled) and all(NUMBER.fullmatch(c) for c in filled)


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value))))
        else:
            rows.append((f"{prefix}{key}", str(value)))
    return rows
