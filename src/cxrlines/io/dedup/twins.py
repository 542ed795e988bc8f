"""Duplicate films across collections: the same film under two names and two processings.

Films of one hospital come in several data sets: cut, resized, windowed, equalised, inverted, re-encoded. Their twins
are found in three moves, none of which compares every film with every other:

1. Each film is laid over the collections' mean film (stretch, shift, sign), which undoes cutting and inversion.
2. Its detail there is described along the directions in which films differ most and processing least, learnt from
   the films at hand, cut at random. A kd-tree proposes the nearest few.
3. A proposed pair is laid over one another; the correlation of fine detail, away from the edges, decides.

Films that are mirrored or turned are found by a search for plain copies (`copies`), which is joined to theirs.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.files import readable, write_text
from cxrlines.core.film import FilmError
from cxrlines.core.pool import in_parallel
from cxrlines.core.text import plural
from cxrlines.io.dedup import copies as plain
from cxrlines.io.dedup.descriptors import VIEWS, Described, Space
from cxrlines.io.dedup.registration import between, detail, fit
from cxrlines.io.external.sets import read_external
from cxrlines.io.films import read_film
from cxrlines.io.prepare import shrink
from cxrlines.io.store import Store
from cxrlines.io.tables import TEST_TABLE, TRAIN_TABLE, read_dataset

SIGNATURE = 96  # px a side
ALIKE = 0.75
"""Correlation of fine detail from which two films are one.

