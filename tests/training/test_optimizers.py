"""Which optimiser moves what at which rate, against timm's own groups; and what is frozen."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

from cxrlines.core.errors import Error
from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.task import MAPS
from cxrlines.training.config import ScheduleSpec
from cxrlines.training.optimizers import Frozen, make_optimizer, set_rate


def network(**options) -> Classifier:
    torch.manual_seed(1)
    return Classifier("resnet10t", "gap", weights="none", **options)


def rates(model: Classifier, **schedule) -> dict[str, float]:
    """The learning rate of each parameter, where the schedule's is 1."""
    optimizer = make_optimizer(model, ScheduleSpec(**schedule))
    set_rate(optimizer, 1.0)
    of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: of[id(p)] for name, p in model.named_parameters()}


def test_without_rates_of_their_own_all_parameters_are_one_group():
    model = network(decoder="unet")
    (group,) = make_optimizer(model, ScheduleSpec()).param_groups
    assert all(one is other for one, other in zip(group["params"], model.parameters(), strict=True))


def test_rates_fall_with_depth_as_timm_has_them():
    full = timm.create_model("resnet10t", in_chans=1, num_classes=11)
    names = {id(parameter): name for name, parameter in full.named_parameters()}
    groups = param_groups_layer_decay(full, weight_decay=0, layer_decay=0.5)
    theirs = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    mine = rates(network(), layer_decay=0.5)
    assert mine["head.2.weight"] == theirs["fc.weight"] == 1 and len(set(mine.values())) > 4
    for name, rate in theirs.items():
        if not name.startswith("fc."):
            assert mine[f"backbone.net.{name}"] == rate, name


def test_head_and_decoder_have_a_rate_of_their_own():
    found = rates(network(decoder="unet"), head_lr=10)
    assert {name.split(".")[0]: rate for name, rate in found.items()} == {"backbone": 1, "head": 10, "decoder": 10}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "nadamw", "lion", "muon"])
def test_every_optimiser_moves_the_weights_downhill(name):
    model = network()
    optimizer = make_optimizer(model, ScheduleSpec(optimizer=name, lr=1e-4, weight_decay=0))
    x, before = torch.rand(4, 1, 32, 32), {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model.eval()(x).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    moved = [not torch.equal(p, before[name]) for name, p in model.named_parameters()]
    assert sum(moved) > 0.9 * len(moved), "a gradient of a thousandth may be lost in rounding"
    assert type(optimizer).__name__.lower() == name


def test_muon_moves_kernels_of_the_backbone_and_the_head_as_adamw():
    model = network()
    optimizer = make_optimizer(model, ScheduleSpec(optimizer="muon"))
    model(torch.rand(4, 1, 32, 32)).sum().backward()
    optimizer.step()
    by_muon = {name for name, p in model.named_parameters() if optimizer.state[p]["use_muon"]}
    assert "backbone.net.layer1.0.conv1.weight" in by_muon
    assert by_muon.isdisjoint({"head.2.weight", "head.2.bias", "backbone.net.bn1.weight"})


def test_momentum_is_the_usual_one_or_what_is_asked_for():
    for schedule, wanted in (
        ({"optimizer": "sgd"}, (0.9, False)),
        ({"optimizer": "sgd", "momentum": 0.5, "nesterov": True}, (0.5, True)),
        ({"optimizer": "muon"}, (0.95, False)),
    ):
        for group in make_optimizer(network(), ScheduleSpec(**schedule)).param_groups:
            assert (group["momentum"], group["nesterov"]) == wanted


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "nadamw"])
def test_a_step_is_one_kernel_where_torch_has_it(name):
    for fused in (True, False):
        optimizer = make_optimizer(network(), ScheduleSpec(optimizer=name), fused=fused)
        assert bool(optimizer.param_groups[0].get("fused")) == (fused and name != "nadamw")


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_what_is_frozen_takes_no_gradient_and_evaluates():
    model = network(dropout=0.5)
    frozen = Frozen(model, "backbone")
    frozen.hold(True)
    assert trained(model) == {"head.2.weight", "head.2.bias"}
    assert not any(module.training for module in model.backbone.modules())
    assert all(module.training for module in model.head.modules())
    frozen.hold(False)
    assert len(trained(model)) == len(list(model.parameters()))
    assert all(module.training for module in model.modules())


def test_patterns_name_layers_and_a_half_frozen_module_goes_on_training():
    model = network()
    Frozen(model, ("backbone.net.layer[12].*", "*.bn1.bias")).hold(True)
    held = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[2] for name in held} == {"layer1", "layer2", "layer3", "layer4", "bn1"}
    assert all(name.split(".")[2] in ("layer1", "layer2") or name.endswith("bn1.bias") for name in held)
    assert not model.backbone.net.layer1.training
    assert model.backbone.net.bn1.training, "its weight is trained"


def test_a_batch_norm_that_several_gpus_put_in_the_place_of_a_frozen_one_thaws_with_it():
    model = network()
    frozen = Frozen(model, "backbone.net.bn1")
    frozen.hold(True)
    before = model.backbone.net.bn1
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norm = model.backbone.net.bn1
    assert norm is not before and not norm.training and not norm.weight.requires_grad
    frozen.hold(False)
    assert norm.training and norm.weight.requires_grad
    frozen.hold(True)
    assert not norm.training and model.backbone.net.layer1.training


def test_of_two_steps_the_classifier_is_frozen_and_the_segmenter_stays_so():
    both = TwoStep(network(decoder="unet"), network(in_channels=1 + len(MAPS)))
    frozen = Frozen(both, "backbone")
    frozen.hold(True)
    assert trained(both) == {"classifier.head.2.weight", "classifier.head.2.bias"}
    frozen.hold(False)
    assert not trained(both.segmenter) and not both.segmenter.training


def test_a_pattern_of_nothing_and_one_of_everything_are_refused():
    with pytest.raises(Error, match=r"schedule.freeze: 'encoder' matches no parameter") as refused:
        Frozen(network(), ("head", "encoder"))
    assert "backbone, head" in refused.value.way_out and "backbone.net.conv1" in refused.value.way_out
    with pytest.raises(Error, match=r"schedule.freeze: \* leaves nothing to train"):
        Frozen(network(), "*")


def test_layers_that_timm_does_not_know_are_refused():
    model = network()
    model.backbone.net = torch.nn.Conv2d(1, 1, 1)
    with pytest.raises(Error, match=r"schedule.layer_decay: timm does not know the layers"):
        make_optimizer(model, ScheduleSpec(layer_decay=0.5))
