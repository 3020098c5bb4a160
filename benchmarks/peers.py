"""Our models beside SchNet, DimeNet++ and CGCNN from torch-geometric: same splits, same cutoff, same training, same budget.

    VIBRONIC_DATA=... python benchmarks/peers.py --out runs/peers

Every network is trained by ``fit`` with the same optimiser, schedule, learning rate and batches (none tuned here) for as many epochs as its
share of CPU-seconds allows, and once more for as many as the slowest one made. Writes benchmarks/results/peers.json after each part; a killed
run goes on with the same command. One thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from ase import Atoms

import record
from peers_models import CGCNN, PeriodicDimeNet, PeriodicSchNet
from vibronic.core.batch import Batch
from vibronic.core.model import Model
from vibronic.core.provenance import write_json
from vibronic.core.targets import target
from vibronic.core.units import GPA
from vibronic.data.dataset import GraphData, label_of
from vibronic.data.sources import structures
from vibronic.learning.prediction import predict, score
from vibronic.learning.recipe import Training
from vibronic.learning.store import build
from vibronic.learning.training import fit

CUTOFF = 4.0
"""Angstrom, of all: 21 neighbours in SrTiO3. With the default 5 it is 50, and DimeNet++ takes six times as long."""
BATCH, LEARNING_RATE = 4, 1e-3
PEERS = {"schnet": PeriodicSchNet, "dimenet++": PeriodicDimeNet, "cgcnn2018": CGCNN}
SLOWEST = "dimenet++"
TRAINER = 0.01
"""CPU-seconds that ``fit`` adds to a step, measured with the cheapest network."""


def sets(task: str) -> tuple[list[Atoms], list[Atoms]]:
    """Training and test structures."""
    if task == "gap":
        frames = structures("Ag3SBr-pbe")
        return [a for a in frames if a.info["method"] != "md"], [a for a in frames if a.info["method"] == "md"]
    return structures("SrTiO3-train"), structures("SrTiO3-test")


TASKS: dict[str, tuple[str, list[str], list[str]]] = {
    "potential": (
        "SrTiO3, learned from energies, forces and stresses",
        ["energy", "forces", "stress"],
        ["painn", "painn without pair start", "schnet", "dimenet++"],
    ),
    "numbers": (
        "SrTiO3, learned from energies and pressures as numbers",
        ["energy", "pressure"],
        ["mean", "ridge", "cgcnn", "cgcnn2018", "painn", "schnet", "dimenet++"],
    ),
    "gap": (
        "Ag3SBr, band gap, learned from phonon-made and random displacements, tested on dynamics",
        ["band_gap"],
        ["mean", "ridge", "tight-binding", "cgcnn", "cgcnn2018", "painn", "schnet", "dimenet++"],
    ),
}
ONCE = ("mean", "ridge", "tight-binding")
"""Fitted without chance, and without a budget."""


def made(name: str, targets: list[str], seed: int) -> Model:
    """An untrained model."""
    torch.manual_seed(seed)
    if name in PEERS:
        return PEERS[name](targets, cutoff=CUTOFF)
    if name == "tight-binding":  # with its own cutoff, and a band edge beside the gap
        return build(name, targets=["band_gap", "vbm"])
    extra: dict[str, Any] = {"pair": False} if name == "painn without pair start" else {}
    return build(name.split()[0], targets=targets, cutoff=CUTOFF, **extra)


def seconds_per_epoch(model: Model, data: GraphData, seed: int) -> float:
    """CPU-seconds, from the steps of four batches, the first not counted; the model is spoilt by it."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters())
    taken = []
    model.prepare(data.batch())
    for _ in range(4):
        batch = Batch.collate([data.graphs[k] for k in rng.permutation(len(data.graphs))[:BATCH]])
        start = time.process_time()
        loss = model.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken.append(time.process_time() - start)
    return (median(taken[1:]) + TRAINER) * len(data.graphs) / BATCH


def scores(predicted: dict[str, Sequence[np.ndarray]], targets: list[str], test: list[Atoms]) -> dict[str, float]:
    """MAE, RMSE and R2 in the units people compare."""
    if "stress" in predicted:
        predicted = {**predicted, "pressure": [-np.trace(s) / 3 for s in predicted["stress"]]}
        targets = ["energy", "pressure", "forces"]
    found, _ = score([target(t) for t in targets], predicted, test)
    unit = {
        "energy": (1e3, "meV/atom"),
        "pressure": (1 / GPA, "GPa"),
        "forces": (1e3, "meV/Angstrom"),
        "band_gap": (1e3, "meV"),
    }
    rows = {}
    for name in targets:
        factor, of = unit[name]
        rows[f"MAE {name} [{of}]"] = factor * found[f"mae_{name}"]
        rows[f"RMSE {name} [{of}]"] = factor * found[f"rmse_{name}"]
        rows[f"R2 {name}"] = found[f"r2_{name}"]
    return rows


