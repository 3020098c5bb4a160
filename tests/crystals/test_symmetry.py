"""What its space group leaves free in a crystal."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from ase.spacegroup.symmetrize import prep_symmetry

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.crystals import symmetry as module
from vibronic.crystals.candidates import Request
from vibronic.crystals.cells import Cells, centred, lattice_of, metric_of, strain_of, wrapped
from vibronic.crystals.conditioning import EQUAL, Asked, Condition
from vibronic.crystals.generator import CLASSES, CrystalGenerator
from vibronic.crystals.matching import space_group
from vibronic.crystals.memory import Memory
from vibronic.crystals.model import CrystalDiffusion, _some
from vibronic.crystals.sampler import generate
from vibronic.crystals.schedules import budget
from vibronic.crystals.symmetry import Symmetry
from vibronic.crystals.transformer import Output
from vibronic.data.cells import reduced

RUTILE = crystal(["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90])
WURTZITE = bulk("ZnO", "wurtzite", a=3.25, c=5.2)
CALCITE = crystal(
    ["Ca", "C", "O"],
    [(0, 0, 0), (0, 0, 0.25), (0.257, 0, 0.25)],
    spacegroup=167,
    cellpar=[4.99, 4.99, 17.06, 90, 90, 120],
    primitive_cell=True,
)
OLIVINE = crystal(
    ["Mg", "Mg", "Si", "O", "O", "O"],
    [(0, 0, 0), (0.277, 0.25, 0.99), (0.094, 0.25, 0.426), (0.092, 0.25, 0.766), (0.447, 0.25, 0.221), (0.163, 0.03, 0.277)],
    spacegroup=62,
    cellpar=[10.2, 5.98, 4.75, 90, 90, 90],
)  # fmt: skip
FREE = [  # crystal, space group, free coordinates, free components of the metric: from the tables of Wyckoff positions
    (bulk("NaCl", "rocksalt", a=5.64), 225, 0, 1),
    (bulk("Si", "diamond", a=5.43), 227, 0, 1),
    (RUTILE, 136, 1, 2),
    (WURTZITE, 186, 2, 2),
    (CALCITE, 167, 1, 2),
    (OLIVINE, 62, 2 + 2 + 2 + 2 + 3, 3),
]


def cells_of(*crystals: Atoms) -> Cells:
    return Cells.from_batch(Batch.collate([Batch.from_atoms(reduced(a), 0.0) for a in crystals]))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("atoms", "group", "coordinates", "components"), FREE, ids=lambda x: str(x)[:20])
def test_as_many_directions_are_free_as_the_tables_say(
    atoms: Atoms, group: int, coordinates: int, components: int
) -> None:
    assert space_group(atoms) == group
    found = Symmetry.of(cells_of(atoms), 0.01)
    assert found.directions.shape[-1] == coordinates
    symmetric = torch.randn(20, 3, 3)
    symmetric = symmetric + symmetric.mT
    averaged = torch.cat([found.metrics(one[None]) for one in symmetric])
    assert torch.linalg.matrix_rank(averaged.flatten(1), rtol=1e-4) == components


def test_deformed_within_these_directions_a_crystal_keeps_its_group() -> None:
    crystals, groups = [row[0] for row in FREE], [row[1] for row in FREE]
    cells, generator = cells_of(*crystals), torch.Generator().manual_seed(1)
    found = Symmetry.of(cells, 0.01)
    away = found.noise(cells.mask, generator)
    strain = strain_of(cells.lattice, cells.n_atoms) + 0.1 * torch.randn(len(crystals), 6, generator=generator)
    metric = found.metrics(metric_of(strain.double(), cells.n_atoms))
    for share in (0.07, 1.0):
        lattice = torch.linalg.cholesky(metric).to(cells.lattice.dtype)
        moved = Cells(cells.numbers, (cells.fractional + share * away) % 1, lattice)
        assert [space_group(a, 1e-3) for a in moved.to_atoms()] == groups
    assert away[2:].abs().amax((1, 2)).min() > 1e-3
    # Where symmetry is not kept, the same numbers leave none.
    loose = Cells(
        cells.numbers, (cells.fractional + 0.07 * torch.randn_like(away)) % 1, lattice_of(strain, cells.n_atoms)
    )
    assert {space_group(a, 1e-3) for a in loose.to_atoms()} <= {1, 2}


def test_averages_are_projections_onto_the_free_directions() -> None:
    cells = cells_of(*[row[0] for row in FREE])
    found, generator = Symmetry.of(cells, 0.01), torch.Generator().manual_seed(2)
    x = torch.randn(cells.fractional.shape, generator=generator)
    kept = found.displacements(x)
    assert torch.allclose(found.displacements(kept), kept, atol=1e-5)
    noise = found.noise(cells.mask, generator)
    assert torch.allclose(found.displacements(noise), noise, atol=1e-5)
    assert (kept[~cells.mask] == 0).all()
    metric = metric_of(torch.randn(len(x), 6, generator=generator) * 0.2, cells.n_atoms).double()
    once = found.metrics(metric)
    assert torch.allclose(found.metrics(once), once, rtol=1e-5)
    own = cells.lattice @ cells.lattice.mT
    assert torch.allclose(found.metrics(own), own, rtol=1e-4, atol=1e-4)
    kinds = found.kinds(torch.randn(*cells.numbers.shape, 4, generator=generator))
    assert torch.allclose(found.kinds(kinds), kinds, atol=1e-6)
    assert torch.allclose(kinds[2, 0], kinds[2, 1])  # the two Ti of rutile, or two of its O, are one orbit
    assert found.orbits[0, :2].unique().numel() == 2  # Na and Cl are not


def test_averages_are_those_over_the_operations() -> None:
    """One by one, in an oblique cell; calcite's primitive cell is rhombohedral."""
    cells = cells_of(CALCITE)
    (atoms,) = cells.to_atoms()
    rotations, _, carried = prep_symmetry(atoms, 0.01)
    x = np.random.default_rng(0).normal(size=(len(atoms), 3))
    metric = np.random.default_rng(1).normal(size=(3, 3))
    metric = metric @ metric.T
    moved, turned = np.zeros_like(x), np.zeros((3, 3))
    for rotation, to in zip(rotations, carried, strict=True):
        for k, j in enumerate(to):
            moved[j] += rotation @ x[k] / len(rotations)
        turned += rotation.T @ metric @ rotation / len(rotations)
    found = Symmetry.of(cells, 0.01)
    assert found.displacements(torch.tensor(x[None]).float()).numpy()[0] == pytest.approx(moved, abs=1e-5)
    assert found.metrics(torch.tensor(metric[None])).numpy()[0] == pytest.approx(turned, abs=1e-5)


