"""Distractors: things on and in a patient that are no device of the task, and never in the ground truth."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from cxrlines.core.polyline import Points, lengths
from cxrlines.phantom.anatomy import Anatomy
from cxrlines.phantom.canvas import Coverage, Pens, Raster, cut, offset, smooth

# Sizes in nominal cm, inks of 255 = attenuation 1.
_TUBES = 0.5  # mean number across a film of clutter 1
_LEADS_LEAST, _LEADS_MORE = 0.5, 0.4  # share of films with leads: without clutter, and what 1 adds
_ELECTRODES, _ELECTRODES_MORE = 2, 2.2  # at least, and the mean of more on a film of clutter 1
_CLIPPED = 0.6  # share of films whose electrodes are clips, not snaps
_LEAVE_BELOW = 0.65  # share of films that the leads leave below
_CABLE = Pens((0.12, 0.34), (80, 180))
_CLIP, _CLIP_INK, _PAD, _PAD_INK, _SNAP, _SNAP_INK, _SNAP_RING_INK = 0.2, 175, (1.4, 1.9), 14, 0.42, 170, 200

_CROSSING = 0.3  # share of tubes from side to side
_HOSE, _OXYGEN = 0.2, 0.3  # shares of tubes: a ventilator's pleated hose, an oxygen line; the others are cables
_HOSE_RADIUS, _PLEAT_INK, _HOSE_WALL_INK = (0.7, 1.1), (20, 50), (35, 80)
_OXYGEN_RADIUS, _OXYGEN_WALL_INK = (0.18, 0.35), (30, 80)
_OUTSIDE_CABLE = Pens((0.12, 0.34), (60, 170))

_FOLD_INK = (12, 40)
_DRAIN_RADIUS, _DRAIN_WALL_INK, _DRAIN_STRIPE_INK = (0.22, 0.5), (25, 75), (80, 170)  # 13 to 30 F
_DRAIN_FROM_BELOW = 0.25  # share, into the mediastinum
_PIGTAIL = Pens((0.2, 0.34), (60, 130))  # 6 to 10 F
_CANNULA_RADIUS, _CANNULA_INK, _CANNULA_WALL = (0.42, 0.6), (8, 28), Pens((0.09, 0.16), (70, 150))
_FLANGE, _CONNECTOR_SEEN, _CONNECTOR_RADIUS, _CONNECTOR_INK = Pens((0.2, 0.5), (20, 70)), 0.7, (0.65, 0.85), (70, 150)
_SHUNT = Pens((0.18, 0.28), (45, 120))
_STERNAL_WIRES = 6
_LEFT_PACEMAKER, _DEFIBRILLATOR, _SINGLE_WIRE = 0.8, 0.3, 0.35  # shares of pacemakers
_PACING_WIRE, _CASE_INK, _CASE_RIM_INK = Pens((0.14, 0.24), (110, 180)), 215, 245
_PACING_TIP_INK, _COIL_INK = 225, 235


def draw_clutter(
    grid: Raster, anatomy: Anatomy, clutter: float, rng: np.random.Generator, *, intubated: bool = False
) -> Coverage:
    """Distractors as one image of attenuation, 255 = 1: never a labelled device. `clutter` scales their number.

    `grid` draws nominal cm. At 1, about a film of intensive care: leads on 9 of 10, a tube or cable across on two of
    five, the others as `CHANCES` says. Those are near what is marked by hand on real films: on 243 of Hannover a chest
    drain on 13 %, a tracheostomy on 35 %, a pacing wire on 3 %; on 244 of the NIH 5, 3 and 2 %, a shunt on 5 %. No
    cannula is drawn for an `intubated` patient. Sternal wires and pacemakers are the patient's (`Anatomy`).
    """
    image = grid.blank()
    own = rng.spawn(len(CHANCES))  # so that leaving one out changes no other
    for (draw, chance), rng_of in zip(CHANCES.items(), own, strict=True):
        if rng_of.random() < chance * clutter and not (intubated and draw is _tracheostomy):
            draw(grid, image, anatomy, rng_of)
    if anatomy.sternotomy:
        _sternotomy(grid, image, anatomy, rng)
    if anatomy.pacemaker:
        _pacemaker(grid, image, anatomy, rng)
    for _ in range(rng.poisson(_TUBES * clutter)):
        _outside_tubing(grid, image, rng)
    if rng.random() < _LEADS_LEAST + _LEADS_MORE * min(clutter, 1.0):
        _leads(grid, image, clutter, rng)
    return image


def _side(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _leads(grid: Raster, image: Coverage, clutter: float, rng: np.random.Generator) -> None:
    """Electrodes, as clips or snaps, with cables that leave the film together; some cross the chest."""
    u = rng.uniform
    leave = np.array([_side(rng) * u(8, 21), rng.choice([-19.0, 22.0], p=[1 - _LEAVE_BELOW, _LEAVE_BELOW])])
    clip = rng.random() < _CLIPPED
    thick, ink = _CABLE.draw(rng)
    for _ in range(_ELECTRODES + rng.poisson(_ELECTRODES_MORE * clutter)):
        at = np.array([_side(rng) * u(3, 14), u(-8, 15)])
        if clip:
            heading = u(0, 2 * np.pi)
            arm = np.array([np.cos(heading), np.sin(heading)])
            across = np.array([-arm[1], arm[0]])
            jaw = smooth(np.array([at - 1.1 * arm, at - 0.3 * arm + 0.3 * across, at + arm]), samples=3)
            grid.stroke(image, [jaw, at + (jaw - at) * 0.96 - 0.3 * across], _CLIP, _CLIP_INK)
            grid.disc(image, at, _SNAP, _SNAP_RING_INK, pen=0.16)
        else:
            grid.disc(image, at, u(*_PAD), _PAD_INK)
            grid.disc(image, at, _SNAP, _SNAP_INK)
        way = (at + leave) / 2 + rng.normal(0, 3.5, 2)
        wire = [at, at + rng.normal(0, 2, 2), way, way + rng.normal(0, 2.5, 2), leave * 1.3]
        grid.stroke(image, [_bent(wire)], thick, ink * u(0.85, 1.15))


def _bent(way: Sequence[ArrayLike]) -> Points:
    """A course along control points that bends as a cable does: in wide arcs."""
    soft = smooth(np.stack([np.asarray(at, np.float64) for at in way]), samples=5)
    for _ in range(2):  # the middle of each stretch; the ends stay
        soft = np.vstack([soft[:1], (soft[4:] + 2 * soft[2:-2] + soft[:-4]) / 4, soft[-1:]])
    return smooth(soft, samples=3)


def _outside_tubing(grid: Raster, image: Coverage, rng: np.random.Generator) -> None:
    """A cable, an oxygen or infusion line, or a ventilator's hose, across the film or down from the neck."""
    u = rng.uniform
    start = np.array([u(-17, 17), -20])
    way = [start, start + np.array([u(-5, 5), 7]), rng.uniform([-16, -4], [16, 8]), [_side(rng) * 24, u(2, 20)]]
    if rng.random() < _CROSSING:
        way = [[-24, u(-12, 16)], [-9, u(-10, 14)], [u(-4, 4), u(-8, 12)], [9, u(-10, 14)], [24, u(-12, 16)]]
    path = _bent(way)
    kind = rng.random()
    if kind < _HOSE:
        radius = u(*_HOSE_RADIUS)
        rings = np.stack([offset(path, radius), offset(path, -radius)], 1)
        grid.stroke(image, rings, 0.12, u(*_PLEAT_INK))
        grid.stroke(image, [offset(path, radius), offset(path, -radius)], 0.14, u(*_HOSE_WALL_INK))
    elif kind < _HOSE + _OXYGEN:
        wide = u(*_OXYGEN_RADIUS)
        grid.stroke(image, [offset(path, wide), offset(path, -wide)], 0.09, u(*_OXYGEN_WALL_INK))
    else:
        grid.stroke(image, [path], *_OUTSIDE_CABLE.draw(rng))


