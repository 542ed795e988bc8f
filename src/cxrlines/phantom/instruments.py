"""Tubes and lines of the phantom as images of attenuation."""

import numpy as np
from cv2 import add

from cxrlines.core.polyline import Points, resample
from cxrlines.phantom.canvas import Coverage, Raster, cut, offset, smooth
from cxrlines.phantom.scene import Line
from cxrlines.task import Device


def draw_lines(grid: Raster, lines: tuple[Line, ...], rng: np.random.Generator) -> Coverage:
    """The devices of a film as one image of attenuation, 255 = 1; where they cross they add up.

    `grid` draws true cm. Sizes: ETT outer diameter 10-11.5 mm with a radio-opaque stripe; NGT 4-5.5 mm with a
    stripe that is broken at the side hole, or a thin feeding tube; CVC 1.6-2.6 mm; Swan-Ganz 2.3 mm.
    """
    total = grid.blank()
    for line in lines:
        image = grid.blank()
        path = resample(line.placed.path, 0.25)
        strength = rng.uniform(0.75, 1.15)
        _DRAWERS[line.placed.device](grid, image, path, line.placed.route, strength, rng)
        total = add(total, image)
    return total


def _ett(grid: Raster, image: Coverage, path: Points, _route: str, strength: float, rng: np.random.Generator) -> None:
    radius = rng.uniform(0.5, 0.57)
    grid.stroke(image, [path], 2 * radius, 16 * strength)
    one, other = offset(path, radius), offset(path, -radius)[: max(2, len(path) - 2)]
    grid.stroke(image, [one, other, np.stack([one[-1], other[-1]])], 0.1, 95 * strength)
    grid.stroke(image, [offset(path, radius * rng.uniform(-0.45, 0.45))], 0.17, 165 * strength)


def _ngt(grid: Raster, image: Coverage, path: Points, _route: str, strength: float, rng: np.random.Generator) -> None:
    if rng.random() < 0.3:  # feeding tube: thin, dense, weighted tip
        grid.stroke(image, [path], 0.27, 125 * strength)
        grid.stroke(image, [path[-8:]], 0.32, 165 * strength)
        return
    radius = rng.uniform(0.2, 0.27)
    grid.stroke(image, [path], 2 * radius, 26 * strength)
    grid.stroke(image, [offset(path, radius), offset(path, -radius)], 0.08, 42 * strength)
    stripe = offset(path, radius * rng.uniform(-0.4, 0.4))
    hole = max(4, len(stripe) - int(rng.uniform(14, 30)))
    parts = [stripe[: hole - 1], stripe[hole + 2 :]] if hole + 4 < len(stripe) else [stripe]
    grid.stroke(image, parts, 0.16, 140 * strength)


def _cvc(grid: Raster, image: Coverage, path: Points, route: str, strength: float, rng: np.random.Generator) -> None:
    if route.startswith("dialysis"):
        grid.stroke(image, [path], 0.44, 95 * strength)
        grid.stroke(image, [offset(path, 0.2), offset(path, -0.2), path], 0.09, 150 * strength)
        return
    width = rng.uniform(0.15, 0.19) if route.startswith("picc") else rng.uniform(0.2, 0.26)
    grid.stroke(image, [path], width, rng.uniform(110, 150) * strength)
    if route.startswith("port"):
        grid.disc(image, path[0] + [0, 1.2], 1.25, 140 * strength)
        grid.disc(image, path[0] + [0, 1.2], 0.75, 75 * strength)
        grid.disc(image, path[0] + [0, 1.2], 1.25, 190 * strength, pen=0.16)
    elif route.startswith(("jugular", "subclavian")) and rng.random() < 0.6:
        hub = cut(path, 1.0)
        grid.stroke(image, [hub], 0.45, 120 * strength)
        for side in (-1, 1):
            tail = hub[0] + np.array([[0, 0], [side * 1.2, -1.0], [side * 2.0 + 0.4, -2.6]])
            grid.stroke(image, [smooth(tail)], 0.16, 90 * strength)


def _swan(grid: Raster, image: Coverage, path: Points, _route: str, strength: float, _rng: np.random.Generator) -> None:
    grid.stroke(image, [path], 0.23, 120 * strength)
    sheath = path[path[:, 1] < -6.0]
    if len(sheath) > 2:
        grid.stroke(image, [sheath], 0.32, 135 * strength)


_DRAWERS = {Device.ETT: _ett, Device.NGT: _ngt, Device.CVC: _cvc, Device.SWAN: _swan}
