"""Structures for EMT, and the misbehaving engine where worker processes can import it."""

import dataclasses
import sys
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import bulk

sys.path.insert(0, str(Path(__file__).parent))

from misbehaving import SPEC

from vibronic.labelling.engines import ENGINES, engine


@pytest.fixture
def coppers() -> list[Atoms]:
    """Six rattled copper cells of 4 atoms."""
    structures = [bulk("Cu", cubic=True) for _ in range(6)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    return structures


@pytest.fixture
def gold() -> Atoms:
    return bulk("Au", cubic=True)


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    """``misbehaving(trick)`` is an engine; ``misbehaving.log()`` lists the calculations that it began."""
    monkeypatch.setitem(ENGINES, SPEC.name, SPEC)
    path = tmp_path / "calculations.log"

    def make(trick):
        return engine("misbehaving", trick=trick, folder=str(tmp_path))

    make.log = lambda: path.read_text().splitlines() if path.exists() else []
    return make


@pytest.fixture
def gpaw_settings(monkeypatch):
    """Resolve settings of the engine ``gpaw`` whether or not GPAW is installed here."""
    monkeypatch.setitem(ENGINES, "gpaw", dataclasses.replace(ENGINES["gpaw"], package="ase"))
