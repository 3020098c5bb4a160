"""The functional: from the invariants of the field to a property, learned in closed form.

A Gaussian process with inducing points (projected process; Rasmussen and Williams, *Gaussian Processes for Machine
Learning*, 2006, section 8.3.4): what an atom gives is a sum of bell curves around atoms of the training set, plus a linear
function; what is labelled is the sum over atoms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from vibronic.core.scatter import scatter_sum

NOISES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Variances of the noise, relative to that of the functional, that are tried when none is given."""

_CHUNK = 4096


class KernelFunctional(nn.Module):
    """Atomic contributions ``sum_j w_j k(|x - x_j| / s) + v . x / s``, by element, for one or more targets.

    The kernel k is that of Matern with differentiability 3/2.

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
        """(size, columns) sums over the atoms of each structure, of functions with independent weights of unit variance.

        The kernel's functions are those combinations of the bell curves, ``K^-1/2 k(x)``, that are; double precision.
        """
        kernel, linear = [], []
        for k, inducing in enumerate(self.inducing.split(self.points_of.tolist())):
            here = torch.nonzero(numbers == self.elements[k])[:, 0]
            total = features.new_zeros(size, len(inducing), dtype=torch.float64)
            for part in here.split(_CHUNK):
                total.index_add_(0, index[part], self._kernel(features[part], inducing, k).double())
            kernel.append(torch.linalg.solve_triangular(_root(self._prior(k)), total.T, upper=False).T)
            if self.linear:
                linear.append(scatter_sum(features[here].double(), index[here], size) * (self.linear / self.scale[k]))
        return torch.cat([*kernel, *linear], dim=1)

    def learn(self, weights: Tensor) -> None:
        """Take weights (columns, targets) of :meth:`columns` as those of the bell curves and the linear function."""
        blocks = weights.split([*self.points_of.tolist(), len(weights) - int(self.points_of.sum())])
        kernel = [
            torch.linalg.solve_triangular(_root(self._prior(k)).T, block, upper=True)
            for k, block in enumerate(blocks[:-1])
        ]
        self.weights = torch.cat([*kernel, blocks[-1]])

    def _prior(self, k: int) -> Tensor:
        """(points, points) kernel among the inducing points of the k-th element; inverse covariance of their weights."""
        x = self.inducing.split(self.points_of.tolist())[k].double() / self.scale[k]
        return matern(torch.cdist(x, x) ** 2)

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
        """(n, points) kernel between atoms of the k-th element and its inducing points.

        Distances are differences of larger numbers: in single precision, with large weights of both signs, their rounding
        alone would be 0.1 kcal/mol.
        """
        scale = float(self.scale[k])
        x, y = features.double() / scale, inducing.double() / scale
        square = torch.addmm((x * x).sum(1)[:, None] + (y * y).sum(1), x, y.T, alpha=-2)
        return matern(square.to(features.dtype))


def matern(square: Tensor) -> Tensor:
    """``(1 + r) exp(-r)`` with ``r^2 = 3 square``: a prior of functions that are differentiable, but not more than that.

    Energies are rougher in the space of invariants than the infinitely smooth functions of a Gaussian kernel.
    """
    r = (3 * square.clamp(min=1e-12)).sqrt()  # the root of zero has no derivative
    return (1 + r) * torch.exp(-r)


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


def solve(columns: Tensor, labels: Tensor, noise: float | None) -> Tensor:
    """Weights that minimise ``|columns w - y|^2 + noise |w|^2`` for each target.

    Args:
        columns: (B, p), of independent weights of unit variance; as many structures as columns, or fewer, or more.
        labels: (B, targets).
        noise: None for the one of :data:`NOISES` that predicts every tenth structure best from the others.

    Returns:
        (p, targets) weights.
    """
    dual = len(columns) <= columns.shape[1]  # the smaller of two equal problems
    noises = [NOISES[-1] if noise is None else noise] * labels.shape[1]
    held = torch.arange(len(columns)) % 10 == 9
    if noise is None and held.any():
        tried = _ridge(columns[~held], labels[~held], NOISES, dual)
        errors = torch.stack([(columns[held] @ w - labels[held]).abs().mean(0) for w in tried])
        noises = [NOISES[int(k)] for k in errors.argmin(0)]
    weights = torch.empty(columns.shape[1], labels.shape[1], dtype=columns.dtype)
    different = sorted(set(noises))
    for value, found in zip(different, _ridge(columns, labels, different, dual), strict=True):
        same = torch.tensor([other == value for other in noises])
        weights[:, same] = found[:, same]
    return weights


def _ridge(columns: Tensor, labels: Tensor, noises: Sequence[float], dual: bool) -> Iterator[Tensor]:
    """Weights for one noise after the other, from one Gram matrix."""
    gram = columns @ columns.T if dual else columns.T @ columns
    right = labels if dual else columns.T @ labels
    diagonal = gram.diagonal().clone()
    for noise in noises:
        gram.diagonal().copy_(diagonal + noise)
        found = torch.cholesky_solve(right, torch.linalg.cholesky(gram))
        yield columns.T @ found if dual else found


def _root(kernel: Tensor) -> Tensor:
    """Cholesky factor of a kernel, whose close points make it singular in double precision."""
    tiny = 1e-12
    while True:
        factor, failed = torch.linalg.cholesky_ex(kernel + tiny * torch.eye(len(kernel), dtype=kernel.dtype))
        if not failed:
            return factor
        tiny *= 10
