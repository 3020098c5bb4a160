"""The three corruptions of a crystal as published: Gaussian for the lattice, wrapped normal for fractional coordinates,
uniform transitions for species (arXiv 2406.09263). Each knows its forward process and one step back, between any two times
``t > s``, so that a sampler may take every step or stride over many.

Times are whole numbers, 0 (the crystal) to T (noise), one per structure: (B,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vibronic.core.errors import VibronicError
from vibronic.crystals.schedules import cosine_alphas, geometric_sigmas

_IMAGES = 3  # a normal of width 1/2 reaches no farther than three periods in single precision


def _over(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values as (B, 1, ...) beside a tensor (B, ...)."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


class GaussianDiffusion(nn.Module):
    """DDPM (Ho 2020): ``x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps``, for tensors (B, ...)."""

    alphas: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.register_buffer("alphas", cosine_alphas(steps), persistent=False)

    def forward(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x at time t for standard normal ``noise``, all (B, ...)."""
        alpha = _over(self.alphas[t], x)
        return alpha.sqrt() * x + (1 - alpha).sqrt() * noise

    def clean(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_0 (B, ...) from x at time t and the noise that is in it."""
        alpha = _over(self.alphas[t], x)
        return (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()

    def posterior(self, x: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, ...) and variance (B, 1, ...) of ``q(x_s | x_t, x_0)`` for x at time t and x_0 ``clean``.

        For s = t - 1 the variance is ``beta_t (1 - abar_{t-1}) / (1 - abar_t)`` (Ho 2020, eq. 7).
        """
        alpha_t, alpha_s = _over(self.alphas[t], x), _over(self.alphas[s], x)
        ratio = alpha_t / alpha_s
        mean = alpha_s.sqrt() * (1 - ratio) / (1 - alpha_t) * clean + ratio.sqrt() * (1 - alpha_s) / (1 - alpha_t) * x
        return mean, (1 - ratio) * (1 - alpha_s) / (1 - alpha_t)


def wrapped_score(x: Tensor, sigma: Tensor) -> Tensor:
    """Gradient of the logarithm of a wrapped normal density of period 1 around 0.

    Args:
        x: (...,) displacements, periods.
        sigma: widths, broadcast to x.

    Returns:
        (...,) ``d/dx log sum_k exp(-(x - k)^2 / (2 sigma^2))``, 1 / periods.
    """
    x = x - x.round()
    images = torch.arange(-_IMAGES, _IMAGES + 1, device=x.device, dtype=x.dtype)
    distance = x.unsqueeze(-1) - images
    weights = torch.softmax(-0.5 * (distance / sigma.unsqueeze(-1)) ** 2, -1)
    return -(weights * distance).sum(-1) / sigma**2


def mean_square_score(sigma: Tensor, points: int = 2001) -> Tensor:
    """``E |d/dx log q|^2`` of one coordinate under the wrapped normal itself, by quadrature over a period.

    It is ``1 / sigma^2`` for a narrow normal and goes to 0 as the density becomes uniform.

    Args:
        sigma: (S,) widths.

    Returns:
        (S,) in 1 / periods^2.
    """
    sigma = sigma.double()[:, None]
    # A narrow normal has no weight half a period away, where an even grid would waste its points.
    reach = (10 * sigma).clamp(max=0.5)
    x = torch.linspace(-1, 1, points, dtype=torch.float64) * reach
    images = torch.arange(-_IMAGES, _IMAGES + 1, dtype=torch.float64)
    density = torch.exp(-0.5 * ((x[..., None] - images) / sigma[..., None]) ** 2).sum(-1)
    score = wrapped_score(x, sigma.expand_as(x))
    return torch.trapezoid(density * score**2, x) / torch.trapezoid(density, x)


class WrappedDiffusion(nn.Module):
    """Variance-exploding diffusion on the torus of fractional coordinates, (B, N, 3) in [0, 1).

    A network learns ``score / sqrt(E |score|^2)``: its squared error is the paper's loss with ``lambda_t = 1 / E |score|^2``,
    and its output has one scale at all times.
    """

    sigmas: Tensor
    scales: Tensor

    def __init__(self, steps: int, smallest: float, largest: float) -> None:
        super().__init__()
        if not 0 < smallest <= largest <= 0.55:
            raise VibronicError(
                f"widths of the wrapped normal are above 0 and at most 0.55 periods, where it is uniform, not {smallest} to {largest}"
            )
        sigmas = geometric_sigmas(steps, smallest, largest)
        scales = torch.cat([torch.zeros(1, dtype=torch.float64), mean_square_score(sigmas[1:]).sqrt()])
        self.register_buffer("sigmas", sigmas, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Coordinates at time t for standard normal ``noise``."""
        return (x + _over(self.sigmas[t], x) * noise) % 1

    def target(self, displaced: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What a network should say of coordinates ``displaced`` from x at time t >= 1: the score over its scale."""
        sigma = _over(self.sigmas[t], x).expand_as(x)
        return wrapped_score(displaced - x, sigma) / _over(self.scales[t], x)

    def step(self, x: Tensor, output: Tensor, t: Tensor, s: Tensor, noise: Tensor) -> Tensor:
        """Ancestral step from t to s (Song 2021, the predictor of a variance-exploding diffusion)."""
        before, after = _over(self.sigmas[t], x), _over(self.sigmas[s], x)
        gained = before**2 - after**2
        spread = (gained * after**2).sqrt() / before
        return (x + gained * output * _over(self.scales[t], x) + spread * noise) % 1

    def correct(self, x: Tensor, output: Tensor, t: Tensor, noise: Tensor, size: float) -> Tensor:
        """Langevin step at time t >= 1; ``size`` is its length at the smallest sigma, and grows as sigma squared."""
        step = size * (_over(self.sigmas[t], x) / self.sigmas[1].to(x.dtype)) ** 2
        return (x + step * output * _over(self.scales[t], x) + (2 * step).sqrt() * noise) % 1


class UniformDiffusion(nn.Module):
    """D3PM with uniform transitions over K classes (Austin 2021): ``Q_t = (1 - beta_t) I + beta_t / K 1 1^T``.

    A product of such matrices has the same form, so that ``q(a_t | a_s)`` needs one number for any t > s.
    """

    alphas: Tensor

    def __init__(self, steps: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("alphas", cosine_alphas(steps), persistent=False)

    def _spread(self, p: Tensor, alpha: Tensor) -> Tensor:
        """Distributions (B, N, K) after transitions that keep a class with probability ``alpha`` and redraw it otherwise."""
        alpha = _over(alpha, p)
        return alpha * p + (1 - alpha) / self.classes

    def probabilities(self, a: Tensor, t: Tensor) -> Tensor:
        """``q(a_t | a_0)`` (B, N, K) for classes a (B, N)."""
        return self._spread(torch.nn.functional.one_hot(a, self.classes).to(torch.get_default_dtype()), self.alphas[t])

    def posterior(self, a: Tensor, clean: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """``q(a_s | a_t, a_0)`` (B, N, K), normalised.

        Args:
            a: (B, N) classes at time t.
            clean: (B, N, K) distribution of a_0, one-hot where it is known.
        """
        now = torch.nn.functional.one_hot(a, self.classes).to(clean.dtype)
        product = self._spread(now, self.alphas[t] / self.alphas[s]) * self._spread(clean, self.alphas[s])
        return product / product.sum(-1, keepdim=True)


def sinusoidal(t: Tensor, width: int, period: float = 10_000.0) -> Tensor:
    """(B, width) sine and cosine features of times t (B,) (Vaswani 2017)."""
    rate = torch.exp(-math.log(period) * torch.arange(width // 2, device=t.device) / (width // 2))
    phase = t[:, None].to(rate.dtype) * rate
    return torch.cat([phase.sin(), phase.cos()], -1)
