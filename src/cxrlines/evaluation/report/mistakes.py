"""The films with the worst predictions, for the report: the label, the probability, the picture, its lines."""

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from cxrlines.evaluation.predictions import labels_of
from cxrlines.task import DEVICE_COLOURS, DEVICE_OF

FilmOf = Callable[[str], tuple[np.ndarray, Sequence[tuple[str, np.ndarray]]]]
"""study -> (uint8 (height, width) film, white bone; its lines as (label, (n, 2) points, xy in px of that film))."""

FILMS = 12
ALIKE = 2
"""At most so many false negatives, or false positives, of one label: a page of variety teaches more."""
SIDE = 560
"""Longest side of an embedded film in px: lines stay visible, a page of twelve stays below 1 MB."""


class LabelShown(NamedTuple):
    """A label of a film: whether it is present, and its predicted probability."""

    label: str
    present: bool
    probability: float


class Mistake(NamedTuple):
    """A film and the label whose prediction is furthest from the truth.

    `missed` is True for a false negative, False for a false positive. `labels` are those that are present or were
    predicted with at least 0.1.
    """

    study: str
    label: str
    missed: bool
    probability: float
    labels: list[LabelShown]


class Picture(NamedTuple):
    """A film to embed: a JPEG data URI, its size in px, and lines as (label, SVG points, CSS colour)."""

    uri: str
    width: int
    height: int
    lines: list[tuple[str, str, str]]


def worst(truth: pd.DataFrame, predictions: pd.DataFrame, films: int = FILMS, alike: int = ALIKE) -> list[Mistake]:
    """The films with the largest distance of a probability from the truth, worst first, one label each.

    Both frames have `study` and labels, and are matched by study; what is `UNKNOWN` is no mistake. Ties go by study,
    so that the order of rows does not matter.
    """
    names = [name for name in labels_of(predictions, "the predictions") if name in truth]
    both = truth[["study", *names]].merge(predictions[["study", *names]], on="study", suffixes=("", " predicted"))
    both = both.sort_values("study", kind="stable").reset_index(drop=True)
    true = both[names].to_numpy(np.float64)
    given = both[[f"{name} predicted" for name in names]].to_numpy(np.float64)
    distance = np.where(true >= 0, np.abs(true - given), -1.0)
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
        labels = [
            LabelShown(name, bool(is_true), float(p))
            for name, is_true, p in zip(names, true[film] == 1, given[film], strict=True)
            if is_true or p >= 0.1
        ]
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
