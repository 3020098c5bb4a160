"""Is a molecular graph convolution a linear combination of atomic orbitals with a poor basis? (arXiv 2011.07929)

First the identity, in numbers: two layers of a graph convolution and two LCAOs evaluated at the nuclei, on molecules of
QM9. Then what the paper argues from it: networks that differ only in where orbitals are evaluated and of what they are
made (``lcao_gcn_model.py``) learn the same energies of small molecules in as many steps, and are scored on others as
small and on larger ones.

Every training leaves one file and is skipped when it is there. ``lcao_gcn_report.py`` reads the files and nothing else.
"""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.folder import bind, content
from vibronic.core.provenance import writable, write_json
from vibronic.core.targets import target
from vibronic.core.units import conversion
from vibronic.data.dataset import GraphData, label_of, read_labelled, write_structures
from vibronic.data.sources import structures
from vibronic.labelling.executors import processes
from vibronic.learning.recipe import Training
from vibronic.studies.composition import composition
from vibronic.studies.lcao_gcn_model import BOND, VARIANTS, OrbitalNetwork, graph_convolution, lcao_at_nuclei

STUDY = "lcao-gcn"
COMPOSITION = "composition"
"""The floor beside all networks: one energy per element."""
KCAL = conversion("eV", "kcal/mol")
PARTS = {"interpolation": "qm9-test", "extrapolation": "qm9-large"}
"""Test sets: molecules with up to 14 atoms, as in training, and with 15 or more."""


@dataclass(frozen=True)
class Plan:
    """What the study does; the defaults take about ten minutes of one core.

    Attributes:
        size: training molecules, drawn anew for each seed from those with up to 14 atoms.
        test: molecules of each test set, the same for all.
        steps: optimiser steps of every network, in whole epochs.
        seeds: each has training molecules and weights of its own.
        batch_size, width, layers: of every network.
        learning_rate: peak.
    """

    size: int = 1500
    test: int = 400
    steps: int = 940
    seeds: tuple[int, ...] = (0, 1, 2)
    batch_size: int = 16
    width: int = 64
    layers: int = 3
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise VibronicError(f"the study needs seeds that differ, not {self.seeds}")
        if self.size < self.batch_size or min(self.test, self.steps) < 1:
            raise VibronicError(
                f"the study needs at least {self.batch_size} training molecules, one test molecule and one step"
            )

    @property
    def recipe(self) -> Training:
        """Of every network: as many epochs as give the steps."""
        return Training(
            epochs=max(1, round(self.steps / math.ceil(self.size / self.batch_size))),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            clip=1.0,
        )


