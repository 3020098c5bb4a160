"""The page: escaped, self-contained, complete and written in one step."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from ase.build import molecule
from plotly.graph_objects import Figure

from vibronic.core.errors import VibronicError
from vibronic.report.html import Report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=\"alert(2)\"> & 'x' <!--"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes and text; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.elements[self._open.pop()][0] == tag

    def handle_data(self, data):
        for k in self._open:
            self.elements[k][2].append(data)

    def texts(self, tag: str, **attributes: str) -> list[str]:
        return ["".join(text) for _, text in self.find(tag, **attributes)]

    def find(self, tag: str, **attributes: str) -> list[tuple[dict[str, str | None], list[str]]]:
        wanted = {k.rstrip("_"): v for k, v in attributes.items()}
        return [(a, t) for name, a, t in self.elements if name == tag and wanted.items() <= a.items()]


def written(report: Report, folder) -> str:
    path = folder / "report.html"
    report.write(path)
    return path.read_text()


def test_everything_is_there_in_order(report, tmp_path):
    page = Page(written(report, tmp_path))
    assert page.texts("h1") == ["Silver"]
    assert page.texts("h2") == ["Contents", "First", "Second"]
    assert [a["href"] for a, _ in page.find("a")] == ["#section-1", "#section-2"]
    assert [a["id"] for a, _ in page.find("h2") if "id" in a] == ["section-1", "section-2"]
    assert page.texts("figcaption") == [
        "Figure 1. A parity plot.",
        "Figure 2. A histogram.",
        "Figure 3. A crystal.",
        "Table 1. A table.",
    ]
    assert page.texts("strong") == ["bold"]
    assert page.texts("li")[-2:] == ["one", "two"]
    assert page.texts("aside") == ["Modes are imaginary."]
    assert page.texts("th", scope="row") == ["seed", "versions.ase", "supercell"]
    assert page.texts("td")[-3:] == ["7", "3.26", "2, 2, 2"]


def test_widgets_are_named_for_a_screen_reader_and_have_a_sentence(report, tmp_path):
    page = Page(written(report, tmp_path))
    labels = [a["aria-label"] for a, _ in page.find("div", role="img")]
    assert labels == ["Plot: A parity plot.", "Plot: A histogram.", "Structure of Ag3BrS, 5 atoms: A crystal."]
    assert len(page.find("p", class_="fallback")) == 3
    assert page.find("html", lang="en")


def test_nothing_is_fetched_and_each_library_is_there_once(report, tmp_path):
    text = written(report, tmp_path)
    page = Page(text)
    for tag, attributes, _ in page.elements:
        assert tag not in {"link", "iframe", "img", "base"}
        assert not {"src", "srcset", "action", "background"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    styles = "".join(page.texts("style"))
    assert "@import" not in styles
    assert "url(" not in styles
    (policy,) = [a["content"] for a, _ in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert text.count("* plotly.js v") == 1
    assert text.count("University of Pittsburgh") >= 1, "the licence of 3Dmol travels with it"
    assert len(page.find("script")) == 3 + 3, "three widgets; plotly, 3Dmol and our own script"


def test_a_page_of_text_carries_no_library(tmp_path):
    report = Report("Only text")
    report.text("Words.")
    assert report.write(tmp_path / "text.html") < 20_000
    assert not Page((tmp_path / "text.html").read_text()).find("script")


def test_a_full_page_stays_below_eight_megabytes(report, tmp_path):
    size = report.write(tmp_path / "report.html")
    assert size == (tmp_path / "report.html").stat().st_size < 8e6


def test_hostile_strings_are_shown_not_run(tmp_path):
    report = Report(HOSTILE, HOSTILE)
    report.section(HOSTILE)
    report.text(HOSTILE)
    report.note(f"**{HOSTILE}** `{HOSTILE}`")
    report.table([HOSTILE], [[HOSTILE]], HOSTILE)
    report.figure(Figure().add_scatter(x=[1], y=[1], name=HOSTILE), HOSTILE)
    report.crystal(molecule("H2O"), HOSTILE)
    report.provenance({HOSTILE: HOSTILE, "nested": {HOSTILE: [HOSTILE]}})
    page = Page(written(report, tmp_path))
    assert not page.find("img")
    assert len(page.find("script")) == 2 + 3
    assert page.texts("h1") == [HOSTILE]
    assert page.texts("figcaption")[1] == f"Figure 1. {HOSTILE}"
    assert page.texts("code") == [HOSTILE]
    assert page.find("div", class_="plot")[0][0]["aria-label"] == f"Plot: {HOSTILE}"
    (data,) = [t for t in page.texts("script", type="application/json") if '"layout"' in t]
    assert json.loads(data)["data"][0]["name"] == HOSTILE


def test_numbers_share_decimals_and_stand_right(tmp_path):
    rows = [
        ["a", 0.0312, 5, 12345, 1e-9, "0.512 ± 0.004", True],
        ["b", -1.5, 40, -7, 2.0, "0.89", False],
        ["c", None, 1, 0, float("nan"), "–", True],
    ]
    report = Report("t")
    report.table(["name", "x", "n", "m", "wide", "text", "ok"], rows, "c")
    page = Page(written(report, tmp_path))
    cells = np.array(page.texts("td")).reshape(3, 7).T.tolist()
    assert cells[1] == ["0.0312", "−1.5000", "–"]
    assert cells[2] == ["5", "40", "1"]
    assert cells[3] == ["12\u202f345", "−7", "0"]
    assert cells[4] == ["1 × 10⁻⁹", "2", "–"]
    assert cells[6] == ["yes", "no", "yes"]
    assert [a.get("class") for a, _ in page.find("th")] == [None, *["number"] * 5, None]


def test_numpy_numbers_and_zero_columns():
    report = Report("t")
    report.table(["x", "y"], [[np.float32(0.5), 0.0], [np.int64(3), 0.0]], "c")
    report.table(["x"], [], "no rows")
    cells = re.findall(r"<td[^>]*>([^<]*)", report._page())
    assert cells == ["0.500", "0.0", "3", "0.0"]


def test_a_ragged_table_is_refused():
    with pytest.raises(VibronicError, match="row 1 of the table has 1 cells for 2 columns"):
        Report("t").table(["a", "b"], [[1, 2], [3]], "c")


def test_a_failed_write_keeps_the_old_page(report, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(VibronicError, match="No space left"):
        report.write(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_made_is_an_error_of_one_sentence(report, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VibronicError, match="cannot write"):
        report.write(tmp_path / "file" / "report.html")
