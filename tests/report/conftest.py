"""A page with one of everything."""

import numpy as np
import pytest

from vibronic.report import plots
from vibronic.report.html import Report


@pytest.fixture
def report(anti_perovskite) -> Report:
    rng = np.random.default_rng(0)
    gaps = rng.normal(0.5, 0.1, 40)
    page = Report("Silver", "a subtitle")
    page.section("First")
    page.text("A **bold** word and `code`.\n\n- one\n- two")
    page.note("Modes are imaginary.")
    page.figure(plots.parity({"a": (gaps, gaps + 0.01)}, "eV", "Gap"), "A parity plot.")
    page.figure(plots.histogram({"a": gaps}, "eV"), "A histogram.")
    page.section("Second")
    page.crystal(anti_perovskite, "A crystal.", bonds=[(0, 3, (0, 0, 0), 0.9), (1, 3, (0, 0, 0), 0.1)])
    page.table(["set", "MAE (eV)"], [["phonons", 0.03], ["random", 0.05]], "A table.")
    page.provenance({"seed": 7, "versions": {"ase": "3.26"}, "supercell": [2, 2, 2]})
    return page
