"""What both generators keep: the symmetries of crystals, the contract of a model, what a request gives."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.crystals import takahara2024
from vibronic.crystals.candidates import Request
from vibronic.crystals.cells import Cells, centred, strain_of
from vibronic.crystals.conditioning import AT_LEAST, AT_MOST, EQUAL, NOTHING, Asked
from vibronic.crystals.generator import CrystalGenerator
from vibronic.crystals.matching import match_rate
from vibronic.crystals.model import CrystalDiffusion, _Choice
from vibronic.crystals.sampler import generate
from vibronic.crystals.schedules import budget
from vibronic.crystals.symmetry import Symmetry
from vibronic.crystals.takahara2024 import CrystalDiffusion2024, RelativePositions
from vibronic.crystals.transformer import Output
from vibronic.crystals.validity import composition_validity
from vibronic.learning import store

few = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # they are the same for every example
)
seeds = given(seed=st.integers(0, 10**6))
Tiny = Callable[..., CrystalGenerator]
BatchOf = Callable[[CrystalGenerator, list[Atoms]], Batch]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Double precision, so that symmetries hold to the last digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def noisy(seed: int, atoms: int = 5) -> Cells:
    """Two crystals of one size, as disordered as in the middle of a generation."""
    generator = torch.Generator().manual_seed(seed)
    lattice = 4 * torch.eye(3) + 0.5 * torch.randn(2, 3, 3, generator=generator)
    numbers = torch.randint(1, 100, (2, atoms), generator=generator)
    return Cells(numbers, torch.rand(2, atoms, 3, generator=generator), lattice)


def outputs(model: CrystalGenerator, cells: Cells) -> dict[str, Tensor]:
    """All that the network says of crystals, by name, at some time and for some condition."""
    b = len(cells.numbers)
    values = torch.linspace(1.0, 5.0, b)[:, None]
    with torch.no_grad():
        if isinstance(model, CrystalDiffusion2024):
            noise, score, species = model.denoise(cells, torch.arange(7, 7 + b), values)
            return {"lattice": noise, "coordinates": score, "species": species}
        assert isinstance(model, CrystalDiffusion)
        embedded = model.conditions(Asked(values, torch.full((b, 1), EQUAL), torch.full((b,), 225)))
        strain = (strain_of(cells.lattice, cells.n_atoms) - model.center) / model.spread
        time = torch.linspace(0.3, 0.6, b)
        classes = (cells.numbers - 1).clamp(min=0)
        out = model._evaluate(classes, cells.mask, time, embedded, cells.fractional, strain)
        return out._asdict()


PER_ATOM = ("coordinates", "species")


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-7) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.allclose(a[name], b[name], rtol=tolerance, atol=tolerance), name


# --- symmetries ---


def test_the_outputs_tell_crystals_apart(generator_model: CrystalGenerator) -> None:
    """Or every invariance below would hold for nothing."""
    one, two = outputs(generator_model, noisy(0)), outputs(generator_model, noisy(1))
    for name in one:
        assert (one[name] - two[name]).abs().max() > 1e-4, name
        assert one[name].abs().max() > 1e-4, name
    spread = one["coordinates"].std(1)
    assert spread.min() > 1e-6


@few
@seeds
def test_permutation(generator_model: CrystalGenerator, seed: int) -> None:
    cells = noisy(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(5))
    before = outputs(generator_model, cells)
    after = outputs(generator_model, Cells(cells.numbers[:, order], cells.fractional[:, order], cells.lattice))
    close(after, {k: v[:, order] if k in PER_ATOM else v for k, v in before.items()})


@few
@seeds
def test_translation_and_whole_periods(generator_model: CrystalGenerator, seed: int) -> None:
    cells = noisy(seed)
    rng = np.random.default_rng(seed)
    shift = torch.from_numpy(rng.uniform(-3, 3, (2, 1, 3)))
    periods = torch.from_numpy(rng.integers(-3, 4, (2, 5, 3)).astype(float))
    before = outputs(generator_model, cells)
    # The published model has its factors of 2 pi in single precision.
    tolerance = 1e-5 if isinstance(generator_model, CrystalDiffusion2024) else 1e-7
    for moved in (cells.fractional + shift + periods, (cells.fractional + shift) % 1):
        close(outputs(generator_model, Cells(cells.numbers, moved, cells.lattice)), before, tolerance)


@few
@seeds
def test_rotation_and_reflection(generator_model: CrystalGenerator, seed: int) -> None:
    cells = noisy(seed)
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix() * (-1) ** seed)
    before = outputs(generator_model, cells)
    if isinstance(generator_model, CrystalDiffusion2024):
        before["lattice"] = before["lattice"] @ turn
    close(outputs(generator_model, Cells(cells.numbers, cells.fractional, cells.lattice @ turn)), before)


@few
@seeds
def test_a_crystal_alone_and_beside_a_larger_one(generator_model: CrystalGenerator, seed: int) -> None:
    small, large = noisy(seed, 3), noisy(seed, 7)
    both = Cells(
        torch.cat([torch.nn.functional.pad(small.numbers, (0, 4)), large.numbers]),
        torch.cat([torch.nn.functional.pad(small.fractional, (0, 0, 0, 4)), large.fractional]),
        torch.cat([small.lattice, large.lattice]),
    )

    def same_time(cells: Cells) -> dict[str, Tensor]:
        repeated = Cells(*(torch.cat([x, x]) for x in (cells.numbers, cells.fractional, cells.lattice)))
        return {k: v[:2] for k, v in outputs(generator_model, repeated).items()}

    alone, together = same_time(small), outputs(generator_model, both)
    close({k: v[:2, :3] if k in PER_ATOM else v[:2] for k, v in together.items()}, alone)


def test_time_and_condition_matter(tiny_model: Tiny, generator_name: str) -> None:
    """Everything that is put in comes out changed, whichever way it is injected."""
    model, cells = tiny_model(generator_name), noisy(0)
    if isinstance(model, CrystalDiffusion2024):

        def says(time: int, value: float) -> Tensor:
            return model.denoise(cells, torch.full((2,), time), torch.full((2, 1), value))[2]

        same, later, other = says(3, 1.0), says(15, 1.0), says(3, 6.0)
    else:

        def ours(time: float, value: float) -> Tensor:
            asked = Asked(torch.full((2, 1), value), torch.full((2, 1), EQUAL), torch.zeros(2, dtype=torch.long))
            strain = torch.zeros(2, 6)
            return model._evaluate(
                cells.numbers - 1, cells.mask, torch.full((2,), time), model.conditions(asked), cells.fractional, strain
            ).species

        same, later, other = ours(0.2, 1.0), ours(0.9, 1.0), ours(0.2, 6.0)
    assert (same - later).abs().max() > 1e-4
    assert (same - other).abs().max() > 1e-4


# --- the published equations, written out ---


def test_relative_positions_are_the_naive_network_of_pairs() -> None:
    torch.manual_seed(0)
    module = RelativePositions(4, 6)
    cells = noisy(3, 4)
    w = {k: v.detach() for k, v in module.named_parameters()}
    with torch.no_grad():
        found = module(cells.fractional, cells.lattice)
    for b in range(2):
        metric = (cells.lattice[b] @ cells.lattice[b].T).flatten()
        for i in range(4):
            for j in range(4):
                away = cells.fractional[b, j] - cells.fractional[b, i]
                phase = torch.stack([2 * math.pi * m * away[axis] for axis in range(3) for m in range(4)])
                features = torch.cat([phase.sin(), phase.cos(), metric])
                weight = torch.cat([w["sine.weight"], w["cosine.weight"], w["metric.weight"]], 1)
                expected = torch.nn.functional.silu(weight @ features + w["metric.bias"])
                assert torch.allclose(found[b, i, j], expected, atol=1e-5), (i, j)


@pytest.mark.parametrize("asks", [False, True])
def test_a_block_is_the_formula_of_the_paper(asks: bool) -> None:
    """sum_j softmax_j(q_i k_j / sqrt(d) + alpha_ij) (v_j + beta_ij), heads side by side, then norm, MLP, norm."""
    torch.manual_seed(0)
    d, heads, n = 6, 2, 4
    block = takahara2024.Block(d, heads, asks)
    z, condition = torch.randn(1, n, d), torch.randn(1, d)
    alpha, beta = torch.randn(2, 1, n, n, d)
    absent = torch.tensor([False, False, False, True]).view(1, 1, 1, n)
    with torch.no_grad():
        found = block(z, condition, alpha, beta, absent)[0]
        qkv = block.qkv(z[0]) + (block.asked(condition[0]) if block.asked is not None else 0)
        q, k, v = (x.view(n, heads, d) for x in qkv.split(heads * d, -1))
        bias = block.alpha(alpha[0])
        own = block.beta(beta[0]).view(n, n, heads, d)
        rows = []
        for i in range(n):
            parts = []
            for h in range(heads):
                logits = torch.stack([q[i, h] @ k[j, h] / math.sqrt(d) + bias[i, j, h] for j in range(n - 1)])
                share = torch.softmax(logits, 0)
                parts.append(sum(share[j] * (v[j, h] + own[i, j, h]) for j in range(n - 1)))
            rows.append(block.out(torch.cat(parts)))
        middle = block.norms[0](torch.stack(rows) + z[0])
        expected = block.norms[1](block.mlp(middle) + middle)
    assert torch.allclose(found, expected, atol=1e-9)


def test_attention_of_our_block_written_out() -> None:
    """The part of the values that comes of pairs, whose sum over pairs is taken before its matrix."""
    from vibronic.crystals.transformer import Block

    torch.manual_seed(0)
    width, heads, pair, n = 8, 2, 5, 4
    block = Block(width, heads, pair, ("cds",))
    z, pairs, context = torch.randn(1, n, width), torch.randn(1, n, n, pair), torch.randn(1, width)
    absent = torch.tensor([False, False, False, True]).view(1, 1, 1, n)
    with torch.no_grad():
        found = block(z, pairs, absent, context)[0]
        assert block.asked is not None
        qkv = block.qkv(block.norms[0](z[0])) + block.asked(context[0])
        q, k, v = (x.view(n, heads, width // heads) for x in qkv.split(width, -1))
        bias = block.bias(pairs[0])
        rows = []
        for i in range(n):
            parts = []
            for h in range(heads):
                logits = torch.stack([q[i, h] @ k[j, h] / math.sqrt(width // heads) + bias[i, j, h] for j in range(3)])
                share = torch.softmax(logits, 0)
                parts.append(sum(share[j] * (v[j, h] + pairs[0, i, j] @ block.pair_values[h]) for j in range(3)))
            rows.append(z[0, i] + block.out(torch.cat(parts)))
        middle = torch.stack(rows)
        expected = middle + block.mlp(block.norms[1](middle))
    assert torch.allclose(found, expected, atol=1e-9)


# --- the contract of a model ---


@pytest.fixture
def single(double: None) -> None:
    """As users run models."""
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("single")
def test_the_loss_is_finite_and_differentiable(
    tiny_model: Tiny, generator_name: str, batch_of: BatchOf, crystals: list[Atoms]
) -> None:
    model = tiny_model(generator_name)
    batch = batch_of(model, crystals)
    torch.manual_seed(0)
    figures = model.train().loss(batch)
    assert all(torch.isfinite(v) for v in figures.values())
    figures["loss"].backward()
    untouched = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not untouched
    # Noise is drawn anew in training, and is the same in every validation.
    with torch.no_grad():
        assert float(model.loss(batch)["loss"]) != float(model.loss(batch)["loss"])
        model.eval()
        assert float(model.loss(batch)["loss"]) == float(model.loss(batch)["loss"])


@pytest.mark.usefixtures("single")
def test_scores_are_the_parts_of_the_loss(generator_model: CrystalGenerator, crystals: list[Atoms]) -> None:
    scores, units = generator_model.own_scores([generator_model.labelled(a) for a in crystals])
    assert scores.keys() == units.keys()
    told = {f"mae_{t.name}": t.unit for t in generator_model.targets if generator_model.estimates}
    assert all(math.isfinite(v) for v in scores.values())
    assert {name: units[name] for name in scores if not name.startswith("loss_")} == told


@pytest.mark.usefixtures("single")
def test_the_config_builds_an_equal_model(generator_model: CrystalGenerator) -> None:
    again = store.build(generator_model.kind, **json.loads(json.dumps(generator_model.config)))
    assert again.config == generator_model.config
    assert [p.shape for p in again.parameters()] == [p.shape for p in generator_model.parameters()]


def samples(model: CrystalGenerator, seed: int = 0, n: int = 4, **request: object) -> list[Atoms]:
    from vibronic.crystals.conditioning import Condition

    asked = {"conditions": (Condition.parse("band_gap=2"),), "evaluations": 6, "keep": "all", **request}
    return generate(model, Request(**asked), n, seed).crystals


def equal(a: list[Atoms], b: list[Atoms]) -> bool:
    return all(
        x.numbers.tolist() == y.numbers.tolist()
        and np.array_equal(x.positions, y.positions)
        and np.array_equal(x.cell.array, y.cell.array)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.usefixtures("single")
def test_the_seed_decides_and_a_stored_model_is_the_same(tiny_model: Tiny, generator_name: str, tmp_path: Path) -> None:
    model = tiny_model(generator_name)
    first = samples(model)
    assert len(first) == 4
    assert equal(first, samples(model))
    assert not equal(first, samples(model, seed=1))
    store.save(model, tmp_path / "m", store.Card())
    again, _ = store.load(tmp_path / "m")
    assert isinstance(again, CrystalGenerator)
    assert equal(first, samples(again))
    assert again.memory.properties == ["band_gap"]
    assert len(again.memory) == 8


@pytest.mark.usefixtures("single")
def test_memory_gives_the_training_set_back(generator_model: CrystalGenerator, crystals: list[Atoms]) -> None:
    found = generator_model.memory.structures()
    assert match_rate(found, crystals) == (1.0, pytest.approx(0, abs=1e-3))
    assert [a.info["band_gap"] for a in found] == list(range(8))


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("evaluations", [1, 2, 9])
def test_any_number_of_evaluations_gives_whole_crystals(
    tiny_model: Tiny, generator_name: str, evaluations: int
) -> None:
    model = tiny_model(generator_name)
    done = []
    species = torch.full((2, 3), -1)
    asked = Asked(torch.full((2, 1), 2.0), torch.full((2, 1), EQUAL), torch.zeros(2, dtype=torch.long))
    cells, _ = model.sample(
        species, model.allowed(), asked, evaluations, 1.0, torch.Generator().manual_seed(0), done.append
    )
    assert cells.n_atoms.tolist() == [3, 3]
    assert torch.isin(cells.numbers, model.elements).all()
    assert ((cells.fractional >= 0) & (cells.fractional <= 1)).all()
    assert sum(done) <= evaluations + 1


@pytest.mark.usefixtures("single")
def test_a_given_composition_is_kept(tiny_model: Tiny, generator_name: str) -> None:
    for atoms in samples(tiny_model(generator_name), composition="CaF2"):
        assert sorted(atoms.numbers.tolist()) == [9, 9, 20]


@pytest.mark.usefixtures("single")
def test_a_partly_given_composition_is_kept(tiny_model: Tiny, generator_name: str) -> None:
    model = tiny_model(generator_name)
    species = torch.tensor([[20, -1, 9, 0], [-1, -1, -1, 30]])
    asked = Asked(torch.full((2, 1), 2.0), torch.full((2, 1), EQUAL), torch.zeros(2, dtype=torch.long))
    generator = torch.Generator().manual_seed(0)
    cells, estimate = model.sample(species, model.allowed(), asked, 8, 1.0, generator, lambda done: None)
    known = species > 0
    assert torch.equal(cells.numbers[known], species[known])
    assert torch.equal(cells.mask, species != 0)
    assert estimate.shape == (2, 1)
    assert bool(estimate.isnan().all()) == isinstance(model, CrystalDiffusion2024)


@pytest.mark.usefixtures("single")
def test_a_chemical_system_is_kept(tiny_model: Tiny, generator_name: str) -> None:
    for atoms in samples(tiny_model(generator_name), system=("Zn", "S")):
        assert set(atoms.symbols) <= {"Zn", "S"}


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("name", ["adaln", "all", "2024-cdi", "2024-cds"])
def test_a_model_without_properties_trains_and_samples(
    name: str, tiny_model: Tiny, batch_of: BatchOf, crystals: list[Atoms], tmp_path: Path
) -> None:
    model = tiny_model(name, targets=())
    figures = model.train().loss(batch_of(model, crystals))
    assert all(torch.isfinite(v) for v in figures.values())
    figures["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    found = generate(model.eval(), Request(evaluations=6, keep="all"), 3).crystals
    assert len(found) == 3
    store.save(model, tmp_path / "m", store.Card())
    again, _ = store.load(tmp_path / "m")
    assert isinstance(again, CrystalGenerator)
    assert equal(found, generate(again, Request(evaluations=6, keep="all"), 3).crystals)
    with pytest.raises(VibronicError, match="it was trained on no property"):
        samples(model)


@pytest.mark.usefixtures("single")
def test_several_properties(tiny_model: Tiny, batch_of: BatchOf, crystals: list[Atoms]) -> None:
    torch.manual_seed(0)
    for k, atoms in enumerate(crystals):
        atoms.info |= {"formation_energy_per_atom": -0.1 * k, "hardness": 10.0 - k}
    for kind, own in (("crystal-diffusion", {"pair": 8}), ("takahara2024", {"steps": 20})):
        own |= {"width": 16, "depth": 1, "heads": 2, "frequencies": 2}
        names = ["band_gap", "formation_energy_per_atom", "hardness"]
        model = store.build(kind, targets=names, units={"hardness": "GPa"}, **own)
        assert isinstance(model, CrystalGenerator)
        batch = batch_of(model, crystals)
        model.prepare(batch)
        assert torch.isfinite(model.loss(batch)["loss"])
        assert model.memory.column("hardness").tolist() == [10.0 - k for k in range(8)]


# --- guidance ---


@pytest.mark.usefixtures("single")
def test_guidance_one_is_no_guidance_and_zero_no_condition(tiny_model: Tiny) -> None:
    model = tiny_model("adaln", guided=("species", "geometry"))
    assert isinstance(model, CrystalDiffusion)
    species, one = torch.full((2, 3), -1), torch.ones(2, 1)
    none = torch.zeros(2, dtype=torch.long)
    geometry, symmetry = (torch.rand(2, 3, 3), torch.randn(2, 6)), Symmetry.none(species != 0, one)
    asked = Asked(5 * one, torch.full((2, 1), EQUAL), none)
    with torch.no_grad():
        condition = model.conditions(asked)

        def says(guidance: float, condition: Tensor = condition) -> Output:
            return model._say(condition, symmetry, species, 0.4, geometry, guidance)

        plain, free = says(1.0), says(1.0, torch.zeros_like(condition))
        for none, more, a, b in zip(says(0.0), says(3.0), free, plain, strict=True):
            assert torch.allclose(none, a, atol=1e-6)
            assert torch.allclose(more, a + 3 * (b - a), atol=1e-4)
        assert torch.allclose(plain.coordinates, centred(plain.coordinates, species != 0), atol=1e-6)
    assert equal(samples(model, guidance=1.0), samples(model))
    assert not equal(samples(model, guidance=4.0), samples(model))
    free_model = samples(model, guidance=0.0)
    assert equal(free_model, samples(model, guidance=0.0))
    unguided = tiny_model("adaln", guided=())
    assert equal(samples(unguided, guidance=4.0), samples(unguided))


def shares(tiny_model: Tiny) -> CrystalDiffusion:
    """A model whose property is a share, 0 to 1, standardised as it is."""
    model = tiny_model("adaln")
    assert isinstance(model, CrystalDiffusion)
    model.conditions.mean, model.conditions.spread = torch.zeros(1), torch.ones(1)
    model.conditions.ranked = torch.tensor([[0.0, 1.0]])
    return model


@pytest.mark.usefixtures("single")
def test_names_are_chosen_by_their_estimated_properties(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an estimate that counts sulphur, what is asked for decides how much of it there is, where conditions are heeded."""
    model = shares(tiny_model)
    monkeypatch.setattr(model, "_estimate", lambda numbers, *_: (numbers == 16).double().mean(1, keepdim=True))
    monkeypatch.setattr(model.memory, "alone", lambda: {16, 30})
    # The network itself is told nothing.
    nothing = torch.zeros(64, model.conditions.spacegroups.embedding_dim)
    monkeypatch.setattr(model.conditions, "forward", lambda asked: nothing)

    def sulphur(kind: int, value: float, guidance: float = 2.0) -> float:
        asked = Asked(torch.full((64, 1), value), torch.full((64, 1), kind), torch.zeros(64, dtype=torch.long))
        allowed, generator = model.allowed((16, 30)), torch.Generator().manual_seed(0)
        cells, _ = model.sample(torch.full((64, 3), -1), allowed, asked, 100, guidance, generator, lambda n: None)
        return float((cells.numbers == 16).double().mean())

    free = sulphur(NOTHING, 1.0, guidance=1.0)
    assert sulphur(EQUAL, 1.0, guidance=1.0) == free  # as learned
    assert sulphur(EQUAL, 1.0) > free + 0.2
    assert sulphur(AT_MOST, 0.0) < free - 0.2
    assert sulphur(AT_LEAST, 1.0) > free + 0.2


