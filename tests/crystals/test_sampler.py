"""From requests to crystals: what is refused, what is kept, what is promised."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.crystals import candidates, sampler
from vibronic.crystals.candidates import Request
from vibronic.crystals.conditioning import EQUAL, Condition
from vibronic.crystals.generator import CrystalGenerator
from vibronic.crystals.sampler import generate, judge
from vibronic.crystals.validity import composition_validity, structural_validity
from vibronic.learning import store

Ask = Callable[..., sampler.Generated]


@pytest.fixture(scope="module")
def trained(taught: Callable[..., CrystalGenerator]) -> CrystalGenerator:
    """A small model after a hundred steps on the simple crystals, gaps 0 ... 7; it makes valid crystals now and then."""
    return taught("crystal-diffusion", 60, repeats=2, width=24, depth=1, heads=2, pair=8, frequencies=3)


@pytest.fixture
def ask(trained: CrystalGenerator, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Function that makes crystals, and gives up sooner than users would."""
    monkeypatch.setattr(sampler, "TRIES", 8)
    monkeypatch.setattr(candidates, "BARREN", 8)

    def made(*conditions: str, n: int = 4, seed: int = 0, **request: object) -> sampler.Generated:
        asked = tuple(Condition.parse(c) for c in conditions)
        return generate(
            trained,
            Request(conditions=asked, **{"evaluations": 8, "tolerance": 0.0, "keep": "all", **request}),
            n,
            seed,
        )

    return made


# --- what is refused ---


@pytest.mark.parametrize(
    ("conditions", "request_", "reason"),
    [
        (["hardness=1"], {}, "the model knows nothing of 'hardness'; it was trained on band_gap"),
        ([], {"best": "hardness"}, "the model knows nothing of 'hardness'"),
        (["band_gap=1", "band_gap>2"], {}, "'band_gap' is asked for twice"),
        (["band_gap=1"], {"best": "band_gap"}, "'band_gap' is asked for twice"),
        ([], {"composition": "UO2"}, "the model has never seen O, U; it was trained on"),
        ([], {"system": ("Na", "H")}, "the model has never seen H;"),
        ([], {"composition": "Quark"}, "'Quark' is no chemical formula; write it as"),
        ([], {"composition": "NaCl("}, "is no chemical formula"),
        ([], {"composition": ""}, "'' is no chemical formula"),
        ([], {"system": ("Salt",)}, "'Salt' is no chemical formula"),
        ([], {"system": ("Qq",)}, "'Qq' is no element"),
        ([], {"system": ("Na", "Cl", "Cs", "F")}, "4 elements do not fit into a cell of 3 atoms"),
        ([], {"system": ("Na", "Cl"), "n_atoms": 1}, "2 elements do not fit into a cell of 1 atoms"),
        ([], {"n_atoms": 9}, "the model knows cells of 1 to 3 atoms, not of 9"),
        ([], {"n_atoms": 0}, "the model knows cells of 1 to 3 atoms, not of 0"),
        ([], {"composition": "Na4Cl4"}, "the model knows cells of 1 to 3 atoms, not of 8"),
        ([], {"spacegroup": 14}, r"no crystal of space group 14; its most common ones are 225"),
        ([], {"composition": "NaCl", "system": ("Na", "Cl")}, "leave out the chemical system and the number of atoms"),
        ([], {"composition": "NaCl", "n_atoms": 3}, "already says which atoms a cell holds, and that they are 2"),
        ([], {"guidance": -0.5}, "the guidance is between 0 and 100, not -0.5"),
        ([], {"guidance": float("nan")}, "the guidance is between 0 and 100"),
        ([], {"evaluations": 0}, "at least 1 evaluation, not 0"),
        ([], {"n": 0}, "at least 1, not 0"),
    ],
)
def test_one_sentence_for_every_bad_request(ask: Ask, conditions: list[str], request_: dict, reason: str) -> None:
    with pytest.raises(VibronicError, match=reason) as refused:
        ask(*conditions, **request_)
    assert len(str(refused.value).splitlines()) == 1


