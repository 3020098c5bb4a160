"""Derivatives of a property along modes, as labels of an engine have them: central differences, beside those of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.data.dataset import label_of
from vibronic.explain.vibrations import Property, directions
from vibronic.labelling.engines import Engine
from vibronic.labelling.engines import engine as named_engine
from vibronic.labelling.label import label
from vibronic.sampling.harmonic import ForceConstants


@dataclass(frozen=True)
class Differences:
    """Derivatives along chosen modes at one configuration: of labels of an engine by central differences, and of the model.

    Attributes:
        modes: (K,) their indices.
        steps: (K,) Angstrom sqrt(amu).
        label_first, label_second: (K,) central differences of the labels.
        first, second: (K,) of the model, by automatic differentiation.
        step_first, step_second: (K,) central differences of the model: what they miss of its derivatives is the step's fault.
    """

    modes: np.ndarray
    steps: np.ndarray
    label_first: np.ndarray
    label_second: np.ndarray
    first: np.ndarray
    second: np.ndarray
    step_first: np.ndarray
    step_second: np.ndarray


def label_differences(
    of: Property | Sequence[Property],
    constants: ForceConstants,
    chosen: Sequence[int],
    engine: Engine | str,
    ledger: Path | str,
    displacement: float = 0.03,
    at: Atoms | None = None,
    workers: int = 1,
    executor: str = "local",
    timeout: float | None = None,
) -> Differences:
    """Derivatives along modes from an engine's labels, by central differences, beside those of the model.

    Two labels per mode, and one in the middle; they go through the ledger, so a second call computes nothing.

    Args:
        of: the property, by one model or by several, whose mean is compared.
        chosen: indices of the modes.
        displacement: of the atom that moves most, Angstrom.
        at: configuration of the supercell where derivatives are taken; its reference positions where none is given, at
            which most first derivatives are zero by symmetry.

    Raises:
        VibronicError: no such mode, a displacement that is not positive, or the engine gives no such label.
    """
    engine = named_engine(engine) if isinstance(engine, str) else engine
    several = [of] if isinstance(of, Property) else list(of)
    target = several[0].target.name
    name = checkable(target, engine)
    modes = constants.modes()
    picked = np.asarray(chosen, dtype=int)
    if picked.size == 0 or picked.min() < 0 or picked.max() >= len(modes.frequencies):
        raise VibronicError(f"modes to check must be indices from 0 to {len(modes.frequencies) - 1}")
    if not displacement > 0:
        raise VibronicError(f"the displacement of a check must be positive, not {displacement} Angstrom")
    ways = directions(constants, modes)[:, picked]
    steps = displacement / np.linalg.norm(ways.reshape(-1, 3, len(picked)), axis=1).max(axis=0)
    middle = (constants.supercell if at is None else at).copy()
    points = [middle]
    for way, step in zip(ways.T, steps, strict=True):
        for sign in (1, -1):
            points.append(middle.copy())
            points[-1].positions += sign * step * way.reshape(-1, 3)
    report = label(points, engine, ledger, executor, workers, timeout, properties=[name])
    if report.failures:
        raise VibronicError(f"the check needs every label, but one failed: {report.failures[0][1]}")
    labels: list[Any] = [label_of(atoms, target) for atoms in report.labelled]
    found = [one.curvatures(middle, ways) for one in several]
    slope, second = np.mean([f[1] for f in found], axis=0), np.mean([f[2] for f in found], axis=0)
    mine = _central(np.mean([[one.value(atoms) for atoms in points] for one in several], axis=0).tolist(), steps)
    return Differences(picked, steps, *_central(labels, steps), slope @ ways, second, *mine)


def checkable(target: str, engine: Engine) -> str:
    """The label that a property is checked with.

    Raises:
        VibronicError: the engine does not give it.
    """
    name = "stress" if target == "pressure" else target
    if name not in engine.properties:
        raise VibronicError(
            f"the engine '{engine.name}' gives no '{name}' to check with; it gives {', '.join(engine.properties)}"
        )
    return name


def agreement(reference: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """``mae`` and ``r2`` of derivatives against those of labels; ``r2`` is nan where these are all equal."""
    error = predicted - reference
    spread = float(((reference - reference.mean()) ** 2).sum())
    return {"mae": float(np.abs(error).mean()), "r2": 1 - float((error**2).sum()) / spread if spread > 0 else np.nan}


def _central(values: Sequence[float], steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and second differences from the value at the reference and pairs of values at +step, -step."""
    start, (plus, minus) = values[0], np.reshape(values[1:], (-1, 2)).T
    return (plus - minus) / (2 * steps), (plus + minus - 2 * start) / steps**2
