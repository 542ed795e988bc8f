"""Routes of tubes and lines through a patient, and where the sampler aims their tips.

The sampler only aims: it draws a tip depth evenly over a range that reaches across the limits of the state it
wants. The state of a drawn line is decided by `position.state_of` alone.

Routes are drawn in nominal cm (see `anatomy`) and returned in true cm around the carina, from outside the
patient to the tip.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrlines.core.polyline import Points, lengths, resample
from cxrlines.phantom.anatomy import Anatomy
from cxrlines.phantom.canvas import cut, smooth
from cxrlines.task import Device, State

CONFLUENCE = (-2.2, -3.2)  # of the brachiocephalic veins, nominal cm
STEP = 0.4  # cm between the points of a path

_INTO_CAVA = {  # access routes from the skin to above the confluence, nominal cm
    "jugular right": [(-4.7, -19), (-4.4, -13), (-3.9, -9), (-3.0, -5.6)],
    "jugular left": [(4.9, -19), (4.6, -13), (4.2, -9), (3.5, -6.2), (1.6, -4.9), (-0.9, -4.1)],
    "subclavian right": [(-9.6, -3.4), (-8.0, -5.6), (-5.6, -6.7), (-3.9, -6.0), (-2.8, -4.8)],
    "subclavian left": [(9.6, -3.4), (8.0, -5.6), (5.6, -6.6), (3.6, -6.0), (1.6, -4.9), (-0.9, -4.1)],
    "picc right": [(-20, 8), (-18.4, 0), (-15, -4.8), (-10.5, -6.9), (-7, -7.0), (-4.1, -6.1), (-2.8, -4.8)],
    "picc left": [(20, 8), (18.4, 0), (15, -4.8), (10.5, -6.9), (7, -6.9), (3.8, -6.1), (1.6, -4.9), (-0.9, -4.1)],
    "port right": [(-9.4, 0.6), (-9.9, -2.6), (-8.2, -5.6), (-5.6, -6.7), (-3.9, -6.0), (-2.8, -4.8)],
    "port left": [(9.4, 0.6), (9.9, -2.6), (8.2, -5.6), (5.6, -6.6), (3.6, -6.0), (1.6, -4.9), (-0.9, -4.1)],
    "dialysis right": [(-6.6, -7.2), (-5.6, -9.2), (-4.3, -9.2), (-3.7, -7.4), (-3.0, -5.4)],
    "dialysis left": [(6.8, -7.2), (5.9, -9.3), (4.7, -9.3), (4.1, -7.6), (3.4, -6.1), (1.6, -4.9), (-0.9, -4.1)],
}
_ROUTE_SHARE = {  # by site, in the order of the routes
    "a": [0.34, 0.10, 0.11, 0.08, 0.14, 0.09, 0.05, 0.03, 0.04, 0.02],
    "b": [0.18, 0.09, 0.13, 0.11, 0.18, 0.13, 0.08, 0.04, 0.04, 0.02],
}


# What the sampler aims at, cm: ranges reach a little across the limits of `position` and `core.rules`. Of two ranges
# that a state has, the share of the one that the share is named after.
_ETT_NORMAL = (1.8, 6.2)  # height of the tip above the carina
_ETT_BORDERLINE_LOW, _ETT_BORDERLINE_HIGH, _ETT_OFTEN_LOW = (0.4, 2.1), (5.9, 10.1), 0.55
_ETT_TOO_HIGH, _ETT_TOO_LOW, _ETT_RARELY_HIGH = (9.9, 11.5), (-3.6, 0.6), 0.1
_NGT_BORDERLINE, _NGT_DEEP, _NGT_LEAST = (-0.3, 10.3), 9.7, 10.5  # length beyond the gastro-oesophageal junction
_CVC_NORMAL = (-3.2, 1.2)  # depth of the tip below the cavo-atrial junction
_CVC_BORDERLINE_LOW, _CVC_BORDERLINE_HIGH, _CVC_OFTEN_HIGH = (0.8, 3.2), -2.8, 0.6
_CVC_TOO_DEEP, _CVC_TOO_SHORT, _CVC_OFTEN_DEEP = (2.8, 9.0), (-6.5, 0.2), 0.55  # too short: depth below the confluence

# Shares of the devices that take a way.
_RIGHT_BRONCHUS = 0.88  # of tracheal tubes that go down past the carina: the right bronchus is the steeper one
_NGT_ASTRAY = {"oesophagus": 0.45, "coiled": 0.2, "bronchus": 0.35}
_NGT_RIGHT_BRONCHUS = 0.65
_CVC_ASTRAY = 0.55  # of abnormal catheters; the others are too deep or too short
_CVC_WAYS = ("across", "neck", "looped")
_CVC_FROM_ARM, _CVC_FROM_NECK = (0.3, 0.45, 0.25), (0.6, 0.0, 0.4)  # from the neck, none goes up the neck
_SWAN_RIGHT, _SWAN_LEFT_ARTERY = 0.85, 0.25  # by the right jugular vein; into the left pulmonary artery


@dataclass(frozen=True, eq=False)
class Placed:
    """A device in a patient: its path in true cm around the carina, (n, 2), from outside to the tip."""

    device: Device
    route: str
    path: Points


def cvc_routes(rng: np.random.Generator, count: int, site: str) -> list[str]:
    """Different access routes for the catheters of one film."""
    return [str(name) for name in rng.choice(list(_INTO_CAVA), count, replace=False, p=_ROUTE_SHARE[site])]


def place(
    device: Device, target: State, route: str, anatomy: Anatomy, lower_edge: float, rng: np.random.Generator
) -> Placed:
    """One of DRAWN aimed at a state. `lower_edge`: y of the film's lower edge, true cm; `route`: of a CVC, else ""."""
    path = _COURSES[device](anatomy, target, route, lower_edge, rng)
    return Placed(device, route, resample(path, STEP))