def test_noise_has_no_drift_and_shorter_ways_for_it() -> None:
    """In a polar perovskite, whose atoms move along c by themselves: what they all do together is no way to go."""
    places = [(0, 0, 0), (0.5, 0.5, 0.52), (0.5, 0.5, 0.97), (0.5, 0, 0.48), (0, 0.5, 0.48)]
    cells = cells_of(Atoms("BaTiO3", scaled_positions=places, cell=[4, 4, 4.1], pbc=True))
    found, generator = Symmetry.of(cells, 0.01), torch.Generator().manual_seed(6)
    noise = torch.cat([found.noise(cells.mask, generator) for _ in range(1000)])
    assert noise.sum(1).abs().max() < 1e-5
    along = torch.rand(1000, found.directions.shape[-1], 1, generator=generator) - 0.5
    naive = centred((found.directions @ along).view(1000, 5, 3), cells.mask.expand(1000, 5))
    assert noise.square().sum((1, 2)).mean() < 0.9 * naive.square().sum((1, 2)).mean()
    assert noise.abs().max() < 0.51


def test_every_place_is_equally_likely() -> None:
    """Of wurtzite's one free coordinate, and of an atom in P1, within a period."""
    cells, generator = cells_of(WURTZITE), torch.Generator().manual_seed(3)
    found = Symmetry.of(cells, 0.01)
    oxygen = int((cells.numbers[0] == 8).nonzero()[0])
    zinc = int((cells.numbers[0] == 30).nonzero()[0])
    noise = torch.cat([found.noise(cells.mask, generator) for _ in range(4000)])
    apart = (noise[:, oxygen] - noise[:, zinc])[:, 2] % 1
    counts = torch.histc(apart, 10, 0, 1).numpy()
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # chi squared of 9 degrees of freedom, one in a thousand
    assert noise[:, :, :2].abs().max() < 1e-6
    two = torch.ones(1, 2, dtype=torch.bool)
    free = torch.cat([Symmetry.none(two, noise).noise(two, generator) for _ in range(4000)])
    for axis in range(3):
        counts = torch.histc((free[:, 0] - free[:, 1])[:, axis] % 1, 10, 0, 1).numpy()
        assert ((counts - 400) ** 2 / 400).sum() < 27.9


