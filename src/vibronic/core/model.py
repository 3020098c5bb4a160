"""Model: the contract that every network and every ridge keeps, so that training, storing and predicting know nothing
of what is inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, nn

from vibronic.core.batch import Batch
from vibronic.core.environments import FAR, Memory, novelty
from vibronic.core.errors import VibronicError
from vibronic.core.targets import Target

_NEUTRAL = {"charge": 0, "total_charge": 0, "net_charge": 0, "spin": 0, "multiplicity": 1, "mult": 1}
"""What files say of charge and spin, and what they say of a neutral closed shell."""


class Model(nn.Module):
    """A function from a :class:`Batch` to named predictions, in the units of its targets.

    Attributes:
        kind: name in the table of models (``vibronic models``).
        config: the keyword arguments that build an equal, untrained model; plain JSON values.
        targets: what the model predicts.
        cutoff: radius of the neighbour list it needs, Angstrom.
        elements: (n,) atomic numbers seen in training; a prediction for any other is refused.
        recipe: training settings that suit this kind, where the user leaves them at their defaults.
        turns: losses that are minimised in turn, each batch giving one step to each of them.
        predicts: names of the targets of a kind that leaves no choice.
        generates: whether it makes structures instead of predicting properties of given ones.
        distinct: whether it is to be shown equal crystals of a set only once.
        differentiable: whether its energy has derivatives, so that it gives forces without having learned them.
        remembers: whether it keeps the atomic environments of its training set, to tell what is unlike them.
        smooth: whether its predictions have two derivatives with respect to the positions.
        fitted: last names of the buffers that :meth:`prepare` fits to labels, beyond scales and references.
        surveyed: what :meth:`survey` of the structures to come gave, where :meth:`prepare` is to use it.
    """

    kind: ClassVar[str]
    recipe: ClassVar[dict[str, Any]] = {}
    turns: ClassVar[int] = 1
    predicts: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = False
    distinct: bool = False
    differentiable: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    smooth: ClassVar[bool] = True
    fitted: ClassVar[tuple[str, ...]] = ()
    surveyed: Tensor | None = None
    elements: Tensor
    seen: Tensor
    seen_numbers: Tensor
    reach: Tensor

    def __init__(self, config: dict[str, Any], targets: Sequence[Target], cutoff: float) -> None:
        super().__init__()
        self.config = {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}
        self.targets = list(targets)
        self.cutoff = cutoff
        self.register_buffer("elements", torch.zeros(0, dtype=torch.long))
        if self.remembers:
            self.register_buffer("seen", torch.zeros(0, 0))
            self.register_buffer("seen_numbers", torch.zeros(0, dtype=torch.long))
            self.register_buffer("reach", torch.tensor(FAR))

    @property
    def dtype(self) -> torch.dtype:
        """Precision that the model wants its batches in; a model without parameters to train is fitted in double."""
        return next((p.dtype for p in self.parameters()), torch.float64)

    @property
    def closed_form(self) -> bool:
        """Whether :meth:`prepare` alone fits the model: it has nothing that a training could change."""
        return not any(True for _ in self.parameters())

    @property
    def size(self) -> int:
        """How many numbers were fitted."""
        return sum(v.numel() for v in self.state_dict().values() if v.is_floating_point())

    def posterior(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Predictions, and by target the deviations (B, r) whose product with their transpose is the covariance (B, B) of the
        predictions of a batch, as far as the model itself can tell; None where it cannot."""
        return self(batch), None

    @property
    def misfit(self) -> dict[str, float]:
        """Target -> standard deviation of a label about the best fit of a model that has deviations; energies per atom."""
        return {}

    @property
    def labels(self) -> list[Target]:
        """What :meth:`loss` needs of every structure; the targets, where a model does not say otherwise."""
        return self.targets

    def labelled(self, atoms: Atoms) -> Atoms:
        """A structure of the user's as one with the :attr:`labels`, for models that learn from something derived."""
        return atoms

    def own_scores(self, structures: Sequence[Atoms]) -> tuple[dict[str, float], dict[str, str]]:
        """Scores on unseen structures beside those of the targets, and their units."""
        return {}, {}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Predictions by target name: (B, ...) per structure, (N, ...) per atom.

        A model that can tell how far a structure is from its training set adds ``novelty`` (B,), above 1 where it is
        farther than is usual within the set.
        """
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` (a scalar to minimise) and any figures worth logging, from the labels of the batch."""
        raise NotImplementedError

    def loss_in_turn(self, batch: Batch, turn: int) -> dict[str, Tensor]:
        """What the step of this turn minimises, as :meth:`loss`, for models of several ``turns``."""
        return self.loss(batch)

    def survey(self, batch: Batch) -> Tensor | None:
        """What unlabelled structures that are to be predicted tell a model before it is fitted, for :attr:`surveyed`; None where nothing."""
        return None

    def prepare(self, batch: Batch) -> None:
        """Set scales and references from the training set (and from nothing else) before the first step."""
        self.elements = torch.unique(batch.numbers)
        if self.remembers:
            memory = Memory(batch, self.elements, self.cutoff)
            self.seen, self.seen_numbers, self.reach = memory.points.float(), memory.numbers, memory.reach.float()

    def novelty(self, batch: Batch) -> Tensor | None:
        """(B,) how unlike the training set structures are, 1 at the edge of what is usual within it; None where it cannot tell."""
        if not self.remembers or not len(self.seen):
            return None
        return novelty(batch, self.elements, self.cutoff, self.seen, self.seen_numbers, self.reach)

    def forget(self, generator: torch.Generator) -> None:
        """Deal out anew what a closed-form fit found (:attr:`fitted`): it keeps its size and loses its meaning."""
        for name, numbers in self.named_buffers():
            if name.rpartition(".")[2] in self.fitted:
                order = torch.randperm(numbers.numel(), generator=generator)
                numbers.copy_(numbers.flatten()[order].view_as(numbers))

    def check_neutral(self, atoms: Atoms) -> None:
        """Refuse ions and open shells: no model here sees charge or spin, and would predict the neutral closed shell.

        A charge is ``charge``, ``total_charge`` or ``net_charge`` in ``info``, in capitals or not, or what
        ``initial_charges`` sum to (partial charges of a neutral structure sum to zero, but for their rounding). Unpaired
        electrons are ``spin``, or ``multiplicity`` or ``mult`` other than 1, and, of a molecule, ``initial_magmoms``. Those of a crystal are no more than the start of a calculation, and pass.

        Raises:
            VibronicError: one of them is not zero.
        """
        for name, value in atoms.info.items():
            neutral = _NEUTRAL.get(str(name).lower())
            if neutral is not None and (not isinstance(value, int | float | np.number) or value != neutral):
                raise _not_neutral(atoms, f"{name} {value}")
        if not abs(total := float(atoms.get_initial_charges().sum())) < 0.5:
            raise _not_neutral(atoms, f"initial charges that sum to {total:g}")
        if not atoms.pbc.any() and not (unpaired := float(np.abs(atoms.get_initial_magnetic_moments()).sum())) < 0.5:
            raise _not_neutral(atoms, f"initial magnetic moments of {unpaired:g} unpaired electrons")

    def check_elements(self, numbers: Tensor) -> None:
        """Refuse elements that the model never saw.

        Raises:
            VibronicError: names the elements.
        """
        unseen = set(numbers.tolist()) - set(self.elements.tolist())
        if unseen:
            from ase.data import chemical_symbols

            def names(values: set[int]) -> str:
                return ", ".join(chemical_symbols[z] for z in sorted(values))

            raise VibronicError(
                f"the model has never seen {names(unseen)}; it was trained on {names(set(self.elements.tolist()))} only"
            )


def _not_neutral(atoms: Atoms, what: str) -> VibronicError:
    return VibronicError(f"{atoms.symbols} has {what}, and the model knows neutral closed-shell structures only")
