"""The page beside a file of generated crystals, from that file and what ``generate`` wrote with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vibronic.core.errors import VibronicError
from vibronic.data.dataset import read_structures
from vibronic.report import plots
from vibronic.report.gallery import ESTIMATE, content, gallery, group_name, is_number, sound, with_units
from vibronic.report.html import Report
from vibronic.report.style import pick

ROWS = 50
"""Crystals in the table."""


def _came(config: dict[str, Any]) -> str:
    """What was done to the crystals, and chosen of them."""
    several = config.get("choice", 1) if config.get("keep") != "all" else 1
    chosen = f"each one chosen of {several} by its estimate" if several > 1 else "as they came"
    if config.get("relax"):
        return f"{chosen}, relaxed by {config['relax']} (validity, space group and estimates are of those before)"
    tolerance = config.get("tolerance")
    return f"{chosen}, " + (f"made symmetric within {tolerance:g} Angstrom, " if tolerance else "") + "not relaxed"


def write(file: Path | str) -> Path:
    """A page beside a file of crystals that ``generate`` wrote: ``new.html`` of ``new.extxyz``.

    Raises:
        VibronicError: the file is missing or damaged, or its crystals are not from ``generate``.
    """
    file = Path(file)
    crystals = read_structures(file, check=False)
    if not all("valid" in atoms.info for atoms in crystals):
        raise VibronicError(
            f"{file} does not say which crystals are valid: 'vibronic report' takes what 'generate' wrote"
        )
    with sound(file.with_suffix(".json")):
        about, run = content(file.with_suffix(".json")) or {}, content(file.with_suffix(".run.json")) or {}
        units, config = about.get("units", {}), run.get("config", {})
        names = [k.removesuffix("_estimate") for k in crystals[0].info if k.endswith("_estimate")]
        made = f"made by {config['model']}" if "model" in config else "generated"
        page = Report(f"Generated crystals: {file.name}", f"{len(crystals)} crystals {made}")
        if counts := about.get("counts"):
            page.section("How many")
            rows = [[name, count] for name, count in counts.items()]
            page.table(["", "crystals"], rows, "Candidates, and what came of them.")
        page.section("Properties")
        page.text(ESTIMATE if names else "The model gives no estimate of its crystals' properties.")
        for name in names:
            values = [a.info[f"{name}_estimate"] for a in crystals if is_number(a.info.get(f"{name}_estimate"))]
            if not values:
                continue
            figure = plots.histogram({name: values}, units.get(name, ""), name)
            asked = {a.info[f"{name}_asked"] for a in crystals if is_number(a.info.get(f"{name}_asked"))}
            for value in asked:
                figure.add_vline(x=value, line={"color": pick(plots.PALETTE, 1), "dash": "dash"})
            page.figure(figure, f"Estimates of {name}{'; dashed: asked for' if asked else ''}.")
        head = ["formula", "space group", *(with_units(name, units) for name in names), "valid", "new"]
        rows = [
            [
                atoms.get_chemical_formula("metal", empirical=True),
                group_name(atoms),
                *(atoms.info.get(f"{name}_estimate") for name in names),
                bool(atoms.info["valid"]),
                bool(atoms.info.get("novel")),
            ]
            for atoms in sorted(crystals, key=lambda a: a.info.get("off", 0.0))[:ROWS]
        ]
        beside = f"the first {ROWS}; all are in the table beside the file" if len(crystals) > ROWS else "all of them"
        order = "those nearest to the wish first" if "off" in crystals[0].info else "in the order of the file"
        page.table(head, rows, f"Crystals, {order}, {beside}.")
        gallery(page, crystals, units, _came(config))
        page.provenance(run)
        page.write(file.with_suffix(".html"))
    return file.with_suffix(".html")
