"""How a network is trained, as plain values: what the command line shows without loading a training library."""

from dataclasses import dataclass
from typing import Literal

from vibronic.core.errors import VibronicError


@dataclass
class Training:
    """How networks are trained; the defaults suit a few hundred crystals on a laptop.

    Attributes:
        epochs: passes through the training set.
        batch_size: structures per step (per device).
        learning_rate: peak, after the warm-up.
        weight_decay: of AdamW.
        warmup: share of the steps before the peak.
        ema: decay of the averaged weights that are kept; 0 for none.
        clip: largest norm of the gradient; 0 for none.
        patience: validations without progress before stopping; 0 never stops early.
        validate_every: epochs between validations.
        schedule: of the learning rate after the warm-up; ``step`` halves it every ``step_epochs``, ``plateau`` takes 0.6 of it
            after 30 validations without progress, down to a tenth.
        optimizer: adamw, or the papers' adam.
        step_epochs: between halvings of the learning rate, with the schedule ``step``.
    """

    epochs: int = 100
    batch_size: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05
    ema: float = 0.99
    clip: float = 10.0
    patience: int = 0
    validate_every: int = 1
    schedule: Literal["cosine", "constant", "step", "plateau"] = "cosine"
    optimizer: Literal["adamw", "adam"] = "adamw"
    step_epochs: int = 200

    def __post_init__(self) -> None:
        """Refuse what cannot train, before anything is read."""
        for name in ("epochs", "batch_size", "learning_rate", "validate_every", "step_epochs"):
            if not 0 < getattr(self, name) < float("inf"):
                raise VibronicError(f"training.{name} must be positive, not {getattr(self, name)}")
        for name in ("weight_decay", "warmup", "clip", "patience"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise VibronicError(f"training.{name} must not be negative, nor infinite; it is {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise VibronicError(f"training.ema must be at least 0 and below 1, not {self.ema}")
