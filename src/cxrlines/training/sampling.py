"""Which films make the batches of an epoch, and in which order: drawn from (seed, epoch) alone.

Every process draws the whole epoch and takes its part of each batch.
"""

from typing import NamedTuple

import numpy as np

from cxrlines.training import distributed


class Key(NamedTuple):
    """A film as it is augmented in an epoch; `draw_maps` has its heatmaps drawn though none is known.

    A film that an epoch has more than once is augmented again each time: `again` counts from 0.
    """

    epoch: int
    position: int  # among the films of the stage
    draw_maps: bool = False
    again: int = 0


def epoch_batches(
    films: int,
    batch: int,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    stop: int | None = None,
    mapped: np.ndarray | None = None,
    repeats: np.ndarray | None = None,
    neighbour: bool = False,
    accumulate: int = 1,
) -> list[list[Key]]:
    """The batches of one epoch from the `start`-th to before the `stop`-th, in an order drawn from (seed, epoch).

    Of several processes each has its part of every batch; with `neighbour` its part is followed by the film before it
    in the whole batch (before the first: the last), with which its first film is mixed. With `mapped` (films,) bool,
    which films have a known heatmap, a batch that has none has those of its first film drawn all the same: every
    parameter of a decoder gets a gradient, there 0, in every step. `repeats` (films,) are the shares in which films
    are drawn; none: each film once. A batch in `accumulate` equal parts is all that for each part.
    """
    rng = np.random.default_rng([seed, epoch])
    order, again = rng.permutation(films), np.zeros(films, int)
    if repeats is not None:
        order, again = _drawn(repeats, rng)
    batches: list[list[Key]] = []
    for first in range(0, films, batch)[: batches_per_epoch(films, batch)][start:stop]:
        batches.append([])
        chosen = np.stack([order, again], axis=1)[first : first + batch]
        for part in np.split(chosen, accumulate):
            none = mapped is not None and not mapped[part[:, 0]].any()
            keys = [Key(epoch, int(at), none and not i, int(time)) for i, (at, time) in enumerate(part)]
            if distributed.world > 1:
                mine = distributed.rank_slice(len(keys))
                keys = keys[mine] + ([keys[mine.start - 1]] if neighbour else [])
            batches[-1] += keys
    return batches


def batches_per_epoch(films: int, batch: int) -> int:
    """Whole batches only: a last one of a film or two would upset batch normalisation. At least one."""
    return max(1, films // batch)


def repeat_factors(labels: np.ndarray, rare_below: float) -> np.ndarray:
    """How often each film is drawn against one without a rare label: (films,), 1 or more.

    The repeat-factor sampling of LVIS (Gupta, Dollar and Girshick 2019): the largest, over the labels a film has, of
    sqrt(`rare_below` / the label's frequency). `labels` is (films, labels), NaN where unknown.
    """
    known = np.isfinite(labels).sum(axis=0)
    frequency = np.nansum(labels, axis=0) / np.maximum(known, 1)
    factors = np.sqrt(rare_below / np.where(frequency > 0, frequency, rare_below))  # one that nobody has repeats none
    return np.maximum(1, np.where(labels > 0.5, factors, 1).max(axis=1))


def _drawn(repeats: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """As many films as there are, in shares of `repeats`, in a random order; and which time each comes, from 0.

    By systematic sampling: a film comes as often as is its share, rounded down or up.
    """
    count = len(repeats)
    edges = np.cumsum(repeats) / np.sum(repeats) * count
    places = np.searchsorted(edges, rng.random() + np.arange(count), side="right").clip(max=count - 1)
    again = np.arange(count) - np.searchsorted(places, places)
    order = rng.permutation(count)
    return places[order], again[order]
