"""The audit of films: each by itself, decoded once, and those that are there twice."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cxrlines.core.errors import light
from cxrlines.core.film import FilmError, NotAFilm
from cxrlines.core.notes import Code, Note
from cxrlines.core.pool import in_parallel
from cxrlines.core.quality import Quality
from cxrlines.io.audit_state import AuditState, FilmNote
from cxrlines.io.dedup.copies import copies, signature
from cxrlines.io.films import read_bytes, read_film
from cxrlines.io.prepare import Probe, assess

LOOK = "look at it, and take it out if it is not a film to learn from"
FILM_PROBLEMS = {
    Code.NO_CONTRAST: ("film without contrast", "export it again"),
    Code.LATERAL: ("lateral film", LOOK),
    Code.NOT_A_CHEST_FILM: ("no frontal chest film", LOOK),
    Code.TURNED: ("film turned", "export it upright, or leave it: networks see it turned back"),
    Code.INVERTED: ("film inverted", "export it bone white, or leave it: networks see it bone white"),
}
"""Notes on a film that are problems: the kind, and the way out."""


@dataclass(frozen=True)
class _Look:
    """A film decoded: the SHA-256 of its bytes, its (height, width), signature and quality, the notes on its file."""

    digest: str
    shape: tuple[int, int]
    signature: np.ndarray
    quality: Quality
    notes: tuple[Note, ...]


def _look(path: Path, probe: Probe | None) -> _Look | FilmError:
    try:
        data = read_bytes(path)
        film = read_film(data, name=str(path))
    except FilmError as error:
        return light(error)
    quality, _ = assess(film, probe)
    height, width = film.pixels.shape
    return _Look(hashlib.sha256(data).hexdigest(), (height, width), signature(film.pixels), quality, film.notes)


def check_films(state: AuditState, workers: int, probe: Probe | None) -> dict[Path, _Look]:
    """Every film by itself: whether it can be decoded, and shows an upright chest. Those that can, sorted by path."""
    paths = sorted(state.films)
    done = dict(in_parallel(partial(_look, probe=probe), paths, workers, "checking films"))
    looks: dict[Path, _Look] = {}
    for place, path in enumerate(paths):
        look = done[place] or FilmError("its decoder crashed on it", "export it again")
        if isinstance(look, NotAFilm) and state.plain:
            kind = f"{look.kind} (no film)"
            state.counts[kind] = state.counts.get(kind, 0) + 1
        elif isinstance(look, FilmError):
            what = look.what.removeprefix(f"{path}: ")
            state.add("film not readable", state.name(path), None, what, look.way_out)
        else:
            looks[path] = look
            state.shapes[state.films[path]] = look.shape
            for note in (*look.notes, *look.quality.notes):
                if note.code in FILM_PROBLEMS:
                    kind, way_out = FILM_PROBLEMS[note.code]
                    state.add(kind, state.name(path), None, _message(note, look.quality), way_out)
                else:
                    state.notes.append(FilmNote(state.name(path), note))
    state.counts["films read"] = len(looks)
    return looks


def _message(note: Note, quality: Quality) -> str:
    """The text of a note that is a problem, as of a film that is checked, not read."""
    match note.code:
        case Code.TURNED:
            return f"is turned by {quality.rotation} degrees counter-clockwise"
        case Code.INVERTED:
            return "is inverted: bone is black"
        case Code.NOT_A_CHEST_FILM if quality.frontal_chest is not None:
            return (
                f"is not a frontal chest film, as far as a network can tell (probability {quality.frontal_chest:.2f})"
            )
    return note.text


def check_copies(state: AuditState, looks: dict[Path, _Look]) -> None:
    """Films that are there twice: the same file, or the same film re-encoded. Each copy but the first is a problem."""

    def add(kind: str, originals: list[Path], path: Path, what: str, how: str = "") -> None:
        leaks = [] if state.plain else [each for each in originals if each.parent != path.parent]
        way_out = "remove one, and see that their labels agree"
        if leaks:
            way_out = "remove it from one: a film in both training and test falsifies every figure"
        more = f" (and {len(originals) - 1} more)" if len(originals) > 1 else ""
        message = f"is the same {what} as {state.name((leaks or originals)[0])}{more}{how}"
        state.add(kind, state.name(path), None, message, way_out)

    first: dict[str, Path] = {}
    for path, look in looks.items():
        if (original := first.setdefault(look.digest, path)) != path:
            add("same film twice", [original], path, "file")
    unique = list(first.values())
    originals: dict[Path, list[Path]] = {}
    for i, j in copies([looks[path].signature for path in unique]):
        originals.setdefault(unique[j], []).append(unique[i])
    for path, others in originals.items():
        add("same film re-encoded", others, path, "film", ", re-encoded, resized, mirrored or turned")
