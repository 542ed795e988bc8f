"""Batch norms fused into the convolutions before them: the same function in fewer passes over its feature maps.

Which convolution feeds which batch norm is seen as something passes through the network, whatever that is.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]
"""A convolution and the batch norm that it feeds."""


@contextlib.contextmanager
def watched(network: nn.Module) -> Iterator[list[Pair]]:
    """Each convolution with the batch norm that it feeds, where both are used once in the block; filled at its end."""
    last: list[tuple[Tensor, nn.Conv2d]] = []  # only the last output is held: together they are large
    fed: list[Pair] = []
    used: Counter[nn.Module] = Counter()

    def after(conv: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        last[:] = [(output, conv)]
        used[conv] += 1

    def before(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        fed.extend((conv, norm) for output, conv in last if output is inputs[0])
        used[norm] += 1

    hooks = [m.register_forward_hook(after) for m in network.modules() if isinstance(m, nn.Conv2d)]
    hooks += [m.register_forward_pre_hook(before) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    pairs: list[Pair] = []
    try:
        yield pairs
    finally:
        for hook in hooks:
            hook.remove()
    pairs += [(conv, norm) for conv, norm in fed if used[conv] == used[norm] == 1]


def fuse(network: nn.Module, pairs: list[Pair]) -> Callable[[], None]:
    """Fuse pairs of an evaluating network in place; returns what undoes it.

    Where a convolution feeds more than its batch norm, the network is another function afterwards: compare.
    """
    convolutions = [(conv, conv.weight, conv.bias) for conv, _ in pairs]
    norms = [
        (parent, name, child)
        for parent in network.modules()
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

    def undo() -> None:
        for conv, weight, bias in convolutions:
            conv.weight, conv.bias = weight, bias
        for parent, name, child in norms:
            setattr(parent, name, child)

    return undo


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Convolutions and products in float32: by default a GPU rounds what goes into them to TF32's 10 bits, 1e-3."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