def test_oblique_directions_close_on_themselves() -> None:
    """A whole step along each direction brings every atom to an equivalent place."""
    found = Symmetry.of(cells_of(*[row[0] for row in FREE]), 0.01)
    whole = found.directions
    assert torch.allclose(whole, whole.round(), atol=1e-6)
    assert whole.abs().max() >= 1


def test_without_symmetry_everything_is_free() -> None:
    rng = np.random.default_rng(0)
    loose = Atoms("NaClF", scaled_positions=rng.random((3, 3)), cell=rng.normal(size=(3, 3)) + 5 * np.eye(3), pbc=True)
    cells = cells_of(loose, RUTILE, RUTILE)
    found = Symmetry.of(cells, 0.01, torch.tensor([True, True, False]))
    assert found.free.tolist() == [True, False, True]
    x = torch.randn(cells.fractional.shape) * cells.mask[..., None]
    assert torch.allclose(found.displacements(x)[[0, 2]], x[[0, 2]])
    assert not torch.allclose(found.displacements(x)[1], x[1], atol=0.1)
    assert torch.equal(found.kinds(x)[2], x[2])
    assert not Symmetry.of(cells_of(*[WURTZITE] * 2), 0.01)[torch.tensor([1, 1, 0])].free.any()


def test_each_crystal_is_analysed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    inner = module._operations
    monkeypatch.setattr(module, "_operations", lambda *args: (calls.append(1), inner(*args))[1])
    module._freedom.cache_clear()
    for _ in range(3):
        Symmetry.of(cells_of(RUTILE, OLIVINE), 0.01)
    assert len(calls) == 2


def test_whole_orbits_are_taken() -> None:
    cells, generator = cells_of(RUTILE, OLIVINE), torch.Generator().manual_seed(4)
    orbits = Symmetry.of(cells, 0.01).orbits
    counts = set()
    for _ in range(50):
        taken = _some(cells.mask, torch.tensor([1, 10]), orbits, generator)
        for row, orbit in zip(taken, orbits, strict=True):
            for first in orbit.unique():
                assert row[orbit == first].unique().numel() == 1
        counts.add(tuple(taken.sum(1).tolist()))
    assert {one for one, _ in counts} <= {2, 4}
    assert min(two for _, two in counts) >= 10
    assert len(counts) > 2


# --- crystals of a model ---


class Oracle:
    """In the place of a network: what leads straight to the crystals ``end``, of strains ``strain``, and their kinds."""

    def __init__(self, end: Cells, strain: torch.Tensor) -> None:
        self.end, self.strain = end, strain

    def __call__(self, species, mask, time, embedded, fractional, strain) -> Output:  # type: ignore[no-untyped-def]
        left, end = (1 - time).clamp(min=1e-6), self.end[torch.arange(len(time))]
        coordinates = (end.fractional - fractional) / left[:, None, None]
        kinds = torch.nn.functional.one_hot((end.numbers - 1).clamp(min=0), CLASSES)
        lattice = (self.strain[: len(time)] - strain) / left[:, None]
        return Output(50.0 * kinds, coordinates, lattice, strain.new_zeros(len(time), 1))


@pytest.mark.parametrize("free", [0.0, 0.5, 1.0])
def test_who_knows_the_ways_has_no_loss(
    tiny_model: Callable[..., CrystalGenerator], batch_of: Callable[..., Batch], free: float
) -> None:
    """Ways lead from where an atom is shown to where it belongs, within the symmetry or not, and so does the lattice's."""
    model = tiny_model("adaln", free=free).train()
    assert isinstance(model, CrystalDiffusion)
    crystals = [RUTILE, OLIVINE] * 4  # in whose cells averages of metric tensors are straight
    for atoms in crystals:
        atoms.info["band_gap"] = 1.0
    batch = batch_of(model, crystals)
    cells = Cells.from_batch(batch)
    model._evaluate = Oracle(cells, model._strain(cells))  # type: ignore[method-assign]
    figures = model.loss(batch)
    assert float(figures["coordinates"]) < 1e-6
    assert float(figures["lattice"]) < 1e-3
    assert float(figures["species"]) < 1e-6


