"""A step of several micro-batches: the gradients of a whole batch, in the memory of a part of it.

A loss is divided by counts over the whole batch, and Dice sums overlap and sizes over it: the mean of the losses of
parts would be another loss. So the parts are passed twice. The first time, without gradients, their sums are added
up, and the loss of the whole is taken from them; the second time each part's sums go backward with the slope that this
loss has in them. That is exact for every loss of sums, and costs a forward pass (Gao et al., 2021, "Scaling deep
contrastive learning batch size under memory limited setup"). Batch norm takes its statistics over a part.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from cxrlines.training.outputs import loss_of, stacked
from cxrlines.training.targets.base import Losses
from cxrlines.training.weight_averaging import norms_kept

Parts = Sequence[Mapping[str, Any]]
"""A batch in parts."""


class Accumulated:
    """The loss of a batch in `parts`, from a first pass over them.

    `losses` are those of a part, `draw` is called with its place before each of its two passes: dropout then draws the
    same. Of several processes each has its films of every part, and all must do the same.
    """

    def __init__(
        self, model: nn.Module, parts: Parts, losses: Callable[[Mapping[str, Any]], Losses], draw: Callable[[int], None]
    ) -> None:
        self._parts, self._losses, self._draw = parts, losses, draw
        with torch.no_grad(), norms_kept(model):
            terms = [self._terms(place) for place in range(len(parts))]
        self._sums = torch.stack([stacked(part) for part in terms]).sum(dim=0).requires_grad_()
        self.loss: Tensor = loss_of(terms[0], self._sums)

    def backward(
        self,
        loss: Tensor,
        *,
        in_forward: Callable[[], AbstractContextManager[Any]] = nullcontext,
        in_backward: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Add the gradients of `loss`, which is `self.loss` or, for half precision, a multiple.

        `in_forward` and `in_backward` are the contexts of a forward and of a backward pass.
        """
        loss.backward()
        for place in range(len(self._parts)):
            with in_forward():
                sums = stacked(self._terms(place))
            with in_backward():
                sums.backward(self._sums.grad)

    def _terms(self, place: int) -> Losses:
        self._draw(place)
        return self._losses(self._parts[place])
