"""The verb ``generate``: new crystals from a model; and what ``train`` shows of a model that makes them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vibronic import __version__
from vibronic.core.errors import VibronicError
from vibronic.core.provenance import run_record, writable, write_json
from vibronic.verbs.common import say

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from vibronic.core.model import Model
    from vibronic.crystals.candidates import Keep, Request
    from vibronic.crystals.generator import CrystalGenerator
    from vibronic.crystals.sampler import Generated


def generate(
    model: str,
    n: int = 64,
    condition: list[str] | None = None,
    best: str | None = None,
    composition: str | None = None,
    system: list[str] | None = None,
    atoms: int | None = None,
    spacegroup: int = 0,
    free: bool = False,
    guidance: float | None = None,
    evaluations: int | None = None,
    tolerance: float | None = None,
    keep: Literal["new", "valid", "all"] = "new",
    choice: int = 1,
    relax: str | None = None,
    cifs: Path | None = None,
    device: str = "auto",
    out: Path = Path("generated.extxyz"),
    seed: int = 0,
) -> Path:
    """Make new crystals, with wanted properties if you like.

      vibronic generate crystals-perov5 -n 64 --condition heat_ref=-0.3 --seed 7 --out new.extxyz
      vibronic generate crystals-perov5 -n 64 --best heat_ref --cifs new_cifs
      vibronic generate crystals-mp20 -n 16 --condition '1<band_gap<3' 'formation_energy_per_atom<-1' --system Ba Ti O
      vibronic generate crystals-mp20 -n 8 --composition Sr2Ti2O6 --relax sevennet

    One frame per crystal, with what was asked for, the model's own estimate of it, and whether the crystal is valid, the
    first of its kind and new to the training set. A table with the same beside it (here new.csv), and the counts of all
    candidates, CPU seconds and evaluations (new.json).

    Args:
        model: model folder, or the name of a shipped model (see 'vibronic models').
        n: crystals to deliver.
        condition: NAME=VALUE, 'NAME<VALUE', 'NAME>VALUE' or 'VALUE<NAME<VALUE', one for each property.
        best: property of which the lowest 5 % of the training set are wanted, or NAME:highest.
        composition: formula of a whole cell, whose structure is to be found: SrTiO3, or Sr2Ti2O6 for two formula units.
        system: elements that every crystal must hold, and no others.
        atoms: in a cell.
        spacegroup: international number that crystals must have.
        free: place atoms freely. Else each crystal has the symmetry and the sites of a training crystal, and elements, lattice and
            what coordinates these leave open are new.
        guidance: 1 takes conditions as learned, more exaggerates them; what suits the model where none is given.
        evaluations: of the network for each crystal; more are slower and finer.
        tolerance: Angstrom within which crystals are made exactly symmetric, 0 to leave them as they come; what suits the model
            where none is given.
        keep: new (valid, once each, not in the training set), valid, or all candidates as they come.
        choice: crystals worth keeping from which each one delivered is chosen, by the model's own estimate of what was asked
            for (values and --best); 1 takes them as they come, in which guidance has chosen already. No choice with --keep all.
        relax: engine that relaxes positions and cell of every crystal (see 'vibronic doctor'); validity, novelty, space group and
            estimates are then of the relaxed crystal, which may be a known one.
        cifs: folder for a CIF of every crystal; those of an earlier run with the same seed are replaced.
        device: auto, cpu, cuda, ...
        out: file, extxyz.
        seed: of the draws; the same command with the same seed gives the same crystals.

    Returns:
        The crystals written.
    """
    import time

    from vibronic.crystals import stability
    from vibronic.crystals.generator import CrystalGenerator
    from vibronic.crystals.sampler import judge
    from vibronic.data.dataset import write_structures
    from vibronic.labelling.engines import engine
    from vibronic.learning import store

    if out.suffix not in (".extxyz", ".xyz") or out.is_dir():
        raise VibronicError(f"--out is an extxyz file (new.extxyz), not {out}; CIFs go into the folder of --cifs")
    if cifs is not None and cifs.exists() and not cifs.is_dir():
        raise VibronicError(f"--cifs is a folder, and {cifs} is a file")
    network, card = store.load(model)
    network = _on(network, device)
    if not isinstance(network, CrystalGenerator):
        raise VibronicError(f"{model} is a {network.kind}, which predicts and makes no crystals; see 'vibronic models'")
    request = _request(
        network,
        condition,
        best,
        composition,
        system,
        atoms,
        spacegroup,
        free,
        guidance,
        evaluations,
        tolerance,
        keep,
        choice,
    )
    calculator = engine(relax).calculator() if relax is not None else None
    table, counts = out.with_suffix(".csv"), out.with_suffix(".json")
    config = {"model": model, "n": n, **asdict(request), "relax": relax, "device": device}
    config["conditions"] = condition
    reads = [Path(model) / name for name in ("config.json", "model.safetensors")]
    with run_record(
        out, "generate", config, seed, reads=reads, writes=[table, counts, *([cifs] if cifs else [])]
    ) as record:
        start = time.perf_counter()
        first = [f"{model}: {request.evaluations} evaluations for each candidate"]
        first += [f"{out} is there already and will be replaced"] if out.exists() else []
        made = _sampled(network, request, n, seed, first)
        for remark in made.remarks:
            say(remark)
        if not made.crystals:
            raise VibronicError(_nothing(made))
        crystals = made.crystals
        units = {t.name: t.unit for t in network.targets}
        for crystal in crystals:
            crystal.info["units"] = ", ".join(f"{name}: {unit}" for name, unit in units.items())
        if calculator is not None:
            crystals = _relaxed(crystals, calculator, f"{relax}")
            judge(network, request, crystals)
            fresh = sum(a.info["valid"] and a.info["unique"] and a.info["novel"] for a in crystals)
            say(f"{fresh} of {len(crystals)} are valid, different and new as they are now")
            units |= stability.UNITS
        write_structures(out, crystals)
        _write_table(table, crystals, units)
        if cifs is not None:
            _write_cifs(cifs, crystals, seed, f"made by Vibronic {__version__}, {model}, --seed {seed}")
        record |= {
            "counts": {**made.counts, "delivered": len(crystals)},
            "passed": made.passed,
            "evaluations_per_crystal": request.evaluations,
            "sampling_cpu_seconds": made.seconds["sampling"],
            "checking_cpu_seconds": made.seconds["checking"],
            "wall_seconds": time.perf_counter() - start,
            "units": units,
        }
        write_json(counts, record)
    further = [f", {count} of these {what}" for what, count in made.passed.items() if what not in ("valid", "new")]
    say(
        f"{len(crystals)} crystals: {out} ({made.counts['candidates']} candidates: {made.counts['valid']} valid, "
        f"{made.counts['unique']} of these different, {made.counts['novel']} of these new{''.join(further)}; "
        f"{made.seconds['sampling']:.1f} s of sampling, {made.seconds['checking']:.1f} s of checking)"
    )
    for line in _answers(network, request, crystals):
        say(line)
    if card.only:
        say(card.only)
    return out


def _sampled(network: CrystalGenerator, request: Request, n: int, seed: int, first: list[str]) -> Generated:
    """Crystals, with a bar where somebody looks; ``first`` is said once the request is accepted."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    from vibronic.crystals.sampler import generate as sample

    console = Console(stderr=True)
    columns = TextColumn("Generating: {task.fields[there]} of " + f"{n} crystals, " + "{task.completed:.0f} candidates")
    with Progress(columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Generating", total=None, there=0)

        def delivered(there: int) -> None:
            while first:
                say(first.pop(0))
            bar.update(task, there=there)

        return sample(network, request, n, seed, partial(bar.advance, task), delivered)


def _nothing(made: Generated) -> str:
    """Why there is no crystal: the first wish that none of the candidates met."""
    ways = [f"{count} {what}" for what, count in made.passed.items() if count]
    failed = next(what for what, count in made.passed.items() if not count)
    there = f"{', '.join(ways)}, " if ways else ""
    return (
        f"none of {made.counts['candidates']} candidates is worth keeping ({there}none {failed}); ask for something else, "
        "or see them all with --keep all"
    )


def _answers(network: CrystalGenerator, request: Request, crystals: Sequence[Atoms]) -> list[str]:
    """How far the crystals came towards what was asked for, a sentence for each property."""
    from statistics import median

    lines = []
    for target in network.targets:
        there = [a.info for a in crystals if f"{target.name}_asked" in a.info and f"{target.name}_estimate" in a.info]
        if not there:
            continue
        asked, values = there[0][f"{target.name}_asked"], [info[f"{target.name}_estimate"] for info in there]
        unit = f" {target.unit}" if target.unit != "1" else ""
        line = f"{target.name}: asked {asked}{unit}, the model's own estimates {min(values):.3f} to {max(values):.3f}"
        if isinstance(asked, float):
            wish = next((c for c in request.conditions if c.name == target.name), None)
            nearest = wish.seen(network.memory.column(wish.name)).value if wish else asked
            of = "" if nearest == asked else f" of {nearest:.4g}, the nearest that was learned"
            line += f", half of them within {median(abs(v - nearest) for v in values):.3f}{of}"
            if request.choice == 1 and request.keep != "all":
                line += " (--choice 4 takes the nearest of four times as many)"
        lines.append(line)
    return lines


def show(network: Model, folder: Path, seed: int) -> None:
    """Samples of a generator that was just trained, their counts, and the page about it, in its folder.

    The model is saved by then: whatever fails here is said, and costs the page, not the training.
    """
    from vibronic.crystals.generator import CrystalGenerator
    from vibronic.crystals.showcase import showcase
    from vibronic.data.dataset import write_structures
    from vibronic.report import generated

    if not isinstance(network, CrystalGenerator):
        return
    for stale in ("samples.json", "samples.extxyz"):  # of an earlier training
        (folder / stale).unlink(missing_ok=True)
    try:
        say("sampling crystals for the report")
        crystals, about = showcase(network, seed)
        write_structures(folder / "samples.extxyz", crystals)
        write_json(folder / "samples.json", about)
        page = generated.write(folder)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        say(f"no report, the model is complete: {reason}")
        return
    shares = about["metrics"]
    say(
        f"of {shares['n']} samples {shares['valid']:.0%} valid, {shares['valid_unique_novel']:.0%} valid, unique and new"
    )
    if generated.rough(about):
        say(generated.ROUGH)
    say(f"report: {page}")


def _on(network: Model, device: str) -> Model:
    """The model on a device.

    Raises:
        VibronicError: there is no such device.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return network.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise VibronicError(f"cannot use device '{device}' here; auto takes what there is") from error


def _request(
    network: CrystalGenerator,
    condition: list[str] | None,
    best: str | None,
    composition: str | None,
    system: list[str] | None,
    atoms: int | None,
    spacegroup: int,
    free: bool,
    guidance: float | None,
    evaluations: int | None,
    tolerance: float | None,
    keep: Keep,
    choice: int,
) -> Request:
    """What was typed, as the sampler takes it."""
    from vibronic.crystals.candidates import Request
    from vibronic.crystals.conditioning import SPACE_GROUPS, Condition

    name, _, direction = (best or "").partition(":")
    if direction not in ("", "lowest", "highest"):
        raise VibronicError(f"--best is NAME, NAME:lowest or NAME:highest, not {best}")
    if not 0 <= spacegroup <= SPACE_GROUPS:
        raise VibronicError(f"--spacegroup is an international number from 1 to {SPACE_GROUPS}, not {spacegroup}")
    return Request(
        conditions=tuple(Condition.parse(text) for text in condition or ()),
        best=name or None,
        highest=direction == "highest",
        composition=composition,
        system=tuple(symbol for part in system or () for symbol in part.split("-")),
        n_atoms=atoms,
        spacegroup=spacegroup,
        free=free,
        guidance=network.guidance if guidance is None else guidance,
        evaluations=network.evaluations if evaluations is None else evaluations,
        tolerance=network.tolerance if tolerance is None else tolerance,
        keep=keep,
        choice=choice,
    )


def _relaxed(crystals: Sequence[Atoms], calculator: Calculator, engine: str) -> list[Atoms]:
    """Crystals relaxed by an engine, what came of it in ``info``; those that fail stay as they are and say why."""
    from statistics import mean

    from vibronic.crystals.stability import relaxed

    found = relaxed(crystals, calculator)
    for atoms, row in found:
        atoms.info |= {name: value for name, value in row.items() if value is not None}
    moved = [row for _, row in found if row["relax_error"] is None]
    line = f"relaxed by {engine}: {sum(row['relax_converged'] for row in moved)} of {len(found)} converged"
    if len(moved) < len(found):
        line += f", {len(found) - len(moved)} failed and are left as they were (relax_error says why)"
    if moved:
        gain = mean(row["energy_before"] - row["energy_after"] for row in moved)
        line += f"; on average {gain:.3f} eV/atom and {mean(row['relax_rmsd'] for row in moved):.2f} Angstrom"
    say(line)
    return [atoms for atoms, _ in found]


def _write_table(path: Path, crystals: Sequence[Atoms], units: Mapping[str, str]) -> None:
    """CSV of what the crystals carry, units in the header."""
    rows = [{"formula": a.get_chemical_formula("metal"), "n_atoms": len(a), **a.info, **_sizes(a)} for a in crystals]
    units = {"volume_per_atom": "Angstrom^3", "shortest_distance": "Angstrom", **units}
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "units"]
    of = {name: units.get(name.removesuffix("_asked").removesuffix("_estimate"), "1") for name in names}
    with writable(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([name if of[name] == "1" else f"{name} [{of[name]}]" for name in names])
        for row in rows:
            values = (row.get(name, "") for name in names)
            table.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])


def _sizes(atoms: Atoms) -> dict[str, float]:
    """What shows at once whether a crystal is squeezed or blown up; nothing of what is none."""
    from vibronic.crystals.validity import structural_validity
    from vibronic.sampling.sampler import shortest_pair

    if not structural_validity(atoms):
        return {}
    return {"volume_per_atom": atoms.get_volume() / len(atoms), "shortest_distance": shortest_pair(atoms)[0]}


def _write_cifs(folder: Path, crystals: Sequence[Atoms], seed: int, origin: str) -> None:
    """A CIF of each crystal, all atoms of a cell listed; where it came from and what its ``info`` says as comments at the top."""
    from ase.io import write

    for stale in folder.glob(f"{seed}-*.cif"):
        stale.unlink()
    for atoms in crystals:
        with writable(folder / f"{atoms.info['id']}-{atoms.get_chemical_formula('metal')}.cif") as temporary:
            write(temporary, atoms, format="cif")
            told = [origin, *(f"{name}: {value}" for name, value in atoms.info.items())]
            lines = [" ".join(line.split()) for line in told]
            temporary.write_text("".join(f"# {line}\n" for line in lines) + temporary.read_text())
