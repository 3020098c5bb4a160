"""Conditions: what people type, and what a model learns from bounds that were drawn in training."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vibronic.core.errors import VibronicError
from vibronic.crystals.conditioning import (
    AT_LEAST,
    AT_MOST,
    BETWEEN,
    EQUAL,
    NOTHING,
    Asked,
    Condition,
    ConditionEmbedding,
    beyond,
    merged,
)

# --- parsing ---


@pytest.mark.parametrize(
    ("typed", "name", "kind", "value", "told"),
    [
        ("heat_ref=-0.3", "heat_ref", EQUAL, -0.3, "heat_ref=-0.3"),
        ("band_gap>2", "band_gap", AT_LEAST, 2.0, "band_gap>2"),
        ("band_gap >= 2.5", "band_gap", AT_LEAST, 2.5, "band_gap>=2.5"),
        (" a<1e-3 ", "a", AT_MOST, 1e-3, "a<0.001"),
        ("a.b<=+7", "a.b", AT_MOST, 7.0, "a.b<=7"),
        ("-1 < a <= 2.5", "a", BETWEEN, -1.0, "-1<a<=2.5"),
    ],
)
def test_what_people_type(typed: str, name: str, kind: int, value: float, told: str) -> None:
    found = Condition.parse(typed)
    assert (found.name, found.kind, found.value) == (name, kind, value)
    assert str(found) == told
    assert Condition.parse(str(found)) == found


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "band_gap",
        "=3",
        "a=",
        "a=b",
        "a==3",
        "a=1 2",
        "a<nan",
        "a>inf",
        "a=-inf",
        "1<a>2",
        "1>a<2",
        "1<a=2",
        "x<a<2",
        "a=<3",
        "a!3",
    ],
)
def test_what_is_not_understood(typed: str) -> None:
    with pytest.raises(
        VibronicError, match=r"is not understood; write NAME=VALUE, 'NAME<VALUE', 'NAME>VALUE' or 'VALUE"
    ):
        Condition.parse(typed)


def test_which_values_keep_a_bound() -> None:
    values = torch.tensor([1.0, 2.0, 3.0])
    assert Condition.parse("a<2").met(values).tolist() == [True, False, False]
    assert Condition.parse("a<=2").met(values).tolist() == [True, True, False]
    assert Condition.parse("a>2").met(values).tolist() == [False, False, True]
    assert Condition.parse("a>=2").met(values).tolist() == [False, True, True]
    assert Condition.parse("a=2").met(values).all()
    assert Condition.parse("1<a<3").met(values).tolist() == [False, True, False]
    assert Condition.parse("1<=a<=3").met(values).tolist() == [True, True, True]


def test_two_bounds_are_an_interval() -> None:
    one, low, high = (Condition.parse(t) for t in ("b=1", "a>1", "a<2"))
    for both in ([low, one, high], [high, one, low]):
        assert set(merged(both)) == {one, Condition.parse("1<a<2")}
    with pytest.raises(VibronicError, match="nothing is within the conditions 'a>1' and 'a<0'"):
        merged([low, Condition.parse("a<0")])
    for twice in (low, Condition.parse("a=1.5")):
        with pytest.raises(VibronicError, match="'a' is asked for twice"):
            merged([low, twice])
    with pytest.raises(VibronicError, match="give the lower end first"):
        Condition.parse("2<a<1")


@pytest.mark.parametrize(
    ("asked", "seen", "said"),
    [
        ("a=0.5", "a=0.5", False),
        ("a=1", "a=1", False),
        ("a=3", "a=1", True),
        ("a<5", "a<=1", False),  # all of them are: nothing to say
        ("a<-1", "a<=0", True),
        ("a>0", "a>=0.2", False),
        ("a>=0", "a>=0", False),
        ("a>0.5", "a>=1", False),
        ("0<a<1", "a=0.2", False),
        ("-1<a<0.5", "0<=a<=0.2", False),
        ("0.3<a<0.5", "a=0.4", True),
        ("2<a<3", "a=1", True),
    ],
)
def test_what_a_network_can_be_asked_for(asked: str, seen: str, said: bool) -> None:
    """By what it has seen: the values 0, 0.2 and 1."""
    condition, values = Condition.parse(asked), torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64)
    found = condition.seen(values)
    if found.kind == BETWEEN and found.value == found.upper:
        found = Condition(found.name, EQUAL, found.value)
    assert str(found) == seen
    told = beyond(condition, values)
    assert (told is not None) == said
    assert told is None or told.startswith(f"{condition} ")


# --- embedding ---


def embedding(values: Tensor, width: int = 8) -> ConditionEmbedding:
    torch.manual_seed(0)
    found = ConditionEmbedding(values.shape[1], width)
    found.prepare(values)
    return found


def asked(value: list[float], kind: int, spacegroup: int = 0) -> Asked:
    there = torch.tensor(value)[:, None]
    return Asked(there, torch.full_like(there, kind, dtype=torch.long), torch.full((len(value),), spacegroup))


@pytest.mark.parametrize("kind", [EQUAL, AT_MOST, AT_LEAST])
def test_values_outside_the_range_are_those_at_its_ends(kind: int) -> None:
    network = embedding(torch.linspace(-1, 3, 50)[:, None])
    found = network(asked([-1.0, -77.0, 3.0, 1e6], kind))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[2], found[3])
    assert (found[0] - found[2]).abs().max() > 1e-3


def test_kinds_and_space_groups_differ_and_nothing_is_zero() -> None:
    network = embedding(torch.linspace(0, 1, 50)[:, None])
    found = [network(asked([0.5], kind)) for kind in (EQUAL, AT_MOST, AT_LEAST)]
    found += [network(asked([0.5], EQUAL, group)) for group in (1, 225)]
    assert all((a - b).abs().max() > 1e-3 for k, a in enumerate(found) for b in found[:k])
    assert (network(asked([0.5], NOTHING)) == 0).all()


def test_properties_add_up() -> None:
    network = embedding(torch.rand(50, 2))
    value = torch.tensor([[0.2, 0.7]])

    def of(*kinds: int) -> Tensor:
        return network(Asked(value, torch.tensor([kinds]), torch.zeros(1, dtype=torch.long)))

    assert torch.allclose(of(EQUAL, AT_MOST), of(EQUAL, NOTHING) + of(NOTHING, AT_MOST), atol=1e-6)


def test_a_property_that_is_the_same_everywhere() -> None:
    network = embedding(torch.full((10, 1), 2.0))
    assert torch.isfinite(network(asked([2.0, 5.0], EQUAL))).all()
    drawn, weight = network.draw(torch.full((10, 1), 2.0), torch.ones(10, dtype=torch.long), 0.0, None)
    assert (drawn.value == 2).all()
    assert torch.isfinite(weight).all()


# --- ranks ---


def test_ranks_and_quantiles_are_inverse() -> None:
    values = torch.randn(301, 2, generator=torch.Generator().manual_seed(0))
    network = embedding(values)
    ranks = network.rank(values)
    assert ((ranks > 0) & (ranks < 1)).all()
    assert torch.equal(network.quantile(ranks), values)
    assert ranks.sort(0).values[:, 0].numpy() == pytest.approx((torch.arange(301) + 0.5).numpy() / 301)
    outside = network.rank(torch.tensor([[-99.0, 99.0]]))
    assert outside.tolist() == [pytest.approx([0.5 / 301, 300.5 / 301])]
    assert torch.equal(
        network.quantile(torch.tensor([[0.0, 1.0]]))[0], torch.stack([values[:, 0].min(), values[:, 1].max()])
    )


def test_equals_share_their_ranks() -> None:
    network = embedding(torch.tensor([0.0, 0.0, 0.0, 1.0])[:, None])
    values, within = torch.zeros(3, 1), torch.tensor([[1 / 6], [0.5], [5 / 6]])
    assert network.rank(values, within).flatten().numpy() == pytest.approx([0.125, 0.375, 0.625])


# --- what is drawn in training ---


def many(values: Tensor, dropout: float = 0.0, times: int = 150) -> tuple[ConditionEmbedding, Tensor, Asked, Tensor]:
    """A training set shown many times over: values, conditions, weights."""
    network = embedding(values)
    repeated = values.repeat(times, 1)
    groups = torch.full((len(repeated),), 7)
    return network, repeated, *network.draw(repeated, groups, dropout, torch.Generator().manual_seed(0))


def training_set(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(1000, 1, generator=generator)
    if kind == "skewed":
        return values.exp()
    return values.clamp(min=0) if kind == "half of them equal" else values


@pytest.mark.parametrize("kind", ["normal", "skewed", "half of them equal"])
@pytest.mark.parametrize("sign", [AT_MOST, AT_LEAST])
def test_bounds_teach_the_restricted_training_set(kind: str, sign: int) -> None:
    """All crystals shown with a bound near b, weighted, are distributed as the training set on the right side of b."""
    values = training_set(kind)
    network, shown, drawn, weight = many(values)
    bound, rank = drawn.value[:, 0], network.rank(drawn.value)[:, 0]
    chosen = drawn.kind[:, 0] == sign
    assert ((bound >= shown[:, 0]) if sign == AT_MOST else (bound <= shown[:, 0]))[chosen].all()
    for low, high in ((0.3, 0.4), (0.55, 0.65), (0.7, 0.8)):
        here = chosen & (rank > low) & (rank < high)
        if not here.any():  # no value has such a rank
            continue
        seen, share = shown[here, 0], weight[here] / weight[here].sum()
        expected = torch.zeros(3)
        edges = torch.quantile(values[:, 0], torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))[
            [0, 1, 2] if sign == AT_MOST else [2, 3, 4]
        ]
        # The bounds of the bin, each as often as it was drawn, and what of the training set keeps them.
        for b in bound[here].unique():
            kept = values[:, 0] <= b if sign == AT_MOST else values[:, 0] >= b
            expected += share[bound[here] == b].sum() * (values[kept] <= edges).float().mean(0)
        found = torch.stack([share[seen <= e].sum() for e in edges])
        assert found.numpy() == pytest.approx(expected.numpy(), abs=0.035)


def test_weights_have_a_mean_of_one() -> None:
    _, _, drawn, weight = many(training_set("normal"))
    assert float(weight.mean()) == pytest.approx(1, abs=0.02)
    assert (weight > 0).all()
    assert (weight[drawn.kind[:, 0] == EQUAL] == 1).all()


def test_shares_of_what_is_asked() -> None:
    _, shown, drawn, weight = many(torch.randn(1000, 1), dropout=0.2, times=100)
    kinds = torch.bincount(drawn.kind[:, 0], minlength=4) / len(shown)
    assert kinds.numpy() == pytest.approx([0.2, 0.4, 0.2, 0.2], abs=0.01)
    assert float((drawn.spacegroup > 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert set(drawn.spacegroup.tolist()) == {0, 7}
    left_out = drawn.kind[:, 0] == NOTHING
    assert (drawn.spacegroup[left_out] == 0).all()
    assert (weight[left_out] == 1).all()
    equal = drawn.kind[:, 0] == EQUAL
    assert torch.equal(drawn.value[equal], shown[equal])


def test_of_several_properties_any_are_asked() -> None:
    _, shown, drawn, _ = many(torch.randn(1000, 2), times=50)
    asked = drawn.kind > NOTHING
    assert asked.float().mean(0).numpy() == pytest.approx([0.75, 0.75], abs=0.01)
    assert float((asked[:, 0] & asked[:, 1]).float().mean()) == pytest.approx(0.75**2, abs=0.01)
    assert len(shown) == len(drawn.value)


def test_draws_follow_the_seed() -> None:
    values = torch.randn(20, 2)
    network, groups = embedding(values), torch.ones(20, dtype=torch.long)
    one, two, other = (
        network.draw(values, groups, 0.1, torch.Generator().manual_seed(seed))[0].value for seed in (0, 0, 1)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_without_properties() -> None:
    network = embedding(torch.zeros(10, 0))
    drawn, weight = network.draw(torch.zeros(10, 0), torch.ones(10, dtype=torch.long), 0.5, None)
    assert drawn.value.shape == drawn.kind.shape == (10, 0)
    assert (weight == 1).all()
    assert network(drawn).shape == (10, 8)


def test_likelihood_of_estimates() -> None:
    """Of a normal error: its density for a value, its distribution for a bound, nothing for what is not asked."""
    from scipy.stats import norm

    embedding = ConditionEmbedding(2, 8)
    embedding.prepare(torch.tensor([[0.0, 0.0], [2.0, 10.0], [4.0, 20.0]]))
    embedding.mean, embedding.spread = torch.zeros(2), torch.full((2,), 2.0)
    value = torch.tensor([[1.0, 9.0]]).expand(4, 2)
    kind = torch.tensor([[EQUAL, NOTHING], [AT_MOST, NOTHING], [AT_LEAST, NOTHING], [NOTHING, NOTHING]])
    asked = Asked(value, kind, torch.zeros(4, dtype=torch.long))
    estimate = torch.tensor([[-0.4, 5.0], [0.3, -2.0], [0.8, 0.0]]).expand(4, 3, 2)
    found = embedding.log_likelihood(asked, estimate, 0.3).numpy()
    away = (0.5 - estimate[0, :, 0].numpy()) / 0.3
    expected = [norm.logpdf(away) - norm.logpdf(0), norm.logcdf(away), norm.logsf(away), 0 * away]
    assert np.allclose(found, expected, rtol=1e-5)
    both = Asked(value[:1], torch.full((1, 2), EQUAL), torch.zeros(1, dtype=torch.long))
    second = norm.logpdf((4.5 - estimate[0, :, 1].numpy()) / 0.3) - norm.logpdf(0)
    assert np.allclose(embedding.log_likelihood(both, estimate[:1], 0.3).numpy(), expected[0] + second, rtol=1e-5)
    end, beyond = (Asked(torch.full((1, 2), v), both.kind, both.spacegroup) for v in (0.0, -1e30))
    assert torch.equal(*(embedding.log_likelihood(a, estimate[:1], 0.3) for a in (end, beyond)))
