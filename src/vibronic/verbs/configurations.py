"""Verbs about structures: drawing configurations, labelling them, named sets."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vibronic.core.errors import VibronicError
from vibronic.core.provenance import check_paths, run_record
from vibronic.verbs.common import Setting, say

if TYPE_CHECKING:
    from ase import Atoms

    from vibronic.sampling.harmonic import ForceConstants
    from vibronic.sampling.rattle import Rattle


def sample(
    crystal: str,
    method: Literal["phonons", "rattle", "md"] = "phonons",
    temperature: float = 300.0,
    supercell: tuple[int, int, int] = (2, 2, 2),
    n: int = 100,
    statistics: Literal["quantum", "classical"] = "quantum",
    imaginary: Literal["refuse", "freeze", "effective", "sscha", "cap"] = "refuse",
    cap_frequency: float = 0.3,
    snapshots: int = 40,
    engine: str = "sevennet",
    settings: dict[str, Setting] | None = None,
    displacement: float = 0.01,
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
    friction: float = 0.02,
    equilibration: int = 200,
    interval: int = 20,
    strain: float | None = None,
    substitute: str | None = None,
    vacancies: str | None = None,
    arrangements: int = 1,
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
        cap_frequency: THz; cap, and what effective or sscha leave too soft: no mode counts with less.
        snapshots: effective: of the dynamics, sscha: configurations of an iteration.
        engine: computes forces (see 'vibronic doctor').
        settings: of the engine, e.g. --settings.ecut 500.
        displacement: phonons: of an atom in the calculations behind the force constants, Angstrom.
        force_constants: phonopy.yaml, FORCE_SETS or FORCE_CONSTANTS to use instead of the engine; the crystal and the
            supercell then come from these files.
        relax: relax atoms and cell first, keeping the symmetry; after strain, substitution or vacancies the atoms again.
        plus_minus: phonons: in pairs +u, -u.
        min_distance: Angstrom; configurations with a shorter distance are drawn again.
        modes: phonons: indices of the only modes to displace.
        distribution: rattle: gaussian (mean-free), uniform-positive (the paper's U(0, A)) or monte-carlo.
        amplitude: rattle: rms displacement of an atom (or A), Angstrom.
        match: rattle: a sampled file of the same supercell whose mean-square displacement is matched.
        per: rattle with match: overall, or species by species.
        timestep: md: fs.
        friction: md: 1/fs.
        equilibration: md: steps before the first snapshot.
        interval: md: steps between snapshots.
        strain: strain the crystal (relaxed or not) first, isotropically, e.g. 0.01.
        substitute: on the supercell first, e.g. Br:I:0.5 (half of the Br become I).
        vacancies: in the supercell first, e.g. S:1.
        arrangements: of the substituted atoms or vacancies, drawn with seed, seed + 1, ...; they share the n
            configurations.
        out: extxyz.
        seed: same seed, same configurations.

    Returns:
        The file written.
    """
    config = dict(locals())
    from vibronic.data import sources
    from vibronic.data.dataset import write_structures
    from vibronic.labelling import engines
    from vibronic.sampling import anharmonic, checks, disorder
    from vibronic.sampling import dynamics as md
    from vibronic.sampling.relax import relax as relaxed

    if force_constants is not None and (method != "phonons" or substitute or vacancies or strain is not None or relax):
        raise VibronicError(
            "force constants from files belong to one ideal crystal: use them with --method phonons alone"
        )
    _check_options(config)
    shares = _shares(n, arrangements, bool(substitute or vacancies), plus_minus)
    needs_engine = (force_constants is None and (method != "rattle" or relax)) or imaginary in ("effective", "sscha")
    calculator: Any = engines.engine(engine, **(settings or {})).calculator() if needs_engine else None
    with run_record(out, "sample", config, seed, reads=[crystal, match, force_constants]) as record:
        atoms = sources.crystal(crystal)
        if not atoms.pbc.all() and method == "phonons":
            raise VibronicError(f"{crystal} is not periodic in three directions; phonons need a crystal")
        atoms.info.setdefault("parent", Path(crystal).stem)
        findings: list[str] = []
        if relax:
            before, atoms = atoms, relaxed(atoms, calculator)
            if atoms.pbc.all():
                change = 100 * (atoms.get_volume() / before.get_volume() - 1)
                lengths = ", ".join(f"{length:.4f}" for length in atoms.cell.lengths())
                findings.append(f"Relaxed: a, b, c are {lengths} Angstrom, the volume changed by {change:+.2f} %.")
        if strain is not None:
            atoms = disorder.strain(atoms, strain)
            atoms = relaxed(atoms, calculator, cell=False) if relax else atoms
        frames: list[Atoms] = []
        for k, share in enumerate(shares):
            said: list[str] = []
            reference = _supercell(atoms, supercell, substitute, vacancies, seed + k)
            if arrangements > 1:
                reference.info["parent"] += f", arrangement {k}"
            if relax and (substitute or vacancies):
                reference = relaxed(reference, calculator, cell=False)
            sampler: Any
            if method == "phonons":
                ideal = None if substitute or vacancies else (atoms, supercell)
                constants = _force_constants(reference, ideal, calculator, displacement, force_constants)
                sampler, said = anharmonic.prepare_phonons(
                    constants,
                    temperature,
                    imaginary,
                    statistics,
                    calculator,
                    plus_minus,
                    min_distance,
                    cap_frequency,
                    snapshots,
                    seed + k,
                )
                sampler = replace(sampler, modes=modes) if modes else sampler
                reference = constants.supercell
            elif method == "rattle":
                sampler = _rattle(reference, amplitude, match, per, distribution, min_distance)
            else:
                sampler = md.Dynamics(
                    calculator, temperature, timestep, friction, equilibration, interval, progress=True
                )
            drawn = sampler.sample(reference, share, seed + k)
            said += checks.check_snapshots(drawn, reference, sampler if method == "phonons" else None)
            findings += [f"Arrangement {k}: {finding}" if arrangements > 1 else finding for finding in said]
            frames += drawn
        findings += checks.check_supercell(reference)
        write_structures(out, frames)
        record["findings"] = findings
    for finding in findings:
        say(finding)
    say(f"{len(frames)} configurations of {len(reference)} atoms: {out}")
    return out


