"""Metrics of a set of generated crystals: validity, novelty, coverage, distributions and success at a property."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms

from vibronic.core.errors import VibronicError
from vibronic.crystals.coverage import coverage
from vibronic.crystals.matching import novel, space_group, unique
from vibronic.crystals.stability import UNITS as RELAX_UNITS
from vibronic.crystals.validity import composition_validity, structural_validity
from vibronic.data.dataset import label_of

Better = Literal["low", "high"]
"""Which end of a property is wanted."""

PERCENTILES = (5, 10, 15)
"""Of a reference's property values: the best so many percent."""

GROUP = 10
"""Samples of which the best counts, in CDVAE's protocol."""

GRAMS = 1.66053907
"""g/cm^3 of 1 amu/Angstrom^3."""


@dataclass(frozen=True)
class Benchmark:
    """What is published for one of CDVAE's sets (arXiv 2110.06197).

    Attributes:
        property: that is minimised.
        thresholds: of it, at the best 5, 10 and 15 % (eV/atom).
        cutoffs: of coverage, distances of structure and of composition.
    """

    property: str
    thresholds: tuple[float, float, float]
    cutoffs: tuple[float, float]


BENCHMARKS = {
    "perov-5": Benchmark("heat_ref", (0.43924842, 0.61202443, 0.7364607), (0.2, 4.0)),
    "carbon-24": Benchmark("energy_per_atom", (-154.527093, -154.45865733, -154.44206825), (0.2, 4.0)),
    "mp-20": Benchmark("formation_energy_per_atom", (-3.17562208, -2.82196882, -2.52814761), (0.4, 10.0)),
}
"""By the names that the sets have in ``vibronic data``."""

UNITS = {"volume_per_atom": "Angstrom^3", "density": "g/cm^3", **RELAX_UNITS}
"""Of the columns in the rows of :func:`evaluate`."""


