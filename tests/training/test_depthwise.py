"""Depthwise convolutions of bf16 training on a processor."""

from contextlib import nullcontext

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.autograd import grad

from cxrlines.models.classifier import Classifier
from cxrlines.training import module
from cxrlines.training.depthwise import DepthwiseIn32, _Depthwise
from cxrlines.training.loader import FilmSet
from cxrlines.training.module import StageModule

from .test_module import config, films

LAYERS = {
    "plain": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False),
    "bias": lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "stride and dilation": lambda: nn.Conv2d(6, 6, 5, stride=2, padding=(4, 2), dilation=2, groups=6),
    "two a channel": lambda: nn.Conv2d(6, 12, 3, groups=6),
    "padded as TensorFlow does": lambda: Conv2dSame(6, 6, 5, stride=2, groups=6),
}


def run(layer: nn.Module, x: Tensor, *, bf16: bool, mode: bool) -> tuple[Tensor, list[Tensor]]:
    """What a layer gives, and the gradients of its input and parameters."""
    with DepthwiseIn32() if mode else nullcontext(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = layer(x)
    weights = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    return out.detach(), list(grad((out.float() * weights).sum(), [x, *layer.parameters()]))


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_are_those_of_bf16_and_gradients_nearer_to_those_of_32_bits(name):
    torch.manual_seed(0)
    layer, x = LAYERS[name](), torch.randn(2, 6, 20, 18, requires_grad=True)
    out, found = run(layer, x, bf16=True, mode=True)
    usual, theirs = run(layer, x, bf16=True, mode=False)
    _, exact = run(layer, x, bf16=False, mode=False)
    assert out.dtype == torch.bfloat16 and torch.equal(out, usual)
    for mine, other, true in zip(found, theirs, exact, strict=True):
        assert mine.dtype == torch.float32 and mine.shape == true.shape
        error = (mine - true).norm()
        assert error < 0.02 * true.norm() and error <= 1.01 * (other - true).norm()


def test_all_else_is_left_as_it_is():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 9, 9, requires_grad=True)
    named = nn.Conv2d(6, 6, 3, padding="same", groups=6)
    dense, grouped = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3, groups=2)
    for layer, bf16 in ((dense, True), (grouped, True), (named, True), (LAYERS["bias"](), False)):
        with DepthwiseIn32(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = layer(x)
        assert out.grad_fn is not None and "Depthwise" not in out.grad_fn.name()
        out.float().sum().backward()


def test_what_is_frozen_gets_no_gradient():
    layer = LAYERS["bias"]()
    layer.weight.requires_grad_(False)
    with DepthwiseIn32(), torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(1, 6, 5, 5)).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad.tolist() == pytest.approx([25.0] * 6)


def test_every_depthwise_convolution_of_a_network_is_one(monkeypatch):
    net, calls = timm.create_model("tf_efficientnet_lite0", num_classes=3).eval(), []
    real = _Depthwise.backward
    monkeypatch.setattr(_Depthwise, "backward", lambda ctx, given: (calls.append(1), real(ctx, given))[1])
    run(net, torch.rand(1, 3, 64, 64, requires_grad=True), bf16=True, mode=True)
    assert len(calls) == sum(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in net.modules()) == 16


@pytest.mark.parametrize(
    ("schedule", "used"),
    [
        ({"precision": "bf16"}, True),
        ({"precision": "32"}, False),
        ({"precision": "bf16", "compile": True}, False),
        ({"precision": "bf16", "checkpoint_gradients": True}, False),  # they are computed again outside of it
    ],
)
def test_training_in_bf16_without_a_gpu_uses_it(monkeypatch, schedule, used):
    entered = []

    class Seen(DepthwiseIn32):
        def __enter__(self):
            entered.append(1)
            return super().__enter__()

    monkeypatch.setattr(module, "DepthwiseIn32", Seen)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    network = Classifier("mobilenetv3_small_050", "gap", weights="none")
    StageModule(network, config(**schedule), FilmSet(films(6), "none", 32, seed=0), None, view="plain").fit()
    assert bool(entered) is used