@pytest.mark.usefixtures("single")
def test_names_that_fit_are_kept(tiny_model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """What alone answers the wish survives every attempt to name it anew; what was drawn anew is judged by its own estimate."""
    model = shares(tiny_model)
    here = torch.tensor([[16, 30, 16], [16, 30, 0]]).repeat_interleave(20, 0)
    wanted = [[16, 30, 16], [16, 30, 0]]
    monkeypatch.setattr(
        model,
        "_estimate",
        lambda numbers, *_: torch.tensor([[float(row in wanted)] for row in numbers.tolist()]),
    )
    asked = Asked(torch.ones(40, 1), torch.full((40, 1), EQUAL), torch.zeros(40, dtype=torch.long))
    geometry, generator = (torch.rand(40, 3, 3), torch.randn(40, 6)), torch.Generator().manual_seed(0)
    none = Symmetry.none(here > 0, geometry[1])
    with torch.no_grad():
        chosen, alone = (
            _Choice(model.allowed((16, 30)), asked, 1.0, *how, frozenset()) for how in ((1.0, 4), (0.0, 1))
        )
        kept = model._name(chosen, here, here > 0, geometry, none, 2, generator, lambda n: None)
        drawn = model._name(alone, here, here > 0, geometry, none, 2, generator, lambda n: None)
    assert torch.equal(kept, here)
    assert not torch.equal(drawn, here)
    assert torch.equal(drawn > 0, here > 0)


@pytest.mark.usefixtures("single")
def test_charges_of_chosen_names_balance(tiny_model: Tiny) -> None:
    model = shares(tiny_model)
    asked = Asked(torch.ones(60, 1), torch.full((60, 1), EQUAL), torch.zeros(60, dtype=torch.long))

    def possible(guidance: float, atoms: int) -> float:
        generator = torch.Generator().manual_seed(0)
        free, allowed = torch.full((60, atoms), -1), model.allowed((9, 11, 12, 13))
        cells, _ = model.sample(free, allowed, asked, 100, guidance, generator, lambda n: None)
        return float(np.mean([composition_validity(row) for row in cells.numbers.numpy()]))

    for atoms in (3, 5):
        assert possible(1.0, atoms) < 0.95  # as they were learned
        assert possible(2.0, atoms) > possible(1.0, atoms) + 0.05


@pytest.mark.usefixtures("single")
def test_one_element_is_a_name_where_it_forms_a_crystal(tiny_model: Tiny) -> None:
    model = shares(tiny_model)
    assert model.memory.alone() == {12, 14, 29}  # Mg, Si and Cu of the simple crystals
    how = _Choice(model.allowed(), Asked(*[torch.zeros(1)] * 3), 1.0, 1.0, 4, model.memory.alone())
    assert how.possible(np.array([14, 14]))
    assert not how.possible(np.array([9, 9]))
    assert how.possible(np.array([9, 11]))
    assert not how.possible(np.array([9, 9, 11]))


@pytest.mark.parametrize("evaluations", [1, 2, 5, 20, 24, 57, 58, 97, 98, 100, 400, 1000])
@pytest.mark.parametrize("hidden", [0, 1, 5, 20])
@pytest.mark.parametrize("several", [1, 4, 16])
def test_the_budget_is_spent(evaluations: int, hidden: int, several: int) -> None:
    """On one skeleton and several passes, of which the first names all atoms; on restarts of the flow where all species are given."""
    if evaluations < 5 * several:
        several = 1
    skeleton, passes = budget(evaluations, hidden, several)
    naming = sum(rounds * several + (several if several > 1 and rounds else 0) for _, _, rounds, _ in passes)
    assert skeleton + naming + sum(settling for *_, settling in passes) == evaluations
    assert skeleton >= evaluations // 10
    if hidden:
        assert passes[0][0] == 1
        assert all(1 <= rounds <= hidden for _, _, rounds, _ in passes)
    else:
        assert bool(passes) == (evaluations >= 25)
        assert not any(rounds for _, _, rounds, _ in passes)
        assert [back for _, back, _, _ in passes] == sorted(back for _, back, _, _ in passes)


# --- what is refused ---


@pytest.mark.usefixtures("single")
def test_what_the_published_model_refuses(tiny_model: Tiny) -> None:
    model = tiny_model("2024-cds")
    one = torch.ones(1, 1)
    for kind, group in ((NOTHING, 0), (2, 0), (3, 0), (EQUAL, 225)):
        with pytest.raises(VibronicError, match="needs a value of band_gap, and takes neither bounds nor space groups"):
            model.check(Asked(one, torch.full((1, 1), kind), torch.tensor([group])), 1.0)
    with pytest.raises(VibronicError, match="no guidance: leave it at 1, not 2"):
        model.check(Asked(one, torch.full((1, 1), EQUAL), torch.tensor([0])), 2.0)


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        ("crystal-diffusion", {"injection": ["nowhere"]}, "adaln, cdi, cds"),
        ("crystal-diffusion", {"injection": []}, "adaln, cdi, cds"),
        ("crystal-diffusion", {"dropout": 1.0}, "dropout"),
        ("crystal-diffusion", {"free": 1.5}, "free is a share of the training crystals"),
        ("crystal-diffusion", {"guided": ("names",)}, "guided are species, geometry or both, not"),
        ("crystal-diffusion", {"symprec": 2.0}, "symprec is a length in Angstrom"),
        ("crystal-diffusion", {"width": 30, "heads": 4}, "multiple of the heads"),
        ("crystal-diffusion", {"targets": ["energy"]}, "does not grow with the cell"),
        ("crystal-diffusion", {"targets": ["forces"]}, "does not grow with the cell"),
        ("takahara2024", {"condition": "cdx"}, "cdi or cds"),
        ("takahara2024", {"targets": ["stress"]}, "does not grow with the cell"),
        ("takahara2024", {"depths": 3}, "did you mean 'depth'"),
    ],
)
def test_settings_that_make_no_sense(kind: str, settings: dict, reason: str) -> None:
    with pytest.raises(VibronicError, match=reason):
        store.build(kind, **{"targets": ["band_gap"], **settings})


