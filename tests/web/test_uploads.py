"""The films of a body, raw or multipart, and what is wrong with a body."""

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrlines.web import uploads
from cxrlines.web.problems import Problem
from cxrlines.web.uploads import Upload, film_in, films_in


def multipart(*files: tuple[str, bytes]) -> tuple[str, bytes]:
    request = httpx.Request("POST", "http://x", files=[("film", file) for file in files])
    return request.headers["content-type"], request.read()


def problem(content_type: str, body: bytes, most: int = 10) -> tuple[int, str]:
    with pytest.raises(Problem) as raised:
        films_in(content_type, body, most)
    return raised.value.status, raised.value.code


@pytest.mark.parametrize("kind", ["application/dicom", "image/jpeg", "IMAGE/PNG", "application/octet-stream; x=y"])
def test_a_body_is_a_film(kind):
    assert films_in(kind, b"film", 1) == ([Upload("film", b"film")], False)


@given(st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
def test_films_of_a_multipart_body_come_out_as_they_went_in(contents):
    files = [(f"f{k}.dcm", content) for k, content in enumerate(contents)]
    assert films_in(*multipart(*files), 4) == ([Upload(*file) for file in files], True)


def test_one_film_alone_is_taken_beside_empty_parts():
    for parts in ((("", b"one"), ("empty", b"")), (("empty", b""), ("", b"one"), ("none", b""))):
        kind, body = multipart(*parts)
        assert film_in(kind, body).data == b"one"
    with pytest.raises(Problem, match="more than 1 film"):
        film_in(*multipart(("a", b"one"), ("b", b"two")))


def test_parts_without_a_name_are_counted_and_those_that_are_empty_too_passed_over():
    kind, body = multipart(("", b"one"), ("", b""), ("empty", b""), ("", b"two"))
    assert films_in(kind, body, 5)[0] == [Upload("film 1", b"one"), Upload("empty", b""), Upload("film 3", b"two")]


def test_what_is_wrong_with_a_body():
    kind, body = multipart(("a", b"one"), ("b", b"two"))
    assert problem("", b"film") == (415, "media-type")
    assert problem("text/plain", b"film") == (415, "media-type")
    assert problem("image/jpeg", b"") == (400, "empty")
    assert problem("multipart/form-data", body) == (400, "multipart-malformed")
    assert problem("multipart/form-data; boundary=other", body) == (400, "multipart-malformed")
    assert problem(kind, body[: len(body) // 2]) == (400, "multipart-malformed")
    assert problem(kind, b"") == (400, "multipart-malformed")
    assert problem(kind, body, most=1) == (413, "too-many-films")
    assert problem(*multipart(("a", b""))) == (400, "empty")
    assert problem(*multipart(("a", b""), ("b", b""), ("c", b"three")), most=2) == (413, "too-many-films")
    assert problem("multipart/form-data; boundary=" + 400 * "x", body)[0] == 400


@given(st.binary(max_size=300), st.text(st.characters(max_codepoint=255), max_size=40))
@settings(deadline=None, max_examples=150)
def test_no_body_is_worse_than_a_problem(body, boundary):
    try:
        films_in(f"multipart/form-data; boundary={boundary}", body, 3)
    except Problem as found:
        assert found.status in (400, 413)


def test_a_body_of_nothing_but_parts_is_refused_before_all_of_them_are_looked_at(monkeypatch):
    """Of a million empty parts no more are parsed than may be there."""
    begun = []
    parser = uploads.MultipartParser

    def counting(boundary, callbacks):
        begin = callbacks["on_part_begin"]
        return parser(boundary, {**callbacks, "on_part_begin": lambda: begun.append(begin())})

    monkeypatch.setattr(uploads, "MultipartParser", counting)
    most = 10 + uploads.EMPTY_PARTS
    assert problem("multipart/form-data; boundary=b", 1_000_000 * b"--b\r\n\r\n\r\n") == (400, "multipart-malformed")
    assert len(begun) == most
    film = b"--b\r\n\r\nfilm\r\n--b--\r\n"
    assert films_in("multipart/form-data; boundary=b", (most - 1) * b"--b\r\n\r\n\r\n" + film, 10)[0][0].data == b"film"
