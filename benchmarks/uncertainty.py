"""Do 90 % intervals hold what they promise, and what is left of them at another temperature?

Pools of NaCl and Ag3SBr, 300 configurations at 200 and at 400 K, labelled by the embedded engine (those of ``thermal_choice``). The ridge learns
from 100 configurations of 200 K, 99 others calibrate, 101 are tested, and all 300 of 400 K; 12 random splits. ``constant`` intervals have one width,
``scaled`` ones follow what the model foresees. ``unlike`` is the share that the model calls unlike its training set (novelty above 1)::

    python benchmarks/uncertainty.py                   # minutes, after thermal_choice has labelled the pools
"""

import numpy as np
import torch

import record
import thermal_choice
from vibronic.data.dataset import GraphData
from vibronic.learning import store
from vibronic.learning.prediction import errors, floors, half_widths, intervals, predict, spreads

SPLITS, TRAIN, CALIBRATE = 12, 100, 99
TARGETS = ("energy", "pressure")
NOMINAL = 0.9


def one_split(cold: list, hot: list, seed: int) -> dict[str, dict[str, float]]:
    """Coverage by target and kind of interval, on the test part and on the other temperature; and the shares called unlike."""
    order = np.random.default_rng(seed).permutation(len(cold))
    train, calibrate, test = ([cold[k] for k in part] for part in np.split(order, [TRAIN, TRAIN + CALIBRATE]))
    model = store.build("ridge", targets=list(TARGETS))
    model.prepare(GraphData(train, model.targets, model.cutoff).batch().to(dtype=torch.float64))
    predicted, known = predict(model, calibrate), spreads(model, calibrate)
    bottom = floors(model, known)
    widths = {
        "constant": (intervals(model.targets, predicted, calibrate), {}),
        "scaled": (intervals(model.targets, predicted, calibrate, known, bottom), bottom),
    }
    found: dict[str, dict[str, float]] = {}
    for name, frames in (("same temperature", test), ("hotter", hot)):
        predicted, spread = predict(model, frames), spreads(model, frames)
        error = errors(model.targets, predicted, frames)
        for target in TARGETS:
            for kind, (q, bottom_) in widths.items():
                half = half_widths(q, bottom_, spread)[target]
                found.setdefault(f"{target}, {kind}", {})[name] = float((np.abs(error[target]) <= half).mean())
        found.setdefault("unlike", {})[name] = float((np.array(predicted["novelty"]) > 1).mean())
    return found


def main() -> None:
    torch.set_num_threads(1)
    tables = {}
    for crystal in thermal_choice.CRYSTALS:
        cold, hot = thermal_choice.pool_of(crystal)
        splits = [one_split(cold, hot, seed) for seed in range(SPLITS)]
        tables[f"{crystal}: share inside, mean of {SPLITS} splits"] = {
            what: {where: float(np.mean([s[what][where] for s in splits])) for where in ("same temperature", "hotter")}
            for what in splits[0]
        }
        print(crystal, tables[f"{crystal}: share inside, mean of {SPLITS} splits"], flush=True)
    content = {
        "what": f"Coverage of {100 * NOMINAL:.0f} % conformal intervals of the ridge at the temperature of its training (200 K) and at 400 K",
        "tables": tables,
        "targets": {"coverage_in_distribution": "0.88 to 0.92"},
    }
    print(record.write("uncertainty", content, "python benchmarks/uncertainty.py"))


if __name__ == "__main__":
    main()