def run(plan: Plan, out: Path, workers: int = 2, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Carry out the study in the folder ``out`` and return its results (also in ``results.json``).

    Raises:
        VibronicError: ``out`` holds a study with another plan, or QM9 cannot be had.
    """
    out = Path(out)
    pool = structures("qm9-train")
    if plan.size > len(pool):
        raise VibronicError(f"QM9 has {len(pool)} molecules to train on, fewer than {plan.size}")
    bind(out, {"study": STUDY, **asdict(plan)})
    _draw(plan, pool, out)
    tests = {part: read_labelled(out / f"{part}.extxyz") for part in PARTS}
    same = equality(tests["interpolation"][:100])
    say(f"graph convolution and LCAO at the nuclei differ by at most {same['largest_difference']:.1e}")
    jobs = [(variant, seed) for seed in plan.seeds for variant in VARIANTS]
    rows: list[dict[str, Any]] = []
    with processes(workers) as executor:
        futures = [executor.schedule(_train, (plan, variant, seed, out)) for variant, seed in jobs]
        for future in as_completed(futures):
            row = future.result()
            rows.append(row)
            say(
                f"{row['network']}, seed {row['seed']}: "
                + ", ".join(f"{part} {row[part]:.2f} kcal/mol" for part in PARTS)
                + f" ({row['seconds']:.0f} s)"
            )
    rows += [_floor(seed, out, tests) for seed in plan.seeds]
    order = [COMPOSITION, *VARIANTS]
    rows.sort(key=lambda row: (order.index(row["network"]), row["seed"]))
    results = {"study": STUDY, "plan": asdict(plan), "equality": same, "rows": rows}
    write_json(out / "results.json", results)
    _tables(rows, same, out)
    return results


def equality(molecules: list[Atoms], width: int = 32, seed: int = 0) -> dict[str, float]:
    """Largest difference between two layers of graph convolution and two LCAOs at the nuclei, in double precision.

    The second LCAO's coefficients are what the first one, with a non-linearity, put on the atoms: this is what depth
    adds to a graph convolution, and it is not an LCAO of one set of coefficients any more.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(10, width, dtype=torch.float64, generator=generator)
    weights = [torch.randn(width, width, dtype=torch.float64, generator=generator) / width**0.5 for _ in range(2)]
    worst, largest = 0.0, 0.0
    for atoms in molecules:
        batch = Batch.from_atoms(atoms, BOND, dtype=torch.float64)
        convolved = orbital = embedding[batch.numbers]
        for weight in weights:
            convolved = graph_convolution(convolved, weight, batch).tanh()
            orbital = lcao_at_nuclei(orbital @ weight.T, batch.positions).tanh()
            worst = max(worst, float((convolved - orbital).abs().max()))
            largest = max(largest, float(convolved.abs().max()))
    return {"molecules": len(molecules), "layers": 2, "largest_difference": worst, "largest_value": largest}


def _draw(plan: Plan, pool: list[Atoms], out: Path) -> None:
    """Training molecules of each seed and the two test sets, as files."""
    for seed in plan.seeds:
        path = out / f"train-{seed}.extxyz"
        if not path.exists():
            chosen = np.random.default_rng(seed).permutation(len(pool))[: plan.size]
            write_structures(path, [_energy_only(pool[k]) for k in sorted(chosen)])
    for part, name in PARTS.items():
        path = out / f"{part}.extxyz"
        if not path.exists():
            there = structures(name)
            chosen = np.random.default_rng(0).permutation(len(there))[: plan.test]
            write_structures(path, [_energy_only(there[k]) for k in sorted(chosen)])


def _energy_only(atoms: Atoms) -> Atoms:
    kept = Atoms(atoms.numbers, atoms.positions)
    kept.info = {key: atoms.info[key] for key in ("qm9_index", "energy")}
    return kept


def _train(plan: Plan, variant: str, seed: int, out: Path) -> dict[str, Any]:
    """Train one network and score it on both test sets."""
    from vibronic.learning.prediction import predict
    from vibronic.learning.training import fit

    path = out / "runs" / f"{variant}-{seed}.json"
    if path.exists() and (done := content(path)) is not None:
        return done
    start = time.process_time()
    torch.manual_seed(seed)
    model = OrbitalNetwork(variant, plan.width, plan.layers)
    data = GraphData(read_labelled(out / f"train-{seed}.extxyz"), model.targets, model.cutoff)
    folder = out / "runs" / f"{variant}-{seed}"
    fit(model, data, None, folder, plan.recipe, seed, device="cpu", progress=False, logs=False)
    row = {
        "network": variant,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": time.process_time() - start,
    }
    for part in PARTS:
        test = read_labelled(out / f"{part}.extxyz")
        row[part] = _mae([float(e) for e in predict(model, test)["energy"]], test)
    write_json(path, row)
    shutil.rmtree(folder)
    return row


def _floor(seed: int, out: Path, tests: dict[str, list[Atoms]]) -> dict[str, Any]:
    train = read_labelled(out / f"train-{seed}.extxyz")
    energies = composition(GraphData(train, [target("energy")], 0.1).batch()).numpy()
    scores = {part: _mae([energies[a.numbers].sum() for a in test], test) for part, test in tests.items()}
    return {"network": COMPOSITION, "seed": seed, "parameters": 5, "seconds": 0.0, **scores}


def _mae(predicted: list[float], test: list[Atoms]) -> float:
    """kcal/mol per molecule."""
    labels = np.array([label_of(a, "energy") for a in test], dtype=float)
    return float(np.abs(np.array(predicted) - labels).mean() * KCAL)


def _tables(rows: list[dict[str, Any]], same: dict[str, float], out: Path) -> None:
    """``table.csv``, one line per training, and ``metrics.json``, means over seeds."""
    with writable(out / "table.csv") as path, path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["network", "seed", "parameters", "cpu [s]", *(f"{part} mae [kcal/mol]" for part in PARTS)])
        table.writerows(
            [r["network"], r["seed"], r["parameters"], f"{r['seconds']:.1f}", *(f"{r[p]:.4f}" for p in PARTS)]
            for r in rows
        )
    means = summary(rows)
    metrics: dict[str, Any] = {f"{p}_{m['network']}": m[p] for m in means for p in PARTS}
    units = {**dict.fromkeys(metrics, "kcal/mol"), "gcn_minus_lcao": "1"}
    write_json(out / "metrics.json", {**metrics, "gcn_minus_lcao": same["largest_difference"], "units": units})


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means and standard deviations over seeds, one entry per network in the order of the rows."""
    found = []
    for network in dict.fromkeys(row["network"] for row in rows):
        mine = [row for row in rows if row["network"] == network]
        entry: dict[str, Any] = {"network": network, "parameters": mine[0]["parameters"], "seeds": len(mine)}
        entry["cpu_seconds"] = float(np.mean([row["seconds"] for row in mine]))
        for part in PARTS:
            values = [row[part] for row in mine]
            entry[part] = float(np.mean(values))
            entry[f"{part}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found.append(entry)
    return found
