"""The verb ``train``: settings, parts of the data, fit, and the card of the model."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vibronic.core.errors import VibronicError, located
from vibronic.core.progress import track
from vibronic.core.provenance import check_writable, run_record
from vibronic.learning.recipe import Training
from vibronic.verbs.common import Setting, say

if TYPE_CHECKING:
    from ase import Atoms

    from vibronic.core.model import Model
    from vibronic.learning.store import Card

FRACTIONS = (0.8, 0.1, 0.1)
"""Training, validation and test part of a data set."""

_FEW = 50  # crystals to learn from
_CALIBRATES = 9  # structures, below which no error is larger than nine in ten


def train(
    kind: Literal["painn", "cgcnn", "ridge", "tight-binding", "qdf", "qdf2020", "qdf-density", "crystal-diffusion"],
    data: str,
    targets: list[str] | None = None,
    condition: list[str] | None = None,
    units: dict[str, str] | None = None,
    validation: str | None = None,
    test: str | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    preset: Literal["paper2025", "vibronic", "takahara2024-cdi", "takahara2024-cds"] | None = None,
    model: dict[str, Setting] | None = None,
    training: Training = Training(),  # noqa: B008
    members: int = 1,
    device: str = "auto",
    devices: int = 1,
    out: Path = Path("runs/model"),
    seed: int = 0,
) -> Path:
    """Train a property model on labelled structures; the folder it writes is the model.

      vibronic train painn labelled.extxyz --targets energy forces stress --out runs/potential
      vibronic train painn Ag3SBr-pbe --targets band_gap vbm --training.epochs 200 --out runs/gap
      vibronic train painn labelled.extxyz --members 4 --out runs/ensemble
      vibronic train cgcnn Ag3SBr-pbe --targets band_gap --preset paper2025 --out runs/paper
      vibronic train ridge labelled.extxyz --targets energy pressure --out runs/floor
      vibronic train qdf qm9-train --validation qm9-validation --test qm9-test --targets energy --out runs/molecules
      vibronic train qdf-density densities.extxyz --out runs/density
      vibronic train crystal-diffusion my_cifs/ --condition band_gap --out runs/mine

    A killed training goes on with the same command.

    Args:
        kind: painn (equivariant; energy, forces, stress and scalars), cgcnn (the paper's), ridge (pairs and angles),
            tight-binding (band gap and edges from tens of labels),
            qdf (numbers per structure from a local field, in minutes), qdf2020 (Quantum Deep Field as published), qdf-density
            (electron densities of molecules, from labels 'density_matrix'), crystal-diffusion (new crystals, for
            'vibronic generate').
        data: labelled extxyz, folder or name (see 'vibronic data').
        targets: what to learn; what the data carries of energy, forces, stress where none are given.
        condition: properties that crystals can be asked for (crystal-diffusion); where none are given, those of the data whose unit is known.
        units: of targets that Vibronic does not know, e.g. --units.my_gap eV.
        validation: labelled file to choose the best epoch on, instead of a part of the data.
        test: labelled file to score on, instead of a part of the data.
        fractions: training, validation and test part of the data, where no such files are given.
        preset: settings wherever model, training and fractions are left as they are: paper2025 (cgcnn), as in the scripts of
            arXiv 2511.15222; takahara2024-cdi, takahara2024-cds (crystal-diffusion), the two models of arXiv 2406.09263;
            vibronic (crystal-diffusion), ours.
        model: settings of the model, e.g. --model.width 64 --model.cutoff 5.0.
        training: how to train, e.g. --training.epochs 200; what is left alone, or given as 'vibronic train --help' prints it,
            suits the kind (qdf2020: its authors' 2,000 epochs; ridge and qdf take no steps and refuse it).
        members: networks that start from different weights; more than one are an ensemble, whose intervals follow their disagreement.
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
    if not fractions[0] > 0 or min(fractions) < 0 or sum(fractions) > 1 + 1e-9:
        raise VibronicError(
            f"--fractions are shares for training (more than 0), validation and test, of a sum up to 1, not {fractions}"
        )
    if not validation and not test and sum(fractions) < 1 - 1e-9:
        say(f"--fractions add up to {sum(fractions):g}: the rest of {data} is not used")
    steps = [f"training.{name}" for name, value in asdict(training).items() if value != getattr(Training(), name)]
    steps += ["devices"] if devices > 1 else []
    name: str = kind
    recipe = store.class_of(kind).recipe
    if preset is not None:
        name, model, recipe, fractions = _preset(preset, kind, model, fractions)
    if condition is not None:
        if targets is not None or not store.class_of(name).generates:
            raise VibronicError(
                "--condition is for crystal-diffusion, and says there what --targets says for other kinds"
            )
        targets = condition
    training = _suited(training, recipe)
    config: dict[str, Any] = {
        "kind": kind,
        "data": data,
        "targets": targets,
        "units": units,
        "validation": validation,
        "test": test,
        "preset": preset,
        "fractions": fractions,
        "model": model,
        "training": asdict(training),
        "members": members,
        "device": device,
        "devices": devices,
    }
    with run_record(out, "train", config, seed, reads=[data, validation, test]) as record:
        frames = sources.structures(data)
        settings = _settings(name, data, frames, targets, units, model)
        if members != 1:
            common: dict[str, Any] = {key: settings.pop(key) for key in ("targets", "units") if key in settings}
            name, settings = "ensemble", {**common, "member": name, "members": members, "settings": settings}
        torch.manual_seed(seed)
        network = store.build(name, **settings)
        if network.closed_form and steps:
            raise VibronicError(
                f"{kind} is fitted in closed form, without steps: --{steps[0]} would change nothing; leave it out "
                "(settings of the model are --model.NAME)"
            )
        store.check_free(out, network)
        fitted, chosen, scored = _parts(network, data, frames, validation, test, fractions, seed)
        say(f"structures: {len(fitted)} to fit, {len(chosen)} to validate, {len(scored)} to score")
        if network.generates:
            _say_labels(network, fitted)
        if len(chosen) < _CALIBRATES and not network.generates and any(t.is_number for t in network.targets):
            say(f"fewer than {_CALIBRATES} structures to validate: predictions will have no 90 % intervals")
        if scored and len(scored) < 5:
            say("few structures to score: the scores below say little")
        check_writable(out)
        record["structures"] = {
            "given": len(frames),
            "fitted": len(fitted),
            "validated": len(chosen),
            "scored": len(scored),
        }
        before = _stamp(out, config, seed)
        record |= _fit(network, fitted, chosen, out, training, seed, device, devices)
        reported = not network.generates or (out / "report.html").exists()
        if before is not None and _stamp(out, config, seed) == before and reported:
            record["unchanged"] = True
            say(f"nothing is left to do: {out} holds the model")
            return out
        card = _card(network, data, fitted, chosen, scored)
        store.save(network, out, card)
        record["scores"] = card.scores
    for score, value in card.scores.items():
        if score.startswith(("mae", "nmae", "r2", "loss")):
            unit = f" {card.units[score]}" if card.units[score] != "1" else ""
            say(f"{score.replace('_', ' of ', 1)}: {value:.4g}{unit} ({len(scored)} unseen structures)")
    say(f"model: {out}")
    if network.generates:
        from vibronic.verbs.generation import show

        show(network, out, seed)
    return out


def _stamp(out: Path, config: dict[str, Any], seed: int) -> int | None:
    """When the last checkpoint was written of a training that this very command has finished; None where it has not."""
    last = out / "checkpoints" / "last.ckpt"
    if not (last.exists() and (out / "model.safetensors").exists()):
        return None
    try:
        record = json.loads((out / "run.json").read_text())
    except (OSError, ValueError):
        return None
    same = (record.get("config"), record.get("seed")) == (json.loads(json.dumps(config, default=str)), seed)
    return last.stat().st_mtime_ns if same else None


def _preset(
    preset: str, kind: str, model: dict[str, Setting] | None, fractions: tuple[float, float, float]
) -> tuple[str, dict[str, Setting] | None, dict[str, Any], tuple[float, float, float]]:
    """Name in the table of models, settings, recipe and fractions: the preset's, except where the user changed a default."""
    from vibronic.learning.store import class_of

    owner = "cgcnn" if preset == "paper2025" else "crystal-diffusion"
    if kind != owner:
        raise VibronicError(f"the preset {preset} belongs to {owner}, not {kind}")
    if preset == "vibronic":  # what is left alone already is so
        return kind, model, class_of(kind).recipe, fractions
    if preset.startswith("takahara2024-"):
        settings = {"condition": preset.removeprefix("takahara2024-"), **(model or {})}
        return "takahara2024", settings, class_of("takahara2024").recipe, fractions
    from vibronic.properties.cgcnn import PAPER2025

    if tuple(fractions) == FRACTIONS:
        fractions = PAPER2025["fractions"]
    return kind, {**PAPER2025["model"], **(model or {})}, PAPER2025["training"], fractions


def _suited(training: Training, recipe: dict[str, Any]) -> Training:
    """The training that a kind of model or a preset asks for, except where the user changed a default."""
    default = asdict(Training())
    changed = {name: value for name, value in asdict(training).items() if value != default[name]}
    return Training(**{**recipe, **changed})


def _settings(
    kind: str,
    data: str,
    frames: list[Atoms],
    targets: list[str] | None,
    units: dict[str, str] | None,
    model: dict[str, Setting] | None,
) -> dict[str, Any]:
    """What builds the model: its targets (where none are given, those its data carries), their units, its settings."""
    from vibronic.core.targets import TARGETS
    from vibronic.data import sources
    from vibronic.data.dataset import label_of
    from vibronic.learning.store import class_of

    units = units or {}

    def carried(name: str, scalar: bool = False) -> bool:
        """Whether most structures have this label."""
        values = [label_of(a, name) for a in frames]
        return 2 * sum(isinstance(v, float) if scalar else v is not None for v in values) > len(frames)

    if targets is None and class_of(kind).predicts:
        targets = list(class_of(kind).predicts)
    if targets is None and class_of(kind).generates:
        declared = {**{name: t.unit for name, t in TARGETS.items()}, **sources.units(data)}
        # A condition does not grow with the cell, as the energy of all its atoms does.
        targets = [name for name in declared if name not in TARGETS or not TARGETS[name].extensive]
        targets = [name for name in targets if carried(name, scalar=True)]
    if targets is None:
        targets = [t for t in ("energy", "forces", "stress") if carried(t)]
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
    declared = sources.units(data)
    units = {**{t: declared[t] for t in targets if t in declared and t not in TARGETS}, **units}
    unknown = [t for t in targets if t not in TARGETS and t not in units]
    if unknown:
        labels = {name for a in frames for name, value in a.info.items() if isinstance(value, float)}
        near = difflib.get_close_matches(unknown[0], [*labels, *TARGETS], n=1)
        if labels and unknown[0] not in labels:
            hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(sorted(labels))}"
            raise VibronicError(f"{data} has no '{unknown[0]}'; {hint}")
        hint = f"did you mean '{near[0]}'? otherwise " if near and near[0] != unknown[0] else ""
        raise VibronicError(f"what is the unit of '{unknown[0]}'? {hint}give it with --units.{unknown[0]} UNIT")
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
    """Structures to fit, to choose the epoch and set the intervals on, and to score: parts of the data, or files.

    Of a file to validate or score on every structure counts, or it is refused.
    """
    from vibronic.crystals.matching import distinct, unique
    from vibronic.data import sources
    from vibronic.data.dataset import split

    frames = _labelled(network, frames, data, all_of_them=False)
    families = None
    if network.distinct:
        kept = distinct(frames)
        if len(kept) < len(frames):
            say(f"{len(frames) - len(kept)} of {len(frames)} crystals are duplicates of others and left out")
        frames = [frames[k] for k in kept]
    if network.generates:  # what counts as one crystal is learned or held out
        families = unique(track(frames, "Comparing crystals"))
    shares = [fractions[0], 0.0 if validation else fractions[1], 0.0 if test else fractions[2]]
    parts = split(frames, [s for s in shares if s > 0], seed, families)
    # Equal crystals are learned as often as they are there, and held out once.
    held = [[k for k in part if families is None or network.distinct or families[k] == k] for part in parts[1:]]
    if not all(held):
        say("a part to validate or score is empty: its structures hold elements of their own, and are learned")
    taken = iter([parts[0], *held])
    fitted, chosen, scored = ([frames[k] for k in next(taken)] if s > 0 else [] for s in shares)
    if validation:
        chosen = _labelled(network, sources.structures(validation), validation)
    if test:
        scored = _labelled(network, sources.structures(test), test)
    return fitted, chosen, scored


def _labelled(network: Model, structures: list[Atoms], file: str, all_of_them: bool = True) -> list[Atoms]:
    """Refuse ions, open shells and faulty labels, naming their place in the file, before anything is computed. A structure
    without a label is left out where not all of them have to have theirs."""
    from vibronic.data import sources, tables
    from vibronic.data.dataset import label_of, labels_of

    first = network.targets[0].name if network.targets else ""
    bare = Path(file).is_dir() and tables.table_beside(Path(file)) is None
    if bare and first and label_of(structures[0], first) is None:
        raise VibronicError(
            f"the structures of {file} have no '{first}', and there is no properties.csv among them that would tell it: "
            f"a line 'file,{first}', then one like 'a.cif,1.5' for each file"
        )
    found: list[Atoms] = []
    left: dict[int, str] = {}
    for k, atoms in enumerate(track(structures, "Reading labels")):
        with located(partial(sources.place, file), k):
            network.check_neutral(atoms)
            one = network.labelled(atoms)
        missing = [t.name for t in network.labels if label_of(one, t.name) is None]
        if missing and not all_of_them:
            left[k] = missing[0]
        else:
            try:
                labels_of(one, network.labels)
            except VibronicError:
                labels_of(one, network.labels, sources.place(file, k))  # says the same of the file
            found.append(one)
    if not found:  # says what there is instead
        labels_of(network.labelled(structures[0]), network.labels, f"{file}, structure 0")
    if left:
        k, name = next(iter(left.items()))
        where = Path(sources.place(file, k)).name
        say(
            f"{len(left)} of {len(structures)} structures of {file} are left out: they have no '{name}' (first: {where})"
        )
    return found


def _say_labels(network: Model, fitted: list[Atoms]) -> None:
    """Ranges of the properties that can be asked for, so that a faulty value is seen; and that there is little to learn from."""
    import numpy as np

    from vibronic.data.dataset import label_of

    if len(fitted) < _FEW:
        say(f"{len(fitted)} crystals are few to learn from: what is made will differ little from them")
    for t in network.targets:
        values = np.array([label_of(atoms, t.name) for atoms in fitted], dtype=float)
        low, first, third, high = np.quantile(values, [0, 0.25, 0.75, 1])
        unit = f" {t.unit}" if t.unit != "1" else ""
        if low == high:
            say(f"{t.name} is {low:g} in every crystal to learn: asking for it will change nothing")
        else:
            say(f"{t.name} is {low:.4g} to {high:.4g}{unit}, of half of the crystals {first:.4g} to {third:.4g}")


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
    from vibronic.data.dataset import GraphData

    data = GraphData(fitted, network.labels, network.cutoff, network.dtype)
    if network.closed_form:
        network.prepare(data.batch())
        network.eval()
        return {}
    from vibronic.learning.training import fit

    validation = GraphData(chosen, network.labels, network.cutoff) if chosen else None
    return {"last": fit(network, data, validation, out, training, seed, device, devices, say=say)}


def _card(network: Model, data: str, fitted: list[Atoms], chosen: list[Atoms], scored: list[Atoms]) -> Card:
    """What the model was trained on, and how well it predicts what it was not."""
    from vibronic.data import sources
    from vibronic.data.dataset import describe
    from vibronic.learning.prediction import floors, intervals, predict, score, spreads
    from vibronic.learning.store import Card

    zeros = sources.references(data)
    references = {t.name: zeros[t.name] for t in network.targets if t.name in zeros}
    card = Card(describe(fitted), licence="as the data", references=references)
    if scored:
        if not network.generates:
            card.scores, card.units = score(network.targets, predict(network, scored), scored)
        own, units = network.own_scores(scored)
        card.scores, card.units = {**card.scores, **own}, {**card.units, **units}
    if chosen and not network.generates:
        spread = spreads(network, chosen)
        card.floors = floors(network, spread)
        card.intervals = intervals(network.targets, predict(network, chosen), chosen, spread, card.floors)
    return card
