"""Verbs about trained models: predicting, scoring, listing."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import run_record, write_json
from vibronic.verbs.common import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from vibronic.core.model import Model
    from vibronic.learning.store import Card


def predict(
    model: str, structures: str, device: str = "cpu", batch_size: int = 32, out: Path = Path("predictions.csv")
) -> Path:
    """Predict properties of structures with a trained model.

      vibronic predict runs/gap hot.extxyz --out predictions.csv

    One row per structure, units in the header, a 90 % interval where the model was calibrated and the structure is like those of
    its training set, the novelty where it can tell how unlike them it is, and what energies are relative to. Forces go to
    an extxyz beside the table, here predictions.forces.extxyz.

    Args:
        model: model folder, or the name of a shipped model (see 'vibronic models').
        structures: file, folder or name (see 'vibronic data').
        device: auto, cpu, cuda, ...
        batch_size: structures at once.
        out: CSV.

    Returns:
        The table written.
    """
    import numpy as np
    from ase.calculators.singlepoint import SinglePointCalculator

    from vibronic.data import sources
    from vibronic.data.dataset import write_structures
    from vibronic.learning import prediction, store

    network, card = store.load(model)
    frames = sources.structures(structures)
    config = {"model": model, "structures": structures, "device": device}
    forces = prediction.forces_file(out)
    with run_record(out, "predict", config, reads=[structures, *_files(model)], writes=[forces]) as record:
        predicted = prediction.predict(network, frames, batch_size, device, partial(sources.place, structures))
        spread = prediction.spreads(network, frames, batch_size) if card.floors else {}
        unlike = np.array(predicted.get("novelty", np.zeros(len(frames))), dtype=float) > 1
        widths = {
            name: np.where(unlike, np.nan, width)
            for name, width in prediction.half_widths(card.intervals, card.floors, spread).items()
        }
        prediction.write_predictions(out, network.targets, predicted, frames, widths, card.references)
        if "forces" in predicted:
            copies = [atoms.copy() for atoms in frames]
            for k, atoms in enumerate(copies):
                values = {t: predicted[t][k] for t in ("forces", "stress") if t in predicted}
                values = {t: v for t, v in values.items() if np.isfinite(v).all()}  # a molecule has no stress
                atoms.calc = SinglePointCalculator(atoms, energy=float(predicted["energy"][k]), **values)
            write_structures(forces, copies)
        record["structures"] = len(frames)
        record["references"] = card.references
    say(f"{len(frames)} predictions: {out}")
    for name, what in card.references.items():
        say(f"zero of {name}: {what}")
    if card.only:
        say(card.only)
    if not card.intervals and any(t.is_number for t in network.targets):
        say("no intervals: none were calibrated when the model was trained")
    if unlike.any():
        why = (
            "their atoms have surroundings that the training set lacks"
            if network.remembers or network.kind == "ensemble"
            else "check that the geometries were relaxed as those of the training set"
        )
        say(
            f"{unlike.sum()} of {len(frames)} unlike those of the training set (novelty above 1): errors are larger there"
            + (", and no intervals are given; " if card.intervals else "; ")
            + why
        )
    return out


def _files(model: str) -> list[Path]:
    """What must not be lost of a model folder; predictions may well be written into it."""
    return [Path(model) / name for name in ("config.json", "model.safetensors")]


def evaluate(
    what: Literal["predictions", "crystals"],
    file: Path,
    reference: str | None = None,
    out: Path = Path("metrics.json"),
    property: str | None = None,
    predictor: Path | None = None,
    benchmark: Literal["perov-5", "carbon-24", "mp-20"] | None = None,
    better: Literal["low", "high"] = "low",
    coverage_sample: int = 1000,
    relax: str | None = None,
    relax_steps: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a file of predictions against labels, or a set of generated crystals against a set of real ones.

      vibronic evaluate predictions predictions.csv --reference labelled.extxyz --out metrics.json
      vibronic evaluate crystals generated.extxyz --reference perov-5-train --property heat_ref --out metrics.json

    Predictions get MAE, RMSE and R2 of every target, every structure counted. Forces are scored where the extxyz that 'predict' writes
    lies beside the table, forces and stress where the reference has them; what is not scored is said.

    Crystals get shares of valid, unique and novel ones, coverage, distances of distributions and success at a property, with
    95 % intervals. Every crystal is counted, overlapping atoms and all; a table beside the JSON has a row of each.

    Args:
        what: kind of file.
        file: predictions: predictions.csv; crystals: file or folder of generated structures.
        reference: predictions: labelled structures, in the same order; crystals: file, folder or name (see 'vibronic data').
        out: JSON; crystals: a table of the same name is written beside it, as CSV.
        property: crystals: label of the reference that was aimed at, to be predicted.
        predictor: crystals: file of the property models of CDVAE; found where it is installed if none is given.
        benchmark: crystals: set whose published cut-offs and thresholds count, and whose property model predicts; told
            from the reference's name or the property where none is given.
        better: crystals: which end of the property is wanted.
        coverage_sample: crystals: most fingerprints of each set, about 0.1 s each; 0 leaves coverage out.
        relax: crystals: engine that relaxes each crystal (see 'vibronic doctor'), and crystals of the same composition of the
            reference, to compare energies with; none where none is given.
        relax_steps: crystals: most steps of a relaxation.
        seed: crystals: of draws and intervals.

    Returns:
        The metrics, with their units under ``units``.
    """
    from vibronic.verbs import crystals

    given = {k: v for k, v in locals().items() if k in crystals.OPTIONS}
    if what == "crystals":
        return crystals.evaluate_crystals(file, reference, out, **given)
    defaults = {k: p.default for k, p in inspect.signature(evaluate).parameters.items()}
    if foreign := [k for k, v in given.items() if v != defaults[k]]:
        raise VibronicError(
            f"--{foreign[0].replace('_', '-')} is of 'evaluate crystals'; predictions take --reference and --out"
        )
    return _evaluate_predictions(file, reference, out)