def test_space_groups_that_are_listed_are_those_of_the_training_set(ask: Ask, batch_of, crystals) -> None:
    with pytest.raises(VibronicError) as refused:
        ask(spacegroup=14)
    listed = [int(g) for g in str(refused.value).split("are ")[-1].split(",")]
    assert sorted(listed) == [194, 216, 221, 225, 227]
    one = store.build("crystal-diffusion", targets=[], width=8, depth=1, heads=2)
    assert isinstance(one, CrystalGenerator)
    one.prepare(batch_of(one, crystals[:1]))
    with pytest.raises(VibronicError, match=r"its most common ones are 225$"):
        generate(one, Request(spacegroup=14), 1)


def test_a_value_out_of_range_is_told_with_the_range(ask: Ask) -> None:
    made = ask("band_gap=12")
    assert made.remarks == [
        "band_gap=12 lies outside the training range of band_gap, 0 to 7 eV: the model is asked for the nearest value, 7 eV"
    ]
    assert not ask("band_gap=7").remarks


def test_the_ends_of_the_range_are_in_it(crystals: list[Atoms], batch_of) -> None:
    """As people type them, whatever single precision makes of them."""
    model = store.build("crystal-diffusion", targets=["band_gap"], width=8, depth=1, heads=2)
    assert isinstance(model, CrystalGenerator)
    for k, atoms in enumerate(crystals):
        atoms.info["band_gap"] = 0.1 + 0.6 * k / 7  # neither 0.1 nor 0.7 is a number of single precision
    model.prepare(batch_of(model, crystals))
    for end in ("band_gap=0.1", "band_gap=0.7", "band_gap>0.1", "band_gap<0.7"):
        request = Request(conditions=(Condition.parse(end),), keep="all", evaluations=1)
        assert not generate(model, request, 1).remarks, end


# --- what is kept ---


def test_all_candidates_as_they_come(ask: Ask) -> None:
    made = ask("band_gap=3", n=12)
    assert len(made.crystals) == made.counts["candidates"] == 12
    for k, atoms in enumerate(made.crystals):
        assert atoms.info["id"] == f"0-{k}"
        assert atoms.info["seed"] == 0
        assert atoms.info["band_gap_asked"] == 3.0
        assert np.isfinite(atoms.info["band_gap_estimate"])
        assert atoms.info["valid"] == (structural_validity(atoms) and composition_validity(atoms.numbers))
        assert atoms.info["valid"] >= max(atoms.info["unique"], atoms.info["novel"])
    for name in ("valid", "unique"):
        assert made.counts[name] == sum(a.info[name] for a in made.crystals)
    assert made.counts["novel"] == sum(a.info["novel"] and a.info["unique"] for a in made.crystals)
    assert set(made.seconds) == {"sampling", "checking"}


def test_valid_ones(ask: Ask) -> None:
    made = ask(n=6, keep="valid")
    assert 0 < len(made.crystals) <= 6
    assert all(a.info["valid"] for a in made.crystals)
    assert made.counts["valid"] >= len(made.crystals)


def test_new_ones(ask: Ask, trained: CrystalGenerator) -> None:
    from vibronic.crystals.matching import novel, unique

    made = ask(n=6, keep="new")
    assert 0 < len(made.crystals) <= 6
    assert all(a.info["valid"] and a.info["unique"] and a.info["novel"] for a in made.crystals)
    assert all(novel(made.crystals, trained.memory.structures()))
    assert unique(made.crystals) == list(range(len(made.crystals)))


class Fixed(torch.nn.Module):
    """In the place of a model's sampling: crystals handed out in turn, estimates 0, 1, 2, ..."""

    def __init__(self, model: CrystalGenerator, crystals: list[Atoms], estimates: list[float] | None = None) -> None:
        super().__init__()
        self.crystals, self.estimates, self.done = crystals, estimates, 0
        self.model, self.given, self.lent = model, [], []

    def sample(self, species, allowed, asked, evaluations, guidance, generator, progress, templates=None):  # type: ignore[no-untyped-def]
        from vibronic.crystals.cells import Cells

        chosen = [(self.done + k) % len(self.crystals) for k in range(len(species))]
        self.done += len(species)
        batch = Batch.collate([Batch.from_atoms(self.crystals[k], 0.0) for k in chosen])
        values = torch.tensor([[float("nan") if self.estimates is None else self.estimates[k]] for k in chosen])
        self.given.append((species, asked, evaluations, guidance))
        self.lent.append(templates)
        return Cells.from_batch(batch), values


