"""Found lines against ground truth: Dice, recall, false positives, tip errors, carina errors, states by rule.

All points are [x, y] in px of the original film; errors are in % of the film's height, which is that of the upright
film, however it is turned in its file.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cxrlines.core.findings import Line
from cxrlines.core.heatmaps import LINE_WIDTH
from cxrlines.core.line_drawing import line_mask
from cxrlines.core.text import plural
from cxrlines.metrics.intervals import RESAMPLES, Interval, patient_weights, percentile_interval
from cxrlines.metrics.line_matching import match, on_film_evenly
from cxrlines.task import Device, State

TIP_RIGHT = 5.0
"""A tip that is given is right if it is no farther than this from the true one, % of the film's height."""
MASK_SIDE = 512
"""Longer side in px at which lines are drawn to be compared, `heatmaps.LINE_WIDTH` of it wide."""
INTERVALS = "95 % intervals by patient, where there are two or more"


@dataclass(frozen=True)
class StateCall:
    """The state of a device on a film: true, by the position rule alone, by the classifier (None: undecided)."""

    device: Device
    truth: State
    rule: State | None
    classifier: State | None


@dataclass(frozen=True, eq=False)
class EvaluatedFilm:
    """A film's ground truth and what was found on it."""

    patient: str
    shape: tuple[int, int]  # (height, width) px of the file
    true: Sequence[Line]
    found: Sequence[Line]
    true_carina: np.ndarray | None = None  # (2,); None where it is unknown
    found_carina: np.ndarray | None = None
    states: Sequence[StateCall] = ()  # of its devices
    height: float | None = None  # px of the film once it is upright, what errors are divided by; None: `shape`'s
    unknown: frozenset[Device] = frozenset()  # devices whose true lines are not all known, and are neither above

    @property
    def upright_height(self) -> float:
        """px that errors are divided by."""
        return self.height or self.shape[0]


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval by patient; None where it is undefined."""

    value: float | None = None
    ci95: Interval | None = None

    def text(self, digits: int = 2) -> str:
        """`0.81 (0.78-0.84)`, as far as there is one."""
        if self.value is None:
            return "-"
        shown = f"{self.value:.{digits}f}"
        return shown if self.ci95 is None else f"{shown} ({self.ci95[0]:.{digits}f}-{self.ci95[1]:.{digits}f})"


@dataclass(frozen=True)
class DeviceFigures:
    """Of the lines of one device."""

    true: int  # lines that there are
    matched: int  # of them, found
    dice: Figure  # of all drawn lines of all films together: 2 |both| / (|true| + |found|)
    recall: Figure  # matched / true
    recall_as_far_as_marked: Figure  # likewise, but for what found lines have beyond true ends that are no tips
    false_positives: Figure  # a film whose lines of it are known: found lines that match no true one
    tip_median: Figure  # distance of found tips from true ones, of matched lines that have both, % of height
    tip_95: Figure  # its 95th percentile
    tips: int  # how many these are
    tips_right: Figure  # share of the tips given of matched lines that are within `TIP_RIGHT` of the true one
    tip_counts: "TipCounts"


class TipCounts(NamedTuple):
    """Tips of the lines of one device, by whether they were given and are right."""

    right: int = 0  # given of matched lines, within `TIP_RIGHT` of the true one
    wrong: int = 0  # given of matched lines, farther from it
    unseen: int = 0  # given of matched lines whose true tip is off the film or not to be seen
    not_given: int = 0  # true ones of matched lines, where none was given
    of_false_lines: int = 0  # given of lines that match no true one


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
    """All figures of a set of films; carina errors are % of height, `carina_found` is a share of the known ones.

    `false_positives`: a film, the sum of those of all devices.
    """

    films: int
    devices: dict[Device, DeviceFigures]
    false_positives: Figure
    carina_median: Figure
    carina_95: Figure
    carina_found: Figure
    states: dict[Device, StateFigures]

    def text(self) -> str:
        """A table of devices, the false positives of all, and the states that were evaluated."""
        rows: list[Sequence[str]] = [
            (
                "device",
                "true",
                "matched",
                "recall",
                "false positives/film",
                "Dice",
                "tip median %",
                "tip 95th %",
                "recall as far as marked",
            )
        ]
        for device, f in self.devices.items():
            cells = (f.recall, f.false_positives, f.dice, f.tip_median, f.tip_95, f.recall_as_far_as_marked)
            rows.append((device.name, str(f.true), str(f.matched), *(cell.text() for cell in cells)))
        tips: list[Sequence[str]] = [
            (
                "tips given",
                "right",
                f"wrong (> {TIP_RIGHT:g} %)",
                "of unseen",
                "of false lines",
                "not given",
                "share right",
            )
        ]
        for device, f in self.devices.items():
            n = f.tip_counts
            counts = (n.right, n.wrong, n.unseen, n.of_false_lines, n.not_given)
            tips.append((device.name, *map(str, counts), f.tips_right.text()))
        states = [
            f"{device.name} state right on {plural(s.films, 'film')}: by rule {s.rule.text()} "
            f"(undecided {s.undecided:.2f}), by classifier {s.classifier.text()}"
            for device, s in self.states.items()
        ]
        return "\n".join(
            [
                table(rows),
                table(tips),
                f"false positives a film, of all devices: {self.false_positives.text()}",
                *states,
            ]
        )


def table(rows: Sequence[Sequence[str]]) -> str:
    """Cells in columns, for people."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


