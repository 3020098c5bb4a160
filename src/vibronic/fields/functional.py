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

_TINY = 1e-6

_BLOCK = 2**18
"""Kernel values that are held at once: few enough to stay in a processor's cache."""


class KernelFunctional(nn.Module):
    """Atomic contributions ``sum_j w_j k(|x - x_j| / s) + v . x / s``, by element, for one or more targets.

    The kernel k is that of Matern with differentiability 3/2, ``(1 + r) exp(-r)`` with r = sqrt(3) |x - x_j| / s.

    Args:
        points: inducing points over all elements; divided by the square root of how many atoms of each there are.
        hydrogen_points: of hydrogen's share of points, what hydrogen gets: the neighbours of a hydrogen atom see it too.
        hydrogen_amplitude: of the amplitude, what hydrogen gets.
        length: of the kernel, in units of the median distance between two atoms of an element.
        amplitude: of the functions that the kernel stands for, before they are fitted.
        linear: the same of the linear function beside them; 0 leaves it out.
    """

    elements: Tensor
    points_of: Tensor
    inducing: Tensor
    spacing: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(
        self,
        points: int,
        length: float,
        amplitude: float,
        linear: float,
        hydrogen_points: float = 1.0,
        hydrogen_amplitude: float = 1.0,
    ) -> None:
        super().__init__()
        self.points, self.length, self.amplitude, self.linear = points, length, amplitude, linear
        self.hydrogen_points, self.hydrogen_amplitude = hydrogen_points, hydrogen_amplitude
        self.register_buffer("elements", torch.zeros(0, dtype=torch.long))
        self.register_buffer("points_of", torch.zeros(0, dtype=torch.long))  # number of inducing points, by element
        # Half precision is no loss: these are the points, wherever they lie.
        self.register_buffer("inducing", torch.zeros(0, dtype=torch.float16))
        for name in ("spacing", "scale", "weights"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def prepare(self, features: Tensor, numbers: Tensor) -> None:
        """Choose inducing points and lengths among the atoms of the training set.

        Args:
            features: (N, components) invariants of the field.
            numbers: (N,) atomic numbers.
        """
        self.elements, count = torch.unique(numbers, return_counts=True)
        share = count.sqrt() * torch.where(self.elements == 1, self.hydrogen_points, 1.0)
        share = (self.points * share / share.sum()).long().clamp(min=1)
        chosen, scales = [], []
        for element, n in zip(self.elements, share, strict=True):
            x = features[numbers == element]
            chosen.append(x[farthest(x, int(n))].half())
            some = x[torch.randperm(len(x))[:1000]]
            distances = torch.pdist(some)
            scales.append(float(distances.median()) if len(distances) and distances.max() > 0 else 1.0)
        self.points_of = torch.tensor([len(c) for c in chosen])
        self.inducing = torch.cat(chosen)
        spacing = torch.stack([_spacing(c.double()) for c in chosen])
        # Of an element with one point nothing is known but that point: as strict as the strictest other, or stricter.
        known = spacing[~spacing.isnan()]
        self.spacing = spacing.nan_to_num(float(known.min()) if len(known) else _TINY)
        self.scale = self.length * torch.tensor(scales, dtype=torch.float64)

    def columns(self, features: Tensor, numbers: Tensor, index: Tensor, size: int) -> Tensor:
        """(size, columns) sums over the atoms of each structure, of functions with independent weights of unit variance.

        The kernel's functions are those combinations of the bell curves, ``K^-1/2 k(x)``, that are; double precision.
        """
        kernel, linear = [], []
        for k, inducing in enumerate(self.inducing.split(self.points_of.tolist())):
            here = torch.nonzero(numbers == self.elements[k])[:, 0]
            total = features.new_zeros(size, len(inducing), dtype=torch.float64)
            for part, kernels, _ in self._kernels(features, here, inducing, k):
                total.index_add_(0, index[part], kernels.double())
            root = _root(self._prior(k)) / self._amplitude(k)
            kernel.append(torch.linalg.solve_triangular(root, total.T, upper=False).T)
            if self.linear:
                linear.append(scatter_sum(features[here].double(), index[here], size) * (self.linear / self.scale[k]))
        return torch.cat([*kernel, *linear], dim=1)

    def learn(self, weights: Tensor) -> None:
        """Take weights (columns, targets) of :meth:`columns` as those of the bell curves and the linear function."""
        blocks = weights.split([*self.points_of.tolist(), len(weights) - int(self.points_of.sum())])
        kernel = [
            torch.linalg.solve_triangular(_root(self._prior(k)).T / self._amplitude(k), block, upper=True)
            for k, block in enumerate(blocks[:-1])
        ]
        self.weights = torch.cat([*kernel, blocks[-1]])

    def _amplitude(self, k: int) -> float:
        return self.amplitude * (self.hydrogen_amplitude if self.elements[k] == 1 else 1.0)

    def _prior(self, k: int) -> Tensor:
        """(points, points) kernel among the inducing points of the k-th element; inverse covariance of their weights."""
        x = self.inducing.split(self.points_of.tolist())[k].double() / self.scale[k]
        return matern(3 * torch.cdist(x, x) ** 2)

    def forward(self, features: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Atomic contributions (N, targets), as precise as the weights, and how unlike the training set every atom (N,) is.

        The latter is the distance to the nearest inducing point, in units of :attr:`spacing`, that which three in four of
        them have to their nearest neighbour or less.
        """
        out = self.weights.new_zeros(len(features), self.weights.shape[1])
        novelty = features.new_zeros(len(features))
        n = len(self.inducing)
        kernel = self.weights[:n].split(self.points_of.tolist())
        linear = self.weights[n:].split(features.shape[1]) if self.linear else ()
        for k, inducing in enumerate(self.inducing.split(self.points_of.tolist())):
            here = torch.nonzero(numbers == self.elements[k])[:, 0]
            for part, kernels, nearest in self._kernels(features, here, inducing, k):
                given = kernels.to(out.dtype) @ kernel[k]
                if self.linear:
                    given = given + features[part].to(out.dtype) @ linear[k] * (self.linear / self.scale[k])
                out = out.index_copy(0, part, given)
                novelty[part] = nearest * float(self.scale[k] / self.spacing[k])
        return out, novelty

    def _kernels(
        self, features: Tensor, here: Tensor, inducing: Tensor, k: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Atoms of the k-th element, some at a time, their kernel (n, points) with its inducing points, and the distance to
        the nearest in units of the scale.
        """
        scale = float(self.scale[k])
        y = inducing.to(features.dtype) / scale
        ones = torch.ones_like(y[:, :1])
        right = torch.cat([-2 * y, ones, _square(y)], dim=1).T
        for part in here.split(max(1, _BLOCK // len(inducing))):
            x = features[part] / scale
            square = torch.cat([x, _square(x), torch.ones_like(x[:, :1])], dim=1) @ right
            nearest = square.detach().amin(1).clamp(min=0).sqrt()
            yield part, matern(square.mul_(3)), nearest


def _square(x: Tensor) -> Tensor:
    return (x * x).sum(1, keepdim=True)


def _spacing(points: Tensor) -> Tensor:
    """Distance to its nearest neighbour that three in four of the points have or less; not a number where there is one."""
    if len(points) < 2:
        return torch.tensor(torch.nan, dtype=points.dtype)
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    return distances.amin(1).quantile(0.75).clamp(min=_TINY)


def matern(square: Tensor) -> Tensor:
    """``(1 + r) exp(-r)`` of ``r^2``: a prior of functions that are differentiable, but not more than that.

    Energies are rougher in the space of invariants than the infinitely smooth functions of a Gaussian kernel.
    """
    r = square.clamp(min=1e-12).sqrt_()  # the root of zero has no derivative
    fall = torch.exp(-r)
    return torch.addcmul(fall, r, fall)


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
