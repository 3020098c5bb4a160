"""The page about a thermal study, from the files in its folder and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vibronic.core.folder import finished
from vibronic.core.statistics import half_width
from vibronic.data.dataset import read_labelled
from vibronic.report import plots
from vibronic.report.html import Report
from vibronic.studies.thermal_models import GAP, SETS

Rows = list[dict[str, Any]]

_NAMES = {
    "energy": "energy",
    "forces": "forces",
    "stress": "stress",
    "pressure": "pressure",
    "band_gap": "band gap",
    "vbm": "valence-band maximum",
}


def write(folder: Path) -> Path:
    """``report.html`` in the folder of a study.

    Raises:
        VibronicError: the folder holds no finished study.
    """
    folder = Path(folder)
    with finished(folder, "thermal") as results:
        plan, rows = results["plan"], results["rows"]
        rms = {c: _sampling(folder / c)["rms"] for c in results["crystals"]}
    page = Report(
        "Do lattice vibrations teach more than random displacements?",
        f"{', '.join(results['crystals'])} at {plan['temperature']:g} K; labels from {plan['engine']}"
        + (", band gaps from DFT (PBE)" if plan["gap"] else ""),
    )
    _answer(page, rows, plan, rms)
    for crystal in results["crystals"]:
        _crystal(page, folder / crystal, crystal, plan)
        _learning(page, [r for r in rows if r["crystal"] == crystal], f"{crystal}: what the models learned", plan)
    if plan["gap"]:
        _gap(page, folder, rows, results["attribution"], plan)
    _method(page, plan)
    record = folder / "run.json"
    page.provenance({"plan": plan, **(json.loads(record.read_text()) if record.exists() else {})})
    page.write(folder / "report.html")
    return folder / "report.html"


def verdicts(rows: Rows) -> Rows:
    """Phonon against random set at the largest size of each comparison.

    ``ratio`` is the geometric mean over seeds of the random set's error over the phonon set's, ``interval`` its 95 %
    interval (Student's t of the logarithms; every seed has training sets of its own). ``winner`` is the set whose
    models are better with that confidence, ``open`` where the interval holds 1 or there is one seed, and ``none`` where
    neither set's models beat a constant (the mean of the test labels, or no force at all).
    """
    found = []
    rows = [r for r in rows if r["set"] in SETS]
    for crystal, model, target in dict.fromkeys((r["crystal"], r["model"], r["target"]) for r in rows):
        mine = [r for r in rows if (r["crystal"], r["model"], r["target"]) == (crystal, model, target)]
        size = max(r["size"] for r in mine)
        last = {(r["set"], r["seed"]): r for r in mine if r["size"] == size}
        seeds = sorted({seed for _, seed in last})
        phonons, random = ([last[s, seed]["mae"] for seed in seeds] for s in SETS)
        ratio, low, high = _geometric(np.log(random) - np.log(phonons))
        constant = mine[0]["constant"]
        if min(np.mean(phonons), np.mean(random)) >= constant:
            winner = "none"
        else:
            winner = "phonons" if low > 1 else "random" if high < 1 else "open"
        found.append(
            {
                "crystal": crystal,
                "model": model,
                "target": target,
                "size": size,
                "unit": mine[0]["unit"],
                "phonons": phonons,
                "random": random,
                "constant": constant,
                "ratio": ratio,
                "interval": [low, high],
                "winner": winner,
            }
        )
    return found


def _geometric(logarithms: np.ndarray) -> tuple[float, float, float]:
    """Geometric mean and its 95 % interval, which is everything when there is one value."""
    mean, half = float(np.mean(logarithms)), half_width(logarithms)
    half = np.inf if half is None else half
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(min(mean + half, 700.0)))


def _answer(page: Report, rows: Rows, plan: dict[str, Any], rms: dict[str, dict[str, float]]) -> None:
    page.section("The answer")
    found = verdicts([r for r in rows if r["crystal"] != GAP])
    count = {w: sum(v["winner"] == w for v in found) for w in ("phonons", "random", "open", "none")}
    moved = "; ".join(f"{c}: {r['phonons']:.2f} and {r['random']:.2f} Å" for c, r in rms.items())
    page.text(
        f"Of {len(found)} comparisons (crystal, model, target) **the phonon set taught more in {count['phonons']}, the random set in "
        f"{count['random']}**; {count['open']} stay open, and in {count['none']} neither set taught a model to beat a constant."
    )
    page.text(
        f"Training sets of {max(plan['sizes'])} structures, one drawn from lattice vibrations and one at random, were scored on "
        f"molecular dynamics at {plan['temperature']:g} K that neither contains. The root-mean-square displacements of an atom in the "
        f"two sets (phonons and random) are: {moved}. The comparisons of one crystal share their structures and their test "
        "trajectory, so they are not independent. Where modes are imaginary, the phonons themselves cost "
        f"{plan['fit_snapshots']} snapshots of dynamics with forces, which are not among these labels."
    )
    _verdict_table(page, found)


def _verdict_table(page: Report, found: Rows) -> None:
    page.table(
        ["crystal", "model", "target", "labels", "phonons", "random", "constant", "ratio", "95 % interval", "better"],
        [
            [
                v["crystal"],
                v["model"],
                f"{_NAMES.get(v['target'], v['target'])} ({v['unit']})",
                v["size"],
                _range(v["phonons"]),
                _range(v["random"]),
                f"{v['constant']:.2g}",
                f"{v['ratio']:.2f}",
                f"{v['interval'][0]:.2f}–{v['interval'][1]:.2f}" if len(v["phonons"]) > 1 else "one seed",
                v["winner"],
            ]
            for v in found
        ],
        "Mean absolute error on the dynamics after learning from each set: mean over seeds, smallest to largest in brackets. "
        "Constant: the error of always predicting the mean of the test labels (no force, for forces). Ratio: random over phonons, "
        "above 1 where the phonon set teaches more, with its 95 % interval over seeds, which holds what training sets and weights "
        "contribute but not the one test trajectory and the one set of force constants. Better: open where that interval holds 1, "
        "none where neither set beats the constant.",
    )


def _sampling(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sampling.json").read_text())


def _crystal(page: Report, folder: Path, crystal: str, plan: dict[str, Any]) -> None:
    page.section(f"{crystal}: how its atoms move")
    sampling = _sampling(folder)
    if "effective" in sampling["bands"]:
        page.note(
            f"The crystal is unstable at 0 K. {_sentence(sampling['findings'][0])} Force constants that describe it at "
            f"{plan['temperature']:g} K take their place."
        )
    page.text("\n".join(f"- {_sentence(f)}" for f in sampling["findings"]))
    page.figure(
        plots.dispersion(
            {name: [(b["distance"], b["frequencies"])] for name, b in sampling["bands"].items()},
            sampling["bands"]["harmonic"]["ticks"],
            {name: (d["frequencies"], d["density"]) for name, d in sampling["dos"].items()},
        ),
        f"Phonon dispersion and density of states of {crystal}. Frequencies below zero stand for imaginary ones. "
        "Without the non-analytic term of polar crystals: LO and TO modes meet at Γ, and a supercell holds no other wave vector "
        "that would feel it."
        + (
            f" Effective: force constants fitted to molecular dynamics at {plan['temperature']:g} K."
            if "effective" in sampling["bands"]
            else ""
        ),
    )
    page.figure(
        plots.mean_square_displacement(sampling["displacements"]),
        "Mean-square displacement per Cartesian component of the sampled sets and of the dynamics, with standard errors, "
        "beside the analytic value for the phonons used. The random set is matched to the phonon set over all atoms, not "
        "species by species. Snapshots with a distance below 0.65 of the shortest bond were drawn again.",
    )
    page.crystal(
        read_labelled(folder / "phonons-labelled.extxyz")[0],
        f"A configuration of {crystal} from its lattice vibrations.",
        None,
    )


def _learning(page: Report, rows: Rows, title: str, plan: dict[str, Any]) -> None:
    page.section(title)
    rows = [r for r in rows if r["set"] != "both"]
    seeds = len({r["seed"] for r in rows})
    for target in dict.fromkeys(r["target"] for r in rows if r["target"] != "stress"):
        mine = [r for r in rows if r["target"] == target]
        page.figure(
            plots.learning_curves(
                [{**r, "value": r["mae"]} for r in mine], f"MAE of the {_NAMES.get(target, target)}", mine[0]["unit"]
            ),
            f"Error on {mine[0]['n_test']} snapshots of the dynamics against the number of labels: {seeds} seeds as points, a line "
            "through their medians (the table gives means). "
            f"A constant would have {mine[0]['constant']:.2g} {mine[0]['unit']}.",
        )
    for target in dict.fromkeys(
        r["target"] for r in rows if r["parity"] is not None and r["target"] in ("energy", "band_gap")
    ):
        shown = ("painn", target, max(r["size"] for r in rows), min(r["seed"] for r in rows))
        groups = {
            r["set"]: (np.asarray(r["parity"][0]), np.asarray(r["parity"][1]))
            for r in rows
            if (r["model"], r["target"], r["size"], r["seed"]) == shown
        }
        unit = {"energy": "eV/atom"}.get(target, "eV")
        page.figure(
            plots.parity(groups, unit, _NAMES[target].capitalize()),
            "Every snapshot of the dynamics, predicted by PaiNN trained on each set (largest size, first seed).",
        )


def _gap(page: Report, folder: Path, rows: Rows, attribution: dict[str, Any], plan: dict[str, Any]) -> None:
    mine = [r for r in rows if r["crystal"] == GAP and r["target"] in ("band_gap", "vbm")]
    page.section("Band gap of Ag3SBr, labels from DFT")
    page.text(
        "58 configurations of 40 atoms with PBE labels (GPAW, see the data set **Ag3SBr-pbe**): 20 from phonons and 19 random to "
        "learn from, 19 from molecular dynamics at 300 and 600 K to be tested on. The comparison is looser than those above and not "
        "counted there: the two sets span two temperatures and two amplitudes that are not matched; the phonons were fitted to the "
        "dynamics that the test snapshots are from; phonon configurations with a distance below 1.9 Angstrom were drawn again, "
        "while the random ones come as close as 1.3 Angstrom; and the sets of different seeds overlap, so intervals are too narrow."
    )
    _verdict_table(page, verdicts(mine))
    _learning(page, mine, "Band gap: what the models learned", plan)
    both = [r for r in mine if r["set"] == "both"]
    page.table(
        ["model", "target", "seed", "MAE", "RMSE", "R2", "unit of errors"],
        [
            [
                r["model"],
                _NAMES[r["target"]],
                r["seed"],
                f"{r['mae']:.3f}",
                f"{r['rmse']:.3f}",
                f"{r['r2']:.2f}",
                r["unit"],
            ]
            for r in both
            if r["model"] == "painn" or r["seed"] == both[0]["seed"]  # the ridge has no random weights
        ],
        f"Trained on both sets together ({both[0]['size']} configurations), scored on the dynamics. The networks are explained below.",
    )
    page.section("What the gap models look at")
    weakest = min(r["r2"] for r in both if (r["model"], r["target"]) == ("painn", "band_gap"))
    if weakest < 0.5:
        page.note(
            f"The explained models reach an R2 of {weakest:.2f} at worst on the dynamics (0: no better than the mean). What follows "
            "explains these models, not yet the crystal."
        )
    kinds, values, lengths = (np.asarray(attribution[k]) for k in ("kinds", "value", "length"))
    page.text(
        "Every bond of one snapshot of the dynamics is faded in from nothing to whole; its attribution is the integral of the "
        "prediction's derivative along the way (integrated gradients). It is averaged over the models of all seeds, which differ by "
        f"{attribution['spread_over_seeds'] * 1e3:.1f} meV per bond on average. The attributions add up to the difference between "
        f"the gap with all bonds, {attribution['whole']:.3f} eV, and without any, {attribution['bare']:.3f} eV, which no training "
        "structure resembles. Whether such attributions can be trusted is a "
        "separate question, not answered here."
    )
    page.table(
        ["bond", "number", "mean |attribution| (meV)", "sum (eV)"],
        [
            [
                k,
                int((kinds == k).sum()),
                f"{1e3 * np.abs(values[kinds == k]).mean():.2f}",
                f"{values[kinds == k].sum():+.3f}",
            ]
            for k in sorted(set(kinds), key=lambda k: -np.abs(values[kinds == k]).mean())
        ],
        "Attribution of the band gap by kind of bond (all pairs within the cutoff of the network).",
    )
    top = np.abs(values).max() or 1.0
    page.figure(
        plots.attribution_by_bond(
            [{"bond": k, "weight": abs(v) / top, "length": d} for k, v, d in zip(kinds, values, lengths, strict=True)]
        ),
        f"Absolute attribution of every pair by kind and by length; 1 stands for {1e3 * top:.1f} meV.",
    )
    page.crystal(
        read_labelled(folder / "gap" / "explained.extxyz")[0],
        "The explained snapshot. Pairs up to 3.2 Angstrom are drawn as bonds, coloured by their absolute attribution relative "
        "to the largest one drawn.",
        _drawn(attribution),
    )


def _drawn(attribution: dict[str, Any]) -> list[tuple[int, int, tuple[int, int, int], float]]:
    keep = [k for k, d in enumerate(attribution["length"]) if d < 3.2]
    top = max((abs(attribution["value"][k]) for k in keep), default=1.0) or 1.0
    return [
        (
            attribution["i"][k],
            attribution["j"][k],
            tuple(attribution["shift"][k]),
            abs(attribution["value"][k]) / top,
        )
        for k in keep
    ]


def _method(page: Report, plan: dict[str, Any]) -> None:
    page.section("What was done")
    page.text(
        f"Each crystal was relaxed with {plan['engine']} (cell and atoms, symmetry kept) and repeated "
        f"{' x '.join(map(str, plan['supercell']))}. Harmonic force constants come from finite displacements. Where modes are "
        f"imaginary, effective force constants were fitted to {plan['fit_snapshots']} snapshots of Langevin dynamics at "
        f"{plan['temperature']:g} K; a second, independent trajectory gives the {plan['test']} test snapshots."
    )
    page.text(
        f"The phonon set is drawn with {plan['statistics']} statistics; the dynamics is classical. The random set is isotropic, Gaussian, "
        "mean-free, and matched to the mean-square displacement of the phonon set as far as atoms stay apart. Every seed has "
        "structures of its own; the training sets of one seed are nested."
    )
    page.text(
        f"**painn**: equivariant network, {plan['layers']} layers of {plan['width']} features, {plan['steps']} optimiser steps at every "
        "size, no validation set: the last averaged weights count. **ridge**: linear regression on pair and angle distributions, the floor that a network "
        "has to beat; it learns energy and pressure only. For the band gap both learn gap and valence-band maximum, the network "
        "together with energy, forces and stress of the same calculations. No target is ever dropped before scoring."
    )


def _range(values: Sequence[float]) -> str:
    values = [float(v) for v in values]
    numbers = (sum(values) / len(values), min(values), max(values))
    mean, low, high = (f"{v:.2g}" if abs(v) < 100 else f"{v:.0f}" for v in numbers)
    return f"{mean} ({low}–{high})" if low != high else mean


def _sentence(text: str) -> str:
    """A finding as prose; in a terminal it spells its units out."""
    for spelled, shown in (("<u_x^2>", "⟨u²⟩ per component"), (" Angstrom^2", " Å²"), (" Angstrom", " Å")):
        text = text.replace(spelled, shown)
    return text[0].upper() + text[1:].rstrip(".") + "."
