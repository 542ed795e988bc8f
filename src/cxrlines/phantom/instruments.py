"""What is on and in an intensive-care patient besides the patient: tubes, lines, and what distracts from them."""

import numpy as np
from cv2 import add

from cxrlines.core.polyline import Points, lengths, resample
from cxrlines.phantom.anatomy import Anatomy
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


def draw_clutter(grid: Raster, anatomy: Anatomy, clutter: float, rng: np.random.Generator) -> Coverage:
    """Distractors as one image of attenuation, 255 = 1: never a labelled device. `clutter` scales their number.

    `grid` draws nominal cm. Electrodes with leads, external tubing, chest drains, sternal wires and clips, a
    pacemaker, buttons.
    """
    image = grid.blank()
    if rng.random() < 0.45 + 0.4 * min(clutter, 1.2):
        _leads(grid, image, clutter, rng)
    for _ in range(rng.poisson(0.35 * clutter)):
        _outside_tubing(grid, image, rng)
    if rng.random() < 0.1 * clutter:
        _drain(grid, image, anatomy, rng)
    if anatomy.sternotomy:
        _sternotomy(grid, image, anatomy, rng)
    if anatomy.pacemaker:
        _pacemaker(grid, image, anatomy, rng)
    if rng.random() < 0.06 * clutter:
        for x in rng.uniform(-12, 12, 2):
            grid.disc(image, (x, rng.uniform(-9, -2)), 0.55, 150, pen=0.14)
    return image


def _leads(grid: Raster, image: Coverage, clutter: float, rng: np.random.Generator) -> None:
    u = rng.uniform
    leave = np.array([rng.choice([-1, 1]) * u(8, 21), rng.choice([-19.0, 22.0], p=[0.35, 0.65])])
    clip, thick = rng.random() < 0.6, u(0.11, 0.32)
    for _ in range(2 + rng.poisson(2.2 * clutter)):
        side = rng.choice([-1, 1])
        at = np.array([side * u(5, 14), u(-8, 15)])
        if clip:
            heading = u(0, 2 * np.pi)
            arm = np.array([np.cos(heading), np.sin(heading)])
            across = np.array([-arm[1], arm[0]])
            jaw = smooth(np.array([at - 1.1 * arm, at - 0.3 * arm + 0.3 * across, at + arm]), samples=3)
            grid.stroke(image, [jaw, at + (jaw - at) * 0.96 - 0.3 * across], 0.2, 175)
            grid.disc(image, at, 0.42, 200, pen=0.16)
        else:
            grid.disc(image, at, u(1.4, 1.9), 14)
            grid.disc(image, at, 0.42, 170)
        way = (at + leave) / 2 + rng.normal(0, 3.5, 2)
        wire = [at, at + rng.normal(0, 2, 2), way, way + rng.normal(0, 2.5, 2), leave * 1.3]
        grid.stroke(image, [smooth(wire, samples=9)], thick, u(60, 130))


def _outside_tubing(grid: Raster, image: Coverage, rng: np.random.Generator) -> None:
    u = rng.uniform
    start = np.array([u(-17, 17), -20])
    way = [start, start + np.array([u(-5, 5), 7]), rng.uniform([-16, -4], [16, 8]), [rng.choice([-24, 24]), u(2, 20)]]
    path = smooth(np.stack(way), samples=12)
    if rng.random() < 0.5:  # ventilator or oxygen tubing: two faint walls
        wide = u(0.25, 0.9)
        grid.stroke(image, [offset(path, wide), offset(path, -wide)], 0.13, u(35, 80))
    else:
        grid.stroke(image, [path], u(0.14, 0.3), u(45, 100))


def _drain(grid: Raster, image: Coverage, anatomy: Anatomy, rng: np.random.Generator) -> None:
    side = rng.choice([-1, 1])
    u, tip = rng.uniform, (side * rng.uniform(5, 9), rng.uniform(-6, 5))
    path = smooth([(side * 20, u(4, 13)), (side * 14.5, u(4, 8)), (side * 11, u(0, 5)), tip])
    grid.stroke(image, [offset(path, 0.3), offset(path, -0.3)], 0.09, 60)
    length = float(lengths(path)[-1])
    grid.stroke(image, [cut(path, length * 0.55), path[int(len(path) * 0.62) :]], 0.18, 150)


def _sternotomy(grid: Raster, image: Coverage, anatomy: Anatomy, rng: np.random.Generator) -> None:
    x = anatomy.yaw * 1.3
    for y in np.linspace(-3.4, 9.0, 6) + rng.normal(0, 0.2, 6):
        angle = np.linspace(0.3, 2 * np.pi + 0.1, 16) + rng.uniform(0, 1)
        ring = np.stack([x + 0.85 * np.cos(angle), y + 0.45 * np.sin(angle)], 1)
        grid.stroke(image, [ring], 0.09, 230)
    for _ in range(rng.integers(0, 7)):
        at = np.array([x + rng.uniform(-1, 5), rng.uniform(0, 8)])
        grid.stroke(image, [at + np.array([[0, 0], rng.normal(0, 0.25, 2)])], 0.14, 230)


def _pacemaker(grid: Raster, image: Coverage, anatomy: Anatomy, rng: np.random.Generator) -> None:
    x, y = 9.5, -2.8
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    case = np.stack([x + 2.4 * np.cos(angle) * (1 + 0.12 * np.cos(2 * angle)), y + 2.0 * np.sin(angle)], 1)
    grid.fill(case, on=image, value=215)
    grid.stroke(image, [case], 0.2, 245, closed=True)
    caj = anatomy.cavo_atrial
    vein = [(x - 1, y - 1.6), (7, -6.4), (3.8, -6.1), (1, -4.8), (-1.6, -3.8), (-2.5, -1), (-2.6, caj)]
    for tip in ([(-1.5, caj + 3.5), (2, caj + 5.2), (6.0, caj + 4.4)], [(-2.4, caj + 2.6), (-3.3, caj + 1.2)]):
        grid.stroke(image, [smooth(vein + tip)], 0.2, 150)
        grid.stroke(image, [smooth(vein + tip)[-3:]], 0.3, 225)