def _evaluate_predictions(file: Path, reference: str | None, out: Path) -> dict[str, Any]:
    from vibronic.data import sources
    from vibronic.data.dataset import label_of
    from vibronic.learning.prediction import forces_file, predictions_of, score

    if reference is None:
        raise VibronicError("predictions are scored against labels: give the labelled structures with --reference")
    config = {"what": "predictions", "file": file, "reference": reference}
    with run_record(out, "evaluate", config, reads=[file, forces_file(file), reference]):
        frames = sources.structures(reference)
        targets, values = predictions_of(file, frames)
        unlabelled = [t.name for t in targets if t.shape and all(label_of(a, t.name) is None for a in frames)]
        scores, units = score([t for t in targets if t.name not in unlabelled], values, frames)
        metrics = {**scores, "units": units}
        write_json(out, metrics)
    for name, value in scores.items():
        say(f"{name}: {value:.5g} {units[name]}")
    for name in unlabelled:
        say(f"{name}: not scored, {reference} has no such labels")
    return metrics


def models(name: str | None = None) -> list[dict[str, Any]]:
    """List the models that ship with the package, or tell all of one, and the kinds that can be trained.

      vibronic models
      vibronic models crystals-mp20

    Args:
        name: model folder, or the name of a shipped model.

    Returns:
        A row per model: name, targets, trained_on, errors, summary.
    """
    from rich.console import Console

    from vibronic.learning import store
    from vibronic.verbs import train

    console = Console(highlight=False)
    if name is not None:
        return [_told(name, *store.load(name), console)]
    rows = [_described(name, *store.load(name)) for name in store.shipped()]
    shown = [[r["name"], "\n".join(_with_errors(r)), r["trained_on"]] for r in rows]
    console.print(_table(("shipped", "predicts or makes, and the error on unseen ones", "trained on"), shown))
    console.print("'vibronic models NAME' tells all of one.\n", markup=False)
    trained = get_args(get_type_hints(train)["kind"])
    kinds = [[kind, what] for kind, (_, _, what) in store.MODELS.items() if kind in trained]
    console.print(_table(("kind to train", "what it is"), kinds))
    return rows


def _with_errors(row: dict[str, Any]) -> list[str]:
    """The targets of a model, below each its error, and what other errors there are."""
    errors = {error.split()[0]: error.split(maxsplit=1)[1] for error in row["errors"]}
    lines = []
    for target in row["targets"]:
        own = errors.pop(f"mae_{target.split()[0]}", None)
        lines += [target, *([f"  mae {own}"] if own else [])]
    return [*lines, *(f"{score} {error}" for score, error in errors.items())]


def _described(name: str, network: Model, card: Card) -> dict[str, Any]:
    smallest, largest = card.data["atoms"]
    elements = card.data["elements"]
    atoms = f"{smallest} to {largest}" if largest > smallest else f"{largest}"
    return {
        "name": name,
        "targets": [
            *(["density [e/Angstrom^3]"] if hasattr(network, "density_of") else []),
            *(["crystals, by"] if network.generates else []),
            *(f"{t.name} [{t.unit}]" for t in network.targets),
        ],
        "trained_on": f"{card.data['structures']:,} structures of {atoms} atoms, "
        + (" ".join(elements) if len(elements) <= 6 else f"{len(elements)} elements"),
        "errors": [
            f"{score} {value:.3g} {card.units[score]}"
            for score, value in card.scores.items()
            if score.startswith(("mae", "nmae"))
        ],
        "summary": card.summary,
    }


def _told(name: str, network: Model, card: Card, console: Console) -> dict[str, Any]:
    """Print all that the card of one model says."""
    from vibronic.crystals.generator import CrystalGenerator

    row = _described(name, network, card)
    lines = {"what it is": card.summary, "its limits": card.only}
    lines |= {"kind": network.kind, "predicts or makes": "\n".join(row["targets"])}
    lines |= {f"zero of {target}": zero for target, zero in card.references.items()}
    lines |= {"trained on": row["trained_on"], "elements": " ".join(card.data["elements"])}
    if isinstance(network, CrystalGenerator):
        ranges = {t: network.memory.column(t.name).aminmax() for t in network.targets}
        lines |= {
            f"{t.name}, trained on": f"{low:.4g} to {high:.4g} {t.unit}".removesuffix(" 1")
            for t, (low, high) in ranges.items()
        }
    lines |= {score: f"{value:.4g} {card.units[score]}".removesuffix(" 1") for score, value in card.scores.items()}
    lines |= {
        "90 % interval of " + target: f"+/- {half:.4g}" + (" foreseen deviations" if target in card.floors else "")
        for target, half in card.intervals.items()
    }
    lines |= {"settings": ", ".join(f"{k} {v}" for k, v in network.config.items() if k not in ("targets", "units"))}
    console.print(_table((name, ""), [[what, said] for what, said in lines.items() if said]))
    return row


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for k, title in enumerate(header):
        table.add_column(title, no_wrap=k == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # text: a unit in brackets is no style
    return table
