"""The data folder of pseudo-labels: what it is made of outlives it."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrlines.core.errors import Error
from cxrlines.io.tables import TRAIN_TABLE
from cxrlines.reading.results.pseudo_label_files import LabelledFilm, check_folder, write_films, write_origin
from cxrlines.reading.view_agreement import Agreement


def labelled(*films: Path) -> list[LabelledFilm]:
    return [LabelledFilm(film.stem, f"P-{film.stem}", film, Agreement()) for film in films]


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The output of an earlier call, of one film."""
    film = tmp_path / "films/old.png"
    film.parent.mkdir()
    film.write_bytes(b"old")
    assert write_films(tmp_path / "out", labelled(film)) == 1
    write_origin(tmp_path / "out", 1, {}, {})
    return tmp_path / "out"


@pytest.mark.parametrize("way", ["as it is", "by a link", "journal"])
def test_films_within_the_output_are_refused(earlier, tmp_path, way):
    film = earlier / "train/old.png"
    if way == "journal":
        (earlier / "begun").touch()
    if way == "by a link":
        film = tmp_path / "linked.png"
        film.symlink_to(earlier / "train/old.png")
    with pytest.raises(Error, match="one of the films that are read"):
        check_folder(earlier, "begun", [tmp_path / "films/old.png", film])
    check_folder(earlier, "begun", [tmp_path / "films/old.png"])


def test_earlier_films_stay_until_the_new_ones_are_there(earlier, tmp_path):
    before = (earlier / TRAIN_TABLE).read_text()

    def stopped() -> Iterator[LabelledFilm]:
        (tmp_path / "films/new.png").write_bytes(b"new")
        yield from labelled(tmp_path / "films/new.png")
        raise RuntimeError("the machine fails")

    with pytest.raises(RuntimeError):
        write_films(earlier, stopped())
    assert [path.name for path in (earlier / "train").iterdir()] == ["old.png"]
    assert (earlier / TRAIN_TABLE).read_text() == before
    assert write_films(earlier, labelled(tmp_path / "films/new.png")) == 1
    assert [path.name for path in (earlier / "train").iterdir()] == ["new.png"]
    assert not [path for path in earlier.iterdir() if "partial" in path.name]


def test_tables_are_utf8_whatever_the_locale(tmp_path, monkeypatch):
    film = tmp_path / "é.png"
    film.write_bytes(b"film")
    monkeypatch.setattr(io, "text_encoding", lambda encoding, stacklevel=2: encoding or "ascii")
    assert write_films(tmp_path / "out", labelled(film)) == 1
    assert "P-é" in (tmp_path / "out" / TRAIN_TABLE).read_text("utf-8")
