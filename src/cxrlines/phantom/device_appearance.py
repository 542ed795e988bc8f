"""How tubes and lines of many makers look: each device drawn with a look drawn at random, wider than `instruments`.

Attenuation images as there: 255 = 1, in true cm. What varies: widths, which parts are radio-opaque (walls, filling,
stripe, wire spiral, core), where the stripe lies and is broken, hubs, ports, weights, and where a line fades.
Strengths and widths are such that drawn lines are as thick and as faint as real ones (docs/phantom.md).
"""

import cv2
import numpy as np

from cxrlines.core.polyline import Points, lengths, resample
from cxrlines.phantom.canvas import Coverage, Field, Raster, View, cut, offset, smooth
from cxrlines.phantom.devices import Placed
from cxrlines.phantom.distractors import needle_line
from cxrlines.phantom.scene import Line
from cxrlines.task import Device

_STEP = 0.25  # cm
_STRENGTH = {Device.ETT: 1.35, Device.NGT: 0.8, Device.SWAN: 1.1}
_FADING = {Device.ETT: 0.1, Device.NGT: 0.3, Device.CVC: 0.12, Device.SWAN: 0.12}  # relative, standard deviation
FINE = 3.0  # px of the drawing's grid per px of the film


def draw_devices(view: View, lines: tuple[Line, ...], rng: np.random.Generator) -> Field:
    """The devices of a film as one image of attenuation, (height, width) float32, each of its own look and strength.

    1 is the attenuation of 255 in the images of `instruments`. Drawn on a grid finer than the film. Outer diameters
    in mm: tracheal tube 8 to 11.5, nasogastric tube 2.4 to 6, catheter 1.2 to 3.2 (dialysis 3.6 to 4.8), Swan-Ganz
    1.9 to 2.8; what is opaque of a tracheal or nasogastric tube is mostly a stripe of 0.7 to 1.8.
    """
    grid = Raster(view, FINE, exact=True)
    total = np.zeros(view.shape, np.float32)
    for line in lines:
        device, image = line.placed.device, grid.blank()
        _DRAW[device](grid, image, resample(line.placed.path, _STEP), line.placed, rng)
        strength = _STRENGTH.get(device, 1.0) * float(np.exp(rng.normal(0, 0.25)))
        clouds = np.clip((1 + _FADING[device] * Raster(view, 0.1).clouds(rng, 9)) * strength, 0.1, None)
        total += shrink(image, view.shape) * cv2.resize(clouds, view.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return total


def shrink(image: Coverage, shape: tuple[int, int]) -> Field:
    """A coverage image on the film's grid, (height, width), as attenuation."""
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) * np.float32(1 / 255)


def _ett(grid: Raster, image: Coverage, path: Points, _placed: Placed, rng: np.random.Generator) -> None:
    u = rng.uniform
    radius = u(0.4, 0.575)
    if rng.random() < 0.6:
        grid.stroke(image, [path], 2 * radius, u(3, 22))
    striped = rng.random() < 0.92
    if rng.random() < (0.7 if striped else 1.0):
        bevel = len(path) - int(u(0, 4))
        walls = [offset(path, radius - 0.05), offset(path, 0.05 - radius)[: max(2, bevel)]]
        grid.stroke(image, walls, u(0.06, 0.12), u(20, 90))
        if rng.random() < 0.7:
            grid.stroke(image, [np.stack([walls[0][-1], walls[1][-1]])], 0.08, u(15, 70))
    if striped:
        ends = max(2, len(path) - int(u(0, 4)))  # some stripes end at the side hole
        side = radius * (u(-0.7, 0.7) if rng.random() < 0.5 else rng.choice([-1, 1]) * u(0.6, 0.95))
        grid.stroke(image, [offset(path, side)[:ends]], u(0.08, 0.18), u(110, 225))
    if rng.random() < 0.08:  # wire-reinforced
        fine = resample(path, u(0.12, 0.2))
        sides = np.where(np.arange(len(fine)) % 2, radius, -radius)[:, None]
        across = offset(fine, 1.0) - fine
        grid.stroke(image, [(fine + across * sides)[: -int(u(4, 12))]], 0.06, u(80, 170))


def _ngt(grid: Raster, image: Coverage, path: Points, _placed: Placed, rng: np.random.Generator) -> None:
    u = rng.uniform
    make = rng.random()
    if make < 0.2:  # a feeding tube, opaque all through
        width = u(0.24, 0.34)
        grid.stroke(image, [path], width, u(45, 110))
        if rng.random() < 0.5:  # its tip weighted
            weight = path[-int(u(6, 16)) :]
            grid.stroke(image, [weight], width * u(1.0, 1.4), u(140, 220))
        if rng.random() < 0.25:  # guide wire left in
            grid.stroke(image, [path], 0.07, u(90, 200))
        return
    radius = u(0.18, 0.3)
    if make < 0.8:
        grid.stroke(image, [path], 2 * radius, u(2, 20))
        grid.stroke(image, [offset(path, radius - 0.04), offset(path, 0.04 - radius)], u(0.05, 0.09), u(8, 50))
    stripe = offset(path, radius * u(-0.8, 0.8))
    grid.stroke(image, _broken(stripe, rng), u(0.06, 0.12), u(60, 190))


