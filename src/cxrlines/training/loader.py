"""Films of a store as training batches.

What a film becomes depends on its `Key`, its row and the seed alone: not on the worker that loads it, not on what was
loaded before, so a run that was killed continues with exactly the batches it would have had. The view with the lines
drawn in is drawn onto the already warped film, at the size it is used: `film` and `overlay` share one draw of
the augmentation by construction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from cxrlines.augment.policy import Policy, make_policy
from cxrlines.core.heatmaps import STRIDE, DrawnLine, draw_maps
from cxrlines.core.line_drawing import draw_lines, draw_squares
from cxrlines.core.transform import Size
from cxrlines.io.store import Store
from cxrlines.task import DEVICE_COLOURS, DEVICE_OF, LABEL_COLOURS, MAPS, Landmark
from cxrlines.training.mixing import Mixing
from cxrlines.training.sampling import Key, repeat_factors

View = Literal["plain", "overlay"]

LINE_WIDTH = 1 / 128
"""Width of a drawn line as a share of the film's longer side: 4 px at 512."""
PREFETCH = 4
"""Batches that each process of a loader has ready or under way, so that slow films do not make a GPU wait."""
SQUARE = 1 / 55
"""Side of a drawn square as a share of the film's longer side: 9 px at 512. The published kernel draws 50 px into films
of 2,000 to 3,500 px before it shrinks and augments them; here squares are drawn after that, upright."""


@dataclass(frozen=True)
class Films:
    """The films of a stage: rows of the store, their labels, and their lines in px of the store's films.

    `rows` is (n,) int, `labels` (n, labels) float32 in label order, NaN where unknown. `landmarks` is
    (n, landmarks, 2) [x, y] px, NaN where unknown. `more` holds the data of targets by name, each (n, ...), among them
    `mapped` (which heatmaps are known), and `segmenter` (whose heatmaps are shown).
    """

    store: Store
    rows: np.ndarray
    labels: np.ndarray
    lines: Sequence[Sequence[DrawnLine]]
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    landmarks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(eq=False)
class FilmSet(Dataset[dict[str, Any]]):
    """Films augmented by the policy `augment` to `size`, by `Key`, each a dictionary of tensors; and batches.

    `film` is uint8 (1, h, w), `overlay` uint8 (3, h, w) and `maps` float16 (maps, h/2, w/2) where wanted, then labels
    and data of targets. A film of which no heatmap is known has no `maps`, unless its key asks for it. With
    `rare_below` an epoch has films with labels rarer than that more often. `mixing` is for whoever trains on a batch.
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
    draw: Literal["lines", "squares"] = "lines"
    rare_below: float | None = None
    mixing: Mixing | None = None

    @cached_property
    def policy(self) -> Policy:
        """How its films are augmented."""
        return make_policy(self.augment, self.size, flip=self.flip)

    @property
    def mapped(self) -> np.ndarray | None:
        """(films,) bool, of which films a map is known; None where maps are not wanted."""
        return np.any(self.films.more["mapped"], axis=1) if self.maps else None

    @cached_property
    def repeats(self) -> np.ndarray | None:
        """(films,) in which shares films are drawn; None where each comes once an epoch."""
        return None if self.rare_below is None else repeat_factors(self.films.labels, self.rare_below)

    def __getitem__(self, key: Key | tuple[int, int]) -> dict[str, Tensor]:
        epoch, position, draw, again = Key(*key)
        films, row = self.films, int(self.films.rows[position])
        maps = self.maps and (draw or bool(films.more["mapped"][position].any()))
        lines = films.lines[position] if self.overlay or maps else ()
        landmarks = np.full((len(Landmark), 2), np.nan) if films.landmarks is None else films.landmarks[position].copy()
        known = np.isfinite(landmarks).all(axis=1)
        rng = np.random.default_rng([self.seed, epoch, row, *([again] if again else [])])
        warped = self.policy(films.store.films[row], rng, points=[*(line.points for line in lines), landmarks[known]])
        *moved, landmarks[known] = warped.points
        drawn = [line._replace(points=points) for line, points in zip(lines, moved, strict=True)]
        sample = {"film": torch.from_numpy(warped.film[None]), "labels": torch.from_numpy(films.labels[position])}
        sample |= {name: torch.as_tensor(values[position]) for name, values in films.more.items()}
        if maps:
            # In half precision, which is half of what a loader hands over.
            truth = draw_maps(drawn, list(landmarks), warped.film.shape, np.float16)
            sample["maps"] = torch.from_numpy(truth)
        if self.overlay:
            image = overlay(warped.film, drawn, self.colour_by, self.draw)
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
    film: np.ndarray,
    lines: Sequence[DrawnLine],
    colour_by: Literal["label", "device"],
    draw: Literal["lines", "squares"] = "lines",
) -> np.ndarray:
    """`film` (h, w) uint8 as (h, w, 3) uint8 RGB, each line in the colour of its label or device.

    With `squares` each of its points is a filled square instead.
    """
    coloured = [
        (line.points, LABEL_COLOURS[line.label] if colour_by == "label" else DEVICE_COLOURS[DEVICE_OF[line.label]])
        for line in lines
    ]
    image = np.repeat(film[:, :, None], 3, axis=2)
    if draw == "squares":
        return draw_squares(image, coloured, side=max(2, round(max(film.shape) * SQUARE)))
    return draw_lines(image, coloured, thickness=max(1.5, max(film.shape) * LINE_WIDTH))


def load(
    films: FilmSet,
    batches: list[list[Key]],
    workers: int = 0,
    *,
    pin: bool = False,
    stay: bool = False,
    accumulate: int = 1,
) -> DataLoader[Any]:
    """Batches of films by `workers` processes, 0: in this one. The order is that of `batches`, whatever their number.

    With `accumulate` above 1 each is a list of so many equal parts.
    `pin` is for a GPU. With `stay` the processes live until the loader is dropped: where they are not forked (Python
    3.14), each is sent all targets and lines when it begins, and imports everything again.
    """
    return DataLoader(
        films,
        batch_sampler=batches,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        collate_fn=films.collate if accumulate == 1 else partial(_in_parts, films, accumulate),
        worker_init_fn=_begin,
        pin_memory=pin,
        persistent_workers=stay and workers > 0,
        generator=torch.Generator(),  # else it draws from the host's
    )


def _in_parts(films: FilmSet, accumulate: int, samples: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    size = len(samples) // accumulate
    return [films.collate(samples[start : start + size]) for start in range(0, len(samples), size)]


def _begin(worker: int) -> None:
    cv2.setNumThreads(1)  # a process a core


def in_order(
    films: FilmSet, batch: int, workers: int = 0, some: slice = slice(None), *, pin: bool = False, stay: bool = False
) -> DataLoader[dict[str, Any]]:
    """Every film (of `some`) once, in order, as epoch 0: for validation and prediction."""
    wanted = range(len(films.films))[some]
    keys = [[Key(0, i) for i in wanted[start : start + batch]] for start in range(0, len(wanted), batch)]
    return load(films, keys, workers, pin=pin, stay=stay)
