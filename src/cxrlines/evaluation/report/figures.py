"""The report's figures as inline SVG, drawn by hand so that they take the page's colours, light or dark.

Each function returns markup without any text from outside; what comes from outside (names) is escaped.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from cxrlines.evaluation.scores import Evaluation
from cxrlines.metrics.auc import roc_curve, why_undefined
from cxrlines.metrics.calibration import reliability
from cxrlines.metrics.intervals import Interval
from cxrlines.task import DEVICE_OF, LABELS, STATE_OF, Device

FIGURE_BINS = 10
"""Fewer bins than the calibration error has: with fifteen the curves of rare labels are mostly noise."""
FEW_FILMS = 5
"""A calibration bin with fewer films is left out of the curve: its share of positives is mostly chance."""
_POINTS = 300
"""At most so many points of a ROC curve: closer than a pixel nothing is seen."""


class Curve(NamedTuple):
    """x and y (points,) in the unit square, and the dots' radii in px, if there are dots."""

    x: np.ndarray
    y: np.ndarray
    radii: np.ndarray | None = None


def forest(evaluations: Mapping[str, Evaluation]) -> Markup:
    """AUC with its interval, macro and label by label; one mark a model, in the order given, the last one bold."""
    models = list(evaluations.values())
    rows = {"macro AUC": [(e.macro_auc, e.ci95) for e in models]}
    labels = [label for label in models[-1].labels if all(label in e.labels for e in models)]
    rows |= {label: [(e.labels[label].auc, e.labels[label].ci95) for e in models] for label in labels}
    lows = [low for marks in rows.values() for auc, ci in marks for low in (auc, ci and ci[0]) if low is not None]
    low = min(0.95, np.floor(max(0.0, min(lows, default=0.5)) * 20) / 20)
    left, wide, right, pitch = 190, 430, 160, 10
    tall = pitch * len(models) + 12
    height = 26 + tall * len(rows) + 6

    def x(value: float) -> float:
        return left + wide * (value - low) / (1 - low)

    parts = []
    for tick in np.arange(low, 1.0001, 0.05 if low >= 0.7 else 0.1):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="20" y2="{height}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="14" text-anchor="middle">{tick:.2f}</text>')
    for row, (name, marks) in enumerate(rows.items()):
        top = 26 + row * tall
        strong = ' class="strong"' if row == 0 else ""
        parts.append(f'<text{strong} x="0" y="{top + tall / 2:.1f}">{escape(name)}</text>')
        for series, mark in enumerate(marks):
            y = top + 6 + pitch * (series + 0.5) - 3
            parts.append(_mark(*mark, x, y, "" if series == len(marks) - 1 else f"series{series % 6}"))
        shown = with_interval(*marks[-1])
        parts.append(f'<text{strong} x="{left + wide + 14}" y="{top + tall / 2:.1f}">{shown}</text>')
        parts.append(f'<line class="rule" x1="0" x2="{left + wide + right}" y1="{top + tall}" y2="{top + tall}"/>')
    return _svg(left + wide + right, height, "".join(parts), "forest", "AUC with 95 % intervals, label by label")


def roc_curves(truth: np.ndarray, scores: np.ndarray, labels: Sequence[str] = LABELS) -> dict[Device, Markup]:
    """One figure a device: the ROC curves of its labels; `truth`, `scores` are (films, labels)."""

    def curve(true: np.ndarray, score: np.ndarray) -> Curve | None:
        if why_undefined(true):
            return None
        x, y = roc_curve(true, score)
        if len(x) > _POINTS:  # evenly along the curve
            along = np.cumsum(np.abs(np.diff(x, prepend=0)) + np.abs(np.diff(y, prepend=0)))
            kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _POINTS)).clip(0, len(x) - 1))
            x, y = x[kept], y[kept]
        return Curve(x, y)

    return _by_device(truth, scores, labels, curve, "false positive rate", "true positive rate")


def calibration_curves(truth: np.ndarray, scores: np.ndarray, labels: Sequence[str] = LABELS) -> dict[Device, Markup]:
    """One figure a device: predicted against observed, a dot a bin, larger where there are more films."""

    def curve(true: np.ndarray, score: np.ndarray) -> Curve:
        bins = reliability(true, score, FIGURE_BINS)
        held = bins.count >= FEW_FILMS
        size = 2 + 4 * np.sqrt(bins.count[held] / max(bins.count.max(initial=1), 1))
        return Curve(bins.predicted[held], bins.observed[held], size)

    return _by_device(truth, scores, labels, curve, "predicted", "observed")


def _by_device(
    truth: np.ndarray,
    scores: np.ndarray,
    labels: Sequence[str],
    curve: Callable[[np.ndarray, np.ndarray], Curve | None],
    across: str,
    up: str,
) -> dict[Device, Markup]:
    drawn: dict[Device, dict[str, Curve]] = {DEVICE_OF[label]: {} for label in labels}
    for k, label in enumerate(labels):
        if found := curve(truth[:, k], scores[:, k]):
            drawn[DEVICE_OF[label]][label] = found
    return {device: _square(curves, across, up) for device, curves in drawn.items()}


def with_interval(value: float | None, interval: Interval | None) -> str:
    """`0.962 (0.957-0.966)`, as far as there is one."""
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")


def _mark(value: float | None, interval: Interval | None, x: Callable[[float], float], y: float, series: str) -> str:
    """A dot on its interval; without a `series` it is the ensemble's."""
    if value is None:
        return ""
    line = ""
    if interval:
        line = f'<line x1="{x(interval[0]):.1f}" x2="{x(interval[1]):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    dot = f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="{3 if series else 4}"/>'
    return f'<g class="mark {series or "ensemble"}"><title>{with_interval(value, interval)}</title>{line}{dot}</g>'


def _square(curves: Mapping[str, Curve], across: str, up: str) -> Markup:
    """Labels' curves in the unit square, coloured by state."""
    side, left, top, below = 220, 40, 8, 34

    def x(share: float) -> float:
        return left + side * share

    def y(share: float) -> float:
        return top + side * (1 - share)

    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>']
    parts.append(f'<polyline class="diagonal" points="{x(0):.1f},{y(0):.1f} {x(1):.1f},{y(1):.1f}"/>')
    for tick in (0, 0.5, 1):
        parts.append(f'<text class="tick" x="{x(tick)}" y="{top + side + 14}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text class="axis" x="{x(0.5)}" y="{top + side + 30}" text-anchor="middle">{across}</text>')
    parts.append(f'<text class="axis" transform="translate(10 {y(0.5)}) rotate(-90)" text-anchor="middle">{up}</text>')
    for label, curve in curves.items():
        at = [(f"{x(a):.1f}", f"{y(b):.1f}") for a, b in zip(curve.x, curve.y, strict=True)]
        line = f'<polyline points="{" ".join(map(",".join, at))}"/>'
        radii = () if curve.radii is None else curve.radii
        dots = (f'<circle cx="{cx}" cy="{cy}" r="{r:.1f}"/>' for (cx, cy), r in zip(at, radii, strict=False))
        parts.append(f'<g class="curve {state_class(label)}"><title>{label}</title>{line}{"".join(dots)}</g>')
    return _svg(left + side + 8, top + side + below, "".join(parts), "square", f"{up} against {across}")


def state_class(label: str) -> str:
    """The CSS class of a label's state: `abnormal`, `borderline`, `incomplete`, `normal` or `present`."""
    return STATE_OF[label].name.lower()


def _svg(width: float, height: float, body: str, kind: str, title: str) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{body}</svg>"
    )
