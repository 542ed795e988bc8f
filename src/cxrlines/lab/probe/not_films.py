"""Pictures that are no frontal chest films, drawn by rule, for the probe of `quality` to learn what to reject.

Each maker takes a generator and gives (`SIDE`, `SIDE`) uint8: charts and textures, then rough other scans, other parts
of the body, the chest from the side. Those in `SEEN` are for fitting; those in `UNSEEN` are of kinds that no probe is
fitted on, to measure how it generalises. The shipped probe depends on every draw from the generator, and their order.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

SIDE = 160
"""px of a picture's sides."""
Maker = Callable[[np.random.Generator], np.ndarray]


def plane() -> tuple[np.ndarray, np.ndarray]:
    """y and x of each pixel, from -1 to 1: two float64 (SIDE, SIDE)."""
    x, y = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    return y, x


def gray_of(image: np.ndarray) -> np.ndarray:
    """An image of numbers clipped to 0-255, uint8."""
    return np.clip(image, 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, widths: Sequence[float] | np.ndarray) -> np.ndarray:
    """Noise blurred by two `widths`, sigmas across and down in px, of deviation 1: float64 (SIDE, SIDE)."""
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


def _squared(image: np.ndarray) -> np.ndarray:
    way = cv2.INTER_AREA if min(image.shape) > SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=way))


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
        points = np.stack([x, np.clip(y, 9, SIDE - 15)], axis=1).astype(np.int32)
        cv2.polylines(image, [points], False, int(rng.integers(160)))
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
    depth, x_lung, y_lung = rng.uniform(50, 110), rng.uniform(-0.1, 0.1), rng.uniform(-0.25, 0)
    image -= depth * _oval(rng, x_lung, y_lung, rng.uniform(0.5, 0.7), 0.75)
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


_CHARTS: tuple[Maker, ...] = (noise, texture, gradient, shapes, page, bars, plot)
_SCANS: tuple[Maker, ...] = (sector, slice_, limb, lateral, skull, belly)
SEEN = _CHARTS + _SCANS
UNSEEN: tuple[Maker, ...] = (rings, cells, hand)


def random_part(image: np.ndarray, rng: np.random.Generator, area: tuple[float, float]) -> np.ndarray:
    """A part of an image (h, w) uint8, of a share of its area between the two of `area`: (SIDE, SIDE) uint8."""
    share, ratio = rng.uniform(*area) ** 0.5, np.exp(rng.uniform(-0.3, 0.3))
    height, width = image.shape
    down, across = max(8, round(height * min(1, share * ratio))), max(8, round(width * min(1, share / ratio)))
    top, left = (int(rng.integers(0, max(1, whole - cut + 1))) for whole, cut in ((height, down), (width, across)))
    return _squared(image[top : top + down, left : left + across])


def made_of_films(films: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A picture (SIDE, SIDE) uint8 made of films (h, w) uint8, which no longer is one.

    A patch, a strip, a collage, halves swapped, fields shuffled, or a film's spectrum with random phases.
    """

    def draw() -> np.ndarray:
        return films[int(rng.integers(len(films)))]

    match rng.integers(6):
        case 0:
            return random_part(draw(), rng, (0.01, 0.06))
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
            rows = [np.hstack([_squared(fields[k // many][k % many]) for k in row]) for row in np.split(order, many)]
            return _squared(np.vstack(rows))
        case _:
            strength = np.abs(np.fft.rfft2(_squared(draw()).astype(float)))
            phase = np.angle(np.fft.rfft2(rng.normal(0, 1, (SIDE, SIDE))))
            image = np.fft.irfft2(strength * np.exp(1j * phase), (SIDE, SIDE))
            return gray_of(128 + 50 * (image - image.mean()) / (image.std() + 1e-6))
