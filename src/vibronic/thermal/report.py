"""The page about a thermal average, a table of it, and the sentences that sum it up; from the files of a run and nothing else."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vibronic.core.folder import finished
from vibronic.core.provenance import writable
from vibronic.data.dataset import read_structures
from vibronic.report.html import Report
from vibronic.report.style import PALETTE, faded, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STUDY = "thermal-average"
PARTS = {
    "zero_point": "zero-point motion",
    "thermal": "thermal motion",
    "quantum_less_classical": "quantum less classical nuclei",
}


def total(row: dict[str, Any]) -> float:
    """The average at the given cell, and what its expansion adds where that is known."""
    return row["mean"] + (row["expansion"]["value"] if row["expansion"] else 0.0)


def summary(results: dict[str, Any]) -> list[str]:
    """Plain sentences: values, what they are made of, labels, and what is missing."""
    unit, target = results["unit"], results["plan"]["target"]
    lines = []
    for row in results["temperatures"]:
        parts = [f"undisplaced {results['static']:.4g}"]
        parts += [f"{said} {_with_error(**row[key])}" for key, said in PARTS.items() if key in row]
        parts += [f"expansion {_with_error(**row['expansion'])}"] if row["expansion"] else []
        lines.append(
            f"{row['temperature']:g} K: {target} {_with_error(total(row), row['half_width'], '')} {unit} "
            f"(sampling {row['sampling']:.1g}, {'model' if results['kind'] else 'few labels'} {row['model']:.1g}, labels {np.hypot(row['label'], row['expanding']):.1g}); "
            f"{', '.join(parts)}"
        )
    most = max(row["labels_without_model"] for row in results["temperatures"])
    sum_of = sum(row["labels_without_model"] for row in results["temperatures"])
    alone = f"; averaging labels alone would need about {most} at one temperature, {sum_of} in all"
    lines.append(f"{results['labels']} labels{alone if results['kind'] else ''}")
    return [*lines, *([results["missing"]] if results["missing"] else [])]


def _with_error(value: float, half_width: float, sign: str = "+") -> str:
    """A value with as many digits as two of its error."""
    digits = min(6, max(0, 1 - math.floor(math.log10(half_width)))) if 0 < half_width < math.inf else 4
    return f"{value:{sign}.{digits}f} +/- {half_width:.{digits}f}"


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
        for line in summary(results):
            page.text(line[0].upper() + line[1:] + ".")
        for row in results["ensemble"]:
            if row["off"]:
                page.note(row["finding"])
        if results["missing"]:
            page.note(f"The tolerance of {plan['tolerance']:g} {unit} is not met: {results['missing']}.")
        page.figure(_against_temperature(results), _caption(results))
        page.table(
            [
                "T (K)",
                f"value ({unit})",
                "± 95 %",
                "sampling",
                "model" if results["kind"] else "few labels",
                "labels",
                "labels of the expansion",
                "expansion",
            ],
            [
                [
                    *(
                        r["temperature"],
                        total(r),
                        r["half_width"],
                        r["sampling"],
                        r["model"],
                        r["label"],
                        r["expanding"],
                    ),
                    r["expansion"]["value"] if r["expansion"] else None,
                ]
                for r in rows
            ],
            f"Thermal averages. The value holds the expansion where there is one, from the lattice of least static energy on; the undisplaced "
            f"crystal has {results['static']:.5g}.",
        )
        if "zero_point" in rows[0]:
            page.table(
                ["T (K)", *PARTS.values()],
                [[r["temperature"], *(_with_error(**r[p]).replace("+/-", "±") for p in PARTS)] for r in rows],
                f"In {unit}: what the motion of the nuclei adds to the undisplaced crystal, at the given cell. Zero-point and thermal motion add up "
                "for quantum nuclei; the last column is what classical nuclei would miss.",
            )
        page.section("How many labels")
        page.figure(
            _progress(results), "Half width of the 95 % interval after each batch of labels, and the tolerance."
        )
        if results["foreseen"]:
            page.figure(
                _foreseen(results),
                f"What the first model, of {results['foreseen']['labels']} labels, expected of further labels: chosen ones, and as many drawn at random "
                "(mean of five orders). Model error only.",
            )
        page.table(
            ["temperature (K)", f"spread ({unit})", "labels without a model"],
            [[r["temperature"], r["spread"], r["labels_without_model"]] for r in rows],
            "Labels that an average of labels alone would need for the same tolerance: (1.96 spread / tolerance)², of independent configurations.",
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


def _table(path: Path, results: dict[str, Any]) -> None:
    unit, target = results["unit"], results["plan"]["target"]
    with writable(path) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        names = [
            target,
            f"{target}_low",
            f"{target}_high",
            "sampling",
            "model",
            "label",
            "expanding",
            "undisplaced",
            "expansion",
        ]
        rows.writerow(["temperature [K]", *(f"{n} [{unit}]" for n in [*names, *PARTS])])
        for row in results["temperatures"]:
            value, half = total(row), row["half_width"]
            numbers = [value, value - half, value + half, row["sampling"], row["model"], row["label"], row["expanding"]]
            parts = [row[p]["value"] if p in row else None for p in PARTS]
            cells = [*numbers, results["static"], row["expansion"] and row["expansion"]["value"], *parts]
            rows.writerow([f"{row['temperature']:g}", *("" if c is None else f"{c:.6g}" for c in cells)])


def _caption(results: dict[str, Any]) -> str:
    what = "with" if any(r["expansion"] is not None for r in results["temperatures"]) else "without"
    return f"{results['plan']['target']} against temperature with 95 % intervals, {what} thermal expansion; dashed: the undisplaced crystal."


def _against_temperature(results: dict[str, Any]) -> Figure:
    import plotly.graph_objects as go

    rows = results["temperatures"]
    x = [r["temperature"] for r in rows]
    figure = go.Figure()
    figure.add_hline(results["static"], line={"dash": "dash", "color": PALETTE[1]})
    figure.add_scatter(
        x=x,
        y=[total(r) for r in rows],
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
                x=[foreseen["labels"] + n for n in range(len(values))],
                y=values,
                mode="lines",
                line={"color": color if kind == "chosen" else faded(color, 0.6), "dash": dash},
                name=f"{row['temperature']:g} K, {kind}",
            )
    figure.update_xaxes(title_text="Labels")
    figure.update_yaxes(title_text=f"Half width of the model ({results['unit']})", rangemode="tozero")
    return styled(figure)
