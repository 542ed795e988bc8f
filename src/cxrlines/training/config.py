"""How a stage is trained: schedule, targets and seed; and who hears of its progress."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from cxrlines.core.errors import Error
from cxrlines.training.schedule import ScheduleSpec
from cxrlines.training.targets import LabelTarget, TargetsSpec

Report = Callable[[dict[str, Any]], None]
"""Called with a stage's progress: epoch, epochs, step, steps, films_per_s, loss, auc, seconds_left."""
Track = Callable[[dict[str, float], int], None]
"""Called with an epoch's figures (loss, lr, auc) and its number."""
Precision = Literal["32", "bf16", "16"]


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
    gpu = torch.cuda.is_available()
    if schedule.precision == "16" and not gpu:
        raise Error("schedule.precision is 16, which needs a GPU", "use auto, 32 or bf16 here")
    if schedule.precision != "auto":
        return schedule.precision
    if not gpu:
        return "32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "16"
