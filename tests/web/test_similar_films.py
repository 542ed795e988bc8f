"""Similar films: those of the index, never of the film's own patient, and only where an index is given."""

import asyncio
import os
import signal
import time

import numpy as np
import pytest

from cxrlines.core.errors import Error, OverTime, ReadingFault
from cxrlines.core.film import FilmError
from cxrlines.io.annotations import Line
from cxrlines.io.patients import tokens
from cxrlines.reading.index import Index, IndexedFilm, IndexFileError, embedder_of
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.web import similar_films
from cxrlines.web.api import make_guard
from cxrlines.web.similar_films import COUNT, Query, SimilarFilms, similar

from .conftest import EXAMPLE

JPEG = {"Content-Type": "image/jpeg"}


@pytest.fixture(scope="module")
def index(bundle, tmp_path_factory):
    """An index of the bundle in the package: the example film, of patient p0, and others; its file."""
    from cxrlines.reading.reader import Reader

    (example,) = Reader(bundle).embed([EXAMPLE])
    rng = np.random.default_rng(0)
    others = example.vector + rng.normal(size=(COUNT + 3, len(example.vector))) * 0.05
    vectors = np.stack([example.vector, *(each / np.linalg.norm(each) for each in others)]).astype(np.float16)
    keys = [example.key, *(f"{k:016x}" for k in range(len(others)))]
    films = tuple(
        IndexedFilm(f"1.2.{k}", tokens([f"p{k}"], "phantom")[0], key, ("ETT - Normal",), (_line(),))
        for k, key in enumerate(keys)
    )
    path = tmp_path_factory.mktemp("index") / "index.safetensors"
    Index(films, vectors, embedder_of(bundle)).save(path)
    return path


def _line() -> Line:
    return Line("ETT - Normal", np.array([[0.5, 0.0], [0.5, 0.4]]))


def test_the_nearest_are_shown_and_none_of_the_same_patient(index):
    found = similar(Query(EXAMPLE, None, index))
    assert len(found) == COUNT and [each["distance"] for each in found] == sorted(each["distance"] for each in found)
    assert "1.2.0" not in {each["study"] for each in found}  # the same pixels
    nearest = found[0]["study"]
    without = similar(Query(wrapped(EXAMPLE, "p99", nearest), None, index))
    assert nearest not in {each["study"] for each in without} and len(without) == COUNT
    number = nearest.rpartition(".")[2]
    of_patient = similar(Query(wrapped(EXAMPLE, f"p{number}", "1.9.9"), None, index))
    assert nearest not in {each["study"] for each in of_patient}


def test_an_index_of_another_kind_is_refused_at_the_start(tmp_path):
    (tmp_path / "x").write_bytes(b"no index")
    with pytest.raises(IndexFileError, match="no complete safetensors file"):
        SimilarFilms(None, tmp_path / "x", 60)


def die(_query: Query) -> None:
    os.abort()


def hang(_query: Query) -> None:
    time.sleep(600)


@pytest.mark.parametrize(("search", "seconds", "why"), [(die, 60, "ended"), (hang, 0.2, r"longer than 0\.2 s")])
def test_a_process_that_dies_or_hangs_as_it_loads_is_an_error_at_the_start(tmp_path, monkeypatch, search, seconds, why):
    monkeypatch.setattr(similar_films, "similar", search)
    with pytest.raises(Error, match=rf"--index .*x: .* {why} as it loaded it"):
        SimilarFilms(None, tmp_path / "x", seconds)


class Known:
    """A search that answers at once with what it was asked."""

    async def of(self, source: bytes) -> list[dict[str, object]]:
        return [{"distance": 0.1, "study": "1.2", "labels": None, "lines": [], "bytes": len(source)}]

    def close(self) -> None:
        """Nothing."""


def test_the_page_may_ask_where_there_is_an_index(web):
    serving = web()
    assert serving("GET", "/v1/about").json()["similar"] is False
    film = serving("POST", "/v1/films", content=EXAMPLE, headers=JPEG).json()["id"]
    assert serving("GET", f"/v1/films/{film}/similar").status_code == 404

    serving.service.similar = Known()
    serving.guard = make_guard(serving.service)
    assert serving("GET", "/v1/about").json()["similar"] is True
    (one,) = serving("GET", f"/v1/films/{film}/similar").json()["films"]
    assert one["bytes"] == len(EXAMPLE) and one["study"] == "1.2"
    assert serving("GET", "/v1/films/none/similar").json()["code"] == "film-not-kept"


@pytest.mark.doors
def test_another_process_searches_and_a_new_one_when_that_dies(index):
    search = SimilarFilms(None, index, 60)
    try:
        wanted = similar(Query(EXAMPLE, None, index))
        assert asyncio.run(search.of(EXAMPLE)) == wanted
        (child,) = search._team.children.values()
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
        with pytest.raises(ReadingFault):
            asyncio.run(search.of(EXAMPLE))
        assert asyncio.run(search.of(EXAMPLE)) == wanted
        with pytest.raises(FilmError):
            asyncio.run(search.of(b"no film"))
        (child,) = search._team.children.values()
        os.kill(child.process.pid, signal.SIGSTOP)
        search._team.seconds = 0.2
        with pytest.raises(OverTime):
            asyncio.run(search.of(b"no film"))
    finally:
        search.close()
