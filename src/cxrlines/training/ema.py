"""Exponential moving average of a model's weights."""

import copy
import itertools

import torch
from torch import nn


class EMA(nn.Module):
    """The exponential moving average of a model's weights and buffers; integer buffers are the latest.

    torch's AveragedModel keeps a count on the device and reads it at every update, and the processor waits.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, first: bool) -> None:
        """Move towards `model` by 1 - decay; with `first` become it."""
        mine, theirs = (list(itertools.chain(one.parameters(), one.buffers())) for one in (self.module, model))
        pairs = list(zip(mine, theirs, strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point() and not first]
        if moved:
            torch._foreach_lerp_([own for own, _ in moved], [new for _, new in moved], 1 - self.decay)
        for own, new in pairs:
            if first or not own.is_floating_point():
                own.copy_(new)
