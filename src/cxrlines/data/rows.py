"""CSV files row by row, each with the line an editor shows, and the problems found on the way."""

import csv
import difflib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxrlines.errors import Error


class TableError(Error):
    """A table cannot be used at all; the message names the file, what is wrong and the way out."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the data. `row` is the line of the file as an editor counts, header 1; None: no one line."""

    kind: str
    file: str
    row: int | None
    message: str
    way_out: str

    def text(self) -> str:
        """One line for people: where, what, and what to do."""
        where = self.file if self.row is None else f"{self.file}:{self.row}"
        return f"{where}: {self.message}; {self.way_out}"


@dataclass(frozen=True)
class Rows:
    """A CSV file: `fields[i]` are the stripped cells, one for each of `columns`, of line `lines[i]`."""

    path: Path
    columns: list[str]
    lines: list[int]
    fields: list[list[str]]
    problems: list[Problem]

    def column(self, name: str) -> list[str]:
        """The cells of one column, top to bottom."""
        place = self.columns.index(name)
        return [row[place] for row in self.fields]

    def only(self, names: Sequence[str]) -> "Rows":
        """The same rows with the columns `names` alone."""
        cells = zip(*(self.column(name) for name in names), strict=True)
        return replace(self, columns=list(names), fields=[list(row) for row in cells])


MAX_FIELD = 2**20  # characters of one cell; the longest real annotation has about 10,000


def read_rows(path: Path, needed: Sequence[str]) -> Rows:
    """Read a CSV file (UTF-8, header in line 1) that must have the columns `needed`; others may be there too.

    A row with too few or too many cells is a problem and is left out; so is each line that a quote left open swallows.
    `TableError` if the file is missing, empty, UTF-16 or not separated by commas, or lacks a needed column (the message
    offers the nearest name it has) or has one twice.
    """
    csv.field_size_limit(MAX_FIELD)
    problems: list[Problem] = []
    lines: list[int] = []
    fields: list[list[str]] = []
    try:
        file = path.open(encoding="utf-8-sig", errors="replace", newline="")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV table") from None
    with file:
        raw: list[str] = []  # the lines of the row being read
        reader = csv.reader(_kept(file, raw))
        columns = [name.strip() for name in _next(reader) or []]
        _check_format(path, raw, needed)
        check_columns(path, columns, needed)
        while True:
            raw.clear()
            line = reader.line_num + 1
            try:
                row, wrong = next(reader, None), ""
            except csv.Error as error:
                row, wrong = [], str(error)
            if row is None:
                break
            if len(raw) > 1 and (wrong or len(row) != len(columns) or _is_open(raw)):
                message = (
                    f"lines {line} to {reader.line_num} are read as one row, as a quote in line {line} is not closed"
                )
                swallowed = [line + place for place, text in enumerate(raw) if text.strip()]
                problems += [
                    Problem("quote not closed", path.name, number, message, "close or remove it")
                    for number in swallowed
                ]
                continue
            if wrong:
                problems.append(Problem("row not readable", path.name, line, wrong, "mend or remove the row"))
                continue
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(columns):
                message = f"the row has {len(row)} cells, the header {len(columns)}"
                way_out = "mend the row; a cell with a comma needs quotes"
                problems.append(Problem("row of another length", path.name, line, message, way_out))
                continue
            lines.append(line)
            fields.append([cell.strip() for cell in row])
    return Rows(path, columns, lines, fields, problems)


def _kept(lines: Iterable[str], raw: list[str]) -> Iterator[str]:
    """The lines as they come, each added to `raw` too."""
    for line in lines:
        raw.append(line)
        yield line


def _is_open(raw: Sequence[str]) -> bool:
    """Whether the lines of one row have a quote that is not closed, or text behind a closed one."""
    try:
        list(csv.reader(raw, strict=True))
    except csv.Error:
        return True
    return False


def _check_format(path: Path, head: Sequence[str], needed: Sequence[str]) -> None:
    """`TableError` for a header in UTF-16, or of needed columns that are separated by something else than commas."""
    text = "".join(head)
    if text.startswith("\ufffd\ufffd") and "\0" in text:  # a UTF-16 byte order mark, read as UTF-8
        raise TableError(f"{path}: is UTF-16, not UTF-8; save it as CSV UTF-8 (comma delimited)")
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        if "," not in text and {cell.strip().strip('"') for cell in text.split(mark)} & set(needed) and mark in text:
            raise TableError(
                f"{path}: its cells are separated by {name}, not commas; save it as CSV UTF-8 (comma delimited)"
            )


def _next(reader: Iterable[list[str]]) -> list[str] | None:
    try:
        return next(iter(reader), None)
    except csv.Error:
        return None


def check_columns(path: Path, columns: Sequence[str], needed: Sequence[str]) -> None:
    """`TableError` if a needed column is missing or is there twice."""
    if not columns:
        raise TableError(f"{path}: is empty; it needs a header with the columns {', '.join(needed)}")
    if twice := sorted({name for name in columns if name in needed and columns.count(name) > 1}):
        raise TableError(f"{path}: the header has the column {twice[0]!r} twice; remove one")
    missing = [name for name in needed if name not in columns]
    if missing:
        free = [name for name in columns if name not in needed]
        said = ", ".join(repr(name) + hint(name, free) for name in missing)
        raise TableError(
            f"{path}: lacks the column{'s' * (len(missing) > 1)} {said}; a table needs {', '.join(needed)}"
        )


def hint(name: str, known: Iterable[str]) -> str:
    """` (is 'X' meant?)` with the nearest of `known`, or nothing if none is near."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f" (is {by_lower[near[0]]!r} meant?)" if near else ""


def shown(value: str, length: int = 40) -> str:
    """A value as a message shows it: quoted, and cut to `length` characters."""
    return repr(value if len(value) <= length else value[: length - 3] + "...")


def warn(text: str) -> None:
    """Say something on stderr that must not be overlooked."""
    print(f"warning: {text}", file=sys.stderr)
