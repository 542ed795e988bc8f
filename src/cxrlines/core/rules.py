"""Position rules that need no more than a tip and the carina: for the phantom's labels and the reader's states."""

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
    hence also in a main bronchus, abnormal (readers place the carina no better). Limits belong to the better state.
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
