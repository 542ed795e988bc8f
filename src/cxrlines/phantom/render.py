"""From a scene to a film: thickness becomes attenuation, attenuation dose, dose a processed 8-bit picture.

`difficulty` (0 easy, 0.5 about a portable intensive-care film, 1 harder than real) sets three things:

- contrast of the devices, relative to 0.5: 2 ** (3.6 * (0.5 - difficulty)), above 0.5 with 1.6 in place of 3.6;
- clutter: the expected number of distractors is multiplied by 0.2 + 1.6 * difficulty, disease by 0.5 + difficulty;
- noise: its standard deviation is multiplied by 4 ** (difficulty - 0.5).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxrlines.phantom import detector
from cxrlines.phantom.instruments import draw_clutter, draw_lines
from cxrlines.phantom.raster import Field, Raster, enlarge
from cxrlines.phantom.scene import Scene
from cxrlines.phantom.tissue import airway, bones, chest_wall, soft_tissue, vessels


@dataclass(frozen=True)
class Difficulty:
    """What a difficulty of 0 to 1 means."""

    contrast: float  # of the devices
    clutter: float
    disease: float
    noise: float

    @classmethod
    def of(cls, value: float) -> "Difficulty":
        """The factors of a difficulty, each 1 at 0.5."""
        steep = 3.6 if value < 0.5 else 1.6
        return cls(2 ** (steep * (0.5 - value)), 0.2 + 1.6 * value, 0.5 + value, 4 ** (value - 0.5))


def render(scene: Scene, *, difficulty: float, site: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The film of a scene, (height, width) uint8, bone white (a few films of site b are inverted)."""
    level = Difficulty.of(difficulty)
    (for_lines,) = rng.spawn(1)  # of their own, so that the same film without its lines is else the same film
    anatomy, view = scene.anatomy, scene.view
    coarse = Raster(view, 0.34, anatomy.scale)  # what is smooth is drawn small
    half = Raster(view, 0.5, anatomy.scale)
    full = Raster(view, 1.0, anatomy.scale)

    disease = min(1.0, float(rng.beta(1.1, 1.3)) * level.disease)
    tissue, aerated = soft_tissue(coarse, anatomy, disease, rng)
    scattered, primary = _scatter(coarse, tissue, rng)
    detail = bones(half, anatomy, rng) - airway(half, anatomy, rng) + chest_wall(half, anatomy, rng)
    marks = vessels(half, rng) + half.clouds(rng, 64, 2) * np.float32(rng.uniform(0.02, 0.05) + 0.025 * disease)
    detail += marks * enlarge(aerated, half.shape)
    detail *= enlarge(np.sqrt(primary), half.shape)

    lines = draw_lines(Raster(view, 1.0), scene.lines, for_lines)
    clutter = draw_clutter(full, anatomy, level.clutter, rng)
    sharp = 0.035 * rng.uniform(0.8, 1.4)  # cm: focal spot and detector
    seen = np.float32(0.50 * level.contrast / 255)
    hard = full.blur(lines, sharp).astype(np.float32) * seen
    hard += full.blur(clutter, sharp).astype(np.float32) * np.float32(0.55 / 255)

    film = enlarge(detector.equalise(coarse, scattered, rng), half.shape) + detail
    film += (film - half.blur(film, 0.6)) * np.float32(rng.uniform(0.3, 0.9))  # the processor's detail enhancement
    film = enlarge(film, view.shape)
    film += hard * np.sqrt(enlarge(primary, view.shape))
    noise = rng.standard_normal(view.shape, np.float32)
    dose = rng.uniform(0.009, 0.020) * level.noise
    film += full.blur(noise, 0.03) * enlarge(np.exp(scattered * 0.5), view.shape) * np.float32(dose)
    return detector.develop(film, aerated, site, rng)


def _scatter(grid: Raster, tissue: Field, rng: np.random.Generator) -> tuple[Field, Field]:
    """Attenuation with scatter mixed in, and the share of primary radiation: what is left of a detail's contrast."""
    direct = np.exp(-tissue)
    stray = grid.blur(direct, 3.0) * np.float32(rng.uniform(0.25, 0.5)) + np.float32(0.01)
    return -np.log(direct + stray), direct / (direct + stray)
