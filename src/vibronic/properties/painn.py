"""PaiNN: equivariant message passing (Schuett, Unke, Gastegger, arXiv 2102.03150), our property network.

Energy, forces and stress come from one potential: E = sum_i e_i, F = -dE/dx, stress = (1/V) dE/d(strain). Band gaps and
band edges are read out by attention over atoms. Every radial function goes to zero smoothly at the cutoff.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_sum
from vibronic.core.targets import POTENTIAL, target
from vibronic.properties.pair import MOST_ELEMENTS, PairPotential, RadialBasis
from vibronic.properties.readout import ExtremumReadout, MeanReadout, spread

HUBER = 0.02
"""Errors above 2 % of a target's spread count linearly: a few violent structures must not rule the fit."""

WEIGHTS = {"forces": 50.0}
"""Weights of the losses where a user gives none, 1 for other targets. A structure has one energy and 3N forces: with
equal weights a network of few steps leaves the forces where they were (docs/results.md)."""


class Neighborhoods:
    """The neighbours of every atom side by side, padded to the largest number ``K`` of neighbours in the batch.

    Attributes:
        radial: (N, basis, K) radial functions of each neighbour; zero where there is none.
        directed: (N, 3 * basis, K) the same times the unit vector to the neighbour.
    """

    def __init__(self, edge_index: Tensor, n_atoms: int, basis: Tensor, unit: Tensor) -> None:
        centre, neighbor = edge_index
        count = torch.bincount(centre, minlength=n_atoms)
        self.most = max(1, int(count.max())) if len(centre) else 1
        first = torch.repeat_interleave(torch.cumsum(count, 0) - count, count)
        place = centre * self.most + torch.arange(len(centre), device=centre.device) - first
        # Empty places point at atom 0 and have no radial functions, so they add nothing.
        self.neighbor = neighbor.new_zeros(n_atoms * self.most).index_copy(0, place, neighbor)
        self.n_atoms = n_atoms
        self.radial = self._padded(basis, place)
        self.directed = self._padded((unit[:, :, None] * basis[:, None, :]).flatten(1), place)

    def _padded(self, rows: Tensor, place: Tensor) -> Tensor:
        padded = rows.new_zeros(self.n_atoms * self.most, rows.shape[1]).index_copy(0, place, rows)
        return padded.view(self.n_atoms, self.most, -1).transpose(1, 2)

    def gather(self, features: Tensor) -> Tensor:
        """(N, K, width) features of the neighbours, from (N, width) of the atoms."""
        return features.index_select(0, self.neighbor).view(self.n_atoms, self.most, -1)


class Message(nn.Module):
    """Messages from neighbours: scalars gate scalars, vectors and new vectors along the bond (eqs. 7 and 8).

    The radial filters are linear in the basis, so the sums over neighbours are taken in the basis, as batched matrix
    products, and the filters are applied to the sums: nothing of size (edges, 3, width) is ever made.
    """

    def __init__(self, width: int, basis: int) -> None:
        super().__init__()
        self.width = width
        self.scalar = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width))
        self.filters = nn.Parameter(torch.empty(3, basis, width).uniform_(-1, 1) / math.sqrt(basis))

    def forward(self, s: Tensor, v: Tensor | None, neighbors: Neighborhoods) -> tuple[Tensor, Tensor]:
        n, width = s.shape
        ds, along, keep = self.scalar(s).split(width, dim=-1)
        if v is None:  # there are no vectors before the first message
            sums = neighbors.radial @ neighbors.gather(ds)
            moved = None
        else:
            sums = neighbors.radial @ neighbors.gather(torch.cat([ds, (keep[:, None, :] * v).flatten(1)], dim=1))
            moved = (sums[..., width:].view(n, -1, 3, width) * self.filters[2, :, None]).sum(1)
        directed = (neighbors.directed @ neighbors.gather(along)).view(n, 3, -1, width)
        dv = (directed * self.filters[1]).sum(2)
        s = s + (sums[..., :width] * self.filters[0]).sum(1)
        return s, dv if moved is None or v is None else v + dv + moved


