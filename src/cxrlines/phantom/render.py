"""From a scene to a film: thickness becomes attenuation, attenuation dose, dose a processed 8-bit picture.

`difficulty` (0 easy, 0.5 about a portable intensive-care film, 1 harder than real) sets three things:

- contrast of the devices, relative to 0.5: 2 ** (3.6 * (0.5 - difficulty)), above 0.5 with 1.6 in place of 3.6;
- clutter: the expected number of distractors is multiplied by 0.2 + 1.6 * difficulty, disease by 0.5 + difficulty;
- noise: its standard deviation is multiplied by 4 ** (difficulty - 0.5).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrlines.phantom.canvas import Field, Raster, attenuation, enlarge
from cxrlines.phantom.distractors import draw_clutter
from cxrlines.phantom.instruments import draw_lines
from cxrlines.phantom.scene import Scene
from cxrlines.phantom.tissue import airway, bones, chest_wall, soft_tissue, vessels
from cxrlines.task import Device

_COARSE, _HALF = 0.34, 0.5  # grid px per film px: of what is smooth, of bones, airway and vessels
_DISEASE = (1.1, 1.3)  # of the beta distribution
_STRAY, _STRAY_REACH, _STRAY_LEAST = (0.25, 0.5), 3.0, 0.01  # share of scatter, cm it spreads (SD), dose everywhere
_DEVICE, _CLUTTER = 0.50, 0.55  # attenuation of an ink of 255, devices' at difficulty 0.5
_FOCAL_SPOT = 0.035  # cm, standard deviation of the blur of focal spot and detector
_EVEN, _EVEN_REACH = (0.4, 0.8), 5.0  # share of broad contrast taken away, cm (SD)
_ENHANCED, _ENHANCED_REACH = (0.3, 0.9), 0.6  # share of detail added, cm (SD)
_NOISE, _GRAIN = (0.009, 0.020), 0.03  # standard deviation in natural log behind little tissue, cm of its blur

_LUNG, _BONE = (0.32, 0.54), (0.68, 0.82)  # grey, 0 to 1, of the median of aerated lung and of
_BRIGHT = 93  # this percentile of the film
_AERATED = 0.6  # share of air from which a px counts as lung
_LEAST_SPAN = 0.6  # attenuation between the two: less is taken for so much
_TOE = (0.2, 0.4)  # grey over which what is darker than lung is compressed
_SHOULDER, _SLOPE = 0.56, 2.2  # of the curve in tanh: 1.12 high, of slope 1.23 in the middle
_BLACK, _WHITE = (0, 18), (222, 255)  # grey values of the film's darkest and brightest
_SHARPENED = (0.1, 0.45)  # site b: share of detail added
_CLAHE = (0.8, 1.7)  # site b: clip limit of the local equalisation
_INVERTED = 0.12  # share of the films of site b

# By site: share of films with margins, the widest one as a share of the side, SD of the blades' tilt likewise.
_MARGINS = {"a": (0.35, 0.035, 0.012), "b": (0.65, 0.06, 0.025)}
_BLADE = 0.6  # share of the sides of such a film that have a margin
_SIDE_LETTER, _LEFT_LETTER, _BOXED = 0.75, 0.8, 0.35  # shares: of films with one, of those an L, of those on a box
_TEXT = 0.3  # share of the films of site a with text; those of b all have some
_TEXTS = {"a": ["AP", "SUPINE", "MOBILE", "ERECT"], "b": ["AP SUPINE", "PORTABLE", "BED", "AP SITTING", "ICU"]}


def render(scene: Scene, *, difficulty: float, site: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The film of a scene, (height, width) uint8, bone white (a few films of site b are inverted)."""
    (for_lines,) = rng.spawn(1)  # of their own: without its lines a film is otherwise the same
    anatomy, view = scene.anatomy, scene.view
    coarse = Raster(view, _COARSE, anatomy.scale)
    half = Raster(view, _HALF, anatomy.scale)
    full = Raster(view, 1.0, anatomy.scale)

    disease = min(1.0, float(rng.beta(*_DISEASE)) * (0.5 + difficulty))
    tissue, aerated = soft_tissue(coarse, anatomy, disease, rng)
    direct = np.exp(-tissue)
    stray = coarse.blur(direct, _STRAY_REACH) * np.float32(rng.uniform(*_STRAY)) + np.float32(_STRAY_LEAST)
    scattered, primary = -np.log(direct + stray), direct / (direct + stray)  # what is left of a detail's contrast
    detail = _anatomical_detail(half, scene, aerated, disease, rng) * enlarge(np.sqrt(primary), half.shape)
    things = _things(full, scene, difficulty, for_lines, rng)

    # Broad contrast is partly taken away, as radiography processors do to show lung and mediastinum at once.
    even = scattered - coarse.blur(scattered, _EVEN_REACH) * np.float32(rng.uniform(*_EVEN))
    film = enlarge(even, half.shape) + detail
    film += (film - half.blur(film, _ENHANCED_REACH)) * np.float32(rng.uniform(*_ENHANCED))
    film = enlarge(film, view.shape)
    film += things * np.sqrt(enlarge(primary, view.shape))
    noise = rng.standard_normal(view.shape, np.float32)
    level = rng.uniform(*_NOISE) * 4 ** (difficulty - 0.5)
    film += full.blur(noise, _GRAIN) * enlarge(np.exp(scattered * 0.5), view.shape) * np.float32(level)
    return _develop(film, aerated, site, rng)


