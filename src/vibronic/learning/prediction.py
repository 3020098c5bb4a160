"""From a trained model and structures to numbers: predictions with intervals, tables and scores."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from vibronic.core.batch import Batch, widest
from vibronic.core.errors import VibronicError, located
from vibronic.core.model import Model
from vibronic.core.provenance import writable
from vibronic.core.targets import TARGETS, Target, target
from vibronic.core.units import conversion
from vibronic.data.dataset import check_structure, in_batches, labels_of, read_structures

COVERAGE = 0.9
"""Nominal coverage of the intervals in ``predictions.csv``."""

_STRESS = ("xx", "yy", "zz", "yz", "xz", "xy")
"""The six columns of a stress."""


def predict(
    model: Model,
    structures: Sequence[Atoms],
    batch_size: int = 32,
    device: str = "cpu",
    place: Callable[[int], str] = "structure {}".format,
) -> dict[str, list[np.ndarray]]:
    """Predictions by target name, one entry per structure: a scalar array, (3, 3), or (n_atoms, ...) per atom.

    With them the ``novelty`` of every structure, where the model can tell: above 1 it is farther from the training set
    than is usual within it, and errors are a few times as large, on average.

    Args:
        place: how an error names a structure, from its index.

    Raises:
        VibronicError: a structure is one that the model refuses (see :func:`check`), or there is no such device.
    """
    if batch_size < 1:
        raise VibronicError(f"the batch size must be at least 1, not {batch_size}")
    here = torch_device(device)
    model = on_device(model, here)
    out: dict[str, list[np.ndarray]] = {t.name: [] for t in model.targets}
    for k, atoms in enumerate(structures):
        with located(place, k):
            check(model, atoms)

    def forward(batch: Batch) -> dict[str, torch.Tensor]:
        batch = batch.to(here, model.dtype)
        with torch.no_grad():
            found = model(batch)
            if "novelty" not in found and (novelty := model.novelty(batch)) is not None:
                found["novelty"] = novelty
            return found

    for n, batch in enumerate(in_batches(structures, model.cutoff, batch_size, model.dtype)):
        try:
            predicted = forward(batch)
        except VibronicError:
            for k in range(batch.n_structures):  # the one that a model refuses only when it sees it
                with located(place, n * batch_size + k):
                    forward(batch.select(torch.tensor([k])))
            raise
        sizes = batch.n_atoms.tolist()
        for t in model.targets:
            values = predicted[t.name].detach().cpu()
            parts = values.split(sizes) if t.level == "atom" else values.unbind(0)
            out[t.name] += [part.double().numpy() for part in parts]
        if "novelty" in predicted:
            out.setdefault("novelty", []).extend(predicted["novelty"].cpu().double().numpy())
    return out


def check(model: Model, atoms: Atoms) -> None:
    """Refuse what no model should see, or not this one.

    Raises:
        VibronicError: overlapping atoms and what else :func:`check_structure` refuses, an ion, or an unseen element.
    """
    check_structure(atoms, str(atoms.symbols) or "the structure")
    model.check_neutral(atoms)
    model.check_elements(torch.as_tensor(atoms.numbers))


def torch_device(name: str) -> torch.device:
    """The torch device of this name; ``auto`` is a GPU where there is one.

    Raises:
        VibronicError: it does not exist here.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise VibronicError(f"there is no device '{name}' here; choose auto or cpu") from error
    return device


def on_device(model: Model, device: torch.device | str) -> Model:
    """The model on a device, ready to predict; its references lose their double precision where the device has none."""
    return (model if widest(device) is torch.float64 else model.float()).to(device).eval()


def errors(
    targets: Sequence[Target], predicted: Mapping[str, Sequence[np.ndarray] | np.ndarray], structures: Sequence[Atoms]
) -> dict[str, np.ndarray]:
    """Predicted minus labelled, flattened, by target; energies per atom."""
    found: dict[str, list[np.ndarray]] = {t.name: [] for t in targets}
    for k, atoms in enumerate(structures):
        labels = labels_of(atoms, targets, f"structure {k}")
        for t in targets:
            difference = np.asarray(predicted[t.name][k]) - labels[t.name]
            found[t.name].append(np.ravel(difference / len(atoms) if t.extensive else difference))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def score(
    targets: Sequence[Target], predicted: Mapping[str, Sequence[np.ndarray] | np.ndarray], structures: Sequence[Atoms]
) -> tuple[dict[str, float], dict[str, str]]:
    """Mean absolute error, root-mean-square error and R2 by target, every structure counted; and their units.

    Extensive targets are scored per atom. R2 of a target without spread is NaN.
    """
    scores: dict[str, float] = {"n": len(structures)}
    units = {"n": "structures"}
    difference = errors(targets, predicted, structures)
    for t in targets:
        e = difference[t.name]
        labels = [labels_of(a, [t])[t.name] / (len(a) if t.extensive else 1) for a in structures]
        y = np.concatenate([np.ravel(v) for v in labels])
        spread = np.sum((y - y.mean()) ** 2)
        unit = f"{t.unit}/atom" if t.extensive else t.unit
        scores[f"mae_{t.name}"], units[f"mae_{t.name}"] = float(np.abs(e).mean()), unit
        scores[f"rmse_{t.name}"], units[f"rmse_{t.name}"] = float(np.sqrt((e**2).mean())), unit
        scores[f"r2_{t.name}"], units[f"r2_{t.name}"] = float(1 - (e**2).sum() / spread) if spread > 0 else np.nan, "1"
    return scores, units


