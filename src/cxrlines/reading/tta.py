"""Views of a film for test-time augmentation, as a bundle's reader shows them and a run's predictions over views do."""

from collections.abc import Sequence

import numpy as np

from cxrlines.augment import warp
from cxrlines.core.transform import Size

VIEWS = ("flip", "scale")
"""Test-time augmentation: other views of a film that its probabilities may be averaged over. `flip` swaps left and
right, `scale` shows it at the bundle's scales (default: `SCALES`) of its size, about its centre."""
SCALES = (0.9, 1.1)


def views(film: np.ndarray, size: Size, tta: Sequence[str] = (), scales: Sequence[float] = SCALES) -> np.ndarray:
    """A prepared film (h, w) uint8 as a model sees it: uint8 (views, h, w) of `size`, the plain view first.

    Args:
        size: of what the model sees.
        tta: any of `VIEWS`. With `flip` there is one view more, with `scale` one for each of `scales`.
    """
    whole = warp.crop((0, 0, film.shape[1], film.shape[0]), size)
    seen = [warp.Warp(size, whole).resample(film)]
    if "flip" in tta:
        seen.append(seen[0][:, ::-1])
    if "scale" in tta:
        for scale in scales:
            matrix = whole @ warp.shift_scale_rotate(size, (0, 0), scale, 0)
            seen.append(warp.Warp(size, matrix).resample(film))
    return np.stack(seen)