def _jitter(points: Sequence[Sequence[float]], spread: float, rng: np.random.Generator) -> Points:
    return np.asarray(points, np.float64) + rng.normal(0, spread, (len(points), 2))


def _length_at(path: Points, y: float, after: float) -> float:
    """Arc length at which a path first comes down past height `y`, beyond the arc length `after`."""
    along = lengths(path)
    hit = np.flatnonzero((path[1:, 1] >= y) & (path[:-1, 1] < y) & (along[1:] > after))
    if len(hit) == 0:
        return float(along[-1])
    k = int(hit[0])
    return float(along[k] + (along[k + 1] - along[k]) * (y - path[k, 1]) / (path[k + 1, 1] - path[k, 1]))


def _ett(anatomy: Anatomy, target: State, _route: str, _lower_edge: float, rng: np.random.Generator) -> Points:
    trachea, right, left = anatomy.airway()
    bronchus = right if rng.random() < _RIGHT_BRONCHUS else left
    lean = rng.normal(0, 0.15, 2)
    within = trachea + np.linspace(lean[0], lean[1], len(trachea))[:, None] * [1, 0]
    mouth = [(trachea[0, 0] + rng.normal(0, 1.2), -21), (trachea[0, 0] + rng.normal(0, 0.5), -16.5)]
    path = smooth(np.vstack([mouth, within[::4], bronchus[2::4]]), samples=5) * anatomy.scale
    if target is State.NORMAL:
        heights = _ETT_NORMAL
    elif target is State.BORDERLINE:
        heights = _ETT_BORDERLINE_LOW if rng.random() < _ETT_OFTEN_LOW else _ETT_BORDERLINE_HIGH
    else:
        heights = _ETT_TOO_HIGH if rng.random() < _ETT_RARELY_HIGH else _ETT_TOO_LOW
    return cut(path, _length_at(path, -rng.uniform(*heights), 0.0))


_STOMACH = (
    [(1.8, 1.6), (4.4, 3.2), (6.0, 6.2), (5.0, 9.0), (2.0, 10.4), (-1.6, 10.2)],  # along the greater curvature
    [(1.3, 2.2), (2.8, 5.2), (2.8, 8.0), (0.4, 9.8), (-3.4, 9.2), (-5.4, 8.0)],  # through the body to the antrum
    [(2.4, 1.2), (5.2, 0.7), (7.0, 2.8), (6.6, 5.8), (4.2, 8.2), (1.0, 9.0)],  # round the fundus
)


