"""Findings in words: for the strip beside a drawn film, and for a terminal."""

from cxrlines.inference.findings import Distance, Findings
from cxrlines.task import LABELS_OF, STATE_OF, Device, Landmark


def tip_words(findings: Findings, k: int) -> str:
    """`ETT 3.1 cm above carina` of line `k`, in % of the film's height where it has no spacing; else its device."""
    name = findings.lines[k].device.name
    for distance in findings.distances:
        if distance.line != k or distance.px is None:
            continue
        what = distance.what.removeprefix(f"{name} tip ").replace(" the ", " ")
        value = distance.cm if distance.cm is not None else distance.percent_of_height
        assert value is not None
        if value < 0:
            what = {"above carina": "below carina", "below carina": "above carina"}.get(what, what)
        unit = "cm" if distance.cm is not None else "% of height"
        return f"{name} {abs(value):.1f} {unit} {what}"
    return name


def line_words(findings: Findings, k: int) -> str:
    """Where line `k` ends, and how sure that is."""
    line = findings.lines[k]
    leaves = ", leaves the film" if line.tip is None else ""
    return f"{tip_words(findings, k)}{leaves}, confidence {line.confidence:.2f}"


def rule_words(distance: Distance) -> str | None:
    """What the position rule says and whether the classifier agrees; None where the rule does not decide."""
    if distance.state is None:
        return None
    verdict = {None: "", True: "; classifier agrees", False: "; classifier differs"}[distance.agrees]
    return f"by rule {distance.state.value.lower()}{verdict}"


def carina_words(findings: Findings) -> str:
    """Whether the carina was found, and how sure that is."""
    carina = findings.landmarks.get(Landmark.CARINA)
    return "Carina not found." if carina is None else f"Carina {carina.confidence:.2f}"


def as_text(findings: Findings) -> str:
    """All of it: a row for each device with `Findings.presence` and its labels, lines, the carina, quality's notes."""
    rows = []
    if findings.labels is not None and findings.presence is not None:
        for device in Device:
            labels = "  ".join(f"{STATE_OF[label].value} {findings.labels[label]:.2f}" for label in LABELS_OF[device])
            rows.append(f"{device.name:<5} {findings.presence[device.name]:.2f}   {labels}")
    for k in range(len(findings.lines)):
        rows.append(line_words(findings, k))
        rules = [rule_words(distance) for distance in findings.distances if distance.line == k]
        rows += [f"  {rule}" for rule in rules if rule]
    rows.append(carina_words(findings))
    return "\n".join([*rows, *(note.text for note in (*findings.quality.notes, *findings.notes))])
