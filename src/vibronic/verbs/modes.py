"""The verb ``vibrations``: which normal modes of a crystal move a predicted property."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vibronic.core.errors import VibronicError
from vibronic.core.progress import track
from vibronic.core.provenance import run_record, writable
from vibronic.verbs.common import Setting, say
from vibronic.verbs.explaining import _explained
from vibronic.verbs.learning import _files

if TYPE_CHECKING:
    from ase import Atoms

    from vibronic.explain.differences import Differences
    from vibronic.explain.vibrations import DegenerateSet, Response, Thermal


def vibrations(
    model: str,
    crystal: str,
    target: str | None = None,
    more: list[str] | None = None,
    temperature: float = 300.0,
    supercell: tuple[int, int, int] = (2, 2, 2),
    statistics: Literal["quantum", "classical"] = "quantum",
    imaginary: Literal["leave", "effective", "sscha"] = "leave",
    n: int = 100,
    engine: str = "sevennet",
    settings: dict[str, Setting] | None = None,
    displacement: float = 0.01,
    force_constants: Path | None = None,
    relax: bool = False,
    check: str | None = None,
    check_settings: dict[str, Setting] | None = None,
    check_modes: int = 6,
    check_at: Literal["thermal", "reference"] = "thermal",
    check_displacement: float = 0.03,
    workers: int = 1,
    timeout: float | None = None,
    ledger: Path | None = None,
    report: Path | None = None,
    out: Path = Path("vibrations.csv"),
    seed: int = 0,
) -> Path:
    """Which vibrations move a property: its derivatives along every mode, and what each adds to its thermal mean.

      vibronic vibrations runs/gap Ag3SBr --target band_gap --imaginary effective --report vibrations.html
      vibronic vibrations runs/nacl NaCl --target energy --check sevennet --check-modes 6

    Derivatives are by automatic differentiation of the model, in double precision: at the symmetric positions, and averaged
    over thermal configurations, from which the shares of the modes are taken. The modes are those of the supercell, from
    force constants of the engine or from files. A mode that is imaginary has no harmonic amplitude: its derivatives are
    told, its share is left empty. Of degenerate modes (equal number in the column 'set') only sums mean something.

    With --check an engine labels the crystal displaced along some modes, and the central differences of its labels stand
    beside the derivatives; its labels go into a ledger, so a second run computes nothing.

    Args:
        model: model folder, or the name of a shipped model (see 'vibronic models'); painn, ridge or tight-binding, say.
        crystal: CIF, POSCAR, ... or a name (see 'vibronic data'); near its equilibrium.
        target: scalar target; the model's first where none is given.
        more: models of other seeds, to average over; their standard deviations become columns.
        temperature: K.
        supercell: repeats of the cell.
        statistics: quantum (with zero-point motion) or classical.
        imaginary: what to do about imaginary modes: leave them as they are, or fit effective or sscha force constants.
        n: thermal configurations to average over, an even number.
        engine: computes the forces behind the force constants (see 'vibronic doctor').
        settings: of the engine, e.g. --settings.ecut 500.
        displacement: of an atom in the calculations behind the force constants, Angstrom.
        force_constants: phonopy.yaml, FORCE_SETS or FORCE_CONSTANTS to use instead of the engine; the crystal and the
            supercell then come from these files.
        relax: relax atoms and cell first with the engine, keeping the symmetry.
        check: engine whose labels the derivatives are compared with; none where none is given.
        check_settings: of that engine.
        check_modes: how many modes, the strongest first.
        check_at: where: in one thermal configuration, or at the reference positions, at which most first derivatives are zero
            by symmetry.
        check_displacement: of the atom that moves most, Angstrom.
        workers: processes that label.
        timeout: seconds per label.
        ledger: SQLite file of the labels; beside --out where none is given.
        report: page with the contributions, the check and the strongest modes in motion, e.g. vibrations.html.
        out: CSV, one row per mode.
        seed: of the thermal configurations, and of effective or sscha.

    Returns:
        The table written.
    """
    config = dict(locals())
    import numpy as np

    from vibronic.data import sources
    from vibronic.explain import differences
    from vibronic.explain import vibrations as modes_of
    from vibronic.labelling import engines
    from vibronic.learning import store
    from vibronic.sampling.anharmonic import renormalised
    from vibronic.sampling.relax import relax as relaxed
    from vibronic.verbs.configurations import _force_constants, _supercell

    if force_constants is not None and relax:
        raise VibronicError("force constants from files belong to one ideal crystal: leave --relax out")
    if check is not None and check_modes < 1:
        raise VibronicError(f"--check-modes must be at least 1, not {check_modes}")
    folders = [model, *(more or [])]
    networks = [store.load(folder)[0] for folder in folders]
    name, unit = _explained(folders, networks, target)
    properties = [modes_of.Property(network, name) for network in networks]
    judge = None if check is None else engines.engine(check, **(check_settings or {}))
    if judge is not None:
        differences.checkable(name, judge)
    needs_engine = force_constants is None or imaginary != "leave" or relax
    calculator: Any = engines.engine(engine, **(settings or {})).calculator() if needs_engine else None
    ledger = ledger or out.with_suffix(".ledger.sqlite")
    written = [*([] if report is None else [Path(report)]), *([] if check is None else [ledger])]
    reads: list[Path | str | None] = [
        crystal,
        force_constants,
        *(file for folder in folders for file in _files(folder)),
    ]
    with run_record(out, "vibrations", config, seed, reads=reads, writes=written) as record:
        atoms = sources.crystal(crystal)
        if not atoms.pbc.all():
            raise VibronicError(f"{crystal} is not periodic in three directions; phonons need a crystal")
        for network in networks:
            network.check_elements(_numbers(atoms))  # before an engine works for nothing
        atoms.info.setdefault("parent", Path(crystal).stem)
        atoms = relaxed(atoms, calculator) if relax else atoms
        reference = _supercell(atoms, supercell, None, None, seed)
        constants = _force_constants(reference, (atoms, supercell), calculator, displacement, force_constants)
        if imaginary != "leave":
            constants = renormalised(constants, temperature, imaginary, statistics, calculator, seed=seed)
        findings = list(constants.findings)
        respond = [modes_of.respond(p, constants, temperature, statistics) for p in track(properties, "Vibrations")]
        average = [
            modes_of.thermal_average(p, constants, temperature, statistics, n, seed)
            for p in track(properties, "Thermal averages")
        ]
        response, thermal = modes_of.mean(respond), modes_of.mean(average)
        checked = None
        if judge is not None:
            hot = modes_of.thermal_set(constants, temperature, statistics, n, seed) if check_at == "thermal" else []
            chosen, at = thermal.strongest[:check_modes].tolist(), hot[0] if hot else None
            of = partial(
                differences.label_differences, properties, constants, chosen, judge, ledger, check_displacement
            )
            checked = of(at, workers, timeout=timeout)
        findings += _told_of_vibrations(response, thermal, average, constants.modes().describe())
        if checked is not None:
            found = {o: differences.agreement(getattr(checked, f"label_{o}"), getattr(checked, o)) for o in ORDERS}
            scores = {o: {name: _number(v) for name, v in figures.items()} for o, figures in found.items()}
            record["check"] = {"engine": check, "agreement": scores, **asdict(checked)}
            findings += [
                f"{'derivatives' if o == 'first' else 'second derivatives'} along {len(checked.modes)} modes against labels by {check}: "
                f"mean absolute error {found[o]['mae']:.3g} {unit}/({ORDERS[o]}), R2 {found[o]['r2']:.3f}"
                for o in ORDERS
            ]
        _write_modes(out, response, respond, thermal, average, checked)
        record["findings"] = findings
        record |= {"value": response.value, "unit": unit, "shift": float(np.nansum(thermal.shift))}
        record |= {
            "shift_all_orders": _number(thermal.total),
            "shift_all_orders_error": _number(thermal.total_error),
        }
        record |= {"shift_at_reference": _number(response.total)}
        record["models"] = [
            {"value": r.value, "shift": float(np.nansum(t.shift)), "shift_all_orders": _number(t.total)}
            for r, t in zip(respond, average, strict=True)
        ]
        if report is not None:
            from vibronic.report import explained

            ways = modes_of.directions(constants, constants.modes())
            title = f"{constants.supercell.get_chemical_formula('metal')} at {temperature:g} K; {', '.join(folders)}"
            explained.vibrations(
                Path(report), title, response, constants.supercell, ways, thermal, checked, check, findings, config
            )
    for finding in findings:
        say(finding)
    say(f"{len(response.frequencies)} modes: {out}")
    if report is not None:
        say(f"report: {report}")
    return out


ORDERS = {"first": "Angstrom sqrt(amu)", "second": "Angstrom^2 amu"}
"""Derivatives, and what they are divided by."""


def _number(value: float) -> float | None:
    """JSON has no nan."""
    return value if value == value else None


def _numbers(atoms: Atoms) -> Any:
    import torch

    return torch.as_tensor(atoms.numbers)


def _told_of_vibrations(response: Response, thermal: Thermal, averages: Sequence[Thermal], modes: str) -> list[str]:
    """Findings in plain sentences."""
    import numpy as np

    from vibronic.explain.vibrations import by_set

    r, unit = response, response.unit
    told = [modes]
    left = int(np.isnan(r.sigma).sum())
    if left:
        told.append(
            f"{left} modes have no harmonic amplitude: their share of the shift is unknown and left empty, not zero "
            "(--imaginary effective or sscha gives amplitudes)"
        )
    if not thermal.n:
        return told
    summed = float(np.nansum(thermal.shift))
    told.append(
        f"vibrations shift the {r.target} by {thermal.total:+.4g} +/- {thermal.total_error:.2g} {unit} at {r.temperature:g} K (all "
        f"orders, {thermal.n} configurations); the shares of the modes, by how far it follows the amplitude of each, sum to {summed:+.4g} {unit}"
    )
    if len(averages) > 1:
        scatter = float(np.std([one.total for one in averages], ddof=1))
        told.append(
            f"that error is of the configurations alone; the {len(averages)} models scatter by {scatter:.2g} {unit} about their mean"
        )
    sets = by_set(r, thermal)
    largest, restless = sets[0], max(sets, key=lambda one: one.deviation)
    told.append(
        f"the largest share, {largest.shift:+.4g} +/- {largest.shift_error:.2g} {unit}, is that of {_modes(largest)}; "
        f"{_modes(restless)} {'make' if len(restless.modes) > 1 else 'makes'} it fluctuate most, by {restless.deviation:.3g} {unit}"
    )
    bare = r.total
    if np.isnan(bare):
        told.append(
            f"at the symmetric positions the {r.target} has a kink (levels that are degenerate there), so it has no second derivatives; "
            "those averaged over thermal configurations do not need them"
        )
    elif abs(bare - summed) > 0.5 * abs(summed) + 3 * thermal.total_error:
        told.append(
            f"second derivatives at the symmetric positions alone would give {bare:+.4g} {unit}: the model bends there as it does not "
            "at thermal amplitudes, so do not use them"
        )
    return told


def _modes(together: DegenerateSet) -> str:
    n = len(together.modes)
    return f"{f'the {n} modes' if n > 1 else f'mode {together.modes[0]}'} at {together.frequency:.2f} THz"


def _write_modes(
    out: Path,
    response: Response,
    responses: Sequence[Response],
    thermal: Thermal,
    thermals: Sequence[Thermal],
    checked: Differences | None,
) -> None:
    """One row per mode; empty where a number does not exist."""
    import csv

    import numpy as np

    r, unit = response, response.unit
    first, second = (f"{unit}/({of})" for of in ORDERS.values())
    columns: dict[str, np.ndarray] = {
        "mode": np.arange(len(r.frequencies)),
        "frequency [THz]": r.frequencies,
        "set": r.sets,
        "sigma [Angstrom sqrt(amu)]": r.sigma,
        f"derivative [{first}]": r.first,
        f"derivative_per_sigma [{unit}]": r.per_sigma,
        f"second_derivative [{second}]": r.second,
        f"thermal_derivative [{first}]": thermal.first,
        f"thermal_rms_derivative [{first}]": thermal.rms,
        f"thermal_second_derivative [{second}]": thermal.second,
        f"thermal_second_derivative_error [{second}]": thermal.second_error,
        f"shift [{unit}]": thermal.shift,
        f"shift_error [{unit}]": thermal.shift_error,
        f"deviation [{unit}]": thermal.deviation,
    }
    if len(responses) > 1:
        columns[f"spread_derivative [{first}]"] = np.std([one.first for one in responses], axis=0, ddof=1)
        columns[f"spread_shift [{unit}]"] = np.std([one.shift for one in thermals], axis=0, ddof=1)
    if checked is not None:
        shown = {
            f"label_derivative [{first}]": checked.label_first,
            f"checked_derivative [{first}]": checked.first,
            f"label_second_derivative [{second}]": checked.label_second,
            f"checked_second_derivative [{second}]": checked.second,
        }
        for what, values in shown.items():
            columns[what] = np.full(len(r.frequencies), np.nan)
            columns[what][checked.modes] = values
    with writable(out) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            table.writerow([v if isinstance(v, np.integer) else "" if np.isnan(v) else f"{v:.8g}" for v in row])