def benchmark(name: str) -> Benchmark:
    """The published constants of a set.

    Raises:
        VibronicError: there is no such set.
    """
    if name not in BENCHMARKS:
        raise VibronicError(f"there is no benchmark '{name}'; known: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def density(atoms: Atoms) -> float:
    """Mass density in g/cm^3."""
    return float(atoms.get_masses().sum() / atoms.get_volume() * GRAMS)


def wasserstein(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> float | None:
    """Earth mover's distance of two sets of numbers, in their unit; None where either holds no finite number."""
    from scipy.stats import wasserstein_distance

    a, b = (np.asarray(v, dtype=float) for v in (ours, theirs))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return float(wasserstein_distance(a, b)) if len(a) and len(b) else None


def bootstrap(values: Sequence[float] | np.ndarray, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean: 2.5 and 97.5 percentiles of the means of ``n`` resamples; flags count as 0 and 1.

    It has no width where all values are equal, as 20 of 20: it knows nothing of what was never seen.

    Raises:
        VibronicError: there are no values, or no resamples.
    """
    numbers = np.asarray(values, dtype=float)
    if not len(numbers) or n < 1:
        raise VibronicError("an interval of a mean needs values and at least one resample")
    rng = np.random.default_rng(seed)
    means = [numbers[rng.integers(len(numbers), size=len(numbers))].mean() for _ in range(n)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def thresholds_of(values: Sequence[float] | np.ndarray, better: Better = "low") -> tuple[float, float, float]:
    """Where the best 5, 10 and 15 % of a reference's property values begin.

    Raises:
        VibronicError: there is no finite value.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        raise VibronicError("thresholds need the property's values in the reference, and it has none")
    at = PERCENTILES if better == "low" else tuple(100 - p for p in PERCENTILES)
    low, middle, high = (float(v) for v in np.percentile(numbers, at))
    return low, middle, high


def successes(
    values: Sequence[float] | np.ndarray, thresholds: Sequence[float], better: Better = "low", best_of: int = 1
) -> dict[str, np.ndarray]:
    """Flags behind :func:`success_rates`: which values, or best values of consecutive groups, reach each threshold."""
    sign = 1.0 if better == "low" else -1.0
    badness = sign * np.asarray(values, dtype=float)
    badness = np.where(np.isnan(badness), np.inf, badness)
    if len(thresholds) != len(PERCENTILES):
        raise VibronicError(
            f"success rates take {len(PERCENTILES)} thresholds, at 5, 10 and 15 %, not {len(thresholds)}"
        )
    if best_of < 1:
        raise VibronicError(f"the best of {best_of} samples is none: groups hold at least one")
    best = badness[: len(badness) // best_of * best_of].reshape(-1, best_of).min(axis=1)
    suffix = f"_best_of_{best_of}" if best_of > 1 else ""
    return {f"sr{p}{suffix}": best <= sign * t for p, t in zip(PERCENTILES, thresholds)}


def success_rates(
    values: Sequence[float] | np.ndarray, thresholds: Sequence[float], better: Better = "low", best_of: int = 1
) -> dict[str, float]:
    """Share of samples that reach the best 5, 10 and 15 % of a reference: ``sr5``, ``sr10``, ``sr15``.

    With ``best_of`` the best of each group of consecutive samples counts (CDVAE takes 10), as ``sr5_best_of_10``; what does not fill
    a group at the end is left out. A value that is NaN, as of an invalid crystal, reaches nothing.

    Args:
        values: property values, in any unit.
        thresholds: in that unit, three, from :func:`thresholds_of` or :data:`BENCHMARKS`; reaching one is success.
        better: which end of the property is wanted.
        best_of: size of the groups.

    Raises:
        VibronicError: there are not three thresholds, or no full group.
    """
    found = successes(values, thresholds, better, best_of)
    if not len(next(iter(found.values()))):
        raise VibronicError(f"success rates need at least {best_of} samples, not {len(values)}")
    return {name: float(flags.mean()) for name, flags in found.items()}


def reached_by(
    values: np.ndarray, valid: np.ndarray, thresholds: Sequence[float], better: Better = "low"
) -> dict[str, np.ndarray]:
    """Flags of success of ``n`` samples with property ``values`` (n,), of which some are ``valid`` (n,) and no others succeed: ``sr5`` ... of the valid
    ones, ``sr5_all`` ... of all, ``sr5_best_of_10`` ... of the groups."""
    chosen = np.where(valid, values, np.nan)
    reached = successes(chosen, thresholds, better)
    found = {name: hit[valid] for name, hit in reached.items()} | {f"{name}_all": hit for name, hit in reached.items()}
    return found | successes(chosen, thresholds, better, GROUP)


def evaluate(
    structures: Sequence[Atoms],
    reference: Sequence[Atoms] | None = None,
    property: str | None = None,
    predict: Callable[[list[Atoms]], np.ndarray] | None = None,
    thresholds: Sequence[float] | None = None,
    cutoffs: tuple[float, float] | None = None,
    coverage_sample: int = 1000,
    relax: Callable[[list[Atoms]], list[dict[str, Any]]] | None = None,
    better: Better = "low",
    unit: str = "",
    progress: bool = True,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All metrics of a set of generated crystals, one by one and in total.

    Every sample counts, whatever it is: a crystal that is no crystal is invalid. Unique and novel are judged among the
    valid ones (both tests of :mod:`.validity`), the first of several equal ones being unique; ``valid_unique_novel``, ``hits`` and
    ``sr*_all`` are shares of all samples.

    Args:
        structures: generated, in the order they were drawn (groups of 10 are consecutive).
        reference: what novelty, coverage, distributions and thresholds refer to; without it they are left out.
        property: name of the property, as the reference carries it.
        predict: its values (n,) for n crystals; asked for those of valid structure only, and for the reference (at most
            ``coverage_sample`` of it), so that the distributions compared are both predicted.
        thresholds: of the property at 5, 10 and 15 %; from the reference's own values where none are given.
        cutoffs: of :func:`.coverage.coverage`; those of MP-20 where none are given.
        coverage_sample: most fingerprints of each set; 0 leaves coverage out.
        relax: a flat dict per crystal, as ``functools.partial(stability.relaxation, calculator=...)`` gives; asked for those of
            valid structure only.
        better: which end of the property is wanted.
        unit: of the property, for ``units``.
        progress: show bars.
        seed: of draws and intervals.

    Returns:
        Rows, a flat dict per crystal: ``index``, ``formula``, ``n_atoms``, ``volume_per_atom`` (Angstrom^3), ``density``
        (g/cm^3), ``spacegroup`` (number, within 0.1 Angstrom), ``valid_structure``, ``valid_composition``, ``valid``,
        ``unique``, ``same_as`` (index of the first equal one), ``novel``, the property, and what ``relax`` gives; None where it
        does not apply. Totals, flat: ``n``, shares with 95 % intervals (``valid``, ``valid_low``, ``valid_high``), distances, the
        thresholds, and ``units``.

    Raises:
        VibronicError: there are no structures, a property comes without predictor or the reverse, the reference has no such
            property where thresholds are to come from it, or a library is not installed.
    """
    if not structures:
        raise VibronicError("there are no generated crystals to evaluate")
    if (property is None) != (predict is None):
        raise VibronicError("a property needs a predictor and its name: give both or neither")
    if thresholds is None and property and reference:
        labels = _labels(reference, property)
        if not np.isfinite(labels).any():
            raise VibronicError(f"the reference has no values of '{property}' to take thresholds from; give thresholds")
        thresholds = thresholds_of(labels, better)
    rows = [_row(k, atoms) for k, atoms in enumerate(structures)]
    sound = [k for k, row in enumerate(rows) if row["valid_structure"]]
    valid = [k for k in sound if rows[k]["valid"]]
    flags: dict[str, Any] = {
        name: [row[name] for row in rows] for name in ("valid_structure", "valid_composition", "valid")
    }
    totals: dict[str, Any] = {"n": len(rows)}

    crystals = [structures[k] for k in valid]
    for k, first in zip(valid, unique(crystals)):
        rows[k] |= {"unique": valid[first] == k, "same_as": valid[first]}
    flags["unique"] = [rows[k]["unique"] for k in valid]
    if reference is not None:
        for k, new in zip(valid, novel(crystals, reference)):
            rows[k]["novel"] = new
        flags["novel"] = [rows[k]["novel"] for k in valid]
        flags["valid_unique_novel"] = [bool(row["unique"] and row["novel"]) for row in rows]
        if coverage_sample:
            cutoffs = cutoffs or BENCHMARKS["mp-20"].cutoffs
            recall, precision = coverage(structures, reference, cutoffs, coverage_sample, seed, progress)
            flags |= {"coverage_recall": recall, "coverage_precision": precision}
        known = [atoms for atoms in reference if structural_validity(atoms)]
        distributions: dict[str, Callable[[Atoms], float]] = {"density": density, "elements": _elements}
        for name, of in distributions.items():
            totals[f"wasserstein_{name}"] = wasserstein([of(a) for a in crystals], [of(a) for a in known])

    if property is not None and predict is not None:
        values = np.full(len(rows), np.nan)
        values[sound] = _predicted(predict, [structures[k] for k in sound])
        for row, value in zip(rows, values):
            row[property] = float(value) if np.isfinite(value) else None
        flags["predicted"] = np.isfinite(values[valid])
        if reference is not None:
            most = min(len(known), max(coverage_sample, 1000))
            drawn = np.random.default_rng(seed).choice(len(known), most, replace=False)
            theirs = _predicted(predict, [known[k] for k in drawn])
            totals[f"wasserstein_{property}"] = wasserstein(values[valid], theirs)
        if thresholds is not None:
            totals |= {f"threshold{p}": float(t) for p, t in zip(PERCENTILES, thresholds)}
            flags |= reached_by(values, np.array(flags["valid"]), thresholds, better)
            totals[f"groups_of_{GROUP}"] = len(rows) // GROUP
            if reference is not None:
                flags["hits"] = flags["sr5_all"] & np.array(flags["valid_unique_novel"])

    if relax is not None:
        for k, relaxed in zip(sound, relax([structures[k] for k in sound])):
            rows[k] |= relaxed
        flags["relax_converged"] = [bool(rows[k].get("relax_converged")) for k in sound]
        for name in RELAX_UNITS:
            numbers = [rows[k][name] for k in sound if rows[k].get(name) is not None]
            totals[name] = float(np.mean(numbers)) if numbers else None

    for name, given in flags.items():
        totals |= _share(name, given, seed)
    totals["units"] = _units(totals, property, unit)
    return rows, totals


def _row(k: int, atoms: Atoms) -> dict[str, Any]:
    sound, possible = structural_validity(atoms), composition_validity(atoms.numbers)
    return {
        "index": k,
        "formula": atoms.get_chemical_formula("metal"),
        "n_atoms": len(atoms),
        "volume_per_atom": float(atoms.get_volume() / len(atoms)) if sound else None,
        "density": density(atoms) if sound else None,
        "spacegroup": space_group(atoms) if sound else None,
        "valid_structure": sound,
        "valid_composition": possible,
        "valid": sound and possible,
        "unique": None,
        "same_as": None,
        "novel": None,
    }


def _elements(atoms: Atoms) -> float:
    return float(len(set(atoms.numbers.tolist())))


def _labels(frames: Sequence[Atoms], name: str) -> np.ndarray:
    """(n,) values of a scalar label, NaN where there is none."""
    found = [label_of(atoms, name) for atoms in frames]
    return np.array([np.nan if v is None or np.ndim(v) else float(v) for v in found])


def _predicted(predict: Callable[[list[Atoms]], np.ndarray], frames: list[Atoms]) -> np.ndarray:
    if not frames:
        return np.zeros(0)
    values = np.asarray(predict(frames), dtype=float)
    if values.shape != (len(frames),):
        raise VibronicError(f"the predictor gave values of shape {values.shape} for {len(frames)} crystals")
    return values


def _share(name: str, flags: Sequence[bool] | np.ndarray, seed: int) -> dict[str, float | None]:
    """A share with its interval; None where nothing could be counted."""
    if not len(flags):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    low, high = bootstrap(flags, seed=seed)
    return {name: float(np.mean(flags)), f"{name}_low": low, f"{name}_high": high}


def _units(totals: Mapping[str, Any], property: str | None, unit: str) -> dict[str, str]:
    """Unit of every number that is no share of samples or count."""
    known = {
        **RELAX_UNITS,
        "wasserstein_density": UNITS["density"],
        "wasserstein_elements": "elements",
        "n": "crystals",
        f"groups_of_{GROUP}": "groups",
    }
    if property:
        known |= dict.fromkeys([f"wasserstein_{property}", *(f"threshold{p}" for p in PERCENTILES)], unit)
    return {name: known.get(name, "share") for name in totals}
