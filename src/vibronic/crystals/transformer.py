"""The network of our crystal model: a transformer over the atoms of one cell, all of them attending to all.

Pre-norm blocks with adaptive layer norm (adaLN-zero, Peebles and Xie 2023). What an atom sees of another is their displacement
on the torus, as Fourier features and as a distance under the metric tensor, in one pair representation that all blocks share;
it enters the attention as a bias and as a part of the values, as in arXiv 2406.09263. Nothing depends on the order of atoms, on
where the cell begins or on how the crystal is turned.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vibronic.crystals.cells import fourier, shortest_squared, wrapped
from vibronic.crystals.corruption import sinusoidal

Injection = Literal["adaln", "cdi", "cds"]

_BUMPS, _REACH = 16, 6.0  # Gaussians of the distance, up to Angstrom


class Output(NamedTuple):
    """What the network says of ``B`` crystals of ``N`` atoms.

    Attributes:
        species: (B, N, K) logits.
        coordinates: (B, N, 3) a vector per atom in fractional coordinates.
        lattice: (B, 6)
        properties: (B, P) standardised.
    """

    species: Tensor
    coordinates: Tensor
    lattice: Tensor
    properties: Tensor


class Block(nn.Module):
    """Attention and a two-layer network, each behind a layer norm that the context shifts, scales and gates."""

    def __init__(self, width: int, heads: int, pair: int, injection: tuple[Injection, ...]) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine="adaln" not in injection) for _ in range(2))
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = nn.Linear(pair, heads)
        self.pair_values = nn.Parameter(torch.randn(heads, pair, width // heads) * pair**-0.5)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width) if "adaln" in injection else None
        # CDS (arXiv 2406.09263): the condition in queries, keys and values of every block.
        self.asked = nn.Linear(width, 3 * width, bias=False) if "cds" in injection else None
        if self.modulation is not None:  # a block starts as the identity
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, z: Tensor, pair: Tensor, absent: Tensor, context: Tensor) -> Tensor:
        """z (B, N, width), pair (B, N, N, pair), absent (B, 1, 1, N) of no atom, context (B, width)."""
        batch, n, width = z.shape
        zero, one = z.new_zeros(1), z.new_ones(1)
        shift, scale, gate, shift2, scale2, gate2 = (
            (zero, zero, one) * 2 if self.modulation is None else self.modulation(context)[:, None].chunk(6, -1)
        )
        qkv = self.qkv(self.norms[0](z) * (1 + scale) + shift)
        if self.asked is not None:
            qkv = qkv + self.asked(context)[:, None]
        q, k, v = qkv.view(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT * q.shape[-1] ** -0.5 + self.bias(pair).permute(0, 3, 1, 2)
        attention = torch.softmax(logits.masked_fill(absent, -1e9), -1)
        seen = (attention.transpose(1, 2) @ pair).transpose(1, 2)
        values = attention @ v + torch.einsum("bhip,hpd->bhid", seen, self.pair_values)
        z = z + gate * self.out(values.transpose(1, 2).reshape(batch, n, width))
        return z + gate2 * self.mlp(self.norms[1](z) * (1 + scale2) + shift2)


class CrystalTransformer(nn.Module):
    """Atoms, lattice, time and context in; species, movements and properties out.

    Args:
        classes: K, kinds of atoms; the index K is an atom whose kind is still hidden.
        properties: P.
        width, depth, heads: of the blocks.
        pair: width of the pair representation.
        frequencies: of the Fourier features of displacements.
        injection: where time and conditions enter: adaln (every norm), cdi (the input), cds (queries, keys and values).
    """

    def __init__(
        self,
        classes: int,
        properties: int,
        width: int,
        depth: int,
        heads: int,
        pair: int,
        frequencies: int,
        injection: tuple[Injection, ...],
    ) -> None:
        super().__init__()
        self.frequencies, self.injection = frequencies, injection
        self.atoms = nn.Embedding(classes + 1, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.size = nn.Linear(2, width)
        self.strain = nn.Linear(6, width)
        self.pairs = nn.Linear(6 * frequencies + _BUMPS, pair)
        self.pair_strain = nn.Linear(6, pair, bias=False)
        self.pair_out = nn.Linear(pair, pair)
        if "cdi" in injection:  # CDI (arXiv 2406.09263): the condition in the input alone
            self.initial = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads, pair, injection) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.species = nn.Linear(width, classes)
        self.lattice = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 6))
        self.properties = (
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, properties)) if properties else None
        )
        self.towards = nn.Linear(width, 2 * pair)
        self.between = nn.Linear(pair, pair)
        self.vectors = nn.Linear(pair, 3)
        for parameter in (*self.lattice[-1].parameters(), *self.vectors.parameters()):
            nn.init.zeros_(parameter)

    def forward(
        self,
        classes: Tensor,
        mask: Tensor,
        time: Tensor,
        condition: Tensor,
        fractional: Tensor,
        strain: Tensor,
        metric: Tensor,
    ) -> Output:
        """One evaluation.

        Args:
            classes: (B, N) kinds of the atoms.
            mask: (B, N) where there is an atom.
            time: (B,) of the geometry, in [0, 1].
            condition: (B, width) embedded conditions.
            fractional: (B, N, 3)
            strain: (B, 6) standardised lattice.
            metric: (B, 3, 3) Angstrom^2.
        """
        pair = self._pairs(fractional, strain, metric)
        context = self._context(mask, time, condition) + self.strain(strain)
        z = self.atoms(classes)
        if "cdi" in self.injection:
            z = self.initial(torch.cat([z, context[:, None].expand_as(z)], -1))
        absent, context = ~mask[:, None, None], nn.functional.silu(context)
        for block in self.blocks:
            z = block(z, pair, absent, context)
        z, count = self.norm(z), mask.sum(1, keepdim=True)
        mean = (z * mask[..., None]).sum(1) / count
        ours, theirs = self.towards(z).chunk(2, -1)
        hidden = nn.functional.silu(ours[:, :, None] + theirs[:, None] + self.between(pair)) * mask[:, None, :, None]
        vectors = self.vectors(hidden.sum(2) / count[..., None])
        properties = mean.new_zeros(len(mean), 0) if self.properties is None else self.properties(mean)
        return Output(self.species(z), vectors, self.lattice(mean), properties)

    def _context(self, mask: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(B, width) time, conditions and number of atoms."""
        count = mask.sum(1, keepdim=True).to(condition.dtype)
        embedded = self.time(sinusoidal(1000 * time, condition.shape[-1])) + condition
        return embedded + self.size(torch.cat([count / 20, 1 / count], -1))

    def _pairs(self, fractional: Tensor, strain: Tensor, metric: Tensor) -> Tensor:
        """(B, N, N, pair) what every atom sees of every other."""
        displacement = wrapped(fractional[:, None] - fractional[:, :, None])
        squared = shortest_squared(displacement, metric)
        centres = torch.linspace(0, _REACH, _BUMPS, device=squared.device)
        distance = (squared + 1e-6).sqrt()
        bumps = torch.exp(-0.5 * ((distance[..., None] - centres) * (_BUMPS / _REACH)) ** 2)
        hidden = self.pairs(torch.cat([fourier(displacement, self.frequencies), bumps], -1))
        return self.pair_out(nn.functional.silu(hidden + self.pair_strain(strain)[:, None, None]))
