"""The report's figures as inline SVG, drawn by hand so that they take the page's colours, light or dark.

Each function returns markup without any text from outside; what comes from outside (names) is escaped.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

from cxrlines.evaluation.scores import Evaluation
from cxrlines.metrics.auc import roc_curve, why_undefined
from cxrlines.metrics.calibration import reliability
from cxrlines.metrics.intervals import Interval
from cxrlines.task import LABEL_INDEX, LABELS, LABELS_OF, STATE_OF, Device

DEVICE_NAMES: dict[Device, str] = {
    Device.ETT: "endotracheal tube",
    Device.NGT: "nasogastric tube",
    Device.CVC: "central venous catheter",
    Device.SWAN: "pulmonary artery catheter",
}
FIGURE_BINS = 10
"""Fewer bins than the calibration error has: with fifteen the curves of rare labels are mostly noise."""
FEW_FILMS = 5
"""A calibration bin with fewer films is left out of the curve: its share of positives is mostly chance."""


def forest(evaluations: Mapping[str, Evaluation]) -> Markup:
    """AUC with its interval, macro and label by label; one mark a model, in the order given, the last one bold."""
    rows = [("macro AUC", [(e.macro_auc, e.ci95) for e in evaluations.values()])]
    rows += [(label, [(e.labels[label].auc, e.labels[label].ci95) for e in evaluations.values()]) for label in LABELS]
    lows = [ci[0] for _, marks in rows for _, ci in marks if ci] + [a for _, marks in rows for a, _ in marks if a]
    low = min(0.95, np.floor(max(0.0, min(lows, default=0.5)) * 20) / 20)
    left, wide, right, pitch = 190, 430, 160, 10
    tall = pitch * len(evaluations) + 12

    def x(value: float) -> float:
        return left + wide * (value - low) / (1 - low)

    height = 26 + tall * len(rows) + 6
    parts = []
    for tick in np.arange(low, 1.0001, 0.05 if low >= 0.7 else 0.1):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="20" y2="{height}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="14" text-anchor="middle">{tick:.2f}</text>')
    for row, (name, marks) in enumerate(rows):
        top = 26 + row * tall
        strong = ' class="strong"' if row == 0 else ""
        parts.append(f'<text{strong} x="0" y="{top + tall / 2:.1f}">{escape(name)}</text>')
        for series, (value, interval) in enumerate(marks):
            y = top + 6 + pitch * (series + 0.5) - 3
            parts.append(_mark(value, interval, x, y, series, last=series == len(marks) - 1))
        value, interval = marks[-1]
        parts.append(
            f'<text{strong} x="{left + wide + 14}" y="{top + tall / 2:.1f}">{with_interval(value, interval)}</text>'
        )
        parts.append(f'<line class="rule" x1="0" x2="{left + wide + right}" y1="{top + tall}" y2="{top + tall}"/>')
    return _svg(left + wide + right, height, "".join(parts), "forest", "AUC with 95 % intervals, label by label")


def roc_curves(truth: np.ndarray, scores: np.ndarray) -> dict[Device, Markup]:
    """One figure a device: the ROC curves of its labels; `truth`, `scores` are (films, 11)."""
    figures = {}
    for device in Device:
        curves = []
        for label in LABELS_OF[device]:
            k = LABEL_INDEX[label]
            if why_undefined(truth[:, k]) is None:
                false, true = roc_curve(truth[:, k], scores[:, k])
                curves.append((label, _thinned(false, true), None))
        figures[device] = _square(curves, "false positive rate", "true positive rate")
    return figures


def calibration_curves(truth: np.ndarray, scores: np.ndarray) -> dict[Device, Markup]:
    """One figure a device: predicted against observed, a dot a bin, larger where there are more films."""
    figures = {}
    for device in Device:
        curves = []
        for label in LABELS_OF[device]:
            k = LABEL_INDEX[label]
            curve = reliability(truth[:, k], scores[:, k], FIGURE_BINS)
            held = curve.count >= FEW_FILMS
            size = 2 + 4 * np.sqrt(curve.count[held] / max(curve.count.max(initial=1), 1))
            curves.append((label, (curve.predicted[held], curve.observed[held]), size))
        figures[device] = _square(curves, "predicted", "observed")
    return figures


def with_interval(value: float | None, interval: Interval | None) -> str:
    """`0.962 (0.957-0.966)`, as far as there is one."""
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")


def _mark(
    value: float | None, interval: Interval | None, x: Callable[[float], float], y: float, series: int, last: bool
) -> str:
    if value is None:
        return ""
    shown = with_interval(value, interval)
    line = ""
    if interval:
        line = f'<line x1="{x(interval[0]):.1f}" x2="{x(interval[1]):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    dot = f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="{4 if last else 3}"/>'
    return f'<g class="mark {"ensemble" if last else f"series{series % 6}"}"><title>{shown}</title>{line}{dot}</g>'


def _square(
    curves: Sequence[tuple[str, tuple[np.ndarray, np.ndarray], np.ndarray | None]], across: str, up: str
) -> Markup:
    """Curves in the unit square, each (label, (x, y), dot radii in px or None), coloured by the label's state."""
    side, left, top, below = 220, 40, 8, 34

    def at(x: float, y: float) -> str:
        return f"{left + side * x:.1f},{top + side * (1 - y):.1f}"

    parts = [f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>']
    parts.append(f'<polyline class="diagonal" points="{at(0, 0)} {at(1, 1)}"/>')
    for tick in (0, 0.5, 1):
        x, y = left + side * tick, top + side * (1 - tick)
        parts.append(f'<text class="tick" x="{x}" y="{top + side + 14}" text-anchor="middle">{tick:g}</text>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4}" text-anchor="end">{tick:g}</text>')
    middle = top + side / 2
    parts.append(f'<text class="axis" x="{left + side / 2}" y="{top + side + 30}" text-anchor="middle">{across}</text>')
    parts.append(f'<text class="axis" transform="translate(10 {middle}) rotate(-90)" text-anchor="middle">{up}</text>')
    for label, (xs, ys), radii in curves:
        points = " ".join(at(x, y) for x, y in zip(xs, ys, strict=True))
        dots = ""
        if radii is not None:
            dots = "".join(
                f'<circle cx="{left + side * x:.1f}" cy="{top + side * (1 - y):.1f}" r="{r:.1f}"/>'
                for x, y, r in zip(xs, ys, radii, strict=True)
            )
        parts.append(
            f'<g class="curve {state_class(label)}"><title>{label}</title><polyline points="{points}"/>{dots}</g>'
        )
    return _svg(left + side + 8, top + side + below, "".join(parts), "square", f"{up} against {across}")


def state_class(label: str) -> str:
    """The CSS class of a label's state: `abnormal`, `borderline`, `incomplete`, `normal` or `present`."""
    return STATE_OF[label].name.lower()


def _thinned(x: np.ndarray, y: np.ndarray, points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points, evenly along the curve: closer than a pixel nothing is seen."""
    if len(x) <= points:
        return x, y
    along = np.cumsum(np.abs(np.diff(x, prepend=0)) + np.abs(np.diff(y, prepend=0)))
    kept = np.unique(np.searchsorted(along, np.linspace(0, along[-1], points)).clip(0, len(x) - 1))
    return x[kept], y[kept]


def _svg(width: float, height: float, body: str, kind: str, title: str) -> Markup:
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"{body}</svg>"
    )
