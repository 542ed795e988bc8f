"""Which films are to be seen first."""

from cxrlines.core.findings import Findings, Line
from cxrlines.core.notes import Code
from cxrlines.core.rules import ETT_CARINA
from cxrlines.reading.distances import turned
from cxrlines.reading.interpretation import possible_devices
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.task import Device, Landmark, State, label_of

NGT_ABNORMAL = label_of(Device.NGT, State.ABNORMAL)


def is_urgent(findings: Findings, read_by: ReadBy) -> bool:
    """Whether a film is to be seen before others.

    That is: the tip of an endotracheal tube lies at the carina, by the position rule, or below it, or the tube is
    followed to below it, wherever its tip may be; or a nasogastric tube ends in the chest, by the position rule; or
    `ngt_is_probably_abnormal`.
    """
    if ngt_is_probably_abnormal(findings, read_by) or ngt_ends_in_chest(findings):
        return True
    for distance in findings.distances:
        if findings.lines[distance.line].device is Device.ETT and distance.what.endswith("above the carina"):
            abnormal = distance.state is State.ABNORMAL  # too high, or too low
            if abnormal and distance.patient_cm is not None and distance.patient_cm[1] < ETT_CARINA:
                return True
    return any(_reaches_carina(line, findings) for line in findings.lines)


def ngt_is_probably_abnormal(findings: Findings, read_by: ReadBy) -> bool:
    """Whether the probability of an abnormal nasogastric tube is at the operating point of what read the film, or above
    it, and that does not hold such a tube for absent: else it gives no line of one either."""
    point, labels = read_by.operating_points.get(NGT_ABNORMAL), findings.labels or {}
    if point is None or labels.get(NGT_ABNORMAL, 0.0) < point.probability:
        return False
    return Device.NGT in possible_devices(labels, read_by.denied)


def ngt_ends_in_chest(findings: Findings) -> bool:
    """Whether the tip of a nasogastric tube is seen above where the stomach begins, by the position rule."""
    return any(
        distance.state is State.ABNORMAL and findings.lines[distance.line].device is Device.NGT
        for distance in findings.distances
    )


def _reaches_carina(line: Line, findings: Findings) -> bool:
    """Whether an endotracheal tube is seen at the height of the carina or below: at any size of the film that is so."""
    end = line.followed_to if line.tip is None else line.tip
    carina = findings.landmarks.get(Landmark.CARINA)
    if line.device is not Device.ETT or end is None or carina is None or findings.has(Code.POSE_UNSURE):
        return False
    return bool(turned(end - carina.xy, findings.quality.rotation)[1] >= 0)
