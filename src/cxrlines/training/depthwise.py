"""Depthwise convolutions of bf16 training on a processor: forward in bf16, gradients in 32 bits."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class DepthwiseIn32(TorchFunctionMode):
    """Within it the gradients of depthwise 2D convolutions under bf16 autocast are computed in 32 bits.

    oneDNN has no quick kernel for them in bf16: a training step of an EfficientNet on a processor with bf16
    instructions takes 1.6 times as long without (docs/experiments.md, "2026-11-30: bf16 on processors").
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        # PyTorch's and timm's layers give all seven arguments by position, (b, c, h, w) films and (c, 1, k, k) weights,
        # and stride, padding and dilation as tuples; a padding by name is left as it is.
        if func is torch.conv2d and len(args) == 7 and all(isinstance(option, tuple) for option in args[3:6]):
            weight, groups = args[1], args[6]
            if weight.shape[1] == 1 < groups and torch.is_autocast_enabled("cpu"):
                return _Depthwise.apply(*args)
        return func(*args, **(kwargs or {}))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_size = None if bias is None else list(bias.shape)
        ctx.options = options
        return torch.conv2d(x, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        wanted = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.convolution_backward(
            gradient.float(),
            x.float(),
            weight.float(),
            ctx.bias_size,
            stride,
            padding,
            dilation,
            False,
            [0, 0],
            groups,
            wanted,
        )
        like = x.dtype, weight.dtype, weight.dtype
        mine = [each.to(dtype) if want else None for each, dtype, want in zip(found, like, wanted, strict=True)]
        return (*mine, None, None, None, None)
