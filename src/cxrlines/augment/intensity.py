"""What changes the grays of a film and moves nothing. A film is uint8 (h, w); each function returns a new array."""

import math
from functools import lru_cache
from statistics import NormalDist

import cv2
import numpy as np

SAME = np.arange(256, dtype=np.uint8)
"""The table (256,) that changes no gray."""
_GRAYS = np.arange(256, dtype=np.float32)
_COSINES = cv2.dct(np.eye(8, dtype=np.float32), flags=cv2.DCT_ROWS).T.copy()
"""(8, 8) [frequency, px]: the cosine transform of 8 px."""
_JPEG_STEPS = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
"""Steps of brightness by frequency [down, across] at quality 50: ITU-T T.81, table K.1."""


def by_table(film: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The film with each gray replaced by its entry in `table` (256,) uint8; the film itself where that is `SAME`."""
    return film if table is SAME else cv2.LUT(film, table)


def tone_table(value_shift: float = 0.0, brightness: float = 0.0, contrast: float = 0.0) -> np.ndarray:
    """Changes of value, brightness and contrast as one table (256,) uint8.

    Args:
        value_shift: gray levels added first: all that is left, on a gray film, of a shift in hue, saturation, value.
        brightness: share of full white added.
        contrast: share by which grays are multiplied more; gray' = gray * (1 + contrast) + 255 * brightness.
    """
    shifted = np.minimum(np.maximum(_GRAYS + round(value_shift), 0), 255)
    return np.minimum(np.maximum(shifted * (1 + contrast) + 255 * brightness, 0), 255).astype(np.uint8)


def gamma_table(gamma: float) -> np.ndarray:
    """gray' = 255 * (gray / 255) ** gamma as a table (256,) uint8."""
    return np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)


def equalise(film: np.ndarray, clip_limit: float, tiles: int = 8) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation on `tiles` x `tiles` tiles."""
    return cv2.createCLAHE(clip_limit, (tiles, tiles)).apply(film)


def add_noise(film: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Adds Gaussian noise, independent from pixel to pixel, of standard deviation `sigma` gray levels.

    Each pixel draws one of 65,536 quantiles: a third of the time that exact normal numbers take.
    """
    levels = np.rint(_normal_quantiles() * sigma).astype(np.int16)
    noise = levels.take(rng.integers(0, len(levels), film.shape, dtype=np.uint16), mode="wrap")
    return cv2.add(film, noise, dtype=cv2.CV_8U)


@lru_cache
def _normal_quantiles() -> np.ndarray:
    """(65536,) float64: the middles of as many equally likely parts of the standard normal distribution."""
    normal = NormalDist()  # of the standard library: SciPy is no part of what reads
    return np.array([normal.inv_cdf((place + 0.5) / 65_536) for place in range(65_536)])


def gaussian_blur(film: np.ndarray, kernel: int) -> np.ndarray:
    """Gaussian of `kernel` x `kernel` px (odd), its sigma the one OpenCV derives: 0.15 kernel + 0.35."""
    return cv2.GaussianBlur(film, (kernel, kernel), 0)


def motion_blur(film: np.ndarray, kernel: int, degrees: float) -> np.ndarray:
    """Mean along a line of `kernel` px (odd) through each pixel: symmetric, so that nothing shifts."""
    half = kernel // 2
    along = np.linspace(-half, half, kernel)
    x = np.round(half + math.cos(math.radians(degrees)) * along).astype(int)
    y = np.round(half + math.sin(math.radians(degrees)) * along).astype(int)
    weights = np.zeros((kernel, kernel), np.float32)
    weights[y, x] = 1
    return cv2.filter2D(film, -1, weights / weights.sum())


def median_blur(film: np.ndarray, kernel: int) -> np.ndarray:
    """Median of `kernel` x `kernel` px (odd)."""
    return cv2.medianBlur(film, kernel)


def jpeg(film: np.ndarray, quality: int) -> np.ndarray:
    """What JPEG of `quality` 1-100 leaves of the film: the cosine transforms of its 8 x 8 px blocks are rounded.

    The coding that follows loses nothing: it is left out, and three quarters of the time with it. libjpeg transforms in
    whole numbers, so that its grays are now and then another by 1.
    """
    height, width = film.shape
    # Bands of 8 rows (bands, 8, w) are transformed down, blocks of a row (bands, w, 8) across.
    whole = cv2.copyMakeBorder(film, 0, -height % 8, 0, -width % 8, cv2.BORDER_REPLICATE)
    bands = cv2.subtract(whole, 128, dtype=cv2.CV_32F).reshape(-1, 8, whole.shape[1])  # type: ignore[call-overload]
    across = len(bands), -1, 8
    waves = ((_COSINES @ bands).reshape(across) @ _COSINES.T).reshape(bands.shape)
    steps = np.tile(_jpeg_steps(quality), whole.shape[1] // 8)
    waves *= 1 / steps
    np.rint(waves, out=waves)
    waves *= steps
    grays = _COSINES.T @ (waves.reshape(across) @ _COSINES).reshape(bands.shape)
    return cv2.add(grays.reshape(whole.shape), 128, dtype=cv2.CV_8U)[:height, :width]  # type: ignore[call-overload]


def _jpeg_steps(quality: int) -> np.ndarray:
    """(8, 8) float32 [down, across]: the steps of brightness that `quality` stands for in libjpeg."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((_JPEG_STEPS * percent + 50) // 100).clip(1, 255).astype(np.float32)


def downscale(film: np.ndarray, scale: float) -> np.ndarray:
    """The film shrunk by `scale` < 1 and enlarged again, both to the nearest pixel: blocks of 1 / scale px.

    A block takes the gray of its middle. (OpenCV's plain nearest takes that of its corner, which moves all by half
    a block.)
    """
    small = cv2.resize(film, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST_EXACT)
    return cv2.resize(small, film.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def sharpen(film: np.ndarray, alpha: float, lightness: float) -> np.ndarray:
    """Mixes (1 - alpha) of the film with alpha of its 3 x 3 Laplacian, whose centre weighs 8 + lightness."""
    weights = np.full((3, 3), -alpha, np.float32)
    weights[1, 1] = 1 - alpha + alpha * (8 + lightness)
    return cv2.filter2D(film, -1, weights)


def cut_out(film: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Blackens squares of `side` px whose upper left corners are `corners` (n, 2) int [x, y]."""
    out = film.copy()
    for x, y in corners:
        out[y : y + side, x : x + side] = 0
    return out