def spreads(model: Model, structures: Sequence[Atoms], batch_size: int = 32) -> dict[str, np.ndarray]:
    """Scalar target -> (n,) standard deviation of every prediction as far as the model can tell; energies per atom.

    Empty for a model that cannot.
    """
    found: dict[str, list[np.ndarray]] = {}
    for batch in in_batches(structures, model.cutoff, batch_size, model.dtype):
        _, deviations = model.posterior(batch)
        if deviations is None:
            return {}
        for t in model.targets:
            if t.name in deviations:
                values = deviations[t.name].norm(dim=1) / (batch.n_atoms if t.extensive else 1)
                found.setdefault(t.name, []).append(values.detach().cpu().double().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def intervals(
    targets: Sequence[Target],
    predicted: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    structures: Sequence[Atoms],
    spread: Mapping[str, np.ndarray] | None = None,
    floors: Mapping[str, float] | None = None,
    coverage: float = COVERAGE,
) -> dict[str, float]:
    """Half width of the split-conformal interval of every scalar target (Vovk; Lei et al., JASA 113, 1094, 2018).

    The ceil((n + 1) coverage)-th smallest absolute error on structures the model was not fitted to; infinite, and left out,
    when there are too few of them. Extensive targets: per atom. Where there is a ``spread``, errors are counted in units of
    sqrt(spread^2 + floor^2), and so is the half width: intervals are wide where the model is unsure.
    """
    found = {}
    difference = errors(targets, predicted, structures)
    rank = int(np.ceil((len(structures) + 1) * coverage))
    for t in targets:
        if t.is_number and rank <= len(structures):
            error = np.abs(difference[t.name])
            if spread and t.name in spread:
                error = error / np.hypot(spread[t.name], (floors or {})[t.name])
            found[t.name] = float(np.sort(error)[rank - 1])
    return found


def floors(model: Model, spread: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Target -> what adds to its spread in quadrature: the model's misfit, or where it has none its usual spread.

    No label enters; intervals calibrated on the same structures stay valid but for one part in their number.
    """
    return {t: max(model.misfit.get(t) or float(np.sqrt(np.mean(s**2))), 1e-12) for t, s in spread.items()}


def half_widths(
    intervals: Mapping[str, float], floors: Mapping[str, float], spread: Mapping[str, np.ndarray]
) -> dict[str, float | np.ndarray]:
    """Half width of every target, one number or (n,): see :func:`intervals`."""
    return {t: q * np.hypot(spread[t], floors[t]) if t in floors else q for t, q in intervals.items()}


def write_predictions(
    path: Path,
    targets: Sequence[Target],
    predicted: Mapping[str, Sequence[np.ndarray] | np.ndarray],
    structures: Sequence[Atoms],
    half_widths: Mapping[str, float | np.ndarray],
    references: Mapping[str, str] | None = None,
) -> None:
    """``predictions.csv``: one row per structure, units in the header; stress as six columns (xx yy zz yz xz xy).

    Last the novelty, where the model can tell, and a column ``name_reference`` for each of ``references``: what the values of
    the target are relative to.

    Per-atom targets do not fit one row per structure; the verb ``predict`` writes forces to :func:`forces_file`.
    """
    columns = [t for t in targets if t.level == "structure"]
    references = references or {}
    header = ["structure", "formula", "n_atoms"]
    for t in columns:
        if t.shape == (3, 3):
            header += [f"{t.name}_{c} [{t.unit}]" for c in _STRESS]
        elif t.shape:
            header += [f"{t.name}_{c} [{t.unit}]" for c in "xyz"]
        else:
            header += [f"{t.name} [{t.unit}]", f"{t.name}_low [{t.unit}]", f"{t.name}_high [{t.unit}]"]
    novelty = predicted.get("novelty")
    if novelty is not None:
        header.append("novelty")
    header += [f"{name}_reference" for name in references]
    with writable(path) as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for k, atoms in enumerate(structures):
            row: list[object] = [k, atoms.get_chemical_formula(), len(atoms)]
            for t in columns:
                value = np.asarray(predicted[t.name][k])
                if t.shape == (3, 3):
                    row += _digits([value[0, 0], value[1, 1], value[2, 2], value[1, 2], value[0, 2], value[0, 1]])
                elif t.shape:
                    row += _digits(value)
                else:
                    widths = np.broadcast_to(half_widths.get(t.name, np.nan), len(structures))
                    half = float(widths[k]) * (len(atoms) if t.extensive else 1)
                    row += _digits([float(value), float(value) - half, float(value) + half])
            if novelty is not None:
                row.append(f"{float(novelty[k]):.3g}")
            rows.writerow([*row, *references.values()])


def read_predictions(path: Path) -> list[dict[str, str]]:
    """Rows of a ``predictions.csv``.

    Raises:
        VibronicError: the file is missing or not such a table.
    """
    try:
        with Path(path).open(newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise VibronicError(f"there is no file {path}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise VibronicError(f"{path} is not a table of predictions") from error
    if not rows or "structure" not in rows[0]:
        raise VibronicError(f"{path} is not a table of predictions: it has no column 'structure'")
    return rows


def forces_file(table: Path) -> Path:
    """The extxyz beside a table of predictions that holds the forces, which do not fit one row per structure."""
    return Path(table).parent / f"{Path(table).stem}.forces.extxyz"


def predictions_of(
    path: Path, structures: Sequence[Atoms]
) -> tuple[list[Target], dict[str, Sequence[np.ndarray] | np.ndarray]]:
    """The targets of a ``predictions.csv`` and, by name, their predictions for ``structures``, in Vibronic's units.

    Stress comes as (3, 3), from its six columns; forces from the extxyz beside the table, where there is one. A stress
    that is missing in a row, as that of a molecule, is left out.

    Raises:
        VibronicError: a file is of other structures, has a unit of another quantity, or an entry that is no finite number.
    """
    rows = read_predictions(path)
    _check_same(path, [row.get("formula") for row in rows], structures)
    units = {
        name: unit.rstrip("]") for name, _, unit in (column.partition(" [") for column in rows[0] if column) if unit
    }
    bounds = [f"{name}_{end}" for name in units for end in ("low", "high")]
    stress = [f"stress_{c}" for c in _STRESS]
    targets = [target(name, unit) for name, unit in units.items() if name not in (*bounds, *stress)]
    values: dict[str, Sequence[np.ndarray] | np.ndarray] = {
        t.name: _column(path, rows, t.name, units[t.name], t.unit) for t in targets
    }
    if set(stress) <= set(units) and all(row[f"{stress[0]} [{units[stress[0]]}]"] for row in rows):
        t = TARGETS["stress"]
        voigt = np.stack([_column(path, rows, name, units[name], t.unit) for name in stress], axis=1)
        targets, values = [*targets, t], {**values, "stress": voigt[:, [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]}
    if not targets:
        raise VibronicError(f"{path} has no column of predictions such as 'band_gap [eV]'")
    if "energy" in values and forces_file(path).exists():
        forces = _forces(forces_file(path), structures, values["energy"])
        targets, values = [*targets, TARGETS["forces"]], {**values, "forces": forces}
    return targets, values


def _forces(path: Path, structures: Sequence[Atoms], energies: Sequence[np.ndarray] | np.ndarray) -> list[np.ndarray]:
    """The forces in the extxyz beside a table, whose energies say that the two belong together."""
    frames = read_structures(path)
    _check_same(path, [atoms.get_chemical_formula() for atoms in frames], structures)
    if any((a.numbers != b.numbers).any() for a, b in zip(frames, structures, strict=True)):
        raise VibronicError(f"the atoms in {path} are in another order than in the reference")
    predicted = [
        labels_of(a, [TARGETS["energy"], TARGETS["forces"]], f"{path}, structure {k}") for k, a in enumerate(frames)
    ]
    if not np.allclose([float(p["energy"]) for p in predicted], energies, atol=1e-5, rtol=1e-7):
        raise VibronicError(
            f"{path} is not of the same predictions as the table beside it; predict again, or remove it"
        )
    return [np.asarray(p["forces"]) for p in predicted]


def _check_same(path: Path, formulas: Sequence[str | None], structures: Sequence[Atoms]) -> None:
    if len(formulas) != len(structures):
        raise VibronicError(f"{path} has {len(formulas)} rows but the reference has {len(structures)} structures")
    for k, (formula, atoms) in enumerate(zip(formulas, structures, strict=True)):
        if formula != atoms.get_chemical_formula():
            raise VibronicError(f"row {k} of {path} is {formula} but structure {k} is {atoms.get_chemical_formula()}")


def _column(path: Path, rows: Sequence[Mapping[str, str]], name: str, unit: str, wanted: str) -> np.ndarray:
    """(B,) entries of the column ``name [unit]``, in the unit ``wanted``."""
    try:
        values = np.array([float(row[f"{name} [{unit}]"]) for row in rows])
    except (TypeError, ValueError) as error:
        raise VibronicError(f"{path} has an entry that is not a number ({error})") from error
    if not np.isfinite(values).all():
        raise VibronicError(f"{path} has a prediction of '{name}' that is not a finite number")
    return values * conversion(unit, wanted)


def _digits(values: Iterable[float]) -> list[str]:
    # The energy of all electrons is 1e5 eV and its differences are meV.
    return ["" if np.isnan(v) else f"{v:.8g}" if abs(v) < 100 else f"{v:.6f}" for v in values]
