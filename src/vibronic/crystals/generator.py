"""What every generator of crystals is: a :class:`Model` whose targets are the properties it can be asked for, which
samples instead of predicting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from ase import Atoms
from torch import Tensor

from vibronic.core.batch import Batch
from vibronic.core.errors import VibronicError
from vibronic.core.model import Model
from vibronic.core.targets import Target, target
from vibronic.crystals import matching
from vibronic.crystals.cells import Cells
from vibronic.crystals.conditioning import Asked
from vibronic.crystals.memory import Memory
from vibronic.data.dataset import label_of, labels_of

CLASSES = 100
"""Kinds of atoms: class k is atomic number k + 1."""

MAX_ATOMS = 64
"""Of a cell that is generated: attention takes every pair of them."""

Progress = Callable[[int], Any]


class CrystalGenerator(Model):
    """A generator conditioned on properties.

    Attributes:
        memory: the training set.
        bounds: whether it can be asked for bounds on a property, not for values alone.
        estimates: whether it says what properties its crystals have.
        symmetric: whether it makes crystals within the symmetry of given ones.
        symprec: Angstrom, within which crystals of the training set are made symmetric; 0 leaves them as they are.
        tolerance: Angstrom, within which crystals that it made are.
        evaluations, guidance: what a crystal takes where the user does not say.
    """

    generates: ClassVar[bool] = True
    symmetric: bool = False
    symprec: float = 0.0
    tolerance: float = 0.0
    evaluations: ClassVar[int]
    guidance: ClassVar[float] = 1.0
    bounds: ClassVar[bool] = False
    estimates: ClassVar[bool] = False

    def __init__(self, config: dict[str, Any], targets: Sequence[str], units: dict[str, str] | None) -> None:
        known = [target(name, (units or {}).get(name, "1")) for name in targets]
        for wrong in [t for t in known if t.level != "structure" or t.shape or t.extensive]:
            raise VibronicError(
                f"crystals cannot be asked for '{wrong.name}': a condition is one number that does not grow with the cell"
            )
        super().__init__({**config, "targets": list(targets), "units": units}, known, cutoff=0.0)
        self.memory = Memory([t.name for t in known])

    @property
    def labels(self) -> list[Target]:
        """The properties and the space group, which :meth:`labelled` finds."""
        return [*self.targets, target("spacegroup")]

    def labelled(self, atoms: Atoms) -> Atoms:
        """The primitive Niggli cell of a crystal, with its space group.

        Raises:
            VibronicError: it is no crystal, has more atoms than :data:`MAX_ATOMS`, or an element beyond fermium.
        """
        from vibronic.data.cells import reduced, symmetrised

        if not atoms.pbc.all():
            raise VibronicError(
                f"{atoms.symbols} is not periodic in three directions; only crystals can be learned here"
            )
        found = reduced(atoms)
        if self.symprec:
            labels = {t.name: label_of(found, t.name) for t in self.targets}
            found.info |= {name: value for name, value in labels.items() if value is not None}
            found = symmetrised(found, self.symprec)
        if len(found) > MAX_ATOMS:
            raise VibronicError(f"{atoms.symbols} has {len(found)} atoms in its primitive cell, more than {MAX_ATOMS}")
        if found.numbers.max() > CLASSES:
            raise VibronicError(f"{atoms.symbols} has an element beyond fermium (Z = {CLASSES})")
        found.info["spacegroup"] = matching.space_group(found) or 1
        return found

    def prepare(self, batch: Batch) -> None:
        super().prepare(batch)
        self.memory.prepare(Cells.from_batch(batch), self.values(batch), batch.labels["spacegroup"])

    def values(self, batch: Batch) -> Tensor:
        """(B, P) properties of a batch, in the precision of the model."""
        none = batch.cell.new_zeros(batch.n_structures, 0)
        return torch.cat([none, *(batch.labels[t.name][:, None].to(none.dtype) for t in self.targets)], 1)

    def own_scores(self, structures: Sequence[Atoms]) -> tuple[dict[str, float], dict[str, str]]:
        """The parts of the loss on unseen crystals, and the error of the estimate of their properties where there is one."""
        batches = [Batch.from_atoms(a, 0.0, labels_of(a, self.labels)) for a in structures]
        batch = Batch.collate(batches)
        figures = self.eval().loss(batch)
        scores = {f"loss_{k}": float(v.detach()) for k, v in figures.items() if k != "loss"}
        units = dict.fromkeys(scores, "1")
        if self.estimates:
            errors = (self.estimate(Cells.from_batch(batch)) - self.values(batch)).abs().mean(0)
            scores |= {f"mae_{t.name}": float(error) for t, error in zip(self.targets, errors, strict=True)}
            units |= {f"mae_{t.name}": t.unit for t in self.targets}
        return scores, units

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        raise VibronicError(f"{self.kind} makes crystals and predicts nothing of given ones; use 'vibronic generate'")

    def check(self, asked: Asked, guidance: float) -> None:
        """Refuse requests of a kind that the model was not trained for.

        Raises:
            VibronicError: says what it can be asked for.
        """

    def sample(
        self,
        species: Tensor,
        allowed: Tensor,
        asked: Asked,
        evaluations: int,
        guidance: float,
        generator: torch.Generator,
        progress: Progress,
        templates: Cells | None = None,
    ) -> tuple[Cells, Tensor]:
        """Crystals, as many as ``species`` has rows.

        Args:
            species: (B, N) atomic numbers where they are given, -1 where the model is to choose, 0 where there is no atom.
            allowed: (CLASSES,) which kinds of atoms the model may choose.
            asked: conditions of each crystal.
            evaluations: of the network, for each crystal.
            guidance: 1 takes the conditions as learned, more exaggerates them, 0 ignores them.
            generator: of all randomness.
            progress: told how many evaluations have been done.
            templates: crystals of as many atoms, whose symmetry and sites those sampled shall have; a model that is not
                ``symmetric`` takes no notice.

        Returns:
            The crystals, and the model's own estimate of their properties (B, P); NaN from a model that has none.
        """
        raise NotImplementedError

    def estimate(self, cells: Cells) -> Tensor:
        """The model's own estimate of the properties of crystals (B, P); NaN from a model that has none."""
        return torch.full((len(cells.numbers), len(self.targets)), torch.nan)

    def allowed(self, system: Sequence[int] | None = None) -> Tensor:
        """(CLASSES,) which classes may be chosen: the elements of training, or those of a chemical system."""
        numbers = self.elements.cpu() if system is None else torch.as_tensor(system)
        there = torch.zeros(CLASSES, dtype=torch.bool)
        there[numbers.long() - 1] = True
        return there
