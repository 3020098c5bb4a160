"""Linear least squares that chooses its own penalty: under the descriptor ridge and under the pair potential."""

import math

import torch
from torch import Tensor


def ridge(x: Tensor, y: Tensor, free: int = 0, least: float = 1e-9) -> tuple[Tensor, Tensor]:
    """Ridge regression; the penalty minimises the generalised cross-validation error n |r|^2 / (n - trace)^2
    (Golub, Heath, Wahba, Technometrics 21, 215, 1979).

    Args:
        x: (n, p) features.
        y: (n,) targets.
        free: parameters already fitted without a penalty, such as an intercept.
        least: smallest penalty tried, in units of the largest squared singular value of ``x``.

    Returns:
        (p,) coefficients, and the (n,) residuals that each row would have had if it had been left out of the fit.
    """
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    target_part, n = u.T @ y, len(x)
    best = (torch.inf, s, y)
    for penalty in torch.logspace(math.log10(least), 3, 49, dtype=x.dtype, device=x.device) * s[0] ** 2:
        shrink = s**2 / (s**2 + penalty)
        residual = y - u @ (shrink * target_part)
        score = float(n * residual.square().sum() / (n - free - shrink.sum()).clamp(min=1e-9) ** 2)
        if score < best[0]:
            best = (score, shrink, residual)
    _, shrink, residual = best
    coefficients = vh.T @ (shrink / s.clamp(min=1e-300) * target_part)
    leverage = (u.square() @ shrink).clamp(max=0.999)
    return coefficients, residual / (1 - leverage)
