"""Batch norms fused into the convolutions before them: the same function in fewer passes over its feature maps."""

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cxrlines.models.two_step import Model

CLOSE = 1e-4
"""Logits that differ by no more are the same: float32 rounds some 1e-6 of it away."""


@torch.inference_mode(False)
def fuse_batch_norms(model: Model, size: int) -> int:
    """Fuse a model's batch norms in place, as far as that changes nothing; returns how many.

    Which convolution feeds which batch norm is seen as a film of `size` px a side passes through. Its logits must stay
    the same, to `CLOSE`: else, as where a convolution feeds more than its batch norm, nothing is fused.

    Args:
        model: evaluating; on any device.
    """
    place = next(model.parameters(), None)
    if place is None:
        return 0
    film = torch.rand((1, 1, size, size), generator=torch.Generator().manual_seed(0)).to(place)
    with _in_float32():
        pairs, before = _pairs(model, film)
    convolutions = [(conv, conv.weight, conv.bias) for conv, _ in pairs]
    norms = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if any(child is norm for _, norm in pairs)
    ]
    for conv, norm in pairs:
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    for parent, name, child in norms:
        setattr(parent, name, getattr(child, "act", nn.Identity()))  # timm's batch norms end in an activation
    with _in_float32():
        after = _logits(model, film)
    if all(torch.allclose(one, other, rtol=CLOSE, atol=CLOSE) for one, other in zip(before, after, strict=True)):
        return len(pairs)
    for conv, weight, bias in convolutions:
        conv.weight, conv.bias = weight, bias
    for parent, name, child in norms:
        setattr(parent, name, child)
    return 0


@contextlib.contextmanager
def _in_float32() -> Iterator[None]:
    """Convolutions and products in float32: by default a GPU rounds what goes into them to TF32's 10 bits, 1e-3."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _pairs(model: Model, film: Tensor) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], list[Tensor]]:
    """Each convolution with the batch norm that it feeds, where both are used once; and the model's logits."""
    last: list[tuple[Tensor, nn.Conv2d]] = []  # only the last output is held: together they are large
    fed: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    used: Counter[nn.Module] = Counter()

    def after(conv: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        last[:] = [(output, conv)]
        used[conv] += 1

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        fed.extend((conv, norm) for output, conv in last if output is inputs[0])
        used[norm] += 1

    hooks = [m.register_forward_hook(after) for m in model.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        logits = _logits(model, film)
    finally:
        for hook in hooks:
            hook.remove()
    return [(conv, norm) for conv, norm in fed if used[conv] == used[norm] == 1], logits


@torch.no_grad()
def _logits(model: Model, film: Tensor) -> list[Tensor]:
    """A model's logits of a film, and those of its heatmaps if it has a decoder."""
    if getattr(model, "decoder", None) is None:
        return [model(film)]
    features, maps = model.features_and_maps(film)
    return [model.classify(features), maps]