def _skin_fold(grid: Raster, image: Coverage, _anatomy: Anatomy, rng: np.random.Generator) -> None:
    """An edge that ends sharply on one side and fades over centimetres on the other."""
    u, side = rng.uniform, _side(rng)
    path = smooth([(side * u(6, 13), u(-12, -6)), (side * u(5, 11), u(-4, 2)), (side * u(5, 12), u(6, 16))], samples=12)
    ink, steps = u(*_FOLD_INK), 10
    for step in range(steps, 0, -1):
        grid.stroke(image, [offset(path, side * step * 0.22)], 0.3, ink * (1 - step / (steps + 1)))
    grid.stroke(image, [path], 0.1, ink)


def _drain(grid: Raster, image: Coverage, _anatomy: Anatomy, rng: np.random.Generator) -> None:
    """A chest drain: wide, two faint walls, a stripe that is broken at the side hole."""
    side, radius = _side(rng), rng.uniform(*_DRAIN_RADIUS)
    u, tip = rng.uniform, (side * rng.uniform(3.5, 9), rng.uniform(-7, 7))
    path = smooth([(side * 20, u(4, 15)), (side * 14.5, u(4, 10)), (side * u(9, 12), u(0, 7)), tip], samples=10)
    if rng.random() < _DRAIN_FROM_BELOW:
        x = u(-2.5, 2.5)
        path = smooth([(x + u(-3, 3), 20), (x + u(-2, 2), 13), (x, 7), (x + u(-2, 2), u(-3, 4))], samples=10)
    grid.stroke(image, [offset(path, radius), offset(path, -radius)], 0.09, u(*_DRAIN_WALL_INK))
    length, hole = float(lengths(path)[-1]), u(0.55, 0.85)
    stripe = offset(path, radius * u(-0.8, 0.8))
    parts = [cut(stripe, length * (hole - 0.04)), stripe[int(len(path) * (hole + 0.02)) :]]
    grid.stroke(image, parts, 0.15, u(*_DRAIN_STRIPE_INK))


