"""The image processing of two hospitals: from attenuation to an 8-bit film with its margins and burned-in marks."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrlines.phantom.raster import Field, Raster


def equalise(grid: Raster, field: Field, rng: np.random.Generator) -> Field:
    """Part of the broad contrast taken away, as radiography processors do to show lung and mediastinum at once."""
    share = np.float32(rng.uniform(0.4, 0.8))
    return field - grid.blur(field, 5.0) * share


def develop(film: Field, aerated: Field, site: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey values from processed attenuation: exposure set by lung and bone, a film-like curve, site's own looks."""
    small = cv2.resize(film, aerated.shape[::-1], interpolation=cv2.INTER_AREA)
    lung = float(np.median(small[aerated > 0.6])) if (aerated > 0.6).any() else float(small.mean())
    bright = float(np.percentile(small, 93))
    span = max(bright - lung, 0.6)
    dark, light = rng.uniform(0.32, 0.54), rng.uniform(0.68, 0.82)
    grey = (film - np.float32(lung)) * np.float32((light - dark) / span) + np.float32(dark)
    if site == "b":
        grey += (grey - cv2.GaussianBlur(grey, (0, 0), max(grey.shape) / 200)) * np.float32(rng.uniform(0.1, 0.45))
    # What is darker than lung (arms, air beside the patient) is compressed, as in a film's toe.
    toe = np.float32(rng.uniform(0.2, 0.4))
    below = np.minimum(grey - np.float32(dark), 0)
    grey -= below + toe * (1 - np.exp(below / toe))
    # Nearly linear in the middle, with a soft shoulder towards white and black.
    grey = 0.5 + 0.56 * np.tanh((grey - 0.5) * 2.2)
    lo, hi = rng.uniform(0, 18), rng.uniform(222, 255)
    image = np.clip(grey * np.float32(hi - lo) + np.float32(lo), 0, 255).astype(np.uint8)
    if site == "b":
        tiles = int(rng.integers(4, 9))
        image = cv2.createCLAHE(float(rng.uniform(0.8, 1.7)), (tiles, tiles)).apply(image)
    _margins(image, site, rng)
    _marks(image, site, rng)
    if site == "b" and rng.random() < 0.12:
        image = 255 - image
    return image


def _margins(image: NDArray[np.uint8], site: str, rng: np.random.Generator) -> None:
    """Collimator blades, straight or askew, and the edge of the detector."""
    height, width = image.shape
    if rng.random() > (0.35 if site == "a" else 0.65):
        return
    black = int(rng.uniform(0, 12))
    deep = 0.035 if site == "a" else 0.06
    askew = rng.normal(0, 0.012 if site == "a" else 0.025)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    for k in range(4):
        if rng.random() < 0.6:
            a, b = corners[k], corners[(k + 1) % 4]
            inward = np.array([-(b - a)[1], (b - a)[0]]) / max(width, height)
            near, far = rng.uniform(0, deep) + np.array([max(0, askew), max(0, -askew)])
            wedge = np.array([a, b, b + inward * max(width, height) * far, a + inward * max(width, height) * near])
            cv2.fillPoly(image, [np.round(wedge * 16).astype(np.int32)], black, cv2.LINE_AA, 4)


def _marks(image: NDArray[np.uint8], site: str, rng: np.random.Generator) -> None:
    """Side letters and text burned in at the edges."""
    height, width = image.shape
    unit = max(height, width) / 512
    ink = int(rng.uniform(215, 255))

    def write(text: str, x: float, y: float, size: float) -> None:
        at = (int(x * width), int(y * height))
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, size * unit, ink, max(1, round(1.4 * unit)), cv2.LINE_AA)

    if rng.random() < 0.75:
        left = rng.random() < 0.8
        x = rng.uniform(0.88, 0.95) if left else rng.uniform(0.02, 0.08)
        y = rng.uniform(0.06, 0.75)
        if rng.random() < 0.35:
            corner = (int((x - 0.012) * width), int((y - 0.055) * height))
            box = image[corner[1] : corner[1] + int(36 * unit), corner[0] : corner[0] + int(24 * unit)]
            box[:] = (box // 2 + 60).astype(np.uint8)
        write("L" if left else "R", x, y, rng.uniform(0.5, 0.8))
    if site == "b":
        text = str(rng.choice(["AP SUPINE", "PORTABLE", "BED", "AP SITTING", "ICU"]))
        write(text, rng.uniform(0.02, 0.6), rng.choice([0.05, 0.97]), rng.uniform(0.35, 0.5))
    elif rng.random() < 0.3:
        write(
            str(rng.choice(["AP", "SUPINE", "MOBILE", "ERECT"])), rng.uniform(0.03, 0.75), 0.05, rng.uniform(0.3, 0.45)
        )
