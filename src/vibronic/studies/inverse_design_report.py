"""The page about the study ``inverse-design``, from the files in its folder and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vibronic.core.folder import finished
from vibronic.data.dataset import read_structures
from vibronic.report.html import Report
from vibronic.studies.inverse_design import STUDY
from vibronic.studies.inverse_design_figures import NAMES, TITLES, about_set, cost, success

SHOWN = 3
"""Crystals of a set in the gallery."""


def write(folder: Path) -> Path:
    """``report.html`` in the folder of a study.

    Raises:
        VibronicError: the folder holds no finished study.
    """
    folder = Path(folder)
    with finished(folder, STUDY) as results:
        plan, rows, sets = results["plan"], results["rows"], results["sets"]
        means, published = results["summary"], results["published"]
        values = {name: _values(folder, name, rows) for name in sets}
        page = Report(
            "Crystals with a wanted property: which conditioning finds them?",
            f"{', '.join(TITLES[n] for n in sets)}; {plan['steps']:,} optimiser steps for each model, {len(plan['seeds'])} "
            f"seed{'s' if len(plan['seeds']) > 1 else ''}, {plan['samples']} samples each",
        )
        page.section("The answer")
        page.note(_budget(plan, rows))
        page.text(
            "\n".join(f"- {_verdict(v, results)}" for v in results["verdicts"]) or "One model: nothing to compare."
        )
        page.figure(
            success(means, sets, published),
            "SR5: share of all samples that are valid and whose predicted property is in the best 5 % of the data. Bars: 95 % intervals, over seeds "
            "where there are several, else over samples. Open symbols: **published**, after the paper's training, not measured here. Dotted: the training crystals themselves.",
        )
        for name in sets:
            about_set(page, name, means, sets[name], published, values[name])
        page.section("Cost")
        cost(page, means)
        page.section("Some of the best new crystals")
        _gallery(page, folder, rows, sets)
        page.section("How it was done, and what it cannot say")
        page.text(_how(plan, sets))
        record = folder / "run.json"
        provenance: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
        page.provenance({"plan": plan, **provenance})
        page.write(folder / "report.html")
    return folder / "report.html"


def _budget(plan: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    epochs = [r["epochs"] for r in rows]
    span = f"{min(epochs):,}" + (f" to {max(epochs):,}" if max(epochs) > min(epochs) else "")
    return (
        f"Every model was trained for about {plan['steps']:,} steps of {plan['batch_size']} crystals ({span} epochs), the paper's for 3,000 to 4,000 epochs "
        f"of larger sets; published models sample here with {plan['evaluations']:,} evaluations of the network instead of 2,000. The table compares the "
        "methods at one budget. It does not reproduce the paper's numbers, and a low share here is no contradiction of them."
    )


def _verdict(v: dict[str, Any], results: dict[str, Any]) -> str:
    """One comparison in a sentence."""
    name, (one, two) = v["set"], (tuple(v[k]) for k in ("first", "second"))
    share = "SR5" if v["share"] == "sr5_all" else "hits"
    mean = {(m["model"], m["condition"]): m[v["share"]] for m in results["summary"] if m["set"] == name}
    told = f"**{TITLES[name]}, {NAMES[one]} against {NAMES[two]}** ({share} {mean[one]:.2f} and {mean[two]:.2f}): "
    if v["interval"] is None:
        told += "undecided, because one seed says nothing of the next training."
    else:
        low, high = v["interval"]
        said = f"{NAMES[tuple(v['winner'])]} wins" if v["winner"] else "undecided"
        told += (
            f"{said}; the difference is {v['difference']:+.2f}, with a 95 % interval from {low:+.2f} to {high:+.2f}."
        )
    if {one[0], two[0]} == {"cdi", "cds"}:
        figures = {NAMES[w]: results["published"][NAMES[w]][name][0] for w in (one, two)}
        told += f" The paper has {max(figures, key=lambda k: figures[k])} ahead, {max(figures.values()):.2f} to {min(figures.values()):.2f}."
    if share == "SR5" and max(mean[one], mean[two]) <= results["sets"][name]["reached"]["sr5"]:
        told += (
            " Neither succeeds more often than a training crystal taken at random: they have not learned to aim yet."
        )
    return told


def _values(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Predicted properties of training crystals and of valid samples by model and condition, which are in their files."""
    found = {"training crystals": json.loads((folder / "sets" / f"{name}.json").read_text())["predicted"]}
    for row in [r for r in rows if r["set"] == name]:
        file = folder / "runs" / f"{name}-{row['model']}-{row['seed']}" / f"{row['condition']}.json"
        each = json.loads(file.read_text())["each"]
        there = [v for v, valid in zip(each["values"], each["valid"], strict=True) if valid and v is not None]
        found.setdefault(NAMES[row["model"], row["condition"]], []).extend(there)
    return found


