"""What of a film's lines each limit of confidence would give."""

from collections.abc import Mapping
from dataclasses import replace

from cxrlines.core.findings import Findings, presence_of
from cxrlines.evaluation.bundles.reference import ReferenceFilm
from cxrlines.metrics.limit_trade import CONFIDENCES, FilmCounts, line_counts
from cxrlines.reading.interpretation import FilmMaps, possible_devices
from cxrlines.task import MAPPED, Device


def limit_counts(
    film: ReferenceFilm, found: Findings, maps: FilmMaps | None, denied: Mapping[str, float] | None = None
) -> dict[Device, FilmCounts]:
    """The counts of each device whose lines are known on the film; without heatmaps none are found.

    A device's limit of the classifier is tried while the others keep theirs, `denied` as `findings_of` was given it.
    """
    presence = presence_of(found.labels or {})
    possible = possible_devices(found.labels or {}, denied)
    counts: list[dict[Device, tuple[int, int, int]]] = []
    before = None
    for limit in CONFIDENCES:
        limits = dict.fromkeys(Device.__members__, limit)
        lines = [
            line
            for device in Device
            for line in (maps.given(limits, {device, *possible}) if maps else ())
            if line.device is device
        ]
        if not counts or lines != before:
            on_film = tuple(maps.on_film(line) for line in lines) if maps else ()
            read = film.compare(replace(found, lines=on_film, distances=())).read
            counts.append({device: line_counts(read, device) for device in MAPPED if device not in read.unknown})
        else:
            counts.append(counts[-1])
        before = lines
    return {
        device: FilmCounts(
            presence.get(device.name, 1.0), true, *zip(*(each[device][1:] for each in counts), strict=True)
        )
        for device, (true, _, _) in counts[0].items()
    }
