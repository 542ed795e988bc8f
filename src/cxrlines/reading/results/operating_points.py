"""Operating points: from which probability on a label counts as positive."""

from typing import NamedTuple

from cxrlines.reading.bundle import Bundle


class OperatingPoint(NamedTuple):
    """The probability from which on a label counts as positive, and what it was chosen for."""

    probability: float
    words: str


def operating_points_of(bundle: Bundle) -> dict[str, OperatingPoint]:
    """By label, of the labels that have one: the first threshold of the manifest."""
    points = {}
    for label, thresholds in (bundle.manifest.thresholds or {}).items():
        first = next((each for each in thresholds if each.probability is not None), None)
        if first is not None and first.probability is not None:
            points[label] = OperatingPoint(first.probability, f"{first.wanted} {first.at_least:g}")
    return points