class _Compared(NamedTuple):
    """One device on one film: px in both masks and in each, lines; and the tip errors of matched lines."""

    both: float
    sizes: float
    true: int
    matched: int
    matched_as_far_as_marked: int
    false_positives: int
    tip_errors: list[float]
    tips: TipCounts


def line_figures(films: Sequence[EvaluatedFilm], *, resamples: int = RESAMPLES, seed: int = 0) -> LineFigures:
    """The figures of films that were read; lines are matched one to one, within a device, at the least distance.

    True paths may leave the film; what is off it does not count. Raises `ValueError` without films.
    """
    if not films:
        raise ValueError("films: none were given; line figures need at least one film that was read")
    patients = np.array([film.patient for film in films])
    draws = np.concatenate(list(patient_weights(patients, resamples, seed)))

    def ratio(over: Iterable[float], under: Iterable[float]) -> Figure:
        """A sum over films by another."""
        top, bottom = np.array([*over], np.float64), np.array([*under], np.float64)
        return _figure(draws, patients[bottom > 0], lambda w: _divided(w @ top, w @ bottom))

    def quantile(errors: Sequence[Sequence[float]], share: float) -> Figure:
        """A quantile of the errors of each film, each of which counts as often as its film does."""
        of_film = np.repeat(np.arange(len(films)), [len(some) for some in errors])
        flat = np.array([error for some in errors for error in some])
        if not len(flat):
            return Figure()
        order = np.argsort(flat)

        def of(weights: np.ndarray) -> np.ndarray:
            each = np.cumsum(weights[:, of_film[order]], axis=1)
            place = (each < share * each[:, -1:]).sum(1)
            return np.where(each[:, -1] > 0, flat[order][np.minimum(place, len(flat) - 1)], np.nan)

        return _figure(draws, patients[of_film], of)

    devices = {}
    false_positives, known = {}, {}
    for device in Device:
        compared = [_compare(film, device) for film in films]
        false_positives[device] = np.array([c.false_positives for c in compared], np.float64)
        known[device] = np.array([device not in film.unknown for film in films], np.float64)
        tips = [c.tip_errors for c in compared]
        devices[device] = DeviceFigures(
            true=sum(c.true for c in compared),
            matched=sum(c.matched for c in compared),
            dice=ratio((2 * c.both for c in compared), (c.sizes for c in compared)),
            recall=ratio((c.matched for c in compared), (c.true for c in compared)),
            recall_as_far_as_marked=ratio((c.matched_as_far_as_marked for c in compared), (c.true for c in compared)),
            false_positives=ratio(false_positives[device], known[device]),
            tip_median=quantile(tips, 0.5),
            tip_95=quantile(tips, 0.95),
            tips=sum(map(len, tips)),
            tips_right=ratio((c.tips.right for c in compared), (sum(c.tips[:3]) for c in compared)),
            tip_counts=TipCounts(*(sum(each) for each in zip(*(c.tips for c in compared), strict=True))),
        )

    def all_false_positives(weights: np.ndarray) -> np.ndarray:
        each = [_divided(weights @ false_positives[d], weights @ known[d]) for d in Device if known[d].any()]
        return np.sum(each, axis=0) if each else np.full(len(weights), np.nan)

    carinas = [_errors([(film.found_carina, film.true_carina)], film.upright_height) for film in films]
    return LineFigures(
        films=len(films),
        devices=devices,
        false_positives=_figure(draws, patients, all_false_positives),
        carina_median=quantile(carinas, 0.5),
        carina_95=quantile(carinas, 0.95),
        carina_found=ratio(map(len, carinas), (film.true_carina is not None for film in films)),
        states={device: figures for device in Device if (figures := _states(films, device, ratio))},
    )


