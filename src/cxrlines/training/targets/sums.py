"""A loss as sums and counts that add up over films, divided once, by the count over all processes.

So a batch split over several processes has the loss and the gradient that it has on one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """A loss over some films as (terms,) tensors that add up over films: sum and count of each of its terms.

    The value over a whole batch is the mean of total / (count + smooth) over the terms whose `weight`, over the whole
    batch, is above 0. Where none is, it is 0. Most losses have one term, with `weight` = count.
    """

    total: "Tensor"
    count: "Tensor"
    weight: "Tensor"
    smooth: float = 0.0

    @classmethod
    def mean(cls, total: "Tensor", count: "Tensor | int") -> "Sums":
        """A plain mean of `count` things whose sum is `total`, both without dimensions."""
        counted = total.new_ones(1) * count
        return cls(total[None], counted, counted)

    def value(self) -> "Tensor":
        """The loss, if these sums are those of the whole batch."""
        import torch

        counts = self.weight > 0
        terms = torch.where(counts, self.total / torch.where(counts, self.count + self.smooth, 1.0), 0.0)
        return terms.sum() / counts.sum().clamp(min=1)


def total_loss(parts: Sequence[tuple[float, Sums]]) -> "Tensor":
    """The weighted sum of losses, each over the films of all processes; all of them must call it."""
    import torch

    from cxrlines.training import distributed

    rows = [torch.stack([sums.total, sums.count, sums.weight]) for _, sums in parts]
    whole = distributed.all_reduce_sum(torch.cat(rows, dim=1)).split([row.shape[1] for row in rows], dim=1)
    values = [
        weight * Sums(total, count, share, mine.smooth).value()
        for (weight, mine), (total, count, share) in zip(parts, whole, strict=True)
    ]
    return torch.stack(values).sum()
