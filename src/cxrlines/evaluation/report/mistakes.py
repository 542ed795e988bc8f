"""The films that went most wrong, ready for the report: which label, how far off, the picture, its lines."""

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from cxrlines.task import DEVICE_COLOURS, DEVICE_OF, LABELS

FilmOf = Callable[[str], tuple[np.ndarray, Sequence[tuple[str, np.ndarray]]]]
"""study -> (uint8 (height, width) film, white bone; its lines as (label, (n, 2) points, xy in px of that film))."""

FILMS = 12
ALIKE = 2
"""At most so many films for one label missed, or one label wrongly seen: a page of variety teaches more."""
SIDE = 560
"""Longest side of an embedded film in px: lines stay visible, a page of twelve stays below 1 MB."""


@dataclass(frozen=True)
class Mistake:
    """A film and the label that went most wrong on it.

    `missed` is True where the label is there and was given a low probability, False for a false alarm.
    `labels` are (label, truth, probability) of every label that is true or was given at least 0.1.
    """

    study: str
    label: str
    missed: bool
    probability: float
    labels: list[tuple[str, bool, float]]


@dataclass(frozen=True)
class Picture:
    """A film to embed: a JPEG data URI, its size in px, and lines as (label, SVG points, CSS colour)."""

    uri: str
    width: int
    height: int
    lines: list[tuple[str, str, str]]


def worst(truth: pd.DataFrame, predictions: pd.DataFrame, films: int = FILMS, alike: int = ALIKE) -> list[Mistake]:
    """The films with the largest distance of a probability from the truth, worst first, one label each.

    Both frames have `study` and the 11 labels, and are matched by study; ties go by study, so that the order of
    rows does not matter.
    """
    names = list(LABELS)
    both = truth[["study", *names]].merge(predictions[["study", *names]], on="study", suffixes=("", " predicted"))
    both = both.sort_values("study", kind="stable").reset_index(drop=True)
    true = both[names].to_numpy(np.float64)
    given = both[[f"{name} predicted" for name in names]].to_numpy(np.float64)
    distance = np.abs(true - given)
    found: list[Mistake] = []
    taken: set[int] = set()
    kinds: Counter[tuple[str, bool]] = Counter()
    for place in np.argsort(-distance, axis=None, kind="stable"):
        film, k = divmod(int(place), len(names))
        kind = (names[k], bool(true[film, k]))
        if distance[film, k] < 0.5 or len(found) == films:
            break
        if film in taken or kinds[kind] == alike:
            continue
        taken.add(film)
        kinds[kind] += 1
        shown = [j for j in range(len(names)) if true[film, j] or given[film, j] >= 0.1]
        labels = [(names[j], bool(true[film, j]), float(given[film, j])) for j in shown]
        found.append(Mistake(str(both["study"].iloc[film]), *kind, float(given[film, k]), labels))
    return found


def picture(film: np.ndarray, lines: Sequence[tuple[str, np.ndarray]], side: int = SIDE) -> Picture:
    """Shrink a uint8 (height, width) film to at most `side` px and encode it; its lines stay vectors beside it."""
    scale = min(1.0, side / max(film.shape))
    width, height = max(1, round(film.shape[1] * scale)), max(1, round(film.shape[0] * scale))
    small = cv2.resize(film, (width, height), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
    drawn = []
    for label, points in lines:
        # pixel centres are whole numbers in arrays, halves in SVG
        placed = (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) * scale
        if len(placed):
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            drawn.append((label, path, css_colour(DEVICE_COLOURS[DEVICE_OF[label]])))
    uri = "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
    return Picture(uri, width, height, drawn)


def css_colour(colour: tuple[int, int, int]) -> str:
    """RGB, 0 to 255, as CSS spells it."""
    return "rgb({}, {}, {})".format(*colour)
