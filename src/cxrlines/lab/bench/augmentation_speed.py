"""How fast augmentation is: the full `hotwater` list here, and the same list in albumentations."""

import dataclasses
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from cxrlines.augment.policy import Policy, make_policy
from cxrlines.lab.intact_films import picture

_COMPARED = ("albumentations_films_per_s_core", "speedup", "speedup_without_piecewise_affine")


def bench_augment(seconds: float = 10.0, size: int = 512) -> dict[str, Any]:
    """Measures one-channel films of `size` px through the full `hotwater` list on one core.

    Each side takes about `seconds`, half of them without the piecewise affine map. albumentations' map takes seconds a
    film: it is measured alone, and its mean cost counts by its probability. Speeds are per second of processor time, so
    that other work on the machine hardly counts.

    Gives `films_per_s_core`; `films_per_s`, the same by the clock; `albumentations_films_per_s_core`; `speedup`, the
    ratio of the two; `speedup_without_piecewise_affine`, that of the list less the map that takes nearly all of
    albumentations' time. The last three are None where albumentations is not installed; `note` says so then.
    """
    film = picture(np.random.default_rng(0), size, size)  # what is on it does not matter to the speed
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        policy, rng = make_policy("hotwater", size), np.random.default_rng(0)
        smooth = dataclasses.replace(policy, piecewise_affine=0.0)
        own, clock = _seconds_a_call(lambda: policy(film, rng), seconds / 2)
        own_rest = _seconds_a_call(lambda: smooth(film, rng), seconds / 2)[0]
        result: dict[str, Any] = {"films_per_s_core": 1 / own, "films_per_s": 1 / clock}
        try:
            rest, piecewise = oracle(policy)
        except ImportError:
            note = "albumentations is not installed: no speed to compare with (pip install albumentations==2.0.8)"
            return result | dict.fromkeys(_COMPARED) | {"note": note}
        their_rest = _seconds_a_call(lambda: rest(image=film), seconds / 2)[0]
        map_alone = _seconds_a_call(lambda: piecewise(image=film), seconds / 2)[0]
        theirs = their_rest + policy.piecewise_affine * map_alone
        compared = (1 / theirs, theirs / own, their_rest / own_rest)
        return result | dict(zip(_COMPARED, compared, strict=True)) | {"note": ""}
    finally:
        cv2.setNumThreads(threads)


def oracle(policy: Policy) -> tuple[Any, Any]:
    """The policy's list in albumentations 2.0.8: all but its piecewise affine map, and that map (always applied).

    `ImportError` where albumentations is not installed; only tests and measurements need it.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask its registry for news
    import albumentations as A

    p, size = policy, policy.size
    block = {"downscale": cv2.INTER_NEAREST_EXACT, "upscale": cv2.INTER_NEAREST_EXACT}
    sigma = tuple(variance**0.5 / 255 for variance in p.noise_variance)
    mesh = (p.piecewise_mesh, p.piecewise_mesh)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # two of the transforms are announced as slow or superseded
        distort = [
            A.OpticalDistortion(p.lens),
            A.GridDistortion(p.grid_steps, (-p.grid_limit, p.grid_limit)),
            A.ElasticTransform(p.elastic_alpha, p.elastic_sigma),
        ]
        degrade = [A.GaussNoise(sigma), A.GaussianBlur(p.blur_kernels[::2]), A.MotionBlur(7), A.MedianBlur(7)]
        rest = [
            A.RandomResizedCrop((size, size), scale=p.crop_area),
            A.HorizontalFlip(p=p.flip),
            A.ShiftScaleRotate(p.shift, p.scale, p.rotate, p=p.shift_scale_rotate),
            A.HueSaturationValue(0, 0, p.value_shift, p=p.value),
            A.RandomBrightnessContrast(p.brightness, p.contrast, p=p.brightness_contrast),
            A.CLAHE(p.clahe_clip, p=p.clahe),
            A.OneOf(distort, p=p.distort),
            A.OneOf(degrade, p=p.degrade),
            A.Resize(size, size),
            A.OneOf([A.ImageCompression(quality_range=p.jpeg_quality), A.Downscale(p.downscale, block)], p=p.coarsen),
            A.Sharpen(p.sharpen_alpha, p.sharpen_lightness, p=p.sharpen),
            A.CoarseDropout((p.cutout_holes,) * 2, (p.cutout_side,) * 2, (p.cutout_side,) * 2, p=p.cutout),
        ]
        return A.Compose(rest, seed=0), A.PiecewiseAffine(p.piecewise_scale, mesh, mesh, p=1.0)


def _seconds_a_call(call: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Mean seconds a call takes of processor time and of the clock, over about `seconds` and at least three calls."""
    call()  # set-up of the first call
    processor, clock, calls = time.process_time(), time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - clock < seconds:
        call()
        calls += 1
    return (time.process_time() - processor) / calls, (time.perf_counter() - clock) / calls
