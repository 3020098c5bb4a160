"""What the pages show but nobody should copy by hand: the command line's help and the benchmark results."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
HIDDEN = {
    "what",
    "question",
    "command",
    "machine",
    "measured",
    "versions",
    "units",
    "rows",
    "runs",
    "plan",
    "parity",
    "peers",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the two placeholders; called by MkDocs for every page."""
    if "<!-- command line -->" in markdown:
        markdown = markdown.replace("<!-- command line -->", command_line())
    if "<!-- benchmarks -->" in markdown:
        markdown = markdown.replace("<!-- benchmarks -->", benchmarks())
    return markdown


def command_line() -> str:
    """``--help`` of every verb."""
    os.environ["COLUMNS"] = "100"
    from vibronic.cli import main
    from vibronic.verbs import VERBS

    def shown(*arguments: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as text:
            main([*arguments, "--help"])
        return f"```text\n{text.getvalue().strip()}\n```\n"

    return shown() + "".join(f"\n## {f.__name__}\n\n{shown(f.__name__)}" for f in VERBS)


def benchmarks() -> str:
    """One section per file in ``benchmarks/results``."""
    files = sorted(RESULTS.glob("*.json"))
    return "\n".join(map(section, files)) if files else "No benchmark has been run in this checkout: `make bench`."


def section(path: Path) -> str:
    """Title, command, numbers and where they were measured."""
    content = json.loads(path.read_text())
    lines = [f"## {path.stem}", ""]
    lines += [str(content[key]) + "\n" for key in ("what", "question") if key in content]
    if "command" in content:
        lines += ["```sh", str(content["command"]), "```", ""]
    shown = {key: value for key, value in content.items() if key not in HIDDEN}
    for name, columns in shown.pop("tables", {}).items():
        lines += [f"**{name}**", "", *table(columns)]
    columns = {key: shown.pop(key) for key, value in list(shown.items()) if isinstance(value, dict)}
    lists = {key: shown.pop(key) for key, value in list(shown.items()) if isinstance(value, list)}
    lines += table(columns)
    for name, entries in lists.items():
        lines += [f"**{name}**", "", *table({str(k): entry for k, entry in enumerate(entries)})]
    lines += [", ".join(f"{name}: {value}" for name, value in flat(shown)) + "."] if shown else []
    if content.get("units"):
        lines += ["", "Units: " + ", ".join(f"{k}: {v}" for k, v in content["units"].items()) + "."]
    place = [f"{name} {value}".strip() for name, value in flat(content.get("machine", ""))]
    place += [f"{name} {version}" for name, version in (content.get("versions", {}) | content.get("peers", {})).items()]
    return "\n".join([*lines, "", f"Measured on: {', '.join(place)}.", ""])


def table(columns: dict[str, Any]) -> list[str]:
    """One column per entry, one row per quantity; the other way round when there are more entries than quantities."""
    cells = {name: dict(flat(entry)) for name, entry in columns.items()}
    rows = list(dict.fromkeys(row for column in cells.values() for row in column))
    if len(cells) > len(rows):
        cells, rows = {row: {c: cells[c].get(row, "") for c in cells} for row in rows}, list(cells)
    if not rows:
        return []
    header = ["| " + " | ".join(["", *cells]) + " |", "|" + "---|" * (len(cells) + 1)]
    return [*header, *("| " + " | ".join([row, *(cells[c].get(row, "") for c in cells)]) + " |" for row in rows), ""]


def flat(content: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Numbers and words of nested JSON with the path that leads to them."""
    if isinstance(content, dict):
        for key, value in ((k, v) for k, v in content.items() if k not in HIDDEN):
            yield from flat(value, f"{name} / {key}" if name else str(key))
    elif isinstance(content, list) and any(isinstance(value, dict | list) for value in content):
        for k, value in enumerate(content):
            yield from flat(value, f"{name} / {k}")
    elif isinstance(content, list):
        yield name, ", ".join(map(number, content))
    elif content is not None:
        yield name, number(content)


def number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
