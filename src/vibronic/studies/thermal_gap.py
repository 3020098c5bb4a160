"""The part of the thermal study's page about the band gap: what was learned from DFT labels, and what the models look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vibronic.data.dataset import read_labelled
from vibronic.report import plots
from vibronic.report.explain_plots import fidelity_curve
from vibronic.report.html import Report
from vibronic.studies.thermal_answer import Rows

_TITLES = {"tight-binding": "the Hamiltonian", "painn": "the network"}


def introduction(facts: dict[str, Any]) -> str:
    """What the DFT labels are, and where the comparison is looser than those of the engine."""
    phonons, random, test = (facts[k] for k in ("phonons", "random", "test"))
    total = sum(f["number"] for f in (phonons, random, test))
    kelvins = " and ".join(f"{t:g}" for t in test["temperatures"])
    return (
        f"{total} configurations of {test['atoms']} atoms with PBE labels (GPAW, see the data set **Ag3SBr-pbe**): "
        f"{phonons['number']} from phonons and {random['number']} random to learn from, {test['number']} from molecular dynamics at "
        f"{kelvins} K to be tested on. The comparison is looser than those above and not counted there: the two sets span several "
        "temperatures and amplitudes that are not matched; the phonons were fitted to the dynamics that the test snapshots are from; "
        f"the closest atoms of phonon configurations are {phonons['closest']:.1f} Angstrom apart, since closer ones were drawn again, "
        f"those of random ones {random['closest']:.1f} Angstrom; and the sets of different seeds overlap, so intervals are too narrow."
    )


def together(page: Report, rows: Rows, names: dict[str, str]) -> None:
    """The table of models that learned from both sets."""
    both = [r for r in rows if r["set"] == "both" and r["temperature_K"] is None]
    page.table(
        ["model", "target", "labels", "seed", "MAE", "RMSE", "R2", "unit of errors"],
        [
            [
                r["model"],
                names[r["target"]],
                r["size"],
                r["seed"],
                f"{r['mae']:.3f}",
                f"{r['rmse']:.3f}",
                f"{r['r2']:.2f}",
                r["unit"],
            ]
            for r in both
            if r["model"] != "ridge" or r["seed"] == both[0]["seed"]  # the ridge has no random weights
        ],
        "Trained on both sets together, scored on the dynamics of all temperatures. The tight-binding model of every seed learns from "
        "its own part of them; these parts overlap.",
    )


def explained(page: Report, folder: Path, attribution: dict[str, Any], sentence: Callable[[str], str]) -> None:
    """Attributions of the gap: shares of bonds, which kind leads, and whether the attribution holds up."""
    page.section("What the gap models look at")
    page.text(
        "Every bond of a snapshot of the dynamics is faded in from nothing to whole; its attribution is the integral of the "
        "prediction's derivative along the way (integrated gradients). In a Hamiltonian, that fades in what neighbours add to its matrix "
        "elements. The electrostatic potential of the whole crystal belongs to no bond: it is in the prediction without bonds."
    )
    atoms = read_labelled(folder / "gap" / "explained.extxyz")[0]
    for kind, found in attribution.items():
        worst = min(found["r2"])
        if "bonds" not in found:
            page.note(
                f"{kind} is not explained: of its {len(found['r2'])} seeds the worst reaches an R2 of {worst:.2f} on the dynamics (0: no "
                "better than the mean), and there is nothing to explain about a model that learned nothing."
            )
            continue
        if worst < 0.5:
            page.note(
                f"The explained {kind} models reach an R2 of {worst:.2f} at worst on the dynamics (0: no better than the mean). What "
                "follows explains these models, not yet the crystal."
            )
        _one(page, kind, found, sentence)
        page.crystal(
            atoms,
            f"The first explained snapshot ({kind}). Bonds coloured by their absolute attribution; 1 stands for "
            f"{1e3 * found['top']:.1f} meV.",
            [(i, j, tuple(shift), w) for i, j, shift, w in found["drawn"]],
        )


def silver_sulphur(leading: dict[str, Any]) -> str:
    """Whether Ag-S leads, which is what the paper saw."""
    kind, interval = leading["kind"], leading["interval"]
    if kind != "Ag-S":
        return f"Not Ag-S, which leads in the paper, but {kind} comes first."
    if interval is not None and interval[0] > 1:
        return "Ag-S leads, as in the paper."
    return "Ag-S comes first, as in the paper, but these models do not settle it."


def _one(page: Report, kind: str, found: dict[str, Any], sentence: Callable[[str], str]) -> None:
    kinds, lengths, values = (np.asarray(found["bonds"][k]) for k in ("kinds", "length", "value"))
    span = abs(found["whole"] - found["bare"])
    page.text(
        f"**{_TITLES[kind].capitalize()} ({kind}): {silver_sulphur(found['leading'])}** {sentence(found['sentence'])} "
        f"{found['models']} models, {found['structures']} snapshots. The attributions add up to the difference between the gap with all "
        f"bonds, {found['whole']:.3f} eV, and without any, {found['bare']:.3f} eV, which no training structure resembles; the quadrature "
        f"misses {1e3 * found['error']:.1f} meV of {1e3 * span:.0f} at most."
    )

    def half(value: float | None, scale: float) -> str:
        return "" if value is None else f" ± {scale * value:.2g}"

    page.table(
        ["bond", "number", "mean |attribution| (meV)", "share of all (%)", "share of bonds (%)"],
        [
            [
                s["kind"],
                s["number"],
                f"{1e3 * s['mean']:.2f}{half(s['mean_half'], 1e3)}",
                f"{100 * s['share']:.1f}{half(s['share_half'], 100)}",
                f"{100 * s['of_bonds']:.1f}",
            ]
            for s in found["shares"]
            if s["low"] is None
        ],
        f"Attribution of the band gap by kind of bond ({kind}), all pairs within the cutoff; half widths of 95 % intervals over the "
        "models of all seeds behind ±.",
    )
    top = np.abs(values).max() or 1.0
    page.figure(
        plots.attribution_by_bond(
            [{"bond": k, "weight": abs(v) / top, "length": d} for k, v, d in zip(kinds, values, lengths, strict=True)]
        ),
        f"Absolute attribution of every pair by kind and by length ({kind}); 1 stands for {1e3 * top:.1f} meV.",
    )
    page.text("\n".join(f"- {sentence(s)}" for s in found["sentences"]))
    page.figure(
        fidelity_curve(found["fidelity"]),
        f"Fidelity ({kind}): a faithful attribution lies above random bonds of equal number and length on the left and below them on "
        "the right; what models that know nothing name should matter no more than random bonds (an untrained Hamiltonian is drawn from its prior, "
        "which knows something).",
    )
