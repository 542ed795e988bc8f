"""Pictures of bodies that are no frontal chest films, drawn roughly: other scans, other parts, the chest from the side.

Each maker takes a generator and gives (`SIDE`, `SIDE`) uint8.
"""

from collections.abc import Sequence

import cv2
import numpy as np

SIDE = 160


def sector(rng: np.random.Generator) -> np.ndarray:
    """Like an ultrasound: speckle, in a fan or a box that leans, vessels and cysts in it, text around."""
    y, x = plane()
    lean, top = rng.normal(0, 0.3), rng.uniform(-1.4, -0.9)
    deep, angle = np.hypot(x, y - top), np.arctan2(x, y - top) - lean
    inside = (deep > rng.uniform(0.1, 0.5)) & (deep < rng.uniform(1.5, 2.4)) & (abs(angle) < rng.uniform(0.4, 0.9))
    if rng.random() < 0.3:
        inside = (abs(x) < rng.uniform(0.5, 0.9)) & (abs(y + 0.2) < rng.uniform(0.4, 0.7))
    echo = np.exp(rng.uniform(0.3, 0.9) * (clouds(rng, rng.uniform(0.7, 2, 2)) + clouds(rng, rng.uniform(5, 22, 2))))
    for _ in range(rng.integers(0, 4)):
        echo *= 1 - rng.uniform(0.4, 0.95) * _oval(rng, *rng.uniform(-0.6, 0.6, 2), *rng.uniform(0.08, 0.4, 2))
    behind = 0 if rng.random() < 0.6 else rng.uniform(10, 90)
    return _lettered(gray_of(np.where(inside, behind + rng.uniform(30, 90) * echo, behind)), rng)


def slice_(rng: np.random.Generator) -> np.ndarray:
    """Like a slice of a body by CT or MR: an oval of soft tissue on black, a rim, organs, perhaps a spine."""
    image = np.zeros((SIDE, SIDE))
    wide, high = rng.uniform(0.4, 0.95), rng.uniform(0.35, 0.95)
    body = _oval(rng, 0, 0, wide, high)
    image += body * rng.uniform(60, 140)
    image += (body * (1 - _oval(rng, 0, 0, wide * 0.9, high * 0.9))) * rng.uniform(-60, 120)
    for _ in range(rng.integers(2, 12)):
        x, y = rng.uniform(-0.6, 0.6, 2) * (wide, high)
        organ = _oval(rng, x, y, *rng.uniform(0.05, 0.4, 2))
        image = np.where(organ * body > 0.5, image + rng.uniform(-70, 80), image)
    if rng.random() < 0.6:
        image = np.maximum(image, 235 * _oval(rng, 0, rng.uniform(0.2, 0.7) * high, 0.14, 0.14))
    return _lettered(gray_of(image + rng.uniform(2, 9) * clouds(rng, (0.8, 0.8))), rng)


def limb(rng: np.random.Generator) -> np.ndarray:
    """Like a film of an arm, a leg or a hand: long bones with bright rims in a band of soft tissue."""
    y, x = plane()
    image = np.full((SIDE, SIDE), rng.uniform(0, 60))
    bend, lean = rng.normal(0, 0.15), rng.normal(0, 0.3)
    axis = x - lean * y - bend * y**2
    count = int(rng.integers(1, 6))
    half = rng.uniform(0.25, 0.7) * (1 + rng.uniform(-0.3, 0.3) * y)
    image += rng.uniform(40, 90) * np.sqrt(np.clip(1 - (axis / half) ** 2, 0, 1))
    joint = rng.uniform(-0.8, 0.8)
    for k in range(count):
        middle = half * ((2 * k + 1) / count - 1) * 0.8
        thick = rng.uniform(0.4, 0.7) * half / count * (1 + 0.8 * np.exp(-(((y - joint) / 0.2) ** 2)))
        across = np.clip(1 - ((axis - middle) / thick) ** 2, 0, 1)
        rim = np.where(across > 0, 1 - 0.5 * across, 0)
        image += rng.uniform(60, 120) * rim * (abs(y - joint) > rng.uniform(0.01, 0.05))
    return _bordered(gray_of(image + rng.uniform(1, 6) * clouds(rng, (1, 1))), rng)


def lateral(rng: np.random.Generator) -> np.ndarray:
    """Like a chest film from the side: a lung field between spine and breastbone, the heart in front."""
    y, x = plane()
    image = rng.uniform(120, 200) + rng.uniform(5, 30) * clouds(rng, (25, 25))
    image -= rng.uniform(50, 110) * _oval(
        rng, rng.uniform(-0.1, 0.1), rng.uniform(-0.25, 0), rng.uniform(0.5, 0.7), 0.75
    )
    spine = 0.5 - 0.25 * (y - rng.uniform(-0.2, 0.3)) ** 2 + rng.normal(0, 0.04)
    image += rng.uniform(30, 70) * np.exp(-(((x - spine) / 0.12) ** 2)) * (1 + 0.3 * np.sin(y * rng.uniform(15, 22)))
    image += rng.uniform(30, 80) * _oval(rng, -0.25, 0.3, rng.uniform(0.25, 0.4), rng.uniform(0.2, 0.4))
    for dome in rng.uniform(0.45, 0.75, 2):
        image += rng.uniform(15, 40) / (1 + np.exp(-(y - dome - 0.25 * (x + 0.2) ** 2) * 25))
    for k in range(9):  # ribs slope down to the front
        line = y - (-0.8 + 0.18 * k) + 0.45 * (x - spine) * (1 + 0.3 * x)
        image += rng.uniform(4, 14) * np.exp(-((line / 0.03) ** 2)) * (x < spine)
    image[(x < rng.uniform(-0.95, -0.7) + 0.15 * y)] *= rng.uniform(0.05, 0.5)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 2.5)) + rng.uniform(1, 6) * clouds(rng, (0.8, 0.8))
    return _bordered(gray_of(image[:, ::-1] if rng.random() < 0.5 else image), rng)


