"""EMT that notes every calculation and misbehaves on gold; and a busy writer: what other processes import by name."""

import os
import time
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress

from vibronic.labelling.engines import EngineSpec, engine
from vibronic.labelling.ledger import Ledger


class Misbehaving(EMT):
    def __init__(self, trick, folder):
        super().__init__()
        self.trick = trick
        self.log = Path(folder) / "calculations.log"

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        with self.log.open("a") as log:
            log.write(f"{os.getpid()} {atoms.positions[0, 0]:.8f}\n")
        if self.trick == "slow":
            time.sleep(0.1)
        if "Au" not in atoms.get_chemical_symbols():
            return
        if self.trick == "matrix":
            self.results["stress"] = voigt_6_to_full_3x3_stress(self.results["stress"])
        if self.trick == "raise":
            raise RuntimeError("no convergence\nin 60 cycles")
        if self.trick == "hang":
            time.sleep(600)
        if self.trick == "die":
            os._exit(3)
        if self.trick == "die once" and not self.log.with_suffix(".dead").exists():
            self.log.with_suffix(".dead").touch()
            os._exit(3)
        if self.trick == "nan":
            self.results["forces"] = np.full((len(atoms), 3), np.nan)


def build(settings):
    if settings["trick"] == "hang as it starts":
        time.sleep(600)
    if settings["trick"] == "start slowly":
        time.sleep(1.5)
    return Misbehaving(settings["trick"], settings["folder"])


def example():
    return bulk("Cu")


SPEC = EngineSpec(
    "misbehaving",
    "EMT that misbehaves on gold",
    ("energy", "forces", "stress"),
    "ase",
    ("pip install ase",),
    {"trick": "none", "folder": "."},
    build,
    example,
)


def record_many(path, first, barrier):
    """Thirty labels, as soon as everybody is there."""
    emt = engine("emt")
    barrier.wait()
    with Ledger(path) as ledger:
        for index in range(first, first + 30):
            ledger.record(Atoms("Cu", [(index / 100, 0, 0)]), emt, {"energy": float(index)})
