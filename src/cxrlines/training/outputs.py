"""What the networks of a stage make of a batch, and the loss that its targets make of that."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from cxrlines.models.classifier import Classifier, Model, TwoStep
from cxrlines.task import MAP_NAMES
from cxrlines.training import distributed
from cxrlines.training.config import StageConfig
from cxrlines.training.optimizers import reader
from cxrlines.training.targets.base import Losses, Sums
from cxrlines.training.targets.maps import kinds_of


class Networks(Protocol):
    """The networks of a stage: `shown` is what of a batch they see, `film` or `overlay`."""

    model: Model
    config: StageConfig
    teachers: list[Model]
    segmenters: list[Classifier]
    map_teachers: list[Classifier]
    shown: str


class Outputs:
    """What the networks of a stage make of a batch (`BatchOutputs`); the forward pass is run at once.

    A `TwoStep` model is shown the heatmaps of the segmenters that the batch names.
    """

    def __init__(self, stage: Networks, batch: Mapping[str, Any]) -> None:
        model, film = stage.model, batch[stage.shown]
        self._reader, self._batch, self._teachers = reader(model), batch, stage.teachers
        self._maps: Tensor | None = None
        self._map_teachers = stage.map_teachers
        self._maps_all = stage.config.targets.maps_all
        if stage.config.targets.reads_maps:
            assert isinstance(model, Classifier)  # one that is shown heatmaps learns none
            rows = None if self._maps_all else batch.get("rows")
            self._features, self._maps = model.features_and_maps(film, rows)
        elif isinstance(model, TwoStep) and "segmenter" in batch:
            self._features = model.features(film, _maps_by(stage.segmenters, model, film, batch["segmenter"]))
        else:
            self._features = model.features(film)

    @cached_property
    def _head(self) -> Tensor:
        return self._reader.head(self._features)  # once: dropout draws again for another pass

    @cached_property
    def logits(self) -> Tensor:
        return _as_float32(self._reader.logits_of(self._head))

    @cached_property
    def scores(self) -> Tensor:
        return _as_float32(self._head)

    @property
    def exclusive(self) -> bool:
        return self._reader.exclusive

    @cached_property
    def features(self) -> Tensor:
        return _as_float32(self._features)

    @cached_property
    def embedding(self) -> Tensor:
        return functional.normalize(self.features.mean(dim=(2, 3)))

    @cached_property
    def teacher_features(self) -> Tensor:
        with torch.no_grad():  # a target that reads its features comes with one
            return _as_float32(self._teachers[0].features(self._batch["overlay"]))

    @cached_property
    def maps(self) -> Tensor:
        return self.all_maps[self._batch["rows"]] if self._maps_all else self.all_maps

    @cached_property
    def all_maps(self) -> Tensor:
        assert self._maps is not None  # read by a target with `reads_maps` alone
        return _of_all(_as_float32(self._maps), self._reader.map_names)

    @property
    def map_kinds(self) -> tuple[str, ...]:
        return kinds_of(self._reader.map_names, *(teacher.map_names for teacher in self._map_teachers))

    @cached_property
    def teacher_maps(self) -> Tensor:
        film = self._batch["film"]
        with torch.no_grad():
            each = [
                _of_all(_as_float32(teacher.features_and_maps(film)[1]).sigmoid(), teacher.map_names)
                for teacher in self._map_teachers
            ]
        return each[0] if len(each) == 1 else torch.stack(each).mean(dim=0)


def _of_all(maps: Tensor, names: Sequence[str]) -> Tensor:
    """The heatmaps `names` (b, maps, h, w) with all others in `task.MAPS` order; those are 0."""
    if len(names) == len(MAP_NAMES):
        return maps
    none = torch.zeros_like(maps[:, 0])
    return torch.stack([maps[:, names.index(name)] if name in names else none for name in MAP_NAMES], dim=1)


@torch.no_grad()
def _maps_by(segmenters: Sequence[Classifier], model: TwoStep, film: Tensor, films_of: Mapping[int, Tensor]) -> Tensor:
    """Heatmaps (b, maps, h/2, w/2) of films; segmenter k gives those of the rows `films_of[k]`, -1 the model's own."""
    parts = {
        index: torch.sigmoid((model.segmenter if index < 0 else segmenters[index]).features_and_maps(film[rows])[1])
        for index, rows in films_of.items()
    }
    some = next(iter(parts.values()))
    maps = some.new_zeros((len(film), *some.shape[1:]))
    for index, rows in films_of.items():
        maps[rows] = parts[index]
    return maps


def _as_float32(values: Tensor) -> Tensor:
    """Values of 16 bits in 32: half precision is for a network; a loss sums over more pixels than it can count."""
    return values.float() if values.dtype.itemsize < 4 else values


def stacked(parts: Losses) -> Tensor:
    """Total, count and weight of all terms of losses, (3, terms): what adds up over films."""
    return torch.cat([torch.stack([sums.total, sums.count, sums.weight]) for _, sums in parts], dim=1)


def loss_of(parts: Losses, sums: Tensor) -> Tensor:
    """The weighted sum of the losses `parts`, of which `sums` (3, terms) are those over the films of this process.

    Each is taken over the films of all processes; all of them must call it.
    """
    whole = distributed.all_reduce_sum(sums) if distributed.world > 1 else sums
    split = whole.split([len(mine.total) for _, mine in parts], dim=1)
    values = [
        weight * Sums(total, count, share, mine.smooth).value()
        for (weight, mine), (total, count, share) in zip(parts, split, strict=True)
    ]
    return torch.stack(values).sum()


def total_loss(parts: Losses) -> Tensor:
    """The weighted sum of losses, each over the films of all processes; all of them must call it."""
    return loss_of(parts, stacked(parts))
