"""Averages of a network's weights over the steps of its training, and batch norms that fit them."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm


class Average(nn.Module):
    """A running average of a model's weights and buffers; integer buffers are the latest.

    torch's AveragedModel keeps a count on the device and reads it at every update, and the processor waits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, share: float) -> None:
        """Move towards `model` by `share`; with 1 the average is the model.

        The share of an exponential moving average is 1 - decay; that of an equal mean, 1 / the number of models so far.
        """
        mine, theirs = (list(itertools.chain(one.parameters(), one.buffers())) for one in (self.module, model))
        pairs = list(zip(mine, theirs, strict=True))
        moved = [pair for pair in pairs if pair[0].is_floating_point() and share < 1]
        if moved:
            torch._foreach_lerp_([own for own, _ in moved], [new for _, new in moved], share)
        for own, new in pairs:
            if share >= 1 or not own.is_floating_point():
                own.copy_(new)


def moving_share(decay: float, step: int) -> float:
    """By how much an exponential moving average moves towards the weights after `step`, from 1 on.

    1 after the first; then at least 1 - `decay`, and 9 / (9 + step) as long as that is more, so that the first steps
    are forgotten however short the training: a new layer's are far from its last (as TensorFlow's
    ExponentialMovingAverage with `num_updates`).
    """
    return 1.0 if step == 1 else max(1 - decay, 9 / (9 + step))


def learning_norms(model: nn.Module) -> list[BatchNorm]:
    """The batch norms that keep running statistics of the batches they see: none that is frozen."""
    return [m for m in model.modules() if isinstance(m, BatchNorm) and m.training and m.track_running_stats]


@contextlib.contextmanager
def norms_kept(model: nn.Module) -> Iterator[None]:
    """Restore the running statistics of batch norms when the block ends: for a pass that is done twice."""
    buffers = [buffer for norm in learning_norms(model) for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def keep_finite(model: nn.Module) -> Callable[[], None]:
    """Note the running statistics of batch norms; the call returned puts back those that are not finite by then.

    In half precision a pass may overflow. The scaler then skips the step of the optimiser, but a running mean that is
    once infinite stays so. Nothing waits for a GPU.
    """
    buffers = [b for norm in learning_norms(model) for b in norm.buffers() if b.is_floating_point()]
    before = torch.cat(buffers) if buffers else None

    def restore() -> None:
        if before is not None:
            now = torch.cat(buffers)
            finite = torch.where(now.isfinite(), now, before)
            torch._foreach_copy_(buffers, finite.split([len(buffer) for buffer in buffers]))

    return restore


@torch.no_grad()
def estimate_norms(model: nn.Module, batches: Iterable[Any], show: Callable[[Any], object]) -> None:
    """Take new running statistics of a training model's batch norms: means over `batches`, each shown by `show`.

    What torch's `update_bn` does, but for what is frozen.
    """
    norms = learning_norms(model)
    if not norms:
        return
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # an equal mean over batches
    try:
        for batch in batches:
            show(batch)
    finally:
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
