"""A step of micro-batches has the gradients of the whole batch: of labels some of which are unknown, and of maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cxrlines.core.errors import Error
from cxrlines.core.heatmaps import DrawnLine
from cxrlines.models.classifier import Classifier
from cxrlines.task import LABELS, MAPS
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.mixing import Mixing
from cxrlines.training.module import StageModule
from cxrlines.training.sampling import epoch_batches
from cxrlines.training.targets import LabelTarget, MapTarget, TargetsSpec

from .small_stages import noise_store

COUNT = 8
ONE_STEP = ScheduleSpec(epochs=1, batch=COUNT, lr=1.0, shape="constant", optimizer="sgd", momentum=0, weight_decay=0)
LABELS_ALONE = TargetsSpec(labels=LabelTarget())
LABELS_AND_MAPS = TargetsSpec(labels=LabelTarget(), maps=MapTarget())


def film_set(maps: bool = False) -> FilmSet:
    rng = np.random.default_rng(1)
    labels = rng.choice([0, 1, np.nan], (COUNT, len(LABELS))).astype(np.float32)
    labels[:3] = np.nan  # parts differ in how much is known
    lines = [[DrawnLine(LABELS[film % 3], rng.uniform(3, 37, (3, 2)))] for film in range(COUNT)]
    mapped = np.zeros((COUNT, len(MAPS)), np.float32)
    mapped[[1, 2, 5]] = 1
    more = {"mapped": mapped} if maps else {}
    films = Films(noise_store(COUNT), np.arange(COUNT), labels, lines, more, rng.uniform(3, 37, (COUNT, 1, 2)))
    return FilmSet(films, "none", 32, seed=0, maps=maps)


def stage(accumulate: int, targets: TargetsSpec = LABELS_ALONE, *, double: bool = True, **schedule) -> StageModule:
    torch.manual_seed(1)
    model = Classifier("resnet10t", "gap", weights="none", dropout=0.5, decoder="unet" if targets.reads_maps else None)
    fit = StageConfig(ONE_STEP.model_copy(update={"accumulate": accumulate, **schedule}), targets, seed=3)
    return StageModule(model.double() if double else model, fit, film_set(targets.reads_maps), None, view="plain")


def gradients(accumulate: int, targets: TargetsSpec) -> dict[str, torch.Tensor]:
    """Those of one step at a rate of 1, without batch norms and dropout: by how much the weights went down."""
    one = stage(accumulate, targets)
    one.model.eval()
    before = {name: weight.detach().clone() for name, weight in one.model.named_parameters()}
    after = one.fit()
    assert one.progress.history[0]["loss"] > 0 and one.finished and one.total == 1
    return {name: weight - after[name] for name, weight in before.items()}


@pytest.mark.parametrize("targets", [LABELS_ALONE, LABELS_AND_MAPS], ids=["labels", "maps"])
def test_its_gradients_are_those_of_one_pass(targets):
    whole, in_parts = gradients(1, targets), gradients(4, targets)
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-3
    for name, gradient in whole.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-6, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_both_passes_of_a_part_see_the_same_and_batch_norms_learn_of_one():
    one, logits, graphs = stage(4), [], []
    one.model.head.register_forward_hook(lambda module, given, out: logits.append(out.detach().clone()))
    one.model.backbone.register_forward_hook(lambda module, given, out: graphs.append((len(out), out.requires_grad)))
    one.fit()
    assert graphs == [(2, False)] * 4 + [(2, True)] * 4, "a graph holds a part of the batch"
    for first, second in zip(logits[:4], logits[4:], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(logits[0], logits[1])
    assert int(one.model.backbone.net.bn1.num_batches_tracked) == 4


def test_gradients_of_half_precision_are_scaled_alike():
    """What a scaler multiplies the loss by is in the gradients of every part."""
    one = stage(2)
    one.model.eval()
    parts = [one.films.collate([one.films[(0, place)] for place in part]) for part in np.split(np.arange(COUNT), 2)]
    found = []
    for scale in (1.0, 1024.0):
        one.model.zero_grad()
        loss = one.training_step(parts, 0)
        one.accumulated.backward(loss * scale)
        found.append(torch.cat([p.grad.flatten() for p in one.model.parameters()]) / scale)
    torch.testing.assert_close(*found)


def test_each_part_without_a_known_map_draws_one():
    mapped = np.zeros(COUNT, bool)
    mapped[0] = True
    (keys,) = epoch_batches(COUNT, COUNT, seed=0, epoch=0, mapped=mapped, accumulate=4)
    for part in (keys[start : start + 2] for start in range(0, COUNT, 2)):
        assert sum(mapped[key.position] or key.draw_maps for key in part) == 1
    assert [key.position for key in keys] == [key.position for key in epoch_batches(COUNT, COUNT, seed=0, epoch=0)[0]]


def test_fewer_films_than_a_batch_that_it_does_not_divide_are_refused():
    with pytest.raises(Error, match="3 micro-batches do not divide a batch of 8, all films there are"):
        stage(3, batch=12)


def test_each_micro_batch_is_mixed_by_a_share_of_its_own():
    one = stage(4)
    one.films = replace(one.films, mixing=Mixing(mixup=0.4))
    batch = one.films.collate([one.films[(0, place)] for place in (4, 5)])
    learnt, losses = [], one._losses

    def recorded(part):
        learnt.append(part["labels"])
        return losses(part)

    one._losses = recorded
    one.training_step([batch] * 4, 0)
    for place, labels in enumerate(learnt):
        torch.testing.assert_close(labels, one._mixed(batch, place)["labels"], rtol=0, atol=0, equal_nan=True)
    assert len({str(labels) for labels in learnt}) == len(learnt) == 4
