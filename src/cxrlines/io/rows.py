"""CSV files row by row, each with the line an editor shows, and the problems found on the way.

Cells are text: an id `NA` or `007` stays what it is. A file may be compressed by gzip, whatever its name.
"""

import csv
import gzip
import re
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TextIO

from cxrlines.core.errors import Error
from cxrlines.core.files import readable
from cxrlines.core.text import did_you_mean, plural, shown


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
        file = readable(self.file)
        where = file if self.row is None else f"{file}:{self.row}"
        return f"{where}: {self.message}" + (f"; {self.way_out}" if self.way_out else "")


def rows_left_out(problems: Iterable[Problem]) -> dict[str, int]:
    """Reason -> rows left out for it. A row with several problems is one row, and counts under the first of them."""
    first: dict[object, str] = {}
    for problem in problems:
        first.setdefault(problem if problem.row is None else (problem.file, problem.row), problem.kind)
    return dict(Counter(first.values()))


@dataclass(frozen=True)
class Rows:
    """A CSV file: `fields[i]` are the stripped cells, one for each of `columns`, of line `lines[i]`."""

    path: Path
    columns: list[str]
    lines: list[int]
    fields: list[tuple[str, ...]]
    problems: list[Problem]

    def column(self, name: str) -> list[str]:
        """The cells of one column, top to bottom."""
        place = self.columns.index(name)
        return [row[place] for row in self.fields]


SAVE_AS = "save it as CSV UTF-8 (comma delimited)"
_OTHER_FORMATS = (
    (b"PK\x03\x04", "is a ZIP archive or an Excel workbook, not a CSV table", f"unpack it, or {SAVE_AS}"),
    (b"\xd0\xcf\x11\xe0", "is an Excel workbook, not a CSV table", SAVE_AS),
    (b"\xff\xfe", "is UTF-16, not UTF-8", SAVE_AS),
    (b"\xfe\xff", "is UTF-16, not UTF-8", SAVE_AS),
    (b"PAR1", "is a Parquet file, not a CSV table", "write it as CSV"),
    (b"{", "is JSON, not a CSV table", "write it as CSV"),
    (b"[", "is JSON, not a CSV table", "write it as CSV"),
)
_NAMED = 3
_MISSPELT = 0.85  # least likeness of a column that may be meant by another name: not of `site` and `split`
"""Missing columns that a message names, and others that it offers in place of one."""


MAX_LINE = 2**22
"""Most characters of a line: a hundred times those of RANZCR's longest, of an annotation."""


