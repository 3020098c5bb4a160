"""Quantum Deep Field as its authors published it (Tsubaki and Mizoguchi, NeurIPS 2020, arXiv 2011.07929; PRL 125, 206401).

Points in a small sphere around every atom carry molecular orbitals, which are linear combinations of learned Gaussians
(LCAO). One network, the energy functional, maps orbitals to the target; another, the Hohenberg-Kohn map, ties their
density to the external potential.

What the published form costs is kept: the grid stands still when a molecule turns, so that predictions change with the
frame (an error of 1.33 kcal/mol becomes 2.26 on molecules turned at random); and only distances enter, no angles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.scatter import scatter_sum
from vibronic.core.targets import target
from vibronic.fields.analysis import Anywhere

UNSUPERVISED = (
    "unsupervised density: the model learned from no density, and nothing makes this one integrate to the electrons"
)
POINTS = 5_000
"""Points around an atom that are too many: their orbitals take gigabytes for one molecule. The authors have 56."""


class QuantumDeepField2020(Model):
    """The authors' model: energy as a sum over points, or HOMO and LUMO as a mean.

    Args:
        targets: scalars of a molecule, all extensive (summed over points) or all intensive (averaged).
        units: unit of a target that Vibronic does not know.
        elements: symbols that get orbitals of their own; others are refused.
        basis_set: read as numbers of Gaussians: in 6-31G, 6 for 1s and 3 + 1 for 2s and 2p each, 3 + 1 for hydrogen's 1s.
        radius: of the sphere of points around an atom, Angstrom; at most about ten intervals.
        interval: between points, Angstrom.
        width: molecular orbitals, and features of the functional.
        layers: of the functional.
        hk_width: features of the Hohenberg-Kohn map.
        hk_layers: of that map.
    """

    kind = "qdf2020"
    turns = 2
    recipe: ClassVar[dict[str, Any]] = {
        "epochs": 2000,
        "batch_size": 4,
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "warmup": 0.0,
        "ema": 0.0,
        "clip": 0.0,
        "schedule": "step",
        "step_epochs": 200,
        "optimizer": "adam",
    }
    offsets: Tensor
    first_orbital: Tensor
    n_orbitals: Tensor
    second_shell: Tensor

    def __init__(
        self,
        targets: Sequence[str] = ("energy",),
        units: dict[str, str] | None = None,
        elements: Sequence[str] = ("H", "C", "N", "O", "F"),
        basis_set: str = "6-31G",
        radius: float = 0.75,
        interval: float = 0.3,
        width: int = 250,
        layers: int = 3,
        hk_width: int = 250,
        hk_layers: int = 3,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        # Pairs of atoms play no part: the neighbour list may be empty.
        super().__init__(config, [target(t, (units or {}).get(t, "1")) for t in targets], cutoff=0.1)
        if any(not t.is_number for t in self.targets) or len({t.extensive for t in self.targets}) != 1:
            raise VibronicError(
                "qdf2020 learns numbers per molecule that are all sums over it (energy) or all means (homo, lumo), not "
                + ", ".join(targets)
            )
        if min(width, layers, hk_width, hk_layers) < 1 or not 0 < interval <= radius:
            raise VibronicError("qdf2020 needs positive widths and layers, and an interval of points within its radius")
        count, most = 4 / 3 * np.pi * (radius / interval) ** 3, interval * (POINTS / (4 / 3 * np.pi)) ** (1 / 3)
        if count > POINTS:
            raise VibronicError(
                f"a radius of {radius:g} Angstrom at an interval of {interval:g} gives every atom of qdf2020 "
                f"{count:.1e} points, more than memory holds; choose a radius up to {most:.3g}, or a wider interval"
            )
        self.extensive = self.targets[0].extensive
        self.register_buffer("offsets", sphere(radius, interval), persistent=False)
        for name, table in _orbitals(elements, basis_set).items():
            self.register_buffer(name, table, persistent=False)
        n = len(self.second_shell)
        self.coefficient = nn.Parameter(torch.randn(n, width))
        self.zeta = nn.Parameter(torch.ones(n))
        self.functional = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.property = nn.Linear(width, len(self.targets))
        self.density_in = nn.Linear(1, hk_width)
        self.hk = nn.ModuleList(nn.Linear(hk_width, hk_width) for _ in range(hk_layers))
        self.potential_out = nn.Linear(hk_width, 1)

    def prepare(self, batch: Batch) -> None:
        """Nothing is scaled in the authors' model: the network meets the labels in eV."""
        super().prepare(batch)
        next(self._molecules(batch))  # refuses what it cannot treat before the first step

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions (B,) of each target, in its unit."""
        psi, points = self.orbitals(batch)
        values = self._functional(psi, points).unbind(1)
        return {t.name: v for t, v in zip(self.targets, values, strict=True)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the targets, on which an epoch is judged."""
        return self.loss_in_turn(batch, 0)

    def loss_in_turn(self, batch: Batch, turn: int) -> dict[str, Tensor]:
        """Mean squared error of the targets (turn 0) or of the potential on the points (turn 1)."""
        psi, points = self.orbitals(batch)
        if turn == 1:
            return {"loss": mse_loss(self._hohenberg_kohn(psi), self.potential(batch))}
        predicted = self._functional(psi, points)
        wanted = torch.stack([batch.labels[t.name] for t in self.targets], dim=1).to(predicted)
        error = (predicted - wanted).detach().abs().mean(0)
        figures = {f"mae_{t.name}": e for t, e in zip(self.targets, error, strict=True)}
        return {"loss": mse_loss(predicted, wanted), **figures}

    def orbitals(self, batch: Batch) -> tuple[Tensor, list[int]]:
        """``psi`` (points, width) on the points of all molecules (see :meth:`grid`), and the points of each.

        Each column is normalised over a molecule's points to its share of the electrons.
        """
        psi = [self._orbitals(*molecule)[0] for molecule in self._molecules(batch)]
        return torch.cat(psi), [len(p) for p in psi]

    def density(self, batch: Batch, points: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Electrons per point, ``rho = sum_k psi_k^2``, of each molecule.

        On the model's own points it sums to the number of electrons, and nothing else fixes its scale: as electrons per
        Angstrom^3 it is ``rho / interval**3``, too small where the spheres of neighbouring atoms overlap.

        Args:
            points: (P, 3) Angstrom for each molecule, in the frame of the batch, where the norms of its own points hold;
                None means its own.
        """
        found = []
        for k, (positions, numbers, atom, kind) in enumerate(self._molecules(batch)):
            psi, coefficients = self._orbitals(positions, numbers, atom, kind)
            if points is not None:
                psi = self._gaussians(square_distances(positions, points[k].to(positions)), atom, kind).T @ coefficients
            found.append(psi.square().sum(1))
        return found

    def density_of(self, structure: Atoms) -> Anywhere:
        """The density as electrons per Angstrom^3 (see :meth:`density`): nothing makes it integrate to the electrons."""
        self.check_neutral(structure)
        batch = Batch.from_atoms(structure, self.cutoff, dtype=self.dtype)
        self.check_elements(batch.numbers)
        interval: Any = self.config["interval"]
        origin = structure.positions.mean(0)  # a batch holds molecules around their mean

        def at(points: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                (per_point,) = self.density(batch, [torch.as_tensor(points - origin, dtype=self.dtype)])
            return per_point.double().numpy() / interval**3

        return Anywhere(at, UNSUPERVISED)

    def grid(self, batch: Batch) -> Tensor:
        """(points, 3) Angstrom: the offsets around each atom, atom by atom."""
        return self._points(batch.positions)

    def potential(self, batch: Batch) -> Tensor:
        """(points,) ``-sum_A Z_A exp(-|r - R_A|^2)``, what the Hohenberg-Kohn map learns (Brockherde et al., Nature
        Communications 8, 872 (2017))."""
        values = []
        for positions, numbers, _, _ in self._molecules(batch):
            d2 = square_distances(positions, self._points(positions))
            values.append(-(numbers.to(d2) @ torch.exp(-d2)))
        return torch.cat(values)

    def predicted_potential(self, batch: Batch) -> Tensor:
        """(points,) what the Hohenberg-Kohn map makes of the density."""
        return self._hohenberg_kohn(self.orbitals(batch)[0])

    def _functional(self, psi: Tensor, points: list[int]) -> Tensor:
        """(B, targets) from orbitals on points."""
        for layer in self.functional:
            psi = layer(psi).relu_()
        pooled = torch.stack([x.sum(0) if self.extensive else x.mean(0) for x in psi.split(points)])
        return self.property(pooled)

    def _hohenberg_kohn(self, psi: Tensor) -> Tensor:
        """(points,) potential from the density of the orbitals."""
        rho = psi.square().sum(1, keepdim=True)
        # No ReLU stands between the first two linear layers: together they are one linear layer of one number.
        first, *others = self.hk
        assert isinstance(first, nn.Linear)
        bias = torch.addmv(first.bias, first.weight, self.density_in.bias)
        x = torch.addmm(bias, rho, (first.weight @ self.density_in.weight).T).relu_()
        for layer in others:
            x = layer(x).relu_()
        return self.potential_out(x).squeeze(1)

    def _orbitals(self, positions: Tensor, numbers: Tensor, atom: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        """One molecule's ``psi`` (points, width), and the coefficients (orbitals, width) that give it anywhere.

        The authors normalise the columns of phi, of the coefficients and of psi. The first are factors of the rows of
        the coefficients, which are fewer than the points; the second cancel in the third, and are left out.
        """
        phi = self._gaussians(square_distances(positions, self._points(positions)), atom, kind)
        coefficients = self.coefficient[kind] / phi.norm(dim=1, keepdim=True).clamp(min=1e-12)
        psi = phi.T @ coefficients
        scale = (numbers.sum().to(psi) / psi.shape[1]).sqrt() / psi.norm(dim=0).clamp(min=1e-12)
        return psi * scale, coefficients * scale

    def _gaussians(self, d2: Tensor, atom: Tensor, kind: Tensor) -> Tensor:
        """``phi`` (orbitals, points), ``d^(q - 1) exp(-zeta d^2)``, q = 1 for 1s and 2 for 2s and 2p, not normalised.

        A point on a nucleus counts as out of every orbital's reach, as it does in the authors' preprocessing.
        """
        d2 = torch.where(d2 == 0, 1e12, d2)
        log = 0.5 * d2.log()  # of the factor d, so that exp is all that is needed
        exponent = torch.where(self.second_shell[kind, None], log[atom], 0.0)
        return torch.addcmul(exponent, d2[atom], self.zeta[kind, None], value=-1).exp_()

    def _points(self, positions: Tensor) -> Tensor:
        return (positions[:, None] + self.offsets.to(positions)).view(-1, 3)

    def _molecules(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Positions and numbers of each molecule's atoms, and the atom and the kind of each of its atomic orbitals.

        Raises:
            VibronicError: a periodic structure, or an element without orbitals.
        """
        if batch.cell.any():
            raise VibronicError("qdf2020 has no periodic field: remove the cell of a molecule, or choose another model")
        count = self.n_orbitals[batch.numbers]
        if not count.all():
            missing = batch.numbers[count == 0].unique().tolist()
            raise VibronicError(
                f"qdf2020 has no orbitals for {', '.join(chemical_symbols[z] for z in missing)}; name all elements with "
                "--model.elements"
            )
        atom = torch.repeat_interleave(count)  # of the whole batch, for now
        kind = self.first_orbital[batch.numbers][atom] + _within(atom, count)
        first = batch.n_atoms.cumsum(0) - batch.n_atoms
        atoms = batch.n_atoms.tolist()
        orbitals = scatter_sum(count, batch.index, batch.n_structures).tolist()
        yield from zip(
            batch.positions.split(atoms),
            batch.numbers.split(atoms),
            (atom - first[batch.index[atom]]).split(orbitals),
            kind.split(orbitals),
            strict=True,
        )


def _within(owner: Tensor, count: Tensor) -> Tensor:
    """Place of each orbital among those of its atom."""
    return torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner]


