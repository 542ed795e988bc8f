"""Found lines against true ones: how well they cover each other, where the tips are, false negatives and positives.

All points are [x, y] in px of the original film; errors are in % of the film's height, which is that of the upright
film, however it is turned in its file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from cxrlines.core.heatmaps import LINE_WIDTH
from cxrlines.core.line_drawing import line_mask
from cxrlines.core.polyline import Points, on_film, resample
from cxrlines.metrics.intervals import RESAMPLES, Interval, patient_weights, percentile_interval
from cxrlines.task import Device, State

TOLERANCE = 0.02
"""A found line is a true one if they are no farther apart than this share of the film's height, in the mean."""
MASK_SIDE = 512
"""Longer side in px at which lines are drawn to be compared, `data.maps.LINE_WIDTH` of it wide."""


class LineLike(Protocol):
    """A line of a film, true or found: its device, its path (n, 2) to the tip, its tip (2,) or None if off the film."""

    @property
    def device(self) -> Device: ...
    @property
    def path(self) -> np.ndarray: ...
    @property
    def tip(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class StateCall:
    """The state of a device on a film: true, by the position rule alone, by the classifier (None: undecided)."""

    device: Device
    truth: State
    rule: State | None
    classifier: State | None


@dataclass(frozen=True, eq=False)
class EvaluatedFilm:
    """A film, what is true of it and what was found.

    Attributes:
        patient: Whose it is.
        shape: (height, width) px of the file.
        true, found: Lines.
        true_carina, found_carina: (2,), or None where it is unknown, or was not found.
        states: The states of its devices.
        height: px of the film once it is upright, what errors are divided by; None: `shape`'s.
    """

    patient: str
    shape: tuple[int, int]
    true: Sequence[LineLike]
    found: Sequence[LineLike]
    true_carina: np.ndarray | None = None
    found_carina: np.ndarray | None = None
    states: Sequence[StateCall] = ()
    height: float | None = None

    @property
    def upright_height(self) -> float:
        """px that errors are divided by."""
        return self.height or self.shape[0]


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval by patient; None where it is undefined."""

    value: float | None
    ci95: Interval | None

    def text(self, digits: int = 2) -> str:
        """`0.81 (0.78-0.84)`, as far as there is one."""
        if self.value is None:
            return "-"
        shown = f"{self.value:.{digits}f}"
        return shown if self.ci95 is None else f"{shown} ({self.ci95[0]:.{digits}f}-{self.ci95[1]:.{digits}f})"


@dataclass(frozen=True)
class DeviceFigures:
    """Of the lines of one device.

    Attributes:
        true: Lines that there are.
        matched: Of them, found.
        dice: Of all drawn lines of all films together: 2 |both| / (|true| + |found|).
        found_share: Recall: matched / true.
        invented: False positives a film: found lines that match no true one.
        tip_median: Distance of found tips from true ones, of matched lines that have both, % of height.
        tip_95: Its 95th percentile.
        tips: How many these are.
    """

    true: int
    matched: int
    dice: Figure
    found_share: Figure
    invented: Figure
    tip_median: Figure
    tip_95: Figure
    tips: int


@dataclass(frozen=True)
class StateFigures:
    """How often a device's state is right: by the rule alone, and by the classifier on the same films.

    `undecided`: share of them in which the rule decides on no state (it counts as wrong).
    """

    films: int
    rule: Figure
    classifier: Figure
    undecided: float


@dataclass(frozen=True)
class LineFigures:
    """All figures of a set of films; carina errors are % of height, `carina_found` is a share of the known ones."""

    films: int
    devices: dict[Device, DeviceFigures]
    invented: Figure
    carina_median: Figure
    carina_95: Figure
    carina_found: Figure
    states: dict[Device, StateFigures]

    def text(self) -> str:
        """The figures as a table for people."""
        rows = [
            f"{self.films} films; errors in % of the film's height; {INTERVALS}",
            self.lines_text(),
            f"carina: median {self.carina_median.text()} %, 95th percentile {self.carina_95.text()} %, "
            f"found {self.carina_found.text()}",
            *self.state_texts(),
        ]
        return "\n".join(rows)

    def lines_text(self) -> str:
        """The lines alone: a table of devices, and the false positives of all."""
        head = ("device", "true", "found", "recall", "false positives/film", "Dice", "tip median %", "tip 95th %")
        rows: list[tuple[str, ...]] = [head]
        for device, f in self.devices.items():
            cells = (f.found_share, f.invented, f.dice, f.tip_median, f.tip_95)
            rows.append((device.name, str(f.true), str(f.matched), *(cell.text() for cell in cells)))
        return f"{table(rows)}\nfalse positives a film, of all devices: {self.invented.text()}"

    def state_texts(self) -> list[str]:
        """A line of text a device whose states were judged."""
        return [
            f"{device.name} state right on {s.films} films: by rule {s.rule.text()} "
            f"(undecided {s.undecided:.2f}), by classifier {s.classifier.text()}"
            for device, s in self.states.items()
        ]


INTERVALS = "95 % intervals by patient, where there are two or more"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns, for people."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def line_figures(films: Sequence[EvaluatedFilm], *, resamples: int = RESAMPLES, seed: int = 0) -> LineFigures:
    """The figures of films that were read; lines are matched one to one, within a device, at the least distance.

    True paths may leave the film; what is off it does not count. Raises `ValueError` without films.
    """
    if not films:
        raise ValueError("films: none were given; line figures need at least one film that was read")
    count = len(films)
    patients = np.array([film.patient for film in films])
    draws = np.concatenate(list(patient_weights(patients, resamples, seed)))

    def ratio(over: np.ndarray, under: np.ndarray) -> Figure:
        return _figure(draws, patients[under > 0], lambda w: _divided(w @ over, w @ under))

    def quantile(errors: np.ndarray, of_film: np.ndarray, share: float) -> Figure:
        return _quantile(draws, patients, errors, of_film, share)

    devices = {}
    invented_of_all = np.zeros(count)
    for device in Device:
        compared = [_compare(film, device) for film in films]
        table = np.array([c.counts for c in compared], np.float64)  # both, sizes, true, matched, invented
        errors = np.array([error for c in compared for error in c.tip_errors], np.float64)
        of_film = np.array([k for k, c in enumerate(compared) for _ in c.tip_errors], int)
        invented_of_all += table[:, 4]
        devices[device] = DeviceFigures(
            true=int(table[:, 2].sum()),
            matched=int(table[:, 3].sum()),
            dice=ratio(2 * table[:, 0], table[:, 1]),
            found_share=ratio(table[:, 3], table[:, 2]),
            invented=ratio(table[:, 4], np.ones(count)),
            tip_median=quantile(errors, of_film, 0.5),
            tip_95=quantile(errors, of_film, 0.95),
            tips=len(errors),
        )
    known = [k for k, film in enumerate(films) if film.true_carina is not None]
    both = [k for k in known if films[k].found_carina is not None]
    carinas = [(films[k].found_carina, films[k].true_carina, films[k].upright_height) for k in both]
    errors = np.array([_error(*carina) for carina in carinas], np.float64)
    is_known, is_both = (np.isin(np.arange(count), which).astype(np.float64) for which in (known, both))
    return LineFigures(
        films=count,
        devices=devices,
        invented=ratio(invented_of_all, np.ones(count)),
        carina_median=quantile(errors, np.array(both, int), 0.5),
        carina_95=quantile(errors, np.array(both, int), 0.95),
        carina_found=ratio(is_both, is_known),
        states=_states(films, ratio),
    )


def match(
    true: Sequence[LineLike], found: Sequence[LineLike], shape: tuple[int, int], height: float | None = None
) -> list[tuple[int, int]]:
    """Pairs of indices of true and found lines of the same device that are the same line.

    Their distance is the mean of two means: of true points from the found path, and the other way; the pairs are those
    of the least sum of distances, none above `TOLERANCE` of the film's height. As `EvaluatedFilm`.
    """
    height = height or shape[0]
    paths = [[_even(line, shape, height) for line in lines] for lines in (true, found)]
    far = 1e3
    distance = np.full((len(true), len(found)), far)
    for i, one in enumerate(true):
        for j, other in enumerate(found):
            if one.device is other.device and len(paths[0][i]) and len(paths[1][j]):
                distance[i, j] = _distance(paths[0][i], paths[1][j]) / height
    distance[distance > TOLERANCE] = far
    rows, columns = linear_sum_assignment(distance)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if distance[i, j] < far]


def _even(line: LineLike, shape: tuple[int, int], height: float) -> Points:
    """The part of a line that is on the film, its points 0.5 % of the height apart."""
    path = np.asarray(line.path, np.float64)
    if len(path) > 1:
        path = resample(path, max(0.005 * height, 0.5))
    return path[[on_film(point, shape) for point in path]]


def _distance(one: Points, other: Points) -> float:
    return float(cKDTree(other).query(one)[0].mean() + cKDTree(one).query(other)[0].mean()) / 2


@dataclass(frozen=True)
class _Compared:
    """Of one device on one film: pixels in both masks, in each, lines; and the tip errors of matched lines."""

    counts: tuple[float, float, int, int, int]
    tip_errors: list[float]


def _compare(film: EvaluatedFilm, device: Device) -> _Compared:
    height = film.upright_height
    true = [line for line in film.true if line.device is device and len(_even(line, film.shape, height))]
    found = [line for line in film.found if line.device is device]
    if not true and not found:
        return _Compared((0.0, 0.0, 0, 0, 0), [])
    pairs = match(true, found, film.shape, height)
    one, other = (_mask(lines, film.shape) for lines in (true, found))
    errors = []
    for i, j in pairs:
        if true[i].tip is not None and found[j].tip is not None:
            errors.append(_error(found[j].tip, true[i].tip, height))
    both, sizes = float(np.minimum(one, other).sum()), float(one.sum() + other.sum())
    return _Compared((both, sizes, len(true), len(pairs), len(found) - len(pairs)), errors)


def _mask(lines: Sequence[LineLike], shape: tuple[int, int]) -> np.ndarray:
    """(h, w) float64 in [0, 1]: the lines drawn at `MASK_SIDE`, so that films of any size count alike."""
    scale = MASK_SIDE / max(shape)
    small = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    paths = [(np.asarray(line.path, np.float64) + 0.5) * scale - 0.5 for line in lines]
    return line_mask(paths, small, LINE_WIDTH * MASK_SIDE).astype(np.float64) / 255


def _error(one: np.ndarray | None, other: np.ndarray | None, height: float) -> float:
    """Distance of two points in % of the film's height."""
    assert one is not None and other is not None
    return 100 * float(np.hypot(*(np.asarray(one, np.float64) - other))) / height


def _divided(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under > 0)


def _figure(draws: np.ndarray, patients: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> Figure:
    """A figure of all films and its interval; `of` maps weights (k, films) to (k,) figures.

    `patients` are those of whom the figure is: of one alone, each draw would give the same, so there is no interval.
    """
    value = float(of(np.ones((1, draws.shape[1])))[0])
    if np.isnan(value):
        return Figure(None, None)
    return Figure(value, percentile_interval(of(draws)) if len(set(patients)) > 1 else None)


def _quantile(draws: np.ndarray, patients: np.ndarray, errors: np.ndarray, of_film: np.ndarray, share: float) -> Figure:
    """A quantile of errors, each of which counts as often as its film does."""
    if not len(errors):
        return Figure(None, None)
    order = np.argsort(errors)
    errors, of_film = errors[order], of_film[order]

    def of(weights: np.ndarray) -> np.ndarray:
        each = np.cumsum(weights[:, of_film], axis=1)
        place = (each < share * each[:, -1:]).sum(1)
        return np.where(each[:, -1] > 0, errors[np.minimum(place, len(errors) - 1)], np.nan)

    return _figure(draws, patients[of_film], of)


def _states(
    films: Sequence[EvaluatedFilm], ratio: Callable[[np.ndarray, np.ndarray], Figure]
) -> dict[Device, StateFigures]:
    """Only calls in which the classifier spoke as well, so that both are judged on the same."""
    figures = {}
    for device in Device:
        calls = [(k, c) for k, f in enumerate(films) for c in f.states if c.device is device and c.classifier]
        if not calls:
            continue
        table = np.zeros((len(films), 3))
        for k, call in calls:
            table[k] += (1, call.rule is call.truth, call.classifier is call.truth)
        undecided = sum(call.rule is None for _, call in calls) / len(calls)
        each = table[:, 0]
        figures[device] = StateFigures(len(calls), ratio(table[:, 1], each), ratio(table[:, 2], each), undecided)
    return figures