def _broken(stripe: Points, rng: np.random.Generator) -> list[Points]:
    """A stripe interrupted at side holes near its end, or not at all."""
    holes = int(rng.choice([0, 1, 3, 6], p=[0.35, 0.35, 0.2, 0.1]))
    if not holes or len(stripe) < 60:
        return [stripe]
    at = len(stripe) - int(rng.uniform(14, 30)) + 6 * np.arange(holes)
    parts = [part[2:] for part in np.split(stripe, at[at < len(stripe) - 4])]
    return [part for part in parts if len(part) > 1]


def _cvc(grid: Raster, image: Coverage, path: Points, placed: Placed, rng: np.random.Generator) -> None:
    """A catheter as its access has it: dialysis thick with two lumens, from the arm thin, with a chamber or a hub."""
    u, access = rng.uniform, placed.route.split()[0]
    if access == "dialysis":
        _two_lumens(grid, image, path, rng)
        return
    width = {"picc": u(0.12, 0.19), "port": u(0.17, 0.26)}.get(access, u(0.15, 0.26))
    ink = u(60, 170)
    if access == "port":
        _chamber(grid, image, path[0], rng)
    grid.stroke(image, [path], width, ink)
    if rng.random() < 0.25:  # walls show more than the lumen
        side = max(width / 2 - 0.03, 0.03)
        grid.stroke(image, [offset(path, side), offset(path, -side)], 0.06, min(255, ink * u(1.1, 1.5)))
    if access in ("jugular", "subclavian"):
        if rng.random() < 0.15:  # several lumens: thinner towards the tip
            thick = cut(path, float(lengths(path)[-1]) - u(2, 6))
            grid.stroke(image, [thick], min(0.32, width * u(1.2, 1.5)), ink)
        if rng.random() < 0.6:
            _hub(grid, image, path, rng)
    if rng.random() < 0.15:
        grid.stroke(image, [path[-int(u(2, 4)) :]], width * u(1.0, 1.3), min(255, ink * u(1.2, 1.8)))


def _two_lumens(grid: Raster, image: Coverage, path: Points, rng: np.random.Generator) -> None:
    u = rng.uniform
    width, ink = u(0.36, 0.48), u(35, 90)
    grid.stroke(image, [path], width, ink)
    side = width / 2 - 0.05
    walls = [offset(path, side), offset(path, -side), path]
    grid.stroke(image, walls[: rng.integers(2, 4)], 0.09, ink * u(1.4, 2.0))
    if rng.random() < 0.5:  # its two tips end apart
        grid.stroke(image, [path[-int(u(6, 14)) :]], width * 0.6, ink * 1.2)


def _chamber(grid: Raster, image: Coverage, start: Points, rng: np.random.Generator) -> None:
    """A port below the start of its catheter, often with a needle in it and the needle's line."""
    u = rng.uniform
    radius, ink = u(0.9, 1.35), u(60, 150)
    centre = start + np.array([0, radius * u(0.8, 1.0)])
    if rng.random() < 0.8:
        grid.disc(image, centre, radius, ink)
        grid.disc(image, centre, radius * u(0.4, 0.65), ink * u(0.4, 0.8))
    grid.disc(image, centre, radius, min(255, ink * u(1.2, 1.6)), pen=u(0.1, 0.22))
    if rng.random() < 0.4:
        line = needle_line(centre, rng)
        grid.stroke(image, [line], u(0.1, 0.18), u(40, 100))
        grid.stroke(image, [centre + rng.normal(0, 0.3, (2, 2)) * [[0, 0], [1, 2]]], 0.1, 220)


def _hub(grid: Raster, image: Coverage, path: Points, rng: np.random.Generator) -> None:
    """Where the catheter leaves the skin: its hub and the limbs beyond, often with clamps."""
    u = rng.uniform
    hub = cut(path, u(0.7, 1.5))
    grid.stroke(image, [hub], u(0.3, 0.5), u(60, 130))
    ink, wide = u(40, 100), u(0.12, 0.2)
    for side in np.linspace(-1, 1, int(rng.integers(2, 4))):
        tail = hub[0] + np.array([[0, 0], [side * 1.2, -1.0], [side * 2.0 + 0.4, -2.6]]) * u(0.8, 1.3)
        grid.stroke(image, [smooth(tail)], wide, ink)
        if rng.random() < 0.4:
            grid.stroke(image, [tail[1:]], wide * 2.2, min(255, ink * 1.4))


def _swan(grid: Raster, image: Coverage, path: Points, _placed: Placed, rng: np.random.Generator) -> None:
    u = rng.uniform
    grid.stroke(image, [path], u(0.19, 0.28), u(60, 150))
    sheath = path[path[:, 1] < -u(3.0, 8.0)]
    if len(sheath) > 2 and rng.random() < 0.7:
        grid.stroke(image, [sheath], u(0.28, 0.4), u(60, 150))


_DRAW = {Device.ETT: _ett, Device.NGT: _ngt, Device.CVC: _cvc, Device.SWAN: _swan}
