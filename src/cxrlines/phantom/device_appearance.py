"""How tubes and lines of many makers look: each device drawn with a look drawn at random, wider than `instruments`.

Attenuation images as there: 255 = 1, in true cm. What varies: widths, which parts are radio-opaque (walls, filling,
stripe, wire spiral, core), where the stripe lies and is broken, hubs, ports, weights, and where a line fades.
Strengths and widths are such that drawn lines are as thick and as faint as real ones (docs/phantom.md).
"""

import cv2
import numpy as np

from cxrlines.core.polyline import Points, lengths, resample
from cxrlines.phantom.canvas import Coverage, Field, Pens, Raster, View, attenuation, cut, offset, smooth
from cxrlines.phantom.devices import Placed
from cxrlines.phantom.distractors import needle_line
from cxrlines.phantom.scene import Line
from cxrlines.task import Device

_STEP = 0.25  # cm
_STRENGTH = {Device.ETT: 1.35, Device.NGT: 0.8, Device.SWAN: 1.1}  # times 1, and as a line differs from others:
_STRENGTH_SPREAD = 0.25  # standard deviation of its logarithm
_FADING = {Device.ETT: 0.1, Device.NGT: 0.3, Device.CVC: 0.12, Device.SWAN: 0.12}  # relative, standard deviation
FINE = 3.0  # px of the drawing's grid per px of the film

# What parts look like, and the shares of devices that have them. Radii, widths in cm.
_ETT_RADIUS = (0.4, 0.575)
_ETT_BODY, _ETT_BODY_INK = 0.6, (3, 22)
_ETT_STRIPED, _ETT_STRIPE = 0.92, Pens((0.08, 0.18), (110, 225))
_ETT_WALLED, _ETT_WALL = 0.7, Pens((0.06, 0.12), (20, 90))  # of those with a stripe; the others all have walls
_ETT_CLOSED, _ETT_CLOSED_INK = 0.7, (15, 70)  # the bevel at the tip
_ETT_REINFORCED, _ETT_TURNS, _ETT_WIRE_INK = 0.08, (0.12, 0.2), (80, 170)  # by a wire spiral with cm between turns

_FEEDING_TUBE, _FEEDING = 0.2, Pens((0.24, 0.34), (45, 110))  # opaque all through
_WEIGHTED, _WEIGHT_INK = 0.5, (140, 220)
_GUIDED, _GUIDE_INK = 0.25, (90, 200)  # the guide wire left in
_NGT_WALLED, _NGT_RADIUS = 0.6, (0.18, 0.3)
_NGT_BODY_INK, _NGT_WALL = (2, 20), Pens((0.05, 0.09), (8, 50))
_NGT_STRIPE = Pens((0.06, 0.12), (60, 190))
_SIDE_HOLES = {0: 0.35, 1: 0.35, 3: 0.2, 6: 0.1}  # count that the stripe shows -> share

_PICC, _PORT_CATHETER, _CATHETER = (0.12, 0.19), (0.17, 0.26), (0.15, 0.26)
_CATHETER_INK = (60, 170)
_CATHETER_WALLED = 0.25  # walls show more than the lumen
_STEPPED, _HUB_SEEN = 0.15, 0.6  # of those in the neck: lumens that end before the tip, and a hub
_TIPPED = 0.15  # a denser tip
_DIALYSIS, _TIPS_APART = Pens((0.36, 0.48), (35, 90)), 0.5
_CHAMBER, _CHAMBER_INK, _CHAMBER_FILLED = (0.9, 1.35), (60, 150), 0.8  # radius
_NEEDLE_IN, _NEEDLE_LINE, _NEEDLE_INK = 0.4, Pens((0.1, 0.18), (40, 100)), 220
_HUB, _LIMB, _CLAMPED = Pens((0.3, 0.5), (60, 130)), Pens((0.12, 0.2), (40, 100)), 0.4
_SWAN, _SHEATHED, _SHEATH = Pens((0.19, 0.28), (60, 150)), 0.7, Pens((0.28, 0.4), (60, 150))


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
        strength = _STRENGTH.get(device, 1.0) * float(np.exp(rng.normal(0, _STRENGTH_SPREAD)))
        clouds = np.clip((1 + _FADING[device] * Raster(view, 0.1).clouds(rng, 9)) * strength, 0.1, None)
        total += shrink(image, view.shape) * cv2.resize(clouds, view.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return total


def shrink(image: Coverage, shape: tuple[int, int]) -> Field:
    """A coverage image on the film's grid, (height, width), as attenuation."""
    return attenuation(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), 1)


