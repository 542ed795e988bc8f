"""The losses of an epoch, fetched from the device now and then, and watched for divergence."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cxrlines.core.errors import Error

MAX_SKIPPED = 30
"""Steps in a row whose loss is not finite, after which half precision is given up; its scaler skips a few at times."""
MIN_SCALE = 2.0**-20
"""Half precision is given up too when its scaler has come down to this, by 36 skipped steps from its 65,536."""


class DivergedError(Error):
    """The loss is not finite, and the model in training is spoilt. The state saved last is not."""


class LossLog:
    """Losses of an epoch's steps. `settings` names, in an error, what the losses come from."""

    def __init__(self, settings: str) -> None:
        self.settings = settings
        self.fresh: list[Tensor] = []  # still on the device
        self.losses: list[float] = []
        self.not_finite = 0  # in a row, up to the last

    def fetch(self, step_now: int, scaler: Any | None) -> None:
        """Fetch the losses since the last fetch. Only then the processor waits for a GPU, not in every step.

        Raises:
            DivergedError: a loss is not finite; in half precision, whose scaler skips such steps, many in a row.
        """
        if not self.fresh:
            return
        losses = torch.stack(self.fresh).tolist()
        self.fresh.clear()
        for step, loss in enumerate(losses, start=step_now - len(losses)):
            self.not_finite = 0 if math.isfinite(loss) else self.not_finite + 1
            if self.not_finite > (MAX_SKIPPED if scaler else 0):
                raise self._diverged(f"the loss became {loss} at step {step - self.not_finite + 1}")
        if scaler and scaler.get_scale() < MIN_SCALE:
            raise self._diverged(f"by step {step_now} most gradients were too large for 16 bits")
        self.losses += losses

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"{what} with {self.settings}",
            "lower schedule.lr, set schedule.clip, or use precision 32 (bf16 instead of 16, where the GPU has it)",
        )


def finite_mean(values: Sequence[float]) -> float:
    """The mean of what is finite of `values`, NaN where nothing is: a step that half precision skipped has no loss."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
