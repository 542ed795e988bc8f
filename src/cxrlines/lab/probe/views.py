"""Augmentation for the quality probe: films as other places show them.

Other processing, windows and gammas; borders, letters and markers; tilted, shifted, with more around the chest, or with
much of it cut off. A mirrored film looks like a film, so half of them are mirrored.
"""

import cv2
import numpy as np

from cxrlines.augment import intensity
from cxrlines.core.quality import POSES
from cxrlines.models.orientation import SIZE

CUT = (0.15, 0.4)
"""Share of the film's area that a bad crop leaves."""


def random_view(film: np.ndarray, rng: np.random.Generator, *, cut: bool = False) -> np.ndarray:
    """An upright film (s, s) uint8 as another place might show it, (SIZE, SIZE) uint8; badly cropped if `cut`."""
    film = film[:, ::-1] if rng.random() < 0.5 else film
    film = _moved(_enlarged(film, rng) if not cut and rng.random() < 0.15 else film, rng, cut)
    film = random_grays(film, rng)
    if rng.random() < 0.35:
        film = _framed(film, rng)
    for _ in range(int(rng.integers(0, 4)) if rng.random() < 0.4 else 0):
        _mark(film, rng)
    return film


def posed(film: np.ndarray, pose: int) -> np.ndarray:
    """An upright film (h, w) uint8 in a pose, an index in `POSES`: turned and inverted by it."""
    rotation, inverted = POSES[pose]
    turned = np.rot90(film, rotation // 90)
    return np.ascontiguousarray(255 - turned if inverted else turned)


def random_grays(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grays changed as other machines, archives and exports do; nothing moves and white stays bone."""
    if rng.random() < 0.3:
        film = intensity.equalise(film, rng.uniform(1, 8), int(rng.integers(3, 9)))
    elif rng.random() < 0.1:
        film = cv2.equalizeHist(film)
    if rng.random() < 0.7:
        film = cv2.LUT(film, intensity.gamma_table(float(np.exp(rng.normal(0, 0.45)))))
    if rng.random() < 0.6:  # a window that clips at either end, or leaves the film pale
        low, high = np.percentile(film, (rng.uniform(0, 12), rng.uniform(88, 100)))
        black, white = (0, 255) if rng.random() < 0.6 else (rng.uniform(0, 110), rng.uniform(150, 255))
        film = windowed(film, (float(low), float(high)), (black, white))
    if rng.random() < 0.25:  # uneven exposure
        x, y = np.meshgrid(np.linspace(-1, 1, film.shape[1]), np.linspace(-1, 1, film.shape[0]))
        slope = rng.normal(0, 0.2, 2)
        film = np.clip(film * np.exp(slope[0] * x + slope[1] * y), 0, 255).astype(np.uint8)
    match int(rng.integers(8)):
        case 0:
            film = cv2.GaussianBlur(film, (0, 0), rng.uniform(0.4, 1.5))
        case 1 | 2:
            film = intensity.add_noise(film, rng.uniform(2, 14), rng)
        case 3:
            film = intensity.jpeg(film, int(rng.integers(25, 95)))
        case 4:
            film = intensity.sharpen(film, rng.uniform(0.1, 0.3), 1.0)
    return film


def windowed(film: np.ndarray, given: tuple[float, float], shown: tuple[float, float]) -> np.ndarray:
    """Grays from `given[0]` to `given[1]` spread between those of `shown`; what lies outside is clipped."""
    share = np.clip((np.arange(256) - given[0]) / max(given[1] - given[0], 4), 0, 1)
    return cv2.LUT(film, np.rint(shown[0] + share * (shown[1] - shown[0])).astype(np.uint8))


def _moved(film: np.ndarray, rng: np.random.Generator, cut: bool) -> np.ndarray:
    """Cropped, tilted up to 20 degrees, stretched by up to a third, shifted, on black, white or its repeated edge."""
    side = len(film)
    area = rng.uniform(*CUT) if cut else rng.uniform(0.6, 1) if rng.random() < 0.4 else rng.uniform(0.95, 1.5)
    ratio = np.exp(rng.uniform(-0.28, 0.28))
    across, down = side * np.sqrt(area * ratio), side * np.sqrt(area / ratio)
    size = np.array([across, down])
    if cut:
        inside = np.minimum(size, side)
        middle = rng.uniform(0, 1, 2) * (side - inside) + inside * 0.5
    else:
        middle = side / 2 + rng.uniform(-0.5, 0.5, 2) * (np.abs(side - size) + 0.06 * side)
    angle = np.radians(rng.uniform(-20, 20) if rng.random() < 0.35 else rng.normal(0, 4))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag((across / SIZE, down / SIZE))
    matrix = np.column_stack([linear, middle - linear @ (SIZE / 2, SIZE / 2)])
    border = cv2.BORDER_REPLICATE if rng.random() < 0.3 else cv2.BORDER_CONSTANT
    gray = 0 if rng.random() < 0.6 else int(rng.choice([255, int(rng.integers(256))]))
    if across > 1.2 * SIZE:
        film = cv2.GaussianBlur(film, (0, 0), 0.4 * across / SIZE)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(film, matrix, (SIZE, SIZE), flags=flags, borderMode=border, borderValue=gray))


def _enlarged(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With a belly below or a neck and chin above, as small children's films have: soft clouds that go on from it."""
    side = len(film)
    below, above = int(rng.uniform(0.1, 0.7) * side), int(rng.uniform(0, 0.25) * side)
    parts = [film]
    for height, edge, first in ((below, film[-4:], False), (above, film[:4], True)):
        if height < 4:
            continue
        row = cv2.GaussianBlur(edge.mean(axis=0, keepdims=True).astype(np.float32), (0, 0), side / 20)
        noise = rng.normal(0, 1, (height, side)).astype(np.float32)
        clouds = cv2.GaussianBlur(noise, (0, 0), side / rng.uniform(8, 25))
        soft = np.clip(row + rng.uniform(5, 30) * clouds / (clouds.std() + 1e-6), 0, 255).astype(np.uint8)
        parts = [soft, *parts] if first else [*parts, soft]
    tall = np.vstack(parts)
    pad = int((len(tall) - side) * rng.uniform(0, 0.5))
    return cv2.resize(cv2.copyMakeBorder(tall, 0, 0, pad, pad, cv2.BORDER_REPLICATE), (side, side))


def _framed(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With borders of one gray outside of a collimated or tilted field."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    corners += np.where(corners == 0, 1, -1) * rng.uniform(-0.05, 0.13, (4, 2))
    mask = np.zeros_like(film)
    cv2.fillConvexPoly(mask, np.rint(corners * SIZE).astype(np.int32), 255)
    gray = 0 if rng.random() < 0.6 else 255 if rng.random() < 0.6 else int(rng.integers(256))
    dimmed = (film * 0.25).astype(np.uint8) if rng.random() < 0.3 else np.full_like(film, gray)
    return np.where(mask > 0, film, dimmed)


def _mark(film: np.ndarray, rng: np.random.Generator) -> None:
    """Letters, a box, an electrode or a wire, drawn in."""
    gray = int(rng.choice([0, 255, 230, int(rng.integers(256))]))
    x, y = (int(value) for value in rng.integers(0, SIZE, 2))
    match int(rng.integers(4)):
        case 0:
            text = "".join(chr(rng.integers(48, 91)) for _ in range(rng.integers(1, 16)))
            cv2.putText(film, text, (x - 15, y), cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.15, 0.5), gray, 1, cv2.LINE_AA)
        case 1:
            cv2.rectangle(film, (x, y), (x + int(rng.integers(3, 35)), y + int(rng.integers(3, 14))), gray, -1)
        case 2:
            cv2.circle(film, (x, y), int(rng.integers(1, 5)), gray, -1)
        case _:
            points = np.cumsum(np.vstack([[x, y], rng.normal(0, 12, (7, 2))]), axis=0).astype(np.int32)
            cv2.polylines(film, [points], False, gray, 1, cv2.LINE_AA)
