"""The page about a trained generator of crystals, from the files in its folder and nothing else."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.data.dataset import read_structures
from vibronic.report import generator_plots
from vibronic.report.gallery import ESTIMATE, content, gallery, is_number, sound, told, with_units
from vibronic.report.html import Report

SHARES = {
    "valid_structure": "valid structure: no two atoms closer than 0.5 Å",
    "valid_composition": "valid composition: charges can balance (SMACT)",
    "valid": "valid: both",
    "unique": "unique among the valid: the first of its kind",
    "novel": "new among the valid: none of the training set is the same",
    "valid_unique_novel": "valid, unique and new",
}
SETS = {"train": "training", "val": "validation"}


def write(folder: Path | str) -> Path:
    """``report.html`` in the folder of a generator.

    Raises:
        VibronicError: the folder holds no model, one that predicts, or damaged files.
    """
    folder = Path(folder)
    with sound(folder):
        card = content(folder / "config.json")
        if card is None:
            raise VibronicError(f"{folder} is not a model folder: it has no config.json")
        _check(folder, card["kind"])
        run, about = content(folder / "run.json") or {}, content(folder / "samples.json")
        units = card["targets"]
        page = Report(
            f"A generator of crystals: {folder.resolve().name}",
            f"{card['kind']}, trained on {card['data']['structures']:,} crystals"
            + (f"; can be asked for {', '.join(units)}" if units else ""),
        )
        page.section("What it is")
        page.table(["model", folder.resolve().name], _card(card, run), "The model and its training.")
        page.section("Training")
        _curves(page, folder)
        if about is None:
            page.note(
                f"The folder holds no samples of this model. `vibronic generate {folder} --out new.extxyz` makes crystals."
            )
        else:
            crystals = read_structures(folder / "samples.extxyz", check=False)
            _made(page, about, crystals)
            _asked(page, about, crystals)
            gallery(page, crystals, units, "as they came, not relaxed")
        page.provenance({**{k: v for k, v in run.items() if k not in ("scores", "last")}, "model": card["config"]})
        page.write(folder / "report.html")
    return folder / "report.html"


def _check(folder: Path, kind: str) -> None:
    from vibronic.learning.store import class_of

    if not class_of(kind).generates:
        raise VibronicError(
            f"{folder} is a {kind}, which predicts; pages are made of models that generate, and of studies"
        )


def _card(card: Mapping[str, Any], run: Mapping[str, Any]) -> list[list[str]]:
    """What a person wants to know of a model, in words."""
    data, config = card["data"], run.get("config", {})
    training, structures = config.get("training", {}), run.get("structures", {})
    rows = [["kind", card["kind"]]]
    rows += [["can be asked for", ", ".join(with_units(n, card["targets"]) for n in card["targets"]) or "no property"]]
    rows += [[f"zero of {name}", what] for name, what in card["references"].items()]
    rows += [["data", config["data"]]] if "data" in config else []
    parts = {"fitted": "to fit", "validated": "to validate", "scored": "to score"}
    split = ", ".join(f"{structures[k]:,} {what}" for k, what in parts.items() if k in structures)
    rows += [["crystals", split or f"{data['structures']:,} to fit"]]
    low, high = data["atoms"]
    rows += [["atoms in a cell", f"{low} to {high}" if high > low else f"{low}"]]
    elements = data["elements"]
    rows += [["elements", f"{len(elements)}: {' '.join(elements)}" if len(elements) > 8 else " ".join(elements)]]
    settings = {k: v for k, v in card["config"].items() if k in ("width", "depth", "heads", "condition")}
    rows += [["network", ", ".join(f"{k} {v}" for k, v in settings.items())]]
    steps = {k: training[k] for k in ("epochs", "batch_size", "learning_rate") if k in training}
    rows += [["training", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in steps.items())]] if steps else []
    rows += [["seed", str(run["seed"])]] if "seed" in run else []
    rows += [["time of the last run", _duration(run["seconds"])]] if "seconds" in run else []
    return [[name.replace(" ", "\u00a0"), what] for name, what in rows]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _curves(page: Report, folder: Path) -> None:
    rows = _logged(folder / "logs")
    if not rows:
        page.text("The folder holds no logs of the training.")
        return
    validated = any(row["set"] == SETS["val"] for row in rows)
    page.figure(
        generator_plots.training_curves(rows),
        "The loss and its parts by epoch"
        + (
            "; the model kept is that of the lowest validation loss. Validation sees the same noise every time."
            if validated
            else ", on the training set: no epoch was validated."
        ),
    )


def _logged(logs: Path) -> list[dict[str, Any]]:
    """Figures by epoch, in order. A training that went on after a stop has a table for each start: the newest tells."""
    figures: dict[int, dict[str, float]] = {}
    for file in sorted(logs.glob("*/metrics.csv"), key=lambda f: int(f.parent.name.rpartition("_")[2])):
        with file.open(newline="") as table:
            rows = list(csv.DictReader(table))
        first = min((int(row["epoch"]) for row in rows), default=0)
        figures = {epoch: known for epoch, known in figures.items() if epoch < first}
        for row in rows:
            found = {k: float(v) for k, v in row.items() if v and k.partition("_")[0] in SETS}
            figures.setdefault(int(row["epoch"]), {}).update(found)
    names = sorted({name for found in figures.values() for name in found})
    # The whole loss first.
    names = [n for n in names if n.endswith("_loss")] + [n for n in names if not n.endswith("_loss")]
    return [
        {"epoch": epoch, "part": name.partition("_")[2], "set": SETS[name.partition("_")[0]], "value": found[name]}
        for name in sorted(names, key=lambda n: not n.startswith("train"))
        for epoch, found in sorted(figures.items())
        if math.isfinite(found.get(name, math.nan))
    ]


ROUGH = (
    "Its crystals are far less symmetric than those that it learned: their geometries are rough, and what counts as new may be a "
    "distorted copy. More crystals to learn and more epochs help; relax what you keep (--relax)."
)


def rough(about: Mapping[str, Any]) -> bool:
    """Whether fewer than half as many of the valid candidates are symmetric as of the training set."""
    share = about["symmetric"]["share"]
    return share is not None and share < 0.5 * about["symmetric"]["training"]


def _made(page: Report, about: Mapping[str, Any], crystals: Sequence[Atoms]) -> None:
    """The metrics, each with its interval."""
    page.section("What it makes")
    groups, totals = about["groups"], about["metrics"]
    nothing = any(group["asked"] is None for group in groups)
    asked = [group for group in groups if group["asked"] is not None]
    values = f"{len(asked)} values of `{about['property']}`, quantiles of its training set" if asked else ""
    what = " and ".join([*(["nothing"] if nothing else []), *([values] if values else [])])
    page.text(
        f"{totals['n']} candidates, {about['each']} for each request, none of them left out below; asked for: {what}. "
        f"{about['evaluations']} evaluations of the network for each crystal"
        + (
            f", fewer than the model's own {about['usual_evaluations']} to save time: the model can do better."
            if about["evaluations"] < about["usual_evaluations"]
            else "."
        )
    )
    if lost := totals["n"] - len(crystals):
        page.note(f"{lost} candidates have coordinates that are no numbers: counted as invalid, not in the file.")
    rows = [[what, *_percent(totals, name)] for name, what in SHARES.items() if name in totals]
    rows += [["of the valid: some symmetry within 0.1 Angstrom", *_percent(about["symmetric"], "share")]]
    rows += [["the same of the training set", f"{100 * about['symmetric']['training']:.1f}", None]]
    page.table(
        ["share of candidates", "%", "95 % interval"],
        rows,
        "Shares of all candidates, or of the valid ones where it is said, over all requests together; intervals from 1,000 "
        "bootstrap resamples, which know nothing of what was never seen. Definitions: Conventions, metrics of crystals.",
    )
    if rough(about):
        page.note(ROUGH)


def _percent(row: Mapping[str, Any], name: str) -> list[Any]:
    if row[name] is None:
        return [None, None]
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return [round(100 * row[name], 1), f"{100 * low:.1f} to {100 * high:.1f}"]


def _asked(page: Report, about: Mapping[str, Any], crystals: Sequence[Atoms]) -> None:
    """Requests one by one, and the distributions of the model's estimates beside that of the training set."""
    name, groups = about["property"], about["groups"]
    if name is None:
        return
    unit = about["unit"]
    page.section("Asked and estimated")
    estimated = any(group.get("deviation") is not None for group in groups)
    page.text(
        ESTIMATE
        if estimated
        else f"The model gives no estimate of {name}: whether a request was met is not known here."
    )
    if estimated:
        rows = []
        for k, group in enumerate(groups):
            own = [a for a in crystals if a.info["group"] == k and a.info["valid"]]
            found = [a.info[f"{name}_estimate"] for a in own if is_number(a.info.get(f"{name}_estimate"))]
            said = "nothing asked" if group["asked"] is None else f"asked {told(group['asked'])}"
            rows.append({"name": said, "asked": group["asked"], "values": found})
        known = about["training"]
        drawn = f" ({len(known['values']):,} of {known['n']:,}, drawn)" if len(known["values"]) < known["n"] else ""
        page.figure(
            generator_plots.asked_against_found(rows, known["values"], name, unit),
            f"Estimates of {name} of the valid candidates of each request, below the values of the training set{drawn}; dashed: "
            "asked for. What lies beyond is counted at the edge.",
        )
    page.table(
        [
            "asked",
            "valid (%)",
            "and unique, new (%)",
            with_units("deviation", {"deviation": unit}),
            "interval",
            "training set",
        ],
        [_request(group) for group in groups],
        f"Each request: shares of its candidates, and the mean absolute deviation of **the model's own estimate** of {name} from "
        "the asked value, over the valid ones, with its 95 % interval. Last column: the same of the training set's values, which a "
        "model reaches that does not listen.",
    )


def _request(group: Mapping[str, Any]) -> list[Any]:
    interval = None
    if group.get("deviation") is not None:
        interval = f"{group['deviation_low']:.2f} to {group['deviation_high']:.2f}".replace(" ", "\u00a0")
    asked = "nothing" if group["asked"] is None else told(group["asked"])
    shares = [_percent(group, name)[0] for name in ("valid", "valid_unique_novel")]
    return [asked, *shares, group.get("deviation"), interval, group.get("deviation_of_training")]
