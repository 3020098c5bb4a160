"""SchNet, DimeNet++ and CGCNN from torch-geometric's layers as models of ours: the same neighbour list, loss, optimiser and schedule.

Thin adapters: they replace the search for neighbours, which knows no periodic images, and leave the networks as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_mean, scatter_sum
from vibronic.core.targets import POTENTIAL, target
from vibronic.crystals.dimenet import triplets
from vibronic.properties.painn import WEIGHTS, PaiNN
from vibronic.properties.readout import spread

with warnings.catch_warnings():
    # torch-geometric compiles functions with torch.jit on import, which PyTorch deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from torch_geometric.nn import CGConv
    from torch_geometric.nn.models import DimeNetPlusPlus, SchNet
    from torch_geometric.nn.models.schnet import GaussianSmearing


class Peer(Model):
    """A network that gives numbers per structure; forces and stress are derivatives of its energy.

    Energies are learned per atom, from their mean in the training set on; every loss is :class:`PaiNN`'s.

    Args:
        targets: names.
        cutoff: Angstrom.
        differentiable: whether the output is smooth in the positions, as forces need.
    """

    scale: Tensor
    shift: Tensor
    smooth = True

    def __init__(self, targets: Sequence[str], cutoff: float, **config: Any) -> None:
        super().__init__({"targets": list(targets), "cutoff": cutoff, **config}, [target(t) for t in targets], cutoff)
        self.names = list(targets)
        self.weights = {name: WEIGHTS.get(name, 1.0) for name in self.names}
        self.columns = [name for name in self.names if name not in ("forces", "stress")]
        if len(self.columns) < len(self.names) and not (self.smooth and "energy" in self.names):
            raise VibronicError(f"{self.kind} has no forces here")
        for name, value in (("scale", torch.ones), ("shift", torch.zeros)):
            self.register_buffer(name, value(len(self.names), dtype=torch.float64))

    def prepare(self, batch: Batch) -> None:
        """Mean and spread of every target."""
        super().prepare(batch)
        for k, name in enumerate(self.names):
            y = batch.labels[name].double()
            y = y / batch.n_atoms if name == "energy" else y
            derivative = name in POTENTIAL and name != "energy"
            self.shift[k] = 0.0 if derivative else y.mean()
            self.scale[k] = spread(y.flatten(), 0.0 if derivative else None)

    def outputs(self, batch: Batch, vectors: Tensor, distance: Tensor) -> Tensor:
        """(B, columns) of about unit size, per atom."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions of each target, in its unit."""
        training = torch.is_grad_enabled()
        differentiate = len(self.columns) < len(self.names)
        with torch.set_grad_enabled(differentiate or training):
            vectors = batch.edge_vectors()
            if differentiate and not vectors.requires_grad:
                vectors.requires_grad_()
            y = self.outputs(batch, vectors, torch.sqrt((vectors * vectors).sum(-1) + 1e-12))
            out = {}
            for name, column in zip(self.columns, y.unbind(1), strict=True):
                k = self.names.index(name)
                # With forces a unit of the output is what they do over 1 Angstrom.
                unit = self.scale[self.names.index("forces")] if "forces" in self.names else self.scale[k]
                value = column.to(self.shift) * (unit if name == "energy" else self.scale[k])
                value = value * batch.n_atoms if name == "energy" else value
                out[name] = value + self.shift[k] * (batch.n_atoms if name == "energy" else 1)
            if differentiate:
                learned = out["energy"].sum()
                (pull,) = torch.autograd.grad(learned, vectors, create_graph=training)
                i, j = batch.edge_index
                n = len(batch.numbers)
                out["forces"] = scatter_sum(pull, i, n) - scatter_sum(pull, j, n)
                virial = scatter_sum(vectors[:, :, None] * pull[:, None, :], batch.edge_structure, batch.n_structures)
                out["stress"] = 0.5 * (virial + virial.transpose(1, 2)) / batch.volume()[:, None, None]
        return {name: out[name] if training else out[name].detach() for name in self.names}

    loss = PaiNN.loss


