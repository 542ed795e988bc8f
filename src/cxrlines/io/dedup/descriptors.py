"""Descriptors of films that hardly depend on processing, taken after each is registered to the mean film."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import product

import cv2
import numpy as np
from scipy.spatial import cKDTree

from cxrlines.io.dedup.registration import SAME, detail, fit, grid, warp

VIEWS = 3
"""Ways of laying the mean film over a film that are kept, as the likeliest need not be the same in a twin."""
APART = np.array([0.2, 0.06, 0.2, 0.06])  # between the places where two of them are begun
ALSO = 0.01  # change of a place from which it is another: fewer views where they end up at the same
DIRECTIONS = 48
COARSE, FEATURES, BANK = 48, 32, 24  # px a side: what is laid over the mean film, described, and tried first
EDGE = 0.1
"""Share of each side of the mean film not looked at: at 0.14 more real films are laid wrong, at 0.06 more phantoms."""
VARIANTS = 3  # random cuts of each film, from which the directions are learnt
CUT = 0.08  # at a side


@dataclass(frozen=True)
class Described:
    """Of each view of each film, by film: where the mean film lies in it, its sign beside that, and its vector."""

    films: np.ndarray  # (n,) int: whose view, ascending, each at least once and at most VIEWS times
    places: np.ndarray  # (n, 4)
    signs: np.ndarray  # (n,) 1 or -1
    vectors: np.ndarray  # (n, DIRECTIONS)

    @staticmethod
    def join(parts: Sequence["Described"]) -> "Described":
        """One after the other, the films numbered on."""
        before = np.cumsum([0, *(part.films[-1] + 1 for part in parts[:-1])])
        parts = [replace(part, films=part.films + first) for part, first in zip(parts, before, strict=True)]
        return Described(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Described)))

    def of(self, film: int) -> np.ndarray:
        """The views of a film."""
        return np.arange(*np.searchsorted(self.films, (film, film + 1)))

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.vectors)

    def nearest(self, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and views, each (n, k), of the at most `count` nearest of each vector (n, DIRECTIONS)."""
        distances, views = self._tree.query(vectors, k=np.arange(1, min(count, len(self.vectors)) + 1))
        return distances, views


@dataclass(frozen=True)
class Space:
    """The mean film and the directions in which films are described."""

    reference: np.ndarray  # (COARSE, COARSE)
    templates: np.ndarray  # (t, BANK * BANK): the reference at each of `starts`, of length 1 and mean 0 where seen
    seen: np.ndarray  # (t, BANK * BANK) float: where
    starts: np.ndarray  # (t, 4)
    middle: np.ndarray | None = None
    directions: np.ndarray | None = None

    @staticmethod
    def learn(sample: list[np.ndarray]) -> "Space":
        pictures = [_coarse(film) for film in sample]
        reference = np.mean(pictures, axis=0)
        for _ in range(3):
            laid = []
            for picture in pictures:
                sign = 1.0 if float((picture * reference).sum()) >= 0 else -1.0
                _, place = fit(reference, sign * picture, SAME, margins=(EDGE, 0), steps=10)
                laid.append(sign * warp(picture, place))
            reference = np.mean(laid, axis=0)
        space = Space(reference, *_bank(reference))
        rng = np.random.default_rng(0)
        plain, changes = [], []
        for film in sample:
            plain.append(space.features(film, *space.lay(film, 1)[0]))
            for _ in range(VARIANTS):
                cut = _cut(film, rng)
                changes.append(space.features(cut, *space.lay(cut, 1)[0]) - plain[-1])
        middle, directions = _directions(np.array(plain), np.array(changes))
        return replace(space, middle=middle, directions=directions)

    def lay(self, film: np.ndarray, views: int = VIEWS) -> list[tuple[np.ndarray, float]]:
        """The likeliest ways in which the reference lies in a film: its place, and 1 or, inverted, -1."""
        picture = _coarse(film)
        small = cv2.resize(picture, (BANK, BANK), interpolation=cv2.INTER_AREA).ravel()
        spread = self.seen @ (small * small) - (self.seen @ small) ** 2 / self.seen.sum(1)
        scores = (self.templates @ small) / np.sqrt(np.maximum(spread, 1e-6))
        open_ = np.ones(len(scores), bool)
        found: list[tuple[np.ndarray, float]] = []
        for _ in range(views):
            start = int(np.argmax(np.where(open_, np.abs(scores), -1)))
            sign = 1.0 if scores[start] >= 0 else -1.0
            margins = (EDGE, 0.0)
            place = fit(self.reference, sign * picture, self.starts[start], margins=margins, steps=12)[1]
            if all(sign != known or np.abs(place - there).max() >= ALSO for there, known in found):
                found.append((place, sign))
            apart = np.abs(self.starts - self.starts[start]) > APART
            open_ &= apart.any(1) | (scores * sign < 0)
        return found

    def features(self, film: np.ndarray, place: np.ndarray, sign: float) -> np.ndarray:
        """Detail of a film where the reference lies in it."""
        small = cv2.resize(warp(film, place), (FEATURES, FEATURES), interpolation=cv2.INTER_AREA)
        edge = round(EDGE * FEATURES)
        return sign * detail(small, 2.5, 6.0)[edge:-edge, edge:-edge].ravel()

    def describe(self, films: Sequence[np.ndarray]) -> Described:
        """Films (n, n) uint8, each in at most VIEWS ways."""
        laid = [(number, *view) for number, film in enumerate(films) for view in self.lay(film)]
        features = np.array([self.features(films[number], place, sign) for number, place, sign in laid])
        numbers, places, signs = (np.array(column) for column in zip(*laid, strict=True))
        return Described(numbers, places, signs, (features - self.middle) @ self.directions)


