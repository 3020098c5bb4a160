"""The graph network of the phonon-informed-data-set paper (arXiv 2511.15222), on a correct periodic graph.

Nodes carry four element features, edges one distance, both scaled to [0, 1]; PyG's ``GraphConv`` + batch norm + ReLU,
pooling, two linear layers. ``PAPER2025`` holds the settings of the authors' scripts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from ase.data import atomic_masses, covalent_radii
from torch import Tensor, nn
from torch.nn.functional import dropout, mse_loss, relu

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_mean
from vibronic.core.targets import target
from vibronic.properties.elements import ELECTRONEGATIVITY
from vibronic.properties.readout import spread

PAPER2025: dict[str, Any] = {
    "model": {"width": 128, "layers": 3, "cutoff": 5.5, "pooling": "mean", "dropout": 0.4, "sigmoid": True},
    "training": {
        "epochs": 600,
        "batch_size": 128,
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "ema": 0.0,
        "clip": 0.0,
        "schedule": "constant",
        "optimizer": "adam",
    },
    "fractions": (0.7, 0.15, 0.15),
}
"""Settings of the authors' scripts. The sigmoid cannot leave the range of the training targets: a fault of the paper's
model that a faithful preset keeps and every score shows, since no target is ever dropped here."""


class CrystalGraph(Model):
    """Scalar targets of a crystal from pair distances within a cutoff.

    Args:
        targets: names; energy is learned per atom. Forces and stress are not for this model.
        units: unit of a target that Vibronic does not know.
        width: features per atom.
        layers: graph convolutions.
        cutoff: Angstrom.
        pooling: ``mean`` or ``max`` over atoms.
        dropout: between the pooled features and the head.
        sigmoid: the paper's bounded output, scaled to the range of the training targets.
    """

    kind = "cgcnn"
    remembers = True
    smooth = False  # piecewise linear, and it jumps where a neighbour comes within the cutoff
    node_low: Tensor
    node_span: Tensor
    edge_low: Tensor
    edge_span: Tensor
    low: Tensor
    span: Tensor
    table: Tensor

    def __init__(
        self,
        targets: Sequence[str] = ("band_gap",),
        units: dict[str, str] | None = None,
        width: int = 128,
        layers: int = 3,
        cutoff: float = 5.5,
        pooling: Literal["mean", "max"] = "mean",
        dropout: float = 0.0,
        sigmoid: bool = False,
    ) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)  # raised inside torch_geometric
            from torch_geometric.nn import GraphConv

        config = {k: v for k, v in locals().items() if k not in ("self", "__class__", "GraphConv")}
        super().__init__(config, [target(t, (units or {}).get(t, "1")) for t in targets], cutoff)
        refused = [t.name for t in self.targets if not t.is_number]
        if refused:
            raise VibronicError(f"cgcnn learns one number per structure, not {', '.join(refused)}; use painn for those")
        if min(width, layers) < 1 or cutoff <= 0:
            raise VibronicError("cgcnn needs a positive width, at least one layer, and a positive cutoff")
        if pooling not in ("mean", "max") or not 0 <= dropout < 1:
            raise VibronicError(
                f"cgcnn pools by mean or max (not {pooling!r}) and drops out 0 <= p < 1 (not {dropout})"
            )
        self.pooling, self.dropout, self.sigmoid = pooling, dropout, sigmoid
        self.convolutions = nn.ModuleList(GraphConv(4 if k == 0 else width, width) for k in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))
        self.hidden = nn.Linear(width, 16)
        self.output = nn.Linear(16, len(self.targets))
        n = len(self.targets)
        for name, size in (("node", 4), ("edge", 1)):
            self.register_buffer(f"{name}_low", torch.zeros(size))
            self.register_buffer(f"{name}_span", torch.ones(size))
        self.register_buffer("low", torch.zeros(n, dtype=torch.float64))  # labels are double: energies have many digits
        self.register_buffer("span", torch.ones(n, dtype=torch.float64))
        table = np.stack([np.arange(104) - 1.0, ELECTRONEGATIVITY, atomic_masses[:104], covalent_radii[:104]], axis=1)
        self.register_buffer("table", torch.tensor(table, dtype=torch.float32), persistent=False)

    def prepare(self, batch: Batch) -> None:
        """Ranges of the node features, distances and targets of the training set."""
        super().prepare(batch)
        if not batch.edge_index.shape[1]:
            raise VibronicError(f"no two atoms of the training set are within the cutoff of {self.cutoff} Angstrom")
        nodes = self.table[batch.numbers]
        distance = batch.edge_vectors().norm(dim=-1, keepdim=True)
        for name, values in (("node", nodes), ("edge", distance)):
            low, high = values.amin(0), values.amax(0)
            setattr(self, f"{name}_low", low)
            setattr(self, f"{name}_span", torch.where(high > low, high - low, torch.ones_like(low)))
        y = self._scaled_labels(batch)
        if self.sigmoid:
            self.low, self.span = y.amin(0), (y.amax(0) - y.amin(0)).clamp(min=1e-8)
        else:
            self.low = y.mean(0)
            self.span = torch.stack([spread(column) for column in y.T])

    def _scaled_labels(self, batch: Batch) -> Tensor:
        """(B, targets): extensive targets per atom."""
        columns = [batch.labels[t.name] / batch.n_atoms if t.extensive else batch.labels[t.name] for t in self.targets]
        return torch.stack(columns, dim=1)

    def _normalised(self, batch: Batch) -> Tensor:
        x = (self.table[batch.numbers] - self.node_low) / self.node_span
        x = x.to(batch.positions.dtype)
        centre, neighbor = batch.edge_index
        weight = batch.weigh((batch.edge_vectors().norm(dim=-1) - self.edge_low) / self.edge_span)
        flow = torch.stack([neighbor, centre])  # PyG sends messages from row 0 to row 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = relu(norm(convolution(x, flow, weight)))
        if self.pooling == "mean":
            pooled = scatter_mean(x, batch.index, batch.n_structures)
        else:
            pooled = x.new_zeros(batch.n_structures, x.shape[1])
            pooled = pooled.scatter_reduce(0, batch.index[:, None].expand_as(x), x, "amax", include_self=False)
        y = self.output(self.hidden(dropout(pooled, self.dropout, self.training)))
        return torch.sigmoid(y) if self.sigmoid else y

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions (B,) of each target, in its unit."""
        y = self._normalised(batch) * self.span + self.low
        columns = zip(self.targets, y.unbind(1), strict=True)
        return {t.name: v * batch.n_atoms if t.extensive else v for t, v in columns}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the scaled targets."""
        predicted = self._normalised(batch)
        wanted = ((self._scaled_labels(batch) - self.low) / self.span).to(predicted)
        error = ((predicted - wanted).detach().abs() * self.span).mean(0)
        figures = {f"mae_{t.name}": e for t, e in zip(self.targets, error, strict=True)}
        return {"loss": mse_loss(predicted, wanted), **figures}
