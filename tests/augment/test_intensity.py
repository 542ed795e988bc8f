"""Each change of grays equals albumentations' with the same parameters."""

import os
import random

import cv2
import numpy as np
import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A
from albumentations.augmentations.blur.functional import create_motion_kernel

from cxrlines.augment import intensity


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    """Smooth, with grain, all grays, not square."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.uniform(-30, 285, (6, 7)), (160, 144), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def furthest(one: np.ndarray, other: np.ndarray) -> int:
    assert one.dtype == other.dtype == np.uint8 and one.shape == other.shape
    return int(np.abs(one.astype(int) - other).max())


def test_no_change_of_tone_is_the_identity():
    assert (intensity.tone_table() == np.arange(256)).all()


@pytest.mark.parametrize(("brightness", "contrast"), [(0.2, 0.0), (-0.2, 0.1), (0.07, -0.2), (0.0, 0.2)])
def test_brightness_and_contrast_are_exactly_those_of_albumentations(film, brightness, contrast):
    theirs = A.RandomBrightnessContrast((brightness, brightness), (contrast, contrast), p=1)(image=film)["image"]
    ours = cv2.LUT(film, intensity.tone_table(brightness=brightness, contrast=contrast))
    assert furthest(ours, theirs) == 0


@pytest.mark.parametrize("shift", [-10, -3.0, 4.0, 10])
def test_value_shift_is_that_of_albumentations_on_a_gray_film(film, shift):
    theirs = A.HueSaturationValue(0, 0, (shift, shift), p=1)(image=film)["image"]
    assert furthest(cv2.LUT(film, intensity.tone_table(shift)), theirs) <= 1


def test_tone_tables_compose_in_the_order_of_the_list(film):
    at_once = cv2.LUT(film, intensity.tone_table(-9, 0.1, 0.2))
    chained = cv2.LUT(cv2.LUT(film, intensity.tone_table(-9)), intensity.tone_table(0, 0.1, 0.2))
    assert furthest(at_once, chained) == 0


@pytest.mark.parametrize("clip", [1.0, 2.5, 4.0])
def test_equalise_is_that_of_albumentations(film, clip):
    assert furthest(intensity.equalise(film, clip), A.CLAHE((clip, clip), p=1)(image=film)["image"]) == 0


def test_noise_has_the_spread_of_that_of_albumentations():
    gray = np.full((300, 300), 128, np.uint8)
    variance = 30.0
    ours = intensity.add_noise(gray, variance**0.5, np.random.default_rng(1)).astype(float)
    sigma = variance**0.5 / 255
    drawn = A.GaussNoise((sigma, sigma), p=1).get_params_dependent_on_data({}, {"image": gray})
    theirs = drawn["noise_map"]  # before it is added, which cuts it off to whole grays: we round
    assert ours.mean() == pytest.approx(128, abs=0.1)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.03)
    assert abs(np.corrcoef(ours[:, 1:].ravel(), ours[:, :-1].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_gaussian_blur_is_that_of_albumentations(film, kernel):
    sigma = 0.15 * kernel + 0.35
    theirs = A.GaussianBlur((kernel, kernel), (sigma, sigma), p=1)(image=film)["image"]
    assert furthest(intensity.gaussian_blur(film, kernel), theirs) <= 2


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("degrees", [0, 37, 90, 161])
def test_motion_blur_is_that_of_albumentations_unshifted(film, kernel, degrees):
    weights = create_motion_kernel(kernel, degrees, 0.0, False, random.Random(0))
    theirs = cv2.filter2D(film, -1, weights / weights.sum())
    assert furthest(intensity.motion_blur(film, kernel, degrees), theirs) == 0
    assert (weights == weights[::-1, ::-1]).all()  # symmetric: nothing shifts


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_median_blur_is_that_of_albumentations(film, kernel):
    theirs = A.MedianBlur((kernel, kernel), p=1)(image=film)["image"]
    assert furthest(intensity.median_blur(film, kernel), theirs) == 0


@pytest.mark.parametrize("quality", [30, 99, 100])
def test_jpeg_is_that_of_albumentations(film, quality):
    """But for libjpeg's rounding inside its transforms: a coefficient between two steps may take the other."""
    theirs = A.ImageCompression(quality_range=(quality, quality), p=1)(image=film)["image"]
    ours = intensity.jpeg(film, quality)
    differs = np.abs(ours.astype(int) - theirs)
    blocks = differs.reshape(len(film) // 8, 8, -1, 8).max(axis=(1, 3))
    assert differs.mean() < 0.2 and (differs > 2).mean() < 0.03 and (blocks > 2).mean() < 0.05
    lost, lost_there = (np.abs(seen.astype(int) - film).mean() for seen in (ours, theirs))
    assert lost == pytest.approx(lost_there, rel=0.1)


@pytest.mark.parametrize("shape", [(16, 24), (17, 25), (5, 3)])
def test_jpeg_is_of_any_size_and_leaves_a_flat_film(shape):
    assert (intensity.jpeg(np.full(shape, 96, np.uint8), 50) == 96).all()
    steep = np.tile(np.where(np.arange(shape[1]) % 2, 255, 0).astype(np.uint8), (shape[0], 1))
    assert furthest(intensity.jpeg(steep, 100), steep) <= 2  # ends of the scale are not passed


@pytest.mark.parametrize("scale", [0.1, 0.125, 0.15])
def test_downscale_is_that_of_albumentations_with_exact_nearest(film, scale):
    nearest = {"downscale": cv2.INTER_NEAREST_EXACT, "upscale": cv2.INTER_NEAREST_EXACT}
    theirs = A.Downscale((scale, scale), nearest, p=1)(image=film)["image"]
    assert furthest(intensity.downscale(film, scale), theirs) == 0


def test_downscale_moves_nothing():
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (120, 1))
    assert intensity.downscale(ramp, 0.1).mean() == pytest.approx(ramp.mean(), abs=1.1)


@pytest.mark.parametrize(("alpha", "lightness"), [(0.2, 0.5), (0.5, 1.0)])
def test_sharpen_is_that_of_albumentations(film, alpha, lightness):
    theirs = A.Sharpen((alpha, alpha), (lightness, lightness), p=1)(image=film)["image"]
    assert furthest(intensity.sharpen(film, alpha, lightness), theirs) <= 1


def test_cut_out_blackens_its_squares_and_nothing_else(film):
    bright = np.maximum(film, 1)
    out = intensity.cut_out(bright, np.array([[3, 5], [100, 40]]), 16)
    black = out == 0
    assert black[5:21, 3:19].all() and black[40:56, 100:116].all() and black.sum() == 2 * 16 * 16
    assert (out[~black] == bright[~black]).all()


def test_no_change_touches_its_input(film):
    before = film.copy()
    film.flags.writeable = False
    rng = np.random.default_rng(0)
    for changed in (
        intensity.equalise(film, 2),
        intensity.add_noise(film, 5, rng),
        intensity.gaussian_blur(film, 5),
        intensity.motion_blur(film, 5, 30),
        intensity.median_blur(film, 3),
        intensity.jpeg(film, 90),
        intensity.downscale(film, 0.1),
        intensity.sharpen(film, 0.3, 0.7),
        intensity.cut_out(film, np.array([[0, 0]]), 9),
    ):
        assert changed.shape == film.shape and changed.dtype == np.uint8
        assert not np.shares_memory(changed, film) and (changed != before).any()
    assert (film == before).all()
