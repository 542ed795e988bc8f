"""The learning rate at every step, against PyTorch's own schedulers."""

import itertools
import math

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
    schedule = ScheduleSpec(lr=0.1, shape="constant")
    assert {learning_rate(schedule, step, total=20, per_epoch=10) for step in range(20)} == {0.1}


@pytest.mark.parametrize(("epochs", "warmup_epochs"), [(1, 1), (1, 5), (4, 5), (0.5, 9)])
def test_a_warm_up_as_long_as_the_stage_or_longer_takes_a_tenth_of_it_and_the_rate_falls_again(epochs, warmup_epochs):
    schedule, total = ScheduleSpec(lr=0.1, end_lr=1e-4, epochs=epochs, warmup_epochs=warmup_epochs), round(200 * epochs)
    rates = [learning_rate(schedule, i, total=total, per_epoch=200) for i in range(total)]
    assert rates[0] == pytest.approx(0.01) and rates.index(max(rates)) == total // 10 and max(rates) == 0.1
    rise, fall = rates[: total // 10 + 1], rates[total // 10 :]
    assert all(earlier < later for earlier, later in itertools.pairwise(rise))
    assert all(earlier > later for earlier, later in itertools.pairwise(fall))
    assert fall[-1] == pytest.approx(1e-4, abs=1e-4)


def test_a_stage_of_fewer_than_ten_steps_has_no_warm_up_as_long_as_itself():
    schedule = ScheduleSpec(lr=0.1, end_lr=0, epochs=0.5, warmup_epochs=9)
    rates = [learning_rate(schedule, i, total=5, per_epoch=10) for i in range(5)]
    assert rates[0] == 0.1 and rates[-1] < 0.02


def test_a_shorter_warm_up_is_taken_whole():
    """The rates of the formula, to the bit: the warm-up first, and the cosine over what is left."""
    for warmup, total in ((1, 50), (4.9, 50), (0.2, 50)):
        rates, steps = ours(total, warmup_epochs=warmup), round(10 * warmup)
        assert rates[:steps] == [0.1 * (0.1 + (1 - 0.1) * step / steps) for step in range(steps)]
        left = total - steps
        assert rates[steps:] == [1e-4 + (0.1 - 1e-4) * (1 + math.cos(math.pi * (i / left))) / 2 for i in range(left)]


def test_averaged_steps_have_a_rate_of_their_own():
    rates = ours(50, shape="cosine", swa_from=0.7, swa_lr=0.03)
    assert rates[:35] == ours(50, shape="cosine")[:35] and set(rates[35:]) == {0.03}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"batch": 16, "accumulate": 3},
            r"accumulate: 3 micro-batches do not divide batch: 16; allowed: 1, 2, 4, 8, 16",
        ),
        ({"momentum": 0.9}, "momentum and nesterov are of sgd and muon; optimizer is adam"),
        ({"optimizer": "lion", "nesterov": True}, "optimizer is lion: leave them out"),
        ({"optimizer": "sgd", "nesterov": True, "momentum": 0}, "nesterov needs a momentum above 0"),
        ({"freeze_epochs": 1}, "name what is frozen"),
        ({"swa_lr": 0.01}, "swa_lr is the rate from swa_from on"),
        ({"swa_from": 0.5, "ema": 0.9}, "leave one out"),
        ({"swa_from": 0.5, "patience": 3}, "leave either out"),
        ({"swa_from": 0.5, "keep": "best"}, "leave either out"),
        ({"keep": "best", "validate_films": 0}, "keep: best needs an AUC to watch"),
        (
            {"lr": 5e-7},
            "end_lr is 1e-06 and lr 5e-07: with shape: cosine the rate falls from lr to end_lr; make end_lr",
        ),
        (
            {"end_lr": 1e-3, "shape": "restarts", "restart_epochs": 1},
            "end_lr is 0.001 and lr 0.0005: with shape: restarts",
        ),
        (
            {"end_lr": 1e-5, "shape": "constant"},
            r"end_lr is 1e-05, but with shape: constant the rate stays at lr: leave it out \(it is 1e-06 then\)",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        ScheduleSpec(**fields)


def test_an_end_is_the_peak_at_most_where_the_rate_falls_to_it():
    assert ScheduleSpec(lr=1e-6).end_lr == 1e-6
    assert ScheduleSpec(lr=5e-7, shape="constant").lr == 5e-7


def test_what_is_idle_at_its_usual_value_is_no_fault():
    """A run's recipe.json names every field."""
    for fields in (
        {"shape": "constant"}, {"freeze": "backbone"}, {"freeze": "backbone", "freeze_epochs": 1, "layer_decay": 0.8},
        {"freeze": "head", "layer_decay": 0.8},
    ):  # fmt: skip
        schedule = ScheduleSpec.model_validate(fields)
        assert ScheduleSpec.model_validate_json(schedule.model_dump_json()) == schedule


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accumulate", 0), ("momentum", 1), ("layer_decay", 0), ("layer_decay", 1.1), ("head_lr", 0),
        ("freeze_epochs", 0), ("swa_from", 1), ("swa_lr", 0), ("keep", "first"), ("optimizer", "rmsprop"),
    ],
)  # fmt: skip
def test_bounds(field, value):
    with pytest.raises(ValueError, match=field):
        ScheduleSpec(**{field: value})
