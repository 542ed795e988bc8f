"""From the heatmaps of a film to its lines, from entry to tip, and its landmarks; all in px of the heatmaps.

Lengths are fractions of the heatmaps' longer side.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np

from cxrlines.core.findings import Keypoint, Line
from cxrlines.core.polyline import Points, length, resample
from cxrlines.reading.trace.bounds import EDGE, Bounds, end_direction, to_edge
from cxrlines.reading.trace.centerlines import sample, trace
from cxrlines.reading.trace.endings import BESIDE, DOWNWARD, Ending, directed, distance_to_others
from cxrlines.reading.trace.following import FAINT, extension
from cxrlines.reading.trace.keypoints import SEPARATION, find_keypoints
from cxrlines.reading.trace.skeleton import HIGH
from cxrlines.task import DEVICES, MAPS, Device, Landmark, MapKind

MIN_LENGTH = 0.05
"""The shortest line."""
USUAL_LENGTH = 0.08
"""Length over which confidence in a line builds up."""
PIECE = 0.50
"""Length of line that counts as one more independent look at it."""
MIN_TRACED_CONFIDENCE = 0.25
"""What is less sure is no line, when centerlines are put together."""
MIN_CONFIDENCE = 0.7
"""Lines of less confidence are not given: of .25 to .85 a good trade of false positives for negatives on real films
(docs/experiments.md, 2026-11-25)."""
SECOND = 0.6
"""Of a device that a patient usually has once, a second line needs this fraction of the first one's weight."""
MIN_OWN_CONFIDENCE = 0.5
"""The confidence that a further line of a device needs in what it does not share with those before. Where that is in
pieces, its length reaches across what lies between: without, one line fewer was found at as many false positives
(docs/experiments.md, 2026-11-30)."""
MIN_ALONE, SURE = 0.15, 0.7
"""A catheter that is alone on less of its course beside one of another device, and has a lower mean probability, is
that other one read again."""
STEP = 0.01
"""Distance of the points of a path."""
FADING = (Device.NGT,)
"""Devices that are followed on where their tip is not seen: in the mediastinum and below a real one is often too faint
for a centerline. A catheter that has been followed to its end would be led past it."""
IN_VEINS = (Device.CVC, Device.SWAN)
"""Devices that lie in the same veins: a heatmap that is not sure which it sees shows both."""
TIP_PEAK = 0.2
"""The least height of a peak at which a line ends for that to be its tip: of .15 to .5 a good trade of wrong tips for
ones that are not given, on phantoms and on training films (docs/experiments.md, 2026-11-28). Past so high a value of
the tip's heatmap no tube leaves the film."""

Channel = tuple[MapKind, Device | Landmark]
"""What a heatmap shows."""


def find_lines(
    maps: np.ndarray,
    bounds: Bounds | None = None,
    channels: Sequence[Channel] = MAPS,
    min_confidence: Mapping[str, float] | None = None,
) -> list[Line]:
    """The lines of a film, in the order of `Device` and of confidence, one for each instance of a device.

    A line has a tip where it ends at a peak of the tip's heatmap of at least `TIP_PEAK`. Of others, those that end near
    the film's edge leave the film; but one of `DOWNWARD` is followed only to where that heatmap is highest on its way,
    if it reaches `TIP_PEAK` there. The rest are followed to their last point.

    A line's confidence comes from the mean probability of the heatmap along its path and its length (`_confidence`),
    raised by the peak of the tip's heatmap: c + (1 - c) c peak. A rank, not a probability. What was joined to a
    central catheter's start across a gap is cut off after that, if it is not worth the gap (`_without_loose_start`).

    Args:
        maps: (maps, h, w) float32 in [0, 1].
        bounds: Where the film lies in the heatmaps; None: it fills them.
        channels: What each heatmap shows.
        min_confidence: By `Device.name`, the least confidence of a line that is given; `MIN_CONFIDENCE` for a device
            that is not named.

    Raises:
        ValueError: Heatmaps of another shape, or with values that are not numbers; a channel that is named twice.
    """
    return given_lines(traced_lines(maps, bounds, channels), maps, channels, min_confidence)


def traced_lines(
    maps: np.ndarray,
    bounds: Bounds | None = None,
    channels: Sequence[Channel] = MAPS,
    devices: Collection[Device] = tuple(Device),
) -> list[Line]:
    """All lines of `devices` that are traced, also those of too little confidence to be given: from
    `MIN_TRACED_CONFIDENCE` on.

    Other arguments, order and errors as of `find_lines`.
    """
    heat, bounds = _checked(maps, bounds, channels)
    no_tips = np.zeros(maps.shape[1:], np.float32)  # of a network that learnt lines alone
    return [
        line
        for device in Device
        if device in devices and (MapKind.LINE, device) in heat
        for line in _lines_of(device, heat[MapKind.LINE, device], heat.get((MapKind.TIP, device), no_tips), bounds)
    ]


