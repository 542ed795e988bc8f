import errno
import importlib.resources
import importlib.util
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

from cxrlines.augment.policy import make_policy
from cxrlines.core.errors import ReadingFault
from cxrlines.core.files import OutputError
from cxrlines.core.film import NotAFilm
from cxrlines.core.findings import Findings
from cxrlines.io.films import read_film
from cxrlines.io.prepare import shrink
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.reading import batch
from cxrlines.reading.batch import Predictions, Stopped, by_threads, predict
from cxrlines.reading.bundle import Bundle, BundleError, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, write_bundle
from cxrlines.reading.engines import choice
from cxrlines.reading.engines.choice import reads_on_gpu
from cxrlines.reading.engines.pytorch import load_models
from cxrlines.reading.journal import JournalError
from cxrlines.reading.reader import Reader
from cxrlines.reading.results.prediction_files import check_places, drawings, report_text, write_each, write_predictions
from cxrlines.reading.sources import Found, find_films
from cxrlines.task import LABELS, STUDY_COLUMN


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Two untrained models, so that a mean can be told from either."""
    folder = tmp_path_factory.mktemp("run")
    members = []
    for fold in (0, 1):
        torch.manual_seed(fold)
        model = Classifier("resnet10t", "gap", weights="none")
        save_weights(folder / f"{fold}.safetensors", model.state_dict(), {})
        members.append(BundleMember("m", fold, model.config(), folder / f"{fold}.safetensors"))
    written = write_bundle(
        folder / "bundle",
        members,
        store={"size": 96, "aspect": "pad"},
        input_size=64,
        meta={"trained on": "nothing"},
        onnx=False,
    )
    return load_bundle(written)


def _film(path: Path, seed: int, shape: tuple[int, int] = (150, 120)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    cv2.imwrite(str(path), cv2.GaussianBlur(rng.integers(0, 256, shape, dtype=np.uint8), (0, 0), 9) * 2)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five films of two formats in two folders, and things that are none."""
    root = tmp_path / "films"
    for i, name in enumerate(["b.png", "a.jpg", "c.tif", "deep/d.png", "deep/e.JPG"]):
        _film(root / name, i, (150 + 10 * i, 120))
    (root / "labels.csv").write_text("x")
    (root / ".hidden.png").write_bytes(b"no film")
    return root


def _drawn(predictions: Predictions, folder: Path) -> list[tuple[str, str]]:
    return write_each(predictions, [drawings(predictions, folder)])


def _scores(rows: pd.DataFrame) -> np.ndarray:
    return rows[list(LABELS)].to_numpy()


def test_a_folder_gives_a_row_a_film_in_order_of_names(folder: Path, bundle: Bundle) -> None:
    got = predict([folder], bundle)
    assert list(got.rows.columns) == [STUDY_COLUMN, *LABELS]
    assert list(got.rows[STUDY_COLUMN]) == ["a", "b", "c", "d", "e"]
    assert ((_scores(got.rows) > 0) & (_scores(got.rows) < 1)).all()
    assert (got.errors, dict(got.skipped), got.renamed, got.bundle) == ([], {"no film": 1}, 0, bundle.identity)


def test_a_film_is_read_as_training_reads_it_and_its_models_are_averaged(folder: Path, bundle: Bundle) -> None:
    got = predict([folder], bundle)
    for path, row in zip(got.films, _scores(got.rows), strict=True):
        stored, _ = shrink(read_film(path).pixels, 96, "pad")
        seen = make_policy("none", 64)(stored, np.random.default_rng(7)).film
        with torch.inference_mode():
            each = [
                torch.sigmoid(model(torch.from_numpy(seen[None, None]))).numpy()[0] for model in load_models(bundle)
            ]
        assert not np.allclose(each[0], each[1], atol=1e-3)
        np.testing.assert_allclose(row, np.mean(each, axis=0), atol=1e-5)


