"""Tubes and lines of the phantom as images of attenuation."""

import numpy as np
from cv2 import add

from cxrlines.core.polyline import Points, resample
from cxrlines.phantom.canvas import Coverage, Raster, cut, offset, smooth
from cxrlines.phantom.scene import Line
from cxrlines.task import Device

# Sizes in cm (1 F, the French of makers, is 1/3 mm); inks of 255 = attenuation 1, before a line's own strength.
_STRENGTH = (0.75, 1.15)
_ETT_RADIUS, _ETT_BODY = (0.5, 0.57), 16
_ETT_WALL, _ETT_WALL_INK = 0.1, 95
_ETT_STRIPE, _ETT_STRIPE_INK = 0.17, 165
_FEEDING_TUBE = 0.3  # share of nasogastric tubes: thin, dense, with a weighted tip
_FEEDING, _FEEDING_INK = 0.27, 125  # 8 F
_WEIGHT, _WEIGHT_INK = 0.32, 165
_NGT_RADIUS, _NGT_BODY = (0.2, 0.27), 26  # 12 to 16 F
_NGT_WALL, _NGT_WALL_INK = 0.08, 42
_NGT_STRIPE, _NGT_STRIPE_INK = 0.16, 140
_DIALYSIS, _DIALYSIS_INK = 0.44, 95  # 13 F
_LUMEN, _LUMEN_INK = 0.09, 150
_PICC, _CVC, _CVC_INK = (0.15, 0.19), (0.2, 0.26), (110, 150)  # 4.5 to 5.7 F, 6 to 8 F
_PORT, _PORT_INK = 1.25, 140  # radius
_PORT_SEPTUM, _PORT_SEPTUM_INK = 0.75, 75
_PORT_RIM, _PORT_RIM_INK = 0.16, 190
_HUB_SEEN = 0.6  # share of jugular and subclavian catheters with their hub on the film
_HUB, _HUB_INK = 0.45, 120
_LIMB, _LIMB_INK = 0.16, 90
_SWAN, _SWAN_INK = 0.23, 120  # 7 F
_SHEATH, _SHEATH_INK, _SHEATH_END = 0.32, 135, -6.0  # its introducer; y of its lower end, cm from the carina


def draw_lines(grid: Raster, lines: tuple[Line, ...], rng: np.random.Generator) -> Coverage:
    """The devices of a film as one image of attenuation, 255 = 1; where they cross they add up.

    `grid` draws true cm. Sizes: ETT outer diameter 10-11.5 mm with a radio-opaque stripe; NGT 4-5.5 mm with a
    stripe that is broken at the side hole, or a thin feeding tube; CVC 1.6-2.6 mm; Swan-Ganz 2.3 mm.
    """
    total = grid.blank()
    for line in lines:
        image = grid.blank()
        path = resample(line.placed.path, 0.25)
        strength = rng.uniform(*_STRENGTH)
        _DRAWERS[line.placed.device](grid, image, path, line.placed.route, strength, rng)
        total = add(total, image)
    return total


def _ett(grid: Raster, image: Coverage, path: Points, _route: str, strength: float, rng: np.random.Generator) -> None:
    radius = rng.uniform(*_ETT_RADIUS)
    grid.stroke(image, [path], 2 * radius, _ETT_BODY * strength)
    one, other = offset(path, radius), offset(path, -radius)[: max(2, len(path) - 2)]
    grid.stroke(image, [one, other, np.stack([one[-1], other[-1]])], _ETT_WALL, _ETT_WALL_INK * strength)
    stripe = offset(path, radius * rng.uniform(-0.45, 0.45))
    grid.stroke(image, [stripe], _ETT_STRIPE, _ETT_STRIPE_INK * strength)


def _ngt(grid: Raster, image: Coverage, path: Points, _route: str, strength: float, rng: np.random.Generator) -> None:
    if rng.random() < _FEEDING_TUBE:
        grid.stroke(image, [path], _FEEDING, _FEEDING_INK * strength)
        grid.stroke(image, [path[-8:]], _WEIGHT, _WEIGHT_INK * strength)
        return
    radius = rng.uniform(*_NGT_RADIUS)
    grid.stroke(image, [path], 2 * radius, _NGT_BODY * strength)
    grid.stroke(image, [offset(path, radius), offset(path, -radius)], _NGT_WALL, _NGT_WALL_INK * strength)
    stripe = offset(path, radius * rng.uniform(-0.4, 0.4))
    hole = max(4, len(stripe) - int(rng.uniform(14, 30)))
    parts = [stripe[: hole - 1], stripe[hole + 2 :]] if hole + 4 < len(stripe) else [stripe]
    grid.stroke(image, parts, _NGT_STRIPE, _NGT_STRIPE_INK * strength)


def _cvc(grid: Raster, image: Coverage, path: Points, route: str, strength: float, rng: np.random.Generator) -> None:
    if route.startswith("dialysis"):
        grid.stroke(image, [path], _DIALYSIS, _DIALYSIS_INK * strength)
        grid.stroke(image, [offset(path, 0.2), offset(path, -0.2), path], _LUMEN, _LUMEN_INK * strength)
        return
    width = rng.uniform(*(_PICC if route.startswith("picc") else _CVC))
    grid.stroke(image, [path], width, rng.uniform(*_CVC_INK) * strength)
    if route.startswith("port"):
        chamber = path[0] + [0, 1.2]
        grid.disc(image, chamber, _PORT, _PORT_INK * strength)
        grid.disc(image, chamber, _PORT_SEPTUM, _PORT_SEPTUM_INK * strength)
        grid.disc(image, chamber, _PORT, _PORT_RIM_INK * strength, pen=_PORT_RIM)
    elif route.startswith(("jugular", "subclavian")) and rng.random() < _HUB_SEEN:
        hub = cut(path, 1.0)
        grid.stroke(image, [hub], _HUB, _HUB_INK * strength)
        for side in (-1, 1):
            tail = hub[0] + np.array([[0, 0], [side * 1.2, -1.0], [side * 2.0 + 0.4, -2.6]])
            grid.stroke(image, [smooth(tail)], _LIMB, _LIMB_INK * strength)


def _swan(grid: Raster, image: Coverage, path: Points, _route: str, strength: float, _rng: np.random.Generator) -> None:
    grid.stroke(image, [path], _SWAN, _SWAN_INK * strength)
    sheath = path[path[:, 1] < _SHEATH_END]
    if len(sheath) > 2:
        grid.stroke(image, [sheath], _SHEATH, _SHEATH_INK * strength)


_DRAWERS = {Device.ETT: _ett, Device.NGT: _ngt, Device.CVC: _cvc, Device.SWAN: _swan}
