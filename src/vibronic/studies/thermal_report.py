"""The page about a thermal study, from the files in its folder and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vibronic.core.folder import finished
from vibronic.data.dataset import read_labelled
from vibronic.report import plots
from vibronic.report.html import Report
from vibronic.studies import thermal_gap
from vibronic.studies.thermal_answer import CLAIM, Rows, effects, labels_saved, summary, verdicts, without_offset
from vibronic.studies.thermal_models import GAP

_NAMES = {
    "energy": "energy",
    "forces": "forces",
    "stress": "stress",
    "pressure": "pressure",
    "band_gap": "band gap",
    "vbm": "valence-band maximum",
}

_DRAWN = {
    "random": "The random set is isotropic, Gaussian and mean-free, with one amplitude for all atoms.",
    "species": "The species set is the same with one amplitude for each species.",
    "sites": "In the sites set every atom moves by itself, as far in every direction as in the phonon set.",
    "shuffled": "In the shuffled set the amplitudes of the modes are dealt to other eigenvectors, once for all seeds.",
    "monte-carlo": "The monte-carlo set consists of random walks of single atoms that keep a smallest distance, of one amplitude for all.",
    "dynamics": "The dynamics set is from a trajectory of its own, with the displacements that the crystal has by itself.",
}


def write(folder: Path) -> Path:
    """``report.html`` in the folder of a study.

    Raises:
        VibronicError: the folder holds no finished study.
    """
    folder = Path(folder)
    with finished(folder, "thermal") as results:
        plan, rows = results["plan"], results["rows"]
        found = {c: _sampling(folder / c)["rms"] for c in results["crystals"]}
        rms = {c: {s: r[s] for s in (*plan["sets"], "test")} for c, r in found.items()}
    page = Report(
        "Do lattice vibrations teach more than random displacements?",
        f"{', '.join(results['crystals'])} at {plan['temperature']:g} K; labels from {plan['engine']}"
        + (", band gaps from DFT (PBE)" if plan["gap"] else ""),
    )
    _answer(page, rows, plan, rms, results.get("absent", {}))
    for crystal in results["crystals"]:
        _crystal(page, folder / crystal, crystal, plan)
        _learning(page, [r for r in rows if r["crystal"] == crystal], f"{crystal}: what the models learned")
    if "transfer" in results:
        _transfer(page, results["transfer"], results["donors"], rows)
    if plan["gap"]:
        _gap(page, folder, rows, results)
    _method(page, plan)
    record = folder / "run.json"
    page.provenance({"plan": plan, **(json.loads(record.read_text()) if record.exists() else {})})
    page.write(folder / "report.html")
    return folder / "report.html"


def _answer(
    page: Report,
    rows: Rows,
    plan: dict[str, Any],
    rms: dict[str, dict[str, float]],
    absent: dict[str, list[str]],
) -> None:
    page.section("The answer")
    rows = [r for r in rows if r["crystal"] != GAP]
    found = verdicts(rows)
    for label in dict.fromkeys(v["set"] for v in found):
        mine = [v for v in found if v["set"] == label]
        count = {w: sum(v["winner"] == w for v in mine) for w in ("phonons", label, "open", "none")}
        page.text(
            f"Of {len(mine)} comparisons (crystal, model, target{', temperature' if plan['test_temperatures'] else ''}) **the phonon set "
            f"taught more in {count['phonons']}, the {label} set in {count[label]}**; {count['open']} stay open, and in {count['none']} "
            "neither set taught a model to beat a constant."
        )
    moved = "; ".join(
        f"{c}: " + ", ".join(f"{s} {r[s]:.2f}" for s in plan["sets"]) + f" and the dynamics itself {r['test']:.2f} Å"
        for c, r in rms.items()
    )
    tested = ", ".join(f"{t:g}" for t in dict.fromkeys((plan["temperature"], *plan["test_temperatures"])))
    page.text(
        f"Training sets of {max(plan['sizes'])} structures were scored on molecular dynamics at {tested} K that none contains. The "
        f"root-mean-square displacements of an atom are: {moved}. The comparisons of one crystal share their structures and their "
        "test trajectories, so they are not independent, and one interval in twenty misses by chance. Where modes are imaginary, the phonons themselves cost "
        f"{plan['fit_snapshots']} snapshots of dynamics with forces, which are not among these labels."
    )
    if plan["pool"] is not None:
        page.note(
            f"Every seed draws its training sets from the same {plan['pool']} structures of each set. Sets of different seeds overlap, the "
            "more the larger they are: intervals over seeds are too narrow at sizes near the pool."
        )
    decomposed = effects(rows, absent)
    if decomposed:
        _effects(page, decomposed)
    if found:
        _verdict_table(page, found)
    _saved_table(page, labels_saved(rows))


def _effects(page: Report, found: Rows) -> None:
    lines = []
    for line in summary(found):
        if line["ratio"] is None:
            size = "no model beats a constant"
        else:
            of = f"{line['crystals']} crystals" if line["crystals"] > 1 else "one crystal"
            size = f"the error without over that with it is {line['ratio']:.2f}{_interval(line['interval'])} on average over {of}"
        lines.append(
            f"- **{line['effect'].capitalize()}** ({line['without']} against {line['with']}): {size}; it helps in {line['helps']} comparisons, "
            f"harms in {line['harms']}, {line['open']} stay open, {line['none']} beat no constant"
        )
    page.text("What each ingredient brings, at the largest size:\n\n" + "\n".join(lines))
    page.table(
        ["crystal", "model", "target", "K", "ingredient", "without / with", "95 % interval", "better"],
        [
            [
                f["crystal"],
                f["model"],
                _NAMES.get(f["target"], f["target"]),
                _kelvin(f),
                f["effect"],
                f"{f['ratio']:.2f}",
                _bounds(f["interval"]),
                f["winner"],
            ]
            for f in found
        ],
        "Error of the set without an ingredient over that of the set with it, above 1 where the ingredient helps; 95 % over seeds. "
        "Amplitude per species: random against species, which a crystal of one element does not tell apart. Directions of a site: species "
        "against sites, which are the same where every site is cubic. Correlations: sites against phonons. Right stiffness: shuffled (one dealing of "
        "the amplitudes to other eigenvectors) against phonons. Anharmonicity: phonons against dynamics, whose snapshots are correlated "
        "in time and whose displacements are the crystal's own, larger or smaller.",
    )


def _verdict_table(page: Report, found: Rows) -> None:
    page.table(
        [
            "crystal",
            "model",
            "target",
            "K",
            "labels",
            "phonons",
            "set",
            "its error",
            "constant",
            "ratio",
            "95 % interval",
            "better",
        ],
        [
            [
                v["crystal"],
                v["model"],
                f"{_NAMES.get(v['target'], v['target'])} ({v['unit']})",
                _kelvin(v),
                v["size"],
                _range(v["phonons"]),
                v["set"],
                _range(v[v["set"]]),
                f"{v['constant']:.2g}",
                f"{v['ratio']:.2f}",
                _bounds(v["interval"]),
                v["winner"],
            ]
            for v in found
        ],
        "Mean absolute error on the dynamics after learning from each set: mean over seeds, smallest to largest in brackets. "
        "Constant: the error of always predicting the mean of the test labels (no force, for forces). Ratio: the set over phonons, "
        "above 1 where the phonon set teaches more, with its 95 % interval over seeds, which holds what training sets and weights "
        "contribute but not the one test trajectory and the one set of force constants. Better: open where that interval holds 1, "
        "none where neither set beats the constant.",
    )


def _saved_table(page: Report, found: Rows) -> None:
    if not found:
        return
    told = [f for f in found if f["claim"] != "none"]
    count = {c: sum(f["claim"] == c for f in told) for c in ("holds", "fails", "open")}
    page.text(
        f"**Labels saved.** That n phonon labels are worth {CLAIM:g} n random ones holds in {count['holds']}, fails in {count['fails']} and "
        f"stays open in {count['open']} of {len(told)} comparisons in which the phonon-made model beats a constant."
    )
    page.table(
        ["crystal", "model", "target", "K", "n", "random labels / n", "95 % interval", f"at least {CLAIM:g}"],
        [
            [
                f["crystal"],
                f["model"],
                _NAMES.get(f["target"], f["target"]),
                _kelvin(f),
                f["n"],
                _factor(f),
                _bounds(f["interval"]) if f["interval"] else "–",
                f["claim"],
            ]
            for f in found
        ],
        "How many random labels give the error of n phonon labels, over n: from straight lines between the sizes of the random set's "
        "learning curve in log-log, per seed; geometric mean over seeds. More than: the curve of some seeds never gets there, and their "
        "largest size counts. Less than: some seeds are there with the smallest size.",
    )


def _factor(f: dict[str, Any]) -> str:
    if f["above"] and f["below"]:
        return f"unknown ({f['above']} of {f['seeds']} seeds never, {f['below']} at once)"
    bound = "more than " if f["above"] else "less than " if f["below"] else ""
    return f"{bound}{f['factor']:.1f}"


def _transfer(page: Report, rows: Rows, donors: dict[str, list[str]], own: Rows) -> None:
    page.section("From compounds to another one")
    page.text(
        "Models that learned from all compounds but one, as many labels in all as the largest training set has, were scored on the "
        "dynamics of that one: "
        + "; ".join(f"{c} from {', '.join(d)}" for c, d in donors.items())
        + ". A total energy carries an "
        "offset that no other compound tells; the second error is what remains once the mean error is taken off every prediction."
    )
    largest = max(r["size"] for r in own if r["crystal"] in donors)
    table = []
    keys = ("crystal", "model", "set", "target", "temperature_K")
    for key in dict.fromkeys(tuple(r[k] for k in keys) for r in rows):
        mine = [r for r in rows if tuple(r[k] for k in keys) == key]
        same = [r["mae"] for r in own if tuple(r[k] for k in keys) == key and r["size"] == largest]
        rest = [x for r in mine if (x := without_offset(r)) is not None]
        table.append(
            [
                key[0],
                key[1],
                key[2],
                f"{_NAMES.get(key[3], key[3])} ({mine[0]['unit']})",
                _kelvin(mine[0]),
                _range([r["mae"] for r in mine]),
                _range(rest) if rest else "–",
                _range(same),
                f"{mine[0]['constant']:.2g}",
            ]
        )
    page.table(
        ["held out", "model", "set", "target", "K", "error", "without offset", "learned from itself", "constant"],
        table,
        f"Mean absolute error on the dynamics of the compound held out; mean over seeds, smallest to largest in brackets. Learned from "
        f"itself: models of {largest} labels of that compound.",
    )


def _kelvin(of: dict[str, Any]) -> str:
    return "all" if of["temperature_K"] is None else f"{of['temperature_K']:g}"


def _bounds(interval: Sequence[float]) -> str:
    return f"{interval[0]:.2f}–{interval[1]:.2f}" if np.isfinite(interval[0]) and interval[0] > 0 else "one seed"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.2f}–{interval[1]:.2f}, 95 % over crystals)"


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
        "beside the analytic value for the phonons used. Sets are matched to the phonon set over all atoms; species by species only the "
        "set of that name. Snapshots with a distance below 0.65 of the shortest bond were drawn again.",
    )
    page.crystal(
        read_labelled(folder / "phonons-labelled.extxyz")[0],
        f"A configuration of {crystal} from its lattice vibrations.",
        None,
    )


def _learning(page: Report, rows: Rows, title: str, shown_model: str = "painn") -> None:
    """Learning curves and parity, at the first test temperature."""
    page.section(title)
    rows = [r for r in rows if r["set"] != "both" and r["temperature_K"] == rows[0]["temperature_K"]]
    seeds = len({r["seed"] for r in rows})
    at = "" if rows[0]["temperature_K"] is None else f" at {rows[0]['temperature_K']:g} K"
    for target in dict.fromkeys(r["target"] for r in rows if r["target"] != "stress"):
        mine = [r for r in rows if r["target"] == target]
        page.figure(
            plots.learning_curves(
                [{**r, "value": r["mae"]} for r in mine], f"MAE of the {_NAMES.get(target, target)}", mine[0]["unit"]
            ),
            f"Error on {mine[0]['n_test']} snapshots of the dynamics{at} against the number of labels: {seeds} seeds as points, a line "
            "through their medians (the table gives means). "
            f"A constant would have {mine[0]['constant']:.2g} {mine[0]['unit']}.",
        )
    for target in dict.fromkeys(
        r["target"] for r in rows if r["parity"] is not None and r["target"] in ("energy", "band_gap")
    ):
        shown = (shown_model, target, max(r["size"] for r in rows), min(r["seed"] for r in rows))
        groups = {
            r["set"]: (np.asarray(r["parity"][0]), np.asarray(r["parity"][1]))
            for r in rows
            if (r["model"], r["target"], r["size"], r["seed"]) == shown
        }
        unit = {"energy": "eV/atom"}.get(target, "eV")
        page.figure(
            plots.parity(groups, unit, _NAMES[target].capitalize()),
            f"Every snapshot of the dynamics{at}, predicted by {shown_model} trained on each set (largest size, first seed).",
        )


def _gap(page: Report, folder: Path, rows: Rows, results: dict[str, Any]) -> None:
    mine = [r for r in rows if r["crystal"] == GAP and r["target"] in ("band_gap", "vbm")]
    page.section("Band gap of Ag3SBr, labels from DFT")
    page.text(_sentence(thermal_gap.introduction(results["gap"])))
    _verdict_table(page, verdicts(mine))
    _saved_table(page, labels_saved(mine))
    overall = [r for r in mine if r["temperature_K"] is None]
    _learning(page, overall, "Band gap: what the models learned", "tight-binding")
    thermal_gap.together(page, overall, _NAMES)
    thermal_gap.explained(page, folder, results["attribution"], _sentence)


def _method(page: Report, plan: dict[str, Any]) -> None:
    page.section("What was done")
    page.text(
        f"Each crystal was relaxed with {plan['engine']} (cell and atoms, symmetry kept) and repeated "
        f"{' x '.join(map(str, plan['supercell']))}. Harmonic force constants come from finite displacements. Where modes are "
        f"imaginary, effective force constants were fitted to {plan['fit_snapshots']} snapshots of Langevin dynamics at "
        f"{plan['temperature']:g} K; a second, independent trajectory gives the {plan['test']} test snapshots, and so for every other "
        "test temperature. All training sets are of one temperature."
    )
    page.text(
        f"The phonon set is drawn with {plan['statistics']} statistics; the dynamics is classical. "
        + " ".join(_DRAWN[s] for s in plan["sets"] if s in _DRAWN)
        + " All but the dynamics are matched to the mean-square displacement of the phonon set as far as atoms stay apart. "
        + (
            "Every seed has structures of its own"
            if plan["pool"] is None
            else f"All seeds draw from {plan['pool']} structures"
        )
        + "; the training sets of one seed are nested."
    )
    page.text(
        f"**painn**: equivariant network, {plan['layers']} layers of {plan['width']} features, {plan['steps']} optimiser steps at every "
        "size (at least one pass over the set), no validation set: the last averaged weights count. **ridge**: linear regression on pair and angle distributions, the floor that a network "
        "has to beat; it learns energy and pressure only. **tight-binding**: a Hamiltonian of s, p and d orbitals fitted to band edges, for "
        "the gap only. For the band gap all learn gap and valence-band maximum, the network together with energy, forces and stress of "
        "the same calculations. No target is ever dropped before scoring."
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
