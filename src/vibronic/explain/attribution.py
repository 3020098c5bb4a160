"""Which bonds and atoms move a prediction: integrated gradients over the presence of every bond (captum).

Every edge of the graph is faded in from nothing (weight 0) to whole (weight 1); the attribution of a bond is the
integral of d(prediction)/d(weight) along that path (Sundararajan et al., arXiv 1703.01365). Attributions therefore sum
to f(all bonds) - f(no bonds), which is tested, and are in the unit of the target. The model was never trained on atoms
without bonds, so f(no bonds) is an extrapolation: it is reported beside the attributions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.learning.prediction import check


@dataclass(frozen=True)
class Attribution:
    """Undirected bonds of one structure and what each adds to the prediction.

    Attributes:
        i, j: (bonds,) atoms, i <= j.
        shift: (bonds, 3) lattice translation of j.
        length: (bonds,) Angstrom.
        value: (bonds,) in the unit of the target.
        kinds: (bonds,) such as ``Ag-S``.
        whole: prediction with all bonds, f(1).
        bare: prediction without any bond, f(0); the baseline of the attributions.
    """

    i: np.ndarray
    j: np.ndarray
    shift: np.ndarray
    length: np.ndarray
    value: np.ndarray
    kinds: np.ndarray
    whole: float
    bare: float

    @property
    def error(self) -> float:
        """Sum of the attributions less f(1) - f(0): what the quadrature missed."""
        return float(self.value.sum()) - (self.whole - self.bare)

    def per_atom(self, n_atoms: int) -> np.ndarray:
        """(n_atoms,) half of every bond's attribution to each of its ends."""
        return np.bincount(self.i, self.value / 2, n_atoms) + np.bincount(self.j, self.value / 2, n_atoms)


def attribute(model: Model, atoms: Atoms, target: str, steps: int = 32) -> Attribution:
    """Bond attributions of one prediction.

    Args:
        target: name of a scalar target of the model.
        steps: points of the integral (Gauss-Legendre).

    Raises:
        VibronicError: the model has no such scalar target or refuses the structure, or there is no step to take.
    """
    from captum.attr import IntegratedGradients

    check_scalar(model, target)
    if steps < 1:
        raise VibronicError(f"the integral needs at least one step, not {steps}")
    model.eval()
    check(model, atoms)
    batch = Batch.from_atoms(atoms, model.cutoff, dtype=model.dtype)
    edges = batch.edge_index.shape[1]

    def presence(weights: Tensor) -> Tensor:
        """Prediction (1,) with the edges at these weights (1, E)."""
        return model(replace(batch, edge_weight=weights[0]))[target]

    weights = torch.ones(1, edges, dtype=batch.positions.dtype)
    directed = IntegratedGradients(presence).attribute(
        weights, torch.zeros_like(weights), n_steps=steps, internal_batch_size=1
    )[0]
    with torch.no_grad():
        whole, bare = (float(presence(w)) for w in (weights, torch.zeros_like(weights)))
    return _undirected(batch, atoms, directed.detach().double().numpy(), whole, bare)


def check_scalar(model: Model, target: str) -> None:
    """Refuse what is no scalar target of the model.

    Raises:
        VibronicError: names those that are.
    """
    names = [t.name for t in model.targets if not t.shape]
    if target not in names:
        raise VibronicError(f"the model has no scalar target '{target}'; choose one of {', '.join(names) or 'none'}")


def average(attributions: Sequence[Attribution]) -> Attribution:
    """Mean over models (seeds) of attributions of the same structure at the same cutoff.

    Raises:
        VibronicError: the models do not see the same bonds.
    """
    first = attributions[0]
    for other in attributions[1:]:
        if not all(np.array_equal(getattr(first, k), getattr(other, k)) for k in ("i", "j", "shift")):
            raise VibronicError("the models do not see the same bonds; average models of the same cutoff")
    means = {k: np.mean([getattr(a, k) for a in attributions], axis=0) for k in ("value", "whole", "bare")}
    return replace(first, **means)


def undirected(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bonds behind the directed edges of one structure.

    Returns:
        ``bonds`` (bonds, 5): i, j (i <= j) and the lattice translation of j; ``first`` (bonds,) an edge of each;
        ``bond`` (E,) which bond an edge belongs to.
    """
    i, j = batch.edge_index.numpy()
    shift = batch.edge_shift.numpy().astype(int)
    flip = (i > j) | ((i == j) & np.array([tuple(s) < (0, 0, 0) for s in shift], dtype=bool))
    a, b = np.where(flip, j, i), np.where(flip, i, j)
    key = np.column_stack([a, b, np.where(flip[:, None], -shift, shift)])
    bonds, first, bond = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return bonds, first, bond.ravel()


def _undirected(batch: Batch, atoms: Atoms, directed: np.ndarray, whole: float, bare: float) -> Attribution:
    """Add both directions of every bond."""
    bonds, first, bond = undirected(batch)
    length = batch.edge_vectors().norm(dim=-1).double().numpy()[first]
    value = np.bincount(bond, directed, len(bonds))
    symbols = np.array(atoms.get_chemical_symbols())
    kinds = np.array(["-".join(sorted(pair)) for pair in zip(symbols[bonds[:, 0]], symbols[bonds[:, 1]], strict=True)])
    return Attribution(bonds[:, 0], bonds[:, 1], bonds[:, 2:], length, value, kinds, whole, bare)
