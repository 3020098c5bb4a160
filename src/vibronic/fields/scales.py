"""How deformation coefficients vary by element and angular momentum, from fits to some molecules of a training set.

Gaussians of neighbouring exponents are nearly the same function, so that bare coefficients are large, alternate and cancel.
In their principal components, each divided by its spread, every output of the network is of order one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.fields.basis import solid_harmonics
from vibronic.fields.expansion import LMAX, RANGES, SHELLS, exponents
from vibronic.fields.samples import FLOOR

MOLECULES = 40
"""Fitted for the scales."""
PENALTY = 1e-5
"""Of the square of a component that is orthonormal on its own atom."""
LEAST = 1e-3
"""Spread of the smallest component that is still predicted, relative to the largest of its l."""


def scales(batch: Batch, elements: int) -> tuple[Tensor, Tensor, Tensor]:
    """From ``density_samples`` of a training set.

    Returns:
        (elements, LMAX + 1, SHELLS, SHELLS) matrices from standard components to coefficients, (elements, SHELLS) mean
        coefficients of l = 0, and (elements, SHELLS) the change of coefficients with the least square norm that adds
        one electron.
    """
    maps = {light: [orthonormal(light, degree) for degree in range(LMAX + 1)] for light in (True, False)}
    matrices = torch.zeros(elements, LMAX + 1, SHELLS, SHELLS, dtype=torch.float64)
    means = torch.zeros(elements, SHELLS, dtype=torch.float64)
    monopoles = torch.zeros(elements, SHELLS, dtype=torch.float64)
    step = max(1, batch.n_structures // MOLECULES)
    found: dict[int, list[list[Tensor]]] = {}
    for k in range(0, batch.n_structures, step):
        own = batch.index == k
        numbers = batch.numbers[own].tolist()
        positions, samples = batch.positions[own].double(), batch.labels["density_samples"][own].double()
        points = (samples[:, :, :3] + positions[:, None]).reshape(-1, 3)
        fitted = best_fit(positions, numbers, points, *(samples[:, :, c].reshape(-1) for c in (3, 4, 5)))
        for z, blocks in zip(numbers, fitted, strict=True):
            parts = found.setdefault(z, [[] for _ in range(LMAX + 1)])
            for degree, block in enumerate(blocks):
                parts[degree].append(block)
    electrons = (math.pi / exponents(means)) ** 1.5 / math.sqrt(4 * math.pi)
    for z in batch.numbers.unique().tolist():
        light = z < 3
        if z not in found:  # rare in the training set: as its neighbours in the table that were fitted
            nearest = min(found, key=lambda other: abs(other - z) + 100 * ((other < 3) != light))
            found[z] = found[nearest]
        for degree, blocks in enumerate(found[z]):
            to_bare = maps[light][degree]
            if not to_bare.shape[1]:
                continue
            values = torch.stack(blocks)  # (n, components, 2l + 1)
            if degree == 0:
                means[z] = to_bare @ values.mean(0)[:, 0]
                values = values - values.mean(0)
            variance, axes = torch.linalg.eigh(
                torch.einsum("ncm,ndm->cd", values, values) / len(values) / (2 * degree + 1)
            )
            spread = variance.clamp(min=0).sqrt()
            spread = spread.clamp(min=LEAST * float(spread.max()))
            matrices[z, degree, :, : len(spread)] = to_bare @ (axes * spread).flip(1)
        to_bare = maps[light][0]
        along = to_bare.T @ electrons
        monopoles[z] = to_bare @ along / (along @ along)
    return matrices, means, monopoles


@lru_cache(maxsize=32)
def orthonormal(light: bool, degree: int) -> Tensor:
    """(SHELLS, components) from components that are orthonormal on one atom to coefficients of the Gaussians."""
    low, high = RANGES[light][degree]
    out = torch.zeros(SHELLS, high - low, dtype=torch.float64)
    if high > low:
        a = exponents(out)[low:high]
        power = degree + 1.5
        overlap = 0.5 * math.gamma(power) * (a[:, None] + a) ** -power
        norm = overlap.diagonal().rsqrt()
        values, vectors = torch.linalg.eigh(overlap * norm[:, None] * norm)
        out[low:high] = norm[:, None] * vectors * values.rsqrt()
    return out


def best_fit(
    positions: Tensor, numbers: list[int], points: Tensor, weight: Tensor, label: Tensor, density: Tensor
) -> list[list[Tensor]]:
    """The expansion of one molecule's deformation that is closest to it where it is known; no network is involved.

    Args:
        positions: (N, 3) Angstrom.
        numbers: atomic numbers.
        points: (P, 3) Angstrom.
        weight: (P,) Angstrom^3.
        label: (P,) density minus free atoms, e/Angstrom^3.
        density: (P,) e/Angstrom^3; squared errors are divided by it, as in the loss of the network.

    Returns:
        Per atom and l, (components, 2l + 1) coefficients of functions that are orthonormal on one atom.
    """
    columns, shapes = [], []
    for a, z in enumerate(numbers):
        vectors = points - positions[a]
        radial = torch.exp(-(vectors * vectors).sum(1, keepdim=True) * exponents(points))
        for degree, angular in enumerate(solid_harmonics(vectors, LMAX)):
            block = (radial @ orthonormal(z < 3, degree))[:, :, None] * angular[:, None, :]
            shapes.append(block.shape[1:])
            columns.append(block.flatten(1))
    functions = torch.cat(columns, dim=1)
    weight = weight / (density + FLOOR)
    matrix = functions.T @ (functions * weight[:, None])
    matrix.diagonal().add_(PENALTY)
    solution = torch.linalg.solve(matrix, functions.T @ (weight * label))
    parts = [x.view(shape) for x, shape in zip(solution.split([math.prod(s) for s in shapes]), shapes, strict=True)]
    return [parts[k : k + LMAX + 1] for k in range(0, len(parts), LMAX + 1)]
