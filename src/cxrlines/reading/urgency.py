"""Which films are to be seen first."""

from cxrlines.core.findings import Findings
from cxrlines.core.notes import Code
from cxrlines.core.rules import ETT_CARINA
from cxrlines.reading.bundle import Bundle
from cxrlines.task import Device, State, label_of

NGT_ABNORMAL = label_of(Device.NGT, State.ABNORMAL)
PRECISION = 0.5
"""Of the operating point of `NGT_ABNORMAL`: of the films above it about half are abnormal."""


def ngt_operating_point(bundle: Bundle) -> float | None:
    """The bundle's threshold of `NGT_ABNORMAL` at a precision of at least `PRECISION`; None where it has none."""
    for entry in (bundle.manifest.thresholds or {}).get(NGT_ABNORMAL, ()):
        if entry.wanted == "precision" and entry.at_least == PRECISION:
            return entry.probability
    return None


def is_urgent(findings: Findings, bundle: Bundle) -> bool:
    """Whether a film is to be seen before others.

    That is: the tip of an endotracheal tube lies at the carina, by the position rule, or below it; or the probability
    of an abnormal nasogastric tube is at the operating point of the bundle that read the film, or above it.
    """
    if (point := ngt_operating_point(bundle)) is not None and (findings.labels or {}).get(NGT_ABNORMAL, 0.0) >= point:
        return True
    for distance in findings.distances:
        if findings.lines[distance.line].device is Device.ETT and distance.what.endswith("above the carina"):
            abnormal = distance.state is State.ABNORMAL  # too high, or too low
            if abnormal and distance.patient_cm is not None and distance.patient_cm[1] < ETT_CARINA:
                return True
            # Below it is below it at any size, as long as it is known which way is up.
            if distance.px is not None and distance.px <= 0 and not findings.has(Code.POSE_UNSURE):
                return True
    return False
