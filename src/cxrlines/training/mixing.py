"""MixUp and CutMix: each film of a batch is mixed with the one before it, and so are their labels.

The order of a batch is drawn again in each epoch, so that the film before is one at random (torchvision's way). Share
and box are drawn for the whole batch from (seed, epoch, number of the batch) alone. Of several processes each is
handed, after its own films, the film before them: the mixture is that of one process.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cxrlines.training import distributed


class Mixing(NamedTuple):
    """The alphas of the Beta(alpha, alpha) distributions of MixUp's and CutMix's share; 0: never.

    With both above 0, each batch is mixed in one of the two ways, at even chances.
    """

    mixup: float = 0.0
    cutmix: float = 0.0


def mix(batch: Mapping[str, Any], mixing: Mixing, draw: tuple[int, int, int]) -> dict[str, Any]:
    """A batch of a process, mixed; `draw` is (seed, epoch, number of the batch).

    MixUp (Zhang et al. 2018): share * film + (1 - share) * film before, rounded to uint8. CutMix (Yun et al. 2019): a
    box of the film before is put into the film, its centre anywhere, cut off at the border; the share is the area left.
    All numbers of a film (labels, presence) are mixed by the share; what is unknown in one of both stays unknown. Soft
    labels count by their films' weights, so that the loss is the mixture of both films' weighted losses.
    """
    rng = np.random.default_rng([*draw, _STREAM])
    cut = mixing.cutmix > 0 and (not mixing.mixup or rng.random() < 0.5)
    alpha = mixing.cutmix if cut else mixing.mixup
    share = float(rng.beta(alpha, alpha))
    film = batch["film"]
    if cut:
        height, width = film.shape[-2:]
        rows, columns = _box(height, width, share, rng)
        share = 1 - len(rows) * len(columns) / film[0, 0].numel()
        mixed = _own(film).clone()
        box = (..., slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        mixed[box] = _before(film)[box]
    else:
        mixed = _between(film.float(), share).round().to(film.dtype)
    numbers = {name: value for name, value in batch.items() if name != "film" and value.is_floating_point()}
    done = {name: _own(value) for name, value in batch.items()} | {"film": mixed}
    done |= {name: _between(value, share) for name, value in numbers.items()}
    if "film_weights" in batch:
        ours, whole = share * _own(batch["film_weights"]), done["film_weights"]
        done["soft"] = _between(batch["soft"], torch.where(whole > 0, ours / whole, share)[:, None])
    return done


_STREAM = 0x6D6978
"""Parts the draws of mixtures from those of films, which are drawn from (seed, epoch, row)."""


def _own(values: Tensor) -> Tensor:
    """Of this process: all, or all but the last, which is another's."""
    return values[:-1] if distributed.world > 1 else values


def _before(values: Tensor) -> Tensor:
    """For each film of this process, what is of the film before it."""
    return _own(values.roll(1, 0))


def _between(values: Tensor, share: Tensor | float) -> Tensor:
    return share * _own(values) + (1 - share) * _before(values)


def _box(height: int, width: int, share: float, rng: np.random.Generator) -> tuple[range, range]:
    """Rows and columns of a box of the film's shape and 1 - `share` of its area, cut off at the border."""
    half = 0.5 * np.sqrt(1 - share)

    def cut(side: int) -> range:
        centre, reach = int(rng.integers(side)), int(half * side)
        return range(max(0, centre - reach), min(side, centre + reach))

    return cut(height), cut(width)