@contextmanager
def open_table(path: Path) -> Iterator[Iterator[str]]:
    """A table's lines, without a byte order mark: UTF-8 (what is not becomes U+FFFD), plain or compressed by gzip.

    `TableError` if it cannot be opened or, while it is read in the block, unpacked; if it is of another format; or if a
    line has more than `MAX_LINE` characters.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        for begin, what, way_out in _OTHER_FORMATS:
            if head.startswith(begin):
                raise TableError(f"{path}: {what}", way_out)
        unpack = gzip.open if head.startswith(b"\x1f\x8b") else open
        with unpack(path, "rt", encoding="utf-8-sig", errors="replace", newline="") as text:
            yield _lines(path, text)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        what = f"{path}: is damaged, it cannot be unpacked ({type(error).__name__})"
        raise TableError(what, "copy or download it again") from None
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})", "give the path of a CSV table") from None


def _lines(path: Path, text: TextIO) -> Iterator[str]:
    """The lines of a text, none of which is held in memory beyond `MAX_LINE`."""
    for number in count(1):
        line = text.readline(MAX_LINE + 1)
        if len(line) > MAX_LINE:
            what = f"{path}: its line {number} has more than {MAX_LINE:,} characters"
            raise TableError(what, "a table has a line for each row; write it again")
        if not line:
            return
        yield line


def clean(cell: str) -> str:
    """A cell without white space, or a mark that shows nothing, at its ends."""
    return cell.strip() if cell.isascii() else cell.strip().strip("\ufeff\u200b").strip()


def read_rows(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Rows:
    """Read a CSV file (see `open_table`; header in line 1) that must have the columns `needed`; others are kept.

    Columns of nearly the name of one of `optional` that is missing are problems: they may be meant by it.

    A row with too few or too many cells is a problem and is left out; so is each line that an open quote swallows.
    `TableError` if the file is missing, empty, of another format or not separated by commas, or lacks a needed column
    (the message offers the nearest name it has), or has one of these or of `optional` twice.
    """
    problems: list[Problem] = []
    lines: list[int] = []
    fields: list[tuple[str, ...]] = []
    with open_table(path) as file:
        raw: list[str] = []  # the lines of the row being read
        reader = csv.reader(_kept(file, raw))
        try:
            columns = [clean(name) for name in next(reader, [])]
        except csv.Error:
            columns = []
        check_format(path, "".join(raw), columns, needed)
        check_columns(path, columns, needed, optional)
        absent = [name for name in optional if name not in columns]
        for name in columns:
            if name not in (*needed, *optional) and (near := did_you_mean(name, absent, cutoff=_MISSPELT)):
                message, way_out = f"column {shown(name)} is not known{near}", "rename or remove it"
                problems.append(Problem("unknown column", path.name, 1, message, way_out))
        while True:
            raw.clear()
            line = reader.line_num + 1
            row, wrong = list[str](), ""
            try:
                row = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                wrong = str(error)
            if len(raw) > 1 and (wrong or len(row) != len(columns) or _is_open(raw)):
                read = f"lines {line} to {reader.line_num} are read as one row"
                message = f"{read}, as a quote in line {line} is not closed"
                problems += [
                    Problem("quote not closed", path.name, number, message, "close or remove it")
                    for number, text in enumerate(raw, line)
                    if text.strip()
                ]
            elif wrong:
                long = _too_long("".join(raw), columns)
                message, way_out = (
                    (long, "round its numbers, or give fewer") if long else (wrong, "correct or remove the row")
                )
                problems.append(Problem("row not readable", path.name, line, message, way_out))
            elif not any(map(str.strip, row)):
                pass  # a blank line
            elif len(row) != len(columns):
                message = f"the row has {plural(len(row), 'cell')}, the header {len(columns)}"
                way_out = "correct the row; a cell with a comma needs quotes"
                problems.append(Problem("row of another length", path.name, line, message, way_out))
            else:
                lines.append(line)
                fields.append(tuple(map(str.strip if all(map(str.isascii, raw)) else clean, row)))
    return Rows(path, columns, lines, fields, problems)


def _kept(lines: Iterable[str], raw: list[str]) -> Iterator[str]:
    """The lines as they come, each added to `raw` too."""
    for line in lines:
        raw.append(line)
        yield line


def _too_long(text: str, columns: Sequence[str]) -> str:
    """Which cell of a row is longer than the csv module reads, whose limit is the whole process's; "" if none is."""
    limit = csv.field_size_limit()
    begun = next(csv.reader([text[:limit]]), []) if len(text) > limit else []  # it is the last that has begun there
    if not 0 < len(begun) <= len(columns):
        return ""
    return f"its cell of the column {columns[len(begun) - 1]!r} has more than {limit:,} characters"


def _is_open(raw: Sequence[str]) -> bool:
    """Whether the lines of one row have a quote that is not closed, or text behind a closed one."""
    try:
        list(csv.reader(raw, strict=True))
    except csv.Error:
        return True
    return False


def check_format(path: Path, text: str, columns: Sequence[str], needed: Sequence[str]) -> None:
    """`TableError` for a first line that is no header of cells separated by commas, where its format is recognised."""
    if "\0" in text:
        raise TableError(f"{path}: is not text in UTF-8 (it has zero bytes, as UTF-16 has)", SAVE_AS)
    if text and not text.strip():
        raise TableError(f"{path}: its first line is blank", "remove it, so that the header is the first line")
    if text.strip('"').lower().startswith("sep="):
        way_out = f"remove that line; if commas do not separate its cells, {SAVE_AS}"
        raise TableError(f"{path}: its first line is {shown(text.strip())}, which is for Excel, not a header", way_out)
    named = {name.strip().strip('"') for name in columns[0].split(",")} if len(columns) == 1 else set()
    if len(named) > 1 and named & set(needed):
        raise TableError(f"{path}: each line is in quotes, and so one cell", f"remove them, or {SAVE_AS}")
    for mark, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if "," not in text and {cell.strip().strip('"') for cell in text.split(mark)} & set(needed) and mark in text:
            raise TableError(f"{path}: its cells are separated by {name}, not commas", SAVE_AS)


