"""Position rules that need no more than a line and the carina: for the phantom's labels and the reader's states."""

from cxrlines.task import State

# Height of an endotracheal tube's tip above the carina, cm on the patient.
ETT_CARINA = 0.5
ETT_LOW = 2.0
ETT_HIGH = 6.0
ETT_LARYNX = 10.0
_LIMITS = (ETT_CARINA, ETT_LOW, ETT_HIGH, ETT_LARYNX)


def ett_state(height: float) -> State:
    """The state of an endotracheal tube whose tip is `height` cm above the carina (negative: below it).

    2 to 6 normal (neutral head 5 +- 2, never under 2, as flexing the neck moves the tip by 2: Goodman, AJR
    1976;127:433); 0.5 to 2 and 6 to 10 borderline; above 10 abnormal, as the cuff then lies at the cords; below 0.5,
    so also in a main bronchus, abnormal (readers place the carina no better). Limits belong to the better state.
    """
    if ETT_LOW <= height <= ETT_HIGH:
        return State.NORMAL
    return State.BORDERLINE if ETT_CARINA <= height <= ETT_LARYNX else State.ABNORMAL


def ett_states(low: float, high: float) -> tuple[State, ...]:
    """Every state that a height from `low` to `high` cm has, in the order of `State`.

    Borderline lies on both sides of normal, so that the two ends alone do not show what lies between them.
    """
    found = {ett_state(height) for height in (low, high, *(limit for limit in _LIMITS if low < limit < high))}
    return tuple(state for state in State if state in found)


# Depths below the carina, cm on the patient. The superior vena cava begins 3.04 +- 1.12 above the carina, and meets the
# atrium 4.03 +- 1.36 below it (mean and standard deviation of 112 CTs: Mahlon & Yoon, JVIR 2007;18:1106).
SVC_ORIGIN = (-4.2, -1.9)
CAVO_ATRIAL = (2.7, 5.4)
CVC_LOWER_SVC, CVC_JUNCTION, CVC_UPPER_ATRIUM = -3.0, 1.0, 3.0
"""Depths below the cavo-atrial junction between which a central catheter's tip is normal, and borderline."""
CVC_LEFT = 1.0
"""A tip farther to the patient's left of the carina, cm, is not in the superior vena cava or the right atrium."""
CVC_RIGHT = 5.5
"""Likewise to the patient's right: the border of a right atrium that is not enlarged lies no farther from the midline
(Radiopaedia, Right atrial enlargement)."""
GASTRO_OESOPHAGEAL = (8.0, 16.0)
"""Depth of the gastro-oesophageal junction below the carina: 16 along the oesophagus (40 and 24 cm from the incisors:
AJCC Cancer Staging Manual, 6th ed.), less straight down; half of it is taken for the least of an adult."""
NGT_DEEP = 10.0
"""Length of a nasogastric tube beyond the junction from which on its side holes lie in the stomach."""
NGT_BESIDE = 4.0
"""A course that lies farther beside the carina, cm, before it is as deep as the junction may be in a main bronchus or
the lung. Our own bound: the oesophagus lies by the midline there, unless it is displaced."""

Range = tuple[float, float]
"""The least and the most cm that are possible."""


def cvc_states(below: Range, right: Range) -> tuple[State, ...]:
    """Every state that a central catheter may have, in the order of `State`.

    Normal from 3 above the cavo-atrial junction to 1 below it (lower superior vena cava, or the junction: Vesely, JVIR
    2003;14:527); elsewhere in the superior vena cava, or to 3 below the junction, borderline; deeper, above the vena
    cava, or to the left (Gibson & Bodenham, Br J Anaesth 2013;110:333) or right of both, abnormal. Undecided what the
    place of the junction and of the origin of the vena cava, within one standard deviation, leaves open.

    Args:
        below: Depth of the tip below the carina, cm.
        right: How far the tip lies to the patient's right of the carina, cm.
    """
    if right[1] < -CVC_LEFT or right[0] > CVC_RIGHT or below[1] < SVC_ORIGIN[0]:
        return (State.ABNORMAL,)
    # Of numbers with two digits the difference has two: 2.4 - 5.4 is -3 here, too.
    low, high = round(below[0] - CAVO_ATRIAL[1], 6), round(below[1] - CAVO_ATRIAL[0], 6)
    beside = right[0] < -CVC_LEFT or right[1] > CVC_RIGHT
    possible = {
        State.ABNORMAL: beside or below[0] < SVC_ORIGIN[1] or high > CVC_UPPER_ATRIUM,
        State.BORDERLINE: low < CVC_LOWER_SVC or (low <= CVC_UPPER_ATRIUM and high > CVC_JUNCTION),
        State.NORMAL: low <= CVC_JUNCTION and high >= CVC_LOWER_SVC,
    }
    return tuple(state for state in State if possible.get(state))


def ngt_states(below: Range, beyond: Range, beside: float) -> tuple[State, ...]:
    """Every state that a nasogastric tube whose tip is on the film may have, in the order of `State`.

    Normal with at least 10 of its length beyond the gastro-oesophageal junction, so that the side holes lie in the
    stomach (the usual reporting rule); with less, borderline; abnormal where its tip is not beyond the junction: in the
    oesophagus, in a bronchus, or turned back. Undecided what the junction's place leaves open, and whether a tube whose
    course lies to the side, or is not seen, is in the lung.

    Args:
        below: Depth of the tip below the carina, cm.
        beyond: Length, cm, of the tube that is deeper than `GASTRO_OESOPHAGEAL`: than the most, and than the least.
        beside: The farthest, cm, that its course lies beside the carina from there down to the least depth of the
            junction; infinite where it is not seen there.
    """
    if below[1] < GASTRO_OESOPHAGEAL[0]:
        return (State.ABNORMAL,)
    possible = {
        State.ABNORMAL: below[0] < GASTRO_OESOPHAGEAL[1] or beside > NGT_BESIDE,
        State.BORDERLINE: beyond[0] < NGT_DEEP,
        State.NORMAL: beyond[1] >= NGT_DEEP,
    }
    return tuple(state for state in State if possible.get(state))
