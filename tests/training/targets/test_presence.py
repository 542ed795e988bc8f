"""Presence of a device whose states exclude each other: it says whether one holds, and never which."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.task import DEVICE_OF, EXCLUSIVE, LABELS, MAPS, Device
from cxrlines.training.outputs import Outputs, total_loss
from cxrlines.training.targets import LabelTarget, PresenceTarget, TargetsSpec
from cxrlines.training.targets.presence import GROUPS, STATES, presence_loss

ETT = list(Device).index(Device.ETT)
SHARES = torch.tensor([0.30, 0.33, 0.37])


def scores_of(there: float, shares: torch.Tensor = SHARES) -> torch.Tensor:
    """Scores (1, labels) of a model that sees an ETT with this probability, and nothing else."""
    scores = torch.full((1, len(LABELS)), -30.0)
    scores[0, GROUPS[ETT]] = shares.log() + torch.logit(torch.tensor(there))
    return scores


def of_ett(value: float) -> torch.Tensor:
    """What is known of a film: whether it has an ETT."""
    known = torch.full((1, len(GROUPS)), torch.nan)
    known[0, ETT] = value
    return known


def loss_of(scores: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
    return presence_loss(scores, presence, GROUPS, STATES).value().sum()


def test_the_exclusive_states_are_those_of_the_exclusive_devices() -> None:
    assert [{DEVICE_OF[LABELS[i]] for i in states} for states in STATES] == [{device} for device in EXCLUSIVE]
    assert all(states in GROUPS for states in STATES)


def test_a_tube_that_is_surely_there_costs_nothing_however_unsure_its_state() -> None:
    scores = scores_of(0.9999)
    assert float(loss_of(scores, of_ett(1))) == pytest.approx(1e-4, rel=1e-3)
    assert float(loss_of(scores, of_ett(0))) == pytest.approx(-np.log(1e-4), rel=1e-3)
    states = torch.softmax(torch.cat((torch.zeros(1), scores[0, GROUPS[ETT]])), dim=0)[1:]
    noisy = float(presence_loss(torch.logit(states)[None], torch.ones(1, 1), [[0, 1, 2]]).value().sum())
    assert noisy == pytest.approx(0.350, abs=1e-3), "which the noisy-or of the same probabilities is not"


@pytest.mark.parametrize("there", [0.01, 0.75, 0.9999])
@pytest.mark.parametrize("known", [0.0, 1.0])
def test_presence_alone_says_nothing_of_which_state_it_is(there: float, known: float) -> None:
    start = scores_of(there)
    scores = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([scores], lr=1.0)
    before = float(loss_of(start, of_ett(known)))
    for _ in range(400):
        optimizer.zero_grad()
        loss_of(scores, of_ett(known)).backward()
        optimizer.step()
    moved = (scores - start).detach()
    assert (float(loss_of(scores, of_ett(known)).detach()) < before) and bool((moved[0, GROUPS[ETT]] != 0).all())
    torch.testing.assert_close(torch.softmax(scores.detach()[0, GROUPS[ETT]], dim=0), SHARES, rtol=0, atol=1e-4)
    others = [i for i in range(len(LABELS)) if i not in GROUPS[ETT]]
    assert not moved[0, others].any()


def test_an_exclusive_device_is_one_event_among_any() -> None:
    rng = np.random.default_rng(0)
    scores, presence = rng.normal(0, 2, (6, len(LABELS))), (rng.random((6, len(GROUPS))) < 0.5).astype(float)
    presence[1, ETT] = np.nan
    p, powers = 1 / (1 + np.exp(-scores)), np.exp(scores[:, GROUPS[ETT]])
    none = np.stack([np.prod(1 - p[:, group], axis=1) for group in GROUPS], axis=1)
    alone = 1 / (1 + powers.sum(axis=1))
    none[:, -1] *= alone / none[:, ETT]
    none[:, ETT] = alone
    terms = -(presence * np.log(1 - none) + (1 - presence) * np.log(none))
    assert float(loss_of(torch.tensor(scores), torch.tensor(presence))) == pytest.approx(np.nanmean(terms))


@pytest.mark.parametrize("score", [-100.0, -20.0, 20.0, 100.0])
def test_loss_and_slope_are_finite_however_sure_the_model_is(score: float) -> None:
    for known in (0.0, 1.0):
        scores = torch.full((2, len(LABELS)), score, requires_grad=True)
        loss = loss_of(scores, torch.full((2, len(GROUPS)), known))
        loss.backward()
        assert loss.isfinite() and scores.grad is not None and scores.grad.isfinite().all()
        if (score > 0) != known:
            assert scores.grad.all(), "a model that is sure of the wrong learns of it"


def network(**options) -> Classifier:
    torch.manual_seed(0)
    return Classifier("resnet10t", "gap", weights="none", **options)


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_stage_learns_presence_by_what_its_model_lets_exclude_each_other(exclusive: bool, steps: int) -> None:
    model = network(dropout=0.5, exclusive=exclusive, in_channels=1 if steps == 1 else 1 + len(MAPS))
    both = model if steps == 1 else TwoStep(network(decoder="unet"), model)
    targets = TargetsSpec(labels=LabelTarget(), presence=PresenceTarget())
    stage = SimpleNamespace(
        model=both, config=SimpleNamespace(targets=targets), teachers=[], segmenters=[], map_teachers=[], shown="film"
    )
    film = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    outputs = Outputs(stage, {"film": film})  # type: ignore[arg-type]
    presence = torch.ones(4, len(GROUPS))
    found = total_loss(PresenceTarget().losses(outputs, {"presence": presence}))
    assert torch.equal(outputs.logits, model.logits_of(outputs.scores)), "of one pass of the head, as dropout draws"
    p = torch.sigmoid(outputs.logits.double())
    none = torch.stack([(1 - p[:, group]).prod(dim=1) for group in GROUPS], dim=1)
    if exclusive:
        alone = 1 - p[:, GROUPS[ETT]].sum(dim=1)
        none[:, -1] *= alone / none[:, ETT]
        none[:, ETT] = alone
    wanted = functional.binary_cross_entropy(1 - none, presence.double())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