def _pigtail(grid: Raster, image: Coverage, _anatomy: Anatomy, rng: np.random.Generator) -> None:
    """A thin drain that ends in a curl."""
    u, side = rng.uniform, _side(rng)
    centre, turn = np.array([side * u(6, 11), u(4, 12)]), np.linspace(0, u(4, 7), 24)
    curl = centre + u(0.7, 1.3) * np.stack([side * np.cos(turn), np.sin(turn)], 1)
    path = np.vstack([smooth([(side * 21, centre[1] + u(-4, 6)), (side * 15, centre[1] + u(-2, 3)), curl[0]]), curl])
    grid.stroke(image, [path], *_PIGTAIL.draw(rng))


def _tracheostomy(grid: Raster, image: Coverage, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """A cannula in the trachea with its flange and, seen end on, its connector."""
    u = rng.uniform
    trachea, _, _ = anatomy.airway()
    top, radius = u(-11, -8), u(*_CANNULA_RADIUS)
    tube = trachea[(trachea[:, 1] > top) & (trachea[:, 1] < top + u(5, 7))]
    if len(tube) < 3:
        return
    tube = np.vstack([tube[0] + [u(-0.3, 0.3), -0.6], tube])
    grid.stroke(image, [tube], 2 * radius, u(*_CANNULA_INK))
    grid.stroke(image, [offset(tube, radius), offset(tube, -radius)], *_CANNULA_WALL.draw(rng))
    wing = tube[0] + [[-u(2, 3.4), u(-0.5, 0.5)], [0, 0], [u(2, 3.4), u(-0.5, 0.5)]]
    grid.stroke(image, [smooth(wing)], *_FLANGE.draw(rng))
    if rng.random() < _CONNECTOR_SEEN:
        at = tube[0] + [u(-0.4, 0.4), u(-0.4, 0.6)]
        grid.disc(image, at, u(*_CONNECTOR_RADIUS), u(*_CONNECTOR_INK), pen=0.16)


def _shunt(grid: Raster, image: Coverage, _anatomy: Anatomy, rng: np.random.Generator) -> None:
    """A ventriculoperitoneal shunt: from the neck down the front of the chest to the belly."""
    u, side = rng.uniform, _side(rng)
    way = [(side * u(4, 6), -20), (side * u(4, 6), -12), (side * u(3, 8), -5), (side * u(2.5, 8), 3)]
    path = smooth([*way, (side * u(1, 6), 11), (side * u(-3, 6), 23)], samples=12)
    grid.stroke(image, [path], *_SHUNT.draw(rng))


def _clips(grid: Raster, image: Coverage, _anatomy: Anatomy, rng: np.random.Generator) -> None:
    x, y = rng.uniform([-9, -9], [9, 10])
    for _ in range(rng.integers(2, 9)):
        at = np.array([x, y]) + rng.normal(0, 1.6, 2)
        grid.stroke(image, [at + np.array([[0, 0], rng.normal(0, 0.25, 2)])], 0.12, 220)


def _buttons(grid: Raster, image: Coverage, _anatomy: Anatomy, rng: np.random.Generator) -> None:
    for x in rng.uniform(-12, 12, 2):
        grid.disc(image, (x, rng.uniform(-9, -2)), 0.55, 150, pen=0.14)


def _nipple_markers(grid: Raster, image: Coverage, _anatomy: Anatomy, rng: np.random.Generator) -> None:
    x, y, radius, ring = rng.uniform(7, 10.5), rng.uniform(5, 10), rng.uniform(0.1, 0.6), rng.random() < 0.5
    for side in (-1, 1):
        at = (side * x + rng.normal(0, 0.5), y + rng.normal(0, 0.6))
        grid.disc(image, at, radius, 190, pen=0.12 if ring and radius > 0.3 else 0.0)


def _sternotomy(grid: Raster, image: Coverage, anatomy: Anatomy, rng: np.random.Generator) -> None:
    x = anatomy.yaw * 1.3
    for y in np.linspace(-3.4, 9.0, _STERNAL_WIRES) + rng.normal(0, 0.2, _STERNAL_WIRES):
        angle = np.linspace(0.3, 2 * np.pi + 0.1, 16) + rng.uniform(0, 1)
        ring = np.stack([x + 0.85 * np.cos(angle), y + 0.45 * np.sin(angle)], 1)
        grid.stroke(image, [ring], 0.09, 230)
    for _ in range(rng.integers(0, 7)):
        at = np.array([x + rng.uniform(-1, 5), rng.uniform(0, 8)])
        grid.stroke(image, [at + np.array([[0, 0], rng.normal(0, 0.25, 2)])], 0.14, 230)


def _pacemaker(grid: Raster, image: Coverage, anatomy: Anatomy, rng: np.random.Generator) -> None:
    """A generator, four of five on the left, with one to three wires; those of a defibrillator have thick coils."""
    u, side = rng.uniform, 1 if rng.random() < _LEFT_PACEMAKER else -1
    x, y = u(8.6, 10.4), u(-4, -1.4)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    case = np.stack([side * x + 2.4 * np.cos(angle) * (1 + 0.12 * np.cos(2 * angle)), y + 2.0 * np.sin(angle)], 1)
    grid.fill(case, on=image, value=_CASE_INK)
    grid.stroke(image, [case], 0.2, _CASE_RIM_INK, closed=True)
    caj, shocks = anatomy.cavo_atrial, rng.random() < _DEFIBRILLATOR
    inward = [(3.8, -6.1), (1, -4.8), (-1.6, -3.8)] if side > 0 else [(-4.0, -6.1), (-2.8, -4.8)]
    vein = np.array([(side * (x - 1), y - 1.6), (side * 7, -6.4), *inward, (-2.5, -1), (-2.6, caj)])
    tips = ([(-1.5, caj + 3.5), (2, caj + 5.2), (6.0, caj + 4.4)], [(-2.4, caj + 2.6), (-3.3, caj + 1.2)])
    thick, ink = _PACING_WIRE.draw(rng)
    for tip in tips[: 1 if rng.random() < _SINGLE_WIRE else 2]:
        wire = smooth(np.vstack([vein + rng.normal(0, 0.12, vein.shape), tip]))
        grid.stroke(image, [wire], thick, ink)
        grid.stroke(image, [wire[-3:]], thick * 1.4, _PACING_TIP_INK)
        if shocks and tip is tips[0]:
            grid.stroke(image, [wire[-16:-5]], thick * 2, _COIL_INK)


CHANCES: dict[Callable[[Raster, Coverage, Anatomy, np.random.Generator], None], float] = {
    _skin_fold: 0.2,  # first, as what is drawn later covers it
    _tracheostomy: 0.12,
    _shunt: 0.05,
    _drain: 0.16,
    _pigtail: 0.04,
    _clips: 0.08,
    _nipple_markers: 0.05,
    _buttons: 0.06,
}


def needle_line(chamber: Points, rng: np.random.Generator) -> Points:
    """The course, (n, 2) cm, of the line of a needle that lies in a port's chamber at (2,) cm: no catheter's part."""
    side = float(np.sign(chamber[0])) or 1.0
    steps = np.array([(0, 0), (side * 1.0, rng.uniform(-1, 1)), (side * 3, rng.uniform(-3, 3)), (side * 12, 9)])
    return smooth(chamber + steps + np.vstack([np.zeros((1, 2)), rng.normal(0, 0.4, (3, 2))]), samples=8)