def _anatomical_detail(grid: Raster, scene: Scene, aerated: Field, disease: float, rng: np.random.Generator) -> Field:
    """Attenuation of bones, airway and chest wall, and within lung of vessels and interstitium."""
    anatomy = scene.anatomy
    detail = bones(grid, anatomy, rng) - airway(grid, anatomy, rng) + chest_wall(grid, anatomy, rng)
    in_lung = vessels(grid, rng) + grid.clouds(rng, 64, 2) * np.float32(rng.uniform(0.02, 0.05) + 0.025 * disease)
    detail += in_lung * enlarge(aerated, grid.shape)
    return detail


def _things(
    grid: Raster, scene: Scene, difficulty: float, for_lines: np.random.Generator, rng: np.random.Generator
) -> Field:
    """Attenuation of the devices, drawn with `for_lines`, and of the distractors."""
    contrast = 2 ** ((3.6 if difficulty < 0.5 else 1.6) * (0.5 - difficulty))
    lines = draw_lines(Raster(scene.view, 1.0), scene.lines, for_lines)
    intubated = any(line.placed.device is Device.ETT for line in scene.lines)
    clutter = draw_clutter(grid, scene.anatomy, 0.2 + 1.6 * difficulty, rng, intubated=intubated)
    sharp = _FOCAL_SPOT * rng.uniform(0.8, 1.4)
    things = attenuation(grid.blur(lines, sharp), _DEVICE * contrast)
    things += attenuation(grid.blur(clutter, sharp), _CLUTTER)
    return things


def _develop(film: Field, aerated: Field, site: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey values from processed attenuation: exposure set by lung and bone, a film-like curve, site's own looks."""
    small = cv2.resize(film, aerated.shape[::-1], interpolation=cv2.INTER_AREA)
    inside = aerated > _AERATED
    lung = float(np.median(small[inside])) if inside.any() else float(small.mean())
    bright = float(np.percentile(small, _BRIGHT))
    span = max(bright - lung, _LEAST_SPAN)
    dark, light = rng.uniform(*_LUNG), rng.uniform(*_BONE)
    grey = (film - np.float32(lung)) * np.float32((light - dark) / span) + np.float32(dark)
    if site == "b":
        grey += (grey - cv2.GaussianBlur(grey, (0, 0), max(grey.shape) / 200)) * np.float32(rng.uniform(*_SHARPENED))
    # What is darker than lung (arms, air beside the patient) is compressed, as in a film's toe.
    toe = np.float32(rng.uniform(*_TOE))
    below = np.minimum(grey - np.float32(dark), 0)
    grey -= below + toe * (1 - np.exp(below / toe))
    # Nearly linear in the middle, with a soft shoulder towards white and black.
    grey = 0.5 + _SHOULDER * np.tanh((grey - 0.5) * _SLOPE)
    lo, hi = rng.uniform(*_BLACK), rng.uniform(*_WHITE)
    image = np.clip(grey * np.float32(hi - lo) + np.float32(lo), 0, 255).astype(np.uint8)
    if site == "b":
        tiles = int(rng.integers(4, 9))
        image = cv2.createCLAHE(float(rng.uniform(*_CLAHE)), (tiles, tiles)).apply(image)
    _margins(image, site, rng)
    _marks(image, site, rng)
    if site == "b" and rng.random() < _INVERTED:
        image = 255 - image
    return image


def _margins(image: NDArray[np.uint8], site: str, rng: np.random.Generator) -> None:
    """Collimator blades, straight or askew, and the edge of the detector."""
    height, width = image.shape
    share, deep, tilt = _MARGINS[site]
    if rng.random() > share:
        return
    black = int(rng.uniform(0, 12))
    askew = rng.normal(0, tilt)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    for k in range(4):
        if rng.random() < _BLADE:
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

    if rng.random() < _SIDE_LETTER:
        left = rng.random() < _LEFT_LETTER
        x = rng.uniform(0.88, 0.95) if left else rng.uniform(0.02, 0.08)
        y = rng.uniform(0.06, 0.75)
        if rng.random() < _BOXED:
            corner = (int((x - 0.012) * width), int((y - 0.055) * height))
            box = image[corner[1] : corner[1] + int(36 * unit), corner[0] : corner[0] + int(24 * unit)]
            box[:] = (box // 2 + 60).astype(np.uint8)
        write("L" if left else "R", x, y, rng.uniform(0.5, 0.8))
    if site == "b":
        text = str(rng.choice(_TEXTS[site]))
        write(text, rng.uniform(0.02, 0.6), rng.choice([0.05, 0.97]), rng.uniform(0.35, 0.5))
    elif rng.random() < _TEXT:
        text = str(rng.choice(_TEXTS[site]))
        write(text, rng.uniform(0.03, 0.75), 0.05, rng.uniform(0.3, 0.45))
