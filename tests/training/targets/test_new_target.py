"""A new target is one class: its spec, data, loss, text, price and code; nothing else changes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from cxrlines.models.classifier import Classifier
from cxrlines.task import LABELS
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.targets import TargetsSpec
from cxrlines.training.targets.base import BatchOutputs, FilmSource, FilmsSpec, Losses, Sums, Target, TargetData

from ..small_stages import noise_store

COUNT = 12


class LineCountTarget(Target):
    """Towards the number of annotated labels of a film, by squared error of the sum of probabilities."""

    key = "line_count"
    own_films = True
    lacking = "have no lines to count"
    needs_lines = True

    at_most: float = 3.0

    def data(self, films: FilmSource) -> TargetData:
        count = np.nansum(films.labels, axis=1, keepdims=True).clip(max=self.at_most)
        return TargetData({"line_count": count.astype(np.float32)})

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        error = torch.sigmoid(outputs.logits).sum(dim=1) - batch["line_count"][:, 0]
        return [(1.0, Sums.mean(error.square().sum(), len(error)))]

    def describe(self) -> tuple[str, str]:
        return f"line counts up to {self.at_most:g}", "MSE"


class Registry(TargetsSpec):
    line_count: LineCountTarget | None = None


class Source:
    """The table of a stage's films."""

    set = "own"
    labels = np.random.default_rng(1).integers(0, 2, (COUNT, len(LABELS))).astype(np.float32)
    annotated = np.ones(COUNT, bool)


def test_a_stage_learns_it_beside_the_labels() -> None:
    targets = Registry.model_validate({"line_count": {"weight": 0.5, "at_most": 2}, "labels": {"weight": 0.1}})
    assert [*targets.named] == ["labels", "line_count"] and targets.classifies and targets.needs_lines
    arrays = targets.line_count.data(Source()).arrays
    films = Films(noise_store(COUNT), np.arange(COUNT), Source.labels, [[]] * COUNT, arrays)
    torch.manual_seed(0)
    model = Classifier("resnet10t", "gap", weights="none")
    config = StageConfig(ScheduleSpec(epochs=20, batch=6, lr=3e-3), targets)
    stage = StageModule(model, config, FilmSet(films, "none", 32, seed=0), None, view="plain")
    stage.fit()
    losses = [row["loss"] for row in stage.progress.history]
    assert losses[-1] < 0.3 * losses[0]


def test_it_is_checked_described_and_hashed_like_the_others() -> None:
    target = LineCountTarget()
    with pytest.raises(ValueError, match=r"targets.line_count: films of the external set 'b' have no lines to count"):
        Registry(line_count=target).check(FilmsSpec(set="b"), {})
    with pytest.raises(ValueError, match="labels, features, soft, presence, maps, retrieval, soft_maps, line_count"):
        Registry().check(FilmsSpec(), {})
    assert target.describe() == ("line counts up to 3", "MSE")
    (part,) = target.code()
    assert part.file.endswith("test_new_target.py")