@pytest.fixture
def handing_out(trained: CrystalGenerator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Fixed]:
    """Function that makes the model hand out given crystals."""

    def hand_out(crystals: list[Atoms], estimates: list[float] | None = None) -> Fixed:
        fixed = Fixed(trained, crystals, estimates)
        monkeypatch.setattr(trained, "sample", fixed.sample)
        return fixed

    return hand_out


def variants(crystals: list[Atoms]) -> list[Atoms]:
    """A known crystal, a new one twice (once as another cell), one whose charges cannot balance, one whose atoms overlap."""
    new = crystals[0].copy()
    new.symbols[:] = ["Cs", "F"]
    supercell = new.repeat((1, 1, 2))
    odd = crystals[0].copy()
    odd.symbols[:] = ["Ne", "F"]
    overlapping = crystals[0].copy()
    overlapping.positions[1] = overlapping.positions[0] + 0.1
    return [crystals[0], new, supercell, odd, overlapping]


def test_semantics_of_keep(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    estimates = [3.0] * 5
    handing_out(variants(crystals), estimates)
    made = ask(n=5, keep="all", n_atoms=2)
    assert [a.info["valid"] for a in made.crystals] == [True, True, True, False, False]
    assert [a.info["unique"] for a in made.crystals] == [True, True, False, False, False]
    assert [a.info["novel"] for a in made.crystals] == [False, True, True, False, False]
    assert made.counts == {"candidates": 5, "valid": 3, "unique": 2, "novel": 1}
    assert made.crystals[1].info["spacegroup"] == 225

    handing_out(variants(crystals), estimates)
    made = ask(n=2, keep="new", n_atoms=2)
    assert [a.get_chemical_formula() for a in made.crystals] == ["CsF"]
    assert made.counts["candidates"] == sampler.TRIES * 2
    assert made.remarks[-1].startswith("1 of 2 crystals were found among 16 candidates: most others are known")

    handing_out(variants(crystals), estimates)
    made = ask(n=7, keep="valid", n_atoms=2)
    assert len(made.crystals) == 7
    assert not made.remarks


def test_no_valid_sample_at_all(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    handing_out(variants(crystals)[3:], [1.0, 1.0])
    for keep in ("new", "valid"):
        made = ask(n=3, keep=keep)
        assert made.crystals == []
        assert made.counts["valid"] == 0
        assert made.passed["valid"] == 0
    made = ask(n=3, keep="valid", best="band_gap")
    assert made.crystals == []


def test_bounds_are_kept_by_the_estimate(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    handing_out(crystals, [0.0, 1, 2, 3, 4, 5, 6, 7])
    for bound, expected in (
        ("band_gap<=2", {0, 1, 2}),
        ("band_gap<2", {0, 1}),
        ("band_gap>=5", {5, 6, 7}),
        ("band_gap=3", set(range(8))),
    ):
        made = ask(bound, n=16, keep="valid", choice=1)
        assert {round(a.info["band_gap_estimate"]) for a in made.crystals} == expected
    assert len(ask("band_gap<2", n=8, keep="all").crystals) == 8


def test_an_interval_is_asked_for_by_values_within_it(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    fixed = handing_out(crystals, [0.0, 1, 2, 3, 4, 5, 6, 7])
    for conditions in (["1.5<band_gap<=5"], ["band_gap<=5", "band_gap>1.5"]):
        made = ask(*conditions, n=16, keep="valid")
        assert {round(a.info["band_gap_estimate"]) for a in made.crystals} == {2, 3, 4, 5}
        assert {a.info["band_gap_asked"] for a in made.crystals} == {"1.5 to 5"}
        assert (fixed.given[-1][1].kind == EQUAL).all()
    values = torch.cat([asked.value[:, 0] for _, asked, _, _ in fixed.given])
    assert set(values.tolist()) == {2.0, 3.0, 4.0, 5.0}
    ask("2.2<band_gap<2.8", n=2)  # between two values of the training set
    assert fixed.given[-1][1].value.flatten().tolist() == pytest.approx([2.5, 2.5])


def test_crystals_are_made_symmetric(ask: Ask, handing_out, crystals: list[Atoms], trained, monkeypatch) -> None:
    """Within the tolerance, with an estimate of what they have become; what would be smaller or is no crystal stays."""
    rough = crystals[0].copy()
    rough.positions[1] += 0.01
    rough.set_cell(
        rough.cell.array @ (np.eye(3) + 0.004 * np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])), scale_atoms=True
    )
    double, overlapping = crystals[0].repeat((2, 1, 1)), variants(crystals)[-1]
    handing_out([rough, double, overlapping], [1.0, 2.0, 3.0])
    monkeypatch.setattr(trained, "estimate", lambda cells: torch.full((len(cells.numbers), 1), 5.0))

    def made(tolerance: float | None) -> list[Atoms]:
        return ask(n=3, tolerance=tolerance, n_atoms=2).crystals

    from vibronic.crystals.matching import space_group

    as_they_were, symmetric = made(0.0), made(None)
    assert [a.info["band_gap_estimate"] for a in as_they_were] == [1.0, 2.0, 3.0]
    assert [a.info["band_gap_estimate"] for a in symmetric] == [5.0, 2.0, 3.0]
    assert space_group(as_they_were[0], 1e-4) != space_group(symmetric[0], 1e-4) == 225
    assert [len(a) for a in symmetric] == [2, 4, 2]
    with pytest.raises(VibronicError, match="the tolerance is a length"):
        made(-0.1)


def test_why_nothing_was_kept(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    handing_out(variants(crystals), [3.0] * 5)
    made = ask("band_gap<1", n=2, keep="new", n_atoms=2)
    assert made.crystals == []
    valid, new, within = made.passed.values()
    assert (valid, new, within) == (made.counts["valid"], made.counts["novel"], 0)
    assert list(made.passed)[-1] == "within band_gap<1 by the model's own estimate"
    assert not made.remarks


def test_a_bound_beyond_the_range_is_kept_all_the_same(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    fixed = handing_out(crystals, [-0.5, -2.5, 2, 3, 4, 5, 6, 7])
    made = ask("band_gap<-2", n=2, keep="valid")
    assert [a.info["band_gap_estimate"] for a in made.crystals] == [-2.5, -2.5]
    assert {a.info["band_gap_asked"] for a in made.crystals} == {"<-2"}
    assert "the model is asked for the nearest value, 0" in made.remarks[0]
    assert (fixed.given[0][1].value == 0).all()
    assert not ask("band_gap<20", n=2, keep="valid").remarks  # as all crystals are


def test_a_best_that_most_crystals_have_is_a_value(ask: Ask, trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the gap of metals: its bound would be a matter of the estimate's last digit."""
    values = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 2])[:, None]
    monkeypatch.setitem(trained.memory._buffers, "values", values)
    made = ask(n=2, best="band_gap")
    assert {a.info["band_gap_asked"] for a in made.crystals} == {0.0}
    assert made.remarks == ["75% of the training crystals have the best band_gap, 0, which is asked for"]
    assert {a.info["band_gap_asked"] for a in ask(n=2, best="band_gap", highest=True).crystals} == {">=1.65"}


def test_a_choice_that_has_nothing_to_go_by_is_told(ask: Ask) -> None:
    for request in ({"keep": "valid"}, {"keep": "all", "best": "band_gap"}):
        assert "nothing is chosen" in ask(n=1, choice=2, **request).remarks[0]


def test_of_several_the_nearest_are_chosen(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    handing_out(crystals, [0.0, 1, 2, 3, 4, 5, 6, 7])
    made = ask("band_gap=3", n=6, keep="valid", choice=4)
    assert {round(a.info["band_gap_estimate"]) for a in made.crystals} <= {2, 3, 4}
    assert len(ask("band_gap=3", n=6, keep="all", choice=4).crystals) == 6


def test_what_answers_best_comes_first(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    handing_out(crystals[:4], [6.0, 2.5, 3.0, 1.0])
    made = ask("band_gap=2", n=4, keep="valid").crystals
    assert [a.info["band_gap_estimate"] for a in made] == [2.5, 3.0, 1.0, 6.0]
    assert [a.info["id"] for a in made] == ["0-0", "0-1", "0-2", "0-3"]
    handing_out(crystals[:4], [6.0, 2.5, 3.0, 1.0])
    as_they_come = ask("band_gap=2", n=4, keep="all").crystals
    assert [a.info["band_gap_estimate"] for a in as_they_come] == [6.0, 2.5, 3.0, 1.0]


def test_a_bound_holds_for_a_trained_model(ask: Ask) -> None:
    made = ask("band_gap<4", n=5, keep="valid")
    assert made.crystals
    assert all(a.info["band_gap_estimate"] <= 4 for a in made.crystals)
    assert {a.info["band_gap_asked"] for a in made.crystals} == {"<4"}


def test_the_best_are_chosen_by_their_estimates(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    new = []
    for k, atoms in enumerate(crystals):  # eight new ones: other cells of other salts
        salt = crystals[0].copy()
        salt.symbols[:] = ["Cs" if k % 2 else "Na", "F" if k % 4 < 2 else "S" if k % 2 else "F"]
        salt.set_cell(salt.cell * (1 + 0.01 * k), scale_atoms=True)
        new.append(salt if k in (0, 1) else atoms)
    fixed = handing_out(new, [0.0, 0.3, 9, 9, 9, 9, 9, 9])
    made = ask(n=1, keep="new", best="band_gap", choice=4)
    assert [a.info["band_gap_estimate"] for a in made.crystals] == pytest.approx([0.0])
    assert made.crystals[0].info["id"] == "0-0"
    kind, value = fixed.given[0][1].kind, fixed.given[0][1].value
    assert (kind == 2).all()  # at most, the lowest twentieth of 0 ... 7
    assert (value == 0).all()  # the highest value below it
    assert made.crystals[0].info["band_gap_asked"] == "<=0.35"
    handing_out(new, [6.9, 7.5, 0, 0, 0, 0, 0, 0])
    made = ask(n=1, keep="new", best="band_gap", highest=True, choice=4)
    assert [a.info["band_gap_estimate"] for a in made.crystals] == pytest.approx([7.5])


def test_the_best_of_a_model_without_bounds_or_estimates(tiny_model) -> None:
    model = tiny_model("2024-cds")
    for highest, extreme in ((False, "0"), (True, "7")):
        made = generate(model, Request(best="band_gap", highest=highest, keep="all", evaluations=4), 3)
        assert len(made.crystals) == 3
        assert {a.info["band_gap_asked"] for a in made.crystals} == {float(extreme)}
        assert all("band_gap_estimate" not in a.info for a in made.crystals)


def test_a_chemical_system_is_kept_whole(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    handing_out(crystals, [1.0] * 8)
    for system in (("Zn", "S"), ("ZnS",)):
        made = ask(n=2, keep="valid", system=system)
        assert [set(a.symbols) for a in made.crystals] == [{"Zn", "S"}] * 2


def test_a_space_group_is_kept(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    fixed = handing_out(crystals, [1.0] * 8)
    made = ask(n=2, keep="valid", spacegroup=221)
    assert {atoms.get_chemical_formula() for atoms in fixed.lent[0].to_atoms()} == {"ClCs"}
    assert [a.get_chemical_formula() for a in made.crystals] == ["ClCs"] * 2
    assert (fixed.given[0][1].spacegroup == 221).all()


def test_changed_crystals_are_judged_again(ask: Ask, handing_out, crystals: list[Atoms], trained) -> None:
    """As relaxing does: into a known one, one of the others, one whose atoms overlap, or one that is new still."""
    new = [
        bulk(*kind)
        for kind in (
            ("KCl", "rocksalt", 6.3),
            ("LiF", "rocksalt", 4.0),
            ("MgO", "rocksalt", 4.2),
            ("CaO", "rocksalt", 4.8),
        )
    ]
    handing_out(new, [1.0] * 4)
    made = ask("band_gap=2", n=4, keep="valid").crystals
    assert [a.info["novel"] for a in made] == [True] * 4
    offs = [a.info["off"] for a in made]
    made[0].numbers, made[0].cell[:] = crystals[0].numbers, crystals[0].cell[:]
    made[0].set_scaled_positions(crystals[0].get_scaled_positions())
    made[2].numbers, made[2].cell[:] = made[1].numbers, made[1].cell[:]
    made[2].set_scaled_positions(made[1].get_scaled_positions())
    made[3].positions[1] = made[3].positions[0] + 0.1
    judge(trained, Request(conditions=(Condition.parse("band_gap=2"),)), made)
    told = [[a.info[name] for name in ("valid", "unique", "novel")] for a in made]
    assert told == [[True, True, False], [True, True, True], [True, False, True], [False, False, False]]
    assert made[0].info["spacegroup"] == 225
    assert "spacegroup" not in made[3].info
    with torch.no_grad():
        own = float(trained.estimate(_cells(trained, made, "band_gap_estimate")[0])[1, 0])
    assert made[1].info["band_gap_estimate"] == pytest.approx(own, abs=1e-4)
    assert [a.info["off"] for a in made] != offs
    skew = made[1].copy()
    skew.cell[1] += skew.cell[0]  # another cell of the same lattice
    judge(trained, Request(), [skew])
    assert skew.info["band_gap_estimate"] == pytest.approx(own, abs=1e-4)


# --- sizes and randomness ---


def test_what_is_asked_reaches_the_model(ask: Ask, handing_out, crystals: list[Atoms]) -> None:
    fixed = handing_out(crystals[:1], [1.0])
    ask("band_gap>1", n=3, guidance=2.5, evaluations=7, n_atoms=3)
    species, asked, evaluations, guidance = fixed.given[0]
    assert species.tolist() == [[-1] * 3] * 3
    assert asked.kind.tolist() == [[3]] * 3
    assert (evaluations, guidance) == (7, 2.5)
    ask(n=2, composition="CaF2")
    assert fixed.given[1][0].tolist() == [[20, 9, 9]] * 2


def test_crystals_come_in_the_order_drawn_whatever_their_size(ask: Ask, trained: CrystalGenerator) -> None:
    generator = torch.Generator().manual_seed(3)
    counts = trained.memory.counts[trained.memory.draw(20, [], generator)].tolist()
    assert [len(a) for a in ask(n=20, seed=3).crystals] == counts
    assert len(set(counts)) > 1


def test_progress_adds_up(trained: CrystalGenerator) -> None:
    told: list[float] = []
    generate(trained, Request(keep="all", evaluations=8), 10, progress=told.append)
    assert sum(told) == pytest.approx(10)


def test_more_than_one_batch(ask: Ask, handing_out, crystals: list[Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "_BATCH", 4)
    handing_out(crystals, [1.0] * 8)
    made = ask(n=11, keep="all")
    assert len(made.crystals) == 11
    assert [a.info["id"] for a in made.crystals] == [f"0-{k}" for k in range(11)]


def test_sizes_without_new_crystals_are_left(ask: Ask, handing_out, crystals: list[Atoms], trained) -> None:
    """Crystals of two atoms that are all known, until they are not drawn any more; of one and three there are few."""
    fixed = handing_out(crystals[:1], [1.0])
    ask(n=20, keep="new")
    sizes = [int((row != 0).sum()) for species, _, _, _ in fixed.given for row in species]
    assert sizes.count(2) >= candidates.BARREN
    assert 2 not in sizes[-20:]
    fixed.given.clear()
    ask(n=20, keep="valid")
    assert 2 in [int((row != 0).sum()) for row in fixed.given[-1][0]]


def test_what_two_wishes_leave_open_is_drawn_together(trained: CrystalGenerator, monkeypatch) -> None:
    """Rows that answer all of it; where single precision would have no weight left, too."""
    memory = trained.memory
    monkeypatch.setattr(memory, "properties", ["a", "b"])
    monkeypatch.setitem(memory._buffers, "values", torch.tensor([[k, -10.0 * k] for k in range(8)]))
    draws = torch.Generator()

    def rows(*conditions: str) -> set[int]:
        return set(memory.draw(200, [Condition.parse(c) for c in conditions], draws).tolist())

    assert rows("2<=a<=5", "b>=-40") == {2, 3, 4}
    assert rows("a<=1", "b=-70") == {0, 1}
    assert rows("a<=1", "b<=-60") == set(range(8))  # nothing is both
    far = torch.tensor([[0.0, 0.0]] * 30 + [[100.0, 100.0]] * 30)
    monkeypatch.setitem(memory._buffers, "values", far)
    monkeypatch.setitem(memory._buffers, "counts", torch.full((60,), 2))
    assert rows("a=0", "b>=50") <= set(range(30, 60))  # whose weights single precision takes for 0


def test_numbers_of_atoms_follow_the_conditions(trained: CrystalGenerator) -> None:
    """Of crystals with gaps 0 ... 7, Cu (3) has one atom and CaF2 (6) has three."""
    memory = trained.memory

    def drawn(*conditions: str) -> list[int]:
        asked = [Condition.parse(c) for c in conditions]
        counts = memory.counts.long()[memory.draw(4000, asked, torch.Generator().manual_seed(0))]
        return torch.bincount(counts, minlength=4)[1:].tolist()

    assert np.array(drawn()) / 4000 == pytest.approx([1 / 8, 6 / 8, 1 / 8], abs=0.03)
    assert drawn("band_gap<2") == [0, 4000, 0]
    assert np.array(drawn("band_gap>=6")) / 4000 == pytest.approx([0, 1 / 2, 1 / 2], abs=0.03)
    near_three, near_six = np.array(drawn("band_gap=3")) / 4000, np.array(drawn("band_gap=6")) / 4000
    assert near_three[0] > near_six[0]
    assert near_six[2] > near_three[2]
    assert sum(drawn("band_gap>99")) == 4000  # nothing is so: all are as good


def test_numbers_of_atoms_of_a_large_training_set_are_those_near_the_value(tiny_model, batch_of) -> None:
    from ase.build import bulk

    found = []
    for k in range(120):
        atoms = bulk("Cu") if k % 2 else bulk("NaCl", "rocksalt", a=5.64)
        atoms.info["band_gap"] = (0.0 if k % 2 else 5.0) + 0.001 * k
        found.append(atoms)
    model = tiny_model("adaln")
    model.memory.prepare(*_cells(model, found))
    for value, count in ((0.05, 1), (5.05, 2)):
        asked = [Condition.parse(f"band_gap={value}")]
        assert (model.memory.counts[model.memory.draw(50, asked, torch.Generator().manual_seed(0))] == count).all()


def _cells(model: CrystalGenerator, structures: list[Atoms], label: str = "band_gap") -> tuple:
    from vibronic.crystals.cells import Cells

    batch = Batch.collate([Batch.from_atoms(a, 0.0, {"band_gap": a.info[label]}) for a in structures])
    return Cells.from_batch(batch), model.values(batch), torch.ones(len(structures))


def test_a_training_set_of_one_crystal(crystals: list[Atoms], batch_of) -> None:
    model = store.build("crystal-diffusion", targets=["band_gap"], width=8, depth=1, heads=2)
    assert isinstance(model, CrystalGenerator)
    model.prepare(batch_of(model, crystals[:1]))
    for condition in ("band_gap=0", "band_gap<0"):
        request = Request(conditions=(Condition.parse(condition),), keep="all", evaluations=2)
        assert len(generate(model, request, 2).crystals[0]) == 2
