"""What the networks of a stage make of a batch, for the losses."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from cxrlines.models.classifier import Classifier, Model, TwoStep


class BatchOutputs:
    """What the networks make of a batch of b films, in float32; the forward pass is run at once, the rest when read.

    With `maps` the heatmaps are learnt. A `TwoStep` model is shown those of the `segmenters` that the batch names.
    """

    def __init__(
        self,
        model: Model,
        batch: Mapping[str, Any],
        film: Tensor,
        *,
        maps: bool,
        teacher: Model | None,
        segmenters: Sequence[Classifier],
    ) -> None:
        self._model, self._batch, self._teacher = model, batch, teacher
        self._maps: Tensor | None = None
        if maps:
            assert isinstance(model, Classifier)  # one that is shown heatmaps learns none
            self._features, self._maps = model.features_and_maps(film, batch.get("rows"))
        elif isinstance(model, TwoStep) and "segmenter" in batch:
            self._features = model.features(film, _maps_by(segmenters, model, film, batch["segmenter"]))
        else:
            self._features = model.features(film)

    @cached_property
    def logits(self) -> Tensor:
        """(b, labels)."""
        return as_float32(self._model.classify(self._features))

    @cached_property
    def features(self) -> Tensor:
        """(b, channels, h/32, w/32): the last feature map before pooling."""
        return as_float32(self._features)

    @cached_property
    def teacher_features(self) -> Tensor:
        """The same of the frozen teacher, for the film with its lines drawn in."""
        assert self._teacher is not None  # a target that reads its features comes with one
        with torch.no_grad():
            return as_float32(self._teacher.features(self._batch["overlay"]))

    @cached_property
    def maps(self) -> Tensor:
        """Logits (m, maps, h/2, w/2) of the films `batch["rows"]`."""
        assert self._maps is not None  # read by a target with `reads_maps` alone
        return as_float32(self._maps)


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


def as_float32(values: Tensor) -> Tensor:
    """Values of 16 bits in 32: half precision is for a network; a loss sums over more pixels than it can count."""
    return values.float() if values.dtype.itemsize < 4 else values
