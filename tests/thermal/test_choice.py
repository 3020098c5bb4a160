"""What a label is worth, against Gaussian-process formulas written out, and against computing it."""

import numpy as np
import pytest
import torch
from ase.build import bulk

from vibronic.thermal import average
from vibronic.thermal.choice import choose, foreseen, gains, learned, variances

NOISE = 0.3


@pytest.fixture
def problem():
    """40 candidates of rank 6 and two averages over halves of them."""
    torch.manual_seed(1)
    a = torch.randn(40, 6, dtype=torch.float64) * torch.tensor([3.0, 1, 1, 0.3, 0.3, 0.1], dtype=torch.float64)
    weights = torch.zeros(2, 40, dtype=torch.float64)
    weights[0, :20], weights[1, 20:] = 1 / 20, 1 / 20
    return a, weights


def posterior(a, labelled):
    """Covariance of all candidates once some are labelled, from the textbook."""
    c = a @ a.T
    k = c[:, labelled]
    inner = c[labelled][:, labelled] + NOISE**2 * torch.eye(len(labelled), dtype=torch.float64)
    return c - k @ torch.linalg.solve(inner, k.T)


def test_an_update_is_the_posterior(problem) -> None:
    a, weights = problem
    candidates, goals = a, weights @ a
    for index in (3, 17, 31):
        candidates, goals = learned(candidates, goals, index, NOISE)
    expected = posterior(a, [3, 17, 31])
    assert torch.allclose(candidates @ candidates.T, expected, atol=1e-10)
    assert torch.allclose(variances(goals), torch.diag(weights @ expected @ weights.T), atol=1e-12)


def test_a_gain_is_what_the_label_brings(problem) -> None:
    a, weights = problem
    goals = weights @ a
    told = gains(a, goals, NOISE)
    for index in (0, 8, 39):
        after = posterior(a, [index])
        assert torch.allclose(told[index], variances(goals) - torch.diag(weights @ after @ weights.T), atol=1e-12)


def test_a_label_never_makes_an_average_less_certain(problem) -> None:
    a, weights = problem
    curve = foreseen(a, weights @ a, NOISE, list(range(40)))
    assert (curve.diff(dim=0) <= 1e-12).all()
    assert curve.shape == (41, 2)


def test_chosen_labels_are_worth_more_than_random_ones(problem) -> None:
    a, weights = problem
    goals = weights @ a
    chosen = choose(a, goals, NOISE, 6, torch.full((2,), 1e-9, dtype=torch.float64), taken=[5])
    assert len(set(chosen)) == 6
    assert 5 not in chosen
    best = foreseen(a, goals, NOISE, chosen)[-1].sum()
    others = [foreseen(a, goals, NOISE, torch.randperm(40)[:6].tolist())[-1].sum() for _ in range(30)]
    assert best < min(others)


def test_an_average_that_is_certain_enough_asks_for_nothing(problem) -> None:
    """With the first average done, the first choice is the best one for the second."""
    a, weights = problem
    goals = weights @ a
    limits = torch.tensor([1e9, 1e-9], dtype=torch.float64)
    (first,) = choose(a, goals, NOISE, 1, limits)
    assert first == int(gains(a, goals, NOISE)[:, 1].argmax())


def test_a_certain_candidate_changes_nothing() -> None:
    a = torch.zeros(3, 2, dtype=torch.float64)
    candidates, goals = learned(a, torch.ones(1, 2, dtype=torch.float64), 0, NOISE)
    assert torch.equal(candidates, a)
    assert torch.equal(goals, torch.ones(1, 2, dtype=torch.float64))


def test_scales_of_the_pool_keep_features_small_that_few_labels_did_not_show() -> None:
    """Labels of structures in which a feature hardly varies, and a pool in which it does: divided by the spread of the labelled ones it
    would be enormous."""
    calm, wild = ([bulk("Cu", cubic=True) for _ in range(n)] for n in (8, 40))
    for size, frames in ((0.002, calm), (0.1, wild)):
        for k, atoms in enumerate(frames):
            atoms.rattle(size, seed=k)
            atoms.info["energy"] = float(len(atoms) * (1 + 0.1 * np.sin(k)))
    surveyed = average.survey("ridge", "energy", wild)
    alone, told = (average.fit("ridge", "energy", calm, surveyed=s) for s in (None, surveyed))
    assert np.abs(told.posterior(wild)[0] - 1).max() < 0.2
    assert np.abs(alone.posterior(wild)[0] - 1).max() > 3 * np.abs(told.posterior(wild)[0] - 1).max()


def test_averages_lie_where_the_labels_of_their_temperature_are() -> None:
    """Labels that differ between temperatures by what no feature tells: a model alone would give both the same average."""
    frames = [bulk("Cu", cubic=True) for _ in range(24)]
    rng = np.random.default_rng(0)
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
        atoms.info |= {
            "temperature_K": 300.0 + 100 * (k % 2),
            "energy": float(len(atoms) * (k % 2 + 0.01 * rng.normal())),
        }
    found = average.fit("ridge", "energy", frames)
    assert list(found.levels) == [300.0, 400.0]
    for t, level in ((300.0, 0.0), (400.0, 1.0)):
        drawn = [a for a in frames if a.info["temperature_K"] == t]
        value = average.average(found.posterior(drawn), 0.0, 0.0)
        labels = np.mean([a.info["energy"] / len(a) for a in drawn])
        assert value.mean == pytest.approx(labels, abs=1e-9)
        assert abs(value.mean - level) < value.half_width
    # What no label has a temperature in common with stays at the level of the model, and a difference within one cancels it.
    other = frames[0].copy()
    del other.info["temperature_K"]
    (alike,), rows = found.posterior(frames[:1])
    assert found.posterior([other])[0] == pytest.approx(alike - found.levels[300.0].shift)
    gap = rows - found.posterior(frames[2:3])[1]
    assert gap[:, -2:].abs().max() == 0
