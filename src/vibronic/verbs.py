"""The verbs of ``vibronic``: each is one plain function with the same meaning on the command line, in YAML and in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import run_record, writable, write_json
from vibronic.learning.recipe import Training

Setting = str | int | float | bool | list | dict | None




def demo(out: Path = Path("vibronic-demo"), seed: int = 0, workers: int = 2) -> Path:
    """From two crystals to a learned finite-temperature property and a report, in minutes, with nothing downloaded.

    Cubic Ag3SBr (unstable at 0 K) and NaCl (well behaved): relaxation, phonons, training sets from lattice vibrations
    and from random displacements of the same size, a test set from molecular dynamics, labels from SevenNet, networks
    trained on growing parts of both sets; then the same for the band gap of Ag3SBr on DFT labels. Run it again and it
    goes on where it stopped.

    Args:
        out: folder for everything, the report included.
        seed: of the training subsets and networks; a second seed is seed + 1.
        workers: processes, one thread each.

    Returns:
        The report.
    """
    return study("thermal", out=out, seed=seed, workers=workers)


def study(
    name: Literal["thermal"],
    crystals: list[str] | None = None,
    temperature: float = 300.0,
    engine: str = "sevennet",
    supercell: tuple[int, int, int] = (2, 2, 2),
    sizes: list[int] | None = None,
    seeds: int = 2,
    steps: int = 400,
    gap: bool = True,
    out: Path = Path("vibronic-study"),
    seed: int = 0,
    workers: int = 2,
) -> Path:
    """Reproduce one paper's claim: tables, figures and a report.

    thermal: do training sets made from lattice vibrations teach more than random ones of the same size?

      vibronic study thermal --crystals NaCl my_crystal.cif --temperature 300 --sizes 12 24 48 --seeds 3

    Args:
        name: which study.
        crystals: files or names (see 'vibronic data'); Ag3SBr and NaCl where none are given.
        temperature: K.
        engine: labels everything (see 'vibronic doctor').
        supercell: repeats of the crystal's cell.
        sizes: training set sizes; 12, 24, 48 where none are given.
        seeds: how many.
        steps: optimiser steps of every network.
        gap: also compare on the DFT band gaps of Ag3SBr that ship with the package.
        out: folder for everything, the report included.
        seed: the first seed.
        workers: processes, one thread each.

    Returns:
        The report.
    """
    from vibronic.studies import thermal, thermal_report

    wanted = tuple(sizes or (12, 24, 48))
    plan = thermal.Plan(
        crystals=tuple(crystals or ("Ag3SBr", "NaCl")),
        temperature=temperature,
        engine=engine,
        supercell=supercell,
        pool=max(wanted),
        sizes=wanted,
        seeds=tuple(range(seed, seed + seeds)),
        steps=steps,
        gap=gap,
    )
    with run_record(out, f"study {name}", asdict(plan), seed) as record:
        results = thermal.run(plan, out, workers, _say)
        record["models"] = len(results["rows"])
    page = thermal_report.write(out)
    _say(f"report: {page}")
    return page


def sample(
    crystal: str,
    method: Literal["phonons", "rattle", "md"] = "phonons",
    temperature: float = 300.0,
    supercell: tuple[int, int, int] = (2, 2, 2),
    n: int = 100,
    statistics: Literal["quantum", "classical"] = "quantum",
    imaginary: Literal["refuse", "freeze", "effective", "sscha", "cap"] = "refuse",
    engine: str = "sevennet",
    settings: dict[str, Setting] | None = None,
    force_constants: Path | None = None,
    relax: bool = False,
    plus_minus: bool = False,
    min_distance: float | None = None,
    modes: list[int] | None = None,
    distribution: Literal["gaussian", "uniform-positive", "monte-carlo"] = "gaussian",
    amplitude: float | None = None,
    match: Path | None = None,
    per: Literal["overall", "species"] = "overall",
    timestep: float = 2.0,
    equilibration: int = 200,
    interval: int = 20,
    strain: float | None = None,
    substitute: str | None = None,
    vacancies: str | None = None,
    out: Path = Path("sampled.extxyz"),
    seed: int = 0,
) -> Path:
    """Draw many configurations of one crystal: from lattice vibrations, at random, or from molecular dynamics.

      vibronic sample NaCl --temperature 300 --supercell 2 2 2 -n 100 --out hot.extxyz
      vibronic sample Ag3SBr --imaginary effective --temperature 300 -n 100 --out hot.extxyz
      vibronic sample POSCAR --method rattle --match hot.extxyz -n 100 --out random.extxyz

    The crystal is taken as given unless --relax says otherwise.

    Args:
        crystal: CIF, POSCAR, ... or a name (see 'vibronic data').
        method: phonons, rattle (random) or md (Langevin dynamics; keeps its labels).
        temperature: K.
        supercell: repeats of the cell.
        n: configurations.
        statistics: quantum (with zero-point motion) or classical.
        imaginary: what to do about imaginary modes: refuse, freeze them, fit effective force constants to dynamics at
            this temperature, sscha, or cap their frequency.
        engine: computes forces (see 'vibronic doctor').
        settings: of the engine, e.g. --settings.ecut 500.
        force_constants: phonopy.yaml, FORCE_SETS or FORCE_CONSTANTS to use instead of the engine; the crystal and the
            supercell then come from these files.
        relax: relax atoms and cell first, keeping the symmetry.
        plus_minus: phonons: in pairs +u, -u.
        min_distance: Angstrom; configurations with a shorter distance are drawn again.
        modes: phonons: indices of the only modes to displace.
        distribution: rattle: gaussian (mean-free), uniform-positive (the paper's U(0, A)) or monte-carlo.
        amplitude: rattle: rms displacement of an atom (or A), Angstrom.
        match: rattle: a sampled file of the same supercell whose mean-square displacement is matched.
        per: rattle with match: overall, or species by species.
        timestep: md: fs.
        equilibration: md: steps before the first snapshot.
        interval: md: steps between snapshots.
        strain: strain the crystal first, isotropically, e.g. 0.01.
        substitute: on the supercell first, e.g. Br:I:0.5 (half of the Br become I).
        vacancies: in the supercell first, e.g. S:1.
        out: extxyz.
        seed: same seed, same configurations.

    Returns:
        The file written.
    """
    from vibronic.data import sources
    from vibronic.data.dataset import read_structures, write_structures
    from vibronic.labelling import engines
    from vibronic.sampling import checks, disorder, phonons
    from vibronic.sampling import dynamics as md
    from vibronic.sampling import files as phonopy_files
    from vibronic.sampling import rattle as random_displacements
    from vibronic.sampling.relax import relax as relaxed

    config = dict(locals())
    config = {k: v for k, v in config.items() if isinstance(v, (str, int, float, bool, list, tuple, dict, Path, type(None)))}
    if force_constants is not None and (method != "phonons" or substitute or vacancies or strain is not None or relax):
        raise VibronicError("force constants read from files belong to one ideal crystal: use them with --method phonons alone")
    needs_engine = force_constants is None and (method != "rattle" or relax) or imaginary in ("effective", "sscha")
    calculator = engines.engine(engine, **(settings or {})).calculator() if needs_engine else None
    with run_record(out, "sample", config, seed) as record:
        findings: list[str] = []
        atoms = sources.crystal(crystal)
        if not atoms.pbc.all() and method == "phonons":
            raise VibronicError(f"{crystal} is not periodic in three directions; phonons need a crystal")
        atoms.info.setdefault("parent", Path(crystal).stem)
        if strain is not None:
            atoms = disorder.strain(atoms, strain)
        if relax:
            atoms = relaxed(atoms, calculator)
        reference = atoms.repeat(supercell) if atoms.pbc.all() else atoms
        reference.info = {"parent": atoms.info["parent"]}
        if substitute:
            old, new, fraction = _parts(substitute, "--substitute", "Br:I:0.5", 3)
            reference = disorder.substitute(reference, old, new, _number(fraction, "--substitute"), seed)
        if vacancies:
            species, count = _parts(vacancies, "--vacancies", "S:1", 2)
            reference = disorder.vacancies(reference, species, int(_number(count, "--vacancies")), seed)
        sampler: Any
        if method == "phonons":
            if force_constants is not None:
                constants = phonopy_files.read_force_constants(force_constants)
            elif substitute or vacancies:
                constants = phonons.force_constants(reference, (1, 1, 1), calculator)
            else:
                constants = phonons.force_constants(atoms, supercell, calculator)
            constants.supercell.info["parent"] = atoms.info["parent"]
            sampler, said = phonons.prepare_phonons(
                constants, temperature, imaginary, statistics, calculator, plus_minus, min_distance, seed=seed
            )
            if modes:
                sampler = replace(sampler, modes=modes)
            findings += said
            reference = constants.supercell
        elif method == "rattle":
            if (amplitude is None) == (match is None):
                raise VibronicError("rattle needs either --amplitude (Angstrom) or --match (a sampled file)")
            if match is not None:
                sampler = random_displacements.Rattle.matched_to(
                    read_structures(match), reference, per, distribution, min_distance
                )
            else:
                sampler = random_displacements.Rattle(amplitude, distribution, min_distance=min_distance)
        else:
            sampler = md.Dynamics(
                calculator, temperature, timestep, equilibration=equilibration, interval=interval, progress=True
            )
        frames = sampler.sample(reference, n, seed)
        findings += checks.check_snapshots(frames, reference, sampler if method == "phonons" else None)
        write_structures(out, frames)
        record["findings"] = findings
    for finding in findings:
        _say(finding)
    _say(f"{len(frames)} configurations of {len(reference)} atoms: {out}")
    return out


def label(
    structures: str,
    engine: str = "sevennet",
    settings: dict[str, Setting] | None = None,
    executor: Literal["in-process", "local", "dask"] = "local",
    workers: int = 1,
    timeout: float | None = None,
    retry_failed: bool = False,
    ledger: Path | None = None,
    out: Path = Path("labelled.extxyz"),
) -> Path:
    """Compute energy, forces, stress, gap, ... of every structure, crash-safe: nothing is ever computed twice.

      vibronic label hot.extxyz --engine sevennet --workers 2 --out labelled.extxyz
      vibronic label hot.extxyz --engine gpaw --settings.ecut 500 --timeout 3600 --out labelled.extxyz

    Every label is written to the ledger the moment it exists; run the same command again after any accident.

    Args:
        structures: file, folder or name (see 'vibronic data').
        engine: see 'vibronic doctor'; 'files' takes labels that the structures already carry (VASP, QE output).
        settings: of the engine, e.g. --settings.ecut 500.
        executor: in-process, local processes, or dask (LocalCluster).
        workers: processes, one thread each.
        timeout: seconds per structure, after which it is given up and its process replaced.
        retry_failed: try failed structures again.
        ledger: SQLite file; beside --out where none is given.
        out: labelled extxyz, in the order of the input, without the failed ones.

    Returns:
        The file written.
    """
    from vibronic.data import sources
    from vibronic.data.dataset import write_structures
    from vibronic.labelling import engines
    from vibronic.labelling import label as labelling

    config = {"structures": structures, "engine": engine, "settings": settings, "executor": executor, "workers": workers}
    config |= {"timeout": timeout, "retry_failed": retry_failed, "ledger": ledger, "out": out}
    frames = sources.structures(structures)
    ledger = ledger or out.with_suffix(".ledger.sqlite")
    with run_record(out, "label", config) as record:
        report = labelling.label(
            frames,
            engines.engine(engine, **(settings or {})),
            ledger,
            executor=executor,
            workers=workers,
            timeout=timeout,
            retry_failed=retry_failed,
        )
        write_structures(out, report.labelled)
        record |= {"computed": report.computed, "reused": report.reused, "failures": report.failures}
    for index, reason in report.failures:
        _say(f"structure {index} failed: {reason}")
    _say(f"{len(report.labelled)} labelled ({report.computed} computed, {report.reused} from the ledger): {out}")
    return out


def train(
    kind: Literal["painn", "cgcnn", "ridge"],
    data: str,
    targets: list[str] | None = None,
    units: dict[str, str] | None = None,
    validation: str | None = None,
    test: str | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
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
        preset: paper2025, the settings of arXiv 2511.15222's scripts (cgcnn).
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

    from vibronic.core.targets import TARGETS
    from vibronic.data import sources
    from vibronic.data.dataset import GraphData, describe, label_of, split
    from vibronic.learning import store
    from vibronic.learning.prediction import intervals, predict, score

    config = {"kind": kind, "data": data, "targets": targets, "validation": validation, "test": test, "preset": preset}
    config |= {"fractions": fractions, "model": model, "training": asdict(training), "device": device, "devices": devices}
    frames = sources.structures(data)
    if targets is None:
        targets = [t for t in ("energy", "forces", "stress") if label_of(frames[0], t) is not None]
        if kind != "painn":
            targets = [t.replace("stress", "pressure") for t in targets if t != "forces"]
        if not targets:
            raise VibronicError(f"{data} carries no energies; say what to learn with --targets")
    settings: dict[str, Any] = {"targets": targets, "units": units, **(model or {})}
    if preset is not None:
        from vibronic.properties.cgcnn import PAPER2025

        if kind != "cgcnn":
            raise VibronicError(f"the preset {preset} belongs to cgcnn, not {kind}")
        settings = {**PAPER2025["model"], **settings}
        training = Training(**PAPER2025["training"])
    unknown = [t for t in targets if t not in TARGETS and t not in (units or {})]
    if unknown:
        raise VibronicError(f"what is the unit of '{unknown[0]}'? give it with --units.{unknown[0]} UNIT")
    torch.manual_seed(seed)
    network = store.build(kind, **settings)
    shares = [fractions[0], 0.0 if validation else fractions[1], 0.0 if test else fractions[2]]
    parts = iter(split(frames, [s for s in shares if s > 0], seed))
    taken = [[frames[k] for k in next(parts)] if s > 0 else [] for s in shares]
    fitted = taken[0]
    chosen = sources.structures(validation) if validation else taken[1]
    scored = sources.structures(test) if test else taken[2]
    _writable_folder(out)
    with run_record(out, "train", config, seed) as record:
        if kind == "ridge":
            fitted, chosen = [*fitted, *chosen], []  # its penalty is chosen within the training set
            network.fit(GraphData(fitted, network.targets, network.cutoff).batch().to(dtype=torch.float64))
        else:
            from vibronic.learning.training import fit

            graphs = [GraphData(part, network.targets, network.cutoff) for part in (fitted, chosen)]
            record["last"] = fit(
                network, graphs[0], graphs[1] if chosen else None, out, training, seed, device, devices
            )
        card = store.Card(describe(fitted), licence="as the data")
        if scored:
            card.scores, card.units = score(network.targets, predict(network, scored), scored)
        if chosen:
            card.intervals = intervals(network.targets, predict(network, chosen), chosen)
        store.save(network, out, card)
        record["scores"] = card.scores
    for name, value in card.scores.items():
        if name.startswith(("mae", "r2")):
            _say(f"{name.replace('_', ' of ', 1)}: {value:.4g} {card.units[name]} ({len(scored)} unseen structures)")
    _say(f"model: {out}")
    return out


def predict(
    model: str, structures: str, device: str = "cpu", batch_size: int = 16, out: Path = Path("predictions.csv")
) -> Path:
    """Predict properties of structures with a trained model.

      vibronic predict runs/gap hot.extxyz --out predictions.csv

    One row per structure, units in the header, a 90 % interval where the model was calibrated. Forces go to an extxyz
    beside the table.

    Args:
        model: model folder, or the name of a shipped model (see 'vibronic models').
        structures: file, folder or name (see 'vibronic data').
        device: cpu, cuda, ...
        batch_size: structures at once.
        out: CSV.

    Returns:
        The table written.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    from vibronic.data import sources
    from vibronic.data.dataset import write_structures
    from vibronic.learning import prediction, store

    network, card = store.load(model)
    frames = sources.structures(structures)
    with run_record(out, "predict", {"model": model, "structures": structures, "device": device}) as record:
        predicted = prediction.predict(network, frames, batch_size, device)
        prediction.write_predictions(out, network.targets, predicted, frames, card.intervals)
        if "forces" in predicted:
            copies = [atoms.copy() for atoms in frames]
            for k, atoms in enumerate(copies):
                values = {t: predicted[t][k] for t in ("energy", "forces", "stress") if t in predicted}
                values["energy"] = float(values["energy"])
                atoms.calc = SinglePointCalculator(atoms, **values)
            write_structures(out.with_suffix(".extxyz"), copies)
        record["structures"] = len(frames)
    _say(f"{len(frames)} predictions: {out}")
    return out


def explain(
    model: str, structures: str, target: str | None = None, steps: int = 32, out: Path = Path("why.csv")
) -> Path:
    """Which bonds move a prediction: integrated gradients over the presence of every bond.

      vibronic explain runs/gap hot.extxyz --target band_gap --out why.csv

    Attributions are in the target's unit and sum, over the bonds of a structure, to the prediction minus that of the
    same atoms without any bond.

    Args:
        model: model folder or name.
        structures: file, folder or name.
        target: scalar target to explain; the model's first where none is given.
        steps: points of the integral.
        out: CSV, one row per bond.

    Returns:
        The table written.
    """
    import csv

    from rich.progress import track

    from vibronic.data import sources
    from vibronic.explain.attribution import attribute
    from vibronic.learning import store

    network, _ = store.load(model)
    frames = sources.structures(structures)
    target = target or next((t.name for t in network.targets if not t.shape), "")
    unit = next((t.unit for t in network.targets if t.name == target), "")
    totals: dict[str, list[float]] = {}
    with (
        run_record(out, "explain", {"model": model, "structures": structures, "target": target, "steps": steps}) as record,
        writable(out) as temporary,
        temporary.open("w", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["structure", "atom_i", "atom_j", "shift", "bond", "length [Angstrom]", f"attribution [{unit}]"])
        for k, atoms in enumerate(track(frames, "Explaining", transient=True)):
            found = attribute(network, atoms, target, steps)
            for i, j, s, kind, length, value in zip(
                found.i, found.j, found.shift, found.kinds, found.length, found.value, strict=True
            ):
                table.writerow([k, i, j, " ".join(map(str, s)), kind, f"{length:.4f}", f"{value:.6g}"])
                totals.setdefault(str(kind), []).append(abs(float(value)))
        record["mean_absolute_attribution"] = {kind: sum(v) / len(v) for kind, v in totals.items()}
    for kind, values in sorted(totals.items(), key=lambda kv: -sum(kv[1]) / len(kv[1])):
        _say(f"{kind}: mean |attribution| {sum(values) / len(values):.3g} {unit} over {len(values)} bonds")
    _say(f"attributions: {out}")
    return out


def evaluate(
    what: Literal["predictions"], file: Path, reference: str, out: Path = Path("metrics.json")
) -> dict[str, Any]:
    """Score a file of predictions against labels: MAE, RMSE, R2 of every target, every structure counted.

      vibronic evaluate predictions predictions.csv --reference labelled.extxyz --out metrics.json

    Args:
        what: kind of file.
        file: predictions.csv.
        reference: labelled structures, in the same order.
        out: JSON.

    Returns:
        The metrics, with their units under ``units``.
    """
    from vibronic.core.targets import target
    from vibronic.data import sources
    from vibronic.learning.prediction import read_predictions, score

    rows, frames = read_predictions(file), sources.structures(reference)
    if len(rows) != len(frames):
        raise VibronicError(f"{file} has {len(rows)} rows but {reference} has {len(frames)} structures")
    for k, (row, atoms) in enumerate(zip(rows, frames, strict=True)):
        if row.get("formula") != atoms.get_chemical_formula():
            raise VibronicError(f"row {k} is {row.get('formula')} but structure {k} is {atoms.get_chemical_formula()}")
    columns = {}
    for column in rows[0]:
        name, _, unit = column.partition(" [")
        if unit and not name.endswith(("_low", "_high", "_xx", "_yy", "_zz", "_yz", "_xz", "_xy")):
            columns[name] = (column, unit.rstrip("]"))
    try:
        values = {name: [float(row[column]) for row in rows] for name, (column, _) in columns.items()}
    except (TypeError, ValueError) as error:
        raise VibronicError(f"{file} has an entry that is not a number ({error})") from error
    scores, units = score([target(n, unit) for n, (_, unit) in columns.items()], values, frames)
    metrics = {**scores, "units": units}
    with run_record(out, "evaluate", {"what": what, "file": file, "reference": reference}):
        write_json(out, metrics)
    for name, value in scores.items():
        _say(f"{name}: {value:.5g} {units[name]}")
    return metrics


def report(run: Path) -> Path:
    """Write the HTML report of a study again from its folder, without computing anything.

    Args:
        run: folder of 'vibronic demo' or 'vibronic study thermal'.

    Returns:
        The page.
    """
    from vibronic.studies import thermal_report

    page = thermal_report.write(run)
    _say(f"report: {page}")
    return page


def models() -> list[str]:
    """List the kinds of model and the models that ship with the package."""
    from vibronic.learning import store

    for kind, (module, name) in store.MODELS.items():
        _say(f"{kind:10s} {module}.{name}")
    names = store.shipped()
    _say("shipped: " + (", ".join(names) if names else "none yet; train one with 'vibronic train'"))
    return names


def data(name: str | None = None, out: Path | None = None) -> None:
    """List the named data sets, or describe one and write it to a file.

      vibronic data
      vibronic data Ag3SBr-pbe --out gaps.extxyz

    Args:
        name: of a set; a file works too.
        out: where to write it.
    """
    from vibronic.data import sources
    from vibronic.data.dataset import describe, write_structures

    if name is None:
        for key, source in sources.SOURCES.items():
            there = "" if sources.available(key) else "  (set VIBRONIC_DATA)"
            _say(f"{key:14s} {source.summary} [{source.licence}]{there}")
        return
    frames = sources.structures(name)
    for key, value in describe(frames).items():
        _say(f"{key}: {value}")
    if out is not None:
        write_structures(out, frames)
        _say(f"written: {out}")


def doctor() -> list[dict[str, Any]]:
    """Say which engines work here, and the exact commands that install the others."""
    from vibronic.labelling import engines

    found = engines.doctor()
    for row in found:
        if row["works"]:
            _say(f"{row['name']:10s} works ({row.get('version', '')}, {row.get('seconds', 0):.1f} s)")
        else:
            _say(f"{row['name']:10s} not here: {row.get('reason', '')}\n{row.get('install', '')}")
    return found


def _say(text: str) -> None:
    print(text, flush=True)


def _parts(text: str, option: str, example: str, count: int) -> list[str]:
    parts = text.split(":")
    if len(parts) != count:
        raise VibronicError(f"{option} looks like {example}, not '{text}'")
    return parts


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise VibronicError(f"{option}: '{text}' is not a number") from error


def _writable_folder(out: Path) -> None:
    """Fail before the work, not after it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with writable(out / ".probe") as temporary:
            temporary.touch()
        (out / ".probe").unlink()
    except OSError as error:
        raise VibronicError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from error


VERBS: tuple[Callable[..., Any], ...] = (
    demo, sample, label, train, predict, explain, evaluate, study, report, models, data, doctor,
)  # fmt: skip
"""In the order in which a user meets them."""
