"""How fast augmentation is: the full `hotwater` list here, and the same list in albumentations."""

import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np

from cxrlines.augment.policy import Policy, make_policy
from cxrlines.core.heatmaps import draw_maps
from cxrlines.lab.intact_films import picture
from cxrlines.task import LABELS

_NOT_INSTALLED = "albumentations is not installed: no speed to compare with (pip install albumentations==2.0.8)"
_COMPARED = ("albumentations_films_per_s_core", "speedup", "speedup_without_piecewise_affine")


def bench_augment(seconds: float = 10.0, size: int = 512) -> dict[str, Any]:
    """The speed of one-channel films of `size` px through the full `hotwater` list on one core.

    Both sides take turns of ten films, for about twice `seconds` of processor time, so that what else the machine does
    slows both alike. albumentations' piecewise affine map takes seconds a film: it is measured alone, three times, and
    its mean cost counts by its probability. Speeds are per second of processor time.

    Gives `films_per_s_core`; `films_per_s`, the same by the clock; `annotated`, how many times as long as a film takes
    one with four lines of 16 points that move with it, its heatmaps drawn, under the same draws;
    `albumentations_films_per_s_core`; `speedup`, the ratio of the two; `speedup_without_piecewise_affine`, that of the
    list less the map that takes nearly all of albumentations' time. The last three are None where albumentations is not
    installed; `note` says so then.
    """
    film = picture(np.random.default_rng(0), size, size)  # what is on it does not matter to the speed
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        policy = make_policy("hotwater", size)
        smooth = dataclasses.replace(policy, piecewise_affine=0.0)
        calls: list[Callable[[], object]] = [partial(policy, film, np.random.default_rng(0)), _annotated(policy, film)]
        try:
            oracle_rest, oracle_map = (partial(transform, image=film) for transform in oracle(policy))
        except ImportError:
            return _own_speed(_seconds_a_call(calls, seconds)) | dict.fromkeys(_COMPARED) | {"note": _NOT_INSTALLED}
        calls += [partial(smooth, film, np.random.default_rng(0)), oracle_rest]
        took = _seconds_a_call(calls, 2 * seconds)
        ((map_alone, _),) = _seconds_a_call([oracle_map], 0, turn=3)
    finally:
        cv2.setNumThreads(threads)
    (own, _), _, (own_rest, _), (their_rest, _) = took
    theirs = their_rest + policy.piecewise_affine * map_alone
    compared = (1 / theirs, theirs / own, their_rest / own_rest)
    return _own_speed(took) | dict(zip(_COMPARED, compared, strict=True)) | {"note": ""}


def _own_speed(took: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """The figures of our own list, from seconds a film and a film with annotations took."""
    (own, clock), (annotated, _) = took[:2]
    return {"films_per_s_core": 1 / own, "films_per_s": 1 / clock, "annotated": annotated / own}


def _annotated(policy: Policy, film: np.ndarray) -> Callable[[], np.ndarray]:
    """What augments a film (h, w) uint8 with four lines and a carina, and draws its heatmaps (maps, h/2, w/2)."""
    size, draws, rng = film.shape, np.random.default_rng(1), np.random.default_rng(0)
    across = draws.uniform(0.2, 0.8, 4) * size[1]
    lines = [np.stack([x + draws.normal(0, 4, 16), np.linspace(0, size[0] / 2, 16)], axis=1) for x in across]
    carina = np.array([[size[1] / 2, size[0] / 2]])

    def augmented() -> np.ndarray:
        *moved, (place,) = policy(film, rng, [*lines, carina]).points
        return draw_maps(list(zip(LABELS, moved, strict=False)), [place], size, np.float16)

    return augmented


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


def _seconds_a_call(calls: Sequence[Callable[[], object]], seconds: float, turn: int = 10) -> list[tuple[float, float]]:
    """Mean seconds each call takes of processor time and of the clock, over about `seconds` of processor time in all.

    They are made by turns, `turn` times each; at least one turn.
    """
    for call in calls:
        call()  # set-up of the first call
    start, turns = time.process_time(), 0
    spent = np.zeros((len(calls), 2))
    while not turns or time.process_time() - start < seconds:
        for i, call in enumerate(calls):
            before = time.process_time(), time.perf_counter()
            for _ in range(turn):
                call()
            spent[i] += time.process_time() - before[0], time.perf_counter() - before[1]
        turns += 1
    return [(processor, clock) for processor, clock in (spent / (turns * turn)).tolist()]