def _ngt(anatomy: Anatomy, target: State, _route: str, lower_edge: float, rng: np.random.Generator) -> Points:
    junction = np.array(anatomy.junction)
    gullet = _jitter([(0.3, -20), (0.3, -13), (0.3, -9), (0.5, -4), (0.6, 0), (0.9, 4), (1.0, 8)], 0.18, rng)
    gullet[:2] += rng.normal(0, 0.5, (2, 2))
    above = np.vstack([gullet[gullet[:, 1] < junction[1] - 1.5], junction - [0.25, 0.9], junction])
    if target is State.ABNORMAL:
        return _ngt_astray(anatomy, above, rng)
    if target is State.INCOMPLETE:
        x, edge = junction[0] + rng.uniform(-1, 5), lower_edge / anatomy.height
        last = (x + rng.normal(0, 1), max(edge, 16) + 6)
        below = np.array([(junction[0] + 1.4, junction[1] + 2.4), (x, junction[1] + 7), last])
    else:
        below = _jitter(junction + np.array(_STOMACH[rng.integers(3)]), 0.35, rng)
    path = smooth(np.vstack([above, below])) * anatomy.scale
    at_junction = _length_at(path, float(junction[1] * anatomy.height), 0.0)
    longest = float(lengths(path)[-1]) - at_junction
    deep = (_NGT_DEEP, max(longest, _NGT_LEAST))
    beyond = rng.uniform(*(_NGT_BORDERLINE if target is State.BORDERLINE else deep))
    if target is State.INCOMPLETE:
        beyond = longest - rng.uniform(0, 5)
    return cut(path, at_junction + beyond)


def _ngt_astray(anatomy: Anatomy, gullet: Points, rng: np.random.Generator) -> Points:
    """A tube that ends in the oesophagus, coils there, or went down a bronchus."""
    way = rng.choice(list(_NGT_ASTRAY), p=list(_NGT_ASTRAY.values()))
    if way == "bronchus":
        trachea, right, left = anatomy.airway()
        side = -1 if rng.random() < _NGT_RIGHT_BRONCHUS else 1
        lobe = _jitter([(side * 4.6, 6.4), (side * 5.6, 9.2), (side * 6.6, 12.5)], 0.4, rng)
        bronchus = (right if side < 0 else left)[2::4]
        path = smooth(np.vstack([gullet[:1], trachea[::4], bronchus, lobe])) * anatomy.scale
        return cut(path, _length_at(path, 0.0, 0.0) + rng.uniform(2.0, 13.0))
    if way == "coiled":
        turn, side = rng.uniform(-4, 7), rng.choice([-1, 1])
        coil = [(0.6 + side * 0.7, turn + 1.3), (0.5 + side * 1.3, turn), (0.5 + side * 1.0, turn - 3)]
        coil += [(0.5 + side * 0.5, turn - 7), (0.4, turn - 11)]
        path = smooth(np.vstack([gullet[gullet[:, 1] < turn - 0.5], [(0.6, turn)], coil])) * anatomy.scale
        return cut(path, lengths(path)[-1] - rng.uniform(0, 8))
    path = smooth(gullet) * anatomy.scale
    low = float(gullet[-1, 1] * anatomy.height)
    return cut(path, _length_at(path, rng.uniform(-5.0, low + 0.2), 0.0))


def _cava(anatomy: Anatomy, rng: np.random.Generator) -> Points:
    """Down the superior vena cava into the right atrium, nominal cm."""
    y = anatomy.cavo_atrial
    column = _jitter([CONFLUENCE, (-2.5, -0.6), (-2.65, y * 0.55), (-2.7, y), (-2.65, y + 2.2)], 0.12, rng)
    atrium = _jitter([(-2.2, y + 4.2), (-0.6, y + 5.6), (2.0, y + 5.8), (4.4, y + 5.0)], 0.3, rng)
    return np.vstack([column, atrium])


