"""Which bonds of Ag3SBr move its band gap: a Hamiltonian fitted to DFT gaps of the package, and integrated gradients.

Read the score before the attributions: a model that does not predict the gap does not explain it either, as a ``ridge`` in the
place of ``tight-binding`` shows. The electrostatics of the whole crystal belongs to no bond; it is in f(no bonds).
"""

import numpy as np
import torch

from vibronic.data.dataset import GraphData, split
from vibronic.data.sources import structures
from vibronic.explain.attribution import attribute
from vibronic.learning import store
from vibronic.learning.prediction import predict, score


def main() -> None:
    frames = structures("Ag3SBr-pbe")
    train, test = ([frames[k] for k in part] for part in split(frames, [0.8, 0.2], seed=0))
    model = store.build("tight-binding", targets=["band_gap", "vbm"], iterations=8)
    model.prepare(GraphData(train, model.labels, model.cutoff).batch().to(dtype=torch.float64))
    scores, _ = score(model.targets, predict(model, test), test)
    print(f"{len(test)} unseen gaps: MAE {scores['mae_band_gap']:.3f} eV, R2 {scores['r2_band_gap']:.2f}")

    found = attribute(model, test[0], "band_gap")
    for kind in np.unique(found.kinds):
        values = found.value[found.kinds == kind]
        print(f"{kind}: {len(values)} bonds, mean |attribution| {1e3 * np.abs(values).mean():.2f} meV")


if __name__ == "__main__":
    main()
