"""The learning rate at every step, against PyTorch's own schedulers."""

import itertools

import pytest
import torch

from cxrlines.training.config import ScheduleSpec, learning_rate


def torch_rates(scheduler: str, steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def ours(steps: int, **options: float) -> list[float]:
    schedule = ScheduleSpec(lr=0.1, end_lr=1e-4, **options)
    return [learning_rate(schedule, i, total=steps, per_epoch=10) for i in range(steps)]


def test_cosine_equals_torch():
    assert ours(50, shape="cosine") == pytest.approx(torch_rates("CosineAnnealingLR", 50, T_max=50, eta_min=1e-4))


def test_restarts_equal_torch():
    mine = ours(50, shape="restarts", restart_epochs=2)
    assert mine == pytest.approx(torch_rates("CosineAnnealingWarmRestarts", 50, T_0=20, eta_min=1e-4))


def test_warm_up_is_linear_then_the_shape_begins_at_its_peak():
    rates = ours(50, shape="cosine", warmup_epochs=1)
    assert rates[0] == pytest.approx(0.01)
    assert rates[5] == pytest.approx((0.01 + 0.1) / 2)
    assert rates[10] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))


def test_constant():
    assert set(ours(20, shape="constant")) == {0.1}


def test_a_warm_up_longer_than_the_stage_still_ends_at_the_peak():
    schedule = ScheduleSpec(lr=0.1, end_lr=0, shape="cosine", warmup_epochs=9)
    assert learning_rate(schedule, 4, total=5, per_epoch=10) == 0.1