def skull(rng: np.random.Generator) -> np.ndarray:
    """Like a film of a head: a bright rim, eye sockets or a jaw."""
    image = np.full((SIDE, SIDE), rng.uniform(0, 40))
    wide, high = rng.uniform(0.5, 0.85), rng.uniform(0.6, 0.9)
    outer, inner = _oval(rng, 0, -0.1, wide, high), _oval(rng, 0, -0.1, wide * 0.9, high * 0.92)
    image += 200 * outer - rng.uniform(60, 120) * inner
    for side in (-1, 1):
        image -= rng.uniform(20, 70) * _oval(rng, side * rng.uniform(0.2, 0.35), 0.15, 0.16, 0.13)
    image += rng.uniform(20, 60) * _oval(rng, 0, 0.6, rng.uniform(0.3, 0.5), 0.25)
    return _bordered(gray_of(image + rng.uniform(4, 15) * clouds(rng, (3, 3))), rng)


def belly(rng: np.random.Generator) -> np.ndarray:
    """Like a film of the abdomen: soft tissue, a spine, a pelvis, gas in the bowel; no lungs."""
    y, x = plane()
    image = rng.uniform(110, 170) + rng.uniform(5, 15) * clouds(rng, (20, 20))
    image += rng.uniform(30, 60) * np.exp(-((x / 0.13) ** 2)) * (1 + 0.25 * np.sin(y * rng.uniform(12, 18)))
    for side in (-1, 1):
        wing = _oval(rng, side * 0.5, 0.65, 0.38, 0.4) - 0.9 * _oval(rng, side * 0.45, 0.75, 0.25, 0.25)
        image += rng.uniform(30, 60) * wing
    for _ in range(rng.integers(3, 14)):
        at = rng.uniform(-0.7, 0.7, 2)
        image -= rng.uniform(15, 50) * _oval(rng, *at, *rng.uniform(0.05, 0.2, 2))
    image[abs(x) > rng.uniform(0.8, 1.0)] *= rng.uniform(0.1, 0.6)
    return _bordered(gray_of(cv2.GaussianBlur(image, (0, 0), 1.5) + rng.uniform(1, 6) * clouds(rng, (0.8, 0.8))), rng)


def hand(rng: np.random.Generator) -> np.ndarray:
    """Like a film of a hand: fingers of bones that spread from a palm."""
    image = np.zeros((SIDE, SIDE))
    palm = np.array([SIDE / 2, SIDE * 0.68])
    for k, angle in enumerate(np.radians([-60, -20, -4, 12, 28])):
        way = np.array([np.sin(angle), -np.cos(angle)])
        end = palm + way * SIDE * (0.4 if k == 0 else 0.6)
        for width, gray in ((20, 70), (9, 150)):
            layer = np.zeros((SIDE, SIDE), np.uint8)
            for a, b in ((0.0, 0.42), (0.45, 0.7), (0.72, 0.86), (0.88, 1.0)) if gray > 100 else ((0.0, 1.0),):
                ends = (palm + (end - palm) * a).astype(int).tolist(), (palm + (end - palm) * b).astype(int).tolist()
                cv2.line(layer, *ends, gray, width)
            image = np.maximum(image, layer)
    cv2.circle(image, palm.astype(int).tolist(), 24, 110, -1)
    return gray_of(cv2.GaussianBlur(image, (0, 0), 2) + rng.normal(0, 5, image.shape))


def plane() -> tuple[np.ndarray, np.ndarray]:
    """y and x from -1 to 1."""
    x, y = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    return y, x


def gray_of(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, widths: Sequence[float] | np.ndarray) -> np.ndarray:
    """Noise blurred by `widths` px, of deviation 1."""
    layer = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)), (0, 0), float(widths[0]), None, float(widths[1]))
    return np.asarray(layer / layer.std())


def _oval(rng: np.random.Generator, x: float, y: float, wide: float, high: float) -> np.ndarray:
    """1 in an oval around (x, y), 0 outside, its edge soft and a little uneven."""
    down, across = plane()
    angle = np.arctan2(down - y, across - x)
    radius = 1 + 0.06 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.04 * np.sin(3 * angle + rng.uniform(0, 6))
    beyond = np.hypot((across - x) / wide, (down - y) / high) - radius
    return np.asarray(1 / (1 + np.exp(np.clip(30 * beyond, -50, 50))))


def _lettered(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for _ in range(rng.integers(0, 6)):
        at = rng.integers(0, SIDE, 2).tolist()
        text = "".join(chr(rng.integers(48, 91)) for _ in range(rng.integers(2, 14)))
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.2, 0.4), 230, 1, cv2.LINE_AA)
    return image


def _bordered(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image within straight borders, black or white, as a collimator leaves it; often none."""
    if rng.random() < 0.4:
        top, bottom, left, right = (int(rng.uniform(0, 0.25) * SIDE) for _ in range(4))
        framed = np.full_like(image, 255 if rng.random() < 0.4 else int(rng.integers(40)))
        framed[top : SIDE - bottom, left : SIDE - right] = image[top : SIDE - bottom, left : SIDE - right]
        return framed
    return image
