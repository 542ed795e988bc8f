"""What the heatmaps of a film show beyond its findings: lines traced but not given, and values along true ones."""

from collections.abc import Mapping

import cv2
import numpy as np

from cxrlines.core.findings import Findings, Line
from cxrlines.core.polyline import resample
from cxrlines.metrics.failure_causes import MissedLine, Withheld
from cxrlines.reading.interpretation import FilmMaps, possible_devices
from cxrlines.reading.trace.centerlines import sample
from cxrlines.reading.trace.lines import MIN_CONFIDENCE
from cxrlines.task import MapKind

NEAR = 0.01
"""Share of a heatmap's height by which a marked path may be beside the line: the highest value so near counts."""


def withheld_lines(
    maps: FilmMaps, found: Findings, denied: Mapping[str, float] | None, least: Mapping[str, float] | None = None
) -> list[Withheld]:
    """The lines that were traced on a film but are not among its findings, and why.

    `denied` and `least`: as `interpretation.findings_of` was given them, by `Device.name`.
    """
    possible = possible_devices(found.labels or {}, denied)
    given = maps.given(least, possible)
    withheld = []
    for line in maps.traced():
        name = line.device.name
        if line.confidence < (least or {}).get(name, MIN_CONFIDENCE):
            cause = MissedLine.CONFIDENCE
        elif line.device not in possible:
            cause = MissedLine.SUPPRESSED
        elif line not in given:
            cause = MissedLine.OTHER_DEVICE  # a catheter that another device's line was taken for
        else:
            continue
        withheld.append(Withheld(maps.on_film(line), cause))
    return withheld


def mean_along(maps: FilmMaps, line: Line) -> float:
    """The mean of its device's line heatmap along a line in px of the film, 0 to 1; 0 where no heatmap is of it.

    The highest value within `NEAR` counts at each point, as marks are not exact.
    """
    channel = (MapKind.LINE, line.device)
    if channel not in maps.channels:
        return 0.0
    heat = maps.maps[list(maps.channels).index(channel)]
    reach = max(1, round(NEAR * heat.shape[0]))
    highest = cv2.dilate(heat, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)))
    points = resample(maps.to_maps.from_film(line.path), 1.0)
    inside = maps.bounds.distance(points) >= 0
    return float(sample(np.asarray(highest), points[inside]).mean()) if inside.any() else 0.0
