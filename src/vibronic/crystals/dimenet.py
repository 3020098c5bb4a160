"""DimeNet++ (Gasteiger et al., arXiv 2011.14115), which passes messages along bonds and between bonds that meet.

Built for the weights of CDVAE's property models (Xie et al., ICLR 2022, arXiv 2110.06197): its parameters carry their names,
and it differs from the paper where they do: a bias in ``lin_up`` of the outputs, and a mean over atoms at the end.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from vibronic.core.batch import Batch
from vibronic.core.scatter import scatter_mean, scatter_sum

ELEMENTS = 94
"""Elements the embedding knows, hydrogen to plutonium."""


class DimeNetPlusPlus(nn.Module):
    """One number per structure, from the bonds of its atoms.

    Args:
        width: of messages between atoms.
        blocks: of interactions.
        triplet_width: of messages between bonds.
        basis_width: of the bottleneck of both bases.
        out_width: of atoms in the outputs.
        spherical: orders of Legendre polynomials and of spherical Bessel functions.
        radial: Bessel functions of each order.
        cutoff: Angstrom.
        before, after: residual layers around the skip connection.
        out_layers: of the outputs.
    """

    roots: Tensor
    norms: Tensor

    def __init__(
        self,
        width: int = 128,
        blocks: int = 4,
        triplet_width: int = 64,
        basis_width: int = 8,
        out_width: int = 256,
        spherical: int = 7,
        radial: int = 6,
        cutoff: float = 7.0,
        before: int = 1,
        after: int = 2,
        out_layers: int = 3,
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        roots, norms = bessel_roots(spherical, radial)
        self.register_buffer("roots", roots, persistent=False)
        self.register_buffer("norms", norms, persistent=False)
        self.rbf = nn.Module()
        self.rbf.freq = nn.Parameter(torch.pi * torch.arange(1.0, radial + 1))
        self.emb = _Embedding(width, radial)
        self.output_blocks = nn.ModuleList(_Output(width, out_width, radial, out_layers) for _ in range(blocks + 1))
        self.interaction_blocks = nn.ModuleList(
            _Interaction(width, triplet_width, basis_width, spherical * radial, radial, before, after)
            for _ in range(blocks)
        )

    def forward(self, batch: Batch) -> Tensor:
        """(B,) one number per structure; the edges of the batch, sorted by centre, are its bonds.

        Geometry is taken as precise as the batch has it: upward recursion of Bessel functions needs double precision.
        """
        centre, source = batch.edge_index
        vectors = batch.edge_vectors()
        distance = vectors.norm(dim=1)
        towards, onwards = triplets(centre, source)
        unit = vectors / distance[:, None]
        cosine = (unit[towards] * unit[onwards]).sum(1).clamp(-1, 1)

        freq: Tensor = self.rbf.freq  # type: ignore[assignment]
        scaled = distance / self.cutoff
        envelope = _envelope(scaled)[:, None]
        rbf = (envelope * torch.sin(freq.to(scaled) * scaled[:, None])).to(freq)
        j = spherical_bessel(self.roots.to(scaled) * scaled[:, None, None]) * self.norms.to(scaled)
        j = (envelope[:, :, None] * j).to(freq)
        sbf = (j[onwards] * legendre(cosine, j.shape[1])[:, :, None].to(freq)).flatten(1)

        n = len(batch.numbers)
        x = self.emb(batch.numbers, rbf, centre, source)
        atoms = self.output_blocks[0](x, rbf, centre, n)
        for interaction, output in zip(self.interaction_blocks, self.output_blocks[1:], strict=True):
            x = interaction(x, rbf, sbf, onwards, towards)
            atoms = atoms + output(x, rbf, centre, n)
        return scatter_mean(atoms, batch.index, batch.n_structures)[:, 0]


class _Embedding(nn.Module):
    def __init__(self, width: int, radial: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(ELEMENTS + 1, width)
        self.lin_rbf = nn.Linear(radial, width)
        self.lin = nn.Linear(3 * width, width)

    def forward(self, numbers: Tensor, rbf: Tensor, centre: Tensor, source: Tensor) -> Tensor:
        x = self.emb(numbers)
        return silu(self.lin(torch.cat([x[centre], x[source], silu(self.lin_rbf(rbf))], dim=1)))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(width, width)
        self.lin2 = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + silu(self.lin2(silu(self.lin1(x))))


class _Interaction(nn.Module):
    def __init__(
        self, width: int, triplet_width: int, basis_width: int, sbf: int, rbf: int, before: int, after: int
    ) -> None:
        super().__init__()
        self.lin_rbf1 = nn.Linear(rbf, basis_width, bias=False)
        self.lin_rbf2 = nn.Linear(basis_width, width, bias=False)
        self.lin_sbf1 = nn.Linear(sbf, basis_width, bias=False)
        self.lin_sbf2 = nn.Linear(basis_width, triplet_width, bias=False)
        self.lin_kj = nn.Linear(width, width)
        self.lin_ji = nn.Linear(width, width)
        self.lin_down = nn.Linear(width, triplet_width, bias=False)
        self.lin_up = nn.Linear(triplet_width, width, bias=False)
        self.layers_before_skip = nn.Sequential(*(_Residual(width) for _ in range(before)))
        self.lin = nn.Linear(width, width)
        self.layers_after_skip = nn.Sequential(*(_Residual(width) for _ in range(after)))

    def forward(self, x: Tensor, rbf: Tensor, sbf: Tensor, onwards: Tensor, towards: Tensor) -> Tensor:
        message = silu(self.lin_kj(x)) * self.lin_rbf2(self.lin_rbf1(rbf))
        message = silu(self.lin_down(message))[onwards] * self.lin_sbf2(self.lin_sbf1(sbf))
        h = silu(self.lin_ji(x)) + silu(self.lin_up(scatter_sum(message, towards, len(x))))
        return self.layers_after_skip(silu(self.lin(self.layers_before_skip(h))) + x)


class _Output(nn.Module):
    def __init__(self, width: int, out_width: int, radial: int, layers: int) -> None:
        super().__init__()
        self.lin_rbf = nn.Linear(radial, width, bias=False)
        self.lin_up = nn.Linear(width, out_width)
        self.lins = nn.ModuleList(nn.Linear(out_width, out_width) for _ in range(layers))
        self.lin = nn.Linear(out_width, 1, bias=False)

    def forward(self, x: Tensor, rbf: Tensor, centre: Tensor, n: int) -> Tensor:
        x = self.lin_up(scatter_sum(self.lin_rbf(rbf) * x, centre, n))
        for layer in self.lins:
            x = silu(layer(x))
        return self.lin(x)


def triplets(centre: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs of edges k -> j -> i: edge ``towards`` has centre i and source j, edge ``onwards`` centre j and source k.

    Those with k = i are left out, and with them i's own images, as in the original: a supercell is another structure.

    Args:
        centre: (E,) sorted.
        source: (E,).
    """
    count = torch.bincount(centre, minlength=int(source.max()) + 1 if len(source) else 0)
    of_source = count[source]
    towards = torch.repeat_interleave(of_source)
    place = torch.arange(len(towards)) - (of_source.cumsum(0) - of_source)[towards]
    onwards = (count.cumsum(0) - count)[source[towards]] + place
    keep = source[onwards] != centre[towards]
    return towards[keep], onwards[keep]