@pytest.mark.usefixtures("single")
def test_what_is_no_crystal_to_learn_from(generator_model: CrystalGenerator) -> None:
    with pytest.raises(VibronicError, match="not periodic in three directions"):
        generator_model.labelled(molecule("H2O"))
    with pytest.raises(VibronicError, match="more than 64"):
        generator_model.labelled(
            Atoms("CuAu" * 33, positions=np.random.default_rng(0).random((66, 3)) * 30, cell=[30] * 3, pbc=True)
        )
    with pytest.raises(VibronicError, match="beyond fermium"):
        generator_model.labelled(Atoms("Md", cell=[3] * 3, pbc=True))
    with pytest.raises(VibronicError, match="use 'vibronic generate'"):
        generator_model(Batch.from_atoms(bulk("Cu"), 0.0))
    assert generator_model.labelled(bulk("Cu", cubic=True)).info["spacegroup"] == 225
    assert len(generator_model.labelled(bulk("Cu", cubic=True))) == 1


@pytest.mark.usefixtures("single")
@pytest.mark.parametrize("name", ["crystals-perov5", "crystals-carbon24", "crystals-mp20"])
def test_shipped_models_know_the_setting_that_crystals_are_put_into(name: str) -> None:
    """Their estimates of crystals that they learned are as good in the cells that :meth:`labelled` and the sampler make."""
    model = store.load(name)[0]
    assert isinstance(model, CrystalGenerator)
    known = model.memory.structures()
    chosen = [model.labelled(known[k]) for k in np.random.default_rng(0).permutation(len(known))[:100]]
    scores, _ = model.own_scores(chosen)
    for t in model.targets:
        assert scores[f"mae_{t.name}"] < 0.1 * float(model.memory.column(t.name).std()), t.name