Measured on 16,000 phantom films with twins of 2,000 cut and processed again (docs/experiments.md): 1,991 found, at 0.77
or more; other films are at most 0.73. Of 243 real films 239 to 242 were found. Look at a pair near it.
"""
LIKELY, UNLIKE = 0.76, 0.68
"""Correlation of half-size detail below which a pair is not looked at any closer: in the end, and after one step."""
NEIGHBOURS = 8  # views proposed for each view, from either side; more where most of them are twins
MARGINS = (0.08, 0.08)  # of either film of a pair, at each side
AGAIN = 0.02  # change of a place below which beginning from it is no new start
SAMPLE = 300  # films from which the mean film and the directions are learnt
SHOWN = 20  # pairs that the text lists; JSON and the table list all
UNREADABLE = "film not readable"
CHUNK = 200  # films, or pairs, at a time

Pair = tuple[int, int]
Part = TypeVar("Part")


class Twin(NamedTuple):
    """Film `a` of one collection and film `b` of the other are the same; correlation of their fine detail, to 1."""

    a: int
    b: int
    correlation: float


def signature(pixels: np.ndarray) -> np.ndarray:
    """(SIGNATURE, SIGNATURE) uint8: what of a film (h, w) uint8 is kept to find its twins."""
    return shrink(pixels, SIGNATURE, "stretch")[0]


def find_twins(a: Sequence[np.ndarray], b: Sequence[np.ndarray], *, workers: int = 1) -> list[Twin]:
    """Twins between two collections of signatures, each (SIGNATURE, SIGNATURE) uint8, sorted, each pair once.

    A film may have several. Films without contrast have none. Neither the order of films nor that of the collections
    matters. Inverted films are twins too, and mirrored or turned ones that are cut and windowed alike. `ValueError` for
    a signature of another shape or type.
    """
    films = [_Films.of(side, name) for side, name in ((a, "a"), (b, "b"))]
    if not len(films[0].rows) or not len(films[1].rows):
        return []
    space = Space.learn(_sample(films))
    described = [_describe(space, side, workers) for side in films]
    verified: dict[Pair, float] = {}
    ask = [np.arange(len(side.rows)) for side in films]
    count = NEIGHBOURS
    while any(map(len, ask)):
        pairs = _propose(described, ask, count)
        new = {pair: ways for pair, ways in sorted(pairs.items()) if pair not in verified}
        verified |= dict(zip(new, _compare(films, described, new, workers), strict=True))
        alike = [pair for pair in pairs if verified[pair] >= ALIKE]
        twins = [np.bincount([pair[s] for pair in alike], minlength=len(films[s].rows)) for s in (0, 1)]
        ask = [ask[s][(twins[s][ask[s]] * 2 >= count) & (count < VIEWS * len(films[1 - s].rows))] for s in (0, 1)]
        count *= 2
    rows_a, rows_b = films[0].rows.tolist(), films[1].rows.tolist()
    small = [[plain.signature(np.asarray(film)) for film in side] for side in (a, b)]
    found = plain.copies_between(*small)
    found |= {(rows_a[i], rows_b[j]): value for (i, j), value in verified.items() if value >= ALIKE}
    return [Twin(i, j, round(value, 4)) for (i, j), value in sorted(found.items())]


def _propose(described: list[Described], ask: list[np.ndarray], count: int) -> dict[Pair, list[Pair]]:
    """Film pairs -> their views, from which to begin: of each view of the films `ask` of either side, `count` views.

    The nearest views of a pair, and all of them, nearest first, of a pair of which either film is the other's nearest.
    """
    best: dict[Pair, tuple[float, int, int]] = {}
    closest: dict[Pair, tuple[float, Pair]] = {}
    for s in (0, 1):
        views = np.flatnonzero(np.isin(described[s].films, ask[s]))
        if not len(views):
            continue
        distances, nearest = described[1 - s].nearest(described[s].vectors[views], count)
        for view, *near in zip(views, distances, nearest, strict=True):
            for distance, other in zip(*near, strict=True):
                own = (int(view), int(other)) if s == 0 else (int(other), int(view))
                pair = int(described[0].films[own[0]]), int(described[1].films[own[1]])
                best[pair] = min(best.get(pair, (np.inf, *own)), (float(distance), *own))
                film = s, pair[s]
                closest[film] = min(closest.get(film, (np.inf, pair)), (float(distance), pair))
    proposed = {pair: [(view_a, view_b)] for pair, (_, view_a, view_b) in best.items()}
    return proposed | {pair: _ways(described, pair) for _, pair in closest.values()}


def _ways(described: list[Described], pair: Pair) -> list[Pair]:
    """Each view of one film beside each of the other, nearest first."""
    views = [described[s].of(pair[s]) for s in (0, 1)]
    apart = np.linalg.norm(described[0].vectors[views[0]][:, None] - described[1].vectors[views[1]], axis=2)
    order = np.argsort(apart, axis=None, kind="stable")
    return [(views[0][k // len(views[1])], views[1][k % len(views[1])]) for k in order]


@dataclass(frozen=True)
class TwinsFound:
    """Twins of two folders (columns study_a, study_b, correlation); films read, and left out by reason, in either."""

    twins: pd.DataFrame
    films: tuple[int, int]
    left_out: tuple[dict[str, int], dict[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        sides = {
            side: {"films": self.films[s], "with_twins": self.with_twins[s], "left_out": self.left_out[s]}
            for s, side in enumerate(("a", "b"))
        }
        return {**sides, "twins": self.twins.to_dict("records")}

    def text(self) -> str:
        """For people: counts, and at most SHOWN pairs."""
        lines = []
        for s, side in enumerate("AB"):
            out = "".join(f"; left out: {reason} {count:,}" for reason, count in sorted(self.left_out[s].items()))
            lines.append(f"{side}: {plural(self.films[s], 'film')}, {self.with_twins[s]:,} with a twin{out}")
        lines.append(plural(len(self.twins), "pair of twins", "pairs of twins"))
        shown = self.twins[:SHOWN].itertuples(index=False)
        lines += [f"  {readable(a)}  {readable(b)}  {correlation:.3f}" for a, b, correlation in shown]
        if len(self.twins) > SHOWN:
            lines.append(f"  ... and {len(self.twins) - SHOWN:,} more; --out writes all")
        return "\n".join(lines)

    @property
    def with_twins(self) -> tuple[int, int]:
        """Films of either folder that have a twin in the other."""
        return self.twins["study_a"].nunique(), self.twins["study_b"].nunique()

    def write(self, csv: Path) -> None:
        """Write `study_a, study_b, correlation`, one row a pair, atomically."""
        write_text(csv, self.twins.to_csv(index=False))


def twins_of_stores(a: Store, b: Store, *, workers: int = 1) -> list[Twin]:
    """Twins between the rows of two stores; no film is decoded again, and padding is cut off."""

    def films(store: Store) -> "_Lazy":
        return _Lazy(len(store), lambda row: signature(store.films[row][store.inner(row)]))

    return find_twins(films(a), films(b), workers=workers)


def copies_in_stores(stores: Sequence[Store]) -> list[tuple[Pair, Pair]]:
    """Pairs of films that are the same picture, re-encoded, mirrored or turned: (which store, row) of either film."""
    places, films = [], []
    for s, store in enumerate(stores):
        for row in range(len(store)):
            inner = store.films[row][store.inner(row)]
            margins = store.frame(row)
            # A film whose frame was cut off is compared with it too: that of its copy may have been too noisy to cut.
            shown = [inner, cv2.copyMakeBorder(inner, *margins, cv2.BORDER_REPLICATE)] if any(margins) else [inner]
            films += [plain.signature(film) for film in shown]
            places += [(s, row)] * len(shown)
    return sorted({(places[i], places[j]) for i, j in plain.copies(films) if places[i] != places[j]})


def twins_of_folders(a: Path, b: Path, workers: int = 1) -> TwinsFound:
    """Twins between the films of two folders, each of a layout that `read_external` knows, or any films in folders.

    Training films are read, or test films where there is no training table. Films that cannot be read are left out
    and counted. `TableError` if a folder has no film.
    """
    (films_a, out_a), (films_b, out_b) = (_read_folder(Path(folder), workers) for folder in (a, b))
    names_a, names_b = list(films_a), list(films_b)
    twins = find_twins(list(films_a.values()), list(films_b.values()), workers=workers)
    named = [(names_a[twin.a], names_b[twin.b], twin.correlation) for twin in twins]
    table = pd.DataFrame(named, columns=["study_a", "study_b", "correlation"], dtype=object)  # names may not be UTF-8
    table["correlation"] = table["correlation"].astype(float)
    return TwinsFound(table, (len(films_a), len(films_b)), (out_a, out_b))


def _read_folder(root: Path, workers: int) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Signatures of a folder's films by study, and what was left out by reason."""
    test_only = (root / TEST_TABLE).is_file() and not (root / TRAIN_TABLE).is_file()
    # Laterals and children as well: a twin is a twin.
    dataset = read_dataset(root, "test") if test_only else read_external(root, laterals=True, children=True)
    films = [Path(film) for film in dataset.studies["film"]]
    made = dict(in_parallel(_read_signature, films, workers, f"reading {root.name}"))
    read = {str(study): found for row, study in enumerate(dataset.studies["study"]) if (found := made[row]) is not None}
    left_out = dict(dataset.left_out)
    if missing := len(films) - len(read):
        left_out[UNREADABLE] = left_out.get(UNREADABLE, 0) + missing
    return read, left_out


