"""Fixtures shared by all tests: small crystals, the folder of reference data where it is present, a verb that must fail."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from vibronic.cli import main

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder named by ``VIBRONIC_DATA``, or ``../shared/data`` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("VIBRONIC_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder}; set VIBRONIC_DATA")
    return folder


@pytest.fixture
def anti_perovskite() -> Atoms:
    """Cubic Ag3SBr, 5 atoms: S at the body centre, Br at the corner, Ag on the faces."""
    scaled = [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0, 0, 0)]
    return Atoms("Ag3SBr", scaled_positions=scaled, cell=[4.934] * 3, pbc=True)


@pytest.fixture
def copper() -> Atoms:
    """Conventional fcc copper, 4 atoms; EMT labels it in a millisecond."""
    return bulk("Cu", cubic=True)


@pytest.fixture(scope="session")
def labelled_copper() -> list[Atoms]:
    """24 rattled 4-atom cells of copper with EMT energy, forces and stress, and an invented ``band_gap``."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(24):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, 0.08, (4, 3))
        atoms.calc = EMT()
        results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info = {"band_gap": 1.0 + 0.1 * results["energy"], "parent": f"Cu-{k}", "method": "rattle"}
        frames.append(atoms)
    return frames


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a verb that must fail; returns the sentence."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(a) for a in arguments]) == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("vibronic: ")
        assert len(said.splitlines()) == 1
        assert "Traceback" not in said
        assert len(said) < 600
        return said

    return run
