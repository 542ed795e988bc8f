"""The index of known films: back comes what went in, the nearest are those of brute force, patients stay out."""

from pathlib import Path

import numpy as np
import pytest

from cxrlines.io.annotations import Line
from cxrlines.io.patients import tokens
from cxrlines.reading.index import Index, IndexedFilm, IndexFileError, open_index


def index_of(films: int = 20, seed: int = 0) -> Index:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(films, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = tuple(
        IndexedFilm(
            f"s{i:02}",
            *tokens([f"p{i // 2}"], "phantom"),
            f"{i:016x}",
            ("ETT - Normal",) if i % 2 else (),
            (Line("ETT - Normal", np.array([[0.5, 0.0], [0.5, 0.25]])),) if i % 2 else (),
        )
        for i in range(films)
    )
    return Index(known, vectors.astype(np.float16), "model")


def test_the_nearest_are_those_of_brute_force() -> None:
    index = index_of()
    query = index.embeddings[3].astype(np.float32)
    expected = np.argsort(-(index.embeddings.astype(np.float32) @ query), kind="stable")[:5]
    (found,) = index.nearest(query[None], 5)
    assert [neighbour.film.study for neighbour in found] == [f"s{row:02}" for row in expected]
    assert found[0].distance == pytest.approx(0, abs=2e-3)


def test_patients_of_the_query_are_never_among_them() -> None:
    index = index_of()
    own = index.patients_of(key=index.films[3].key)
    assert own == set(tokens(["p1"], "phantom")) == index.patients_of(study="s02")
    assert own == index.patients_of(patient="p1") and not index.patients_of(patient="p99") & index._rows.keys()
    (found,) = index.nearest(index.embeddings[3:4], 20, [own])
    assert len(found) == 18 and not {"s02", "s03"} & {neighbour.film.study for neighbour in found}


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    index = index_of()
    index.save(tmp_path / "index.safetensors")
    again = open_index(tmp_path / "index.safetensors")
    np.testing.assert_array_equal(again.embeddings, index.embeddings)
    assert [film.as_dict() for film in again.films] == [film.as_dict() for film in index.films]
    assert again.embedder == "model"


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no index")
    with pytest.raises(IndexFileError, match="x"):
        open_index(tmp_path / "x")
    with pytest.raises(IndexFileError, match="ask for 1 film or more"):
        index_of().nearest(np.zeros((1, 8)), 0)
    with pytest.raises(IndexFileError, match="holds embeddings of 8 numbers"):
        index_of().nearest(np.zeros((1, 7)))
