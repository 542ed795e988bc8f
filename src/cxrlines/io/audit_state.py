"""An audit under way: what its checks of tables and films find, and share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from cxrlines.core.notes import Note
from cxrlines.io.film_lookup import packed_as
from cxrlines.io.rows import Problem, TableError

Content = TypeVar("Content")


class FilmNote(NamedTuple):
    """What is odd about a film that is read all the same; `film` is its path in the folder."""

    film: str
    note: Note


@dataclass
class AuditState:
    """The audit under way."""

    root: Path
    plain: bool  # a folder of films without tables
    films: dict[Path, str] = field(default_factory=dict)  # every film to decode -> its study
    shapes: dict[str, tuple[int, int]] = field(default_factory=dict)  # of the films of each study: (height, width)
    studies: set[str] = field(default_factory=set)  # of the rows of both splits
    problems: list[Problem] = field(default_factory=list)
    notes: list[FilmNote] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    odd: list[Problem] = field(default_factory=list)  # of tables: what is odd, but no problem

    def add(self, kind: str, file: str, row: int | None, message: str, way_out: str) -> None:
        self.problems.append(Problem(kind, file, row, message, way_out))

    def read(self, csv: Path, reader: Callable[[Path], Content]) -> Content | None:
        """A table; where it is unusable, that is a problem like any other, and the result None."""
        try:
            return reader(csv)
        except TableError as error:
            what, way_out = error.what.removeprefix(f"{csv}: "), error.way_out
        if packed := packed_as(csv):
            what, way_out = f"is there as {packed} only", "unpack it there"
        self.add("table not usable" if csv.suffix != ".json" else "file not usable", csv.name, None, what, way_out)
        return None

    def name(self, path: Path) -> str:
        """A film's path as messages show it."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