def _coarse(film: np.ndarray) -> np.ndarray:
    """What is laid over the mean film: outlines, whatever their contrast."""
    small = cv2.resize(film, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    return detail(cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1.0), 8.0, 12.0, 4.0)


def _bank(reference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`templates`, `seen` and `starts` of a `Space`: where laying the reference over a film begins."""
    small = cv2.resize(reference, (BANK, BANK), interpolation=cv2.INTER_AREA)
    u, v = grid(BANK)
    inside = ((np.abs(u) < 0.5 - EDGE) & (np.abs(v) < 0.5 - EDGE)).astype(np.float32)
    scales, across, along = (0.75, 0.9, 1.08, 1.3), np.linspace(-0.1, 0.1, 5), np.linspace(-0.15, 0.15, 7)
    starts = np.array(list(product(scales, across, scales, along)))
    templates, seen = [], []
    for sx, tx, sy, ty in starts:
        back = np.array([1 / sx, -tx / sx, 1 / sy, -ty / sy])
        where = (warp(inside, back) > 0.5).ravel()
        template = warp(small, back).ravel() * where
        template -= where * (template.sum() / max(where.sum(), 1))
        templates.append(template / max(float(np.linalg.norm(template)), 1e-6))
        seen.append(where.astype(np.float32))
    return np.array(templates), np.array(seen), starts


def _cut(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A film cut at random, or as if the film were cut from it."""
    left, right, top, bottom = rng.uniform(-CUT, CUT, 4)
    return warp(film, np.array([1 - left - right, (left - right) / 2, 1 - top - bottom, (top - bottom) / 2]))


def _directions(plain: np.ndarray, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle and directions (features, DIRECTIONS) with most spread of films for the spread that cutting makes."""
    length = np.linalg.norm(changes, axis=1)
    changes = changes[length <= np.percentile(length, 90)]  # less those that were laid wrong
    within = changes.T @ changes / len(changes)
    within += np.eye(len(within)) * (0.05 * np.trace(within) / len(within) + 1e-4)
    middle = plain.mean(0)
    values, vectors = np.linalg.eigh(within)
    whiten = vectors / np.sqrt(values)
    spread = (plain - middle) @ whiten
    _, turned = np.linalg.eigh(spread.T @ spread)
    return middle, whiten @ turned[:, : -DIRECTIONS - 1 : -1]
