"""The page in a real browser: everything is drawn, nothing is logged, and without WebGL it still reads."""

import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from vibronic.report.gallery import GALLERY
from vibronic.report.html import Report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--window-size=900,3000",
    "--virtual-time-budget=20000",
]
WITHOUT_WEBGL = """<head><script>
for (const { prototype } of [HTMLCanvasElement, OffscreenCanvas]) {
  const original = prototype.getContext;
  prototype.getContext = function (kind, ...rest) {
    return /webgl/.test(kind) ? null : original.call(this, kind, ...rest);
  };
}
</script>"""


def browse(page, folder, *flags: str) -> tuple[str, list[str]]:
    """The DOM after the scripts ran, and what the page logged."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    # Chromium reports slow reads from the graphics card on the same channel; software rendering is nothing but slow.
    logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "GPU stall" not in line]
    return done.stdout, logged


def test_plots_and_crystal_are_drawn(report, tmp_path):
    page, picture = tmp_path / "report.html", tmp_path / "page.png"
    report.write(page)
    dom, logged = browse(page, tmp_path, "--dump-dom", f"--screenshot={picture}")
    assert not logged
    assert 'data-error="' not in dom
    assert 'class="fallback"' not in dom
    assert dom.count('class="main-svg"') >= 2

    red, green, blue = (np.asarray(Image.open(picture).convert("RGB"), dtype=int)[..., c] for c in range(3))
    plotted = (blue > red + 90) & (blue > green + 30)
    bromine = (red > 2 * green + 40) & (red > 2 * blue + 40)
    # The legend below the crystal has a dot of bromine's colour too: about 150 pixels.
    assert plotted.sum() > 500, "the blue of the plots is on the page"
    assert bromine.sum() > 2000, "the bromine atoms of the crystal are on the page"
    rows = np.flatnonzero(plotted.any(axis=1)), np.flatnonzero(bromine.sum(axis=1) > 20)
    assert np.median(rows[0]) < np.median(rows[1]), "the plots stand above the crystal"


def test_a_gallery_draws_every_crystal(anti_perovskite, tmp_path):
    """As many as pages hold: browsers take the first ones away where there are too many."""
    page, picture = Report("Gallery"), tmp_path / "page.png"
    lone = anti_perovskite[-1:]  # its one atom would leave most of the cell outside, were it not counted
    page.gallery([*[(anti_perovskite, "A crystal.")] * (GALLERY - 1), (lone, "One atom.")])
    page.write(tmp_path / "gallery.html")
    dom, logged = browse(tmp_path / "gallery.html", tmp_path, "--dump-dom", f"--screenshot={picture}")
    assert not logged
    assert 'data-error="' not in dom
    assert 'class="fallback"' not in dom
    red, green, blue = (np.asarray(Image.open(picture).convert("RGB"), dtype=int)[..., c] for c in range(3))
    rows = ((red > 2 * green + 40) & (red > 2 * blue + 40)).sum(axis=1) > 20
    drawn = np.flatnonzero(np.diff(rows.astype(int)) == 1)
    assert np.ptp(drawn) > 600, "bromine is seen in the first and in the last row"


def test_a_vibration_is_drawn_with_arrows(anti_perovskite, tmp_path):
    page, picture = Report("Vibration"), tmp_path / "page.png"
    motion = np.zeros((5, 3))
    motion[4] = (0.6, 0, 0)  # bromine alone
    page.crystal(anti_perovskite, "A mode.", motion=motion)
    page.write(tmp_path / "mode.html")
    dom, logged = browse(tmp_path / "mode.html", tmp_path, "--dump-dom", f"--screenshot={picture}")
    assert not logged
    assert 'data-error="' not in dom
    assert 'class="fallback"' not in dom
    red, green, blue = (np.asarray(Image.open(picture).convert("RGB"), dtype=int)[..., c] for c in range(3))
    bromine = (red > 2 * green + 40) & (red > 2 * blue + 40)
    arrows = (red > 120) & (red > 1.6 * green) & (green > 2 * blue + 15)  # vermilion, lit or in shade
    assert bromine.sum() > 2000
    assert arrows.sum() > 300


def test_without_webgl_the_crystal_is_a_sentence_and_the_plots_stay(report, tmp_path):
    page = tmp_path / "report.html"
    report.write(page)
    page.write_text(page.read_text().replace("<head>", WITHOUT_WEBGL, 1))
    dom, _ = browse(page, tmp_path, "--dump-dom")
    assert dom.count('class="fallback"') == 1
    assert "the caption says what it shows" in dom
    assert "error creating viewer" in dom
    assert dom.count('class="main-svg"') >= 2
