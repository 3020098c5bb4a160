"""The published corruptions against closed forms, numerical derivatives, explicit matrices and Bayes' rule."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vibronic.core.errors import VibronicError
from vibronic.crystals.corruption import (
    GaussianDiffusion,
    UniformDiffusion,
    WrappedDiffusion,
    mean_square_score,
    sinusoidal,
    wrapped_score,
)
from vibronic.crystals.schedules import cosine_alphas, flow_times, geometric_sigmas, strided

DRAWS = 40_000
SIX = 6 / math.sqrt(DRAWS)  # six standard errors of a quantity of unit spread


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def times(t: int, n: int) -> Tensor:
    return torch.full((n,), t)


# --- schedules ---


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_the_cosine_schedule(steps: int) -> None:
    alphas = cosine_alphas(steps)
    assert alphas.shape == (steps + 1,)
    assert alphas[0] == 1
    assert (alphas.diff() < 0).all()
    assert (1 - alphas[1:] / alphas[:-1] <= 0.999 + 1e-12).all()
    t = np.arange(steps) / steps  # all but the last step, whose noise is bounded
    expected = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    assert alphas[:-1].numpy() == pytest.approx(expected, rel=1e-9)


def test_sigmas_grow_by_one_factor() -> None:
    sigmas = geometric_sigmas(50, 0.005, 0.5)
    assert sigmas[0] == 0
    assert (float(sigmas[1]), float(sigmas[-1])) == pytest.approx((0.005, 0.5))
    assert (sigmas[2:] / sigmas[1:-1]).numpy() == pytest.approx(100 ** (1 / 49))


@given(steps=st.integers(1, 1200), evaluations=st.integers(1, 1500))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_strides_lead_from_noise_to_the_crystal(steps: int, evaluations: int) -> None:
    pairs = strided(steps, evaluations)
    assert len(pairs) == min(steps, evaluations)
    assert (pairs[0][0], pairs[-1][1]) == (steps, 0)
    assert all(t > s for t, s in pairs)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pairs))


def test_times_of_the_flow() -> None:
    assert flow_times(4).tolist() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert flow_times(0).tolist() == [0]


def test_sinusoidal_features() -> None:
    found = sinusoidal(torch.tensor([0, 3]), 4)
    assert found[0].tolist() == [0, 0, 1, 1]
    assert found[1].numpy() == pytest.approx([math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)], rel=1e-5)


# --- Gaussian ---


@pytest.mark.parametrize("t", [1, 30, 77, 100])
def test_moments_of_the_gaussian(t: int) -> None:
    diffusion = GaussianDiffusion(100)
    x = torch.tensor([[5.0, -2.0], [0.0, 3.0]]).expand(DRAWS, 2, 2)
    noisy = diffusion(x, times(t, DRAWS), torch.randn(x.shape))
    alpha = float(cosine_alphas(100)[t])
    spread = math.sqrt(1 - alpha)
    assert noisy.mean(0).numpy() == pytest.approx(math.sqrt(alpha) * x[0].numpy(), abs=SIX * spread)
    assert noisy.var(0).numpy() == pytest.approx(1 - alpha, rel=SIX * math.sqrt(2))


def test_nothing_happens_at_time_zero() -> None:
    x = torch.randn(3, 3, 3)
    assert torch.equal(GaussianDiffusion(10)(x, times(0, 3), torch.randn(3, 3, 3)), x)
    fractional = torch.rand(3, 4, 3)
    assert torch.equal(WrappedDiffusion(10, 0.005, 0.5)(fractional, times(0, 3), torch.randn(3, 4, 3)), fractional)
    a = torch.randint(0, 5, (3, 4))
    assert torch.equal(UniformDiffusion(10, 5).probabilities(a, times(0, 3)).argmax(-1), a)


@pytest.mark.parametrize("t", [2, 13, 50])
def test_a_single_step_back_is_the_textbook_one(t: int) -> None:
    """Ho 2020, eqs. 7 and 11, in beta_t and abar_t."""
    diffusion = GaussianDiffusion(50).double()
    alphas = cosine_alphas(50)
    beta = 1 - alphas[t] / alphas[t - 1]
    x, noise = torch.randn(4, 3, 3, dtype=torch.float64), torch.randn(4, 3, 3, dtype=torch.float64)
    mean, variance = diffusion.posterior(x, diffusion.clean(x, noise, times(t, 4)), times(t, 4), times(t - 1, 4))
    assert variance.flatten().numpy() == pytest.approx(float(beta * (1 - alphas[t - 1]) / (1 - alphas[t])), rel=1e-9)
    expected = (x - beta / (1 - alphas[t]).sqrt() * noise) / (1 - beta).sqrt()
    assert torch.allclose(mean, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(("t", "s"), [(100, 80), (80, 79), (60, 5), (40, 0)])
def test_a_stride_back_keeps_the_distribution(t: int, s: int) -> None:
    """x_0 -> x_t -> x_s with the true noise is distributed as x_0 -> x_s."""
    diffusion = GaussianDiffusion(100)
    x = torch.tensor([4.0, -1.0]).double().expand(DRAWS, 2)
    noise = torch.randn(DRAWS, 2).double()
    there = diffusion(x, times(t, DRAWS), noise)
    mean, variance = diffusion.posterior(
        there, diffusion.clean(there, noise, times(t, DRAWS)), times(t, DRAWS), times(s, DRAWS)
    )
    back = mean + variance.sqrt() * torch.randn(DRAWS, 2)
    alpha = float(cosine_alphas(100)[s])
    spread = math.sqrt(1 - alpha)
    assert back.mean(0).numpy() == pytest.approx(math.sqrt(alpha) * x[0].numpy(), abs=SIX * spread + 1e-6)
    assert back.var(0).numpy() == pytest.approx(1 - alpha, rel=SIX * math.sqrt(2), abs=1e-9)


def test_strides_compose() -> None:
    """With the true x_0, one stride t -> r has the moments of t -> s -> r."""
    diffusion = GaussianDiffusion(100).double()
    t, s, r = (times(k, 1) for k in (70, 40, 10))
    x, clean = torch.tensor([[0.3]]).double(), torch.tensor([[2.0]]).double()

    def step(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return diffusion.posterior(x, clean, t, s)

    middle, first = step(x, t, s)
    mean, second = step(middle, s, r)
    slope = step(middle + 1, s, r)[0] - mean
    once = step(x, t, r)
    assert float(mean) == pytest.approx(float(once[0]), rel=1e-9)
    assert float(second + slope**2 * first) == pytest.approx(float(once[1]), rel=1e-9)


# --- wrapped normal ---


@pytest.mark.parametrize("t", [1, 40, 70, 100])
def test_moments_of_the_wrapped_normal(t: int) -> None:
    diffusion = WrappedDiffusion(100, 0.005, 0.5)
    x = torch.tensor([0.1, 0.0, 0.97]).expand(DRAWS, 1, 3)
    moved = diffusion(x, times(t, DRAWS), torch.randn(x.shape))
    assert ((moved >= 0) & (moved <= 1)).all()
    sigma = float(geometric_sigmas(100, 0.005, 0.5)[t])
    for k in (1, 2, 3):
        phase = 2 * math.pi * k * (moved - x)
        expected = math.exp(-2 * (math.pi * k * sigma) ** 2)
        assert phase.cos().mean(0).numpy() == pytest.approx(expected, abs=SIX)
        assert phase.sin().mean(0).numpy() == pytest.approx(0, abs=SIX)


def log_density(x: float, sigma: float) -> float:
    images = np.arange(-30, 31)
    exponents = -0.5 * ((x - images) / sigma) ** 2
    return float(exponents.max() + np.log(np.exp(exponents - exponents.max()).sum()))


@given(sigma=st.floats(0.003, 0.55), x=st.floats(-2, 2))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_score_is_the_derivative_of_the_log_density(sigma: float, x: float) -> None:
    h = 1e-4 * sigma
    numerical = (log_density(x + h, sigma) - log_density(x - h, sigma)) / (2 * h)
    found = wrapped_score(torch.tensor(x, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64))
    # Half a period away the score of a narrow normal jumps, and no difference quotient holds.
    if abs(abs(x - round(x)) - 0.5) > 20 * sigma**2 * 1e-3 + h:
        assert float(found) == pytest.approx(numerical, rel=1e-4, abs=1e-5)


@given(sigma=st.floats(0.003, 0.55), x=st.floats(-0.5, 0.5), n=st.integers(-3, 3))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_score_is_odd_and_periodic(sigma: float, x: float, n: int) -> None:
    def score(x: float) -> float:
        return float(wrapped_score(torch.tensor(x, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64)))

    assert score(-x) == pytest.approx(-score(x), abs=1e-9 / sigma**2)
    if abs(x) < 0.49:
        assert score(x + n) == pytest.approx(score(x), rel=1e-6, abs=1e-9 / sigma**2)


def test_limits_of_the_score() -> None:
    x = torch.linspace(-0.4, 0.4, 9, dtype=torch.float64)
    narrow = torch.tensor(0.01, dtype=torch.float64)
    assert torch.allclose(wrapped_score(x, narrow), -x / narrow**2)
    wide = torch.tensor(0.5, dtype=torch.float64)
    first = -4 * math.pi * torch.exp(-2 * (math.pi * wide) ** 2) * torch.sin(2 * math.pi * x)  # of the Fourier series
    assert torch.allclose(wrapped_score(x, wide), first, rtol=0.05, atol=1e-6)
    assert torch.isfinite(wrapped_score(torch.tensor([0.0, 0.5, 1.0]), torch.tensor(0.005))).all()


def test_limits_of_the_mean_square_score() -> None:
    narrow = torch.tensor([1e-4, 0.005, 0.05], dtype=torch.float64)
    assert (mean_square_score(narrow) * narrow**2).numpy() == pytest.approx(1, rel=1e-3)
    found = mean_square_score(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64))
    assert (found.diff() < 0).all()
    assert float(found[-1]) == pytest.approx(8 * math.pi**2 * math.exp(-4 * (math.pi * 0.5) ** 2), rel=0.01)
    assert float(mean_square_score(torch.tensor([0.55]))[0]) < 1e-2


@pytest.mark.parametrize("sigma", [0.02, 0.15, 0.3])
def test_the_mean_square_score_by_monte_carlo(sigma: float) -> None:
    x = sigma * torch.randn(DRAWS, dtype=torch.float64)
    squared = wrapped_score(x, torch.full_like(x, sigma)) ** 2
    error = float(squared.std() / math.sqrt(DRAWS))
    assert float(mean_square_score(torch.tensor([sigma]))[0]) == pytest.approx(float(squared.mean()), abs=5 * error)


def test_targets_of_the_network_have_one_scale() -> None:
    diffusion = WrappedDiffusion(100, 0.005, 0.5)
    for t in (1, 50, 100):
        x = torch.rand(DRAWS, 1, 3)
        moved = diffusion(x, times(t, DRAWS), torch.randn(x.shape))
        target = diffusion.target(moved, x, times(t, DRAWS))
        assert float((target**2).mean()) == pytest.approx(1, abs=0.05)


def test_a_true_score_leads_back() -> None:
    """All steps with the score of a single site, correctors between them, end at the site."""
    diffusion = WrappedDiffusion(60, 0.005, 0.5)
    site = torch.tensor([0.2, 0.9, 0.5]).expand(300, 1, 3)
    x = torch.rand(site.shape)
    for before, after in strided(60, 60):
        t, s = times(before, 300), times(after, 300)
        x = diffusion.step(x, diffusion.target(x, site, t), t, s, torch.randn(x.shape))
        if after:
            x = diffusion.correct(x, diffusion.target(x, site, s), s, torch.randn(x.shape), 1e-5)
    away = x - site
    assert float((away - away.round()).abs().max()) < 0.05
    assert ((x >= 0) & (x <= 1)).all()


def test_the_corrector_keeps_the_distribution() -> None:
    """Langevin steps of the true score leave a wrapped normal as it is."""
    diffusion = WrappedDiffusion(60, 0.005, 0.5)
    t = times(40, DRAWS)
    site = torch.full((DRAWS, 1, 1), 0.3)
    x = diffusion(site, t, torch.randn(site.shape))
    for _ in range(5):
        x = diffusion.correct(x, diffusion.target(x, site, t), t, torch.randn(x.shape), 1e-6)
    expected = math.exp(-2 * (math.pi * float(diffusion.sigmas[40])) ** 2)
    assert float((2 * math.pi * (x - site)).cos().mean()) == pytest.approx(expected, abs=SIX + 0.01)


# --- uniform transitions ---


def matrices(steps: int, classes: int) -> list[np.ndarray]:
    """One-step transition matrices Q_1 ... Q_T, written out."""
    alphas = cosine_alphas(steps).numpy()
    kept = alphas[1:] / alphas[:-1]
    return [k * np.eye(classes) + (1 - k) / classes * np.ones((classes, classes)) for k in kept]


@pytest.mark.parametrize("t", [1, 7, 20])
def test_one_step_matrices_multiply_to_the_cumulative_one(t: int) -> None:
    diffusion = UniformDiffusion(20, 4)
    product = np.linalg.multi_dot([np.eye(4), *matrices(20, 4)[:t]])
    found = diffusion.probabilities(torch.arange(4)[None], torch.tensor([t]))[0]
    assert found.numpy() == pytest.approx(product, abs=1e-6)
    assert found.sum(-1).numpy() == pytest.approx(1)


def test_class_frequencies() -> None:
    """Classes that go step by step, drawn from the matrices, are as often as the closed form says."""
    rng = np.random.default_rng(0)
    diffusion, a = UniformDiffusion(20, 4), np.full(DRAWS, 2)
    for t, matrix in enumerate(matrices(20, 4), 1):
        a = (rng.random(DRAWS)[:, None] > matrix[a].cumsum(1)).sum(1).clip(max=3)
        expected = diffusion.probabilities(torch.tensor([[2]]), torch.tensor([t]))[0, 0]
        assert np.bincount(a, minlength=4) / DRAWS == pytest.approx(expected.numpy(), abs=SIX)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(("t", "s"), [(20, 19), (20, 3), (12, 11), (12, 5), (1, 0), (20, 0)])
def test_the_posterior_is_bayes_rule(classes: int, t: int, s: int) -> None:
    """q(a_s | a_t, a_0) for every pair of classes, by enumeration of a_s with explicit matrices."""
    diffusion, q = UniformDiffusion(20, classes), matrices(20, classes)
    before = np.linalg.multi_dot([np.eye(classes), np.eye(classes), *q[:s]])
    between = np.linalg.multi_dot([np.eye(classes), *q[s:t]])
    for first in range(classes):
        for now in range(classes):
            joint = np.array([before[first, k] * between[k, now] for k in range(classes)])
            clean = torch.eye(classes)[first].view(1, 1, -1)
            found = diffusion.posterior(torch.tensor([[now]]), clean, torch.tensor([t]), torch.tensor([s]))[0, 0]
            assert found.numpy() == pytest.approx(joint / joint.sum(), abs=1e-5)


def test_the_posterior_of_an_unknown_crystal_is_normalised() -> None:
    """A network's distribution of a_0 enters linearly before the division, as in D3PM's parametrisation."""
    diffusion, q = UniformDiffusion(20, 4), matrices(20, 4)
    clean = torch.softmax(torch.randn(2, 3, 4), -1)
    a = torch.randint(0, 4, (2, 3))
    found = diffusion.posterior(a, clean, torch.tensor([9, 17]), torch.tensor([4, 2]))
    assert found.sum(-1).numpy() == pytest.approx(1)
    for b, (t, s) in enumerate([(9, 4), (17, 2)]):
        before, between = np.linalg.multi_dot([np.eye(4), *q[:s]]), np.linalg.multi_dot([np.eye(4), *q[s:t]])
        for n in range(3):
            joint = (clean[b, n].numpy() @ before) * between[:, int(a[b, n])]
            assert found[b, n].numpy() == pytest.approx(joint / joint.sum(), abs=1e-5)


def test_a_stride_back_keeps_class_frequencies() -> None:
    """The posterior, averaged over q(a_t | a_0), is q(a_s | a_0)."""
    diffusion = UniformDiffusion(20, 5)
    t, s = torch.full((5,), 15), torch.full((5,), 6)
    start = torch.full((5, 1), 3)
    weights = diffusion.probabilities(start[:1], t[:1])[0, 0]
    clean = torch.nn.functional.one_hot(start, 5).float()
    back = diffusion.posterior(torch.arange(5)[:, None], clean, t, s)[:, 0]
    expected = diffusion.probabilities(start[:1], s[:1])[0, 0]
    assert (weights @ back).numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_widths_beyond_which_the_images_would_not_do_are_refused() -> None:
    WrappedDiffusion(10, 0.005, 0.55)
    for smallest, largest in ((0.0, 0.5), (0.5, 0.1), (0.005, 1.0)):
        with pytest.raises(VibronicError, match=r"at most 0\.55 periods"):
            WrappedDiffusion(10, smallest, largest)
