"""Sameness of crystals, whatever way they are written, against pymatgen."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

from vibronic.core.errors import VibronicError
from vibronic.crystals.matching import distinct, match_rate, matcher, novel, space_group, to_pymatgen, unique


def rewritten(atoms: Atoms, seed: int) -> list[Atoms]:
    """The same crystal permuted, moved, rotated, in other vectors, in a supercell and at another density."""
    rng = np.random.default_rng(seed)
    permuted = atoms[rng.permutation(len(atoms))]
    moved = atoms.copy()
    moved.positions += rng.normal(0, 3, 3)
    rotated = atoms.copy()
    rotated.rotate(50, (1, 2, 3), rotate_cell=True)
    skewed = atoms.copy()
    skewed.set_cell(np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]]) @ atoms.cell.array, scale_atoms=False)
    supercell = make_supercell(atoms, [[1, 1, 0], [0, 2, 0], [0, 0, 1]])
    dense = atoms.copy()
    dense.set_cell(atoms.cell.array * 0.9, scale_atoms=True)
    return [permuted, moved, rotated, skewed, supercell, dense]


@pytest.fixture
def different(anti_perovskite: Atoms) -> list[Atoms]:
    """Six crystals, four formulas."""
    swapped = anti_perovskite.copy()
    swapped.numbers[[0, 3]] = swapped.numbers[[3, 0]]  # sulphur on a face
    return [
        anti_perovskite,
        swapped,
        bulk("NaCl", "rocksalt", a=5.64),
        bulk("NaCl", "cesiumchloride", a=3.5),
        bulk("C", "diamond"),
        bulk("Si", "diamond"),
    ]


def test_a_crystal_is_itself_however_it_is_written(different: list[Atoms]) -> None:
    frames = different + [copy for k, atoms in enumerate(different) for copy in rewritten(atoms, k)]
    assert unique(frames) == [*range(6), *np.repeat(range(6), 6)]
    assert novel(frames, different[2:]) == [k in (0, 1) for k in (*range(6), *np.repeat(range(6), 6))]
    assert novel(different, []) == [True] * 6


def test_verdicts_are_those_of_pymatgen(anti_perovskite: Atoms) -> None:
    """Random displacements and strains, some the same and some not."""
    rng = np.random.default_rng(0)
    frames = []
    for k in range(12):
        atoms = anti_perovskite.copy()
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(0, 0.02 * k, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.12 * k, (5, 3))
        frames.append(atoms)
    verdicts = []
    for a, b in itertools.combinations(frames, 2):
        verdicts.append(bool(matcher().fit(to_pymatgen(a), to_pymatgen(b))))
        assert (unique([a, b]) == [0, 0]) is verdicts[-1]
        assert novel([b], [a]) == [not verdicts[-1]]
    assert 5 < sum(verdicts) < 60


def test_the_same_crystal_counts_once(different: list[Atoms]) -> None:
    given = [a for k, atoms in enumerate(different) for a in (atoms, *rewritten(atoms, k))]
    assert distinct(given) == [0, 7, 14, 21, 28, 35]
    assert distinct([]) == []


def test_polymorphs_are_one_novelty_but_two_things_to_learn() -> None:
    kinds = [("rocksalt", 5.64), ("zincblende", 6.1), ("rocksalt", 5.70)]
    salts = [bulk("NaCl", kind, a=a) for kind, a in kinds]
    assert unique(salts) == [0, 0, 0]
    assert distinct(salts) == [0, 1]


def test_what_is_no_crystal_equals_nothing() -> None:
    broken = bulk("NaCl", "rocksalt", a=5.64)
    broken.positions[:] = 0
    assert unique([broken, broken]) == [0, 1]
    assert novel([broken], [broken]) == [True]
    assert match_rate([broken], [bulk("NaCl", "rocksalt", a=5.64)]) == (0.0, None)


def test_match_rate_in_closed_form(anti_perovskite: Atoms) -> None:
    """One atom moved by d: after the best shift the root mean square is d sqrt(1/5 - 1/25), over (V/N)^(1/3)."""
    moved = anti_perovskite.copy()
    moved.positions[3] += (0.2, 0, 0)
    rate, error = match_rate([moved, bulk("Cu")], [anti_perovskite, anti_perovskite])
    assert rate == 0.5
    assert error == pytest.approx(0.2 * np.sqrt(1 / 5 - 1 / 25) / (4.934 / 5 ** (1 / 3)), rel=1e-6)
    direct = matcher().get_rms_dist(to_pymatgen(moved), to_pymatgen(anti_perovskite))
    assert error == direct[0]
    assert match_rate([anti_perovskite], [make_supercell(anti_perovskite, np.diag([2, 1, 1]))])[0] == 1
    with pytest.raises(VibronicError, match="one to one"):
        match_rate([moved], [])


def test_space_groups(anti_perovskite: Atoms) -> None:
    assert space_group(anti_perovskite) == 221
    assert space_group(bulk("NaCl", "rocksalt", a=5.64)) == 225
    assert space_group(bulk("C", "diamond")) == 227
    anti_perovskite.positions[3] += (0.02, 0, 0)
    assert space_group(anti_perovskite) == 221  # within 0.1 Angstrom
