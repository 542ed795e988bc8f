"""Quality of a film: is it a frontal chest film, how was it turned, can it be read."""

from dataclasses import dataclass
from typing import Any

from cxrlines.core.notes import Note


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of a film, and what was done to read it.

    Attributes:
        frontal_chest: Probability of a frontal chest film; None without a network, or where a rule refused first.
        rotation: Degrees (0, 90, 180, 270) counter-clockwise by which it was turned; it is turned back to be read.
        inverted: Whether its gray values are inverted (bone black); they are turned round to be read.
        cropped: Probability that so much of the chest is cut off that findings may be missing; None without a network.
        notes: What a reader of the findings should know.
        usable: Whether the film can be read; if not, `notes` begins with why.
    """

    frontal_chest: float | None = None
    rotation: int = 0
    inverted: bool = False
    cropped: float | None = None
    notes: tuple[Note, ...] = ()
    usable: bool = True

    def as_dict(self) -> dict[str, Any]:
        """JSON values: probabilities to four digits, notes as sentences."""
        return {
            "usable": self.usable,
            "frontal_chest": None if self.frontal_chest is None else round(self.frontal_chest, 4),
            "rotation": self.rotation,
            "inverted": self.inverted,
            "cropped": None if self.cropped is None else round(self.cropped, 4),
            "notes": [note.text for note in self.notes],
        }


NOT_ASSESSED = Quality()
"""Of a film that was not assessed."""

POSES = tuple((rotation, inverted) for inverted in (False, True) for rotation in (0, 90, 180, 270))
"""(degrees a film was turned counter-clockwise, whether it is inverted), in the order of the probe's classes."""
OTHER = len(POSES)
"""The probe's class of what is no frontal chest film."""
