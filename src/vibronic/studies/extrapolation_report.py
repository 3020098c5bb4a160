"""The page about the study ``extrapolation``, from the files in its folder and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vibronic.core.folder import finished
from vibronic.report import plots
from vibronic.report.html import Report
from vibronic.studies.extrapolation import PARTS, STUDY, summary

NAMES = {
    "composition": "composition",
    "ridge": "ridge",
    "qdf": "qdf (ours)",
    "schnet": "SchNet",
    "qdf2020": "qdf2020",
}
ENOUGH = 10
"""Test molecules of one size, below which their mean error is not drawn."""


def write(folder: Path) -> Path:
    """``report.html`` in the folder of a study.

    Raises:
        VibronicError: the folder holds no finished study.
    """
    folder = Path(folder)
    with finished(folder, STUDY) as results:
        plan, rows, published = results["plan"], results["rows"], results["published"]
        means, seed, largest = summary(rows), plan["seeds"][0], max(plan["sizes"])
        last = [row for row in rows if row["size"] == largest]
        errors = {row["model"]: _errors(folder, row) for row in last if row["seed"] == seed}
    page = Report(
        "From small molecules to large ones",
        f"QM9, atomisation energies; up to {largest:,} molecules with up to 14 atoms to learn from, {len(plan['seeds'])} seed{'s' if len(plan['seeds']) > 1 else ''}",
    )
    page.section("The answer")
    page.text(_answer(means, largest, published))
    page.table(
        ["model", "molecules", "≤ 14 atoms", "≥ 15 atoms", "bias, ≥ 15", "fit (CPU s)", "predict (CPU ms)"],
        [
            *map(_row, means),
            ["qdf2020, literature", 11832, f"{published['small']:.3f}", f"{published['large']:.2f}", "", "", ""],
        ],
        "Mean absolute errors and mean signed errors (predicted minus reference), kcal/mol per molecule; means over seeds, with "
        "95 % intervals (Student) where there are several. The last row is **not measured here**: its authors' model after 2,000 "
        "epochs, as they published it. Processor time to predict is per large molecule, neighbour lists included.",
    )
    page.section("Learning curves")
    for part, what in (("small", "with up to 14 atoms, as in training"), ("large", "with 15 atoms or more")):
        curves = [
            {"size": r["size"], "seed": r["seed"], "model": NAMES[r["model"]], "set": part, "value": r[part]["mae"]}
            for r in rows
        ]
        figure = plots.learning_curves(curves, f"MAE, {'≤ 14' if part == 'small' else '≥ 15'} atoms", "kcal/mol")
        figure.add_hline(y=published[part], line={"dash": "dot", "width": 1.5, "color": plots.NEUTRAL})
        page.figure(
            figure,
            f"Molecules {what} ({rows[0][part]['n']:,}). Every seed a point; dotted: the published qdf2020, from all molecules.",
        )
    page.section("By size of the molecule")
    page.figure(
        plots.error_by_size(_by_size(last), "MAE", "kcal/mol", boundary=14.5),
        f"After {largest:,} training molecules, which end at the line; means over seeds, sizes with at least {ENOUGH} test molecules.",
    )
    # Models that have hardly begun to learn would stretch the axis until the others are one bin.
    limit = 5 * min(m["large"] for m in means if m["size"] == largest)
    near = {NAMES[k]: e for k, e in errors.items() if np.abs(e).mean() < limit}
    page.figure(
        plots.histogram({k: np.clip(e, -4 * limit, 4 * limit) for k, e in near.items()}, "kcal/mol", "Predicted − reference"),
        f"Errors on molecules with 15 atoms or more after {largest:,} training molecules, first seed; models with a mean absolute "
        f"error up to five times the smallest, errors beyond ±{4 * limit:.0f} kcal/mol counted at the edge.",
    )  # fmt: skip
    page.section("How it was done")
    page.text(_how(plan, means, largest))
    record = folder / "run.json"
    provenance: dict[str, Any] = {"plan": plan, **(json.loads(record.read_text()) if record.exists() else {})}
    page.provenance(provenance)
    page.write(folder / "report.html")
    return folder / "report.html"


def _answer(means: list[dict[str, Any]], largest: int, published: dict[str, float]) -> str:
    there = [m for m in means if m["size"] == largest]
    best = {part: min(there, key=lambda m: m[part]) for part in PARTS}
    grow = ", ".join(f"{NAMES[m['model']]} {m['large'] / m['small']:.1f}" for m in there)
    return (
        f"With {largest:,} small molecules to learn from, the smallest mean error on small ones is "
        f"**{best['small']['small']:.2f} kcal/mol** ({NAMES[best['small']['model']]}), on large ones "
        f"**{best['large']['large']:.2f} kcal/mol** ({NAMES[best['large']['model']]}). "
        f"From small to large the error grows by these factors: {grow}; that of the published qdf2020 by "
        f"{published['large'] / published['small']:.1f}."
    )


def _how(plan: dict[str, Any], means: list[dict[str, Any]], largest: int) -> str:
    def epochs(model: str) -> str:
        return ", ".join(f"{m['epochs']:.0f} with {m['size']:,}" for m in means if m["model"] == model) or "none"

    return (
        "Training and small test molecules are those of the published split; a training set holds every smaller one of its seed, and "
        "starts with the smallest molecule and one for every element. **Composition**: one energy per element. **Ridge**: linear in pair and angle "
        "distributions. **qdf**: two fields, the functional fitted in closed form, inducing points in proportion to the training "
        "molecules up to 6,000 and 4,000, noise chosen on a tenth of them. **SchNet**: 64 features, 3 interactions, 5 Å, on top of the composition; AdamW, "
        f"cosine schedule, {plan['steps']:,} steps of 16 molecules or 20 epochs, whichever is more (epochs: {epochs('schnet')}). **qdf2020**: as published but for "
        f"{plan['epochs']} epochs instead of 2,000, from {largest:,} molecules of the first seed only: it has hardly begun to learn, "
        "and its row says what this time buys, not what the model can do. The settings of qdf were chosen on QM9; those of the others are defaults, tuned for nothing here."
    )


def _by_size(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean absolute errors by model and number of atoms, over seeds and both test sets."""
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        for n, (_, _, count) in sorted(
            ((int(n), v) for part in PARTS for n, v in mine[0][part]["by_size"].items()), key=lambda pair: pair[0]
        ):
            part = "small" if str(n) in mine[0]["small"]["by_size"] else "large"
            if count >= ENOUGH:
                value = float(np.mean([row[part]["by_size"][str(n)][0] for row in mine]))
                found.append({"model": NAMES[model], "atoms": n, "value": value, "n": count})
    return found


def _row(m: dict[str, Any]) -> list[Any]:
    errors = [_with_interval(m, "small"), _with_interval(m, "large"), f"{m['large_bias']:+.2f}"]
    return [NAMES[m["model"]], m["size"], *errors, round(m["fit_seconds"], 1), round(m["large_cpu_ms"], 2)]


def _errors(folder: Path, row: dict[str, Any]) -> np.ndarray:
    """Errors on large molecules, which are in the file of the fit."""
    file = folder / "runs" / f"{row['model']}-{row['size']}-{row['seed']}.json"
    return np.array(json.loads(file.read_text())["large"]["errors"])


def _with_interval(mean: dict[str, Any], part: str) -> str:
    half = mean[f"{part}_half"]
    return f"{mean[part]:.2f}" + (f" ± {half:.2f}" if half is not None else "")
