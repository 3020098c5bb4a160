import numpy as np
import pytest
import spglib
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from vibronic.core.errors import VibronicError
from vibronic.sampling.relax import relax


def test_relax_finds_the_minimum_and_keeps_the_symmetry():
    start = bulk("Cu", a=3.7, cubic=True)
    relaxed = relax(start, EMT())
    assert np.abs(relaxed.get_stress()).max() < 1e-4
    assert relaxed.cell.lengths() == pytest.approx([3.59] * 3, abs=0.01)
    assert spglib.get_spacegroup((relaxed.cell.array, relaxed.get_scaled_positions(), relaxed.numbers)) == "Fm-3m (225)"
    assert start.cell.lengths() == pytest.approx([3.7] * 3)
    assert not relaxed.constraints


def test_relax_positions_only():
    start = bulk("Cu", a=3.7, cubic=True)
    start.positions[0, 0] += 0.1
    relaxed = relax(start, EMT(), cell=False)
    np.testing.assert_array_equal(relaxed.cell, start.cell)
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 1e-3


def test_relax_a_molecule():
    assert np.linalg.norm(relax(molecule("N2"), EMT()).get_forces(), axis=1).max() <= 1e-3


def test_relax_tells_when_it_fails():
    with pytest.raises(VibronicError, match="did not relax"):
        relax(bulk("Cu", a=3.9, cubic=True), EMT(), max_steps=1)
    with pytest.raises(VibronicError, match="positive"):
        relax(bulk("Cu"), EMT(), fmax=0)
