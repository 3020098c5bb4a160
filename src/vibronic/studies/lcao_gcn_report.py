"""The page about the study ``lcao-gcn``, from the files in its folder and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vibronic.core.folder import finished
from vibronic.report import plots
from vibronic.report.html import Report
from vibronic.studies.lcao_gcn import COMPOSITION, PARTS, STUDY, summary

NAMES = {
    COMPOSITION: "composition",
    "gcn": "graph convolution",
    "lcao-at-nuclei": "LCAO at nuclei",
    "qdf-1": "field, 1 function",
    "qdf-3": "field, 3 functions",
    "qdf-6-31G-count": "field, 6-31G count",
    "qdf-real-6-31G": "field, real 6-31G",
}


def write(folder: Path) -> Path:
    """``report.html`` in the folder of a study.

    Raises:
        VibronicError: the folder holds no finished study.
    """
    folder = Path(folder)
    with finished(folder, STUDY) as results:
        plan, rows, same = results["plan"], results["rows"], results["equality"]
        means = summary(rows)
    page = Report(
        "Is a graph convolution an LCAO with a poor basis?",
        f"QM9, {plan['size']} molecules with up to 14 atoms to learn from; {len(plan['seeds'])} seed{'s' if len(plan['seeds']) > 1 else ''}",
    )
    page.section("The answer")
    page.text(
        f"As an identity, **yes**: two layers of a graph convolution and two LCAOs evaluated at the nuclei, with one orbital per "
        f"atom that is 1 up to the length of a bond, differ by at most **{same['largest_difference']:.1e}** on {same['molecules']} "
        f"molecules (values up to {same['largest_value']:.1f}, double precision)."
    )
    best = {part: min(means, key=lambda m: m[part]) for part in PARTS}
    page.text(
        f"As a way to learn: with the same molecules, {plan['steps']} optimiser steps, width {plan['width']} and {plan['layers']} "
        f"layers, the smallest mean error on molecules as small as those of the training is "
        f"{best['interpolation']['interpolation']:.1f} kcal/mol ({NAMES[best['interpolation']['network']]}), on larger ones "
        f"{best['extrapolation']['extrapolation']:.1f} kcal/mol ({NAMES[best['extrapolation']['network']]}). "
        "So few steps are far from what these networks can reach: read the table as a comparison at equal budget, not as their limits."
    )
    page.figure(
        plots.comparison(
            [
                {"model": NAMES[r["network"]], "set": part, "seed": r["seed"], "value": r[part]}
                for r in rows
                for part in PARTS
            ],
            "MAE",
            "kcal/mol",
        ),
        f"Mean absolute error of the atomisation energy on {plan['test']} molecules with up to 14 atoms (interpolation) and "
        f"{plan['test']} with 15 or more (extrapolation); every seed a point.",
    )
    page.table(
        ["network", "parameters", "CPU seconds", *(f"{part} (kcal/mol)" for part in PARTS)],
        [
            [
                NAMES[m["network"]],
                m["parameters"],
                round(m["cpu_seconds"], 1),
                *(_with_spread(m, part) for part in PARTS),
            ]
            for m in means
        ],
        "Means over seeds, with standard deviations: each seed has training molecules and weights of its own.",
    )
    page.section("How it was done")
    page.text(
        "All networks stand on the same floor, one energy per element (composition). **Graph convolution**: layers over the bonds "
        "with a ReLU after each; the depth is in the convolution. All others are one linear combination of atomic orbitals whose "
        "depth is in the energy functional. **LCAO at nuclei**: evaluated at the nuclei only, with the functions of 6-31G "
        "counted (4 for hydrogen, 14 for others, learned exponents). **Field**: evaluated on 56 points around each atom, with 1, with "
        "3, or with as many functions; **real 6-31G** has the exponents, contractions and angular parts of the basis set. Orbitals are "
        "normalised over the points of a molecule as in the published model; exponents start spread over a decade. No potential "
        "is learned beside the energy. The fields stand still when a molecule turns, so their predictions depend on the frame."
    )
    record = folder / "run.json"
    provenance: dict[str, Any] = {"plan": plan, **(json.loads(record.read_text()) if record.exists() else {})}
    page.provenance(provenance)
    page.write(folder / "report.html")
    return folder / "report.html"


def _with_spread(mean: dict[str, Any], part: str) -> str:
    spread = mean[f"{part}_std"]
    return f"{mean[part]:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