def _check_options(config: dict[str, Any]) -> None:
    """Refuse what the chosen method, remedy or file would ignore."""
    phonons, rattle, md = (config["method"] == m for m in ("phonons", "rattle", "md"))
    fitted = config["imaginary"] in ("effective", "sscha")
    useful = {
        "--method phonons": (phonons, ["statistics", "imaginary", "force_constants", "plus_minus", "modes"]),
        "--method rattle": (rattle, ["distribution", "amplitude", "match"]),
        "--method md": (md, ["timestep", "friction", "equilibration", "interval"]),
        "--method phonons or rattle": (phonons or rattle, ["min_distance"]),
        "--method phonons or md": (phonons or md, ["temperature"]),
        "--imaginary effective or sscha": (phonons and fitted, ["snapshots"]),
        "--imaginary cap, effective or sscha": (
            phonons and (fitted or config["imaginary"] == "cap"),
            ["cap_frequency"],
        ),
        "force constants that are computed": (phonons and config["force_constants"] is None, ["displacement"]),
        "--match": (config["match"] is not None, ["per"]),
    }
    defaults = inspect.signature(sample).parameters
    for what, (serves, names) in useful.items():
        for name in names:
            if not serves and config[name] != defaults[name].default:
                raise VibronicError(f"--{name} is for {what}: leave it out, or change that")


