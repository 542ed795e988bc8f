"""How a stage is trained: its schedule, with the learning rate as a pure function of the step, targets and seed.

Importing it does not import torch, so that a recipe is checked in an instant.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cxrlines.core.errors import Error
from cxrlines.training.targets import LabelTarget, TargetsSpec
from cxrlines.training.targets.base import Strict

Report = Callable[[dict[str, Any]], None]
"""Called with a stage's progress: epoch, epochs, step, steps, films_per_s, loss, auc, seconds_left."""
Track = Callable[[dict[str, float], int], None]
"""Called with an epoch's figures (loss, lr, auc) and its number."""
Precision = Literal["32", "bf16", "16"]


WARMUP_FROM = 0.1
"""Share of the peak learning rate that a warm-up begins with."""


class ScheduleSpec(Strict):
    """On which schedule a stage trains. Epochs may be a fraction; learning rates are those of the optimiser's steps."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 5
    batch: Annotated[int, Field(ge=2, le=4096)] = 16
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: Annotated[float, Field(gt=0, le=1)] = 5e-4
    end_lr: Annotated[float, Field(ge=0, le=1)] = 1e-6
    shape: Literal["constant", "cosine", "restarts"] = "cosine"
    restart_epochs: Annotated[float, Field(gt=0)] | None = None
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    clip: Annotated[float, Field(gt=0)] | None = None  # largest norm of the gradient
    # auto: bf16 on a GPU that has it, 16 on an older one, 32 without. (YAML reads 16 as a number.)
    precision: Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)] = "auto"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the exponential moving average of the weights
    patience: Annotated[int, Field(ge=1)] | None = None  # early stopping: epochs without a better AUC
    validate_films: Annotated[int, Field(ge=0)] | None = None  # films of the live AUC; none: the whole fold

    @model_validator(mode="after")
    def _agrees(self) -> "ScheduleSpec":
        if (self.shape == "restarts") != (self.restart_epochs is not None):
            raise ValueError("shape: restarts and restart_epochs go together")
        if self.patience is not None and self.validate_films == 0:
            raise ValueError("patience needs an AUC to watch: leave validate_films out or make it larger than 0")
        return self


def learning_rate(schedule: ScheduleSpec, step: int, *, total: int, per_epoch: int) -> float:
    """The learning rate of optimiser step `step` (from 0) of `total`, of which `per_epoch` are an epoch.

    Linear warm-up from `WARMUP_FROM` of the peak over `warmup_epochs`; then `constant`, `cosine` from `lr` to `end_lr`
    over what is left, or `restarts`: the same cosine begun anew every `restart_epochs` (SGDR, Loshchilov and Hutter
    2017, with equal periods).
    """
    peak, end = schedule.lr, schedule.end_lr
    warmup = min(round(schedule.warmup_epochs * per_epoch), total - 1)
    if step < warmup:
        return peak * (WARMUP_FROM + (1 - WARMUP_FROM) * step / warmup)
    if schedule.shape == "constant":
        return peak
    period = max(1, round(schedule.restart_epochs * per_epoch)) if schedule.restart_epochs else total - warmup
    phase = (step - warmup) % period / period
    return end + (peak - end) * (1 + math.cos(math.pi * phase)) / 2


LABELS_ALONE = TargetsSpec(labels=LabelTarget())


@dataclass(frozen=True)
class StageConfig:
    """How one stage is trained."""

    schedule: ScheduleSpec
    targets: TargetsSpec = LABELS_ALONE
    seed: int = 0


def precision_of(schedule: ScheduleSpec) -> Precision:
    """`schedule.precision`; `auto` is bf16 on a GPU that computes in it, 16 on an older one, 32 without a GPU.

    `Error` for 16 without a GPU.
    """
    import torch

    gpu = torch.cuda.is_available()
    if schedule.precision == "16" and not gpu:
        raise Error("schedule.precision is 16, which needs a GPU", "use auto, 32 or bf16 here")
    if schedule.precision != "auto":
        return schedule.precision
    if not gpu:
        return "32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
