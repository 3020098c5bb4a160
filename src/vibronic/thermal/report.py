"""The page about a thermal average, a table of it, and the sentences that sum it up; from the files of a run and nothing else."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vibronic.core.folder import finished
from vibronic.core.provenance import writable
from vibronic.data.dataset import read_structures
from vibronic.report.html import Report
from vibronic.report.style import PALETTE, faded, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STUDY = "thermal-average"
PARTS = {"motion": "motion of the nuclei", "expansion": "thermal expansion"}
"""What adds up, with the undisplaced crystal, to the average."""
MOTION = {
    "zero_point": "zero-point motion",
    "thermal": "thermal motion",
    "quantum_less_classical": "quantum less classical nuclei",
}
"""How the model divides the motion."""


def errors(results: dict[str, Any]) -> dict[str, str]:
    """Key and name of what the half width is made of."""
    model = "model" if results["kind"] else "few labels"
    return {"sampling": "sampling", "model": model, "labels": "labels", "expansion": "expansion"}


def summary(results: dict[str, Any]) -> list[str]:
    """Plain sentences: values, what they are made of, labels, and what is missing."""
    return [*_answers(results), *_labels(results), *results["notes"], *filter(None, [results["missing"]])]


def _answers(results: dict[str, Any]) -> list[str]:
    """A sentence for each temperature."""
    unit, target = results["unit"], results["plan"]["target"]
    lines = []
    for row in results["temperatures"]:
        digits = _digits(row["half_width"])
        made_of = [f"undisplaced {results['static']:.{digits}f}"]
        made_of += [f"{PARTS[key]} {_with_error(part, digits)}" for key, part in row["parts"].items()]
        shown = {said: f"{row['errors'][key]:.{digits}f}" for key, said in errors(results).items()}
        error = ", ".join(f"{said} {value}" for said, value in shown.items() if float(value))
        line = (
            f"{row['temperature']:g} K: {target} {row['value']:.{digits}f} +/- {row['half_width']:.{digits}f} {unit} "
            f"(error: {error}), the sum of {', '.join(made_of)}"
        )
        if row["motion"]:
            line += "; of the motion by the model alone: " + ", ".join(
                f"{said} {row['motion'][key]:+.{digits}f}" for key, said in MOTION.items() if key in row["motion"]
            )
        if row["kinetic"] is not None:
            line += f"; the kinetic energy of the nuclei, which is not in it, adds {row['kinetic']:+.{digits}f}"
        lines.append(line)
    return lines


def _labels(results: dict[str, Any]) -> list[str]:
    """How many labels there are, and how many it would have taken otherwise."""
    beside = results["extra"]
    others = "the undisplaced crystal, a configuration moved as a whole" + (
        ", strained crystals" if results["expansion"] else ""
    )
    lines = [f"{results['labels']} labels: {results['labels'] - beside} of configurations, {beside} others ({others})"]
    if results["kind"]:
        alone = [row["labels_without_model"] for row in results["temperatures"]]
        each = f"up to {max(alone)} of configurations for a temperature, " if len(alone) > 1 else ""
        lines[0] += f"; averaging labels alone would need {each}about {sum(alone) + beside} in all"
    if results["chosen"]:
        worth = results["as_good_at_random"]
        many = f"more than {len(results['foreseen']['random']) - 1}" if worth is None else str(worth)
        lines.append(
            f"after the first {results['first']} configurations the first model expected as much of {results['chosen']} that it chooses as of {many} at random"
        )
    return lines


def _digits(half_width: float) -> int:
    """Decimals that show two digits of an error."""
    return min(6, max(0, 1 - math.floor(math.log10(half_width)))) if 0 < half_width < math.inf else 4


def _with_error(part: dict[str, float], digits: int, between: str = "+/-") -> str:
    """A part with its error, where that shows in as many decimals."""
    error = f"{part['half_width']:.{digits}f}"
    return f"{part['value']:+.{digits}f}" + (f" {between} {error}" if float(error) else "")


def write(folder: Path) -> Path:
    """``thermal.csv`` and ``report.html`` in the folder of a run.

    Raises:
        VibronicError: the folder holds no finished run.
    """
    folder = Path(folder)
    with finished(folder, STUDY) as results:
        plan, rows, unit = results["plan"], results["temperatures"], results["unit"]
        _table(folder / "thermal.csv", results)
        page = Report(
            f"{plan['target']} of {Path(plan['crystal']).stem} at finite temperature",
            f"{results['labels']} labels from {plan['engine']}, "
            + (f"model {results['kind']}" if results["kind"] else "no model")
            + f", {'dynamics' if plan['method'] == 'md' else plan['statistics'] + ' phonons'} from {plan['forces']}",
        )
        page.section("The answer")
        for line in _answers(results):
            page.text(line + ".")
        for note in results["notes"]:
            page.note(note)
        if results["missing"]:
            page.note(f"The tolerance of {plan['tolerance']:g} {unit} is not met: {results['missing']}.")
        page.figure(_against_temperature(results), _caption(results))
        parts = list(rows[0]["parts"])
        page.table(
            ["T (K)", "undisplaced", *(PARTS[key] for key in parts), "sum", "± 95 %"],
            [_sum(r, results["static"]) for r in rows],
            f"What the average is made of, in {unit}. Motion is that of the nuclei in the given cell"
            + (", expansion counts from the lattice of least static energy on." if "expansion" in parts else ".")
            + " Parts share labels, so their errors do not add up.",
        )
        page.table(
            ["T (K)", "± 95 %", *errors(results).values()],
            [[r["temperature"], r["half_width"], *(r["errors"][key] for key in errors(results))] for r in rows],
            f"What the half width of the interval is made of, in {unit}; its parts add up in quadrature.",
        )
        beside = {MOTION[key]: [r["motion"][key] for r in rows] for key in MOTION if key in rows[0]["motion"]}
        if rows[0]["kinetic"] is not None:
            beside["kinetic energy of the nuclei"] = [r["kinetic"] for r in rows]
        if beside:
            page.table(
                ["T (K)", *beside],
                [
                    [
                        f"{r['temperature']:g}",
                        *(f"{values[k]:+.{_digits(r['half_width'])}f}" for values in beside.values()),
                    ]
                    for k, r in enumerate(rows)
                ],
                f"Beside the sum, in {unit}."
                + (
                    " How the model divides the motion: no label tells of configurations at 0 K or with other statistics, so there are no intervals."
                    if rows[0]["motion"]
                    else ""
                )
                + (" Kinetic energy is in no label, and not in the average." if rows[0]["kinetic"] is not None else ""),
            )
        page.section("How many labels")
        for line in _labels(results):
            page.text(line[0].upper() + line[1:] + ".")
        page.figure(
            _progress(results), "Half width of the 95 % interval after each batch of labels, and the tolerance."
        )
        if results["foreseen"]:
            page.figure(
                _foreseen(results),
                f"What the first model, of {results['first']} configurations, expected of further labels: chosen ones, and as many drawn at random "
                "(mean of five orders). Model error only.",
            )
        page.table(
            ["temperature (K)", f"spread ({unit})", "labels without a model"],
            [[r["temperature"], r["spread"], r["labels_without_model"]] for r in rows],
            f"Labels that an average of labels alone would need for the same tolerance, (1.96 spread / tolerance)², of independent configurations; {results['extra']} "
            "others come to them, as with a model.",
        )
        if results["unseen_mae"] is not None:
            page.text(
                f"On labels it had not seen the model was wrong by {results['unseen_mae']:.3g} {unit} on average (five-fold cross-validation). "
                f"Errors were {results['widening']:.2f} times as large as it foresaw (1 at least), and its intervals are widened by that."
            )
        page.crystal(read_structures(folder / "labelled.extxyz")[0], "The first configuration that was labelled.")
        page.section("What was done")
        page.text("\n".join(f"- {finding}" for finding in results["findings"]))
        page.text(
            f"A pool of {plan['pool']} configurations of each temperature is averaged over. Label error: how far the engine disagrees with "
            f"itself on a crystal that is moved as a whole, {results['label_error']:.2g} {unit} in a single label (half width of 95 %); that of its "
            "physics (the functional, the potential) is not in it, nor that of the forces behind the vibrations."
        )
        record = folder / "run.json"
        page.provenance({"plan": plan, **(json.loads(record.read_text()) if record.exists() else {})})
    page.write(folder / "report.html")
    return folder / "report.html"


def _sum(row: dict[str, Any], static: float) -> list[str]:
    """What the average at one temperature is made of, all with the same decimals."""
    digits = _digits(row["half_width"])
    parts = (_with_error(part, digits, "±") for part in row["parts"].values())
    undisplaced, value, half = (f"{x:.{digits}f}" for x in (static, row["value"], row["half_width"]))
    return [f"{row['temperature']:g}", undisplaced, *parts, value, half]


def _table(path: Path, results: dict[str, Any]) -> None:
    unit, target = results["unit"], results["plan"]["target"]
    rows = results["temperatures"]
    parts, motion = list(rows[0]["parts"]), [key for key in MOTION if key in rows[0]["motion"]]
    names = [target, f"{target}_low", f"{target}_high", "undisplaced"]
    names += [*(PARTS[p] for p in parts), *(f"error {said}" for said in errors(results).values())]
    moving = rows[0]["kinetic"] is not None
    names += [*(MOTION[key] for key in motion), *(["kinetic energy not in the value"] if moving else [])]
    names = [n.replace(" ", "_").replace("-", "_") for n in names]
    with writable(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["temperature [K]", *(f"{n} [{unit}]" for n in names)])
        for row in rows:
            value, half = row["value"], row["half_width"]
            numbers = [value, value - half, value + half, results["static"]]
            numbers += [row["parts"][p]["value"] for p in parts] + [row["errors"][key] for key in errors(results)]
            numbers += [row["motion"][key] for key in motion] + ([row["kinetic"]] if moving else [])
            table.writerow([f"{row['temperature']:g}", *(f"{n:.6g}" for n in numbers)])


def _caption(results: dict[str, Any]) -> str:
    what = "with" if any("expansion" in r["parts"] for r in results["temperatures"]) else "without"
    return f"{results['plan']['target']} against temperature with 95 % intervals, {what} thermal expansion; dashed: the undisplaced crystal."


def _against_temperature(results: dict[str, Any]) -> Figure:
    import plotly.graph_objects as go

    rows = sorted(results["temperatures"], key=lambda row: row["temperature"])
    x = [r["temperature"] for r in rows]
    figure = go.Figure()
    figure.add_hline(results["static"], line={"dash": "dash", "color": PALETTE[1]})
    figure.add_scatter(
        x=x,
        y=[r["value"] for r in rows],
        error_y={"array": [r["half_width"] for r in rows]},
        mode="lines+markers",
        line={"color": PALETTE[0]},
        name=results["plan"]["target"],
    )
    figure.update_xaxes(title_text="Temperature (K)")
    figure.update_yaxes(title_text=f"{results['plan']['target']} ({results['unit']})")
    return styled(figure)


def _progress(results: dict[str, Any]) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    labels = [r["labels"] for r in results["rounds"]]
    for k, row in enumerate(results["temperatures"]):
        figure.add_scatter(
            x=labels,
            y=[r["half_width"][k] for r in results["rounds"]],
            mode="lines+markers",
            line={"color": PALETTE[k % len(PALETTE)]},
            name=f"{row['temperature']:g} K",
        )
    figure.add_hline(results["plan"]["tolerance"], line={"dash": "dash"})
    figure.update_xaxes(title_text="Labels")
    figure.update_yaxes(title_text=f"Half width ({results['unit']})", rangemode="tozero")
    return styled(figure)


def _foreseen(results: dict[str, Any]) -> Figure:
    import plotly.graph_objects as go

    figure, foreseen = go.Figure(), results["foreseen"]
    for k, row in enumerate(results["temperatures"]):
        for kind, dash in (("chosen", "solid"), ("random", "dot")):
            values = [line[k] for line in foreseen[kind]]
            color = PALETTE[k % len(PALETTE)]
            figure.add_scatter(
                x=[results["extra"] + results["first"] + n for n in range(len(values))],
                y=values,
                mode="lines",
                line={"color": color if kind == "chosen" else faded(color, 0.6), "dash": dash},
                name=f"{row['temperature']:g} K, {kind}",
            )
    figure.update_xaxes(title_text="Labels")
    figure.update_yaxes(title_text=f"Half width of the model ({results['unit']})", rangemode="tozero")
    return styled(figure)
