"""The films that the page shows, in memory, by random names: at most so many and so large, the oldest dropped."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from cxrlines.core.findings import Findings


@dataclass(frozen=True, eq=False)
class KeptFilm:
    """A film's file and its findings."""

    source: bytes
    findings: Findings


class KeptFilms:
    """At most `count` films of together `size` bytes."""

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size, self._held = count, size, 0
        self._films: OrderedDict[str, KeptFilm] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._films)

    def put(self, film: KeptFilm) -> str:
        """Keep a film; its name, which cannot be guessed. The oldest go until it fits."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._films[name] = film
            self._held += len(film.source)
            while len(self._films) > 1 and (len(self._films) > self._count or self._held > self._size):
                _, gone = self._films.popitem(last=False)
                self._held -= len(gone.source)
        return name

    def get(self, name: str) -> KeptFilm | None:
        """The film of a name, which counts as new again; None where it is not kept, or no more."""
        with self._lock:
            film = self._films.get(name)
            if film is not None:
                self._films.move_to_end(name)
            return film

    def drop(self, name: str) -> None:
        """Forget a film."""
        with self._lock:
            film = self._films.pop(name, None)
            self._held -= len(film.source) if film else 0
