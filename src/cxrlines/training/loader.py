"""Films of a store as training batches.

What a film becomes depends on (seed, epoch, row) alone: not on the worker that loads it, not on what was loaded
before, so a run that was killed continues with exactly the batches it would have had. The view with the lines
drawn in is drawn onto the already warped film, at the size it is used: `film` and `overlay` share one draw of
the augmentation by construction.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cxrlines.augment.policy import Policy
from cxrlines.data.lines import draw_lines
from cxrlines.data.maps import draw_maps
from cxrlines.data.store import Store
from cxrlines.task import DEVICE_COLOURS, DEVICE_OF, LABEL_COLOURS, Landmark

View = Literal["plain", "overlay"]
Key = tuple[int, int]
"""(epoch, position among the films of the stage)"""

LINE_WIDTH = 1 / 128
"""Width of a drawn line as a share of the film's side: 4 px at 512."""


@dataclass(frozen=True)
class Films:
    """The films of a stage: rows of the store, their targets, and their lines in px of the store's films.

    `rows` is (n,) int, `targets` (n, 11) float32 in label order, `lines` for each film (label, (points, 2) xy).
    `landmarks` is (n, landmarks, 2) [x, y] px, NaN where unknown. `more` holds further targets by name, each (n, ...):
    `soft` labels with their `film_weights`, `presence`, `mapped` (which of the 9 maps are known), and `segmenter`.
    """

    store: Store
    rows: np.ndarray
    targets: np.ndarray
    lines: Sequence[Sequence[tuple[str, np.ndarray]]]
    more: Mapping[str, np.ndarray] = field(default_factory=dict)
    landmarks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)


class FilmSet(Dataset[dict[str, Tensor]]):
    """Warped films by (epoch, position): `film` uint8 (1, S, S), `overlay` uint8 (3, S, S) and `maps` float16
    (9, S/2, S/2) where wanted, targets."""

    def __init__(
        self,
        films: Films,
        policy: Policy,
        *,
        seed: int,
        overlay: bool = False,
        maps: bool = False,
        colour_by: Literal["label", "device"] = "label",
    ) -> None:
        self.films, self.policy, self.seed, self.overlay, self.maps = films, policy, seed, overlay, maps
        self.colour_by = colour_by

    def __getitem__(self, key: Key) -> dict[str, Tensor]:
        cv2.setNumThreads(1)
        epoch, position = key
        row = int(self.films.rows[position])
        lines = self.films.lines[position] if self.overlay or self.maps else ()
        marks = self._landmarks(position)
        known = np.isfinite(marks).all(axis=1)
        rng = np.random.default_rng([self.seed, epoch, row])
        warped = self.policy(self.films.store.films[row], rng, points=[*(points for _, points in lines), marks[known]])
        labels = [label for label, _ in lines]
        *points, marks[known] = warped.points
        sample = {
            "film": torch.from_numpy(warped.film[None]),
            "targets": torch.from_numpy(self.films.targets[position]),
        }
        for name, values in self.films.more.items():
            sample[name] = torch.as_tensor(values[position])
        if self.maps:
            truth = draw_maps(list(zip(labels, points, strict=True)), list(marks), len(warped.film))
            sample["maps"] = torch.from_numpy(truth.astype(np.float16))  # half of what a loader hands over
        if self.overlay:
            drawn = overlay(warped.film, labels, points, self.colour_by)
            sample["overlay"] = torch.from_numpy(np.ascontiguousarray(drawn.transpose(2, 0, 1)))
        return sample

    def _landmarks(self, position: int) -> np.ndarray:
        """A copy of the film's landmarks, (landmarks, 2) px of the stored film, NaN where unknown."""
        if self.films.landmarks is None:
            return np.full((len(Landmark), 2), np.nan)
        return self.films.landmarks[position].copy()


def overlay(
    film: np.ndarray,
    labels: Sequence[str],
    points: Sequence[np.ndarray],
    colour_by: Literal["label", "device"],
) -> np.ndarray:
    """`film` (S, S) uint8 as (S, S, 3) uint8 RGB with each line drawn in the colour of its label or device."""
    colours = [LABEL_COLOURS[label] if colour_by == "label" else DEVICE_COLOURS[DEVICE_OF[label]] for label in labels]
    image = np.repeat(film[:, :, None], 3, axis=2)
    return draw_lines(image, list(zip(points, colours, strict=True)), thickness=max(1.5, len(film) * LINE_WIDTH))


class Batches(Sampler[list[Key]]):
    """The batches of one epoch from the `start`-th to before the `stop`-th, in an order drawn from (seed, epoch).

    `part` says which films of a batch are this process's, given how many it has; None means all.
    """

    def __init__(
        self,
        films: int,
        batch: int,
        *,
        seed: int,
        epoch: int,
        start: int = 0,
        stop: int | None = None,
        part: Callable[[int], slice] | None = None,
    ):
        order = np.random.default_rng([seed, epoch]).permutation(films)
        count = batches_per_epoch(films, batch)
        batches = [order[i * batch : (i + 1) * batch] for i in range(count)][start:stop]
        if part:
            batches = [positions[part(len(positions))] for positions in batches]
        self.batches = [[(epoch, int(position)) for position in positions] for positions in batches]

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def batches_per_epoch(films: int, batch: int) -> int:
    """Whole batches only: a last one of a film or two would upset batch normalisation. At least one."""
    return max(1, films // batch)


def in_order(films: FilmSet, batch: int, workers: int = 0, part: slice = slice(None)) -> DataLoader[dict[str, Tensor]]:
    """Every film (of `part`) once, in order, as epoch 0: for validation and prediction."""
    wanted = range(len(films.films))[part]
    keys = [[(0, i) for i in wanted[start : start + batch]] for start in range(0, len(wanted), batch)]
    return DataLoader(films, batch_sampler=keys, num_workers=workers)
