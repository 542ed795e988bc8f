"""Findings as the API answers them, and what the page says of them in words."""

from typing import Any

from cxrlines import __version__
from cxrlines.core.findings import Findings
from cxrlines.core.spacing import SpacingKind
from cxrlines.reading.bundle import Bundle, ThresholdEntry
from cxrlines.reading.results.report_text import (
    carina_words,
    line_words,
    note_words,
    rules_of,
    spacing_words,
    tip_words,
)
from cxrlines.task import DEVICES, LABELS_OF, STATE_OF, STUDY_COLUMN, Device, Landmark, State, label_of

LIKELY = 0.5
"""Presence score from which a device without a line is called probable."""
OPERATING_POINT = ("sensitivity", 0.95)
"""The threshold that a label is judged by: of those in the bundle, the one that misses least."""


def film_json(findings: Findings, bundle: Bundle, name: str) -> dict[str, Any]:
    """A film as `cxrlines schema` describes it (`PredictionJson`)."""
    return (
        {"film": name, STUDY_COLUMN: findings.study_uid or name}
        | findings.as_dict()
        | {"bundle": bundle.identity, "tta": [], "seconds": findings.seconds, "notice": bundle.notice}
    )


def operating_point(bundle: Bundle, label: str) -> ThresholdEntry | None:
    """The bundle's threshold of a label at `OPERATING_POINT`; None where it has none."""
    for entry in (bundle.manifest.thresholds or {}).get(label, ()):
        if (entry.wanted, entry.at_least) == OPERATING_POINT and entry.probability is not None:
            return entry
    return None


def page_words(findings: Findings, bundle: Bundle) -> dict[str, Any]:
    """What the page says of a film; it draws, and words nothing itself."""
    if not findings.quality.usable:
        return {"refused": note_words(findings)[0], "notes": note_words(findings)[1:], "sentence": sentence(findings)}
    return {
        "refused": None,
        "urgent": urgency(findings, bundle),
        "devices": [_device(findings, bundle, device) for device in Device if _known(bundle, device)],
        "lines": [
            {"tip": tip_words(findings, k), "words": line_words(findings, k), "rules": rules_of(findings, k)}
            for k in range(len(findings.lines))
        ],
        "carina": carina_words(findings),
        "spacing": spacing_words(findings),
        "ruler": RULERS[findings.spacing.kind],
        "notes": note_words(findings),
        "sentence": sentence(findings),
    }


RULERS = {
    SpacingKind.CALIBRATED: "calibrated spacing",
    SpacingKind.DETECTOR: "at the detector",
    SpacingKind.NOT_BELIEVED: "spacing not believed",
    SpacingKind.NONE: "no spacing",
}
"""What a distance that is drawn rests on."""


def urgency(findings: Findings, bundle: Bundle) -> str | None:
    """Why a film is to be looked at first; None: no reason found.

    An endotracheal tube that ends at or below the carina by rule, or a nasogastric tube that is abnormal above its
    operating point.
    """
    for distance in findings.distances:
        line = findings.lines[distance.line]
        at_carina = distance.rule is not None and distance.px is not None and distance.px <= 0
        if line.device is Device.ETT and at_carina and distance.state is State.ABNORMAL:
            return "ETT at or below the carina"
    label = label_of(Device.NGT, State.ABNORMAL)
    point, p = operating_point(bundle, label), (findings.labels or {}).get(label)
    if point is not None and p is not None and point.probability is not None and p >= point.probability:
        return "NGT abnormal above its operating point"
    return None


def sentence(findings: Findings) -> str:
    """What was found as one paragraph, to copy."""
    if not findings.quality.usable:
        said = note_words(findings)[0]
    else:
        each = []
        for k, line in enumerate(findings.lines):
            name = DEVICES[line.device].text
            words = line_words(findings, k).removeprefix(line.device.name).strip(" ,")
            rules = f" ({'; '.join(rules_of(findings, k))})" if rules_of(findings, k) else ""
            each.append(f"{name[0].upper()}{name[1:]}: {words}{rules}.")
        lacking = [device for device in Device if all(line.device is not device for line in findings.lines)]
        if lacking:
            names = ", ".join(DEVICES[device].text for device in lacking)
            each.append(f"Not found, which is not proof of absence: {names}.")
        if Landmark.CARINA not in findings.landmarks:
            each.append("Carina not found.")
        each += [words] if (words := spacing_words(findings)) else []
        said = " ".join(each)
    return f"{said} Read by cxrlines {__version__}; for research only, not for diagnosis."


def _known(bundle: Bundle, device: Device) -> bool:
    return any(label in bundle.manifest.labels for label in LABELS_OF[device])


def _device(findings: Findings, bundle: Bundle, device: Device) -> dict[str, Any]:
    lines = [k for k, line in enumerate(findings.lines) if line.device is device]
    presence = (findings.presence or {}).get(device.name)
    states = []
    for label in LABELS_OF[device]:
        if (p := (findings.labels or {}).get(label)) is None:
            continue
        point = operating_point(bundle, label)
        states.append(
            {
                "label": label,
                "state": STATE_OF[label].value,
                "p": p,
                "point": None if point is None else point.probability,
                "sensitivity": None if point is None else point.sensitivity,
                "specificity": None if point is None else point.specificity,
            }
        )
    if lines:
        said = "found" if len(lines) == 1 else f"{len(lines)} found"
    elif presence is not None and presence >= LIKELY:
        said = "probably present, no line found"
    else:
        said = "not found"
    return {"device": device.name, "said": said, "lines": lines, "presence": presence, "states": states}