def square_distances(positions: Tensor, points: Tensor) -> Tensor:
    """(atoms, points) Angstrom^2; from differences, since expanded squares would cost half of the digits."""
    return sum((points[:, k] - positions[:, k, None]).square() for k in range(3))  # type: ignore[return-value]


def sphere(radius: float, interval: float) -> Tensor:
    """(points, 3) offsets of a lattice of this interval, without its centre, that are within the radius."""
    steps = np.arange(-radius, radius + 1e-3, interval)
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    d2 = (offsets**2).sum(1)
    return torch.tensor(offsets[(d2 <= radius**2) & (d2 > 0)])


def _orbitals(elements: Sequence[str], basis_set: str) -> dict[str, Tensor]:
    """By atomic number the first orbital and the number of orbitals; by orbital whether it is of the second shell."""
    counts = re.fullmatch(r"(\d)-(\d+)G", basis_set)
    if counts is None:
        raise VibronicError(
            f"qdf2020 reads a basis set as numbers of Gaussians, like 6-31G or 6-311G, not '{basis_set}'"
        )
    inner, outer = int(counts[1]), sum(map(int, counts[2]))
    unknown = [e for e in elements if atomic_numbers.get(e, 0) < 1]
    if unknown or not elements or len(set(elements)) < len(elements):
        raise VibronicError(f"the elements of qdf2020 must be different chemical symbols, not {', '.join(elements)}")
    first, number, second = [0] * len(chemical_symbols), [0] * len(chemical_symbols), list[bool]()
    for symbol in elements:
        z = atomic_numbers[symbol]
        shells = [False] * outer if z <= 2 else [False] * inner + [True] * 2 * outer
        first[z], number[z] = len(second), len(shells)
        second += shells
    return {
        "first_orbital": torch.tensor(first),
        "n_orbitals": torch.tensor(number),
        "second_shell": torch.tensor(second),
    }
