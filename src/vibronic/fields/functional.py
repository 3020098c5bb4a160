"""The functional: from the invariants of the field to a property, learned in closed form.

A Gaussian process with inducing points (projected process; Rasmussen and Williams, *Gaussian Processes for Machine
Learning*, 2006, section 8.3.4): what an atom gives is a sum of bell curves around atoms of the training set, plus a linear
function; what is labelled is the sum over atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vibronic.core.scatter import scatter_sum

NOISES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Variances of the noise, relative to that of the functional, that are tried when none is given."""

_CHUNK = 4096


class KernelFunctional(nn.Module):
    """Atomic contributions ``sum_j w_j exp(-|x - x_j|^2 / 2 s^2) + v . x / s``, by element, for one or more targets.

    Args:
        points: inducing points over all elements; divided by the square root of how many atoms of each there are.
        length: of the kernel, in units of the median distance between two atoms of an element.
        linear: weight of the linear function beside the kernel; 0 leaves it out.
    """

    elements: Tensor
    points_of: Tensor
    inducing: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(self, points: int, length: float, linear: float) -> None:
        super().__init__()
        self.points, self.length, self.linear = points, length, linear
        self.register_buffer("elements", torch.zeros(0, dtype=torch.long))
        self.register_buffer("points_of", torch.zeros(0, dtype=torch.long))  # number of inducing points, by element
        # Half precision is no loss: these are the points, wherever they lie.
        self.register_buffer("inducing", torch.zeros(0, dtype=torch.float16))
        for name in ("scale", "weights"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def prepare(self, features: Tensor, numbers: Tensor) -> None:
        """Choose inducing points and lengths among the atoms of the training set.

        Args:
            features: (N, components) invariants of the field.
            numbers: (N,) atomic numbers.
        """
        self.elements, count = torch.unique(numbers, return_counts=True)
        share = (self.points * count.sqrt() / count.sqrt().sum()).long().clamp(min=1)
        chosen, scales = [], []
        for element, n in zip(self.elements, share, strict=True):
            x = features[numbers == element]
            chosen.append(x[farthest(x, int(n))].half())
            some = x[torch.randperm(len(x))[:1000]]
            distances = torch.pdist(some)
            scales.append(float(distances.median()) if len(distances) and distances.max() > 0 else 1.0)
        self.points_of = torch.tensor([len(c) for c in chosen])
        self.inducing = torch.cat(chosen)
        self.scale = self.length * torch.tensor(scales, dtype=torch.float64)

    def columns(self, features: Tensor, numbers: Tensor, index: Tensor, size: int) -> Tensor:
        """(size, columns) what every weight multiplies, summed over the atoms of each structure; double precision."""
        kernel, linear = [], []
        for k, inducing in enumerate(self.inducing.split(self.points_of.tolist())):
            here = torch.nonzero(numbers == self.elements[k])[:, 0]
            total = features.new_zeros(size, len(inducing), dtype=torch.float64)
            for part in here.split(_CHUNK):
                total.index_add_(0, index[part], self._kernel(features[part], inducing, k).double())
            kernel.append(total)
            if self.linear:
                linear.append(scatter_sum(features[here].double(), index[here], size) * (self.linear / self.scale[k]))
        return torch.cat([*kernel, *linear], dim=1)

    def prior(self) -> Tensor:
        """(columns, columns) inverse covariance of the weights: the kernel among the inducing points; 1 if linear."""
        blocks = []
        for k, inducing in enumerate(self.inducing.split(self.points_of.tolist())):
            x = inducing.double() / self.scale[k]
            blocks.append(torch.exp(-0.5 * torch.cdist(x, x) ** 2))
        if self.linear:
            blocks.append(torch.eye(len(self.elements) * self.inducing.shape[1], dtype=torch.float64))
        return torch.block_diag(*blocks)

    def forward(self, features: Tensor, numbers: Tensor) -> Tensor:
        """(N, targets) atomic contributions, double precision."""
        out = features.new_zeros(len(features), self.weights.shape[1], dtype=torch.float64)
        n = len(self.inducing)
        kernel = self.weights[:n].split(self.points_of.tolist())
        linear = self.weights[n:].split(features.shape[1]) if self.linear else ()
        for k, inducing in enumerate(self.inducing.split(self.points_of.tolist())):
            for part in torch.nonzero(numbers == self.elements[k])[:, 0].split(_CHUNK):
                x = features[part]
                given = self._kernel(x, inducing, k).double() @ kernel[k]
                if self.linear:
                    given = given + x.double() @ linear[k] * (self.linear / self.scale[k])
                out = out.index_copy(0, part, given)
        return out

    def _kernel(self, features: Tensor, inducing: Tensor, k: int) -> Tensor:
        """(n, points) kernel between atoms of the k-th element and its inducing points."""
        scale = float(self.scale[k])
        x, y = features / scale, inducing.to(features.dtype) / scale
        exponent = torch.addmm(-0.5 * ((x * x).sum(1)[:, None] + (y * y).sum(1)), x, y.T)
        return exponent.clamp(max=0).exp()


def farthest(x: Tensor, n: int) -> Tensor:
    """Indices of ``n`` rows, each the farthest from those before it: a cover of what there is, rare cases included."""
    n = min(n, len(x))
    chosen = torch.zeros(n, dtype=torch.long)
    square = (x * x).sum(1)
    distance = torch.full_like(square, torch.inf)
    for k in range(1, n):
        last = x[chosen[k - 1]]
        distance = torch.minimum(distance, square + (last @ last) - 2 * (x @ last))
        chosen[k] = int(distance.argmax())
    return chosen


def solve(columns: Tensor, prior: Tensor, labels: Tensor, noise: float | None) -> Tensor:
    """Weights that minimise ``|columns w - y|^2 + noise w . prior w`` for each target.

    Args:
        columns: (B, p).
        prior: (p, p) inverse covariance of the weights.
        labels: (B, targets).
        noise: None for the one of :data:`NOISES` that predicts every tenth structure best from the others.

    Returns:
        (p, targets) weights.
    """
    held = torch.arange(len(columns)) % 10 == 9
    rest = columns[~held].T @ columns[~held]
    moment = columns[~held].T @ labels[~held]
    noises = [noise] * labels.shape[1] if noise is not None else [NOISES[-1]] * labels.shape[1]
    if noise is None and held.any():
        errors = [(columns[held] @ _weights(rest, prior, moment, v) - labels[held]).abs().mean(0) for v in NOISES]
        noises = [NOISES[int(k)] for k in torch.stack(errors).argmin(0)]
    gram = rest.addmm_(columns[held].T, columns[held])
    moment = moment + columns[held].T @ labels[held]
    found = torch.empty_like(moment)
    for v in set(noises):
        same = torch.tensor([other == v for other in noises])
        found[:, same] = _weights(gram, prior, moment[:, same], v)
    return found


def _weights(gram: Tensor, prior: Tensor, moment: Tensor, noise: float) -> Tensor:
    matrix = (noise * prior).add_(gram)
    # The prior of close points is singular in double precision; more is added until the factorisation succeeds.
    tiny = 1e-13 * float(matrix.diagonal().mean())
    while True:
        matrix.diagonal().add_(tiny)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not failed:
            return torch.cholesky_solve(moment, factor)
        tiny *= 10
