"""Do 90 % intervals hold what they promise, and what is left of them at another temperature?

Pools of NaCl and Ag3SBr, 300 configurations at 200 and at 400 K, labelled by the embedded engine (those of ``thermal_choice``). A model learns
from 100 configurations of 200 K; of the others 99 calibrate and 101 are tested, in 20 divisions, since a single 99 leave the coverage
uncertain by 3 %; and all 300 of 400 K. The ridge has 12 random splits, an ensemble of four networks (1,500 steps)
three of them. ``constant`` intervals have one width, ``scaled`` ones follow what the model foresees. ``unlike`` is the share
that the model calls unlike its training set (novelty above 1)::

    python benchmarks/uncertainty.py                   # half an hour, after thermal_choice has labelled the pools
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

import record
import thermal_choice
from vibronic.core.model import Model
from vibronic.data.dataset import GraphData
from vibronic.learning import store
from vibronic.learning.prediction import errors, floors, half_widths, intervals, predict, spreads
from vibronic.learning.recipe import Training
from vibronic.learning.training import fit

TRAIN, CALIBRATE, DIVISIONS = 100, 99, 20
TARGETS = ("energy", "pressure")
NOMINAL = 0.9
SPLITS = {"ridge": 12, "ensemble": 3}


def trained(kind: str, train: list, seed: int) -> Model:
    """The ridge, or an ensemble of four small networks."""
    torch.manual_seed(seed)
    if kind == "ridge":
        model = store.build(kind, targets=list(TARGETS))
        model.prepare(GraphData(train, model.targets, model.cutoff).batch().to(dtype=torch.float64))
        return model
    settings = {"width": 32, "layers": 2, "cutoff": 4.5}
    model = store.build(kind, targets=list(TARGETS), member="painn", members=4, settings=settings)
    data = GraphData(train, model.targets, model.cutoff)
    with tempfile.TemporaryDirectory() as folder:
        fit(model, data, None, Path(folder), Training(epochs=60), seed, device="cpu", progress=False, logs=False)
    return model


def one_split(kind: str, cold: list, hot: list, seed: int) -> dict[str, dict[str, float]]:
    """Coverage by target and kind of interval, on the test part and on the other temperature; and the shares called unlike."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(cold))
    model = trained(kind, [cold[k] for k in order[:TRAIN]], seed)
    places = {"same temperature": [cold[k] for k in order[TRAIN:]], "hotter": hot}
    predicted = {where: predict(model, frames) for where, frames in places.items()}
    spread = {where: spreads(model, frames) for where, frames in places.items()}
    error = {where: errors(model.targets, predicted[where], frames) for where, frames in places.items()}
    found: dict[str, dict[str, list[float]]] = {}
    others = places["same temperature"]
    for _ in range(DIVISIONS):
        calibrate, test = np.split(rng.permutation(len(others)), [CALIBRATE])
        frames = [others[k] for k in calibrate]
        known = {t: s[calibrate] for t, s in spread["same temperature"].items()}
        given = {t: [predicted["same temperature"][t][k] for k in calibrate] for t in TARGETS}
        bottom = floors(model, known)
        widths = {
            "constant": (intervals(model.targets, given, frames), {}),
            "scaled": (intervals(model.targets, given, frames, known, bottom), bottom),
        }
        for where, some in (("same temperature", test), ("hotter", np.arange(len(hot)))):
            for target in TARGETS:
                for name, (q, low) in widths.items():
                    here = {t: s[some] for t, s in spread[where].items()}
                    inside = np.abs(error[where][target][some]) <= half_widths(q, low, here)[target]
                    found.setdefault(f"{target}, {name}", {}).setdefault(where, []).append(float(inside.mean()))
    unlike = {where: float((np.array(predicted[where]["novelty"]) > 1).mean()) for where in places}
    means = {what: {where: float(np.mean(v)) for where, v in row.items()} for what, row in found.items()}
    return means | {"unlike": unlike}


def main() -> None:
    torch.set_num_threads(1)
    tables = {}
    for crystal in thermal_choice.CRYSTALS:
        cold, hot = thermal_choice.pool_of(crystal)
        for kind, n in SPLITS.items():
            splits = [one_split(kind, cold, hot, seed) for seed in range(n)]
            rows = {
                what: {where: float(np.mean([s[what][where] for s in splits])) for where in splits[0][what]}
                for what in splits[0]
            }
            tables[f"{crystal}, {kind}: share inside, mean of {n} splits"] = rows
            print(crystal, kind, rows, flush=True)
    content = {
        "what": f"Coverage of {100 * NOMINAL:.0f} % conformal intervals at the temperature of the training (200 K) and at 400 K",
        "conditions": f"pools of 300 (NaCl: quantum phonons, Ag3SBr: Langevin dynamics), {TRAIN} learned, {CALIBRATE} calibrate, "
        f"{DIVISIONS} divisions of each split; the ensemble has four networks, 1,500 steps",
        "tables": tables,
        "targets": {"coverage_in_distribution": "0.88 to 0.92"},
    }
    print(record.write("uncertainty", content, "python benchmarks/uncertainty.py"))


if __name__ == "__main__":
    main()
