"""Fields on spheres round the nuclei: how neighbourhoods become features that turn with the molecule.

A feature is a set of channels F_clm at a nucleus, the coefficients of functions on the unit sphere. A neighbourhood is
expanded in such functions (an LCAO field seen from the nucleus), and functions are multiplied point by point on the
sphere, which couples angular momenta as Gaunt coefficients do (arXiv 2401.10216) but needs no table of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vibronic.core.scatter import scatter_sum
from vibronic.fields.basis import solid_harmonics
from vibronic.fields.quadrature import lebedev


def harmonics(directions: Tensor, lmax: int) -> Tensor:
    """(..., (lmax + 1)^2) of unit vectors (..., 3), scaled so that each l has mean square one."""
    return math.sqrt(4 * math.pi) * torch.cat(solid_harmonics(directions, lmax), dim=-1)


class ByMomentum(nn.Module):
    """A linear map between channels, of its own for each l: (N, C, M) -> (N, D, M)."""

    def __init__(self, channels: int, out: int, lmax: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(lmax + 1, out, channels) / math.sqrt(channels))
        self.lmax = lmax

    def forward(self, fields: Tensor) -> Tensor:
        parts = fields.split([2 * degree + 1 for degree in range(self.lmax + 1)], dim=2)
        return torch.cat([w @ part for w, part in zip(self.weight, parts)], dim=2)


class Product(nn.Module):
    """Second and third powers of fields: products on the sphere of linear maps of them, exactly projected back.

    Fields of degree lmax need a quadrature of degree 4 lmax for three factors and the projection.
    """

    to_sphere: Tensor
    to_fields: Tensor

    def __init__(self, channels: int, lmax: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (ByMomentum(channels, channels, lmax) for _ in range(3))
        directions, weights = (torch.as_tensor(x) for x in lebedev(4 * lmax))
        values = harmonics(directions, lmax).T
        self.register_buffer("to_sphere", values, persistent=False)
        self.register_buffer("to_fields", (values * weights / (4 * math.pi)).T, persistent=False)

    def forward(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, M) products of two and of three factors."""
        to_sphere, to_fields = self.to_sphere.to(fields), self.to_fields.to(fields)
        second = (self.first(fields) @ to_sphere) * (self.second(fields) @ to_sphere)
        return second @ to_fields, (second * (self.third(fields) @ to_sphere)) @ to_fields


class Layer(nn.Module):
    """Neighbours to fields, fields to products, products to fields and invariants.

    Args:
        channels: of the fields, and of the invariants.
        radial: size of the radial basis.
        lmax: largest angular momentum.
        first: no neighbour has fields yet.
    """

    def __init__(self, channels: int, radial: int, lmax: int, first: bool) -> None:
        super().__init__()
        self.channels, self.lmax, self.kinds = channels, lmax, 1 if first else 2
        self.radial = nn.Sequential(
            nn.Linear(radial, 64), nn.SiLU(), nn.Linear(64, self.kinds * channels * (lmax + 1), bias=False)
        )
        self.source = nn.Linear(channels, channels)
        self.gate = nn.Linear(channels, channels * (lmax + 1))
        self.product = Product(channels, lmax)
        self.mix = ByMomentum(3 * channels if first else 4 * channels, channels, lmax)
        self.update = nn.Sequential(
            nn.Linear(channels * (3 + lmax), 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels)
        )
        self.register_buffer(
            "momentum", torch.repeat_interleave(torch.arange(lmax + 1), 2 * torch.arange(lmax + 1) + 1)
        )

    def forward(
        self, invariants: Tensor, fields: Tensor | None, edges: Tensor, basis: Tensor, angular: Tensor, cut: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New invariants (N, C) and fields (N, C, M).

        Args:
            invariants: (N, C).
            fields: (N, C, M), or None in the first layer.
            edges: (2, E) centre and neighbour.
            basis: (E, radial) functions of the distance.
            angular: (E, M) harmonics of the direction to the neighbour.
            cut: (E, 1) vanishes smoothly at the cutoff.
        """
        i, j = edges
        weights = (self.radial(basis) * cut).view(len(i), self.kinds, self.channels, self.lmax + 1)
        weights = weights[..., self.momentum]
        message = weights[:, 0] * self.source(invariants)[j, :, None] * angular[:, None, :]
        if fields is not None:
            message = message + weights[:, 1] * fields[j]
        seen = scatter_sum(message, i, len(invariants)) * 0.3  # about one for a dozen neighbours
        gate = (1 + self.gate(invariants)).view(-1, self.channels, self.lmax + 1)[..., self.momentum]
        seen = _bounded(seen * gate)
        parts = [seen, *self.product(seen)] + ([] if fields is None else [fields])
        fields = _bounded(self.mix(torch.cat(parts, dim=1)))
        squares = [part.square().mean(2) for part in fields.split([2 * k + 1 for k in range(self.lmax + 1)], dim=2)]
        return invariants + self.update(torch.cat([invariants, fields[:, :, 0], *squares], dim=1)), fields


def _bounded(fields: Tensor) -> Tensor:
    """Fields (N, C, M) over the root of one plus their mean square: products of bounded fields are bounded."""
    return fields * (1 + fields.square().mean((1, 2), keepdim=True)).rsqrt()