@pytest.mark.parametrize("lent", [True, False])
def test_who_knows_the_ways_arrives(tiny_model: Callable[..., CrystalGenerator], lent: bool) -> None:
    model = tiny_model("adaln")
    assert isinstance(model, CrystalDiffusion)
    end = cells_of(RUTILE, WURTZITE, OLIVINE, CALCITE)
    model._evaluate = Oracle(end, model._strain(end))  # type: ignore[method-assign]
    asked = Asked(torch.ones(4, 1), torch.full((4, 1), EQUAL), torch.zeros(4, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    cells, _ = model.sample(
        end.numbers, model.allowed(), asked, 40, 1.0, generator, lambda n: None, end if lent else None
    )
    apart = wrapped(cells.fractional - end.fractional) * end.mask[..., None]
    apart = wrapped(apart - apart[:, :1]) * end.mask[..., None]  # a crystal may begin anywhere
    assert apart.abs().max() < 1e-3
    assert torch.allclose(cells.lattice @ cells.lattice.mT, end.lattice @ end.lattice.mT, rtol=1e-2, atol=1e-2)


def test_lattices_settle_with_half_the_noise(
    tiny_model: Callable[..., CrystalGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing moves, a lattice is what its noises leave: from variance 1, s^2 becomes (back s)^2 + ((1 - back) / 2)^2 each time."""
    model = tiny_model("adaln")
    assert isinstance(model, CrystalDiffusion)

    def still(species, mask, time, embedded, fractional, strain) -> Output:  # type: ignore[no-untyped-def]
        kinds = fractional.new_zeros(*species.shape, CLASSES)
        return Output(kinds, torch.zeros_like(fractional), torch.zeros_like(strain), strain.new_zeros(len(time), 1))

    monkeypatch.setattr(model, "_evaluate", still)
    model.spread = torch.full((6,), 0.05)  # so that no cell degenerates
    variance = 1.0
    for _, back, _, _ in budget(100, 0, 1)[1]:
        variance = (back**2) * variance + (0.5 * (1 - back)) ** 2
    many = 4000
    species = torch.tensor([[11, 17]]).repeat(many, 1)
    asked = Asked(torch.ones(many, 1), torch.zeros(many, 1, dtype=torch.long), torch.zeros(many, dtype=torch.long))
    cells, _ = model.sample(species, model.allowed(), asked, 100, 1.0, torch.Generator().manual_seed(0), lambda n: None)
    found = model._strain(cells).var(0)
    assert found.mean() == pytest.approx(variance, rel=0.05)  # without the half it is four times as much


def test_untrained_models_make_symmetric_crystals(tiny_model: Callable[..., CrystalGenerator]) -> None:
    """Whatever a network says, the crystal has the symmetry of its template, its elements one per orbit."""
    model = tiny_model("adaln")
    assert isinstance(model, CrystalDiffusion)
    crystals = [RUTILE, WURTZITE, OLIVINE, CALCITE]
    templates = cells_of(*crystals)
    species = torch.where(templates.mask, -1, 0)
    asked = Asked(torch.ones(4, 1), torch.full((4, 1), EQUAL), torch.zeros(4, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    cells, _ = model.sample(species, model.allowed(), asked, 60, 2.0, generator, lambda n: None, templates)
    orbits = Symmetry.of(templates, 0.01).orbits
    assert torch.equal(cells.numbers, cells.numbers.gather(1, orbits))
    for k, group in enumerate((136, 186, 62, 167)):
        # As if all its atoms were different elements but for those of one orbit: equal elements may make it more symmetric.
        there = cells.mask[k]
        parts = (orbits[k][there] + 1).tolist(), cells.fractional[k][there].tolist(), cells.lattice[k].tolist()
        assert space_group(Atoms(parts[0], scaled_positions=parts[1], cell=parts[2], pbc=True), 1e-3) == group
    before = cells
    cells, _ = model.sample(species, model.allowed(), asked, 60, 2.0, torch.Generator().manual_seed(0), lambda n: None)
    assert not torch.allclose(cells.fractional, before.fractional)
    assert {space_group(a, 1e-3) for a in cells.to_atoms()} <= {1, None}


def test_a_request_has_the_symmetry_of_a_training_crystal_unless_free(
    tiny_model: Callable[..., CrystalGenerator],
) -> None:
    model = tiny_model("adaln")
    kept = generate(model, Request(evaluations=30, keep="all", tolerance=0.0), 12).crystals
    known = set(model.memory.spacegroups.tolist())
    assert {space_group(a, 1e-3) for a in kept if a.get_volume() < 1e4} & known
    assert all((space_group(a, 1e-3) or 1) > 1 for a in kept if 5 < a.get_volume() / len(a) < 1e3)
    free = generate(model, Request(evaluations=30, keep="all", tolerance=0.0, free=True), 12).crystals
    assert any((space_group(a, 1e-3) or 1) == 1 for a in free if len(a) == 3)


def test_a_composition_takes_the_sites_of_a_crystal_of_its_pattern(tiny_model: Callable[..., CrystalGenerator]) -> None:
    model = tiny_model("adaln")
    for atoms in generate(model, Request(composition="ZnF2", evaluations=30, keep="all", tolerance=0.0), 4).crystals:
        assert sorted(atoms.numbers.tolist()) == [9, 9, 30]
        if 5 < atoms.get_volume() / len(atoms) < 1e3:
            assert space_group(atoms, 1e-3) == 225  # of CaF2, which alone is of this pattern


def test_compositions_go_where_their_elements_are_most_alike(
    tiny_model: Callable[..., CrystalGenerator], handed: Callable[..., list]
) -> None:
    """CuS is like ZnS, NaF like NaCl, then CsCl; the second time round the list begins again."""
    memory = tiny_model("adaln").memory
    of_two = [(11, 17), (30, 16), (55, 17), (31, 33)]
    unlike = memory.unlike([11, 9])
    assert torch.isfinite(unlike).sum() == 4
    assert memory.unlike([17, 11]).min() == 0
    (args,) = handed(Request(composition="CuS", evaluations=2, keep="all"))
    lent = [tuple(row) for row in args[-1].numbers[:4].tolist()]
    assert {tuple(sorted(pair)) for pair in lent} == {tuple(sorted(pair)) for pair in of_two}
    assert sorted(lent[0]) == [16, 30]
    assert torch.equal(args[-1].numbers[4:], args[-1].numbers[:4])
    for row, template in zip(args[0].tolist(), args[-1].numbers.tolist(), strict=True):
        assert row == [29 if z in (11, 30, 55, 31) else 16 for z in template]
    (args,) = handed(Request((Condition.parse("band_gap=2"),), composition="NaF", evaluations=2, keep="all"))
    assert sorted(args[-1].numbers[0].tolist()) == [17, 55]  # nearly as alike, and of this gap
    (args,) = handed(Request((Condition.parse("band_gap>=4"),), composition="NaF", evaluations=2, keep="all"))
    assert {tuple(sorted(row)) for row in args[-1].numbers.tolist()} == {(31, 33)}


def test_a_group_that_no_crystal_of_this_size_has(tiny_model: Callable[..., CrystalGenerator]) -> None:
    model = tiny_model("adaln")
    with pytest.raises(VibronicError, match="no crystal of space group 221 with 3 atoms"):
        generate(model, Request(spacegroup=221, n_atoms=3), 1)
    made = generate(model, Request(composition="NaCsCl", evaluations=2, keep="all"), 1)
    assert made.remarks == [
        "no training crystal with a formula like NaCsCl lends its symmetry: atoms are placed freely"
    ]
    assert not generate(model, Request(composition="NaCsCl", evaluations=2, keep="all", free=True), 1).remarks


@pytest.fixture
def handed(tiny_model: Callable[..., CrystalGenerator], monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """Function that gives the arguments with which a request lets the model sample, by another memory if one is given."""

    def arguments(request: Request, memory: Memory | None = None) -> list:
        model, given = tiny_model("adaln"), []
        if memory is not None:
            model.memory = memory
        inner = model.sample
        monkeypatch.setattr(model, "sample", lambda *args: (given.append(args), inner(*args))[1])
        generate(model, request, 8)
        return given

    return arguments


def test_a_system_and_a_size_lend_crystals_of_this_size(handed: Callable[..., list]) -> None:
    given = handed(Request(system=("Na", "Cl"), n_atoms=3, evaluations=2, keep="all"))
    assert [(args[-1].n_atoms == 3).all() for args in given] == [True] * len(given)


def test_values_are_asked_for_within_an_interval_whatever_else_is(handed: Callable[..., list]) -> None:
    """Of the pattern of ZnF2 there is CaF2 alone, with a gap of 6 eV."""
    conditions = (Condition.parse("1.5<band_gap<4.5"),)
    for _, _, asked, *_ in handed(Request(conditions, composition="ZnF2", evaluations=2, keep="all")):
        assert ((asked.value > 1.5) & (asked.value < 4.5)).all()


def test_free_placing_takes_no_regard_to_patterns(handed: Callable[..., list]) -> None:
    """An interval is then answered by any of its crystals, not by the nearest value to CaF2's."""
    conditions = (Condition.parse("1.5<band_gap<4.5"),)
    given = handed(Request(conditions, composition="ZnF2", evaluations=2, keep="all", free=True))
    assert all(args[-1] is None for args in given)
    assert set(torch.cat([args[2].value for args in given]).flatten().tolist()) <= {2.0, 3.0, 4.0}


def test_what_is_lent_is_as_symmetric_as_its_space_group_says(
    tiny_model: Callable[..., CrystalGenerator], handed: Callable[..., list]
) -> None:
    """Groups are found within 0.1 Angstrom; by operations within 0.01 a crystal a little off would lend less."""
    memory = tiny_model("adaln").memory
    row = int((memory.counts == 3).nonzero()[0])
    exact = space_group(memory.cells(torch.tensor([row])).to_atoms()[0], 1e-3)
    last = int(memory.counts[: row + 1].sum())
    memory.fractional[last - 1, 0] += 0.01
    off = memory.cells(torch.tensor([row])).to_atoms()[0]
    assert space_group(off, 0.1) == exact != space_group(off, 0.01)
    how: dict = {"evaluations": 2, "keep": "all"}
    lent = [args[-1].to_atoms() for args in handed(Request(spacegroup=exact, n_atoms=3, **how), memory)]
    assert {space_group(atoms, 1e-3) for some in lent for atoms in some} == {exact}
    wide = [args[-1].to_atoms() for args in handed(Request(spacegroup=exact, n_atoms=3, tolerance=0.3, **how), memory)]
    assert {space_group(atoms, 1e-3) for some in wide for atoms in some} == {exact}
    for request in (Request(spacegroup=exact, n_atoms=3, tolerance=0.0, **how), Request(n_atoms=3, **how)):
        own = [args[-1].to_atoms() for args in handed(request, memory)]
        assert {space_group(atoms, 0.01) for some in own for atoms in some} != {exact}


def test_what_no_training_crystal_of_the_group_answers_is_told(tiny_model: Callable[..., CrystalGenerator]) -> None:
    """There are gaps below 4.5 eV, and fluorites, but the gap of these is 6 eV."""
    model = tiny_model("adaln")
    conditions = (Condition.parse("1.5<band_gap<4.5"),)
    for free in (False, True):
        request = Request(conditions, spacegroup=225, n_atoms=3, evaluations=2, keep="all", free=free)
        assert any("answers all of this at once" in said for said in generate(model, request, 1).remarks)
    assert not generate(model, Request(conditions, evaluations=2, keep="all"), 1).remarks


@pytest.mark.parametrize("tolerance", [0.05, 0.3])
def test_no_group_above_the_one_asked_for_is_lent(
    tiny_model: Callable[..., CrystalGenerator], handed: Callable[..., list], tolerance: float
) -> None:
    """Distorted by 0.12 Angstrom a fluorite has a lower group; within 0.3 it would be fluorite again."""
    memory = tiny_model("adaln").memory
    row = int((memory.counts == 3).nonzero()[0])
    memory.fractional[int(memory.counts[: row + 1].sum()) - 1, 0] += 0.03
    atoms = memory.cells(torch.tensor([row])).to_atoms()[0]
    group = space_group(atoms, 0.1)
    assert group == 8
    assert space_group(atoms, 0.3) == 225
    memory.spacegroups[row] = 8
    request = Request(spacegroup=8, n_atoms=3, tolerance=tolerance, evaluations=2, keep="all")
    assert {space_group(a, 1e-2) for args in handed(request, memory) for a in args[-1].to_atoms()} == {8}


def test_equally_like_crystals_are_taken_in_another_order_by_another_seed(
    tiny_model: Callable[..., CrystalGenerator],
) -> None:
    memory = tiny_model("adaln").memory
    among, same = torch.ones(len(memory), dtype=torch.bool), torch.zeros(len(memory), dtype=torch.float64)
    orders = {tuple(memory.ranked([], among, same, torch.Generator().manual_seed(k)).tolist()) for k in range(4)}
    assert len(orders) > 1
    unlike = 5 + same  # as far as one another: the condition decides
    first = memory.ranked([Condition.parse("band_gap=4")], among, unlike, torch.Generator().manual_seed(0))[0]
    assert float(memory.column("band_gap")[first]) == 4