def _gallery(page: Report, folder: Path, rows: list[dict[str, Any]], sets: dict[str, Any]) -> None:
    """The lowest predicted hits of each set, no formula twice."""
    for name, one in sets.items():
        there = sorted(
            ((hit["value"], hit, row) for row in rows if row["set"] == name for hit in row["best"]), key=lambda x: x[0]
        )
        first: dict[str, tuple[float, dict[str, Any], dict[str, Any]]] = {}
        for found in there:
            first.setdefault(found[1]["formula"] if name != "carbon-24" else str(found[0]), found)
        if not first:
            page.text(f"{TITLES[name]}: no sample was valid, new and within the best 5 %.")
        for value, hit, row in list(first.values())[:SHOWN]:
            file = folder / "runs" / f"{name}-{row['model']}-{row['seed']}" / f"{row['condition']}.extxyz"
            page.crystal(
                read_structures(file, check=False)[hit["index"]],
                f"{TITLES[name]}, {NAMES[row['model'], row['condition']]}, seed {row['seed']}: {hit['formula']}, predicted {value:.3f} {one['unit']}; not relaxed.",
            )


def _how(plan: dict[str, Any], sets: dict[str, Any]) -> str:
    said = []
    for name, one in sets.items():
        parts = (
            "of the official parts"
            if one["official"]
            else "split at random 90/5/5, **not the paper's split** (its training files are not at hand)"
        )
        said.append(
            f"- **{TITLES[name]}**: {one['used']:,} of {one['at_hand']:,} crystals at hand; {one['train']:,} to learn, {one['different']:,} of them different, "
            f"{one['validation']:,} to choose the weights, {one['test']:,} to score the loss, {parts}."
        )
    return (
        "\n".join(said)
        + f"""

All models see the same crystals in the same number of steps of {plan["batch_size"]}, with a cosine schedule; optimiser, learning rate, averaging of weights and
clipping are each kind's own. Equal steps are not equal processor time. Of ten looks at the validation crystals the weights of the best are kept.
Numbers of atoms are drawn as the training crystals near the wanted value have them.

Samples are counted as they come, broken ones included. Models are compared with "ours, plain", of which nothing is chosen. "Ours, chosen" is what `vibronic generate` makes: names of
atoms chosen by the model's own estimate among those whose charges can balance, which is half of the validity that is counted, and crystals made symmetric within its tolerance.

A difference is called decided where Student's 95 % interval over paired seeds leaves out 0; comparisons are not corrected for their number.

- Success is a prediction of CDVAE's networks. Among samples unlike their training crystals they may be wrong, and a model may learn to please them.
- Nothing is relaxed, and no energy above a hull is computed: a hit is a candidate, not a stable crystal.
- The extreme value is met by few training crystals, in the end by one. Aiming there copies them or leaves the data; novelty and hits tell which.
- Settings that the paper leaves open are defaults, tuned for nothing here; those of ours were chosen by trials on such sets, which is an advantage."""
    )