def _ett(grid: Raster, image: Coverage, path: Points, _placed: Placed, rng: np.random.Generator) -> None:
    u = rng.uniform
    radius = u(*_ETT_RADIUS)
    if rng.random() < _ETT_BODY:
        grid.stroke(image, [path], 2 * radius, u(*_ETT_BODY_INK))
    striped = rng.random() < _ETT_STRIPED
    if rng.random() < (_ETT_WALLED if striped else 1.0):
        bevel = len(path) - int(u(0, 4))
        walls = [offset(path, radius - 0.05), offset(path, 0.05 - radius)[: max(2, bevel)]]
        grid.stroke(image, walls, *_ETT_WALL.draw(rng))
        if rng.random() < _ETT_CLOSED:
            grid.stroke(image, [np.stack([walls[0][-1], walls[1][-1]])], 0.08, u(*_ETT_CLOSED_INK))
    if striped:
        ends = max(2, len(path) - int(u(0, 4)))  # some stripes end at the side hole
        side = radius * (u(-0.7, 0.7) if rng.random() < 0.5 else rng.choice([-1, 1]) * u(0.6, 0.95))
        grid.stroke(image, [offset(path, side)[:ends]], *_ETT_STRIPE.draw(rng))
    if rng.random() < _ETT_REINFORCED:
        fine = resample(path, u(*_ETT_TURNS))
        sides = np.where(np.arange(len(fine)) % 2, radius, -radius)[:, None]
        across = offset(fine, 1.0) - fine
        grid.stroke(image, [(fine + across * sides)[: -int(u(4, 12))]], 0.06, u(*_ETT_WIRE_INK))


def _ngt(grid: Raster, image: Coverage, path: Points, _placed: Placed, rng: np.random.Generator) -> None:
    u = rng.uniform
    make = rng.random()
    if make < _FEEDING_TUBE:
        width, ink = _FEEDING.draw(rng)
        grid.stroke(image, [path], width, ink)
        if rng.random() < _WEIGHTED:
            weight = path[-int(u(6, 16)) :]
            grid.stroke(image, [weight], width * u(1.0, 1.4), u(*_WEIGHT_INK))
        if rng.random() < _GUIDED:
            grid.stroke(image, [path], 0.07, u(*_GUIDE_INK))
        return
    radius = u(*_NGT_RADIUS)
    if make < _FEEDING_TUBE + _NGT_WALLED:
        grid.stroke(image, [path], 2 * radius, u(*_NGT_BODY_INK))
        grid.stroke(image, [offset(path, radius - 0.04), offset(path, 0.04 - radius)], *_NGT_WALL.draw(rng))
    stripe = offset(path, radius * u(-0.8, 0.8))
    grid.stroke(image, _broken(stripe, rng), *_NGT_STRIPE.draw(rng))


