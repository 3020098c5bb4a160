"""Verbs about models: training, predicting, explaining, scoring."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import check_writable, run_record, writable, write_json
from vibronic.learning.recipe import Training
from vibronic.verbs.common import Setting, say

if TYPE_CHECKING:
    from ase import Atoms

    from vibronic.core.model import Model
    from vibronic.explain.attribution import Attribution
    from vibronic.learning.store import Card

FRACTIONS = (0.8, 0.1, 0.1)
"""Training, validation and test part of a data set."""


def train(
    kind: Literal["painn", "cgcnn", "ridge"],
    data: str,
    targets: list[str] | None = None,
    units: dict[str, str] | None = None,
    validation: str | None = None,
    test: str | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    preset: Literal["paper2025"] | None = None,
    model: dict[str, Setting] | None = None,
    training: Training = Training(),  # noqa: B008
    device: str = "auto",
    devices: int = 1,
    out: Path = Path("runs/model"),
    seed: int = 0,
) -> Path:
    """Train a property model on labelled structures; the folder it writes is the model.

      vibronic train painn labelled.extxyz --targets energy forces stress --out runs/potential
      vibronic train painn Ag3SBr-pbe --targets band_gap vbm --training.epochs 200 --out runs/gap
      vibronic train cgcnn Ag3SBr-pbe --targets band_gap --preset paper2025 --out runs/paper
      vibronic train ridge labelled.extxyz --targets energy pressure --out runs/floor

    A killed training goes on with the same command.

    Args:
        kind: painn (equivariant; energy, forces, stress and scalars), cgcnn (the paper's), ridge (pairs and angles).
        data: labelled extxyz, folder or name (see 'vibronic data').
        targets: what to learn; what the data carries of energy, forces, stress where none are given.
        units: of targets that Vibronic does not know, e.g. --units.my_gap eV.
        validation: labelled file to choose the best epoch on, instead of a part of the data.
        test: labelled file to score on, instead of a part of the data.
        fractions: training, validation and test part of the data, where no such files are given.
        preset: paper2025 (cgcnn): the settings of arXiv 2511.15222's scripts, wherever model, training and fractions are
            left as they are.
        model: settings of the model, e.g. --model.width 64 --model.cutoff 5.0.
        training: how to train, e.g. --training.epochs 200.
        device: auto, cpu, gpu, ...
        devices: processes; more than one trains with DDP.
        out: model folder, with logs and checkpoints.
        seed: of the split, the weights and the order of the data.

    Returns:
        The model folder.
    """
    import torch

    from vibronic.data import sources
    from vibronic.learning import store

    if devices < 1:
        raise VibronicError(f"--devices is the number of processes, at least 1, not {devices}")
    if not fractions[0] > 0 or min(fractions) < 0:
        raise VibronicError(f"--fractions are shares for training (more than 0), validation and test, not {fractions}")
    if preset is not None:
        model, training, fractions = _preset(preset, kind, model, training, fractions)
    config: dict[str, Any] = {
        "kind": kind,
        "data": data,
        "targets": targets,
        "validation": validation,
        "test": test,
        "preset": preset,
        "fractions": fractions,
        "model": model,
        "training": asdict(training),
        "device": device,
        "devices": devices,
    }
    with run_record(out, "train", config, seed, reads=[data, validation, test]) as record:
        frames = sources.structures(data)
        settings = _settings(kind, data, frames[0], targets, units, model)
        torch.manual_seed(seed)
        network = store.build(kind, **settings)
        fitted, chosen, scored = _parts(network, data, frames, validation, test, fractions, seed)
        say(f"structures: {len(fitted)} to fit, {len(chosen)} to validate, {len(scored)} to score")
        check_writable(out)
        record["structures"] = {"fitted": len(fitted), "validated": len(chosen), "scored": len(scored)}
        record |= _fit(network, fitted, chosen, out, training, seed, device, devices)
        card = _card(network, fitted, chosen, scored)
        store.save(network, out, card)
        record["scores"] = card.scores
    for name, value in card.scores.items():
        if name.startswith(("mae", "r2")):
            say(f"{name.replace('_', ' of ', 1)}: {value:.4g} {card.units[name]} ({len(scored)} unseen structures)")
    say(f"model: {out}")
    return out


def _preset(
    preset: str,
    kind: str,
    model: dict[str, Setting] | None,
    training: Training,
    fractions: tuple[float, float, float],
) -> tuple[dict[str, Setting], Training, tuple[float, float, float]]:
    """Settings of the model, training and fractions: the preset's, except where the user changed a default."""
    from vibronic.properties.cgcnn import PAPER2025

    if kind != "cgcnn":
        raise VibronicError(f"the preset {preset} belongs to cgcnn, not {kind}")
    default = asdict(Training())
    changed = {name: value for name, value in asdict(training).items() if value != default[name]}
    return (
        {**PAPER2025["model"], **(model or {})},
        Training(**{**PAPER2025["training"], **changed}),
        PAPER2025["fractions"] if tuple(fractions) == FRACTIONS else fractions,
    )


def _settings(
    kind: str,
    data: str,
    first: Atoms,
    targets: list[str] | None,
    units: dict[str, str] | None,
    model: dict[str, Setting] | None,
) -> dict[str, Any]:
    """What builds the model: its targets (where none are given, those its data carries), their units, its settings."""
    from vibronic.core.targets import TARGETS
    from vibronic.data import sources
    from vibronic.data.dataset import declared_units, label_of

    units = units or {}
    if targets is None:
        targets = [t for t in ("energy", "forces", "stress") if label_of(first, t) is not None]
        if kind != "painn":
            targets = [t.replace("stress", "pressure") for t in targets if t != "forces"]
        if not targets:
            raise VibronicError(f"{data} carries no energies; say what to learn with --targets")
    for name, unit in units.items():
        if name not in targets:
            raise VibronicError(f"--units.{name} is of no target; the targets are {', '.join(targets)}")
        if name in TARGETS:
            raise VibronicError(
                f"--units is only for targets that Vibronic does not know; if '{name}' is in {unit} in {data}, say so in a "
                f"dataset.yaml beside it: 'units: {{{name}: {unit}}}'"
            )
    declared = declared_units(sources.resolve(data))
    units = {**{t: declared[t] for t in targets if t in declared and t not in TARGETS}, **units}
    unknown = [t for t in targets if t not in TARGETS and t not in units]
    if unknown:
        raise VibronicError(f"what is the unit of '{unknown[0]}'? give it with --units.{unknown[0]} UNIT")
    return {"targets": targets, "units": units or None, **(model or {})}


def _parts(
    network: Model,
    data: str,
    frames: list[Atoms],
    validation: str | None,
    test: str | None,
    fractions: tuple[float, float, float],
    seed: int,
) -> tuple[list[Atoms], list[Atoms], list[Atoms]]:
    """Structures to fit, to choose the epoch and set the intervals on, and to score: parts of the data, or files."""
    from vibronic.data import sources
    from vibronic.data.dataset import labels_of, split

    def labelled(structures: list[Atoms], file: str) -> list[Atoms]:
        """Refuse a fault in any label, naming its place in the user's file, before anything is computed."""
        for k, atoms in enumerate(structures):
            labels_of(atoms, network.targets, f"{file}, structure {k}")
        return structures

    labelled(frames, data)
    shares = [fractions[0], 0.0 if validation else fractions[1], 0.0 if test else fractions[2]]
    parts = iter(split(frames, [s for s in shares if s > 0], seed))
    fitted, chosen, scored = ([frames[k] for k in next(parts)] if s > 0 else [] for s in shares)
    if validation:
        chosen = labelled(sources.structures(validation), validation)
    if test:
        scored = labelled(sources.structures(test), test)
    if network.kind == "ridge":  # its penalty is chosen within the training set
        fitted, chosen = [*fitted, *chosen], []
    return fitted, chosen, scored


def _fit(
    network: Model,
    fitted: list[Atoms],
    chosen: list[Atoms],
    out: Path,
    training: Training,
    seed: int,
    device: str,
    devices: int,
) -> dict[str, Any]:
    """Fit the model in place, in closed form or by steps; returns what is worth recording."""
    import torch

    from vibronic.data.dataset import GraphData
    from vibronic.properties.descriptors import DescriptorRidge

    data = GraphData(fitted, network.targets, network.cutoff)
    if isinstance(network, DescriptorRidge):
        network.fit(data.batch().to(dtype=torch.float64))
        return {}
    from vibronic.learning.training import fit

    validation = GraphData(chosen, network.targets, network.cutoff) if chosen else None
    return {"last": fit(network, data, validation, out, training, seed, device, devices)}


def _card(network: Model, fitted: list[Atoms], chosen: list[Atoms], scored: list[Atoms]) -> Card:
    """What the model was trained on, and how well it predicts what it was not."""
    from vibronic.data.dataset import describe
    from vibronic.learning.prediction import intervals, predict, score
    from vibronic.learning.store import Card

    card = Card(describe(fitted), licence="as the data")
    if scored:
        card.scores, card.units = score(network.targets, predict(network, scored), scored)
    if chosen:
        card.intervals = intervals(network.targets, predict(network, chosen), chosen)
    return card


def predict(
    model: str, structures: str, device: str = "cpu", batch_size: int = 16, out: Path = Path("predictions.csv")
) -> Path:
    """Predict properties of structures with a trained model.

      vibronic predict runs/gap hot.extxyz --out predictions.csv

    One row per structure, units in the header, a 90 % interval where the model was calibrated. Forces go to an extxyz
    beside the table, here predictions.forces.extxyz.

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
        predicted = prediction.predict(network, frames, batch_size, device)
        prediction.write_predictions(out, network.targets, predicted, frames, card.intervals)
        if "forces" in predicted:
            copies = [atoms.copy() for atoms in frames]
            for k, atoms in enumerate(copies):
                values = {t: predicted[t][k] for t in ("forces", "stress") if t in predicted}
                values = {t: v for t, v in values.items() if np.isfinite(v).all()}  # a molecule has no stress
                atoms.calc = SinglePointCalculator(atoms, energy=float(predicted["energy"][k]), **values)
            write_structures(forces, copies)
        record["structures"] = len(frames)
    say(f"{len(frames)} predictions: {out}")
    return out


def _files(model: str) -> list[Path]:
    """What must not be lost of a model folder; predictions may well be written into it."""
    return [Path(model) / name for name in ("config.json", "model.safetensors")]


def explain(
    model: str,
    structures: str,
    target: str | None = None,
    more: list[str] | None = None,
    by: Literal["bonds", "atoms"] = "bonds",
    steps: int = 32,
    out: Path = Path("why.csv"),
) -> Path:
    """Which bonds or atoms move a prediction: integrated gradients over the presence of every bond.

      vibronic explain runs/gap hot.extxyz --target band_gap --out why.csv
      vibronic explain runs/a hot.extxyz --more runs/b runs/c --by atoms

    Attributions are in the target's unit and sum, over the bonds of a structure, to the prediction minus that of the
    same atoms without any bond. Both are printed, with the error of that sum.

    Args:
        model: model folder or name.
        structures: file, folder or name.
        target: scalar target to explain; the model's first where none is given.
        more: models of other seeds, to average over; their standard deviation becomes a column.
        by: a row per bond, or per atom (half of each bond to each of its ends).
        steps: points of the integral.
        out: CSV, one row per bond or atom.

    Returns:
        The table written.
    """
    import csv

    import numpy as np
    from rich.progress import track

    from vibronic.data import sources
    from vibronic.explain.attribution import attribute, average
    from vibronic.learning import store

    folders = [model, *(more or [])]
    networks = [store.load(folder)[0] for folder in folders]
    frames = sources.structures(structures)
    target, unit = _explained(folders, networks, target)
    totals: dict[str, list[float]] = {}
    sums: dict[str, list[float]] = {"all_bonds": [], "no_bonds": [], "completeness_error": []}
    config = {"model": model, "structures": structures, "target": target, "more": more, "by": by, "steps": steps}
    reads: list[Path | str] = [structures, *(file for folder in folders for file in _files(folder))]
    place = ["atom", "element"] if by == "atoms" else ["atom_i", "atom_j", "shift", "bond", "length [Angstrom]"]
    spread = [f"spread [{unit}]"] if more else []
    with (
        run_record(out, "explain", config, reads=reads) as record,
        writable(out) as temporary,
        temporary.open("w", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["structure", *place, f"attribution [{unit}]", *spread])
        for k, atoms in enumerate(track(frames, "Explaining", transient=True)):
            found = [attribute(network, atoms, target, steps) for network in networks]
            mean = average(found)
            for name, value in zip(sums, (mean.whole, mean.bare, mean.error), strict=True):
                sums[name].append(value)
            places, kinds = _places(mean, atoms, by)
            values = np.stack([a.per_atom(len(atoms)) if by == "atoms" else a.value for a in found])
            for row, kind, column in zip(places, kinds, values.T, strict=True):
                numbers = [column.mean(), column.std()] if more else [column.mean()]
                table.writerow([k, *row, *(f"{number:.6g}" for number in numbers)])
                totals.setdefault(kind, []).append(abs(float(column.mean())))
        record["mean_absolute_attribution"] = {kind: sum(v) / len(v) for kind, v in totals.items()}
        record |= sums
    for kind, amounts in sorted(totals.items(), key=lambda kv: -sum(kv[1]) / len(kv[1])):
        say(f"{kind}: mean |attribution| {sum(amounts) / len(amounts):.3g} {unit} over {len(amounts)} {by}")
    whole, bare = (np.mean(sums[name]) for name in ("all_bonds", "no_bonds"))
    worst = np.abs(sums["completeness_error"]).max()
    say(f"prediction with all bonds {whole:.6g} {unit}, with none {bare:.6g} {unit} (mean of {len(frames)} structures)")
    say(f"the attributions sum to the difference with an error of {worst:.2g} {unit} at most")
    if any(network.kind == "cgcnn" for network in networks):
        say(
            "cgcnn: the weight of a bond multiplies its scaled length, so the shortest bond counts as absent and long ones "
            "get large attributions by construction"
        )
    say(f"attributions: {out}")
    return out


def _explained(folders: list[str], networks: list[Model], target: str | None) -> tuple[str, str]:
    """Name and unit of the target to explain, which every model must have."""
    scalars = [{t.name: t.unit for t in network.targets if not t.shape} for network in networks]
    target = target or next(iter(scalars[0]), "")
    for folder, names in zip(folders, scalars, strict=True):
        if target not in names:
            raise VibronicError(f"{folder} has no scalar target '{target}'; choose one of {', '.join(names) or 'none'}")
        if names[target] != scalars[0][target]:
            raise VibronicError(
                f"{folder} predicts '{target}' in {names[target]} and {folders[0]} in {scalars[0][target]}; "
                "explain models of one unit together"
            )
    return target, scalars[0][target]


def _places(found: Attribution, atoms: Atoms, by: str) -> tuple[list[list[object]], list[str]]:
    """Columns that say which bond or atom a row is of, and its kind."""
    if by == "atoms":
        symbols = atoms.get_chemical_symbols()
        return [[k, symbol] for k, symbol in enumerate(symbols)], symbols
    kinds = [str(kind) for kind in found.kinds]
    bonds = zip(found.i, found.j, found.shift, kinds, found.length, strict=True)
    return [[i, j, " ".join(map(str, s)), kind, f"{length:.4f}"] for i, j, s, kind, length in bonds], kinds


def evaluate(
    what: Literal["predictions"], file: Path, reference: str | None = None, out: Path = Path("metrics.json")
) -> dict[str, Any]:
    """Score a file of predictions against labels: MAE, RMSE, R2 of every target, every structure counted.

      vibronic evaluate predictions predictions.csv --reference labelled.extxyz --out metrics.json

    Forces are scored where the extxyz that 'predict' writes lies beside the table, forces and stress where the reference
    has them; what is not scored is said.

    Args:
        what: kind of file.
        file: predictions.csv.
        reference: labelled structures, in the same order.
        out: JSON.

    Returns:
        The metrics, with their units under ``units``.
    """
    from vibronic.data import sources
    from vibronic.data.dataset import label_of
    from vibronic.learning.prediction import forces_file, predictions_of, score

    if reference is None:
        raise VibronicError("predictions are scored against labels: give the labelled structures with --reference")
    config = {"what": what, "file": file, "reference": reference}
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


def models() -> list[str]:
    """List the kinds of model and the models that ship with the package."""
    from vibronic.learning import store

    for kind, (module, name) in store.MODELS.items():
        say(f"{kind:10s} {module}.{name}")
    names = store.shipped()
    say("shipped: " + (", ".join(names) if names else "none yet; train one with 'vibronic train'"))
    return names
