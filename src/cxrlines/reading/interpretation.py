"""From a film's heatmaps to its findings.

All points are [x, y] in px of the original film, pixel centres at whole numbers.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cxrlines.core.findings import Findings, Keypoint, Line, presence_of
from cxrlines.core.heatmaps import STRIDE
from cxrlines.core.notes import Note
from cxrlines.core.quality import NOT_ASSESSED, Quality
from cxrlines.core.spacing import NO_SPACING, Spacing
from cxrlines.core.transform import Affine
from cxrlines.reading.distances import distances_of
from cxrlines.reading.trace.bounds import Bounds
from cxrlines.reading.trace.lines import Channel, find_landmarks, given_lines, traced_lines
from cxrlines.task import LABELS, LABELS_OF, MAPS, Device, MapKind

SUPPRESS_BELOW = 0.2
"""No line is given of a device whose probability by the classifier is below this: on real films that removes a third to
a half of the false positive nasogastric tubes, and hardly a true one (docs/experiments.md, 2026-11-25)."""
MIN_RECALL = 0.95
"""Share of films with a device that the classifier must keep: else `fit_suppression` lowers its limit."""


def fit_suppression(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """By `Device.name`, the probability below which lines of a device are suppressed: at most `SUPPRESS_BELOW`.

    A classifier that gives a rare device low probabilities throughout would otherwise suppress its every line.

    Args:
        labels: (n, labels) calibrated probabilities of films that it was not trained on.
        truth: (n, labels) 0, 1 or `task.UNKNOWN`.
    """
    limits = {}
    for device in Device:
        columns = [LABELS.index(label) for label in LABELS_OF[device]]
        positive = labels[(truth[:, columns] == 1).any(axis=1)]
        p = [presence_of(dict(zip(LABELS, row, strict=True)))[device.name] for row in positive]
        limit = float(np.quantile(p, 1 - MIN_RECALL, method="lower")) if p else SUPPRESS_BELOW
        limits[device.name] = min(SUPPRESS_BELOW, limit)
    return limits


def evidence_of(maps: np.ndarray, channels: Sequence[Channel] = MAPS) -> dict[str, float]:
    """How clearly heatmaps show a line of each device, by `Device.name`, 0 to 1: the mean of their highest values.

    Of so many as a line of a quarter of the heatmap's height has px.

    Args:
        maps: (maps, h, w) float32 in [0, 1].
        channels: What each heatmap shows.
    """
    count = max(1, maps.shape[1] // 4)

    def highest(heat: np.ndarray) -> np.ndarray:
        """Sorted, so that their floating-point sum is the same wherever they lie."""
        enough = np.partition(heat.max(axis=1), -count)[-count]  # so many rows, and so many values, reach it
        return np.sort(np.partition(heat[heat >= enough], -count)[-count:])

    return {
        what.name: float(highest(heat).mean())
        for heat, (kind, what) in zip(maps, channels, strict=True)
        if kind is MapKind.LINE
    }


@dataclass(frozen=True, eq=False)
class FilmMaps:
    """The heatmaps of a film, and where the film lies in them.

    Attributes:
        maps: (maps, h, w) float32 in [0, 1].
        channels: What each heatmap shows.
        film_shape: (height, width) px of the original film.
        within: (left, top, right, bottom) px of the original film inside its frame; None: all of it.
        to_maps: From px of the original film to px of the heatmaps.
        bounds: The film's edges in px of the heatmaps.
    """

    maps: np.ndarray
    channels: Sequence[Channel]
    film_shape: tuple[int, int]
    within: tuple[int, int, int, int] | None
    to_maps: Affine
    bounds: Bounds
    _traced: dict[Device, list[Line]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        maps: np.ndarray,
        placement: Affine,
        film_shape: tuple[int, int],
        within: tuple[int, int, int, int] | None = None,
        channels: Sequence[Channel] = MAPS,
    ) -> "FilmMaps":
        """The heatmaps of a film as a network read it; otherwise see the attributes.

        `placement`: where the original film lies in the film that was read, which is `STRIDE` times as large as the
        heatmaps.
        """
        to_maps = placement.at((STRIDE * maps.shape[1], STRIDE * maps.shape[2]), maps.shape[1:])
        left, top, right, bottom = within or (0, 0, film_shape[1], film_shape[0])
        corners = to_maps.from_film(np.array([[left - 0.5, top - 0.5], [right - 0.5, bottom - 0.5]]))
        bounds = Bounds(*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        return cls(maps, channels, film_shape, within, to_maps, bounds)

    def traced(self, devices: Collection[Device] = tuple(Device)) -> list[Line]:
        """All lines of `devices` that are traced (`traced_lines`), in px of the heatmaps; a device is traced once.

        Raises:
            ValueError: Heatmaps of another shape, or with values that are not numbers.
        """
        missing = [device for device in devices if device not in self._traced]
        lines = traced_lines(self.maps, self.bounds, self.channels, missing)
        self._traced.update({device: [line for line in lines if line.device is device] for device in missing})
        return [line for device in Device if device in devices for line in self._traced[device]]

    def given(
        self, min_confidence: Mapping[str, float] | None = None, devices: Collection[Device] = tuple(Device)
    ) -> list[Line]:
        """Those of the traced lines of `devices` that are given (`given_lines`), in px of the heatmaps.

        Errors as of `traced`. `min_confidence`: by `Device.name`; `MIN_CONFIDENCE` for a device that is not named.
        """
        return given_lines(self.traced(devices), self.maps, self.channels, min_confidence)

    def on_film(self, line: Line) -> Line:
        """A line in px of the heatmaps, in px of the original film."""
        path = self.to_maps.to_film(line.path)
        tip, followed_to = (None if end is None else path[-1] for end in (line.tip, line.followed_to))
        return replace(line, path=path, tip=tip, followed_to=followed_to)


def possible_devices(labels: Mapping[str, float], suppress_below: Mapping[str, float] | None = None) -> list[Device]:
    """The devices that a classifier does not hold for absent; all of those that no label is about.

    Args:
        labels: Probability by label; empty without a classifier.
        suppress_below: By `Device.name`, the probability below which a device is absent; `SUPPRESS_BELOW` for a device
            that is not named.
    """
    presence, limits = presence_of(labels), suppress_below or {}
    return [device for device in Device if presence.get(device.name, 1.0) >= limits.get(device.name, SUPPRESS_BELOW)]


def findings_of(
    film: FilmMaps,
    labels: Mapping[str, float] | None = None,
    spacing: Spacing = NO_SPACING,
    *,
    quality: Quality = NOT_ASSESSED,
    notes: tuple[Note, ...] = (),
    suppress_below: Mapping[str, float] | None = None,
    min_confidence: Mapping[str, float] | None = None,
) -> Findings:
    """The findings of a film from its heatmaps.

    Args:
        film: The heatmaps.
        labels: Probability by label, if a classifier read the film as well: a device that it holds for absent has no
            lines, nor can it take the place of another one.
        spacing: The original film's.
        quality: How the original film is turned, and whether it may be cropped.
        notes: What is odd about the original film's file; of a child's or a mirrored film no state is given.
        suppress_below: See `possible_devices`.
        min_confidence: By `Device.name`, the least confidence of a line that is given; see `find_lines`.

    Raises:
        ValueError: Heatmaps of another shape, or with values that are not numbers.
    """
    labels = None if labels is None else {name: float(p) for name, p in labels.items()}
    devices = possible_devices(labels or {}, suppress_below)
    lines = [film.on_film(line) for line in film.given(min_confidence, devices)]
    landmarks = {
        landmark: Keypoint(film.to_maps.to_film(peak.xy[None])[0], peak.confidence)
        for landmark, peak in find_landmarks(film.maps, film.bounds, film.channels).items()
    }
    found = Findings(
        film.film_shape,
        tuple(lines),
        landmarks,
        (),
        labels,
        spacing,
        quality=quality,
        evidence=evidence_of(film.maps, film.channels),
        within=film.within,
        notes=notes,
    )
    return replace(found, distances=tuple(distances_of(found)))
