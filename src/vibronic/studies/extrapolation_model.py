"""The models that the study ``extrapolation`` compares, and how each of them is fitted to as many molecules as there are."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.data.dataset import GraphData
from vibronic.learning.recipe import Training
from vibronic.learning.store import build
from vibronic.studies.composition import Composition, OnComposition

MODELS = ("composition", "ridge", "qdf", "schnet", "qdf2020")
"""One energy per element; pairs and angles; ours; message passing; the published field."""

PASSES = 20
"""Epochs of SchNet at least: with all molecules that takes about the processor time of ``qdf``, with fewer more than that."""


class _Edges:
    """Gives SchNet our neighbours where it would ask torch-cluster; an object, so that a copy of the model has its own."""

    given: tuple[Tensor, Tensor]

    def __call__(self, positions: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.given


class MessagePassing(OnComposition):
    """SchNet (Schuett et al., J. Chem. Phys. 148, 241722, 2018) as torch-geometric has it, on top of the composition.

    Args:
        width: features of an atom and filters.
        interactions: message-passing layers.
        gaussians: of the distances.
        cutoff: Angstrom.
    """

    kind = "schnet"

    def __init__(self, width: int = 64, interactions: int = 3, gaussians: int = 32, cutoff: float = 5.0) -> None:
        with warnings.catch_warnings():
            # torch-geometric compiles functions with torch.jit on import, which PyTorch deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch_geometric.nn.models import SchNet

        config = {k: v for k, v in locals().items() if k not in ("self", "__class__", "SchNet")}
        super().__init__(config, cutoff)
        self.edges = _Edges()
        self.network = SchNet(width, width, interactions, gaussians, cutoff, interaction_graph=self.edges)

    def _sum(self, batch: Batch) -> Tensor:
        # Messages run from neighbour to centre, which torch-geometric names in this order.
        self.edges.given = batch.edge_index.flip(0), batch.edge_vectors().norm(dim=1)
        return self.network(batch.numbers, batch.positions, batch.index).squeeze(1)

    def _distance(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        return smooth_l1_loss(predicted, wanted, beta=0.05)


def untrained(kind: str, size: int) -> Model:
    """A model of this kind for a training set of ``size`` molecules.

    Raises:
        VibronicError: the study has no such model.
    """
    if kind == "composition":
        return Composition()
    if kind == "schnet":
        return MessagePassing()
    if kind == "ridge":
        return build("ridge", targets=["energy"])
    if kind == "qdf2020":
        return build("qdf2020")
    if kind == "qdf":
        # A few inducing points per molecule: more of them than labels only cost time.
        points = [min(6000, 4 * size), min(4000, 3 * size)]
        return build("qdf", points=points)
    raise VibronicError(f"the study extrapolation has no model '{kind}'; it compares {', '.join(MODELS)}")


def recipe(kind: str, size: int, steps: int, epochs: int) -> Training:
    """How a network is trained: SchNet in ``steps`` or :data:`PASSES`, whichever is more (in whole epochs), the published field in ``epochs`` of its authors' kind."""
    if kind == "qdf2020":
        return Training(**{**build("qdf2020").recipe, "epochs": epochs})
    batch_size = 16
    epochs = max(PASSES, round(steps / math.ceil(size / batch_size)))
    return Training(epochs=epochs, batch_size=batch_size, learning_rate=1e-3, weight_decay=1e-4, warmup=0.05, clip=1.0)


def fitted(kind: str, molecules: list[Atoms], seed: int, folder: Path, steps: int, epochs: int) -> tuple[Model, int]:
    """A model fitted to molecules with an energy, and the epochs that it took (0 in closed form).

    Args:
        folder: for checkpoints; nothing in it is needed afterwards.
    """
    torch.manual_seed(seed)
    model = untrained(kind, len(molecules))
    data = GraphData(molecules, model.targets, model.cutoff)
    if model.closed_form:
        model.prepare(data.batch().to(dtype=model.dtype))
        return model.eval(), 0
    from vibronic.learning.training import fit

    how = recipe(kind, len(molecules), steps, epochs)
    fit(model, data, None, folder, how, seed, device="cpu", progress=False, logs=False)
    return model, how.epochs


def numbers_in(model: Model) -> int:
    """What was learned: parameters of a network, else the weights of a closed-form fit."""
    weights: list[Any] = list(model.parameters())
    if not weights:
        weights = [b for name, b in model.named_buffers() if name.rpartition(".")[2] in ("weights", "reference")]
    return sum(w.numel() for w in weights)
