"""From a scene to a film: thickness becomes attenuation, attenuation dose, dose a processed 8-bit picture.

`difficulty` (0 easy, 0.5 about a portable intensive-care film, 1 harder than real) sets three things:

- contrast of the devices, relative to 0.5: 2 ** (3.6 * (0.5 - difficulty)), above 0.5 with 1.6 in place of 3.6;
- clutter: the expected number of distractors is multiplied by 0.2 + 1.6 * difficulty, disease by 0.5 + difficulty;
- noise: its standard deviation is multiplied by 4 ** (difficulty - 0.5).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrlines.phantom.canvas import Field, Raster, enlarge
from cxrlines.phantom.distractors import draw_clutter
from cxrlines.phantom.instruments import draw_lines
from cxrlines.phantom.scene import Scene
from cxrlines.phantom.tissue import airway, bones, chest_wall, soft_tissue, vessels
from cxrlines.task import Device


def render(scene: Scene, *, difficulty: float, site: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The film of a scene, (height, width) uint8, bone white (a few films of site b are inverted)."""
    contrast = 2 ** ((3.6 if difficulty < 0.5 else 1.6) * (0.5 - difficulty))
    (for_lines,) = rng.spawn(1)  # of their own, so that the same film without its lines is else the same film
    anatomy, view = scene.anatomy, scene.view
    coarse = Raster(view, 0.34, anatomy.scale)  # what is smooth is drawn small
    half = Raster(view, 0.5, anatomy.scale)
    full = Raster(view, 1.0, anatomy.scale)

    disease = min(1.0, float(rng.beta(1.1, 1.3)) * (0.5 + difficulty))
    tissue, aerated = soft_tissue(coarse, anatomy, disease, rng)
    direct = np.exp(-tissue)
    stray = coarse.blur(direct, 3.0) * np.float32(rng.uniform(0.25, 0.5)) + np.float32(0.01)
    scattered, primary = -np.log(direct + stray), direct / (direct + stray)  # what is left of a detail's contrast
    detail = bones(half, anatomy, rng) - airway(half, anatomy, rng) + chest_wall(half, anatomy, rng)
    marks = vessels(half, rng) + half.clouds(rng, 64, 2) * np.float32(rng.uniform(0.02, 0.05) + 0.025 * disease)
    detail += marks * enlarge(aerated, half.shape)
    detail *= enlarge(np.sqrt(primary), half.shape)

    lines = draw_lines(Raster(view, 1.0), scene.lines, for_lines)
    intubated = any(line.placed.device is Device.ETT for line in scene.lines)
    clutter = draw_clutter(full, anatomy, 0.2 + 1.6 * difficulty, rng, intubated=intubated)
    sharp = 0.035 * rng.uniform(0.8, 1.4)  # cm: focal spot and detector
    hard = full.blur(lines, sharp).astype(np.float32) * np.float32(0.50 * contrast / 255)
    hard += full.blur(clutter, sharp).astype(np.float32) * np.float32(0.55 / 255)

    # Broad contrast is partly taken away, as radiography processors do to show lung and mediastinum at once.
    even = scattered - coarse.blur(scattered, 5.0) * np.float32(rng.uniform(0.4, 0.8))
    film = enlarge(even, half.shape) + detail
    film += (film - half.blur(film, 0.6)) * np.float32(rng.uniform(0.3, 0.9))  # the processor's detail enhancement
    film = enlarge(film, view.shape)
    film += hard * np.sqrt(enlarge(primary, view.shape))
    noise = rng.standard_normal(view.shape, np.float32)
    dose = rng.uniform(0.009, 0.020) * 4 ** (difficulty - 0.5)
    film += full.blur(noise, 0.03) * enlarge(np.exp(scattered * 0.5), view.shape) * np.float32(dose)
    return _develop(film, aerated, site, rng)


def _develop(film: Field, aerated: Field, site: str, rng: np.random.Generator) -> NDArray[np.uint8]:
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
        text = str(rng.choice(["AP", "SUPINE", "MOBILE", "ERECT"]))
        write(text, rng.uniform(0.03, 0.75), 0.05, rng.uniform(0.3, 0.45))
