"""How a stage is fitted, in numbers, and who is told of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cxrlines.training.schedule import Shape

Report = Callable[[dict[str, Any]], None]
"""Told where a stage is: epoch, epochs, step, steps, films_per_s, loss, auc, seconds_left."""
Track = Callable[[dict[str, float], int], None]
"""Told an epoch's figures: loss, lr, auc, and which epoch it was."""


@dataclass(frozen=True)
class StageConfig:
    """How one stage is fitted; the fields of a recipe's schedule and targets, resolved to numbers."""

    epochs: float
    batch: int
    lr: float
    end_lr: float = 1e-6
    shape: Shape = "cosine"
    warmup_epochs: float = 0.0
    restart_epochs: float = 0.0
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 1e-6
    clip: float | None = None
    precision: Literal["32", "bf16", "16"] = "32"
    ema: float | None = None
    patience: int | None = None
    label_weight: float = 1.0
    feature_weight: float = 0.0
    soft_weight: float = 0.0
    presence_weight: float = 0.0
    maps_weight: float = 0.0
    seed: int = 0

    @property
    def classifies(self) -> bool:
        """Whether a loss needs the labels' logits."""
        return bool(self.label_weight or self.soft_weight or self.presence_weight)