def _cvc(anatomy: Anatomy, target: State, route: str, _lower_edge: float, rng: np.random.Generator) -> Points:
    access = _jitter(_INTO_CAVA[route], 0.2, rng)
    access[0] += rng.normal(0, 0.5, 2)
    if target is State.ABNORMAL and rng.random() < _CVC_ASTRAY:
        return _cvc_astray(anatomy, route, access, rng)
    path = smooth(np.vstack([access, _cava(anatomy, rng)])) * anatomy.scale
    enters = _length_at(path, CONFLUENCE[1] * anatomy.height, 0.5 * float(lengths(smooth(access) * anatomy.scale)[-1]))
    junction = _length_at(path, anatomy.cavo_atrial * anatomy.height, enters - 1e-9)
    cava = junction - enters
    if target is State.NORMAL:
        depths = _CVC_NORMAL
    elif target is State.BORDERLINE:
        high = (-cava - 0.2, _CVC_BORDERLINE_HIGH)
        depths = high if rng.random() < _CVC_OFTEN_HIGH else _CVC_BORDERLINE_LOW
    else:
        short = (-cava + _CVC_TOO_SHORT[0], -cava + _CVC_TOO_SHORT[1])
        depths = _CVC_TOO_DEEP if rng.random() < _CVC_OFTEN_DEEP else short
    return cut(path, junction + rng.uniform(*depths))


def _cvc_astray(anatomy: Anatomy, route: str, access: Points, rng: np.random.Generator) -> Points:
    """A catheter that went across to the other side, up the neck, or looped in the vena cava."""
    side = -1 if route.endswith("right") else 1
    from_arm = not route.startswith(("jugular", "dialysis"))
    way = rng.choice(_CVC_WAYS, p=_CVC_FROM_ARM if from_arm else _CVC_FROM_NECK)
    if way == "looped":
        turn = rng.uniform(-0.5, 3.5)
        loop = [CONFLUENCE, (-2.6, turn - 1.4), (-2.7, turn), (-2.1, turn + 0.9), (-1.5, turn), (-1.7, turn - 2)]
        loop += [(-2.0, turn - 4), (-2.4, turn - 6)]
        path, last = np.vstack([access, _jitter(loop, 0.08, rng)]), 4.0
    elif way == "neck":
        neck = [(4.1, -7.2), (4.2, -9.5), (4.5, -12.0), (4.7, -15.0)]
        keep = access[: -1 if side < 0 else -3]
        path, last = np.vstack([keep, _jitter(neck, 0.15, rng) * [side, 1]]), 6.0
    else:
        far = [(-0.4, -4.5), (1.6, -5.0), (3.8, -6.1), (6.5, -6.9), (9.5, -6.6), (12.0, -5.0)]
        if side > 0:
            far = [(-2.4, -4.6), (-3.6, -6.0), (-6.2, -6.9), (-9.2, -6.6), (-12.0, -5.0)]
        path, last = np.vstack([access, _jitter(far, 0.15, rng)]), 8.5
    path = smooth(path) * anatomy.scale
    return cut(path, lengths(path)[-1] - rng.uniform(0, last))


def _swan(anatomy: Anatomy, _target: State, _route: str, _lower_edge: float, rng: np.random.Generator) -> Points:
    """A pulmonary artery catheter: right atrium, right ventricle, pulmonary artery."""
    route = "jugular right" if rng.random() < _SWAN_RIGHT else "jugular left"
    y = anatomy.cavo_atrial
    heart = [(-2.5, y + 1.6), (-1.5, y + 3.6), (0.6, y + 4.5), (3.0, y + 4.0), (4.1, y + 2.2), (3.8, y), (2.7, 2.2)]
    artery = [(1.0, 1.2), (-1.4, 1.8), (-3.4, 2.8), (-5.0, 4.2)]
    if rng.random() < _SWAN_LEFT_ARTERY:
        artery = [(2.9, 1.2), (4.0, 1.0), (5.4, 2.0), (6.4, 3.4)]
    access = _jitter(_INTO_CAVA[route], 0.2, rng)
    path = np.vstack([access, _cava(anatomy, rng)[:4], _jitter(heart, 0.3, rng), _jitter(artery, 0.2, rng)])
    path = smooth(path) * anatomy.scale
    return cut(path, lengths(path)[-1] - rng.uniform(0, 3))


_COURSES = {Device.ETT: _ett, Device.NGT: _ngt, Device.CVC: _cvc, Device.SWAN: _swan}
DRAWN: tuple[Device, ...] = tuple(_COURSES)
"""The devices that a phantom patient can have; any other is never placed, its labels are 0."""
