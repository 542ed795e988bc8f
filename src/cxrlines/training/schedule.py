"""Learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math
from typing import Literal

Shape = Literal["constant", "cosine", "restarts"]


def learning_rate(
    step: int,
    *,
    total: int,
    per_epoch: int,
    peak: float,
    end: float,
    shape: Shape,
    warmup_epochs: float = 0.0,
    warmup_from: float = 0.1,
    restart_epochs: float = 0.0,
) -> float:
    """The learning rate of optimiser step `step` (from 0) of `total`.

    Linear warm-up from `warmup_from * peak` over `warmup_epochs`; then `constant`, `cosine` from `peak` to `end`
    over what is left, or `restarts`: the same cosine begun anew every `restart_epochs` (SGDR, Loshchilov and Hutter
    2017, with equal periods).
    """
    warmup = min(round(warmup_epochs * per_epoch), total - 1)
    if step < warmup:
        return peak * (warmup_from + (1 - warmup_from) * step / warmup)
    if shape == "constant":
        return peak
    period = total - warmup if shape == "cosine" else max(1, round(restart_epochs * per_epoch))
    phase = (step - warmup) % period / period
    return end + (peak - end) * (1 + math.cos(math.pi * phase)) / 2