def given_lines(
    traced: Sequence[Line],
    maps: np.ndarray,
    channels: Sequence[Channel] = MAPS,
    min_confidence: Mapping[str, float] | None = None,
) -> list[Line]:
    """Those of traced lines, in px of the heatmaps, that are given, in their order; arguments as of `find_lines`.

    Of a Swan-Ganz catheter that is read as a central venous catheter too, or the reverse, one line is given.
    """
    heat = dict(zip(channels, maps, strict=True))
    limits = min_confidence or {}
    found = [line for line in traced if line.confidence >= limits.get(line.device.name, MIN_CONFIDENCE)]
    scale = float(max(maps.shape))
    kept: list[Line] = []
    catheters = [line for line in found if line.device in IN_VEINS]
    for line in sorted(catheters, key=lambda line: -line.confidence * length(line.path)):
        others = [other.path for other in kept if other.device is not line.device]
        alone = (distance_to_others(line.path, others) > BESIDE * scale).mean() > MIN_ALONE
        if alone or sample(heat[MapKind.LINE, line.device], line.path).mean() > SURE:
            kept.append(line)
    return [line for line in found if line not in catheters or line in kept]


def find_landmarks(
    maps: np.ndarray, bounds: Bounds | None = None, channels: Sequence[Channel] = MAPS
) -> dict[Landmark, Keypoint]:
    """The landmarks of a film, each at the highest peak of its heatmap; those that are not seen are left out.

    Arguments and errors as of `find_lines`. A peak in the padding around a film is ignored.
    """
    heat, bounds = _checked(maps, bounds, channels)
    found = {}
    for landmark in Landmark:
        if (MapKind.LANDMARK, landmark) not in heat:
            continue
        for peak in find_keypoints(heat[MapKind.LANDMARK, landmark]):
            if bounds.distance(peak.xy) >= -1:  # a peak at the film's edge is right to a px
                found[landmark] = replace(peak, xy=np.clip(peak.xy, bounds[:2], bounds[2:]))
                break
    return found


def _lines_of(device: Device, line_map: np.ndarray, tip_map: np.ndarray, bounds: Bounds) -> list[Line]:
    """The lines of one device, the most confident first, from its two heatmaps (h, w)."""
    if line_map.max() < MIN_TRACED_CONFIDENCE:
        return []
    scale = float(max(line_map.shape))
    spec = DEVICES[device]
    tips = find_keypoints(tip_map)
    centerlines = trace(line_map, np.array([tip.xy for tip in tips]).reshape(-1, 2), may_share=not spec.exclusive)
    endings = directed(device, [line.points for line in centerlines], tips, bounds, scale)
    weights = [_confidence(line.own, line_map) * length(line.own) for line in centerlines]
    kept: list[Line] = []
    first_weight = 0.0
    for weight, ending in sorted(zip(weights, endings, strict=True), key=lambda pair: -pair[0]):
        line = _line(device, ending, line_map, bounds)
        if length(line.path) < MIN_LENGTH * scale or line.confidence < MIN_TRACED_CONFIDENCE:
            continue
        if kept and (spec.exclusive or (not spec.several and weight < SECOND * first_weight)):
            break
        alone = distance_to_others(line.path, [other.path for other in kept]) > BESIDE * scale
        if kept and _confidence(line.path[alone], line_map) < MIN_OWN_CONFIDENCE:
            continue
        first_weight = first_weight or weight
        kept.append(line)
    kept.sort(key=lambda line: -line.confidence)
    extended = [_not_past_tip(_extended(line, line_map, bounds), tip_map) for line in kept]
    return [replace(line, path=resample(line.path, STEP * scale)) for line in extended]


def _line(device: Device, ending: Ending, line_map: np.ndarray, bounds: Bounds) -> Line:
    """The line along a centerline, as far as it is on the film: its longest stretch, or a point where none is."""
    scale = float(max(line_map.shape))
    inside = bounds.distance(ending.path) >= 0
    stretches = np.split(np.arange(len(ending.path)), np.flatnonzero(np.diff(inside)) + 1)
    longest = max((stretch for stretch in stretches if inside[stretch[0]]), key=len, default=np.arange(1))
    path = to_edge(ending.path[longest][::-1], bounds, scale)[::-1]
    cut = longest[-1] < len(ending.path) - 1
    tip_seen = ending.tip is not None and ending.tip.confidence >= TIP_PEAK
    leaves = cut or (not tip_seen and bounds.distance(path[-1]) <= EDGE * scale)
    if leaves:
        path = to_edge(path, bounds, scale)
    confidence = _confidence(path, line_map)
    if ending.tip is not None:
        confidence += (1 - confidence) * confidence * ending.tip.confidence
    if device is Device.CVC:  # tubes come from above alone; a Swan-Ganz catheter's start may be shown as a CVC's
        path = _without_loose_start(path, line_map)
    last = path[-1].copy()
    if leaves:
        return Line(device, path, None, confidence)
    if tip_seen:
        return Line(device, path, last, confidence)
    return Line(device, path, None, confidence, followed_to=last)


