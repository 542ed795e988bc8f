"""What other hospitals do to a film: crops, tones, processing and burned-in text."""

import string
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrlines.core.polyline import Points

_WHOLE, _MUCH = 0.33, 0.12  # shares of films that stay whole, that lose much at one side
_LITTLE, _CUT = (0, 0.1), 0.6  # share of the side that is cut off, share of sides that are cut
_MORE = (0.08, 0.22)  # of the side that loses much, in addition
_KEPT_MARGIN = 0.04  # share of the side around the points to keep
_DEEPEST = 0.35  # share of a side that is cut off at most

_GAMMA = 0.22  # standard deviation of its logarithm
_BLACK, _WHITE = (-0.04, 0.08), (0.88, 1.06)  # of grey from 0 to 1
_MEDIAN = (0.25, 0.72)  # where the median grey lands: neither all black nor all white
_FILM_LIKE, _STEEP, _MIDDLE = 0.2, (3, 6), (0.42, 0.58)  # share of films with a logistic curve, its slope, its middle
_EQUALISED, _CLIP_LIMIT = 0.2, (0.7, 2.5)  # share of films, clip limit of the local equalisation
_SHARPENED, _SHARPENED_REACH, _SHARPENED_BY = 0.15, (1.0, 6.0), (0.2, 0.9)  # share of films, px (SD), share added
_BLURRED, _BLUR = 0.2, (0.4, 1.0)  # share of films, px (SD)
_NOISY, _NOISE = 0.25, (1, 7)  # share of films, grey levels (SD)

_UNMARKED = 0.5  # share of films without burned-in text
_LENGTHS = (1, 3, 8, 14)  # letters of a text; a single one is an L or R
_BOXED = 0.4  # share of texts on a box

Film = NDArray[Any]  # uint8 (height, width), white = bone; OpenCV's own stubs know no dtype


def draw_crop(shape: tuple[int, int], keep: Points, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A part of a film of (height, width) px as (left, top, right, bottom), whole px; all points `keep` (n, 2) in it.

    A third of the films stay whole, most others lose a little at each side, some much at one.
    """
    height, width = shape
    cuts = np.zeros(4)  # left, top, right, bottom, shares of the side
    draw = rng.random()
    if draw > _WHOLE:
        cuts = rng.uniform(*_LITTLE, 4) * (rng.random(4) < _CUT)
    if draw > 1 - _MUCH:
        cuts[rng.integers(4)] += rng.uniform(*_MORE)
    low = keep.min(0) / (width, height) - _KEPT_MARGIN
    high = 1 - keep.max(0) / (width, height) - _KEPT_MARGIN
    cuts = np.clip(np.minimum(cuts, [*low, *high]), 0, _DEEPEST)
    left, top, right, bottom = np.round(cuts * [width, height, width, height]).astype(int).tolist()
    return left, top, width - right, height - bottom


def change_tone(film: Film, rng: np.random.Generator) -> Film:
    """Gamma, brightness, contrast; on some films sharpening, blur, noise or local equalisation."""
    u = rng.uniform
    levels = np.linspace(0, 1, 256)
    gamma = float(np.exp(rng.normal(0, _GAMMA)))
    black, white = u(*_BLACK), u(*_WHITE)
    curve = black + (white - black) * levels**gamma
    if rng.random() < _FILM_LIKE:
        steep = u(*_STEEP)
        curve = 1 / (1 + np.exp(-steep * (curve - u(*_MIDDLE))))
        curve = (curve - curve[0]) / (curve[-1] - curve[0])
    shown = float(curve[int(np.median(film))])
    curve += np.clip(shown, *_MEDIAN) - shown
    film = cv2.LUT(film, np.clip(np.round(255 * curve), 0, 255).astype(np.uint8))
    draw = rng.random()
    if draw < _EQUALISED:
        tiles = int(rng.integers(2, 9))
        film = cv2.createCLAHE(u(*_CLIP_LIMIT), (tiles, tiles)).apply(film)
    elif draw < _EQUALISED + _SHARPENED:
        soft = cv2.GaussianBlur(film, (0, 0), u(*_SHARPENED_REACH))
        film = cv2.addWeighted(film, 1 + (much := u(*_SHARPENED_BY)), soft, -much, 0)
    if rng.random() < _BLURRED:
        film = cv2.GaussianBlur(film, (0, 0), u(*_BLUR))
    if rng.random() < _NOISY:
        grain = rng.standard_normal(film.shape, np.float32) * np.float32(u(*_NOISE))
        film = np.clip(film + grain, 0, 255).astype(np.uint8)
    return film


def burn_in(film: Film, rng: np.random.Generator) -> Film:
    """The film with side letters and text boxes burned in near its edges; on half of the films none."""
    if rng.random() < _UNMARKED:
        return film
    film = film.copy()
    for _ in range(int(rng.integers(1, 4))):
        letters = int(rng.choice(_LENGTHS))
        signs = string.ascii_uppercase + string.digits + " -:."
        text = str(rng.choice(["L", "R"])) if letters == 1 else "".join(rng.choice(list(signs), letters))
        _box(film, text, rng)
    return film


def _box(film: Film, text: str, rng: np.random.Generator) -> None:
    """One text in the outer eighth of a film, bare or on a box, in place."""
    height, width = film.shape
    scale = rng.uniform(0.35, 0.9) * max(film.shape) / 512
    pen = max(1, round(1.6 * scale))
    (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, pen)
    edge = rng.integers(4) if len(text) < 4 else rng.integers(2)  # above, below, left, right
    x = rng.uniform(0, max(1, width - wide)) if edge < 2 else [0.01 * width, 0.99 * width - wide][edge - 2]
    near = rng.uniform(0.01, 0.10) * height
    y = [near + high, height - near][edge] if edge < 2 else rng.uniform(high, height)
    left, base, pad = max(0, int(x)), int(y), max(2, int(0.35 * high))
    if rng.random() < _BOXED:
        box = film[max(0, base - high - pad) : base + pad, max(0, left - pad) : left + wide + pad]
        box[:] = (box * rng.uniform(0, 0.5) + rng.uniform(0, 110)).astype(np.uint8)
    ink = int(rng.uniform(150, 255))
    cv2.putText(film, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, pen, cv2.LINE_AA)
