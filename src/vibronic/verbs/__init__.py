"""The verbs of ``vibronic``: plain functions that mean the same on the command line, in YAML and in Python."""

from collections.abc import Callable
from typing import Any

from vibronic.verbs import crystals
from vibronic.verbs.configurations import data, label, sample
from vibronic.verbs.explaining import explain
from vibronic.verbs.fields import density
from vibronic.verbs.generation import generate
from vibronic.verbs.learning import evaluate, models, predict
from vibronic.verbs.modes import vibrations
from vibronic.verbs.studies import OPTIONS, demo, doctor, report, study
from vibronic.verbs.thermal import thermal
from vibronic.verbs.training import train

VERBS: tuple[Callable[..., Any], ...] = (
    demo, thermal, sample, label, train, predict, generate, density, explain, vibrations, evaluate, study, report, models, data,
    doctor,
)  # fmt: skip
"""In the order in which a user meets them."""

KINDS: dict[str, dict[str, set[str]]] = {
    "study": OPTIONS,
    "evaluate": {"predictions": set(), "crystals": set(crystals.OPTIONS)},
}
"""Verbs of several kinds: the options of each kind that not all take. Help speaks of one kind as ``KIND: ...``."""
