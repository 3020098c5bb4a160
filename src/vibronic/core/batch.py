"""Batch: many structures as flat tensors. The only thing a model ever sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from vibronic.core.neighbors import neighbor_list
from vibronic.core.targets import target


def widest(device: torch.device | str) -> torch.dtype:
    """The most precise floating-point type of a device: double, except on Apple's GPU, which has none."""
    return torch.float32 if torch.device(device).type == "mps" else torch.float64


@dataclass
class Batch:
    """``B`` structures with ``N`` atoms and ``E`` directed edges in all.

    Attributes:
        positions: (N, 3) Angstrom; those of a molecule around their mean.
        numbers: (N,) atomic numbers.
        cell: (B, 3, 3) Angstrom, lattice vectors as rows; zero for a molecule.
        index: (N,) which structure an atom belongs to, sorted.
        edge_index: (2, E) centre and neighbour of each edge, sorted by centre.
        edge_shift: (E, 3) lattice translations of the neighbour.
        labels: name -> (B, ...) for targets per structure, (N, ...) for targets per atom; double precision, because the
            energy of all electrons has more digits than single precision holds.
        edge_weight: (E,) how much of each edge is there, for explanations; None means all of it.
    """

    positions: Tensor
    numbers: Tensor
    cell: Tensor
    index: Tensor
    edge_index: Tensor
    edge_shift: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    edge_weight: Tensor | None = None

    @property
    def n_structures(self) -> int:
        return self.cell.shape[0]

    @property
    def n_atoms(self) -> Tensor:
        """(B,) atoms in each structure."""
        return torch.bincount(self.index, minlength=self.n_structures)

    @property
    def edge_structure(self) -> Tensor:
        """(E,) which structure an edge belongs to."""
        return self.index[self.edge_index[0]]

    def edge_vectors(self) -> Tensor:
        """(E, 3) vectors from centre to neighbour, Angstrom; differentiable in positions and cell."""
        i, j = self.edge_index
        shift = torch.einsum("ea,eab->eb", self.edge_shift, self.cell[self.index[i]])
        return self.positions[j] - self.positions[i] + shift

    def weigh(self, edges: Tensor) -> Tensor:
        """Rows of ``edges`` (E, ...) times the weight of their edge."""
        if self.edge_weight is None:
            return edges
        return edges * self.edge_weight.view(-1, *[1] * (edges.ndim - 1))

    def volume(self) -> Tensor:
        """(B,) cell volumes, Angstrom^3."""
        return torch.linalg.det(self.cell).abs()

    def select(self, structures: Tensor) -> Batch:
        """The structures with these indices (ascending), as a batch of their own."""
        place = torch.full((self.n_structures,), -1, device=self.index.device)
        place[structures] = torch.arange(len(structures), device=place.device)
        atoms, edges = place[self.index] >= 0, place[self.edge_structure] >= 0
        renumbered = torch.cumsum(atoms, 0) - 1
        return Batch(
            positions=self.positions[atoms],
            numbers=self.numbers[atoms],
            cell=self.cell[structures],
            index=place[self.index[atoms]],
            edge_index=renumbered[self.edge_index[:, edges]],
            edge_shift=self.edge_shift[edges],
            labels={k: v[atoms if target(k).level == "atom" else structures] for k, v in self.labels.items()},
            edge_weight=None if self.edge_weight is None else self.edge_weight[edges],
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The batch on ``device``, its geometry as ``dtype``; labels stay as precise as the device allows."""

        def move(x: Tensor) -> Tensor:
            return x.to(device=device, dtype=dtype if x.is_floating_point() else None)

        tensors = {k: move(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        precise = widest(self.positions.device if device is None else device)
        return replace(self, **tensors, labels={k: v.to(precise).to(device=device) for k, v in self.labels.items()})

    @classmethod
    def from_atoms(
        cls,
        atoms: Atoms,
        cutoff: float,
        labels: Mapping[str, np.ndarray | float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Batch:
        """One structure with its neighbours within ``cutoff`` Angstrom (0: without), its geometry as ``dtype``.

        A molecule is moved to the origin first: single precision would round distances between atoms far away from it.
        """
        none = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros((0, 3))
        i, j, shift = neighbor_list(atoms, cutoff) if cutoff else none
        cell, positions = atoms.cell.array, atoms.positions
        if not atoms.pbc.any():
            cell, positions = np.zeros((3, 3)), positions - positions.mean(0)
        per_atom = {k for k in labels or {} if target(k).level == "atom"}
        return cls(
            positions=torch.as_tensor(positions, dtype=dtype),
            numbers=torch.as_tensor(atoms.numbers, dtype=torch.long),
            cell=torch.as_tensor(cell, dtype=dtype)[None],
            index=torch.zeros(len(atoms), dtype=torch.long),
            edge_index=torch.as_tensor(np.stack([i, j])),
            edge_shift=torch.as_tensor(shift, dtype=dtype),
            labels={
                k: torch.as_tensor(np.asarray(v), dtype=torch.float64)[... if k in per_atom else None]
                for k, v in (labels or {}).items()
            },
        )

    @classmethod
    def collate(cls, batches: Sequence[Batch]) -> Batch:
        """Several batches as one; labels that only some of them carry are an error of the caller."""
        atom_offset = np.cumsum([0] + [b.positions.shape[0] for b in batches[:-1]])
        structure_offset = np.cumsum([0] + [b.n_structures for b in batches[:-1]])
        return cls(
            positions=torch.cat([b.positions for b in batches]),
            numbers=torch.cat([b.numbers for b in batches]),
            cell=torch.cat([b.cell for b in batches]),
            index=torch.cat([b.index + int(o) for b, o in zip(batches, structure_offset, strict=True)]),
            edge_index=torch.cat([b.edge_index + int(o) for b, o in zip(batches, atom_offset, strict=True)], dim=1),
            edge_shift=torch.cat([b.edge_shift for b in batches]),
            labels={k: torch.cat([b.labels[k] for b in batches]) for k in batches[0].labels},
        )
