"""Reading, checking, converting, splitting and batching labelled sets."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from vibronic.core.errors import VibronicError, VibronicWarning
from vibronic.core.targets import TARGETS
from vibronic.core.units import GPA
from vibronic.data.dataset import (
    BucketSampler,
    GraphData,
    describe,
    in_batches,
    label_of,
    labels_of,
    loader,
    read_labelled,
    read_structures,
    split,
    write_structures,
)

POTENTIAL = [TARGETS[name] for name in ("energy", "forces", "stress", "pressure", "band_gap")]


def test_no_file_is_written_where_its_units_would_be_misread(tmp_path: Path) -> None:
    atoms = Atoms("Cu", cell=[3.0] * 3, pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    (tmp_path / "dataset.yaml").write_text("units: {energy: eV}")
    write_structures(tmp_path / "same.extxyz", [atoms])
    (tmp_path / "dataset.yaml").write_text("units: {energy: Hartree}")
    with pytest.raises(VibronicError, match="another unit of 'energy'"):
        write_structures(tmp_path / "other.extxyz", [atoms])


def test_labels_and_provenance_survive_the_file(tmp_path: Path, labelled_copper: list[Atoms]) -> None:
    provenance = {
        "method": "phonons",
        "temperature_K": 300.0,
        "seed": 7,
        "parent": "Cu",
        "engine": "emt",
        "settings": "emt-1e5",
    }
    for atoms in (frames := [a.copy() for a in labelled_copper[:3]]):
        atoms.info.update(provenance)
    for atoms, source in zip(frames, labelled_copper, strict=False):
        atoms.calc = SinglePointCalculator(atoms, **source.calc.results)
    write_structures(tmp_path / "a.extxyz", frames)
    for before, after in zip(labelled_copper, read_labelled(tmp_path / "a.extxyz"), strict=False):
        assert provenance.items() <= after.info.items()
        assert np.allclose(before.positions, after.positions, atol=1e-7)
        for t in POTENTIAL:
            assert np.allclose(label_of(before, t.name), label_of(after, t.name), atol=1e-7)


def test_pressure_is_minus_a_third_of_the_trace(labelled_copper: list[Atoms]) -> None:
    stress = label_of(labelled_copper[0], "stress")
    assert np.shape(stress) == (3, 3)
    assert np.array_equal(stress, np.transpose(stress))
    assert label_of(labelled_copper[0], "pressure") == pytest.approx(-np.trace(stress) / 3)


def test_units_beside_the_file_are_converted(tmp_path: Path, labelled_copper: list[Atoms]) -> None:
    write_structures(tmp_path / "a.extxyz", labelled_copper[:1])
    plain = read_labelled(tmp_path / "a.extxyz")[0]
    (tmp_path / "dataset.yaml").write_text("units: {energy: Hartree, stress: GPa, band_gap: meV}\n")
    converted = read_labelled(tmp_path / "a.extxyz")[0]
    for name, factor in {"energy": 27.211386, "stress": GPA, "band_gap": 1e-3, "forces": 1.0}.items():
        assert np.allclose(label_of(converted, name), np.multiply(label_of(plain, name), factor), rtol=1e-6), name


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("units: {energy: Angstrom}", "different quantities"),
        ("units: {forces: pound}", "unknown unit"),
        ("units: [energy]", "description"),
        ("- a", "description"),
        ("units: {energy: eV", "description"),
    ],
)
def test_a_wrong_description_is_refused(tmp_path: Path, labelled_copper: list[Atoms], text: str, word: str) -> None:
    write_structures(tmp_path / "a.extxyz", labelled_copper[:1])
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(VibronicError, match=word) as caught:
        read_labelled(tmp_path / "a.extxyz")
    assert "dataset.yaml" in str(caught.value)


def test_a_folder_is_the_sum_of_its_files(tmp_path: Path, labelled_copper: list[Atoms]) -> None:
    write_structures(tmp_path / "b.extxyz", labelled_copper[2:5])
    write_structures(tmp_path / "a.extxyz", labelled_copper[:2])
    (tmp_path / "dataset.yaml").write_text("units: {energy: meV}")
    frames = read_labelled(tmp_path)
    assert [a.info["parent"] for a in frames] == [f"Cu-{k}" for k in range(5)]
    assert label_of(frames[0], "energy") == pytest.approx(label_of(labelled_copper[0], "energy") / 1000)


def test_a_folder_of_molecules(tmp_path: Path) -> None:
    """One .xyz each, as chemists keep them: without a cell, the comment empty, prose or labels."""
    names = ("CH4", "H2O", "C6H6")
    for name, comment in zip(names, ("", "water, from somewhere", "energy=-1.5 homo=-6.25"), strict=True):
        atoms = molecule(name)
        lines = [f"{s} {x:.10f} {y:.10f} {z:.10f}" for s, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)]
        (tmp_path / f"{name}.xyz").write_text("\n".join([str(len(atoms)), comment, *lines]) + "\n")
    frames = read_labelled(tmp_path)
    assert [len(a) for a in frames] == [12, 5, 3]  # files in the order of their names: C6H6, CH4, H2O
    for atoms, name in zip(frames, sorted(names), strict=True):
        assert (atoms.numbers == molecule(name).numbers).all()
        assert np.allclose(atoms.positions, molecule(name).positions, atol=1e-9)
        assert not atoms.pbc.any()
    assert (label_of(frames[0], "energy"), label_of(frames[0], "homo")) == (-1.5, -6.25)
    batch = next(in_batches(frames, 5.0, 3))
    assert batch.n_atoms.tolist() == [12, 5, 3]
    assert not batch.cell.any()


def test_what_no_format_claims_is_passed_over_and_counted(tmp_path: Path) -> None:
    write_structures(tmp_path / "a.xyz", [molecule("H2O")])
    (tmp_path / "dataset.yaml").write_text("units: {}")
    for name in ("README.md", "index.json", "notes.txt", "plan.pdf", "scores.csv"):
        (tmp_path / name).write_text("Bought water.\n")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "._a.xyz").write_bytes(b"\0\5\26\7")
    with pytest.warns(VibronicWarning) as told:
        assert len(read_structures(tmp_path)) == 1
    assert len(told) == 1
    assert str(told[0].message).endswith(
        "ignored files that hold no structures: 7 (.DS_Store, ._a.xyz, README.md, ...)"
    )


@pytest.mark.parametrize(
    ("name", "content"), [("b.xyz", b""), ("POSCAR", b"?\n"), ("b.cif", b"\0\xff"), ("b.xyz.gz", b"?")]
)
def test_a_damaged_structure_file_is_not_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    write_structures(tmp_path / "a.xyz", [molecule("H2O")])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VibronicError, match=name):
        read_structures(tmp_path)


def test_labels_are_demanded_by_name(labelled_copper: list[Atoms]) -> None:
    with pytest.raises(
        VibronicError, match=r"structure 3 has no label 'vbm'; it has energy, forces, stress, pressure, band_gap"
    ):
        labels_of(labelled_copper[0], [TARGETS["vbm"]], "structure 3")


@pytest.mark.parametrize("value", [np.nan, np.inf, "high", [1.0, 2.0]])
def test_a_label_is_one_finite_number(copper: Atoms, value: object) -> None:
    copper.info["band_gap"] = value
    with pytest.raises(VibronicError, match="band_gap"):
        labels_of(copper, [TARGETS["band_gap"]])


# --- splits ---


def family(parent: object, n: int) -> list[Atoms]:
    return [Atoms("H", info={"parent": parent}) for _ in range(n)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=6, max_size=30),
    fractions=st.lists(st.floats(0.01, 1), min_size=1, max_size=3),
    seed=st.integers(0, 99),
)
def test_children_stay_with_their_parent(sizes: list[int], fractions: list[float], seed: int) -> None:
    frames = [a for k, n in enumerate(sizes) for a in family(k, n)]
    parts = split(frames, fractions, seed)
    assert sorted(k for part in parts for k in part) == list(range(len(frames)))
    assert all(parts)
    parents = [{frames[k].info["parent"] for k in part} for part in parts]
    assert sum(map(len, parents)) == len(set.union(*parents))
    assert parts == split(frames, fractions, seed)


@pytest.mark.parametrize("n", range(3, 12))
def test_no_part_is_empty(n: int) -> None:
    frames = [Atoms("H") for _ in range(n)]
    assert all(split(frames, (0.8, 0.1, 0.1), 0))
    assert all(split(frames, (0.01, 0.01, 0.98), 0))


def test_shares_and_seeds() -> None:
    frames = [Atoms("H") for _ in range(200)]
    assert list(map(len, split(frames, (0.7, 0.15, 0.15), 0))) == [140, 30, 30]
    assert split(frames, (0.5, 0.5), 0) != split(frames, (0.5, 0.5), 1)


def together(frames: list[Atoms], *keys: str) -> None:
    """Every value of ``keys`` is in one part only, whatever the seed."""
    for seed in range(10):
        parts = split(frames, (0.6, 0.2, 0.2), seed)
        assert sorted(k for part in parts for k in part) == list(range(len(frames)))
        found = [{tuple(frames[k].info[key] for key in keys) for k in part} for part in parts]
        assert sum(map(len, found)) == len(set.union(*found))


def test_two_parents_per_part_are_enough_to_keep_them_whole() -> None:
    together([a for k in range(6) for a in family(k, 4)], "parent")
    with pytest.raises(AssertionError):
        together([a for k in range(5) for a in family(k, 4)], "parent")


def test_pairs_of_one_crystal_stay_together() -> None:
    drawn = [("NaCl", "phonons", seed, k // 2) for seed in (0, 1) for k in range(20)]
    frames = [Atoms("H", info=dict(zip(("parent", "method", "seed", "pair"), keys, strict=True))) for keys in drawn]
    together(frames, "seed", "pair")
    sizes = {len(part) for part in split(frames, [1] * 20, 0)}
    assert sizes == {2}  # equal numbers of two draws are two pairs, not one


def test_neighbours_in_a_trajectory_stay_together() -> None:
    """The same seed at another temperature, or of another crystal, is another trajectory."""
    frames = [
        Atoms("H", info={"method": "md", "parent": parent, "seed": 0, "temperature_K": t, "stretch": time // 5})
        for parent, t in (("a", 300.0), ("a", 600.0), ("b", 300.0))
        for time in range(22)
    ]
    together(frames, "parent", "temperature_K", "stretch")
    assert len(split(frames, [1] * 15, 0)) == 15


@pytest.mark.parametrize("n", range(3, 12))
def test_a_short_trajectory_still_fills_every_part(n: int) -> None:
    frames = [Atoms("H", info={"method": "md", "parent": "a", "seed": 0}) for _ in range(n)]
    assert all(split(frames, (0.8, 0.1, 0.1), 0))


@given(st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_the_first_part_holds_every_element_and_no_family_is_torn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    structures = []
    for parent in range(12):
        symbols = rng.choice(["Li", "Na", "K", "Rb", "Cs"], p=[0.6, 0.2, 0.1, 0.05, 0.05], size=3)
        structures += [Atoms([symbol, "Cl"], info={"parent": f"{parent}"}) for symbol in symbols]
    parts = split(structures, (0.5, 0.25, 0.25), seed)
    assert sorted(k for part in parts for k in part) == list(range(36))
    parents = [{structures[k].info["parent"] for k in part} for part in parts]
    assert sum(map(len, parents)) == 12
    shown = {z for k in parts[0] for z in structures[k].numbers}
    assert shown == {z for atoms in structures for z in atoms.numbers}


def test_families_that_the_caller_knows() -> None:
    structures = [Atoms("H") for _ in range(20)]
    families = [k // 2 for k in range(20)]
    parts = split(structures, (0.5, 0.5), 0, families)
    assert {k // 2 for k in parts[0]}.isdisjoint({k // 2 for k in parts[1]})


def test_too_few_families() -> None:
    with pytest.raises(VibronicError, match="cannot be split"):
        split([Atoms("H", info={"parent": "a", "pair": 0})] * 5, (0.5, 0.5), 0)


# --- batches ---


def test_buckets_hold_similar_sizes_and_everything_once() -> None:
    sizes = np.random.default_rng(0).integers(1, 60, 203)
    sampler = BucketSampler(sizes, 8, seed=1)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 26
    assert sorted(k for b in batches for k in b) == list(range(203))
    assert np.mean([np.ptp(sizes[b]) for b in batches]) < 0.2 * np.ptp(sizes)
    assert batches == list(sampler)
    sampler.set_epoch(1)
    assert batches != list(sampler)


@pytest.mark.parametrize(("n", "replicas"), [(40, 2), (9, 2), (3, 3), (1, 4), (17, 3)])
def test_ranks_share_the_set(n: int, replicas: int) -> None:
    ranks = [list(BucketSampler([5] * n, 2, seed=0, rank=r, replicas=replicas)) for r in range(replicas)]
    assert len({len(r) for r in ranks}) == 1  # or the others would wait for ever
    assert {k for r in ranks for b in r for k in b} == set(range(n))
    if n % (2 * replicas) == 0:
        assert sum(len(b) for r in ranks for b in r) == n


@pytest.mark.parametrize(("n", "replicas"), [(40, 2), (9, 2), (17, 3), (19, 3)])
def test_a_step_of_all_ranks_is_a_step_of_one_with_a_larger_batch(n: int, replicas: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 60, n)
    alone = BucketSampler(sizes, 2 * replicas, seed=3)
    ranks = [BucketSampler(sizes, 2, seed=3, rank=r, replicas=replicas) for r in range(replicas)]
    for epoch in range(2):
        for sampler in (alone, *ranks):
            sampler.set_epoch(epoch)
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert {k for part in parts for k in part} == set(whole)
            lengths = [len(part) for part in parts]
            assert max(lengths) - min(lengths) <= 1
            assert sum(lengths) == max(len(whole), replicas)


def test_the_loader_gives_labelled_batches(labelled_copper: list[Atoms]) -> None:
    data = GraphData(labelled_copper, POTENTIAL, 4.0)
    batches = list(loader(data, 5, seed=0))
    assert sum(b.n_structures for b in batches) == len(data) == 24
    assert batches[0].labels["stress"].shape == (5, 3, 3)
    assert batches[0].labels["forces"].shape == (20, 3)
    assert data.batch().n_structures == 24


def test_description(labelled_copper: list[Atoms]) -> None:
    said = describe(labelled_copper)
    assert said["structures"] == 24
    assert said["atoms"] == [4, 4]
    assert said["methods"] == ["rattle"]
    assert said["labels"]["stress"] == "eV/Angstrom^3"


# --- faults ---


def test_partial_occupancies_are_refused_but_whole_ones_read(tmp_path: Path) -> None:
    from ase.io import write
    from ase.spacegroup import crystal

    write(
        tmp_path / "whole.cif",
        crystal(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.64] * 3 + [90] * 3),
    )
    assert len(read_structures(tmp_path / "whole.cif")[0]) == 8
    text = (tmp_path / "whole.cif").read_text()
    assert "1.0000" in text
    (tmp_path / "half.cif").write_text(text.replace("1.0000", "0.5000", 1))
    with pytest.raises(VibronicError, match="partial occupancies"):
        read_structures(tmp_path / "half.cif")


def test_gzipped(tmp_path: Path, copper: Atoms) -> None:
    import gzip

    write_structures(tmp_path / "a.extxyz", [copper])
    with gzip.open(tmp_path / "b.extxyz.gz", "wb") as file:
        file.write((tmp_path / "a.extxyz").read_bytes())
    assert read_structures(tmp_path / "b.extxyz.gz")[0] == copper


def test_generated_structures_are_read_as_they_are(tmp_path: Path) -> None:
    """Overlapping atoms, no volume and NaN, which only counting them needs."""
    overlapping = Atoms("H2", positions=[(0, 0, 0), (0, 0, 0.1)], cell=[3.0] * 3, pbc=True)
    broken = Atoms("H", positions=[(np.nan, 0, 0)], cell=[3.0, 3.0, 0.0], pbc=True)
    write(tmp_path / "g.extxyz", [overlapping, broken])
    with pytest.raises(VibronicError, match="overlap"):
        read_structures(tmp_path / "g.extxyz")
    assert [len(atoms) for atoms in read_structures(tmp_path, check=False)] == [2, 1]
