"""The index of known films: back comes what went in, the nearest are those of brute force, patients stay out."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian
from safetensors.numpy import save

from cxrlines.io.annotations import Line
from cxrlines.io.patients import key_name, tokens
from cxrlines.io.tables import read_data_folder
from cxrlines.reading.bundle import EMBEDDED, load_bundle
from cxrlines.reading.index import Index, IndexedFilm, IndexFileError, build_index, open_index
from cxrlines.reading.results.dicom.wrapped_film import wrapped
from cxrlines.task import LABELS


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


PICTURE = cv2.imencode(".png", np.zeros((40, 40), np.uint8))[1].tobytes()


def test_a_dicom_film_names_its_patient_and_study_itself() -> None:
    index = index_of()
    one, other = (set(tokens([patient], "phantom")) for patient in ("p1", "p4"))
    assert index.own_patients(PICTURE, "none") & index._rows.keys() == set()
    assert index.own_patients(PICTURE, index.films[3].key) == one
    assert index.own_patients(PICTURE, "none", study="s02") == one
    of_patient = wrapped(PICTURE, "p1", "1.2.3")
    assert index.own_patients(of_patient, "none") & index._rows.keys() == one
    assert index.own_patients(of_patient, "none", study="s08") & index._rows.keys() == one | other
    assert index.own_patients(of_patient, "none", patient="p4") & index._rows.keys() == one | other
    film = dcmread(BytesIO(of_patient))
    del film.PatientID
    for syntax in (ImplicitVRLittleEndian, ExplicitVRBigEndian):
        film.file_meta.TransferSyntaxUID, film.PatientID = syntax, "p4"
        dcmwrite(file := BytesIO(), film, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
        assert index.own_patients(file.getvalue(), "none") & index._rows.keys() == other


def test_a_dicom_film_is_known_by_the_study_in_it() -> None:
    index = index_of()
    films = (replace(index.films[0], study="1.2.7"), *index.films[1:])
    index = Index(films, index.embeddings, "model")
    own = index.own_patients(wrapped(PICTURE, "someone", "1.2.7"), "none", study="IM000001")
    assert own & index._rows.keys() == {films[0].patient}


@pytest.mark.parametrize("placeholder", ["anonymous", "Unknown"])
def test_a_placeholder_is_no_patient(placeholder: str) -> None:
    index = index_of()
    films = (replace(index.films[0], patient=tokens([placeholder], "phantom")[0]), *index.films[1:])
    index = Index(films, index.embeddings, "model")
    assert not index.own_patients(wrapped(PICTURE, placeholder, "1.2.7"), "none") & index._rows.keys()


def test_dicom_films_of_a_plain_folder_are_their_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRLINES_SITE_KEY", str(tmp_path / "site.key"))
    example = (EMBEDDED / "example.jpg").read_bytes()
    (tmp_path / "films").mkdir()
    for name, patient in (("a", "P-1"), ("b", "P-1"), ("c", "P-2")):
        (tmp_path / f"films/{name}.dcm").write_bytes(wrapped(example, patient, f"1.2.{ord(name)}"))
    (tmp_path / "films/d.jpg").write_bytes(example)
    bundle = load_bundle(EMBEDDED)
    index = build_index(bundle, read_data_folder(tmp_path / "films"))
    own = tokens(["P-1", "P-1", "P-2", "d.jpg"], key_name())
    assert [film.patient for film in index.films] == own
    assert index.own_patients(wrapped(PICTURE, "P-1", "1.2.99"), "none") & index._rows.keys() == {own[0]}

    index.save(file := tmp_path / "index.safetensors")
    assert [film.patient for film in open_index(file).films] == own
    monkeypatch.setenv("CXRLINES_SITE_KEY", str(tmp_path / "another.key"))
    for made in (False, True):  # without a key no film's patient is recognised either
        if made:
            key_name()
        with pytest.raises(IndexFileError, match=f"{own[0].partition(':')[0]}, which is not that in .*another.key"):
            open_index(file)


def test_patients_named_by_a_token_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRLINES_SITE_KEY", str(tmp_path / "site.key"))
    (folder := tmp_path / "project/train").mkdir(parents=True)
    (folder / "1.2.3.jpg").write_bytes((EMBEDDED / "example.jpg").read_bytes())
    (token,) = tokens(["P-1"], key_name())
    labels = ",".join(LABELS)
    (tmp_path / "project/train.csv").write_text(f"StudyInstanceUID,{labels},PatientID\n1.2.3,{'0,' * 11}{token}\n")
    index = build_index(load_bundle(EMBEDDED), read_data_folder(tmp_path / "project"))
    assert [film.patient for film in index.films] == [token]
    index.save(tmp_path / "index.safetensors")
    assert [film.patient for film in open_index(tmp_path / "index.safetensors").films] == [token]
    monkeypatch.setenv("CXRLINES_SITE_KEY", str(tmp_path / "another.key"))  # as another user's account has
    with pytest.raises(
        IndexFileError, match=r"project names patients under the key site-.*; name the file of that key"
    ):
        build_index(load_bundle(EMBEDDED), read_data_folder(tmp_path / "project"))


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
    for header in ("[]", '{"format": 1}', '"cxrlines index 1"', "[" * 100_000):
        (tmp_path / "y").write_bytes(save({"embeddings": np.zeros((1, 8), np.float16)}, {"cxrlines": header}))
        with pytest.raises(IndexFileError, match="y"):
            open_index(tmp_path / "y")
    with pytest.raises(IndexFileError, match="ask for 1 film or more"):
        index_of().nearest(np.zeros((1, 8)), 0)
    with pytest.raises(IndexFileError, match="holds embeddings of 8 numbers"):
        index_of().nearest(np.zeros((1, 7)))
