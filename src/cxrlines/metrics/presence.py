"""Whether a device is there: AUC of a presence score and of the labels, and false positives where there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrlines.metrics.auc import auc
from cxrlines.metrics.intervals import RESAMPLES, percentile_interval, resampled_aucs
from cxrlines.metrics.lines import EvaluatedFilm, Figure, line_figures, match
from cxrlines.task import LABELS_OF, Device


@dataclass(frozen=True, eq=False)
class JudgedFilm:
    """A film that was read, with what is true of it.

    Attributes:
        read: Its lines and carina, true and found. Without lines that are known, both are empty.
        there: Whether each device is there; one of which that is not known is left out.
        presence: By `Device.name`, how likely the device is there.
        labels: Probability by label.
        lines_known: Whether all its true lines are known, so that found ones can be judged.
        carina_sure: Whether the true carina was seen, not guessed.
        tracheostomy: Whether it shows a cannula, which is no endotracheal tube but looks like one.
    """

    read: EvaluatedFilm
    there: Mapping[Device, bool]
    presence: Mapping[str, float]
    labels: Mapping[str, float]
    lines_known: bool = True
    carina_sure: bool = True
    tracheostomy: bool = False


@dataclass(frozen=True)
class PresenceFigures:
    """Of one device, on films of which it is known whether they have it.

    Attributes:
        films: How many these are. positives: Of them, with the device.
        presence: AUC of the presence score.
        label: AUC of the largest probability of the device's labels.
        invented: False positives a film that has none of the device; of films whose lines are known.
        without: How many such films.
    """

    films: int
    positives: int
    presence: Figure
    label: Figure
    invented: Figure
    without: int


def presence_figures(
    films: Sequence[JudgedFilm], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[Device, PresenceFigures]:
    """The figures of each device, with 95 % intervals by patient."""
    return {device: _of_device(films, device, resamples, seed) for device in Device}


def spared(
    true: Sequence, doubtful: Sequence, found: Sequence, shape: tuple[int, int], height: float | None = None
) -> list:
    """The found lines but for those along a doubtful and along no true one: neither true nor false positives.

    Lines are `lines.LineLike`s; `shape` and `height` are as `EvaluatedFilm`'s.
    """
    taken = {place for _, place in match(true, found, shape, height)}
    rest = [place for place in range(len(found)) if place not in taken]
    along = {rest[k] for _, k in match(doubtful, [found[place] for place in rest], shape, height)}
    return [line for place, line in enumerate(found) if place not in along]


def _of_device(films: Sequence[JudgedFilm], device: Device, resamples: int, seed: int) -> PresenceFigures:
    known = [film for film in films if device in film.there]
    truth = np.array([film.there[device] for film in known], int)
    patients = np.array([film.read.patient for film in known])

    def ranked(scores: list[float]) -> Figure:
        value = auc(truth, np.array(scores))
        if value is None:
            return Figure(None, None)
        drawn = resampled_aucs(truth[:, None], np.array(scores)[:, None], patients, resamples=resamples, seed=seed)
        return Figure(value, percentile_interval(drawn[:, 0]))

    without = [film for film in known if film.lines_known and not film.there[device]]
    # Where there is none, every found line is a false positive; the carina plays no part.
    bare = [replace(film.read, true=(), true_carina=None, states=()) for film in without]
    return PresenceFigures(
        films=len(known),
        positives=int(truth.sum()),
        presence=ranked([film.presence[device.name] for film in known]),
        label=ranked([max(film.labels[label] for label in LABELS_OF[device]) for film in known]),
        invented=line_figures(bare, resamples=resamples, seed=seed).devices[device].invented
        if bare
        else Figure(None, None),
        without=len(without),
    )
