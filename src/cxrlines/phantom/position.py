"""Where a device sits, decided from its geometry alone: the one place that turns a drawn line into a state."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cxrlines.core.polyline import Points, lengths, on_film
from cxrlines.core.rules import ett_state
from cxrlines.task import DEVICES, Device, State

# All in cm on the patient. The clinical source of each is in `state_of`.
NGT_JUNCTION_REACH, NGT_DEEP, NGT_COIL = 2.5, 10.0, 2.0
CVC_LOWER_SVC, CVC_JUNCTION, CVC_UPPER_ATRIUM, CVC_CORRIDOR, CVC_LOOP = -3.0, 1.0, 3.0, 1.6, 1.0


class Landmarks(NamedTuple):
    """Anatomical points of a film, each a float64 (2,) array of [x, y] px, pixel centres at integers.

    In the order of `landmarks.csv`.
    """

    carina: Points
    vein_confluence: Points  # both brachiocephalic veins join: upper end of the superior vena cava
    cavo_atrial: Points  # superior vena cava meets right atrium
    gastro_oesophageal: Points
    dome_right: Points  # top of the patient's right hemidiaphragm
    dome_left: Points
    midline_upper: Points  # on the spine, level with the lung apices
    midline_lower: Points  # on the spine, level with the hemidiaphragms


def state_of(
    device: Device, path: ArrayLike, landmarks: Landmarks, mm_per_px: float, film_shape: tuple[int, int]
) -> State:
    """The state of a device from its drawn path.

    `path`: (n, 2) [x, y] px from outside the patient to the tip, n >= 2. `film_shape`: (height, width) px.
    "Above" and "below" are along the patient's spine, so a tilted film changes nothing. Limits belong to the
    better state (a tip exactly 2 cm above the carina is normal). Distances in cm on the patient. The limits follow
    general clinical references, not the criteria of RANZCR's annotators.

    ETT, by the height of the tip above the carina: `core.rules.ett_state`.

    NGT: a tip off the film is incompletely imaged. Otherwise by the length of tube beyond the gastro-oesophageal
    junction: at least 10 normal, so that the side holes lie in the stomach (the usual reporting rule); 0 to 10
    borderline; a tube that has not passed the junction abnormal: in the oesophagus, coiled (it rises by more
    than 2 before the junction), or in a bronchus (it never comes within 2.5 of the junction).

    CVC, by the depth of the tip below the cavo-atrial junction: from 3 above to 1 below normal (lower superior
    vena cava or the junction itself; reviewed by Vesely, JVIR 2003;14:527); elsewhere in the superior vena cava,
    or 1 to 3 below (upper right atrium), borderline; deeper abnormal. Abnormal too: a tip above the confluence of
    the brachiocephalic veins or more than 1.6 beside the line of the vena cava and atrium (short, up the neck,
    contralateral, azygos), and a catheter that rises by more than 1 after it entered the vena cava (looped).

    A device with a single state (Swan-Ganz: present) has that.

    Raises `ValueError` if the path has fewer than two points or the spacing is not positive.
    """
    points = np.asarray(path, np.float64)
    if points.ndim != 2 or points.shape[0] < 2 or points.shape[1] != 2:
        raise ValueError(f"path: needs an (n, 2) array of at least two [x, y] points, got shape {points.shape}")
    if not mm_per_px > 0:
        raise ValueError(f"mm_per_px: needs a positive spacing in mm, got {mm_per_px}")
    states = DEVICES[device].states
    if len(states) == 1:
        return states[0]
    if State.INCOMPLETE in states and not on_film(points[-1], film_shape):
        return State.INCOMPLETE

    down = landmarks.midline_lower - landmarks.midline_upper
    down = down / np.hypot(*down)
    basis = np.stack([[down[1], -down[0]], down], 1) * (mm_per_px / 10)

    def cm(px: Points) -> Points:
        # Rounded to a micrometre, so that rotating and scaling does not push a tip across a limit it lies on.
        return np.round((px - landmarks.carina) @ basis, 4)

    return _RULES[device](cm(points), Landmarks(*map(cm, landmarks)))


# Rules get cm in the patient's axes around the carina: x to the patient's left, y down along the spine.


def _ngt(path: Points, landmarks: Landmarks) -> State:
    passed, length_beyond = _beyond(path, landmarks.gastro_oesophageal)
    if passed is None or _rise(path[: passed + 1]) > NGT_COIL or length_beyond < 0:
        return State.ABNORMAL
    return State.NORMAL if length_beyond >= NGT_DEEP else State.BORDERLINE


def _beyond(path: Points, junction: Points) -> tuple[int | None, float]:
    """The segment on which a tube comes nearest to the junction, and the length of tube beyond that point.

    None where it stays away from the junction or ends before it (the nearest point is then its tip).
    """
    start, step = path[:-1], np.diff(path, axis=0)
    share = np.clip(((junction - start) * step).sum(1) / np.maximum((step**2).sum(1), 1e-12), 0, 1)
    distance = np.hypot(*(start + share[:, None] * step - junction).T)
    nearest = int(distance.argmin())
    along = lengths(path)
    beyond = along[-1] - along[nearest] - share[nearest] * (along[nearest + 1] - along[nearest])
    ends_above = path[-1, 1] < junction[1] and beyond <= 0
    return (None if distance[nearest] > NGT_JUNCTION_REACH or ends_above else nearest), round(float(beyond), 4)


def _cvc(path: Points, landmarks: Landmarks) -> State:
    tip, confluence, junction = path[-1], landmarks.vein_confluence, landmarks.cavo_atrial
    if tip[1] < confluence[1]:
        return State.ABNORMAL
    share = (tip[1] - confluence[1]) / (junction[1] - confluence[1])
    beside = abs(tip[0] - (confluence[0] + min(share, 1.0) * (junction[0] - confluence[0])))
    below = path[:, 1] >= confluence[1]
    entered = int(np.argmax(below & ~np.r_[True, below[:-1]]))  # where it comes down past it; 0: all of it lies below
    depth = tip[1] - junction[1]
    if beside > CVC_CORRIDOR or _rise(path[entered:]) > CVC_LOOP or depth > CVC_UPPER_ATRIUM:
        return State.ABNORMAL
    return State.NORMAL if CVC_LOWER_SVC <= depth <= CVC_JUNCTION else State.BORDERLINE


def _rise(path: Points) -> float:
    """The largest upward movement along a path: how far it climbs above the lowest point it had reached."""
    return round(float((np.maximum.accumulate(path[:, 1]) - path[:, 1]).max()), 4)


_RULES: dict[Device, Callable[[Points, Landmarks], State]] = {
    Device.ETT: lambda path, _: ett_state(-path[-1, 1]),
    Device.NGT: _ngt,
    Device.CVC: _cvc,
}
