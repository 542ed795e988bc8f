"""Whether a device is present: AUC of a presence score and of the labels, and false positives where it is absent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrlines.core.findings import Line
from cxrlines.core.polyline import Points
from cxrlines.metrics.auc import auc
from cxrlines.metrics.intervals import RESAMPLES, percentile_interval, resampled_aucs
from cxrlines.metrics.line_figures import EvaluatedFilm, Figure, line_figures
from cxrlines.metrics.line_matching import match
from cxrlines.task import LABELS_OF, Device


@dataclass(frozen=True, eq=False)
class EvaluatedReading:
    """A film that was read, with its ground truth."""

    read: EvaluatedFilm  # its lines and carina, true and found; without lines that are known, both are empty
    present: Mapping[Device, bool]  # a device of which it is not known is left out
    presence: Mapping[str, float]  # score by `Device.name`
    labels: Mapping[str, float]  # probability by label
    lines_known: bool = True  # all its true lines are known, so that found ones can be evaluated
    carina_sure: bool = True  # the true carina was seen, not guessed
    tracheostomy: bool = False  # it shows a cannula, which is no endotracheal tube but looks like one
    doubtful: Sequence[Line] = ()  # marked, but neither true nor false
    others: Sequence[tuple[str, Points]] = ()  # name and path of marked things that are no lines of the task


@dataclass(frozen=True)
class PresenceFigures:
    """Of one device, on films of which it is known whether they have it."""

    films: int  # how many these are
    positives: int  # of them, with the device
    presence: Figure  # AUC of the presence score
    label: Figure  # AUC of the largest probability of the device's labels
    false_positives: Figure  # lines a film that has none of the device; of films whose lines are known
    without: int  # how many such films


def presence_figures(
    films: Sequence[EvaluatedReading], device: Device, *, resamples: int = RESAMPLES, seed: int = 0
) -> PresenceFigures:
    """The figures of a device, with 95 % intervals by patient; undefined where the bundle has no label of it."""
    known = [film for film in films if device in film.present]
    truth = np.array([film.present[device] for film in known], int)
    patients = np.array([film.read.patient for film in known])

    def ranked(scores: list[float | None]) -> Figure:
        values = np.array(scores, np.float64)
        value = None if np.isnan(values).any() else auc(truth, values)
        if value is None:
            return Figure()
        drawn = resampled_aucs(truth[:, None], values[:, None], patients, resamples=resamples, seed=seed)
        return Figure(value, percentile_interval(drawn[:, 0]))

    labels = [[film.labels[label] for label in LABELS_OF[device] if label in film.labels] for film in known]
    # Where there is none, every found line is a false positive; the carina plays no part.
    without = [film.read for film in known if film.lines_known and not film.present[device]]
    bare = [replace(read, true=(), true_carina=None, states=()) for read in without]
    figures = line_figures(bare, resamples=resamples, seed=seed).devices[device] if bare else None
    return PresenceFigures(
        films=len(known),
        positives=int(truth.sum()),
        presence=ranked([film.presence.get(device.name) for film in known]),
        label=ranked([max(each, default=None) for each in labels]),
        false_positives=figures.false_positives if figures else Figure(),
        without=len(without),
    )


def without_doubtful(
    true: Sequence[Line], doubtful: Sequence[Line], found: Sequence[Line], shape: tuple[int, int], height: float
) -> list[Line]:
    """The found lines except those along a doubtful and along no true one: neither true nor false positives.

    Arguments as of `EvaluatedFilm`.
    """
    matched = {place for _, place in match(true, found, shape, height)}
    rest = [place for place in range(len(found)) if place not in matched]
    along = {rest[k] for _, k in match(doubtful, [found[place] for place in rest], shape, height)}
    return [line for place, line in enumerate(found) if place not in along]
