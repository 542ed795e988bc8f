"""Test-time augmentation: the other views of a film that its probabilities may be averaged over.

`flip` swaps left and right; `scale` shows the film at 0.9 and at 1.1 of its size, about its centre. Every view is
resampled once, from the prepared film.
"""

from collections.abc import Sequence

import numpy as np

from cxrlines.augment import warp
from cxrlines.reading.bundle import Bundle, BundleError
from cxrlines.reading.manifest import MANIFEST

VIEWS = ("flip", "scale")
SCALES = (0.9, 1.1)


def allowed_views(bundle: Bundle, tta: Sequence[str]) -> tuple[str, ...]:
    """The views named, each once, in the order of `VIEWS`.

    Raises:
        ValueError: another name. BundleError: a flip, unless the bundle's `meta["flip"]` is true: its models saw flips.
    """
    for name in tta:
        if name not in VIEWS:
            raise ValueError(f"no view is called {name!r}; test-time augmentation has {' and '.join(VIEWS)}")
    flip = bundle.manifest.meta.get("flip")
    if "flip" in tta and flip is not True:
        why = (
            "its models were trained without flips (meta.flip is false)"
            if flip is False
            else "it does not say that its models were trained with flips (meta.flip); `cxrlines bundle` packs it anew "
            "from its run and says so"
        )
        raise BundleError(
            f"{bundle.folder / MANIFEST}: {why}. A model that never saw a flipped film misreads one",
            "leave out the view 'flip'",
        )
    return tuple(name for name in VIEWS if name in tta)


def views(film: np.ndarray, size: int, tta: Sequence[str] = ()) -> np.ndarray:
    """A prepared film (h, w) uint8 as a model sees it: (views, size, size) uint8, the plain view first.

    Args:
        size: px a side of what the model sees.
        tta: any of `VIEWS`. With `flip` there is one view more, with `scale` two.
    """
    whole = warp.crop((0, 0, film.shape[1], film.shape[0]), size)
    seen = [warp.Warp(size, whole).resample(film)]
    if "flip" in tta:
        seen.append(seen[0][:, ::-1])
    if "scale" in tta:
        for scale in SCALES:
            matrix = whole @ warp.shift_scale_rotate(size, (0, 0), scale, 0)
            seen.append(warp.Warp(size, matrix).resample(film))
    return np.stack(seen)
