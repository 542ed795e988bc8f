"""Films of a store as training batches.

What a film becomes depends on (seed, epoch, row) alone: not on the worker that loads it, not on what was loaded
before, so a run that was killed continues with exactly the batches it would have had. The view with the lines
drawn in is drawn onto the already warped film, at the size it is used: `film` and `overlay` share one draw of
the augmentation by construction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from cxrlines.augment.policy import Policy, make_policy
from cxrlines.core.heatmaps import STRIDE, draw_maps
from cxrlines.core.line_drawing import draw_lines
from cxrlines.core.transform import Size
from cxrlines.io.store import Store
from cxrlines.task import DEVICE_COLOURS, DEVICE_OF, LABEL_COLOURS, MAPS, Landmark
from cxrlines.training import distributed

View = Literal["plain", "overlay"]


class Key(NamedTuple):
    """A film as it is augmented in an epoch; `draw_maps` has its heatmaps drawn though none is known."""

    epoch: int
    position: int  # among the films of the stage
    draw_maps: bool = False


LINE_WIDTH = 1 / 128
"""Width of a drawn line as a share of the film's longer side: 4 px at 512."""


@dataclass(frozen=True)
class Films:
    """The films of a stage: rows of the store, their labels, and their lines in px of the store's films.

    `rows` is (n,) int, `labels` (n, labels) float32 in label order, NaN where unknown, `lines` for each film (label,
    (points, 2) xy). `landmarks` is (n, landmarks, 2) [x, y] px, NaN where unknown. `more` holds the data of targets by
    name, each (n, ...), among them `mapped` (which heatmaps are known), and `segmenter` (whose heatmaps are shown).
    """

    store: Store
    rows: np.ndarray
    labels: np.ndarray
    lines: Sequence[Sequence[tuple[str, np.ndarray]]]
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    landmarks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(eq=False)
class FilmSet(Dataset[dict[str, Any]]):
    """Films augmented by the policy `augment` to `size`, by `Key`, each a dictionary of tensors; and batches.

    `film` is uint8 (1, h, w), `overlay` uint8 (3, h, w) and `maps` float16 (maps, h/2, w/2) where wanted, then labels
    and data of targets. A film of which no heatmap is known has no `maps`, unless its key asks for it.
    """

    films: Films
    augment: str | Mapping[str, Any]
    size: Size
    _: KW_ONLY
    seed: int
    flip: bool = True
    overlay: bool = False
    maps: bool = False
    colour_by: Literal["label", "device"] = "label"

    @cached_property
    def policy(self) -> Policy:
        """How its films are augmented."""
        return make_policy(self.augment, self.size, flip=self.flip)

    @property
    def mapped(self) -> np.ndarray | None:
        """(films,) bool, of which films a map is known; None where maps are not wanted."""
        return np.any(self.films.more["mapped"], axis=1) if self.maps else None

    def __getitem__(self, key: Key | tuple[int, int]) -> dict[str, Tensor]:
        epoch, position, draw = Key(*key)
        films, row = self.films, int(self.films.rows[position])
        maps = self.maps and (draw or bool(films.more["mapped"][position].any()))
        lines = films.lines[position] if self.overlay or maps else ()
        landmarks = np.full((len(Landmark), 2), np.nan) if films.landmarks is None else films.landmarks[position].copy()
        known = np.isfinite(landmarks).all(axis=1)
        rng = np.random.default_rng([self.seed, epoch, row])
        warped = self.policy(films.store.films[row], rng, points=[*(points for _, points in lines), landmarks[known]])
        *moved, landmarks[known] = warped.points
        drawn = [(label, points) for (label, _), points in zip(lines, moved, strict=True)]
        sample = {"film": torch.from_numpy(warped.film[None]), "labels": torch.from_numpy(films.labels[position])}
        sample |= {name: torch.as_tensor(values[position]) for name, values in films.more.items()}
        if maps:
            truth = draw_maps(drawn, list(landmarks), warped.film.shape)
            sample["maps"] = torch.from_numpy(truth.astype(np.float16))  # half of what a loader hands over
        if self.overlay:
            image = overlay(warped.film, drawn, self.colour_by)
            sample["overlay"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return sample

    def collate(self, samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """A batch of films. What a GPU would make the processor wait for is looked up here.

        With maps, `rows` (m,) int64 names the films that have theirs in `maps` (m, maps, h/2, w/2), m from 0 on.
        `segmenter` becomes the films (k,) int64 of each segmenter, by its number.
        """
        plain = [{name: value for name, value in sample.items() if name != "maps"} for sample in samples]
        batch: dict[str, Any] = default_collate(plain)
        if self.maps:
            rows = [row for row, sample in enumerate(samples) if "maps" in sample]
            height, width = (side // STRIDE for side in samples[0]["film"].shape[-2:])
            batch["rows"] = torch.tensor(rows, dtype=torch.int64)
            batch["maps"] = torch.empty((len(rows), len(MAPS), height, width), dtype=torch.float16)
            for place, row in enumerate(rows):
                batch["maps"][place] = samples[row]["maps"]
        if "segmenter" in batch:
            which = batch["segmenter"]
            batch["segmenter"] = {index: (which == index).nonzero().flatten() for index in which.unique().tolist()}
        return batch


def overlay(
    film: np.ndarray, lines: Sequence[tuple[str, np.ndarray]], colour_by: Literal["label", "device"]
) -> np.ndarray:
    """`film` (h, w) uint8 as (h, w, 3) uint8 RGB, each line (label, points) in the colour of its label or device."""
    coloured = [
        (points, LABEL_COLOURS[label] if colour_by == "label" else DEVICE_COLOURS[DEVICE_OF[label]])
        for label, points in lines
    ]
    image = np.repeat(film[:, :, None], 3, axis=2)
    return draw_lines(image, coloured, thickness=max(1.5, max(film.shape) * LINE_WIDTH))


def epoch_batches(
    films: int,
    batch: int,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    stop: int | None = None,
    mapped: np.ndarray | None = None,
) -> list[list[Key]]:
    """The batches of one epoch from the `start`-th to before the `stop`-th, in an order drawn from (seed, epoch).

    Of several processes each has its part of every batch. With `mapped` (films,) bool, which films have a known
    heatmap, a batch that has none has those of its first film drawn all the same: every parameter of a decoder gets a
    gradient, there 0, in every step.
    """
    order = np.random.default_rng([seed, epoch]).permutation(films)
    batches = []
    for positions in [order[i * batch : (i + 1) * batch] for i in range(batches_per_epoch(films, batch))][start:stop]:
        none = mapped is not None and not mapped[positions].any()
        keys = [Key(epoch, int(position), none and not i) for i, position in enumerate(positions)]
        batches.append(keys[distributed.rank_slice(len(keys))] if distributed.world > 1 else keys)
    return batches


def batches_per_epoch(films: int, batch: int) -> int:
    """Whole batches only: a last one of a film or two would upset batch normalisation. At least one."""
    return max(1, films // batch)


def load(
    films: FilmSet,
    batches: list[list[Key]],
    workers: int = 0,
    *,
    pin: bool = False,
    stay: bool = False,
) -> DataLoader[dict[str, Any]]:
    """Batches of films by `workers` processes, 0: in this one. The order is that of `batches`, whatever their number.

    `pin` is for a GPU. With `stay` the processes live until the loader is dropped: where they are not forked (Python
    3.14), each is sent all targets and lines when it begins, and imports everything anew.
    """
    return DataLoader(
        films,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=films.collate,
        worker_init_fn=_begin,
        pin_memory=pin,
        persistent_workers=stay and workers > 0,
        generator=torch.Generator(),  # else it draws from the host's
    )


def _begin(worker: int) -> None:
    cv2.setNumThreads(1)  # a process a core


def in_order(
    films: FilmSet, batch: int, workers: int = 0, some: slice = slice(None), *, pin: bool = False, stay: bool = False
) -> DataLoader[dict[str, Any]]:
    """Every film (of `some`) once, in order, as epoch 0: for validation and prediction."""
    wanted = range(len(films.films))[some]
    keys = [[Key(0, i) for i in wanted[start : start + batch]] for start in range(0, len(wanted), batch)]
    return load(films, keys, workers, pin=pin, stay=stay)
