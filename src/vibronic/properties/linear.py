"""Linear least squares that chooses its own penalty: under the descriptor ridge and under the pair potential."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Fit(NamedTuple):
    """A ridge regression.

    Attributes:
        coefficients: (p,).
        left_out: (n,) residual that each row would have had if it had been left out of the fit.
        penalty: on the square of the coefficients.
        noise: standard deviation of a label about the fit.
    """

    coefficients: Tensor
    left_out: Tensor
    penalty: float
    noise: float


def ridge(x: Tensor, y: Tensor, free: int = 0, least: float = 1e-9) -> Fit:
    """Ridge regression; the penalty minimises the generalised cross-validation error n |r|^2 / (n - trace)^2
    (Golub, Heath, Wahba, Technometrics 21, 215, 1979).

    Args:
        x: (n, p) features.
        y: (n,) targets.
        free: parameters already fitted without a penalty, such as an intercept.
        least: smallest penalty tried, in units of the largest squared singular value of ``x``.
    """
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    target_part, n = u.T @ y, len(x)
    best = (torch.inf, s, y, 0.0)
    for penalty in torch.logspace(math.log10(least), 3, 49, dtype=x.dtype, device=x.device) * s[0] ** 2:
        shrink = s**2 / (s**2 + penalty)
        residual = y - u @ (shrink * target_part)
        score = float(n * residual.square().sum() / (n - free - shrink.sum()).clamp(min=1e-9) ** 2)
        if score < best[0]:
            best = (score, shrink, residual, float(penalty))
    _, shrink, residual, penalty = best
    coefficients = vh.T @ (shrink / s.clamp(min=1e-300) * target_part)
    leverage = (u.square() @ shrink).clamp(max=0.999)
    unexplained = residual.square().sum() / (n - free - shrink.sum()).clamp(min=1e-9)
    return Fit(coefficients, residual / (1 - leverage), penalty, float(unexplained.sqrt()))


def covariance_root(x: Tensor, fit: Fit) -> Tensor:
    """(p, p) symmetric root of the covariance noise^2 (x^T x + penalty)^-1 of the coefficients of a fit to rows ``x`` (n, p)."""
    _, s, vh = torch.linalg.svd(x, full_matrices=False)
    penalty = max(fit.penalty, 1e-30)  # 0 for rows of zeros
    # What no row has a part in is as uncertain as before the fit.
    known, rest = 1 / (s**2 + penalty).sqrt(), penalty**-0.5
    root = (vh.T * (known - rest)) @ vh
    return fit.noise * (root + rest * torch.eye(x.shape[1], dtype=x.dtype, device=x.device))
