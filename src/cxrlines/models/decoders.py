"""Decoders of heatmaps: what reads a backbone's feature maps, from the smallest up, into heatmaps of lines and points.

`unet` joins the feature maps by full convolutions and makes about half of a small backbone's work in all. `separable`
adds them, as a feature pyramid network does, and has depthwise-separable convolutions: about a sixth of that work.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from timm.layers import SeparableConvNormAct
from torch import Tensor, nn
from torch.nn import functional

from cxrlines.core.errors import Error
from cxrlines.core.heatmaps import STRIDE
from cxrlines.core.text import did_you_mean
from cxrlines.models import DECODERS
from cxrlines.task import MAPS

UNET_WIDTHS = (96, 48, 32, 16)
"""Channels of the blocks, from the smallest map up; U-Net's, made narrow: a line needs few."""
SEPARABLE_WIDTHS = (128, 64, 32, 24)
"""Likewise; wider where a channel costs little."""
PRIOR = 0.01
"""An untrained decoder's probability everywhere: most of a film is no line (Lin et al., 2017, focal loss)."""
OUT = "decoder.out.weight"
"""The weights of a decoder's last layer, (maps, ...), by their name in a classifier's state."""


class MapDecoder(nn.Module):
    """A decoder on a backbone's pyramid.

    Args:
        kind: one of `models.DECODERS`.
        channels: of the feature maps, largest map first.
        reductions: film px a px of each.
        maps: how many heatmaps.

    Raises:
        Error: an unknown kind, or a backbone without a pyramid, such as a plain transformer.
    """

    def __init__(self, kind: str, channels: Sequence[int], reductions: Sequence[int], maps: int = len(MAPS)) -> None:
        super().__init__()
        if kind not in DECODERS:
            allowed = f"take one of: {', '.join(DECODERS)}{did_you_mean(kind, DECODERS)}"
            raise Error(f"decoder: {kind!r} is unknown", allowed)
        if len(channels) < 3 or list(reductions) != sorted(set(reductions)):
            raise Error(
                f"backbone: its feature maps are at 1/{', 1/'.join(map(str, reductions))} of the film; a decoder of "
                "maps needs three or more, each smaller than the one before",
                "take a convolutional backbone, or leave out targets.maps",
            )
        blocks = len(channels) - 1
        usual = UNET_WIDTHS if kind == "unet" else SEPARABLE_WIDTHS
        widths = usual[-blocks:] if blocks <= len(usual) else (usual[0],) * (blocks - len(usual)) + usual
        self.net: nn.Module
        if kind == "unet":
            self.net = UnetDecoder([1, *channels], widths, n_blocks=blocks)
            self.out = nn.Conv2d(widths[-1], maps, 3, padding=1)
        else:
            self.net = SeparableDecoder(channels, widths)
            self.out = nn.Conv2d(widths[-1], maps, 1)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, film: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """Logits (b, maps, h / 2, w / 2) for films (b, c, h, w) whose feature maps are `pyramid`."""
        maps = self.out(self.net([film, *pyramid]))
        size = (film.shape[2] // STRIDE, film.shape[3] // STRIDE)
        if maps.shape[2:] == size:
            return maps
        return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def last_layer(
    mine: Mapping[str, Tensor], maps: Sequence[str], theirs: Mapping[str, Tensor], their_maps: Sequence[str]
) -> dict[str, Tensor]:
    """The last layer of a decoder of the heatmaps `maps`, by name in a classifier's state.

    `theirs` of the heatmaps that both have, else `mine`.
    """
    return {
        part: torch.stack(
            [
                theirs[part][their_maps.index(name)] if name in their_maps else mine[part][place]
                for place, name in enumerate(maps)
            ]
        )
        for part in (OUT, OUT.replace("weight", "bias"))
    }


def begun_anew(maps: Sequence[str], their_maps: Sequence[str]) -> list[str]:
    """A line on `last_layer` for the record: which heatmaps the other decoder has not; none where it has all."""
    new = [name for name in maps if name not in their_maps]
    return [f"decoder: heatmaps that begin anew: {', '.join(new)}"] if new else []


class SeparableDecoder(nn.Module):
    """A feature pyramid (Lin et al., 2017, Feature pyramid networks) with two depthwise-separable convolutions a level.

    Args:
        channels: of the feature maps, largest map first.
        widths: channels of each level but the smallest, from the next larger map up.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        smallest, *larger = channels[::-1]
        before = (smallest, *widths)
        # Narrowed before they are enlarged: the same sums, at a quarter of the work.
        self.narrow = nn.ModuleList([nn.Conv2d(a, b, 1) for a, b in zip(before, widths, strict=False)])
        self.lateral = nn.ModuleList([nn.Conv2d(a, b, 1) for a, b in zip(larger, widths, strict=True)])
        self.blocks = nn.ModuleList(
            [nn.Sequential(SeparableConvNormAct(width, width), SeparableConvNormAct(width, width)) for width in widths]
        )

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Features (b, widths[-1], h, w) of the size of the largest map, of a film and its feature maps (unused, and
        largest first, as `UnetDecoder` takes them)."""
        _, *larger, x = levels
        for narrow, lateral, block, level in zip(self.narrow, self.lateral, self.blocks, larger[::-1], strict=True):
            x = functional.interpolate(narrow(x), level.shape[2:], mode="nearest") + lateral(level)
            x = block(x)
        return x