def part(task: str, name: str, seed: int, budget: float, epochs: int | None, folder: Path) -> dict[str, float]:
    """One model trained and scored; ``epochs`` instead of a budget where they are given."""
    _, targets, _ = TASKS[task]
    train, test = sets(task)
    if name == "mean":
        mean = {t: np.mean([label_of(a, t) / (len(a) if target(t).extensive else 1) for a in train]) for t in targets}
        size = {t: [len(a) if target(t).extensive else 1 for a in test] for t in targets}
        return scores({t: [np.asarray(mean[t] * n) for n in size[t]] for t in targets}, targets, test)
    model = made(name, targets, seed)
    data = GraphData(train, model.labels, model.cutoff)
    start = time.process_time()
    steps = 0
    if model.closed_form:
        model.prepare(data.batch().to(dtype=model.dtype))
    else:
        if epochs is None:
            epochs = max(1, round(budget / seconds_per_epoch(made(name, targets, seed).train(), data, seed)))
        how = Training(epochs=epochs, batch_size=BATCH, learning_rate=LEARNING_RATE)
        start = time.process_time()
        fit(model, data, None, folder, how, seed, device="cpu", progress=False, logs=False)
        steps = epochs * -(-len(train) // BATCH)
    seconds = time.process_time() - start
    taken = []
    for _ in range(3):
        start = time.process_time()
        predicted = predict(model, test, batch_size=8)
        taken.append(time.process_time() - start)
    weights = sum(p.numel() for p in model.parameters()) or model.size
    return {
        **scores(predicted, targets, test),
        "CPU-seconds of training": round(seconds, 1),
        "steps": steps,
        "CPU-ms per prediction": 1e3 * median(taken) / len(test),
        "weights": weights,
    }


def joined(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, the seeds' own values where they are scores."""
    rows: dict[str, Any] = {"seeds": len(runs)}
    for key in runs[0]:
        values = [run[key] for run in runs]
        whole = key in ("steps", "weights")
        rows[key] = round(float(np.mean(values))) if whole else float(np.mean(values))
        if len(values) > 1 and key.startswith("MAE"):
            rows[f"{key}, of each"] = [float(v) for v in values]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--potential", type=float, default=75.0, help="CPU-seconds of each training")
    parser.add_argument("--numbers", type=float, default=40.0)
    parser.add_argument("--gap", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = options.out / "parts"
    timed = [
        (task, name, seed, "time")
        for seed in range(options.seeds)
        for task in TASKS
        # The slowest first: the others take as many steps as it made.
        for name in sorted(TASKS[task][2], key=lambda n: n != SLOWEST)
        if seed == 0 or name not in ONCE
    ]
    stepped = [(t, n, 0, "steps") for t in TASKS for n in TASKS[t][2] if n not in (*ONCE, SLOWEST)]
    plan = sorted(timed + stepped, key=lambda key: key[2])  # one seed of everything first
    done: dict[tuple[str, str, int, str], dict[str, float]] = {}
    for key in plan:
        task, name, seed, kind = key
        title = f"{task}-{name.replace(' ', '-')}-{seed}-{kind}"
        file = parts / f"{title}.json"
        if not file.exists():
            epochs = None
            if kind == "steps":
                epochs = int(done[task, SLOWEST, 0, "time"]["steps"]) // -(-len(sets(task)[0]) // BATCH)
            shutil.rmtree(options.out / title, ignore_errors=True)  # half a training has lost half of its seconds
            write_json(file, part(task, name, seed, getattr(options, task), epochs, options.out / title))
        done[key] = json.loads(file.read_text())
        print(title, {k: round(v, 3) for k, v in done[key].items()}, flush=True)
        write(options, done)


def write(options: argparse.Namespace, done: dict[tuple[str, str, int, str], dict[str, float]]) -> None:
    """What there is so far."""
    tables: dict[str, Any] = {}
    for task, (title, _, names) in TASKS.items():
        for kind, said in (
            ("time", f"{getattr(options, task):g} CPU-seconds each"),
            ("steps", f"as many steps as {SLOWEST}"),
        ):
            columns = {}
            for name in names:
                runs = [run for (t, n, _, k), run in done.items() if (t, n, k) == (task, name, kind)]
                if runs:
                    columns[name] = joined(runs)
            if columns:
                tables[f"{title}: {said}"] = columns
    how = Training(batch_size=BATCH, learning_rate=LEARNING_RATE)
    record.write(
        "peers",
        {
            "what": f"SrTiO3: 270 training and 30 test cells. Ag3SBr: {' and '.join(str(len(part)) for part in sets('gap'))} configurations. "
            f"Mean of each row over its seeds; the last averaged weights, no validation set; cutoff {CUTOFF:g} Angstrom. cgcnn is the network of arXiv 2511.15222 on a correct graph, cgcnn2018 that of Xie and "
            "Grossman; widths 64 (cgcnn: 128), three layers (DimeNet++: two)",
            "tables": tables,
            "training": {k: v for k, v in asdict(how).items() if k != "epochs"},
            "peers": record.peers("torch-geometric"),
        },
        "python benchmarks/peers.py " + " ".join(f"--{k} {v}" for k, v in vars(options).items() if k != "out"),
    )


if __name__ == "__main__":
    main()
