"""Which films are to be seen first."""

from cxrlines.core.findings import Findings
from cxrlines.core.notes import Code
from cxrlines.core.rules import ETT_CARINA
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.task import Device, State, label_of

NGT_ABNORMAL = label_of(Device.NGT, State.ABNORMAL)


def is_urgent(findings: Findings, read_by: ReadBy) -> bool:
    """Whether a film is to be seen before others.

    That is: the tip of an endotracheal tube lies at the carina, by the position rule, or below it; or the probability
    of an abnormal nasogastric tube is at the operating point of what read the film, or above it.
    """
    point = read_by.operating_points.get(NGT_ABNORMAL)
    if point is not None and (findings.labels or {}).get(NGT_ABNORMAL, 0.0) >= point.probability:
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
