"""Model folders: ``config.json`` + ``model.safetensors`` + ``README.md``. Nothing in them can run code.

A model's class is found by its kind in ``MODELS``, our own table; a folder cannot name anything to import, and weights
are safetensors, never a pickle.
"""

from __future__ import annotations

import difflib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.provenance import versions, writable, write_json

FORMAT = 1
"""Version of the folder's layout; a newer one is refused, not guessed at."""

MODELS = {
    "painn": (
        "vibronic.properties.painn",
        "PaiNN",
        "equivariant message passing: energy, forces and stress from one potential, scalars beside them",
    ),
    "cgcnn": (
        "vibronic.properties.cgcnn",
        "CrystalGraph",
        "the crystal graph network of arXiv 2511.15222: one number per structure",
    ),
    "ridge": (
        "vibronic.properties.descriptors",
        "DescriptorRidge",
        "linear in pair and angle distributions: numbers per structure, in seconds; the floor to beat",
    ),
    "tight-binding": (
        "vibronic.properties.tightbinding",
        "TightBinding",
        "a fitted Hamiltonian of s, p and d orbitals: band gap and band edges from some tens of labels",
    ),
    "ensemble": (
        "vibronic.learning.ensemble",
        "Ensemble",
        "several networks of one kind: their mean, and intervals that follow their disagreement (--members)",
    ),
    "crystal-diffusion": (
        "vibronic.crystals.model",
        "CrystalDiffusion",
        "new crystals with wanted properties: masked diffusion of species, flow matching of the geometry",
    ),
    "takahara2024": (
        "vibronic.crystals.takahara2024",
        "CrystalDiffusion2024",
        "crystals by the diffusion transformer as published (arXiv 2406.09263), conditioned by CDI or CDS",
    ),
    "qdf": (
        "vibronic.fields.qdf",
        "QuantumDeepField",
        "a local field of orbitals under a functional fitted in closed form: energies, levels, in minutes",
    ),
    "qdf-density": (
        "vibronic.fields.density",
        "FieldDensity",
        "electron densities of molecules, free atoms plus a deformation, from density matrices",
    ),
    "qdf2020": (
        "vibronic.fields.qdf2020",
        "QuantumDeepField2020",
        "Quantum Deep Field as published (arXiv 2011.07929): energy, or HOMO and LUMO, of molecules",
    ),
}
"""Every kind of model: its module and class, imported when asked for, and what it is in one line."""


