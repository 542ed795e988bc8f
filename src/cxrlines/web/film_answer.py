"""What the page says of findings, in words."""

from typing import Any

from cxrlines.core.findings import Findings
from cxrlines.core.spacing import SpacingKind
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.report_text import (
    LIKELY,
    NOT_LOOKED_FOR,
    carina_words,
    line_words,
    looked_for,
    note_words,
    rules_of,
    spacing_words,
    tip_words,
)
from cxrlines.reading.urgency import NGT_ABNORMAL, is_urgent, ngt_ends_in_chest, ngt_is_probably_abnormal
from cxrlines.task import DEVICES, LABELS_OF, STATE_OF, Device, Landmark


def page_words(findings: Findings, read_by: ReadBy) -> dict[str, Any]:
    """What the page says of a film; it draws, and words nothing itself."""
    if not findings.quality.usable:
        refused, *notes = note_words(findings)
        return {"refused": refused, "urgent": None, "notes": notes, "sentence": sentence(findings, read_by)}
    return {
        "refused": None,
        "urgent": urgency(findings, read_by),
        "devices": [_device(findings, read_by, device) for device in Device if _known(findings, device)],
        "lines": [
            {
                "tip": tip_words(findings, k),
                "words": _words(findings, k),
                "rules": rules_of(findings, k),
                "measured": any(each.line == k and each.px is not None for each in findings.distances),
            }
            for k in range(len(findings.lines))
        ],
        "carina": carina_words(findings),
        "spacing": spacing_words(findings),
        "ruler": RULERS[findings.spacing.kind],
        "points": points_words(read_by),
        "notes": note_words(findings),
        "sentence": sentence(findings, read_by),
    }


RULERS = {
    SpacingKind.CALIBRATED: "calibrated spacing",
    SpacingKind.DETECTOR: "at the detector",
    SpacingKind.NOT_BELIEVED: "spacing not believed",
    SpacingKind.NONE: "no spacing",
}
"""What a distance that is drawn rests on."""


def points_words(read_by: ReadBy) -> str | None:
    """What the marks on the bars are; None where there are none."""
    chosen = sorted({point.words for point in read_by.operating_points.values()})
    return f"Marks on the bars are operating points: {' or '.join(chosen)}." if chosen else None


def urgency(findings: Findings, read_by: ReadBy) -> str | None:
    """Why a film is to be seen first, see `reading.urgency`; None: it is not."""
    if not is_urgent(findings, read_by):
        return None
    if ngt_is_probably_abnormal(findings, read_by):
        return f"NGT abnormal, above its operating point of {read_by.operating_points[NGT_ABNORMAL].probability:.2f}"
    return "NGT ends in the chest, by rule" if ngt_ends_in_chest(findings) else "ETT at or below the carina"


def sentence(findings: Findings, read_by: ReadBy) -> str:
    """What was found as one paragraph, to copy."""
    if not findings.quality.usable:
        found = f"{note_words(findings)[0]}."
    else:
        each = []
        for k, line in enumerate(findings.lines):
            name = DEVICES[line.device].text
            rules = f" ({'; '.join(rules_of(findings, k))})" if rules_of(findings, k) else ""
            each.append(f"{name[0].upper()}{name[1:]}: {_words(findings, k)}{rules}.")
        lacking = [device for device in Device if all(line.device is not device for line in findings.lines)]
        if not looked_for(findings):
            each.append(NOT_LOOKED_FOR)
        elif lacking:
            names = ", ".join(DEVICES[device].text for device in lacking)
            each.append(f"Not found, which is not proof of absence: {names}.")
        if looked_for(findings) and Landmark.CARINA not in findings.landmarks:
            each.append("Carina not found.")
        each += [rests_on] if (rests_on := spacing_words(findings)) else []
        found = " ".join(each)
    return f"{found} Read by {read_by.name}; for research only, not for diagnosis."


def _words(findings: Findings, k: int) -> str:
    """`line_words` without the device."""
    return line_words(findings, k).removeprefix(findings.lines[k].device.name).strip(" ,")


def _known(findings: Findings, device: Device) -> bool:
    """Whether anything can be said of a device: it has labels, or a line."""
    has_labels = any(label in (findings.labels or {}) for label in LABELS_OF[device])
    return has_labels or any(line.device is device for line in findings.lines)


def _device(findings: Findings, read_by: ReadBy, device: Device) -> dict[str, Any]:
    """What the page shows of a device: what was found in words, its lines by index, and its states."""
    lines = [k for k, line in enumerate(findings.lines) if line.device is device]
    presence = (findings.presence or {}).get(device.name)
    states = []
    for label in LABELS_OF[device]:
        if (p := (findings.labels or {}).get(label)) is None:
            continue
        point = read_by.operating_points.get(label)
        states.append(
            {
                "label": label,
                "state": STATE_OF[label].value,
                "p": p,
                "point": None if point is None else point.probability,
                "chosen": None if point is None else point.words,
            }
        )
    if lines:
        result = "found" if len(lines) == 1 else f"{len(lines)} found"
    elif presence is not None and presence >= LIKELY:
        result = "probably present, no line found"
    else:
        result = "not found" if looked_for(findings) else "lines not looked for"
    name = {"device": device.name, "text": DEVICES[device].text}
    return name | {"said": result, "lines": lines, "presence": presence, "states": states}