def _read_signature(path: Path) -> np.ndarray | None:
    try:
        return signature(read_film(path).pixels)
    except FilmError:
        return None


class _Lazy(Sequence[Any]):
    """A sequence of `count` things, each made whenever it is wanted."""

    def __init__(self, count: int, make: Callable[[int], Any]) -> None:
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if index >= self._count:
            raise IndexError(index)
        return self._make(index)


def _chunks(count: int, make: Callable[[range], Any]) -> _Lazy:
    """Work on `count` things, CHUNK at a time."""
    return _Lazy(-(-count // CHUNK), lambda k: make(range(k * CHUNK, min((k + 1) * CHUNK, count))))


@dataclass(frozen=True)
class _Films:
    """A collection's signatures, the rows that have any contrast, and a key of each of these from its bytes."""

    signatures: Sequence[np.ndarray]
    rows: np.ndarray
    keys: np.ndarray

    @staticmethod
    def of(signatures: Sequence[np.ndarray], name: str) -> "_Films":
        rows, keys = [], []
        for row, film in enumerate(signatures):
            if film.shape != (SIGNATURE, SIGNATURE) or film.dtype != np.uint8:
                wanted = f"({SIGNATURE}, {SIGNATURE}) uint8"
                raise ValueError(f"{name}[{row}] is {film.shape} {film.dtype}; signature() makes {wanted}")
            if film.std() >= 1:
                rows.append(row)
                keys.append(zlib.crc32(np.asarray(film).tobytes()))
        return _Films(signatures, np.array(rows, int), np.array(keys, np.int64))

    def __getitem__(self, place: int) -> np.ndarray:
        return np.asarray(self.signatures[self.rows[place]])


def _sample(films: list[_Films]) -> list[np.ndarray]:
    """SAMPLE films of both collections, chosen by their bytes: the same whatever the order."""
    known = {int(key): (side, place) for side in films for place, key in enumerate(side.keys)}
    return [side[place] for _, (side, place) in sorted(known.items(), key=lambda item: item[0])[:SAMPLE]]


def _describe(space: Space, films: _Films, workers: int) -> Described:
    chunks = _chunks(len(films.rows), lambda places: np.stack([films[place] for place in places]))
    return Described.join(_all(in_parallel(space.describe, chunks, workers, "describing films")))


def _all(done: Iterable[tuple[int, Part | None]]) -> list[Part]:
    """Results in their order; `Error` if a process was killed."""
    parts = dict(done)
    found = [part for place in range(len(parts)) if (part := parts[place]) is not None]
    if len(found) < len(parts):
        raise Error("a process that looked for twins was killed (out of memory?)", "try again with fewer workers")
    return found


class _Start(NamedTuple):
    """Where laying two films over one another begins: a place (4,), and a sign, -1 if one film is inverted."""

    place: np.ndarray
    sign: float


def _compare(
    films: list[_Films], described: list[Described], pairs: dict[Pair, list[Pair]], workers: int
) -> list[float]:
    """The correlation of each film pair, from each of its view pairs in turn, as far as it was worth finding out.

    Of two films that with the smaller key is the fixed one, so that the order of the collections does not matter.
    """
    todo = list(pairs.items())

    def tasks(places: range) -> list[tuple[np.ndarray, np.ndarray, list[_Start]]]:
        made = []
        for pair, ways in (todo[place] for place in places):
            s, t = sorted((0, 1), key=lambda side: (films[side].keys[pair[side]], side))
            one, other = described[s], described[t]
            starts = [
                _Start(between(one.places[way[s]], other.places[way[t]]), one.signs[way[s]] * other.signs[way[t]])
                for way in ways
            ]
            made.append((films[s][pair[s]], films[t][pair[t]], starts))
        return made

    return list(chain(*_all(in_parallel(_correlations, _chunks(len(pairs), tasks), workers, "comparing films"))))


def _correlations(tasks: list[tuple[np.ndarray, np.ndarray, list[_Start]]]) -> list[float]:
    return [_correlation(*task) for task in tasks]


def _correlation(fixed: np.ndarray, moving: np.ndarray, starts: list[_Start]) -> float:
    """Of the fine detail of two signatures laid over one another, from the first of `starts` that makes them ALIKE.

    Starts close to an earlier one are passed over. First at half size, and no further where the films differ there.
    """
    size = (SIGNATURE // 2, SIGNATURE // 2)
    half = [cv2.resize(film, size, interpolation=cv2.INTER_AREA) for film in (fixed, moving)]
    broad, small = ([detail(film, sigma, 6.0) for film in half] for sigma in (3.0, 1.5))
    best, tried = -1.0, list[_Start]()
    for start, sign in starts:
        if best >= ALIKE or any(sign == known and np.abs(start - there).max() < AGAIN for there, known in tried):
            continue
        tried.append(_Start(start, sign))
        _, place = fit(broad[0], sign * broad[1], start, margins=MARGINS, steps=3)
        value, place = fit(small[0], sign * small[1], place, margins=MARGINS, steps=4, hopeless=UNLIKE)
        if value < LIKELY:
            value = min(value, UNLIKE)
        else:
            fine = [detail(film, 1.5, 6.0) for film in (fixed, moving)]
            value, _ = fit(fine[0], sign * fine[1], place, margins=MARGINS, steps=6)
        best = max(best, value)
    return best
