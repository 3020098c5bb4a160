"""How a network is trained, as plain values: what the command line shows without loading a training library."""

from dataclasses import dataclass
from typing import Literal


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
        clip: largest norm of the gradient.
        patience: validations without progress before stopping; 0 never stops early.
        validate_every: epochs between validations.
        schedule: of the learning rate after the warm-up.
        optimizer: adamw, or the paper's adam.
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
    schedule: Literal["cosine", "constant"] = "cosine"
    optimizer: Literal["adamw", "adam"] = "adamw"
