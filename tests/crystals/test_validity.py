"""Validity of structures, whatever a generator may come up with, and of compositions, against SMACT's own functions."""

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.data import chemical_symbols

from vibronic.core.errors import VibronicError
from vibronic.crystals import validity
from vibronic.crystals.validity import composition_validity, structural_validity
from vibronic.data.cells import reduced_composition


def numbers(formula: str) -> list[int]:
    return Atoms(formula).numbers.tolist()


def pair(distance: float, cell: object = 4.0) -> Atoms:
    lattice = np.eye(3) * cell if np.isscalar(cell) else cell
    return Atoms("H2", positions=[(0, 0, 0), (0, 0, distance)], cell=lattice, pbc=True)


def test_distances_through_the_boundary_count(anti_perovskite: Atoms) -> None:
    assert structural_validity(anti_perovskite)
    assert structural_validity(pair(0.51))
    assert not structural_validity(pair(0.49))
    assert not structural_validity(pair(3.6))  # 0.4 to the image
    assert not structural_validity(pair(7.6))
    assert structural_validity(pair(400 + 2.0))
    assert structural_validity(bulk("Cu"))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.set_cell([4, 4, 0]),
        lambda a: a.set_cell([4, 4, 1e-4]),
        lambda a: a.set_cell([0.45, 4, 4]),  # too close to its own image
        lambda a: a.set_cell(np.full((3, 3), np.nan)),
        lambda a: a.set_cell(np.diag([1e300, 1e300, 1e300])),
        lambda a: a.set_cell([[4, 0, 0], [4, 1e-9, 0], [0, 0, 4]]),
        lambda a: a.set_cell([[1e5, 0, 0], [1e5, 1e-2, 0], [0, 0, 4]]),
        lambda a: a.positions.fill(np.nan),
        lambda a: a.positions.fill(np.inf),
        lambda a: a.positions.fill(1e200),
        lambda a: a.numbers.fill(0),
        lambda a: a.set_cell(None),
        lambda a: a.__delitem__([0, 1]),
    ],
)
def test_what_is_no_crystal_is_invalid_and_no_error(change: Callable[[Atoms], object]) -> None:
    atoms = pair(2.0)
    change(atoms)
    assert structural_validity(atoms) is False


def test_a_small_cell_volume_is_invalid() -> None:
    assert not structural_validity(Atoms("H", cell=[[0.6, 0, 0], [0.3, 0.5196, 0], [0.3, 0.1732, 0.3]], pbc=True))


@pytest.mark.parametrize("skew", [0, 3, 40, 2000])
def test_the_choice_of_lattice_vectors_does_not_matter(anti_perovskite: Atoms, skew: int) -> None:
    """The same crystal in vectors as flat as one likes."""
    for shift, valid in ((0.0, True), (0.95, False)):
        atoms = anti_perovskite.copy()
        atoms.positions[0, 2] += shift * 4.934 / 2
        atoms.positions[1] += (0, 0, 0) if valid else atoms.positions[0] - atoms.positions[1] + (0.3, 0, 0)
        flat = atoms.copy()
        flat.set_cell(np.array([[1, 0, 0], [skew, 1, 0], [skew, -skew, 1]]) @ atoms.cell.array, scale_atoms=False)
        assert structural_validity(flat) is valid


def test_generated_looking_noise_is_quick_and_never_an_error() -> None:
    rng = np.random.default_rng(0)
    crystals = [
        Atoms(
            numbers=rng.integers(1, 90, 5), positions=rng.normal(0, 5, (5, 3)), cell=rng.normal(0, 4, (3, 3)), pbc=True
        )
        for _ in range(300)
    ]
    start = time.perf_counter()
    found = [structural_validity(atoms) for atoms in crystals]
    assert 0 < sum(found) < 300
    assert time.perf_counter() - start < 3  # 0.3 s on an idle machine


@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ("NaCl", True),
        ("Na2Cl2", True),
        ("NaCl2", False),
        ("CaTiO3", True),
        ("Fe3O4", False),  # one state per element: mixed valence does not pass
        ("Ag3SBr", True),
        ("CuZn", True),  # metals alone
        ("TmMgHg2", True),
        ("C", True),
        ("Xe4", True),  # an element alone
        ("ArCl", False),  # no oxidation states
        ("NaLv", False),  # none in the table
        ("F2O", True),
        ("PmCl3", True),  # no electronegativity: not held against it
    ],
)
def test_compositions(formula: str, valid: bool) -> None:
    assert composition_validity(numbers(formula)) is valid


def test_no_atoms_and_no_element_are_invalid() -> None:
    assert not composition_validity([])
    assert not composition_validity([0, 8])


def test_the_verdict_is_that_of_the_product_over_all_states() -> None:
    """CDVAE's procedure spelled out with SMACT's functions, over random formulas."""
    import smact
    from smact.screening import pauling_test

    rng = np.random.default_rng(1)
    elements = Atoms("HLiBCNOFNaAlSiPSClKTiCrFeCuAsBrSrSnIBaPbU").numbers
    verdicts = []
    for _ in range(150):
        chosen = np.sort(rng.choice(elements, rng.integers(2, 5), replace=False))
        counts = rng.integers(1, 5, len(chosen))
        composition = reduced_composition(np.repeat(chosen, counts))
        found = [smact.Element(chemical_symbols[z]) for z, _ in composition]
        expected = all(e.symbol in smact.metals for e in found)
        for states in itertools.product(*(e.oxidation_states_smact14 for e in found)):
            neutral = smact.neutral_ratios(states, stoichs=[(n,) for _, n in composition], threshold=int(max(counts)))
            if expected or (neutral and pauling_test(states, [e.pauling_eneg for e in found])):
                expected = True
                break
        assert composition_validity(np.repeat(chosen, counts)) is expected, composition
        verdicts.append(expected)
    assert 20 < sum(verdicts) < 140


def test_order_and_size_of_the_cell_do_not_matter(anti_perovskite: Atoms) -> None:
    large = make_supercell(anti_perovskite, np.diag([2, 1, 1]))
    assert reduced_composition(large.numbers[::-1]) == reduced_composition(anti_perovskite.numbers)
    assert reduced_composition([8, 8, 26, 26, 26]) == ((8, 2), (26, 3))


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "smact", None)
    validity._element.cache_clear()
    validity._composition_validity.cache_clear()
    with pytest.raises(VibronicError, match=r"smact is not installed: pip install 'vibronic\[crystals\]'"):
        composition_validity([11, 17])
