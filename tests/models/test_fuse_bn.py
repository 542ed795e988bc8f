"""Batch norms folded: the same function in fewer steps, or nothing touched."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.reading.engines.pytorch import fuse_batch_norms

SIZE = 64


def trained(model: Any) -> Any:
    """Batch norms as after training: statistics and scales of their own, none of them 0 and 1."""
    random = torch.Generator().manual_seed(1)
    for norm in norms(model):
        for values, low, high in (
            (norm.running_mean, -0.2, 0.2),
            (norm.running_var, 0.5, 2.0),
            (norm.weight.data, 0.5, 1.5),
            (norm.bias.data, -0.2, 0.2),
        ):
            values.uniform_(low, high, generator=random)
    return model.eval()


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def lite(**options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier("tf_efficientnet_lite0", "gap", weights="none", **options)


@torch.inference_mode()
def said(model: Any, films: Tensor) -> list[Tensor]:
    return [model(films), *(model.features_and_maps(films)[1:] if getattr(model, "decoder", None) else ())]


@pytest.mark.parametrize(
    "make",
    [
        lambda: lite(decoder="unet", exclusive=True),
        lambda: lite(decoder="separable"),
        lambda: Classifier("resnet18", "attention", weights="none"),
        lambda: TwoStep(lite(decoder="unet"), lite(in_channels=10)),
    ],
    ids=["decoder", "separable", "attention", "two-step"],
)
def test_a_folded_model_says_the_same_of_other_films_at_other_sizes(make):
    model = trained(make())
    films = torch.rand((2, 1, 96, 96), generator=torch.Generator().manual_seed(2))
    before, count = said(model, films), len(norms(model))
    assert fuse_batch_norms(model, SIZE) == count > 0
    assert norms(model) == []
    for one, other in zip(before, said(model, films), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    assert fuse_batch_norms(model, SIZE) == 0  # again: nothing is left


class Shortcut(nn.Module):
    """A convolution whose output goes on beside its batch norm as well: no fold of it is the same function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 11, 3, bias=False)
        self.norm = nn.BatchNorm2d(11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (x + self.norm(x)).mean((2, 3))


class Twice(Shortcut):
    """A batch norm used after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(1, 11, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm(self.conv(x)) + self.norm(self.other(x))).mean((2, 3))


@pytest.mark.parametrize("kind", [Shortcut, Twice])
def test_a_model_that_cannot_be_folded_stays_as_it_was(kind):
    torch.manual_seed(0)
    model = trained(kind())
    films = torch.rand((2, 1, 32, 32))
    before, state = said(model, films), {name: value.clone() for name, value in model.state_dict().items()}
    assert fuse_batch_norms(model, SIZE) == 0
    assert model.state_dict().keys() == state.keys()
    assert all((value == state[name]).all() for name, value in model.state_dict().items())
    assert (said(model, films)[0] == before[0]).all()


def test_it_is_checked_in_full_precision_whatever_the_host_set_and_that_stays():
    """TF32, a GPU's default for convolutions, is off by 1e-3: then nothing would be folded."""
    model, seen = trained(lite()), []

    def look(*_: Any) -> None:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))

    model.register_forward_hook(look)
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        assert fuse_batch_norms(model, SIZE) > 0
        assert seen == [("highest", False)] * 2
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