@dataclass
class Card:
    """What a person must know before trusting a model.

    Attributes:
        data: what it was trained on: counts, formulas, labels, methods.
        scores: name -> value on unseen structures; ``units`` has the unit of each.
        intervals: target -> half width of the 90 % conformal interval, in the target's unit; where the target has a floor, in
            units of the standard deviation that the model foresees.
        floors: target -> what is added (in quadrature) to the spread of the model, in the target's unit.
        licence: licence of the weights.
        summary: what it is for, and what it is not for, in a few sentences.
        only: of which structures alone its predictions hold, one sentence that every prediction is told with.
        references: target -> what its values are relative to, as energies have a zero.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    licence: str = "MIT"
    summary: str = ""
    only: str = ""
    references: Mapping[str, str] = field(default_factory=dict)


def class_of(kind: str) -> type[Model]:
    """The class of a kind of model.

    Raises:
        VibronicError: the kind is unknown.
    """
    if not isinstance(kind, str) or kind not in MODELS:
        raise VibronicError(f"there is no model kind '{kind}'; choose one of {', '.join(MODELS)}")
    module, name, _ = MODELS[kind]
    return getattr(import_module(module), name)


def build(kind: str, **config: Any) -> Model:
    """A new, untrained model.

    Raises:
        VibronicError: the kind is unknown, or a setting does not exist or has a wrong value.
    """
    model_class: Any = class_of(kind)
    parameters = inspect.signature(model_class, eval_str=True).parameters
    known = [p for p in parameters if p not in ("targets", "units")]
    for key in config:
        if key not in (*known, "targets", "units"):
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"its settings: {', '.join(known)}"
            raise VibronicError(f"the model '{kind}' has no setting '{key}'; {hint}")
    for key, value in config.items():
        wanted = parameters[key].annotation
        if wanted in _KINDS and not _is(wanted, value):
            raise VibronicError(f"the setting '{key}' of the model '{kind}' must be {_KINDS[wanted]}, not {value!r}")
    try:
        return model_class(**config)
    except VibronicError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise VibronicError(f"the model '{kind}' cannot be built with these settings ({reason})") from error


_KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a finite number"}


def _is(kind: type, value: object) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind  # or True would be a whole number


def check_free(folder: Path, model: Model) -> None:
    """Refuse to put a model where another one is, whose training would be lost.

    Raises:
        VibronicError: the folder holds a model of another kind or of other settings.
    """
    folder = Path(folder)
    if not (folder / "model.safetensors").exists() or not (folder / "config.json").exists():
        return
    kind, config, _ = _description(folder)
    if (kind, config) != (model.kind, json.loads(json.dumps(model.config))):
        raise VibronicError(f"{folder} holds a model of other settings; choose another --out or delete it")


def save(model: Model, folder: Path, card: Card) -> None:
    """Write a model folder; the weights come last, so a folder with weights is complete."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "format": FORMAT,
        "kind": model.kind,
        "summary": card.summary,
        "only": card.only,
        "config": model.config,
        "targets": {t.name: t.unit for t in model.targets},
        "references": card.references,
        "data": card.data,
        "scores": card.scores,
        "units": card.units,
        "intervals": card.intervals,
        "floors": card.floors,
        "licence": card.licence,
        "versions": versions(),
    }
    write_json(folder / "config.json", description)
    with writable(folder / "README.md") as path:
        path.write_text(_readme(model, card))
    with writable(folder / "model.safetensors") as path:
        save_file({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, path)


def load(model: str | Path) -> tuple[Model, Card]:
    """A model and its card from a folder, or a shipped model by its name.

    Raises:
        VibronicError: there is no such model, the folder is corrupt, of another format version, or holds a pickle.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = _find(model)
    pickles = [p.name for p in folder.iterdir() if p.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")]
    if pickles:
        raise VibronicError(
            f"{folder} holds {pickles[0]}, which may run code when opened; Vibronic reads only safetensors: remove it"
        )
    kind, config, card = _description(folder)
    network = build(kind, **config)
    try:
        state = load_file(folder / "model.safetensors")
        for name, buffer in list(network.named_buffers()):
            if name in state and state[name].shape != buffer.shape:  # buffers whose size the training set decides
                owner, _, leaf = name.rpartition(".")
                setattr(network.get_submodule(owner), leaf, state[name])
        network.load_state_dict(state)
    except FileNotFoundError as error:
        raise VibronicError(f"{folder} has no model.safetensors: its training did not finish") from error
    except (SafetensorError, RuntimeError, OSError) as error:
        raise VibronicError(f"{folder}/model.safetensors is corrupt or of another model; train it again") from error
    return network.eval(), card


def _description(folder: Path) -> tuple[str, dict[str, Any], Card]:
    """Kind, settings and card of a model folder, from its ``config.json``."""
    try:
        described = json.loads((folder / "config.json").read_text())
        version = described["format"]
        if version != FORMAT:  # before anything else is looked for: another version may have other keys
            raise VibronicError(
                f"{folder} has format version {version}, this Vibronic reads version {FORMAT}; "
                "install the version of Vibronic named in its config.json"
            )
        described = {
            "summary": "",
            "only": "",
            "references": {},
            "floors": {},
            **described,
        }  # which folders of early models lack
        card = Card(**{f.name: described[f.name] for f in fields(Card)})
        for key in ("config", "data", "scores", "units", "intervals", "floors", "references"):
            if not isinstance(described[key], dict):
                raise TypeError(f"'{key}' is not a table")
        if not all(_is(float, half) for half in (*card.intervals.values(), *card.floors.values())):
            raise TypeError("'intervals' are not numbers")
        return described["kind"], described["config"], card
    except FileNotFoundError as error:
        raise VibronicError(f"{folder} is not a model folder: it has no config.json") from error
    except OSError as error:
        raise VibronicError(f"{folder}/config.json cannot be read ({error.strerror}); restore the folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise VibronicError(f"{folder}/config.json is corrupt ({said}); train the model again or restore it") from error


def shipped() -> list[str]:
    """Names of the models inside the package."""
    folder = resources.files("vibronic").joinpath("pretrained")
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.joinpath("config.json").is_file())


def _find(model: str | Path) -> Path:
    folder = Path(model)
    if str(model) and folder.is_dir():
        return folder
    if str(model) in shipped():
        return Path(str(resources.files("vibronic").joinpath("pretrained", str(model))))
    names = ", ".join(shipped())
    other = f"nor a shipped model ({names})" if names else "nor is any model shipped; train one with 'vibronic train'"
    raise VibronicError(f"there is no model '{model}': no such folder, {other}")


def _readme(model: Model, card: Card) -> str:
    rows = [f"| {k} | {v:.4g} | {card.units.get(k, '')} |" for k, v in card.scores.items()]
    targets = ", ".join(f"{t.name} [{t.unit}]" for t in model.targets)
    lines = [
        f"# {model.kind}: {', '.join(t.name for t in model.targets)}",
        "",
        *([card.summary, ""] if card.summary else []),
        *([card.only, ""] if card.only else []),
        f"Makes crystals that can be asked for {targets or 'nothing'}. {model.size:,} numbers, the crystals it learned among them."
        if model.generates
        else f"Predicts {targets}. {model.size:,} fitted numbers, cutoff {model.cutoff} Angstrom.",
        *(f"Zero of {name}: {what}." for name, what in card.references.items()),
        "",
        "## Data",
        *(f"- {k}: {v}" for k, v in card.data.items()),
        "",
        "## Scores on unseen structures",
        "| score | value | unit |",
        "|---|---|---|",
        *rows,
        "",
        f"Licence: {card.licence}. Settings and versions: `config.json`.",
    ]
    return "\n".join(lines) + "\n"
