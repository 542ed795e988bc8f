"""How tubes and lines of many makers look: each device drawn with a look drawn at random, wider than `instruments`.

Attenuation images as there: 255 = 1, in true cm. What varies: widths, which parts are radio-opaque (walls, filling,
stripe, wire spiral, core), where the stripe lies and is broken, hubs and weights.
"""

import cv2
import numpy as np

from cxrlines.core.polyline import Points, lengths, resample
from cxrlines.phantom.canvas import Coverage, Field, Raster, View, cut, offset
from cxrlines.phantom.instruments import draw_lines
from cxrlines.phantom.scene import Line
from cxrlines.task import Device

_PLAIN = 0.3  # share drawn as the phantom draws them
_STEP = 0.25  # cm
_STRENGTH = {Device.ETT: 1.3}  # so that they stand out as real ones do (docs/phantom.md)
FINE = 3.0  # px of the drawing's grid per px of the film


def draw_devices(view: View, lines: tuple[Line, ...], rng: np.random.Generator) -> Field:
    """The devices of a film as one image of attenuation, (height, width) float32, each of its own look and strength.

    1 is the attenuation of 255 in the images of `instruments`. Drawn on a grid finer than the film.
    """
    grid = Raster(view, FINE, exact=True)
    total = np.zeros(view.shape, np.float32)
    for line in lines:
        device = line.placed.device
        if rng.random() < _PLAIN:
            image = draw_lines(grid, (line,), rng)
        else:
            image = grid.blank()
            _DRAW[device](grid, image, resample(line.placed.path, _STEP), rng)
        strength = _STRENGTH.get(device, 1.0) * float(np.exp(rng.normal(0, 0.28)))
        total += shrink(image, view.shape) * np.float32(strength)
    return total


def shrink(image: Coverage, shape: tuple[int, int]) -> Field:
    """A coverage image on the film's grid, (height, width), as attenuation."""
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(1 / 255)


def _ett(grid: Raster, image: Coverage, path: Points, rng: np.random.Generator) -> None:
    u = rng.uniform
    radius = u(0.36, 0.6)
    if rng.random() < 0.6:
        grid.stroke(image, [path], 2 * radius, u(3, 24))
    striped = rng.random() < 0.92
    if rng.random() < (0.7 if striped else 1.0):
        bevel = len(path) - int(u(0, 4))
        walls = [offset(path, radius), offset(path, -radius)[: max(2, bevel)]]
        grid.stroke(image, walls, u(0.06, 0.13), u(30, 120))
        if rng.random() < 0.7:
            grid.stroke(image, [np.stack([walls[0][-1], walls[1][-1]])], 0.08, u(20, 90))
    if striped:
        ends = max(2, len(path) - int(u(0, 4)))  # some stripes end at the side hole
        grid.stroke(image, [offset(path, radius * u(-0.7, 0.7))[:ends]], u(0.10, 0.21), u(100, 225))
    if rng.random() < 0.08:  # wire-reinforced
        fine = resample(path, u(0.12, 0.2))
        side = np.where(np.arange(len(fine)) % 2, radius, -radius)[:, None]
        across = offset(fine, 1.0) - fine
        grid.stroke(image, [(fine + across * side)[: -int(u(4, 12))]], 0.06, u(80, 170))


def _ngt(grid: Raster, image: Coverage, path: Points, rng: np.random.Generator) -> None:
    u = rng.uniform
    make = rng.random()
    if make < 0.35:  # opaque all through
        width = u(0.15, 0.34)
        grid.stroke(image, [path], width, u(60, 150))
        if rng.random() < 0.4:
            grid.stroke(image, [path[-int(u(4, 14)) :]], width * u(1.0, 1.4), u(140, 220))
        if rng.random() < 0.3:  # guide wire left in
            grid.stroke(image, [path], 0.07, u(90, 200))
        return
    radius = u(0.17, 0.33)
    grid.stroke(image, [path], 2 * radius, u(4, 32))
    if make < 0.8:
        grid.stroke(image, [offset(path, radius), offset(path, -radius)], u(0.06, 0.1), u(15, 90))
    stripe = offset(path, radius * u(-0.7, 0.7))
    grid.stroke(image, _broken(stripe, rng), u(0.07, 0.16), u(70, 200))


def _broken(stripe: Points, rng: np.random.Generator) -> list[Points]:
    """A stripe interrupted at side holes near its end, or not at all."""
    holes = int(rng.choice([0, 1, 3, 6], p=[0.35, 0.35, 0.2, 0.1]))
    if not holes or len(stripe) < 60:
        return [stripe]
    at = len(stripe) - int(rng.uniform(14, 30)) + 6 * np.arange(holes)
    parts = [part[2:] for part in np.split(stripe, at[at < len(stripe) - 4])]
    return [part for part in parts if len(part) > 1]


def _cvc(grid: Raster, image: Coverage, path: Points, rng: np.random.Generator) -> None:
    u = rng.uniform
    width = u(0.12, 0.30)
    grid.stroke(image, [path], width, u(50, 170))
    if rng.random() < 0.3:  # walls show more than the lumen
        grid.stroke(image, [offset(path, width / 2), offset(path, -width / 2)], 0.06, u(30, 110))
    if rng.random() < 0.15:  # several lumens: thinner towards the tip
        thick = cut(path, float(lengths(path)[-1]) - u(2, 6))
        grid.stroke(image, [thick], width * u(1.2, 1.6), u(30, 80))
    if rng.random() < 0.2:
        grid.stroke(image, [path[-int(u(2, 4)) :]], width * u(1.0, 1.3), u(100, 200))


def _swan(grid: Raster, image: Coverage, path: Points, rng: np.random.Generator) -> None:
    u = rng.uniform
    grid.stroke(image, [path], u(0.19, 0.28), u(70, 170))
    sheath = path[path[:, 1] < -u(3.0, 8.0)]
    if len(sheath) > 2 and rng.random() < 0.7:
        grid.stroke(image, [sheath], u(0.28, 0.4), u(60, 150))


_DRAW = {Device.ETT: _ett, Device.NGT: _ngt, Device.CVC: _cvc, Device.SWAN: _swan}