class _Given:
    """Gives SchNet our neighbours where it would search for its own; an object, so that a copy of the model has its own."""

    edges: tuple[Tensor, Tensor]

    def __call__(self, positions: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.edges


class PeriodicSchNet(Peer):
    """SchNet (Schuett et al., J. Chem. Phys. 148, 241722, 2018)."""

    kind = "schnet"

    def __init__(
        self, targets: Sequence[str], width: int = 64, layers: int = 3, gaussians: int = 50, cutoff: float = 5.0
    ) -> None:
        super().__init__(targets, cutoff, width=width, layers=layers, gaussians=gaussians)
        self.given = _Given()
        self.network = SchNet(width, width, layers, gaussians, cutoff, interaction_graph=self.given)
        self.network.lin2 = nn.Linear(width // 2, len(self.columns))

    def outputs(self, batch: Batch, vectors: Tensor, distance: Tensor) -> Tensor:
        self.given.edges = batch.edge_index.flip(0), distance  # messages run from neighbour to centre
        each = torch.arange(len(batch.numbers))  # every atom its own "molecule": its readout sums over nothing
        return scatter_mean(self.network(batch.numbers, batch.positions, each), batch.index, batch.n_structures)


class PeriodicDimeNet(Peer):
    """DimeNet++ (Gasteiger et al., arXiv 2011.14115). As in the original no angle goes back to the first atom, nor to its images."""

    kind = "dimenet++"

    def __init__(self, targets: Sequence[str], width: int = 64, layers: int = 2, cutoff: float = 5.0) -> None:
        super().__init__(targets, cutoff, width=width, layers=layers)
        self.network = DimeNetPlusPlus(
            hidden_channels=width,
            out_channels=len(self.columns),
            num_blocks=layers,
            int_emb_size=width // 2,
            basis_emb_size=8,
            out_emb_channels=2 * width,
            num_spherical=7,
            num_radial=6,
            cutoff=cutoff,
        )

    def outputs(self, batch: Batch, vectors: Tensor, distance: Tensor) -> Tensor:
        net = self.network
        centre, source = batch.edge_index
        towards, onwards = triplets(centre, source)
        a, b = vectors[towards], vectors[onwards]
        angle = torch.atan2(torch.linalg.cross(a, b).norm(dim=1), (a * b).sum(1))
        rbf = net.rbf(distance)
        sbf = net.sbf(distance, angle, onwards)
        x = net.emb(batch.numbers, rbf, centre, source)
        atoms = net.output_blocks[0](x, rbf, centre, num_nodes=len(batch.numbers))
        for interaction, output in zip(net.interaction_blocks, net.output_blocks[1:], strict=True):
            x = interaction(x, rbf, sbf, onwards, towards)
            atoms = atoms + output(x, rbf, centre, num_nodes=len(batch.numbers))
        return scatter_mean(atoms, batch.index, batch.n_structures)


class CGCNN(Peer):
    """CGCNN (Xie and Grossman, Phys. Rev. Lett. 120, 145301, 2018) of torch-geometric's ``CGConv``: learned elements, Gaussians of the
    distances every 0.2 Angstrom, a mean over atoms, one hidden layer. Its Gaussians do not fade at the cutoff, so it has no forces."""

    kind = "cgcnn2018"
    smooth = False

    def __init__(
        self, targets: Sequence[str], width: int = 64, layers: int = 3, hidden: int = 128, cutoff: float = 5.0
    ) -> None:
        super().__init__(targets, cutoff, width=width, layers=layers, hidden=hidden)
        gaussians = round(cutoff / 0.2) + 1
        self.embedding = nn.Embedding(100, width)
        self.gaussians = GaussianSmearing(0.0, cutoff, gaussians)
        self.convolutions = nn.ModuleList(CGConv(width, gaussians, batch_norm=True) for _ in range(layers))
        self.head = nn.Sequential(
            nn.Softplus(), nn.Linear(width, hidden), nn.Softplus(), nn.Linear(hidden, len(self.columns))
        )

    def outputs(self, batch: Batch, vectors: Tensor, distance: Tensor) -> Tensor:
        x, edges = self.embedding(batch.numbers), self.gaussians(distance)
        for convolution in self.convolutions:
            x = convolution(x, batch.edge_index.flip(0), edges)
        return self.head(scatter_mean(x, batch.index, batch.n_structures))
