"""The verb ``explain``: trained models, by the bonds that move their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vibronic.core.errors import VibronicError, located
from vibronic.core.progress import track
from vibronic.core.provenance import run_record, writable
from vibronic.verbs.common import say
from vibronic.verbs.learning import _files

if TYPE_CHECKING:
    from ase import Atoms

    from vibronic.core.model import Model
    from vibronic.explain.attribution import Attribution
    from vibronic.explain.fidelity import Fidelity

TESTED = 8
"""Structures, evenly spaced, on which fidelity is measured: each costs hundreds of predictions."""


def explain(
    model: str,
    structures: str,
    target: str | None = None,
    more: list[str] | None = None,
    by: Literal["bonds", "atoms"] = "bonds",
    steps: int = 32,
    fidelity: bool = False,
    report: Path | None = None,
    out: Path = Path("why.csv"),
    seed: int = 0,
) -> Path:
    """Which bonds or atoms move a prediction: integrated gradients over the presence of every bond.

      vibronic explain runs/gap hot.extxyz --target band_gap --out why.csv
      vibronic explain runs/a hot.extxyz --more runs/b runs/c --by atoms
      vibronic explain runs/a hot.extxyz --more runs/b runs/c --fidelity --report why.html

    Attributions are in the target's unit and sum, over the bonds of a structure, to the prediction minus that of the
    same atoms without any bond. Both are printed, with the error of that sum, and which kind of bond matters most.
    Fidelity is how much more the prediction changes without the bonds of largest attribution than without random ones of
    equal number and length, and than without those that untrained models name.

    Args:
        model: model folder or name.
        structures: file, folder or name.
        target: scalar target to explain; the model's first where none is given.
        more: models of other seeds, to average over; their standard deviation becomes a column.
        by: a row per bond, or per atom (half of each bond to each of its ends).
        steps: points of the integral.
        fidelity: measure it, on up to 8 of the structures.
        report: page with bonds coloured in 3D, the kinds of bonds, and fidelity, e.g. why.html.
        out: CSV, one row per bond or atom.
        seed: of the random bonds and the untrained models.

    Returns:
        The table written.
    """
    import csv

    import numpy as np

    from vibronic.data import sources
    from vibronic.explain.attribution import attribute, average
    from vibronic.explain.summary import leading, shares
    from vibronic.learning import store

    folders = [model, *(more or [])]
    networks = [store.load(folder)[0] for folder in folders]
    frames = sources.structures(structures)
    target, unit = _explained(folders, networks, target)
    totals: dict[str, list[float]] = {}
    sums: dict[str, list[float]] = {"all_bonds": [], "no_bonds": [], "completeness_error": []}
    config: dict[str, Any] = {
        "model": model,
        "structures": structures,
        "target": target,
        "more": more,
        "by": by,
        "steps": steps,
    }
    config |= {"fidelity": fidelity, "report": report}
    pages = [] if report is None else [Path(report)]
    every: list[list[Attribution]] = [[] for _ in networks]
    means: list[Attribution] = []
    reads: list[Path | str] = [structures, *(file for folder in folders for file in _files(folder))]
    place = ["atom", "element"] if by == "atoms" else ["atom_i", "atom_j", "shift", "bond", "length [Angstrom]"]
    spread = [f"spread [{unit}]"] if more else []
    with run_record(out, "explain", config, seed, reads=reads, writes=pages) as record:
        for k, atoms in enumerate(track(frames, "Explaining")):
            with located(partial(sources.place, structures), k):
                found = [attribute(network, atoms, target, steps) for network in networks]
            means.append(average(found))
            for several, one in zip(every, found, strict=True):
                several.append(one)
        with writable(out) as temporary, temporary.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["structure", *place, f"attribution [{unit}]", *spread])
            for k, (atoms, mean, *found) in enumerate(zip(frames, means, *every, strict=True)):
                for name, value in zip(sums, (mean.whole, mean.bare, mean.error), strict=True):
                    sums[name].append(value)
                places, kinds = _places(mean, atoms, by)
                values = np.stack([a.per_atom(len(atoms)) if by == "atoms" else a.value for a in found])
                for row, kind, column in zip(places, kinds, values.T, strict=True):
                    numbers = [column.mean(), column.std(ddof=1)] if more else [column.mean()]
                    table.writerow([k, *row, *(f"{number:.6g}" for number in numbers)])
                    totals.setdefault(kind, []).append(abs(float(column.mean())))
        record["mean_absolute_attribution"] = {kind: sum(v) / len(v) for kind, v in totals.items()}
        record |= sums
        if any(len(mean.value) for mean in means):
            rows, answer = shares(every), leading(every)
            record |= {"shares": [asdict(row) for row in rows], "leading": asdict(answer)}
        elif fidelity or report is not None:
            raise VibronicError(
                f"no structure of {structures} has a bond within the cutoff, so there is nothing to explain"
            )
        held = _fidelity(networks, frames, target, steps, seed) if fidelity else None
        if held is not None:
            record["fidelity"] = asdict(held)
        if report is not None:
            from vibronic.report import explained

            title = f"{len(frames)} structures of {structures}; {', '.join(folders)}"
            explained.why(Path(report), title, frames, means, rows, answer, held, (target, unit), config)
    for kind, amounts in sorted(totals.items(), key=lambda kv: -sum(kv[1]) / len(kv[1])):
        say(f"{kind}: mean |attribution| {sum(amounts) / len(amounts):.3g} {unit} over {len(amounts)} {by}")
    whole, bare = (np.mean(sums[name]) for name in ("all_bonds", "no_bonds"))
    worst = np.abs(sums["completeness_error"]).max()
    say(f"prediction with all bonds {whole:.6g} {unit}, with none {bare:.6g} {unit} (mean of {len(frames)} structures)")
    say(f"the attributions sum to the difference with an error of {worst:.2g} {unit} at most")
    if any(network.kind == "cgcnn" for network in networks):
        say(
            "cgcnn: the weight of a bond multiplies its scaled length, so the shortest bond counts as absent and long ones "
            "get large attributions by construction"
        )
    if by == "bonds" and "leading" in record:
        say(answer.sentence())
    for sentence in held.sentences() if held is not None else ():
        say(sentence)
    say(f"attributions: {out}")
    if report is not None:
        say(f"report: {report}")
    return out


def _fidelity(networks: Sequence[Model], frames: Sequence[Atoms], target: str, steps: int, seed: int) -> Fidelity:
    """On some of the structures."""
    import numpy as np

    from vibronic.explain.fidelity import fidelity

    picks = np.unique(np.linspace(0, len(frames) - 1, TESTED).round().astype(int))
    return fidelity(networks, [frames[k] for k in picks], target, steps=steps, seed=seed)


def _explained(folders: list[str], networks: list[Model], target: str | None) -> tuple[str, str]:
    """Name and unit of the target to explain, which every model must have."""
    scalars = [{t.name: t.unit for t in network.targets if not t.shape} for network in networks]
    target = target or next(iter(scalars[0]), "")
    for folder, names in zip(folders, scalars, strict=True):
        if target not in names:
            raise VibronicError(f"{folder} has no scalar target '{target}'; choose one of {', '.join(names) or 'none'}")
        if names[target] != scalars[0][target]:
            raise VibronicError(
                f"{folder} predicts '{target}' in {names[target]} and {folders[0]} in {scalars[0][target]}; "
                "explain models of one unit together"
            )
    return target, scalars[0][target]


def _places(found: Attribution, atoms: Atoms, by: str) -> tuple[list[list[object]], list[str]]:
    """Columns that say which bond or atom a row is of, and its kind."""
    if by == "atoms":
        symbols = atoms.get_chemical_symbols()
        return [[k, symbol] for k, symbol in enumerate(symbols)], symbols
    kinds = [str(kind) for kind in found.kinds]
    bonds = zip(found.i, found.j, found.shift, kinds, found.length, strict=True)
    return [[i, j, " ".join(map(str, s)), kind, f"{length:.4f}"] for i, j, s, kind, length in bonds], kinds