class Update(nn.Module):
    """Each atom mixes its own scalars and vectors (eqs. 9 and 10)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mix = nn.Linear(width, 2 * width, bias=False)
        self.scalar = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        u, w = self.mix(v).split(self.width, dim=-1)
        norm = torch.sqrt((w * w).sum(dim=1) + 1e-8)  # smooth at zero: forces differentiate it
        a, b, c = self.scalar(torch.cat([s, norm], dim=-1)).split(self.width, dim=-1)
        return s + a + b * (u * w).sum(dim=1), v + c[:, None, :] * u


class PaiNN(Model):
    """Energy, forces and stress from one potential, and any number of scalar properties beside them.

    Args:
        targets: names; any of energy, forces, stress form one potential, the others are scalars per structure.
        units: unit of a target that Vibronic does not know.
        width: features per atom.
        layers: message-passing steps.
        basis: radial functions.
        cutoff: Angstrom.
        pair: start the potential from a pair potential fitted in closed form; the network learns the rest.
        weights: weight of each target's loss; 50 for forces and 1 for others where not given.
    """

    kind = "painn"
    remembers = True
    fitted = ("coefficients",)  # of the pair potential
    depth: Tensor
    scale: Tensor
    shift: Tensor
    neighbors: Tensor

    def __init__(
        self,
        targets: Sequence[str] = ("energy", "forces", "stress"),
        units: dict[str, str] | None = None,
        width: int = 64,
        layers: int = 3,
        basis: int = 12,
        cutoff: float = 5.0,
        pair: bool = True,
        weights: dict[str, float] | None = None,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(config, [target(t, (units or {}).get(t, "1")) for t in targets], cutoff)
        self.names = [t.name for t in self.targets]
        if {"forces", "stress"} & set(self.names) and "energy" not in self.names:
            raise VibronicError("forces and stress are derivatives of the energy: add 'energy' to the targets")
        if width < 2 or min(layers, basis) < 1 or cutoff <= 0:
            raise VibronicError(
                "painn needs a width of at least 2, at least one layer and one radial function, and a positive cutoff"
            )
        self.weights = {name: {**WEIGHTS, **(weights or {})}.get(name, 1.0) for name in self.names}
        self.scalars = [t for t in self.targets if t.name not in POTENTIAL]
        refused = [t.name for t in self.scalars if not t.is_number]
        if refused:
            raise VibronicError(f"painn learns energy, forces, stress and scalars, not {', '.join(refused)}")
        self.embedding = nn.Embedding(119, width)
        self.radial = RadialBasis(basis, cutoff)
        self.messages = nn.ModuleList(Message(width, basis + 1) for _ in range(layers))
        self.updates = nn.ModuleList(Update(width) for _ in range(layers))
        if "energy" in self.names:
            self.energy = nn.Sequential(nn.Linear(width, width // 2), nn.SiLU(), nn.Linear(width // 2, 1))
            self.pair = PairPotential(self.radial, MOST_ELEMENTS if pair else 0)
        self.readouts = nn.ModuleDict(
            {t.name: ExtremumReadout(width) if t.extremum else MeanReadout(width) for t in self.scalars}
        )
        self.register_buffer("depth", torch.tensor(1.0))
        self.register_buffer("scale", torch.ones(len(self.names), dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(len(self.names), dtype=torch.float64))
        self.register_buffer("neighbors", torch.tensor(1.0))

    def prepare(self, batch: Batch) -> None:
        """From the training set: reference energies and the pair potential by least squares, and the scale of every
        target, which is what these leave for the network."""
        super().prepare(batch)
        self.neighbors = torch.tensor(max(1.0, batch.edge_index.shape[1] / len(batch.numbers)))
        left: dict[str, Tensor] = {}
        if "energy" in self.names:
            left = self.pair.fit(batch, [n for n in self.names if n in POTENTIAL])
            self.depth = left.get("forces", left["energy"]).to(self.depth)  # eV, over a length of 1 Angstrom
        for k, name in enumerate(self.names):
            if name in left:
                self.scale[k] = left[name]
            else:
                y = batch.labels[name].double()
                self.shift[k], self.scale[k] = y.mean(), spread(y)

    def features(self, batch: Batch, basis: Tensor, unit: Tensor) -> Tensor:
        """(N, width) scalar features of every atom, from the radial basis and the unit vector of every edge."""
        neighborhoods = Neighborhoods(batch.edge_index, len(batch.numbers), basis / self.neighbors.sqrt(), unit)
        s, v = self.embedding(batch.numbers), None
        for message, update in zip(self.messages, self.updates, strict=True):
            s, v = message(s, v, neighborhoods)
            s, v = update(s, v)
        return s

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions: energy (B,) eV, forces (N, 3) eV/A, stress (B, 3, 3) eV/A^3, scalars (B,).

        Energies and scalars come in double precision, since a small learned part is added to a large constant.
        """
        differentiate = "forces" in self.names or "stress" in self.names
        create_graph = torch.is_grad_enabled()  # someone will differentiate the forces in turn
        with torch.set_grad_enabled(differentiate or create_graph):
            return self._forward(batch, differentiate, create_graph)

    def _forward(self, batch: Batch, differentiate: bool, create_graph: bool) -> dict[str, Tensor]:
        size = batch.n_structures
        vectors = batch.edge_vectors()
        # Every derivative of the energy follows from its derivative with respect to the edge vectors.
        if differentiate and not vectors.requires_grad:
            vectors.requires_grad_()
        distance = torch.sqrt((vectors * vectors).sum(-1) + 1e-12)
        basis = batch.weigh(self.radial(distance))
        features = self.features(batch, basis, vectors / distance[:, None])
        out: dict[str, Tensor] = {}
        for readout, t in zip(self.readouts.values(), self.scalars, strict=True):
            k = self.names.index(t.name)
            value = readout(features, batch.index, size).to(self.shift) * self.scale[k] + self.shift[k]
            out[t.name] = value * batch.n_atoms if t.extensive else value
        if "energy" in self.names:
            per_atom = self.energy(features).squeeze(-1) * self.depth
            pairs = scatter_sum(self.pair(batch, distance), batch.edge_structure, size)
            learned = scatter_sum(per_atom, batch.index, size) + pairs
            out["energy"] = learned + scatter_sum(self.pair.reference[batch.numbers], batch.index, size)
            if differentiate:
                (pull,) = torch.autograd.grad(learned.sum(), vectors, create_graph=create_graph)
                i, j = batch.edge_index
                n = len(batch.numbers)
                out["forces"] = scatter_sum(pull, i, n) - scatter_sum(pull, j, n)
                virial = scatter_sum(vectors[:, :, None] * pull[:, None, :], batch.edge_structure, size)
                virial = 0.5 * (virial + virial.transpose(1, 2))
                if "stress" in self.names:
                    volume = batch.volume()[:, None, None]
                    out["stress"] = torch.where(volume > 0, virial / volume, torch.nan)  # a molecule has none
        # Without this, a prediction under no_grad would keep the graph that its forces needed.
        return {name: out[name] if create_graph else out[name].detach() for name in self.names}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Huber loss of each target in units of its spread in the training set; energies per atom."""
        predicted = self(batch)
        figures = {}
        for k, name in enumerate(self.names):
            error = predicted[name] - batch.labels[name]
            if name == "energy":
                error = error / batch.n_atoms
            figures[f"mae_{name}"] = error.detach().abs().mean()
            scaled = error / self.scale[k]
            figures[name] = huber_loss(scaled, torch.zeros_like(scaled), delta=HUBER) * self.weights[name] / HUBER
        total = torch.stack([figures.pop(name) for name in self.names]).sum()
        return {"loss": total, **figures}
