"""From a crystal to a model of its energy at 600 K: force constants, snapshots, labels, a fit, a test on dynamics.

Copper with EMT, so that it takes seconds; another crystal and engine change two lines.
"""

import tempfile
from pathlib import Path

import torch
from ase.build import bulk

from vibronic.data.dataset import GraphData
from vibronic.labelling.engines import engine
from vibronic.labelling.label import label
from vibronic.learning import store
from vibronic.learning.prediction import predict, score
from vibronic.sampling.checks import check_snapshots
from vibronic.sampling.dynamics import Dynamics
from vibronic.sampling.phonons import Phonons, force_constants
from vibronic.sampling.relax import relax


def main() -> None:
    emt = engine("emt")
    crystal = relax(bulk("Cu", cubic=True), emt.calculator())
    constants = force_constants(crystal, (2, 2, 2), emt.calculator())
    phonons = Phonons(constants, temperature=600, statistics="classical")
    snapshots = phonons.sample(constants.supercell, n=60, seed=0)
    for finding in check_snapshots(snapshots, constants.supercell, phonons):
        print(finding)

    with tempfile.TemporaryDirectory() as folder:
        report = label(snapshots, emt, Path(folder) / "labels.sqlite", executor="in-process")
    print(f"{report.computed} labels in {report.seconds:.1f} s")

    model = store.build("ridge", targets=["energy", "pressure"])
    model.prepare(GraphData(report.labelled, model.targets, model.cutoff).batch().to(dtype=torch.float64))
    dynamics = Dynamics(emt.calculator(), temperature=600).sample(constants.supercell, n=20, seed=1)
    scores, units = score(model.targets, predict(model, dynamics), dynamics)
    for name in ("mae_energy", "r2_energy", "mae_pressure", "r2_pressure"):
        print(f"{name}: {scores[name]:.3g} {units[name]}")


if __name__ == "__main__":
    main()
