"""The decoder: from a backbone's feature maps to heatmaps of lines, tips and landmarks."""

import math
from collections.abc import Sequence

from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn
from torch.nn import functional

from cxrlines.core.errors import Error
from cxrlines.core.heatmaps import STRIDE
from cxrlines.task import MAPS

WIDTHS = (96, 48, 32, 16)
"""Channels of the decoder's blocks, from the smallest map up; U-Net's, made narrow: a line needs few."""
PRIOR = 0.01
"""An untrained decoder's probability everywhere: most of a film is no line (Lin et al., 2017, focal loss)."""


class MapDecoder(nn.Module):
    """A U-Net decoder on a backbone's pyramid.

    Args:
        channels: of the feature maps, largest map first.
        reductions: film px a px of each.
        maps: how many heatmaps.

    Raises:
        Error: a backbone without a pyramid, such as a plain transformer.
    """

    def __init__(self, channels: Sequence[int], reductions: Sequence[int], maps: int = len(MAPS)) -> None:
        super().__init__()
        if len(channels) < 3 or list(reductions) != sorted(set(reductions)):
            raise Error(
                f"backbone: its feature maps are at 1/{', 1/'.join(map(str, reductions))} of the film; a decoder of "
                "maps needs three or more, each smaller than the one before",
                "take a convolutional backbone, or leave out targets.maps",
            )
        blocks = len(channels) - 1
        widths = WIDTHS[-blocks:] if blocks <= len(WIDTHS) else (WIDTHS[0],) * (blocks - len(WIDTHS)) + WIDTHS
        self.net = UnetDecoder([1, *channels], widths, n_blocks=blocks)
        self.out = nn.Conv2d(widths[-1], maps, 3, padding=1)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, math.log(PRIOR / (1 - PRIOR)))

    def forward(self, film: Tensor, pyramid: Sequence[Tensor]) -> Tensor:
        """Logits (b, maps, h / 2, w / 2) for films (b, c, h, w) whose feature maps are `pyramid`."""
        maps = self.out(self.net([film, *pyramid]))
        size = (film.shape[2] // STRIDE, film.shape[3] // STRIDE)
        if maps.shape[2:] == size:
            return maps
        return functional.interpolate(maps, size, mode="bilinear", align_corners=False)