def _shares(n: int, arrangements: int, disordered: bool, plus_minus: bool) -> list[int]:
    """How many of ``n`` configurations each arrangement gets: as evenly as whole pairs +u, -u allow."""
    if arrangements == 1:
        return [n]
    unit = 2 if plus_minus else 1
    if arrangements < 1 or not disordered:
        raise VibronicError(
            f"--arrangements {arrangements} needs --substitute or --vacancies, and a number of at least 1: it is how "
            "often these are drawn anew"
        )
    if n % unit or n < unit * arrangements:
        raise VibronicError(
            f"{arrangements} arrangements cannot share {n} configurations{' in pairs +u, -u' if plus_minus else ''}; "
            "ask for more of them with -n"
        )
    each, left = divmod(n // unit, arrangements)
    return [unit * (each + (k < left)) for k in range(arrangements)]


def _supercell(
    atoms: Atoms, supercell: tuple[int, int, int], substitute: str | None, vacancies: str | None, seed: int
) -> Atoms:
    """The supercell to sample, with its substituted atoms and vacancies.

    In phonopy's order of atoms for every method, so that sets of different methods can be compared atom by atom.
    """
    from vibronic.sampling import disorder
    from vibronic.sampling.harmonic import repeat

    reference = repeat(atoms, supercell) if atoms.pbc.all() else atoms.copy()
    reference.info = {"parent": atoms.info["parent"]}
    if substitute:
        old, new, fraction = _parts(substitute, "--substitute", "Br:I:0.5", 3)
        reference = disorder.substitute(reference, old, new, _number(fraction, "--substitute"), seed)
    if vacancies:
        species, count = _parts(vacancies, "--vacancies", "S:1", 2)
        number = _number(count, "--vacancies")
        if number != int(number):
            raise VibronicError(f"--vacancies removes whole atoms, not {count}")
        reference = disorder.vacancies(reference, species, int(number), seed)
    return reference


def _force_constants(
    reference: Atoms,
    ideal: tuple[Atoms, tuple[int, int, int]] | None,
    calculator: Any,
    displacement: float,
    path: Path | None,
) -> ForceConstants:
    """Force constants from files, or of the supercell ``reference``: fewer calculations if it repeats a unit cell."""
    from vibronic.sampling import phonons

    if path is not None:
        constants = phonons.read_force_constants(path)
    else:
        unitcell, repeats = ideal or (reference, (1, 1, 1))
        constants = phonons.force_constants(unitcell, repeats, calculator, displacement)
    constants.supercell.info["parent"] = reference.info["parent"]
    return constants


def _rattle(
    reference: Atoms,
    amplitude: float | None,
    match: Path | None,
    per: Literal["overall", "species"],
    distribution: Literal["gaussian", "uniform-positive", "monte-carlo"],
    min_distance: float | None,
) -> Rattle:
    """Random displacements of an amplitude that is given, or that of the sampled file ``match``."""
    from vibronic.data.dataset import read_structures
    from vibronic.sampling.rattle import Rattle

    if (amplitude is None) == (match is None):
        raise VibronicError("rattle needs either --amplitude (Angstrom) or --match (a sampled file)")
    if amplitude is not None:
        return Rattle(amplitude, distribution, min_distance=min_distance)
    frames = read_structures(str(match))
    # A file of several arrangements says which of them each configuration belongs to.
    same = [frame for frame in frames if frame.info.get("parent") == reference.info["parent"]]
    return Rattle.matched_to(same or frames, reference, per, distribution, min_distance)


def label(
    structures: str,
    engine: str = "sevennet",
    settings: dict[str, Setting] | None = None,
    properties: list[str] | None = None,
    executor: str = "local",
    workers: int = 1,
    timeout: float | None = None,
    retry_failed: bool = False,
    ledger: Path | None = None,
    out: Path = Path("labelled.extxyz"),
) -> Path:
    """Compute energy, forces, stress, gap, ... of every structure, crash-safe and resumable.

      vibronic label hot.extxyz --engine sevennet --workers 2 --out labelled.extxyz
      vibronic label hot.extxyz --engine gpaw --settings.ecut 500 --timeout 3600 --out labelled.extxyz
      vibronic label molecules.extxyz --engine pyscf --properties energy density_matrix --out densities.extxyz

    Every label is written to the ledger the moment it exists; run the same command again after any accident. What is in
    the ledger is not computed again; two commands at the same time do not see what the other is computing.

    Args:
        structures: file, folder or name (see 'vibronic data').
        engine: see 'vibronic doctor'; 'files' takes labels that the structures already carry (VASP, QE output).
        settings: of the engine, e.g. --settings.ecut 500.
        properties: labels by name; all that the engine gives, except density_matrix and eigenvalues, where none are named.
        executor: in-process, local (processes), dask (a cluster on this machine), or the address of a Dask scheduler.
        workers: processes, one thread each; at an address: how many of its workers to keep busy.
        timeout: seconds per structure, after which it is given up and its process replaced; for the start of the engine
            a minute at least.
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

    config: dict[str, Any] = {
        "structures": structures,
        "engine": engine,
        "settings": settings,
        "properties": properties,
        "executor": executor,
        "workers": workers,
    }
    config |= {"timeout": timeout, "retry_failed": retry_failed, "ledger": ledger, "out": out}
    frames = sources.structures(structures)
    ledger = ledger or out.with_suffix(".ledger.sqlite")
    with run_record(out, "label", config, reads=[structures], writes=[ledger]) as record:
        report = labelling.label(
            frames,
            engines.engine(engine, **(settings or {})),
            ledger,
            executor=executor,
            workers=workers,
            timeout=timeout,
            retry_failed=retry_failed,
            properties=properties,
        )
        write_structures(out, report.labelled)
        record |= {"computed": report.computed, "reused": report.reused, "failures": report.failures}
    for index, reason in report.failures:
        say(f"structure {index} failed: {reason}")
    equal = len(frames) - report.computed - report.reused
    how = f"{report.computed} computed, {report.reused} from the ledger" + (
        f", {equal} equal to others" if equal else ""
    )
    how = "with what the structures carried" if engine == "files" else how
    say(f"{len(report.labelled)} labelled ({how}): {out}")
    return out


def data(name: str | None = None, out: Path | None = None, download: bool = False) -> None:
    """List the named data sets, or describe one and write it to a file.

      vibronic data
      vibronic data Ag3SBr-pbe --out gaps.extxyz
      vibronic data perov-5 --download

    Nothing is fetched without --download.

    Args:
        name: of a set; a file works too.
        out: where to write it.
        download: fetch the official files of a set of crystals that are not here, and check them.
    """
    from vibronic.data import cdvae, sources
    from vibronic.data.dataset import describe, label_of, write_structures

    official = sources.SOURCES[name].crystals if name in sources.SOURCES else None
    if download and official is None:
        named = [key for key, source in sources.SOURCES.items() if source.crystals]
        raise VibronicError(f"--download is for the sets of crystals: {', '.join(named)}")
    if name is None:
        for key, source in sources.SOURCES.items():
            missing = sources.missing(key)
            say(f"{key:15s} {source.summary} [{source.licence}]" + (f"  ({missing})" if missing else ""))
        return
    if out is not None:
        check_paths([name], [out])
    if official is not None:
        for file in cdvae.download(*official) if download else ():
            say(f"fetched: {file}")
    frames = sources.structures(name)
    known = {n: unit for n, unit in sources.units(name).items() if label_of(frames[0], n) is not None}
    told = dict(describe(frames))
    told["labels"] = {**known, **told["labels"]}  # type: ignore[dict-item]
    for key, value in told.items():
        say(f"{key}: {value}")
    for line in cdvae.described(*official) if official is not None else ():
        say(line)
    if out is not None:
        write_structures(out, frames)
        say(f"written: {out}")


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
