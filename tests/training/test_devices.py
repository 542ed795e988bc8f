"""A training step of every target and head on a GPU that is not there: shapes and devices alone, by fake tensors.

A tensor left on the processor, or made there, is an error of this mode as it would be on a GPU.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.models import HEADS
from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.task import LABELS, MAPS
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.mixing import Mixing
from cxrlines.training.module import StageModule
from cxrlines.training.sampling import epoch_batches
from cxrlines.training.targets import (
    FeatureTarget,
    LabelTarget,
    MapTarget,
    PresenceTarget,
    SoftTarget,
    TargetsSpec,
)
from cxrlines.training.targets.base import Target
from cxrlines.training.targets.labels import balanced_weights

from .small_stages import noise_store

COUNT, SIZE = 6, 64


def config(ema: float | None = None, **targets: Target) -> StageConfig:
    return StageConfig(ScheduleSpec(epochs=1, batch=COUNT, lr=1e-3, ema=ema), TargetsSpec(**targets))


def film_set(**more: Any) -> FilmSet:
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, (COUNT, len(LABELS))).astype(np.float32)
    lines = [[DrawnLine(LABELS[0], rng.uniform(5, 60, (3, 2)))] for _ in range(COUNT)]
    marks = rng.uniform(5, 60, (COUNT, 1, 2))
    films = Films(noise_store(COUNT, side=72), np.arange(COUNT), targets, lines, more, marks)
    return FilmSet(films, "none", SIZE, seed=0, overlay=True, maps="mapped" in more)


def network(head: str = "gap", **options: Any) -> Classifier:
    return Classifier("resnet10t", head, weights="none", **options)


def labels(head: str, **options: Any) -> StageModule:
    weights = np.tile(balanced_weights(film_set().films.labels), (COUNT, 1))
    fit = config(0.9, labels=LabelTarget(class_weights="balanced"))
    return StageModule(network(head, **options), fit, film_set(positive_weight=weights), None, view="plain")


def mixed(mixing: Mixing) -> StageModule:
    stage = soft()
    stage.films = dataclasses.replace(stage.films, mixing=mixing, overlay=False)
    return stage


def by_loss(**spec: Any) -> StageModule:
    fit = config(labels=LabelTarget.model_validate(spec))
    return StageModule(network(), fit, film_set(), None, view="plain")


def soft() -> StageModule:
    films = film_set(soft=np.full((COUNT, len(LABELS)), 0.3, np.float32), film_weights=np.ones(COUNT, np.float32))
    return StageModule(network(), config(soft=SoftTarget(of="other")), films, None, view="plain")


def presence() -> StageModule:
    films = film_set(presence=np.array([[0, 1, np.nan, np.nan, 1]] * COUNT, np.float32))
    return StageModule(network(), config(presence=PresenceTarget()), films, None, view="plain")


def features() -> StageModule:
    fit = config(labels=LabelTarget(), features=FeatureTarget(of="teacher"))
    return StageModule(network(), fit, film_set(), None, view="plain", teacher=network(in_channels=3))


def maps(known: int) -> StageModule:
    mapped = np.zeros((COUNT, len(MAPS)), np.float32)
    mapped[:known] = 1
    fit = config(labels=LabelTarget(), maps=MapTarget())
    return StageModule(network(decoder="unet"), fit, film_set(mapped=mapped), None, view="plain")


def overlay() -> StageModule:
    fit = config(labels=LabelTarget())
    return StageModule(network(in_channels=3), fit, film_set(), None, view="overlay")


def two_step() -> StageModule:
    both = TwoStep(network(decoder="unet"), network(in_channels=1 + len(MAPS)))
    films = film_set(segmenter=np.arange(COUNT) % 3 - 1)
    fit = config(labels=LabelTarget())
    others = [network(decoder="unet"), network(decoder="unet")]
    return StageModule(both, fit, films, None, view="plain", segmenters=others)


STAGES = {
    **{f"labels, {head}": lambda head=head: labels(head) for head in HEADS},
    "labels, exclusive": lambda: labels("gap", exclusive=True),
    "soft": soft,
    "mixed": lambda: mixed(Mixing(mixup=1.0)),
    "cut": lambda: mixed(Mixing(cutmix=1.0)),
    "focal": lambda: by_loss(loss="focal", smoothing=0.1),
    "asymmetric": lambda: by_loss(loss="asymmetric"),
    "presence": presence,
    "features": features,
    "maps of some": lambda: maps(2),
    "maps of none": lambda: maps(0),
    "overlay": overlay,
    "two-step": two_step,
}


@pytest.fixture
def gpu(monkeypatch):
    """A way to put modules and tensors on a GPU, as fake ones: they have a shape, a type, a device, and no values."""
    mode = FakeTensorMode()
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)  # it is only traced
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(StageModule, "device", torch.device("cuda"))

    def fake(value: Tensor) -> Tensor:
        return mode.from_tensor(value).detach().to("cuda")

    def to(self: torch.nn.Module, *where: Any, **form: Any) -> torch.nn.Module:
        if form:
            return usual(self, *where, **form)
        for module in self.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(fake(parameter), parameter.requires_grad)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = fake(buffer)
        return self

    usual = torch.nn.Module.to
    for kind in (torch.nn.Module, StageModule):
        monkeypatch.setattr(kind, "to", to)
    return mode, fake


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("name", STAGES)
def test_a_step_mixes_no_devices_and_waits_for_nothing(gpu, name, precision):
    mode, fake = gpu
    stage = STAGES[name]()
    (keys,) = epoch_batches(COUNT, COUNT, seed=0, epoch=0, mapped=stage.films.mapped)
    batch = stage.films.collate([stage.films[key] for key in keys])
    # What would make the processor wait for a GPU (item, nonzero, a branch on a value) has no answer here, and raises.
    with mode, torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
        stage.to("cuda")
        stage.on_fit_start()
        there = tree_map_only(Tensor, fake, batch)
        loss = stage.training_step(there, 0)
        assert loss.device.type == "cuda" and loss.shape == () and loss.dtype == torch.float32
        if stage.average is not None:
            for share in (1.0, 0.1):
                stage.average.update(stage.model, share)
        stage.validation_step(there, 0)
        assert stage.scores[0].device.type == "cuda"


@pytest.mark.parametrize("name", ["labels, gap", "maps of some", "two-step", "features"])
def test_nor_does_a_step_of_several_passes(gpu, name):
    mode, fake = gpu
    stage = STAGES[name]()
    (keys,) = epoch_batches(COUNT, COUNT, seed=0, epoch=0, mapped=stage.films.mapped, accumulate=2)
    parts = [stage.films.collate([stage.films[key] for key in part]) for part in (keys[:3], keys[3:])]
    with mode, torch.no_grad():
        stage.to("cuda")
        stage.on_fit_start()
        loss = stage.training_step(tree_map_only(Tensor, fake, parts), 0)
        assert loss.device.type == "cuda" and loss.shape == ()


@pytest.mark.parametrize("name", ["labels, gap", "two-step", "features"])
def test_the_mode_does_find_what_is_left_on_the_processor(gpu, name):
    mode, fake = gpu
    stage = STAGES[name]()
    batch = stage.films.collate([stage.films[(0, place)] for place in range(COUNT)])
    with mode, torch.no_grad():
        stage.to("cuda")  # but not on_fit_start, so that teachers and other segmenters stay behind
        there = tree_map_only(Tensor, fake, batch)
        if "positive_weight" in batch:
            there["positive_weight"] = mode.from_tensor(batch["positive_weight"])
        with pytest.raises(Exception, match="device"):
            stage.training_step(there, 0)
