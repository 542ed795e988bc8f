"""Averages of weights are torch's own, and so are the running statistics of batch norms that are taken for them."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from cxrlines.training.weight_averaging import Average, estimate_norms, keep_finite, moving_share, norms_kept


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3))


@pytest.mark.parametrize("decay", [0.8, None], ids=["moving", "equal"])
def test_the_average_is_torchs_own(decay):
    model = network()
    mine = Average(model)
    theirs = AveragedModel(model, multi_avg_fn=decay and get_ema_multi_avg_fn(decay), use_buffers=True)
    for step in range(4):
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(torch.rand_like(tensor) if tensor.is_floating_point() else 1)
        mine.update(model, 1.0 if step == 0 else 1 - decay if decay else 1 / (step + 1))
        theirs.update_parameters(model)
    for name, tensor in theirs.module.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(mine.module.state_dict()[name], tensor, msg=lambda m, n=name: f"{n}: {m}")
            assert decay is None or torch.equal(mine.module.state_dict()[name], tensor), name
        else:
            assert mine.module.state_dict()[name] == model.state_dict()[name] == 4


def test_a_moving_average_forgets_the_first_step_of_a_short_training_and_then_keeps_its_decay():
    shares = [moving_share(0.998, step) for step in range(1, 954)]
    assert shares[0] == 1 and all(one > other for one, other in itertools.pairwise(shares))
    assert math.prod(1 - share for share in shares[1:]) < 1e-12  # with the decay alone .149
    assert moving_share(0.998, 10_000) == moving_share(0.998, 100_000) == pytest.approx(0.002)


def test_running_statistics_are_torchs_own_but_for_what_is_frozen():
    mine, batches = network().train(), [torch.rand(4, 1, 9, 9) for _ in range(3)]
    theirs = copy.deepcopy(mine)
    update_bn(batches, theirs)
    estimate_norms(mine, batches, mine)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[name], tensor), name
    assert mine[1].momentum == 0.1
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    mine[1].eval()
    estimate_norms(mine, batches[:1], mine)
    changed = {name for name, tensor in mine.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}


def test_norms_that_are_kept_learn_nothing_of_a_pass():
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with norms_kept(model):
        model(torch.rand(4, 1, 9, 9))
        assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_what_is_not_finite_of_norms_is_put_back_and_nothing_else():
    model, films = network().train(), torch.rand(4, 1, 9, 9)
    model(films)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    restore = keep_finite(model)
    with torch.no_grad():
        model[0].weight[1] = math.inf
    model(films)
    spoilt = model[1].running_mean.isfinite().logical_not()
    assert spoilt.tolist() == [False, True, False, False] and not model[4].running_var.isfinite().any()
    restore()
    for name in ("running_mean", "running_var"):
        assert torch.equal(model.state_dict()[f"1.{name}"][1], before[f"1.{name}"][1])
        assert not torch.equal(model.state_dict()[f"1.{name}"], before[f"1.{name}"])
        assert torch.equal(model.state_dict()[f"4.{name}"], before[f"4.{name}"])


def test_where_no_batch_norm_learns_nothing_is_shown():
    model, shown = network().train(), []
    for norm in (model[1], model[4]):
        norm.eval()
    estimate_norms(model, range(3), shown.append)
    estimate_norms(nn.Linear(2, 2).train(), range(3), shown.append)
    assert not shown