def test_neither_batches_nor_neighbours_nor_order_change_a_reading(folder: Path, bundle: Bundle) -> None:
    together = predict([folder], bundle, batch_size=3).rows.set_index(STUDY_COLUMN)
    paths = sorted(folder.rglob("*.[jptJ]*"), reverse=True)[:4]
    for one in paths:
        alone = predict([one], bundle, batch_size=1).rows
        np.testing.assert_allclose(_scores(alone)[0], together.loc[one.stem].to_numpy(float), atol=1e-5)
    backwards = predict(paths, bundle, batch_size=2).rows
    assert list(backwards[STUDY_COLUMN]) == [path.stem for path in paths]
    np.testing.assert_allclose(_scores(backwards), together.loc[backwards[STUDY_COLUMN]].to_numpy(float), atol=1e-5)


def test_the_same_file_named_twice_is_read_once(folder: Path, bundle: Bundle) -> None:
    got = predict([folder / "a.jpg", folder, folder / "deep", folder / "a.jpg"], bundle)
    assert list(got.rows[STUDY_COLUMN]) == ["a", "b", "c", "d", "e"]


def test_unreadable_films_are_named_and_stop_nothing(folder: Path, bundle: Bundle) -> None:
    whole = (folder / "a.jpg").read_bytes()
    (folder / "a0_cut.jpg").write_bytes(whole[: len(whole) // 3])
    (folder / "a1_random.png").write_bytes(np.random.default_rng(0).bytes(3000))
    (folder / "z_empty.dcm").write_bytes(b"")
    got = predict([folder], bundle, batch_size=2)
    assert list(got.rows[STUDY_COLUMN]) == ["a", "b", "c", "d", "e"]
    assert [Path(file).name for file, _ in got.errors] == ["a0_cut.jpg", "a1_random.png", "z_empty.dcm"]
    said = [message for _, message in got.errors]
    assert "cut off" in said[0] and "is not a film; JPEG, PNG, TIFF and DICOM are read" in said[1]
    assert "is empty (0 bytes)" in said[2] and not any(str(folder) in message for message in said)


def test_a_file_that_is_named_must_be_a_film_and_a_folder_must_hold_one(folder: Path, bundle: Bundle) -> None:
    (folder / "empty").mkdir()
    got = predict([folder / "labels.csv", folder / "absent.png", folder / "empty", folder / "b.png"], bundle)
    assert list(got.rows[STUDY_COLUMN]) == ["b"]
    said = {Path(file).name: message for file, message in got.errors}
    assert set(said) == {"labels.csv", "absent.png", "empty"}
    assert said["absent.png"] == "there is no such file or folder"
    assert "the folder holds no film: none ends in .jpg" in said["empty"]


def test_no_film_at_all_is_an_empty_table(tmp_path: Path, bundle: Bundle) -> None:
    got = predict([tmp_path], bundle)
    assert list(got.rows.columns) == [STUDY_COLUMN, *LABELS] and len(got.rows) == 0 and len(got.errors) == 1
    assert list(got.each_dict()) == []


def test_a_fault_nobody_foresaw_costs_one_film(folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(path: Path) -> object:
        if path.stem == "c":
            raise ZeroDivisionError("PatientName")
        return read_film(path)

    monkeypatch.setattr("cxrlines.reading.reader.read_film", faulty)
    got = predict([folder], bundle)
    assert list(got.rows[STUDY_COLUMN]) == ["a", "b", "d", "e"]
    ((_, message),) = got.errors
    assert "ZeroDivisionError" in message and "PatientName" not in message
    ((file, fault),) = got.faults
    assert Path(file).name == "c.tif" and isinstance(fault, ReadingFault) and "ZeroDivisionError" in fault.__notes__[0]


def test_films_that_share_a_name_are_called_by_their_place(tmp_path: Path) -> None:
    names = ["x/film.png", "y/film.png", "y/film.jpg", "other.png", "1.2.840.113"]
    for i, name in enumerate(names):
        _film(tmp_path / name, i) if "." in Path(name).suffix and name != "1.2.840.113" else None
    (tmp_path / "1.2.840.113").write_bytes(b"\0" * 128 + b"DICM")
    called = find_films([tmp_path]).names()
    assert {path.relative_to(tmp_path).as_posix(): name for path, name in called.items()} == {
        "x/film.png": "x/film",
        "y/film.png": "y/film.png",
        "y/film.jpg": "y/film.jpg",
        "other.png": "other",
        "1.2.840.113": "1.2.840.113",
    }
    each = find_films([tmp_path / "x/film.png", tmp_path / "y/film.png"]).names()
    assert sorted(each.values()) == [(tmp_path / name).as_posix() for name in names[:2]]


def test_progress_ends_with_all_films(folder: Path, bundle: Bundle) -> None:
    told: list[tuple[int, int]] = []
    (folder / "z.png").write_bytes(b"")
    predict([folder], bundle, batch_size=2, progress=lambda done, films: told.append((done, films)))
    assert told == [(done, 6) for done in range(1, 7)]


def test_the_table_has_the_columns_of_a_submission_and_errors_lie_beside_it(folder: Path, bundle: Bundle) -> None:
    out = folder.parent / "out" / "p.csv"
    (folder / "z.png").write_bytes(b"")
    written = write_predictions(predict([folder], bundle), out)
    assert written == [out, out.with_name("p.errors.csv")]
    errors = pd.read_csv(written[1])
    assert list(errors.columns) == ["file", "error"] and list(errors["file"]) == [str(folder / "z.png")]
    assert out.read_text().splitlines()[0] == ",".join([STUDY_COLUMN, *LABELS])
    (folder / "z.png").unlink()
    got = predict([folder], bundle)
    assert write_predictions(got, out, as_json=True) == [out, out.with_name("p.json")]
    assert sorted(path.name for path in out.parent.iterdir()) == ["p.csv", "p.json"]
    pd.testing.assert_frame_equal(pd.read_csv(out), got.rows)
    assert json.loads(out.with_name("p.json").read_text()) == list(got.each_dict())


def test_a_film_that_is_refused_has_no_row_but_an_error_and_its_quality_in_the_json(
    folder: Path, bundle: Bundle
) -> None:
    for name in ("a0/c.png", "a1/c.png"):  # black, and of one name with a film that is read
        (folder / name).parent.mkdir()
        cv2.imwrite(str(folder / name), np.zeros((120, 120), np.uint8))
    got = predict([folder], bundle, batch_size=2)
    alone = predict([path for path in got.films], bundle, batch_size=2)
    assert list(got.rows[STUDY_COLUMN]) == ["a", "b", "c", "d", "e"]
    np.testing.assert_allclose(_scores(got.rows), _scores(alone.rows), atol=1e-6)
    why = "not a frontal chest film: it is almost all of one gray value (0 to 0 of 0 to 255)"
    assert got.errors == [(str(folder / "a0/c.png"), why), (str(folder / "a1/c.png"), why)]
    *read, first, second = got.each_dict()
    assert len(read) == 5 and all(one["quality"]["usable"] and one["labels"] for one in read)
    assert (first[STUDY_COLUMN], second[STUDY_COLUMN]) == ("a0/c", "a1/c"), "as they would be called if they were read"
    assert first["film"] == str(folder / "a0/c.png") and first.keys() == read[0].keys()
    assert first["quality"]["notes"] == [why] and not first["quality"]["usable"]
    assert first["labels"] is first["presence"] is None and first["lines"] == first["distances"] == []
    out = folder.parent / "p.csv"
    write_predictions(got, out, as_json=True)
    assert json.loads(out.with_suffix(".json").read_text()) == list(got.each_dict())
    assert pd.read_csv(out.with_suffix(".errors.csv"))["error"].tolist() == [why, why]


def test_the_columns_are_those_of_the_real_sample_submission(folder: Path, bundle: Bundle, ranzcr: Path) -> None:
    real = pd.read_csv(ranzcr / "sample_submission.csv", nrows=1)
    assert list(predict([folder / "a.jpg"], bundle).rows.columns) == list(real.columns)


def test_json_adds_the_file_the_bundle_and_the_time(folder: Path, bundle: Bundle) -> None:
    got = predict([folder / "a.jpg"], bundle)
    (one,) = got.each_dict()
    assert (one["film"], one[STUDY_COLUMN]) == (str(folder / "a.jpg"), "a")
    assert one["labels"] == dict(zip(LABELS, _scores(got.rows)[0].tolist(), strict=True))
    assert one["bundle"] == bundle.identity and one["seconds"] > 0 and one["mm_per_px"] is None


def test_decoding_keeps_only_a_few_films_ahead(folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []
    most_ahead = 0
    for i in range(40):
        _film(folder / f"more{i:02}.png", i)

    def counted(path: Path) -> object:
        decoded.append(path)
        return read_film(path)

    def watch(done: int, films: int) -> None:
        nonlocal most_ahead
        most_ahead = max(most_ahead, len(decoded) - done)

    monkeypatch.setattr("cxrlines.reading.reader.read_film", counted)
    assert len(predict([folder], bundle, batch_size=2, progress=watch).rows) == 45
    assert most_ahead <= 6  # two batches, the film that is being handed over, and the rest of a batch


def test_real_films_are_read(bundle: Bundle, real_films: Path) -> None:
    films = sorted(real_films.glob("*.jpg"))[:5]
    got = predict(films, bundle)
    assert list(got.rows[STUDY_COLUMN]) == [path.stem for path in films] and got.errors == []


@pytest.mark.skipif(
    importlib.util.find_spec("data_store") is None, reason="pydicom-data, part of the extra `demo`, is not installed"
)
def test_a_real_dicom_reads_the_same_uncompressed_and_compressed_without_loss(folder: Path, bundle: Bundle) -> None:
    dicoms = importlib.resources.files("data_store") / "data"
    with importlib.resources.as_file(dicoms) as place:
        got = predict([place / "RG1_UNCR.dcm", folder / "a.jpg", place / "RG1_J2KR.dcm"], bundle)
    assert list(got.rows[STUDY_COLUMN]) == ["RG1_UNCR", "a", "RG1_J2KR"] and got.errors == []
    plain, other, compressed = _scores(got.rows)
    np.testing.assert_allclose(plain, compressed, atol=1e-5)
    assert not np.allclose(plain, other, atol=1e-4)


def test_a_film_is_called_by_its_study_unless_two_are_of_one(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = {"one.png": "1.2.3.7", "pa.png": "1.2.3.8", "ap.png": "1.2.3.8", "other.png": "plain"}
    films = ["one.png", "pa.png", "ap.png", "deep/other.png", "plain.jpg", "x/same.png", "y/same.png"]
    for k, name in enumerate(films):
        _film(tmp_path / name, k)

    def read(path: Path, **more: object) -> object:
        return replace(read_film(path), study_uid=studies.get(Path(path).name))

    monkeypatch.setattr("cxrlines.reading.reader.read_film", read)
    got = predict([tmp_path], bundle)
    called = dict(zip((path.name for path in got.films), got.rows[STUDY_COLUMN], strict=True))
    expected = {"one.png": "1.2.3.7", "pa.png": "pa", "ap.png": "ap", "other.png": "other"}
    assert expected.items() <= called.items() and got.rows[STUDY_COLUMN].is_unique
    assert called["plain.jpg"] == "plain", "the study that is called as this film is gives way"
    assert (got.same_study, got.renamed) == (3, 2)
    assert {Path(one["film"]).name: one[STUDY_COLUMN] for one in got.each_dict()}["one.png"] == "1.2.3.7"
    alone = predict([tmp_path / "pa.png", tmp_path / "plain.jpg"], bundle)
    assert alone.rows[STUDY_COLUMN].tolist() == ["1.2.3.8", "plain"] and alone.same_study == alone.renamed == 0


def test_a_lateral_film_takes_no_name_from_the_frontal_one_of_its_study(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k, name in enumerate(("frontal.png", "lateral.png", "alone.png")):
        _film(tmp_path / name, k)

    def read(path: Path, **more: object) -> object:
        frontal, study = Path(path).name == "frontal.png", "1.2.3.9" if Path(path).name == "alone.png" else "1.2.3.7"
        return replace(read_film(path), study_uid=study, view="PA" if frontal else "LL")

    monkeypatch.setattr("cxrlines.reading.reader.read_film", read)
    got = predict([tmp_path], bundle)
    assert got.rows[STUDY_COLUMN].tolist() == ["1.2.3.7"] and got.same_study == got.renamed == 0
    assert {path.name: name for path, name in got.refused} == {"lateral.png": "lateral", "alone.png": "1.2.3.9"}


def test_names_do_not_depend_on_the_order_of_films(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b/a.png", "b/a.jpg", "c.png", "1.2.3", "1.2.4", "é.png")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0" * 128 + b"DICM")
    studies = {paths[0]: "9.9", paths[1]: "9.9", paths[3]: "1.2.3"}
    names = Found([(path, tmp_path) for path in paths], []).names(studies)
    assert len(set(names.values())) == len(paths) and names[paths[5]] == "1.2.4"
    assert Found([(path, tmp_path) for path in paths[::-1]], []).names(studies) == names


def test_what_comes_along_with_films_is_counted_in_a_folder_and_an_error_if_named(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "report.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "more.zip").write_bytes(b"PK\3\4")
    (folder / "deep/x.dcm.gz").write_bytes(b"\x1f\x8b")
    (folder / "linked").symlink_to(folder.parent)

    def read(path: Path, **more: object) -> object:
        if Path(path).name == "report.dcm":
            raise NotAFilm(f"{path}: is a structured report", "read the films beside it", "structured report")
        return read_film(path)

    monkeypatch.setattr("cxrlines.reading.reader.read_film", read)
    got = predict([folder], bundle)
    assert got.errors == [] and len(got.rows) == 5
    assert got.skipped == {"no film": 1, "structured report": 1, "archive, not unpacked": 2, "link to a folder": 1}
    named = predict([folder / "report.dcm", folder / "more.zip", folder / "a.jpg", folder], bundle)
    assert [Path(file).name for file, _ in named.errors] == ["more.zip", "report.dcm"]
    assert len(named.rows) == 5 and named.rows[STUDY_COLUMN][0] == "a"
    assert "structured report" not in named.skipped and "unpack" in dict(named.errors)[str(folder / "more.zip")]


def test_a_folder_that_cannot_be_listed_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = os.scandir

    def scandir(path: object) -> object:
        if Path(os.fsdecode(path)).name == "deep":  # type: ignore[arg-type]
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return listed(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    found = find_films([folder])
    assert len(found.films) == 3
    ((place, why),) = found.errors
    assert place == str(folder / "deep") and os.strerror(errno.EACCES) in why


def test_names_of_any_bytes_lose_nothing(folder: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    odd = folder / os.fsdecode(b"\xff\xfe\n\x1b[31m.png")
    (folder / "a.jpg").rename(odd)
    (folder / os.fsdecode(b"cut\xe9.png")).write_bytes(b"\x89PNG\r\n\x1a\n")
    got = predict([folder], bundle)
    out = folder.parent / "p.csv"
    for path in write_predictions(got, out, as_json=True):
        path.read_text("utf-8")
    assert len(pd.read_csv(out)) == 5
    names = pd.read_csv(out)[STUDY_COLUMN].tolist()
    assert "\\xff\\xfe\\x0a\\x1b[31m" in names
    assert names == [one[STUDY_COLUMN] for one in json.loads(out.with_suffix(".json").read_text())]
    assert pd.read_csv(out.with_suffix(".errors.csv"))["file"].tolist() == [f"{folder}/cut\\xe9.png"]
    "".join(report_text(got)).encode()
    drawn = folder.parent / "drawn"
    assert _drawn(got, drawn) == []
    assert len(list(drawn.iterdir())) == 5


def test_pictures_of_names_that_look_alike_stay_apart(tmp_path: Path, bundle: Bundle) -> None:
    for k, name in enumerate(["a/film.png", "b/film.png", "a_film.png", "x" * 250 + ".png"]):
        _film(tmp_path / "films" / name, k)
    got = predict([tmp_path / "films"], bundle)
    assert {"a/film", "b/film", "a_film"} < set(got.rows[STUDY_COLUMN])
    _drawn(got, tmp_path / "drawn")
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert len(drawn) == 4 and len({path.read_bytes() for path in drawn}) == 4


def test_a_film_that_is_gone_costs_its_picture_alone(folder: Path, bundle: Bundle) -> None:
    got = predict([folder], bundle)
    (folder / "b.png").unlink()
    ((file, why),) = _drawn(got, folder.parent / "drawn")
    assert Path(file).name == "b.png" and why.startswith("not drawn")
    assert len(list((folder.parent / "drawn").iterdir())) == 4


def test_readings_under_like_names_keep_their_files(folder: Path, bundle: Bundle) -> None:
    (folder / "z.png").write_bytes(b"")
    one, other = predict([folder], bundle), predict([folder / "a.jpg"], bundle)
    place = folder.parent / "out"
    write_predictions(one, place / "readings.v1", as_json=True)
    (place / "readings.v2.json").write_text('{"mine": 1}')
    write_predictions(other, place / "readings.v2")
    assert {path.name for path in place.iterdir()} == {
        "readings.v1", "readings.v1.json", "readings.v1.errors.csv", "readings.v2", "readings.v2.json"
    }  # fmt: skip
    assert json.loads((place / "readings.v1.json").read_text()) == list(one.each_dict())
    assert (place / "readings.v2.json").read_text() == '{"mine": 1}', "another's file is left alone"
    write_predictions(other, place / "readings.v1")
    assert {path.name for path in place.iterdir()} == {"readings.v1", "readings.v2", "readings.v2.json"}


@pytest.mark.parametrize(
    ("out", "as_json", "draw"),
    [
        ("x.json", True, None),
        ("x.json", False, None),
        ("x.errors.csv", False, None),
        ("films/a.jpg", False, None),
        ("films", False, None),
        ("readings", True, None),
        ("mine.csv", True, None),
        ("blocked.csv", False, None),
        ("films/a.jpg/x.csv", False, None),
        (None, False, "films"),
        (None, False, "films/deep"),
        (None, False, "films/new/drawn"),
        (None, False, "films/a.jpg"),
        ("x/y", False, "x/y"),
    ],
)
def test_places_that_would_lose_something_are_refused_before_reading(
    folder: Path, out: str | None, as_json: bool, draw: str | None
) -> None:
    root = folder.parent
    (root / "readings.csv").write_text(f"{STUDY_COLUMN},...")
    (root / "mine.json").write_text("{}")
    (root / "blocked.errors.csv").mkdir()
    before = {path: path.is_file() and path.read_bytes() for path in root.rglob("*")}
    with pytest.raises(OutputError) as caught:
        check_places(find_films([folder]), out and root / out, as_json=as_json, draw=draw and root / draw)
    assert caught.value.way_out
    assert {path: path.is_file() and path.read_bytes() for path in root.rglob("*")} == before


def test_places_that_are_free_or_hold_an_earlier_reading_are_taken(folder: Path, bundle: Bundle) -> None:
    (folder / "z.png").write_bytes(b"")
    root, found = folder.parent, find_films([folder])
    for out in (root / "p.csv", root / "p.v1", folder / "p.csv", root / "new/deep/p"):
        for _ in range(2):
            check_places(found, out, as_json=True, draw=root / "drawn")
            write_predictions(predict([folder], bundle), out, as_json=True)
    (root / "mine.json").write_text("{}")
    check_places(found, root / "mine.csv")  # not asked for, so it stays
    one = find_films([folder / "a.jpg"])
    check_places(one, root / "a.csv", draw=folder / "drawn")
    with pytest.raises(OutputError):
        check_places(one, None, draw=folder)  # a picture may be called as the film


def test_an_interrupted_reading_has_what_was_read(folder: Path, bundle: Bundle) -> None:
    (folder / "a0.png").write_bytes(b"")

    def interrupt(done: int, films: int | None) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    whole = predict([folder], bundle, batch_size=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        predict([folder], bundle, batch_size=2, progress=interrupt)
    assert isinstance(caught.value, Stopped)
    part = caught.value.predictions
    assert len(part.rows) + len(part.errors) + len(part.unread) == 6 and 2 <= len(part.rows) < 5
    pd.testing.assert_frame_equal(part.rows, whole.rows[: len(part.rows)])
    assert part.errors == whole.errors
    written = write_predictions(part, folder.parent / "p.csv", as_json=True)
    errors = pd.read_csv(written[2])
    assert errors["file"].tolist() == [str(folder / "a0.png"), *map(str, part.unread)]
    assert len(pd.read_csv(written[0])) == len(json.loads(written[1].read_text())) == len(part.rows)


def test_a_full_disk_while_writing_keeps_the_last_reading(
    folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, disk_full: Callable[..., None]
) -> None:
    out = folder.parent / "p.csv"
    write_predictions(predict([folder / "a.jpg"], bundle), out, as_json=True)
    before = {path.name: path.read_bytes() for path in folder.parent.glob("p.*")}

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OutputError) as caught:
        write_predictions(predict([folder], bundle), out, as_json=True)
    assert str(out) in caught.value.what and os.strerror(errno.ENOSPC) in caught.value.what
    assert {path.name: path.read_bytes() for path in folder.parent.glob("p.*")} == before
    assert not list(folder.parent.glob(".*"))


def test_a_real_dicom_is_called_by_its_own_study(folder: Path, bundle: Bundle) -> None:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.1"
    dataset.StudyInstanceUID = "1.2.826.0.1.7"
    pixels = read_film(folder / "a.jpg").pixels
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(folder / "IM0001", enforce_file_format=True)
    got = predict([folder / "IM0001", folder / "b.png"], bundle)
    assert got.rows[STUDY_COLUMN].tolist() == ["1.2.826.0.1.7", "b"]


def _outputs(folder: Path) -> dict[str, bytes]:
    """Files of results, without the seconds that films took."""
    every = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: re.sub(rb'"seconds": [^,]*', b"", content) for name, content in every.items()}


def _written(predictions: Predictions, folder: Path) -> dict[str, bytes]:
    write_predictions(predictions, folder / "r.csv", as_json=True)
    _drawn(predictions, folder / "drawn")
    predictions.journal.remove()
    return _outputs(folder)


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_killed_reading_that_goes_on_ends_as_one_that_was_not(
    folder: Path, bundle: Bundle, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a0.png").write_bytes(b"")
    (folder / "x").mkdir()
    _film(folder / "x/a.png", 9)  # so that names are known only at the end
    expected = _written(predict([folder], bundle, batch_size=2), tmp_path / "whole")
    journal, calls = tmp_path / "parts/r.journal.jsonl", []

    class Killed(Exception):
        """Stands for SIGKILL: nothing is tidied up but by the system, which lets go of the file."""

    def kill(done: int, films: int | None) -> None:
        if done >= stop:
            raise Killed

    with pytest.raises(Killed):
        predict([folder], bundle, batch_size=2, progress=kill, journal=journal)
    decoded: list[Path] = []
    monkeypatch.setattr("cxrlines.reading.reader.read_film", lambda path: decoded.append(path) or read_film(path))
    got = predict(
        [folder], bundle, batch_size=2, journal=journal, resume=True, progress=lambda *done: calls.append(done)
    )
    assert got.resumed == max(0, stop // 2 * 2 - 2) + (stop == 7), "whole batches, but that of the empty file"
    assert len(decoded) == 7 - got.resumed and calls[-1] == (7, 7)
    assert _written(got, tmp_path / "parts") == expected


def test_a_reading_is_not_resumed_by_another_engine_nor_in_other_passes(
    folder: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "r.journal.jsonl"

    def stop(done: int, films: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        predict([folder], bundle, batch_size=2, journal=journal, progress=stop)
    stopped.value.predictions.journal.close()
    with pytest.raises(JournalError, match=r"begun with another number of films a pass \(--batch\): 2; now it is 3"):
        predict([folder], bundle, batch_size=3, journal=journal, resume=True)
    monkeypatch.setattr(choice, "reads_on_gpu", lambda: not reads_on_gpu())
    with pytest.raises(JournalError, match=r"another engine: torch on (the processor|a GPU); now it is torch on "):
        predict([folder], bundle, batch_size=2, journal=journal, resume=True)


def test_drawing_goes_on_where_it_was_killed(folder: Path, bundle: Bundle, tmp_path: Path) -> None:
    journal = tmp_path / "r.journal.jsonl"
    got = predict([folder], bundle, journal=journal)

    def stop(done: int, films: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_each(got, [drawings(got, tmp_path / "drawn")], stop)
    got.journal.close()
    early = {path: path.stat().st_mtime_ns for path in (tmp_path / "drawn").iterdir()}
    assert len(early) == 2
    again = predict([folder], bundle, journal=journal, resume=True)
    assert again.resumed == 5 and _drawn(again, tmp_path / "drawn") == []
    assert len(list((tmp_path / "drawn").iterdir())) == 5
    assert {path: path.stat().st_mtime_ns for path in early} == early, "not drawn again"
    assert len(_drawn(again, tmp_path / "elsewhere")) == 0 and len(list((tmp_path / "elsewhere").iterdir())) == 5
    again.journal.remove()


def test_threads_that_share_a_gpu_read_the_same_and_overlap(folder: Path, bundle: Bundle) -> None:
    """While a batch waits for the engine another one is prepared: the engine sees two films before it gives any."""
    begun = threading.Barrier(2, timeout=60)
    real = Reader(bundle, batch_size=1, lines=False)

    class Waits:
        map_size = None
        at_once = None

        def __call__(self, films: list, *, maps: bool = False) -> tuple[np.ndarray, None]:
            begun.wait()  # broken, by its time limit, if only one batch is under way
            return real.engine(films)

    for name in ("b2.png", "b3.png", "b4.png"):
        _film(folder / name, len(name))
    paths = [path for path, _ in find_films([folder]).films]
    waiting = Reader(bundle, batch_size=1, lines=False, engine=Waits())
    got = dict(by_threads(waiting, paths))
    assert list(got) == list(range(8))
    for reading, expected in zip(got.values(), real.read_many(paths), strict=True):
        assert isinstance(reading, Findings) and reading.labels == expected.labels


def test_processes_read_what_one_reads(folder: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "a0.png").write_bytes(b"")
    here = predict([folder], bundle)
    monkeypatch.setattr(batch, "FILMS_A_PROCESS", 1)
    monkeypatch.setattr(batch, "cores", lambda: 2)
    monkeypatch.setattr(batch.Reader, "read_many", lambda *films: pytest.fail("read in this process"))
    there = predict([folder], bundle)
    assert there.studies == here.studies and there.errors == here.errors and len(there.errors) == 1
    np.testing.assert_allclose(_scores(there.rows), _scores(here.rows), atol=1e-6)


def test_processes_do_not_read_with_a_bundle_that_was_exchanged(
    folder: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = load_bundle(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    manifest = mine.folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"nothing"', '"something else"'))
    monkeypatch.setattr(batch, "FILMS_A_PROCESS", 1)
    monkeypatch.setattr(batch, "cores", lambda: 2)
    with pytest.raises(BundleError) as raised:
        predict([folder], mine)
    assert mine.identity in str(raised.value) and load_bundle(mine.folder).identity in str(raised.value)


def test_ten_films_among_many_files_are_found_and_the_rest_counted(tmp_path: Path) -> None:
    for k in range(3000):
        (tmp_path / f"{k:05}.{'zip' if k % 100 == 0 else 'txt'}").touch()
    for k in range(10):
        (tmp_path / f"IM{k}").write_bytes(b"\0" * 128 + b"DICM")
    found = find_films([tmp_path])
    assert [path.name for path, _ in found.films] == [f"IM{k}" for k in range(10)]
    assert found.skipped == {"no film": 2970, "archive, not unpacked": 30} and found.errors == []
