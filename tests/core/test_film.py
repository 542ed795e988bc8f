"""Errors of films, which carry the file's name and arrive whole from another process; and what files are called."""

import pickle
from pathlib import Path

import pytest

from cxrlines.core.film import FilmError, NotAFilm, check_size, film_name, stem_of


def test_a_named_error_arrives_whole_from_another_process():
    named = NotAFilm("is a report", "skip it", "structured report").named("a.dcm")
    error = pickle.loads(pickle.dumps(named))  # noqa: S301 - made here
    assert isinstance(error, NotAFilm) and isinstance(error, FilmError)
    assert (error.what, error.way_out, error.kind) == ("a.dcm: is a report", "skip it", "structured report")


def test_whose_failure_it_was_arrives_too():
    passing = FilmError("cannot be read", "try again", passing=True).named("a.dcm")
    assert pickle.loads(pickle.dumps(passing)).passing  # noqa: S301 - made here
    assert not pickle.loads(pickle.dumps(FilmError("is damaged"))).passing  # noqa: S301


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (10_001, 5_000)])
def test_a_film_without_or_with_too_many_pixels_is_refused(width, height):
    check_size("a.png", 10_000, 5_000)
    with pytest.raises(FilmError) as caught:
        check_size("a.png", width, height)
    assert caught.value.what.startswith(f"a.png: is {width} x {height} px") and "50,000,000" in caught.value.what


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("1.2.3.7", "1.2.3.7"),
        ("1.2.3.8.dcm", "1.2.3.8"),
        ("scan.v2", "scan.v2"),
        ("scan.v2.JPG", "scan.v2"),
        ("a.tar.gz", "a.tar.gz"),
        ("x.dicom", "x"),
        (".png", ".png"),
        ("", ""),
    ],
)
def test_only_the_suffix_of_a_film_is_cut_from_its_name(file, name):
    assert stem_of(file) == film_name(Path(file)) == name
    assert stem_of(f"x/{file}") == f"x/{name}" and film_name(Path("x", file)) == (name or "x")
