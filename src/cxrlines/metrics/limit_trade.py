"""What limits cost: recall against false positives by device, over the least confidence and the classifier's limit.

A line is given where its confidence is at least one limit, and the probability that its device is present at least the
other. Limits that are fitted on films say nothing of them afterwards: judge them on films of other patients.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cxrlines.metrics.intervals import RESAMPLES, patient_weights, percentile_interval
from cxrlines.metrics.line_figures import EvaluatedFilm, Figure, table
from cxrlines.metrics.line_matching import match, share_along
from cxrlines.task import Device

CONFIDENCES = tuple(round(0.25 + 0.05 * k, 2) for k in range(15))
"""Limits of confidence that are tried; less confident lines are not traced."""
PRESENCES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Probabilities tried as the limit below which the classifier suppresses a device."""


class FilmCounts(NamedTuple):
    """A device on a film: its probability, its true lines, and at each of `CONFIDENCES` matched and false ones."""

    presence: float
    true: int
    matched: tuple[int, ...]
    false: tuple[int, ...]


@dataclass(frozen=True)
class Limit:
    """Two limits of a device, with what they give: the share of lines found, and false ones a film."""

    confidence: float
    presence: float
    recall: Figure
    false_positives: Figure


@dataclass(frozen=True)
class LimitTrade:
    """By device all limits that were tried, and those fitted to the wanted number of false positives a film.

    A device without true lines has no trade, and its false lines are not counted; `without` names those that have any.
    """

    wanted: float
    films: int
    trade: dict[Device, tuple[Limit, ...]]
    fitted: dict[Device, Limit]
    without: tuple[Device, ...] = ()

    def text(self) -> str:
        """The fitted limits, and the trade over confidence at the fitted limit of the classifier, for people."""
        rows: list[Sequence[str]] = [("device", "confidence", "suppressed below", "recall", "false positives/film", "")]
        for device, chosen in self.fitted.items():
            for one in self.trade[device]:
                if one.presence == chosen.presence:
                    cells = f"{one.confidence:.2f}", f"{one.presence:g}", one.recall.text(), one.false_positives.text()
                    rows.append((device.name, *cells, "fitted" if one is chosen else ""))
        spent = sum(one.false_positives.value or 0 for one in self.fitted.values())
        head = (
            f"limits fitted on these {self.films} films to {self.wanted:g} false positives a film ({spent:.2f} spent)"
        )
        notes = [] if spent <= self.wanted else [f"{self.wanted:g} cannot be reached by the limits that are tried"]
        if self.without:
            names = ", ".join(device.name for device in self.without)
            notes.append(f"false lines of {names} are not counted, as these films have no true ones")
        return "\n".join([f"{head}; judge them on other patients", table(rows), *(f"note: {note}" for note in notes)])

    def as_dict(self) -> dict[str, Any]:
        """All of it for JSON; devices by name."""
        return {
            "wanted": self.wanted,
            "films": self.films,
            "trade": {device.name: [asdict(one) for one in each] for device, each in self.trade.items()},
            "fitted": {device.name: asdict(one) for device, one in self.fitted.items()},
            "without_true_lines": [device.name for device in self.without],
        }


def line_counts(film: EvaluatedFilm, device: Device) -> tuple[int, int, int]:
    """True lines of a device that are on the film, of them matched, and false ones."""
    where = film.shape, film.upright_height
    true = [line for line in film.true if line.device is device and share_along(line.path, line.path, *where)]
    found = [line for line in film.found if line.device is device]
    matched = len(match(true, found, *where))
    return len(true), matched, len(found) - matched


def limit_trade(
    films: Sequence[dict[Device, FilmCounts]],
    patients: Sequence[str],
    wanted: float,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> LimitTrade:
    """The trade on films, with intervals by patient, and the limits that find most lines at `wanted` false ones a film.

    Of each film the devices that are known on it.
    """
    trade, lines, without = {}, {}, []
    weights = np.concatenate(list(patient_weights(np.array(patients), resamples, seed)))
    weights = np.concatenate([np.ones((1, len(films)), np.int64), weights])  # the films themselves, then the draws
    for device in Device:
        own = [k for k, film in enumerate(films) if device in film]
        counts = [films[k][device] for k in own]
        true = np.array([one.true for one in counts])
        if true.sum():
            lines[device] = int(true.sum())
            of = weights[:, own], true, np.array([one.presence for one in counts])
            trade[device] = tuple(
                _limit(confidence, presence, *of, np.array([(one.matched[k], one.false[k]) for one in counts]))
                for presence in PRESENCES
                for k, confidence in enumerate(CONFIDENCES)
            )
        elif any(any(one.false) for one in counts):
            without.append(device)
    return LimitTrade(wanted, len(films), trade, _fitted(trade, lines, wanted), tuple(without))


def _limit(
    confidence: float, presence: float, weights: np.ndarray, true: np.ndarray, p: np.ndarray, counts: np.ndarray
) -> Limit:
    """`counts`: (films, 2) matched and false lines at this confidence."""
    given = counts * (p >= presence)[:, None]

    def figure(over: np.ndarray, under: np.ndarray) -> Figure:
        top, bottom = weights @ over, weights @ under
        each = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
        return Figure(float(each[0]), percentile_interval(each[1:]))

    return Limit(confidence, presence, figure(given[:, 0], true), figure(given[:, 1], np.ones(len(true))))


def _fitted(trade: dict[Device, tuple[Limit, ...]], lines: dict[Device, int], wanted: float) -> dict[Device, Limit]:
    """One limit a device, so that as many of all `lines` are found as one price of a false line allows.

    The price is the lowest at which all false lines together are no more than wanted (a Lagrange multiplier, found by
    bisection): what lies off the convex hull of a trade is never chosen. Of equal ones the stricter is.
    """

    def at(price: float) -> dict[Device, Limit]:
        def worth(device: Device, one: Limit) -> tuple[float, float, float]:
            gain = lines[device] * (one.recall.value or 0) - price * (one.false_positives.value or 0)
            return round(gain, 9), one.confidence, one.presence

        return {device: max(each, key=partial(worth, device)) for device, each in trade.items()}

    def spent(chosen: dict[Device, Limit]) -> float:
        return sum(one.false_positives.value or 0 for one in chosen.values())

    low, high = 0.0, 1e6
    if spent(at(low)) <= wanted:
        return at(low)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(at(middle)) <= wanted else (middle, high)
    return at(high)
