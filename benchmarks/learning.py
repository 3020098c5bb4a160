"""Seconds per epoch and peak memory of training on 300 cells of 40 atoms, and seconds to import the package.

    python benchmarks/learning.py

Only time is measured, so the labels are random numbers. Writes benchmarks/results/learning.json. Each model is timed in
a process of its own, one thread, its memory peak included; the first epoch (which allocates) is not counted.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODELS = {
    "painn energy+forces+stress": ("painn", ["energy", "forces", "stress"], {}),
    "painn band_gap": ("painn", ["band_gap"], {}),
    "cgcnn band_gap": ("cgcnn", ["band_gap"], {}),
}
EPOCHS = 3


def time_model(name: str) -> dict[str, float]:
    """Train for a few epochs in this process."""
    import numpy as np
    import torch
    from ase.calculators.singlepoint import SinglePointCalculator

    from vibronic.data.dataset import GraphData
    from vibronic.data.sources import crystal
    from vibronic.learning.recipe import Training
    from vibronic.learning.store import build
    from vibronic.learning.training import fit

    torch.set_num_threads(1)
    kind, targets, settings = MODELS[name]
    rng = np.random.default_rng(0)
    frames = []
    for seed in range(300):
        atoms = crystal("Ag3SBr").repeat(2)
        atoms.rattle(0.2, seed=seed)
        atoms.info["band_gap"] = rng.normal()
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(40, 3)), "stress": rng.normal(size=6)}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    model = build(kind, targets=targets, **settings)
    data = GraphData(frames, model.targets, model.cutoff)
    seconds = []
    for epochs in (1, 1 + EPOCHS):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            fit(model, data, None, Path(folder), Training(epochs=epochs), device="cpu", progress=False, logs=False)
            seconds.append(time.perf_counter() - start)
    return {
        "seconds_per_epoch": (seconds[1] - seconds[0]) / EPOCHS,
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "parameters": sum(p.numel() for p in model.parameters()),
        "edges_per_atom": data.batch().edge_index.shape[1] / (300 * 40),
    }


def import_seconds(repeats: int = 5) -> list[float]:
    """Wall time of importing the package in a fresh interpreter, less that of starting one."""
    times = []
    for _ in range(repeats):
        spent = []
        for code in ("pass", "import vibronic"):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            spent.append(time.perf_counter() - start)
        times.append(max(0.0, spent[1] - spent[0]))
    return sorted(times)


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(time_model(sys.argv[1])))
        return
    import record

    rows = {}
    for name in MODELS:
        run = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True)
        rows[name] = json.loads(run.stdout.splitlines()[-1])
        print(name, rows[name], flush=True)
    imports = import_seconds()
    print("import vibronic: median", imports[len(imports) // 2], "s")
    record.write(
        "learning",
        {
            "what": "300 cells of Ag3SBr, 40 atoms, batches of 4, one thread",
            "seed": 0,
            "models": rows,
            "import_seconds": {"median": imports[len(imports) // 2], "all": imports, "target": 0.5},
        },
        "python benchmarks/learning.py",
    )


if __name__ == "__main__":
    main()
