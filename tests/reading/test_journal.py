"""A reading that ends at any moment goes on, and ends as one that was never stopped."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cxrlines.core.errors import ReadingFault
from cxrlines.core.files import OutputError
from cxrlines.core.film import FilmError, NotAFilm
from cxrlines.core.findings import Findings
from cxrlines.core.lossless import plain
from cxrlines.core.quality import Quality
from cxrlines.reading.journal import HEAD, Journal, JournalError

SETTINGS = {"bundle": "abc", "test-time augmentation": "none"}
READ = Findings((10, 20), (), {}, (), {"ETT": 1 / 3}, quality=Quality(), study_uid="1.2.3")


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{k}.png" for k in range(4)]
    for path in paths:
        path.write_bytes(b"film")
    return paths


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "out/r.journal.jsonl"


def test_every_kind_of_reading_comes_back(films: list[Path], place: Path) -> None:
    fault = ReadingFault.of("2.png", ZeroDivisionError("x"))
    readings = [READ, FilmError("1.png: is cut", "copy it"), fault, NotAFilm("3.png: a report", "-", "report")]
    for path in (place, None):
        journal = Journal(path, films, SETTINGS)
        for k in (2, 0, 3, 1):
            journal.add(k, readings[k])
        assert len(journal) == 4 and 3 in journal and 4 not in journal
        first = journal.reading(0)
        assert isinstance(first, Findings) and plain(first) == plain(READ)
        for k in (1, 2, 3):
            assert type(journal.reading(k)) is type(readings[k]) and str(journal.reading(k)) == str(readings[k])
        assert journal.reading(2).__notes__ == fault.__notes__ and journal.reading(3).kind == "report"
        journal.remove()
    assert not place.exists()


def test_it_goes_on_wherever_it_was_cut(films: list[Path], place: Path) -> None:
    journal = Journal(place, films, SETTINGS)
    for k in range(3):
        journal.add(k, replace(READ, seconds=k))
    journal.made(0, "drawn")
    journal.close()
    whole = place.read_bytes()
    assert whole.startswith(HEAD)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for size in sorted({0, 5, *ends, *(end - 1 for end in ends), *(end + 3 for end in ends[:-1])}):
        place.write_bytes(whole[:size])
        again = Journal(place, films, SETTINGS, resume=True)
        kept = max(0, min(3, sum(end <= size for end in ends) - 1))
        assert [k in again for k in range(4)] == [k < kept for k in range(4)]
        assert again.has_made(0, "drawn") == (size == len(whole))
        for k in range(kept, 3):
            again.add(k, replace(READ, seconds=k))
        assert [again.reading(k).seconds for k in range(3)] == [0, 1, 2]
        again.close()
        lines = [json.loads(line) for line in place.read_bytes().splitlines()]
        assert [line.get("place") for line in lines[:4]] == [None, 0, 1, 2]


def test_films_that_changed_or_failed_are_read_again(films: list[Path], place: Path) -> None:
    journal = Journal(place, films, SETTINGS)
    for k, reading in enumerate([READ, READ, FilmError("x", "y"), NotAFilm("x", "y", "report")]):
        journal.add(k, reading)
    journal.made(1, "drawn")
    journal.close()
    films[1].write_bytes(b"another")
    again = Journal(place, films, SETTINGS, resume=True)
    assert [k in again for k in range(4)] == [True, False, False, True]
    assert not again.has_made(1, "drawn"), "the picture is of what the film was"
    again.close()


def test_a_film_that_changed_before_its_reading_came_is_known(films: list[Path], place: Path) -> None:
    """The reading may be of what it was, or of what it is now."""
    for path in (None, place):
        journal = Journal(path, films, SETTINGS)
        stat = films[1].stat()
        os.utime(films[1], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        for k in range(3):
            journal.add(k, READ)
        journal.check_unchanged(films[0])
        with pytest.raises(FilmError, match=r"1\.png: changed since .*give the command again"):
            journal.check_unchanged(films[1])
        films[2].unlink()
        with pytest.raises(FilmError, match="changed since"):
            journal.check_unchanged(films[2])
        films[2].write_bytes(b"film")
        journal.close()
    again = Journal(place, films, SETTINGS, resume=True)
    assert [k in again for k in range(3)] == [True, False, False]
    again.check_unchanged(films[1])
    again.close()


def test_a_journal_of_another_reading_is_refused_and_left_as_it_is(films: list[Path], place: Path) -> None:
    journal = Journal(place, films, SETTINGS)
    journal.add(0, READ)
    before = place.read_bytes()
    with pytest.raises(JournalError, match="another cxrlines is reading"):
        Journal(place, films, SETTINGS, resume=True)
    journal.close()
    for settings, given, said in (
        (SETTINGS | {"bundle": "def"}, films, "another bundle: abc; now it is def"),
        (SETTINGS, films[:3], "another list of films: 4 films"),
        (SETTINGS, films[::-1], "another list of films"),
    ):
        with pytest.raises(JournalError, match=said):
            Journal(place, given, settings, resume=True)
    with pytest.raises(JournalError, match="--resume"):
        Journal(place, films, SETTINGS)
    assert place.read_bytes() == before


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        b'{"mine": 1}\n{}\n',
        b'{"mine": 1}\n',
        b"mine",
        b"[]\n",
        HEAD + b', "settings": []}\n{}\n',
        HEAD + b"[" * 100_000 + b"\n{}\n",
    ],
    ids=["two lines", "a line", "no line", "a list", "no settings", "deep"],
)
def test_what_is_no_journal_is_refused_and_left_as_it_is(
    films: list[Path], place: Path, content: bytes, resume: bool
) -> None:
    place.parent.mkdir()
    place.write_bytes(content)
    with pytest.raises(JournalError):
        Journal(place, films, SETTINGS, resume=resume)
    assert place.read_bytes() == content


@pytest.mark.parametrize("content", [b"", HEAD[:9], HEAD])
def test_a_journal_cut_off_in_its_first_line_is_begun_anew(films: list[Path], place: Path, content: bytes) -> None:
    place.parent.mkdir()
    place.write_bytes(content)
    journal = Journal(place, films, SETTINGS)
    assert len(journal) == 0
    journal.close()


def test_a_journal_without_films_stands_in_nobodys_way(films: list[Path], place: Path) -> None:
    Journal(place, films, SETTINGS).close()
    other = Journal(place, films[:2], SETTINGS)
    other.add(1, READ)
    assert other.reading(1).labels == READ.labels
    other.close()


def test_a_full_disk_says_where_and_how_much_and_keeps_what_was_read(
    films: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(place, films, SETTINGS)
    journal.add(0, READ)
    size = place.stat().st_size

    class Full:
        """The file, on a disk with 50 bytes left."""

        def __init__(self, file: object) -> None:
            self.file = file

        def write(self, data: memoryview) -> int:
            room = size + 50 - place.stat().st_size
            if room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data[:room])  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    monkeypatch.setattr(journal, "_file", Full(journal._file))
    with pytest.raises(OutputError) as caught:
        journal.add(1, READ)
    said = str(caught.value)
    assert str(place) in said and "MiB free" in said and "1 of 4 films" in said and "--resume" in said
    assert place.stat().st_size == size and 1 not in journal
    journal.close()
    again = Journal(place, films, SETTINGS, resume=True)
    assert 0 in again and 1 not in again
    again.close()
