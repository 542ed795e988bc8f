"""Pictures that are no frontal chest films, made by rule, for the probe of `quality` to know what to refuse.

Each maker takes a generator and gives (`SIDE`, `SIDE`) uint8. Those in `SEEN` are for fitting; those in `UNSEEN` are of
kinds that no probe is fitted on, to measure what it makes of the unforeseen.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from cxrlines.lab.probe.other_scans import (
    SIDE,
    belly,
    clouds,
    gray_of,
    hand,
    lateral,
    limb,
    plane,
    sector,
    skull,
    slice_,
)

Maker = Callable[[np.random.Generator], np.ndarray]


def noise(rng: np.random.Generator) -> np.ndarray:
    return gray_of(rng.normal(rng.uniform(30, 220), rng.uniform(3, 90), (SIDE, SIDE)))


def texture(rng: np.random.Generator) -> np.ndarray:
    """Noise of several widths, longer one way."""
    image = np.zeros((SIDE, SIDE))
    for _ in range(rng.integers(1, 4)):
        image += rng.uniform(0.3, 1) * clouds(rng, np.exp(rng.uniform(-0.5, 3.4, 2)))
    return gray_of(rng.uniform(60, 200) + rng.uniform(10, 60) * image)


def gradient(rng: np.random.Generator) -> np.ndarray:
    y, x = plane()
    a, b, c = rng.normal(0, 1, 3)
    image = a * x + b * y + c * np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1))
    image = 255 * (image - image.min()) / np.ptp(image)
    return gray_of(image + rng.normal(0, rng.uniform(0, 8), image.shape))


def shapes(rng: np.random.Generator) -> np.ndarray:
    image = np.full((SIDE, SIDE), int(rng.integers(256)), np.uint8)
    for _ in range(rng.integers(1, 25)):
        gray, at, size = int(rng.integers(256)), rng.integers(0, SIDE, 4).tolist(), int(rng.integers(3, 60))
        width = -1 if rng.random() < 0.6 else int(rng.integers(1, 6))
        match rng.integers(4):
            case 0:
                cv2.circle(image, at[:2], size, gray, width)
            case 1:
                cv2.rectangle(image, at[:2], at[2:], gray, width)
            case 2:
                cv2.line(image, at[:2], at[2:], gray, max(1, width))
            case _:
                cv2.ellipse(image, at[:2], (size, size // 2 + 1), float(rng.uniform(0, 180)), 0, 360, gray, width)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 4)) if rng.random() < 0.6 else image


def page(rng: np.random.Generator) -> np.ndarray:
    """Lines of text, sometimes in columns or with a picture left out."""
    image = np.full((SIDE, SIDE), int(rng.integers(180, 256)), np.uint8)
    step, columns = int(rng.integers(5, 26)), int(rng.integers(1, 3))
    for column in range(columns):
        for y in range(step, SIDE, step):
            letters = [chr(rng.integers(97, 123)) if rng.random() > 0.18 else " " for _ in range(rng.integers(4, 60))]
            at = (int(column * SIDE / columns + rng.integers(2, 12)), y)
            cv2.putText(image, "".join(letters), at, cv2.FONT_HERSHEY_SIMPLEX, step / 34, 30, 1, cv2.LINE_AA)
    if rng.random() < 0.3:
        top, left = rng.integers(0, SIDE // 2, 2).tolist()
        image[top : top + SIDE // 3, left : left + SIDE // 2] = int(rng.integers(60, 256))
    return image


def bars(rng: np.random.Generator) -> np.ndarray:
    """A test chart: steps of gray, across or in fields."""
    rows, columns = rng.integers(1, 12, 2).tolist()
    fields = rng.integers(0, 256, (max(rows, 2), columns), dtype=np.uint8)
    return np.asarray(cv2.resize(fields, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST))


def plot(rng: np.random.Generator) -> np.ndarray:
    """Curves between axes."""
    image = np.full((SIDE, SIDE), 250, np.uint8)
    cv2.rectangle(image, (14, 8), (SIDE - 8, SIDE - 14), 40, 1)
    x = np.linspace(15, SIDE - 9, 60)
    for _ in range(rng.integers(1, 5)):
        y = SIDE / 2 + np.cumsum(rng.normal(0, rng.uniform(1, 6), 60))
        cv2.polylines(
            image, [np.stack([x, np.clip(y, 9, SIDE - 15)], 1).astype(np.int32)], False, int(rng.integers(160))
        )
    return image


def rings(rng: np.random.Generator) -> np.ndarray:
    """A zone plate."""
    y, x = plane()
    return gray_of(128 + 120 * np.cos(rng.uniform(10, 90) * ((x - rng.uniform(-0.5, 0.5)) ** 2 + y**2)))


def cells(rng: np.random.Generator) -> np.ndarray:
    """Cells around random points, each of one gray."""
    points = rng.uniform(0, SIDE, (int(rng.integers(5, 60)), 2))
    y, x = np.mgrid[:SIDE, :SIDE]
    nearest = ((x[..., None] - points[:, 0]) ** 2 + (y[..., None] - points[:, 1]) ** 2).argmin(axis=2)
    return rng.integers(0, 256, len(points), dtype=np.uint8)[nearest]


SEEN: tuple[Maker, ...] = (
    noise,
    texture,
    gradient,
    shapes,
    page,
    bars,
    plot,
    sector,
    slice_,
    limb,
    lateral,
    skull,
    belly,
)
UNSEEN: tuple[Maker, ...] = (rings, cells, hand)


def part(image: np.ndarray, rng: np.random.Generator, area: tuple[float, float]) -> np.ndarray:
    """A part of an image (h, w), of a share of its area."""
    share, ratio = rng.uniform(*area) ** 0.5, np.exp(rng.uniform(-0.3, 0.3))
    height, width = image.shape
    down, across = max(8, round(height * min(1, share * ratio))), max(8, round(width * min(1, share / ratio)))
    top, left = (int(rng.integers(0, max(1, whole - cut + 1))) for whole, cut in ((height, down), (width, across)))
    return _squared(image[top : top + down, left : left + across])


def of_films(films: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """What is made of films and is none: a patch, a strip, a collage, halves swapped, fields shuffled, its spectrum."""

    def draw() -> np.ndarray:
        return films[int(rng.integers(len(films)))]

    match rng.integers(6):
        case 0:
            return part(draw(), rng, (0.01, 0.06))
        case 1:
            film, thick = draw(), rng.uniform(0.08, 0.16)
            start = int(rng.uniform(0, 1 - thick) * len(film))
            cut = slice(start, start + max(4, int(thick * len(film))))
            return _squared(film[cut] if rng.random() < 0.5 else film[:, cut])
        case 2:
            many = int(rng.integers(2, 5))
            rows = [np.hstack([_squared(draw()) for _ in range(many)]) for _ in range(int(rng.integers(2, 5)))]
            return _squared(np.vstack(rows))
        case 3:
            film = _squared(draw())
            return np.roll(film, int(rng.uniform(0.4, 0.6) * SIDE), axis=0)
        case 4:
            many = int(rng.integers(3, 9))
            fields = [np.array_split(row, many, axis=1) for row in np.array_split(_squared(draw()), many)]
            order = rng.permutation(many**2)
            return _squared(
                np.vstack(
                    [np.hstack([_squared(fields[k // many][k % many]) for k in row]) for row in np.split(order, many)]
                )
            )
        case _:
            strength = np.abs(np.fft.rfft2(_squared(draw()).astype(float)))
            phase = np.angle(np.fft.rfft2(rng.normal(0, 1, (SIDE, SIDE))))
            image = np.fft.irfft2(strength * np.exp(1j * phase), (SIDE, SIDE))
            return gray_of(128 + 50 * (image - image.mean()) / (image.std() + 1e-6))


def _squared(image: np.ndarray) -> np.ndarray:
    way = cv2.INTER_AREA if min(image.shape) > SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=way))