def check_columns(path: Path, columns: Sequence[str], needed: Sequence[str], optional: Sequence[str] = ()) -> None:
    """`TableError` if a needed column is missing, or one that is needed or optional is there twice.

    Names are quoted only of a line with a column that is known; any other may be the first row, and name a patient.
    """
    if not columns:
        raise TableError(f"{path}: is empty", f"it needs a header with the columns {', '.join(needed)}")
    if twice := sorted({name for name in (*needed, *optional) if columns.count(name) > 1}):
        raise TableError(f"{path}: the header has the column {twice[0]!r} twice", "remove one")
    missing = [name for name in needed if name not in columns]
    if missing and {_letters(name) for name in columns}.isdisjoint(map(_letters, (*needed, *optional))):
        named = ", ".join(map(repr, missing[:_NAMED])) + f" and {len(missing) - _NAMED} more" * (len(missing) > _NAMED)
        what = f"{path}: lacks the column{'s' * (len(missing) > 1)} {named}; its first line is not a known header"
        raise TableError(what, f"write one above it; a table needs {', '.join(needed)}")
    if missing:
        free = [name for name in columns if name and name not in needed]
        named = ", ".join(repr(name) + did_you_mean(name, free) for name in missing[:_NAMED])
        if len(missing) > _NAMED:
            named += f" and {len(missing) - _NAMED} more"
        elif len(missing) == 1 and len(free) <= _NAMED and free and not did_you_mean(missing[0], free):
            named += f" (its other columns: {', '.join(map(shown, free))})"
        what = f"{path}: lacks the column{'s' * (len(missing) > 1)} {named}"
        raise TableError(what, f"a table needs {', '.join(needed)}")


def _letters(name: str) -> str:
    """A column's name as it is compared with another's: without case, spaces and marks."""
    return re.sub(r"[\W_]", "", name).lower()


NO_PATIENT, CHANGED_ID, GARBLED_ID = "row of no patient", "id changed by a spreadsheet", "id not in UTF-8"
PLACEHOLDERS = frozenset({
    "nan", "<na>", "na", "n/a", "#n/a", "#name?", "#value!", "#ref!", "null", "none", "nil", "unknown", "unk",
    "unbekannt", "missing", "anonymous", "anonymized", "anonymised", "anonym", "anon", "deidentified", "redacted",
    "?", "-", "--", ".", "xxx",
})  # fmt: skip
"""What stands where no patient is named, in lower case."""
_SCIENTIFIC = re.compile(r"\d+(?:[.,]\d+)?[eE]\+\d+")
DOUBTS = {
    NO_PATIENT: (
        "stands in several rows, as a placeholder and not as a patient",
        "give each patient an id, or folds cannot keep patients apart",
    ),
    CHANGED_ID: (
        "is a number, as a spreadsheet or data frame writes long ids: digits are lost, or one patient becomes two",
        "import the column as text and write the table again",
    ),
    GARBLED_ID: ("has letters that are not UTF-8, so that two ids may look the same", SAVE_AS),
}
"""Why an id is not believed: what is wrong, and the way out."""


def doubted(ids: Sequence[str], *, patients: bool = False) -> list[str]:
    """For each id why it is not believed, a key of DOUBTS, or "".

    Of studies, only what has lost letters is doubted: `NA` is an id like any other. Of `patients` also a placeholder
    that stands in several rows, and `12.0` where another row has the patient `12`.
    """
    count = Counter(ids)

    def doubt(name: str) -> str:
        if "\ufffd" in name:
            return GARBLED_ID
        if "+" in name and _SCIENTIFIC.fullmatch(name):
            return CHANGED_ID
        if patients and name.lower() in PLACEHOLDERS and count[name] > 1:
            return NO_PATIENT
        if patients and name.endswith(".0") and name[:-2].isdigit() and name[:-2] in count:
            return CHANGED_ID
        return ""

    return list(map({name: doubt(name) for name in count}.__getitem__, ids))


def bare(patient: str) -> str:
    """A patient's id without what spreadsheets and systems change of it: `.0` behind, zeros in front, how accents are
    coded."""
    return unicodedata.normalize("NFC", patient).removesuffix(".0").lstrip("0") or "0" * bool(patient)


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {text}", file=sys.stderr)