def _envelope(x: Tensor, exponent: int = 5) -> Tensor:
    """A smooth step of ``1 / x`` to zero at 1 (Gasteiger et al., arXiv 2003.03123, eq. 8)."""
    p = exponent + 1
    a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
    return torch.where(x < 1, 1 / x + x ** (p - 1) * (a + b * x + c * x**2), 0.0)


def bessel_roots(orders: int, count: int) -> tuple[Tensor, Tensor]:
    """The first roots (orders, count) of spherical Bessel functions, and what makes these orthonormal on the unit ball."""
    from scipy.optimize import brentq
    from scipy.special import spherical_jn

    row = np.pi * np.arange(1, count + orders)
    rows = [row]
    for order in range(1, orders):  # between two roots of an order is one of the next
        row = np.array([brentq(lambda x, n=order: spherical_jn(n, x), *ab) for ab in pairwise(row)])
        rows.append(row)
    roots = np.stack([r[:count] for r in rows])
    norms = np.sqrt(2) / np.abs(spherical_jn(np.arange(1, orders + 1)[:, None], roots))
    return torch.tensor(roots), torch.tensor(norms)


def spherical_bessel(x: Tensor) -> Tensor:
    """``j_l`` of row l of ``x`` (..., L, n), by upward recursion; loses digits towards zero, about ``(2 l - 1)!! / x**(l + 1)``."""
    found = []
    for order in range(x.shape[-2]):
        y = x[..., order, :]
        last, now = torch.cos(y) / y, torch.sin(y) / y
        for k in range(order):
            last, now = now, (2 * k + 1) / y * now - last
        found.append(now)
    return torch.stack(found, dim=-2)


def legendre(cosine: Tensor, orders: int) -> Tensor:
    """Spherical harmonics ``Y_l0`` (n, orders) of angles with this cosine (n,)."""
    p = [torch.ones_like(cosine), cosine]
    for k in range(1, orders - 1):
        p.append(((2 * k + 1) * cosine * p[-1] - k * p[-2]) / (k + 1))
    scale = ((2 * torch.arange(orders) + 1) / (4 * torch.pi)).sqrt().to(cosine)
    return torch.stack(p[:orders], dim=1) * scale