def _compare(film: EvaluatedFilm, device: Device) -> _Compared:
    height = film.upright_height
    true = [line for line in film.true if line.device is device and len(on_film_evenly(line.path, film.shape, height))]
    found = [line for line in film.found if line.device is device]
    if not true and not found:
        return _Compared(0.0, 0.0, 0, 0, 0, 0, [], TipCounts())
    pairs = match(true, found, film.shape, height)
    errors = _errors([(found[j].tip, true[i].tip) for i, j in pairs], height)
    one, other = (_mask(lines, film.shape) for lines in (true, found))
    both, sizes = float(np.minimum(one, other).sum()), float(one.sum() + other.sum())
    right = sum(error <= TIP_RIGHT for error in errors)
    given = sum(found[j].tip is not None for _, j in pairs)
    there = sum(true[i].tip is not None for i, _ in pairs)
    of_all = sum(line.tip is not None for line in found)
    tips = TipCounts(right, len(errors) - right, given - len(errors), there - len(errors), of_all - given)
    as_marked = len(match(true, found, film.shape, height, as_far_as_marked=True))
    return _Compared(both, sizes, len(true), len(pairs), as_marked, len(found) - len(pairs), errors, tips)


def _mask(lines: Sequence[Line], shape: tuple[int, int]) -> np.ndarray:
    """(h, w) float64 in [0, 1]: the lines drawn at `MASK_SIDE`, so that films of any size count alike."""
    scale = MASK_SIDE / max(shape)
    small = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    paths = [(np.asarray(line.path, np.float64) + 0.5) * scale - 0.5 for line in lines]
    return line_mask(paths, small, LINE_WIDTH * MASK_SIDE).astype(np.float64) / 255


def _errors(points: Sequence[tuple[np.ndarray | None, np.ndarray | None]], height: float) -> list[float]:
    """Distances in % of the film's height of pairs of points of which both are there."""
    both = [(np.asarray(one, np.float64), other) for one, other in points if one is not None and other is not None]
    return [100 * float(np.hypot(*(one - other))) / height for one, other in both]


def _divided(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(over, under, out=np.full(np.shape(over), np.nan), where=under > 0))


def _figure(draws: np.ndarray, patients: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> Figure:
    """A figure of all films and its interval; `of` maps weights (k, films) to (k,) figures.

    `patients` are those of whom the figure is: of one alone, each draw would give the same, so there is no interval.
    """
    value = float(of(np.ones((1, draws.shape[1])))[0])
    if np.isnan(value):
        return Figure()
    return Figure(value, percentile_interval(of(draws)) if len(set(patients)) > 1 else None)


def _states(
    films: Sequence[EvaluatedFilm], device: Device, ratio: Callable[[Iterable[float], Iterable[float]], Figure]
) -> StateFigures | None:
    """Only calls in which the classifier spoke as well, so that both are evaluated on the same; None without any."""
    calls = [[c for c in film.states if c.device is device and c.classifier] for film in films]
    count = [len(some) for some in calls]
    if not sum(count):
        return None
    rule = ratio((sum(c.rule is c.truth for c in some) for some in calls), count)
    classifier = ratio((sum(c.classifier is c.truth for c in some) for some in calls), count)
    return StateFigures(sum(count), rule, classifier, sum(c.rule is None for some in calls for c in some) / sum(count))
