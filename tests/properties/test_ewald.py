import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from vibronic.core.batch import Batch
from vibronic.properties.ewald import COULOMB, site_potentials

NA, CL = 0, 1
ELEMENTS = torch.tensor([11, 17])


def potentials(atoms: Atoms, cutoff: float = 5.5) -> torch.Tensor:
    return site_potentials(Batch.from_atoms(atoms, cutoff, dtype=torch.float64), ELEMENTS, cutoff)


def salt(seed: int | None = None) -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    if seed is not None:
        atoms.positions += np.random.default_rng(seed).normal(0, 0.2, atoms.positions.shape)
    return atoms


def test_madelung() -> None:
    """1.747564594633, per nearest distance."""
    found = potentials(salt())
    assert float(found[0, NA] - found[0, CL]) == pytest.approx(-1.747564594633 * COULOMB / 2.82, abs=1e-6)


def test_the_division_into_two_sums_does_not_matter() -> None:
    assert torch.allclose(potentials(salt(1), 4.0), potentials(salt(1), 7.0), atol=1e-6)


def test_a_supercell_another_cell_and_other_images_have_the_same_potentials() -> None:
    atoms = salt(2)
    one = potentials(atoms)
    assert torch.allclose(potentials(atoms.repeat((2, 1, 1)))[: len(atoms)], one, atol=1e-6)
    skewed = Atoms(
        atoms.numbers,
        positions=atoms.positions,
        cell=np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]]) @ atoms.cell.array,
        pbc=True,
    )
    assert torch.allclose(potentials(skewed), one, atol=1e-6)
    wrapped = atoms.copy()
    wrapped.positions += 3.3
    wrapped.wrap()
    assert torch.allclose(potentials(wrapped), one, atol=1e-9)


def test_a_molecule_is_a_plain_sum() -> None:
    found = potentials(Atoms("NaCl2", positions=[(0, 0, 0), (0, 0, 2.0), (0, 0, -4.0)]))
    assert found[0].tolist() == pytest.approx([0.0, COULOMB * (1 / 2 + 1 / 4)])
    assert found[1].tolist() == pytest.approx([COULOMB / 2, COULOMB / 6])


def test_a_large_box_is_a_molecule_but_for_its_background() -> None:
    """Between charges that cancel; what is left is the field of the images."""
    ions = Atoms("NaCl", positions=[(0, 0, 0), (0, 0, 2.0)])
    boxed = ions.copy()
    boxed.set_cell([60] * 3)
    boxed.pbc = True
    alone, there = potentials(ions), potentials(boxed)
    assert float(there[0, NA] - there[0, CL]) == pytest.approx(float(alone[0, NA] - alone[0, CL]), abs=2e-3)


def test_the_gradient_is_that_of_finite_differences() -> None:
    atoms = salt(3)
    batch = Batch.from_atoms(atoms, 5.5, dtype=torch.float64)
    batch.positions.requires_grad_()
    (slope,) = torch.autograd.grad(site_potentials(batch, ELEMENTS, 5.5)[0, CL], batch.positions)
    assert float(slope.sum(0).abs().max()) < 1e-9
    for i, a in ((0, 0), (1, 2), (5, 1)):
        values = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, a] += sign * 1e-4
            values.append(float(potentials(moved)[0, CL]))
        assert float(slope[i, a]) == pytest.approx((values[0] - values[1]) / 2e-4, abs=1e-5)