def _without_loose_start(path: Points, line_map: np.ndarray) -> Points:
    """A path from where the heatmap shows it best: of all its ends that of the greatest sum of log(p / `HIGH`).

    So what lies before a gap is kept where it is worth the gap. The last point stays: how far a line is followed is
    what counts for whoever looks for its tip.
    """
    path = resample(path, 1.0)
    sums = np.log(np.maximum(sample(line_map, path), FAINT) / HIGH).cumsum()
    start = int(np.argmin([0.0, *sums[:-2]]))
    return path[start:]


def _confidence(path: Points, line_map: np.ndarray) -> float:
    """The confidence that a path is a line, from its mean probability p and its length, 0 to 1.

    c = p (1 - exp(-length / `USUAL_LENGTH`)), then 1 - (1 - c)^(1 + length / `PIECE`): as if each piece of the path
    were seen on its own.
    """
    if len(path) < 2:
        return 0.0
    relative = length(path) / max(line_map.shape)
    short = min(1.0, float(sample(line_map, path).mean())) * (1 - float(np.exp(-relative / USUAL_LENGTH)))
    return float(1 - (1 - short) ** (1 + relative / PIECE))


def _extended(line: Line, line_map: np.ndarray, bounds: Bounds) -> Line:
    """A line with the faint rest of its course: back to where it enters the film, and on from where it was followed to
    if it is one of `FADING`."""
    if line.confidence < MIN_OWN_CONFIDENCE:
        return line
    edge = EDGE * max(line_map.shape)
    if bounds.distance(line.path[0]) > edge:
        back = _extension(line.path[::-1], line_map, bounds)
        line = replace(line, path=np.concatenate([back[::-1], line.path]))
    if line.device in FADING and line.followed_to is not None:
        path = np.concatenate([line.path, _extension(line.path, line_map, bounds)])
        leaves = bounds.distance(path[-1]) <= edge
        line = replace(line, path=path, followed_to=None if leaves else path[-1].copy())
    return line


def _extension(path: Points, line_map: np.ndarray, bounds: Bounds) -> Points:
    """(n, 2): how a path goes on beyond its last point, as far as it is on the film; n = 0 where it does not."""
    scale = float(max(line_map.shape))
    ahead = end_direction(path, 0.04 * scale)
    without_path = line_map.copy()
    radius = max(1, round(SEPARATION / 2 * scale))
    cv2.polylines(without_path, [np.round(path[:-radius]).astype(np.int32)], False, 0.0, 2 * radius - 1)
    found = extension(without_path, path[-1], float(np.arctan2(ahead[1], ahead[0])))
    found = found[np.logical_and.accumulate(bounds.distance(found) >= 0)]
    return to_edge(found, bounds, scale) if len(found) else found


def _not_past_tip(line: Line, tip_map: np.ndarray) -> Line:
    """A line that leaves the film, followed only to where the tip's heatmap says that it may end before.

    Of `DOWNWARD` alone: a catheter that reaches two edges may have come in at either.
    """
    if not line.leaves_film or line.device not in DOWNWARD:
        return line
    path = resample(line.path, 1.0)
    tip = sample(tip_map, path)
    last = int(tip.argmax())
    if tip[last] < TIP_PEAK or last < MIN_LENGTH * max(tip_map.shape):
        return line
    return replace(line, path=path[: last + 1], followed_to=path[last].copy())


def _checked(
    maps: np.ndarray, bounds: Bounds | None, channels: Sequence[Channel]
) -> tuple[dict[Channel, np.ndarray], Bounds]:
    """The heatmaps by what they show, and the edges of the film."""
    if len(set(channels)) < len(channels):
        raise ValueError(f"channels: needs each once; got {list(channels)}")
    maps = np.ascontiguousarray(maps, np.float32)
    if maps.ndim != 3 or len(maps) != len(channels) or min(maps.shape[1:]) < 8:
        raise ValueError(f"maps: needs ({len(channels)}, h, w) of at least 8 px a side; got {maps.shape}")
    if not np.isfinite(maps.sum()):  # one value that is no number makes the sum none
        raise ValueError("maps: holds values that are not numbers; the network that made them has diverged")
    everything = Bounds(-0.5, -0.5, maps.shape[2] - 0.5, maps.shape[1] - 0.5)
    return dict(zip(channels, maps, strict=True)), bounds or everything