def _broken(stripe: Points, rng: np.random.Generator) -> list[Points]:
    """A stripe interrupted at side holes near its end, or not at all."""
    holes = int(rng.choice(list(_SIDE_HOLES), p=list(_SIDE_HOLES.values())))
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
    width = {"picc": u(*_PICC), "port": u(*_PORT_CATHETER)}.get(access, u(*_CATHETER))
    ink = u(*_CATHETER_INK)
    if access == "port":
        _chamber(grid, image, path[0], rng)
    grid.stroke(image, [path], width, ink)
    if rng.random() < _CATHETER_WALLED:
        side = max(width / 2 - 0.03, 0.03)
        grid.stroke(image, [offset(path, side), offset(path, -side)], 0.06, min(255, ink * u(1.1, 1.5)))
    if access in ("jugular", "subclavian"):
        if rng.random() < _STEPPED:
            thick = cut(path, float(lengths(path)[-1]) - u(2, 6))
            grid.stroke(image, [thick], min(0.32, width * u(1.2, 1.5)), ink)
        if rng.random() < _HUB_SEEN:
            _hub(grid, image, path, rng)
    if rng.random() < _TIPPED:
        grid.stroke(image, [path[-int(u(2, 4)) :]], width * u(1.0, 1.3), min(255, ink * u(1.2, 1.8)))


def _two_lumens(grid: Raster, image: Coverage, path: Points, rng: np.random.Generator) -> None:
    u = rng.uniform
    width, ink = _DIALYSIS.draw(rng)
    grid.stroke(image, [path], width, ink)
    side = width / 2 - 0.05
    walls = [offset(path, side), offset(path, -side), path]
    grid.stroke(image, walls[: rng.integers(2, 4)], 0.09, ink * u(1.4, 2.0))
    if rng.random() < _TIPS_APART:
        grid.stroke(image, [path[-int(u(6, 14)) :]], width * 0.6, ink * 1.2)


def _chamber(grid: Raster, image: Coverage, start: Points, rng: np.random.Generator) -> None:
    """A port below the start of its catheter, often with a needle in it and the needle's line."""
    u = rng.uniform
    radius, ink = u(*_CHAMBER), u(*_CHAMBER_INK)
    centre = start + np.array([0, radius * u(0.8, 1.0)])
    if rng.random() < _CHAMBER_FILLED:
        grid.disc(image, centre, radius, ink)
        grid.disc(image, centre, radius * u(0.4, 0.65), ink * u(0.4, 0.8))
    grid.disc(image, centre, radius, min(255, ink * u(1.2, 1.6)), pen=u(0.1, 0.22))
    if rng.random() < _NEEDLE_IN:
        line = needle_line(centre, rng)
        grid.stroke(image, [line], *_NEEDLE_LINE.draw(rng))
        grid.stroke(image, [centre + rng.normal(0, 0.3, (2, 2)) * [[0, 0], [1, 2]]], 0.1, _NEEDLE_INK)


def _hub(grid: Raster, image: Coverage, path: Points, rng: np.random.Generator) -> None:
    """Where the catheter leaves the skin: its hub and the limbs beyond, often with clamps."""
    u = rng.uniform
    hub = cut(path, u(0.7, 1.5))
    grid.stroke(image, [hub], *_HUB.draw(rng))
    ink, wide = u(*_LIMB.ink), u(*_LIMB.width)
    for side in np.linspace(-1, 1, int(rng.integers(2, 4))):
        tail = hub[0] + np.array([[0, 0], [side * 1.2, -1.0], [side * 2.0 + 0.4, -2.6]]) * u(0.8, 1.3)
        grid.stroke(image, [smooth(tail)], wide, ink)
        if rng.random() < _CLAMPED:
            grid.stroke(image, [tail[1:]], wide * 2.2, min(255, ink * 1.4))


def _swan(grid: Raster, image: Coverage, path: Points, _placed: Placed, rng: np.random.Generator) -> None:
    u = rng.uniform
    grid.stroke(image, [path], *_SWAN.draw(rng))
    sheath = path[path[:, 1] < -u(3.0, 8.0)]
    if len(sheath) > 2 and rng.random() < _SHEATHED:
        grid.stroke(image, [sheath], *_SHEATH.draw(rng))


_DRAW = {Device.ETT: _ett, Device.NGT: _ngt, Device.CVC: _cvc, Device.SWAN: _swan}
