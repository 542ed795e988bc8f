"""The embedded reader: any kind of source gives the same findings, and what cannot be read costs nothing else."""

import dataclasses
import io
import json
import pickle
import threading
import traceback
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from typer.testing import CliRunner

import cxrlines
from cxrlines import cli
from cxrlines.core.errors import ReadingFault
from cxrlines.core.film import Film, FilmError
from cxrlines.core.findings import Findings
from cxrlines.core.notes import Code
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.reading import reader as reader_module
from cxrlines.reading.bundle import EMBEDDED
from cxrlines.reading.engines.averaged import AveragedNetworks
from cxrlines.reading.reader import Embedded, Reader


@pytest.fixture(scope="module")
def reader() -> Reader:
    return cxrlines.load_reader()


@pytest.fixture(scope="module")
def film() -> np.ndarray:
    scene = make_scene([5], [5, 1], size=400, balance="even", site="a")
    return render(scene, difficulty=0.2, site="a", rng=np.random.default_rng(5))


def png(film: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "PNG")
    return file.getvalue()


def dicom(film: np.ndarray) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = film.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = film.tobytes()
    return dataset


def codes(findings: Findings) -> list[Code]:
    return [note.code for note in findings.all_notes]


def said(findings: Findings) -> dict:
    return findings.as_dict()


def assert_same_distances(one: Findings, other: Findings) -> None:
    """But for how they round."""
    assert len(one.distances) == len(other.distances) > 0
    for mine, theirs in zip(one.distances, other.distances, strict=True):
        for field in dataclasses.fields(mine):
            got, wanted = getattr(mine, field.name), getattr(theirs, field.name)
            number = isinstance(wanted, float | tuple) and not isinstance(wanted, bool)
            assert got == (pytest.approx(wanted, abs=1e-5) if number else wanted), field.name


def test_any_kind_of_source_gives_the_same_findings(reader: Reader, film: np.ndarray, tmp_path: Path) -> None:
    before = film.copy()
    (tmp_path / "film.png").write_bytes(png(film))
    expected = said(reader.read(film))
    for source in (tmp_path / "film.png", str(tmp_path / "film.png"), png(film)):
        assert said(reader.read(source)) == expected
    np.testing.assert_array_equal(film, before)


def test_a_dicom_dataset_is_read_as_its_file(reader: Reader, film: np.ndarray) -> None:
    dataset = dicom(film)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    assert said(reader.read(dataset)) == said(reader.read(file.getvalue()))


def test_many_are_read_in_order_and_an_unreadable_one_stays_in_its_place(reader: Reader, film: np.ndarray) -> None:
    told: list[tuple[int, int | None]] = []
    found = list(reader.read_many([film, b"no film", film[:, ::-1].copy()], lambda *done: told.append(done)))
    assert isinstance(found[0], Findings) and isinstance(found[1], FilmError) and isinstance(found[2], Findings)
    assert found[0].labels == pytest.approx(reader.read(film).labels, abs=1e-4)
    assert told[-1] == (3, 3)


def test_lines_are_in_pixels_of_the_film_whatever_its_size(reader: Reader, film: np.ndarray) -> None:
    large = np.repeat(np.repeat(film, 2, axis=0), 2, axis=1)  # the network sees the same film, not a smoother one
    small, twice = reader.read(film), reader.read(large)
    assert [line.device for line in small.lines] == [line.device for line in twice.lines] != []
    for one, other in zip(small.lines, twice.lines, strict=True):
        assert np.abs((one.path[0] + 0.5) * 2 - 0.5 - other.path[0]).max() < 0.02 * max(large.shape)


def test_no_state_is_given_of_a_childs_or_a_mirrored_film(reader: Reader) -> None:
    """Of the notes that a file's header makes, as they come by the file itself."""
    pixels = cv2.imread(str(EMBEDDED / "example.jpg"), cv2.IMREAD_GRAYSCALE)

    def found_with(**header: Any) -> Findings:
        dataset = dicom(pixels)
        for keyword, value in header.items():
            setattr(dataset, keyword, value)
        return reader.read(saved(dataset))

    adult = found_with(PatientAge="040Y", PatientOrientation=["L", "F"])
    child, mirrored = found_with(PatientAge="003Y"), found_with(PatientOrientation=["R", "F"])
    assert Code.CHILD in codes(child) and Code.MIRRORED in codes(mirrored)
    assert any(each.state for each in adult.distances) and any(len(each.possible) > 1 for each in adult.distances)
    for odd in (child, mirrored):
        assert [each.what for each in odd.distances] == [each.what for each in adult.distances]
        assert all(each.state is None and each.possible == () for each in odd.distances)
    assert all(each.patient_cm is None for each in child.distances)
    for one, other in zip(adult.distances, mirrored.distances, strict=True):
        to_the_right = one.what.endswith("right of the carina")
        assert other.px == (-one.px if to_the_right and one.px else one.px)


OddFilms = dict[str, tuple[bytes, str | None]]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def huge(film: np.ndarray) -> bytes:
    """A film of 12,000 x 12,000 px as PNG, without the time it takes to make a real one."""
    return encoded(Image.new("L", (12_000, 12_000), int(film.mean())), "PNG", compress_level=1)


def several_frames(film: np.ndarray) -> bytes:
    dataset = dicom(film)
    dataset.NumberOfFrames, dataset.PixelData = 3, film.tobytes() * 3
    return saved(dataset)


def lateral(film: np.ndarray) -> bytes:
    dataset = dicom(film)
    dataset.ViewPosition = "LL"
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture(scope="module")
def odd_films(film: np.ndarray) -> OddFilms:
    """Films as they should not be, by file name: what is said of each, and None where it is just read."""
    page = Image.fromarray(film)
    return {
        "1bit.png": (encoded(page.convert("1"), "PNG"), None),
        "black.png": (
            encoded(Image.new("L", (300, 400)), "PNG"),
            "one gray value",
        ),
        "colour.jpg": (encoded(Image.merge("RGB", [page] * 3), "JPEG", quality=95), None),
        "cut.png": (png(film)[:3000], "is damaged"),
        "frames.dcm": (several_frames(film), "export the frame that is the film"),
        "huge.png": (huge(film), "12000 x 12000 px"),
        "lateral.dcm": (lateral(film), "LL"),
        "narrow.png": (png(film[:, :9]), "not a frontal chest film"),
        "pages.tif": (
            encoded(page, "TIFF", save_all=True, append_images=[page]),
            "pages",
        ),
        "small.png": (png(cv2.resize(film, (100, 100), interpolation=cv2.INTER_AREA)), None),
        "smaller.png": (png(cv2.resize(film, (99, 120), interpolation=cv2.INTER_AREA)), None),
    }


@pytest.fixture(scope="module")
def odd(film: np.ndarray, odd_films: OddFilms, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `odd_films`, and among them a good one."""
    folder = tmp_path_factory.mktemp("odd")
    for name, (data, _) in odd_films.items():
        (folder / name).write_bytes(data)
    (folder / "good.png").write_bytes(png(film))
    return folder


def test_odd_films_are_read_or_say_why_and_cost_the_good_one_nothing(
    reader: Reader, film: np.ndarray, odd_films: OddFilms, odd: Path
) -> None:
    paths = sorted(odd.iterdir())
    found = dict(zip([path.name for path in paths], reader.read_many(paths), strict=True))
    for name, (data, why) in odd_films.items():
        told = found[name]
        if isinstance(told, FilmError):
            assert why is not None and why in str(told) and str(told).startswith(f"{odd / name}: ")
            with pytest.raises(FilmError, match=r"^the film: "):
                reader.read(data)
        else:
            assert told.quality.usable == (why is None), name
            assert why is None or why in told.quality.notes[0].text
            assert (told.labels is not None) == told.quality.usable
            assert (told.lines, told.landmarks) == ((), {}) or told.quality.usable
    alone, among = reader.read(film), found["good.png"]
    assert isinstance(among, Findings) and among.labels == pytest.approx(alone.labels, abs=1e-4)
    assert [line.device for line in among.lines] == [line.device for line in alone.lines] != []


@pytest.mark.parametrize("turned", [0, 1])
def test_a_film_in_a_frame_is_read_as_the_film_with_points_in_the_frame(
    reader: Reader, film: np.ndarray, turned: int
) -> None:
    film = np.ascontiguousarray(np.rot90(film, turned))
    framed = np.pad(film, ((40, 10), (150, 90)), constant_values=255)
    alone, found = reader.read(film), reader.read(framed)
    assert found.labels == pytest.approx(alone.labels, abs=1e-5) and found.film_shape == framed.shape
    assert found.quality.rotation == alone.quality.rotation and Code.FRAME_CUT in codes(found)
    by_size: dict[str, Any] = {"patient_cm": None, "state": None, "possible": (), "classifier": None, "agrees": None}

    def without_size(findings: Findings) -> Findings:
        distances = tuple(dataclasses.replace(distance, **by_size) for distance in findings.distances)
        return dataclasses.replace(findings, distances=distances)

    assert_same_distances(without_size(found), without_size(alone))
    larger = max(framed.shape) / max(film.shape)  # the plate, if the frame is a part of it: the film is then smaller
    for mine, theirs in zip(found.distances, alone.distances, strict=True):
        if not mine.patient_cm or not theirs.patient_cm:
            assert mine == theirs, "of a tube that leaves the film nothing hangs on its size"
            continue
        least, most = sorted(theirs.patient_cm, key=abs)
        assert sorted(mine.patient_cm, key=abs) == pytest.approx([least / larger, most], abs=1e-5)
        assert {*mine.possible} >= {*theirs.possible}
    assert len(found.lines) == len(alone.lines) > 0
    for mine, theirs in zip(found.lines, alone.lines, strict=True):
        np.testing.assert_allclose(mine.path, theirs.path + np.array([150, 40]), atol=0.01)
    for name, spot in alone.landmarks.items():
        np.testing.assert_allclose(found.landmarks[name].xy, spot.xy + np.array([150, 40]), atol=0.01)


def test_what_is_no_chest_film_has_no_embedding(reader: Reader, odd: Path) -> None:
    black, good = reader.embed([odd / "black.png", odd / "good.png"])
    assert isinstance(black, FilmError) and str(black).startswith(f"{odd / 'black.png'}: not a frontal chest film")
    assert isinstance(good, Embedded)
    (alone,) = reader.embed([odd / "good.png"])
    assert isinstance(alone, Embedded)
    np.testing.assert_allclose(good.vector, alone.vector, atol=1e-5)


def test_what_a_reader_should_know_of_an_odd_film_is_in_its_notes(reader: Reader, odd: Path) -> None:
    found = {name: codes(reader.read(odd / f"{name}.png")) for name in ("1bit", "narrow", "small", "smaller", "good")}
    assert found["1bit"] == [Code.ONE_BIT]
    assert found["narrow"][:2] == [Code.NOT_A_CHEST_FILM, Code.SMALL]
    assert found["smaller"] == [Code.SMALL]
    assert found["small"] == found["good"] == []


def test_a_colour_film_reads_as_its_gray_one(reader: Reader, film: np.ndarray) -> None:
    page = Image.fromarray(film)
    gray, colour = (reader.read(encoded(image, "PNG")) for image in (page, Image.merge("RGB", [page] * 3)))
    assert said(colour) == said(gray)


def test_predict_loses_nothing_of_a_batch_of_odd_films(odd_films: OddFilms, odd: Path, tmp_path: Path) -> None:
    words = [
        "predict",
        str(odd),
        "--out",
        str(tmp_path / "p.csv"),
        "--json",
        "--draw",
        str(tmp_path / "drawn"),
        "--batch",
        "3",
    ]
    result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
    assert result.exit_code == 2
    read = sorted(["good", *(Path(name).stem for name, (_, why) in odd_films.items() if why is None)])
    assert pd.read_csv(tmp_path / "p.csv")["StudyInstanceUID"].tolist() == read
    assert sorted(path.stem for path in (tmp_path / "drawn").iterdir()) == read
    errors = pd.read_csv(tmp_path / "p.errors.csv").set_index("file")["error"]
    assert [Path(file).name for file in errors.index if Path(file).parent == odd] == [
        name for name, (_, why) in odd_films.items() if why is not None
    ]
    for name, (_, why) in odd_films.items():
        if why is not None:
            assert why in errors[str(odd / name)] and f"{odd / name}: {errors[str(odd / name)]}" in result.stderr
    told = {Path(one["film"]).name: one for one in json.loads((tmp_path / "p.json").read_text())}
    assert set(told) == {name for name, (_, why) in odd_films.items() if why is None} | {
        "good.png",
        "black.png",
        "lateral.dcm",
        "narrow.png",
    }
    assert told["good.png"]["quality"]["usable"]
    assert not any(told[name]["quality"]["usable"] for name in ("black.png", "lateral.dcm", "narrow.png"))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((300, 300)),
        np.zeros((300, 300), bool),
        np.zeros((300, 300), np.uint16),
        np.zeros((300, 300, 3), np.uint8),
        np.zeros((1, 300, 300), np.uint8),
        np.zeros((0, 300), np.uint8),
        np.array("film"),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_an_array_that_is_no_gray_film_is_refused(reader: Reader, array: np.ndarray) -> None:
    with pytest.raises(FilmError) as caught:
        reader.read(array)
    assert str(caught.value).startswith("the film") and "; " in str(caught.value)
    (one,) = reader.read_many([array])
    assert type(one) is FilmError


def test_an_array_is_read_however_it_lies_in_memory_and_never_changed(reader: Reader, film: np.ndarray) -> None:
    expected = said(reader.read(film))
    wide = np.repeat(film, 2, axis=1)
    wide.setflags(write=False)
    for array in (np.asfortranarray(film), wide[:, ::2], np.ascontiguousarray(film[::-1, ::-1])[::-1, ::-1]):
        before = array.copy()
        assert not array.flags.c_contiguous and said(reader.read(array)) == expected
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("kind", ["str", "path", "bytes", "array", "dataset"])
def test_one_film_is_not_taken_for_many(reader: Reader, film: np.ndarray, tmp_path: Path, kind: str) -> None:
    one = {"str": "film.dcm", "path": tmp_path, "bytes": png(film), "array": film, "dataset": dicom(film)}[kind]
    for call in (reader.read_many, reader.embed):
        with pytest.raises(TypeError, match="one film"):
            call(one)  # at once, not when the first is asked for


def test_what_is_no_source_costs_the_others_nothing(reader: Reader, film: np.ndarray) -> None:
    *wrong, right = reader.read_many(iter([None, float("nan"), io.BytesIO(png(film)), "", "a\0b", film]))
    assert [type(one) for one in wrong] == [FilmError] * 5 and isinstance(right, Findings)
    assert "NoneType" in str(wrong[0])
    assert list(reader.read_many([])) == list(reader.read_many(iter(()))) == list(reader.embed([])) == []


def test_a_dataset_without_uids_or_file_header_is_read_as_one_with_them(reader: Reader, film: np.ndarray) -> None:
    whole, bare = dicom(film), dicom(film)
    whole.StudyInstanceUID = "1.2.3.4"
    del bare.file_meta, bare.SOPInstanceUID, bare.SOPClassUID
    assert said(reader.read(bare)) == said(reader.read(whole))
    assert not hasattr(bare, "file_meta") and "SOPInstanceUID" not in bare, "it is left as it was"


def test_a_film_turned_in_its_file_has_the_distances_and_states_of_the_upright_one(reader: Reader) -> None:
    scene = make_scene([901], [901, 7], size=360, balance="even", site="a")
    upright = render(scene, difficulty=0.5, site="a", rng=np.random.default_rng(901))
    expected = reader.read(spaced(upright, (1.1, 0.9)))
    assert {d.state for d in expected.distances} != {None} and expected.spacing.mm_per_px == (1.1, 0.9)
    for quarter in (1, 2, 3):
        film = np.ascontiguousarray(np.rot90(upright, quarter))
        found = reader.read(spaced(film, (0.9, 1.1) if quarter % 2 else (1.1, 0.9)))
        assert found.quality.rotation == 90 * quarter and Code.TURNED in codes(found)
        assert_same_distances(found, expected)
        assert found.upright_shape == expected.upright_shape == upright.shape


def spaced(film: np.ndarray, mm: tuple[float, float]) -> Dataset:
    """A DICOM of this (row, column) spacing."""
    dataset = dicom(film)
    dataset.Modality, dataset.ImagerPixelSpacing = "DX", list(mm)
    return dataset


# -- faults of ours, and what goes on while many are read


class OurBug(Exception):
    """Nobody's mistake but cxrlines'."""


@pytest.fixture(params=["cut_frame", "findings_of"])
def bug(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, film: np.ndarray) -> str:
    """The step of reading, named, that fails on films of another width than `film`."""
    whole = getattr(reader_module, request.param)

    def failing(*given: Any, **more: Any) -> Any:
        shape = given[0].pixels.shape if request.param == "cut_frame" else given[0].film_shape
        if shape != film.shape:
            raise OurBug("DOE^JANE")
        return whole(*given, **more)

    monkeypatch.setattr(reader_module, request.param, failing)
    return str(request.param)


def test_a_fault_of_ours_costs_one_film_and_shows_where_it_is(reader: Reader, film: np.ndarray, bug: str) -> None:
    before, fault, after = reader.read_many([film, film[:-1], film])
    assert isinstance(before, Findings) and isinstance(after, Findings)
    assert isinstance(fault, ReadingFault) and not isinstance(fault, cxrlines.Error)
    assert isinstance(fault.__cause__, OurBug) and "OurBug" in str(fault) and "DOE" not in str(fault)
    shown = "".join(traceback.format_exception(fault))
    assert "in failing" in shown and "DOE^JANE" in shown
    assert "reading/reader.py" in str(fault)
    with pytest.raises(OurBug):
        reader.read(film[:-1])
    sent = pickle.loads(pickle.dumps(fault))  # noqa: S301
    assert str(sent) == str(fault) and "in failing" in "".join(traceback.format_exception(sent))


def test_a_lack_of_memory_costs_one_film_and_is_no_fault_of_ours(
    reader: Reader, film: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(made: Film, *given: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(reader_module, "cut_frame", out_of_memory)
    (one,) = reader.read_many([film])
    assert type(one) is FilmError and one.way_out


def test_exceptions_that_are_kept_do_not_keep_their_films(reader: Reader, film: np.ndarray, bug: str) -> None:
    odd = film[:-1].copy()
    wrong = np.zeros((300, 300))
    alive = [weakref.ref(odd), weakref.ref(wrong)]
    kept = list(reader.read_many(iter([odd, wrong])))
    assert [type(one) for one in kept] == [ReadingFault, FilmError]
    del odd, wrong
    assert [ref() is None for ref in alive] == [True, True]


def test_a_film_that_waits_for_the_network_does_not_keep_its_pixels(reader: Reader, film: np.ndarray) -> None:
    pixels = film.copy()
    alive = weakref.ref(pixels)
    ready = reader.prepare(Film(pixels, "array", 8))
    del pixels
    assert alive() is None and ready.prepared.film_shape == film.shape


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_what_was_given_before_a_source_failed_is_read_first(reader: Reader, film: np.ndarray) -> None:
    def films() -> Iterator[np.ndarray]:
        for _ in range(reader.batch_size + 1):
            yield film
        raise LookupError("the archive is gone")

    found = []
    with pytest.raises(LookupError, match="the archive is gone"):
        for one in reader.read_many(films()):
            found.append(one)
    assert len(found) == reader.batch_size + 1 and all(isinstance(one, Findings) for one in found)
    assert decoders() == []


def test_no_thread_outlives_a_reading_that_is_stopped(reader: Reader, film: np.ndarray) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield film

    reading = reader.read_many(endless())
    assert isinstance(next(reading), Findings)
    assert taken <= 3 * reader.batch_size + 1, "no more than two batches ahead"
    reading.close()
    assert decoders() == []

    def stop(done: int, films: int | None) -> None:
        raise KeyboardInterrupt

    stopped = reader.read_many(endless(), stop)
    with pytest.raises(KeyboardInterrupt):
        list(stopped)
    assert decoders() == []


def test_the_next_film_is_computed_while_one_is_interpreted(
    reader: Reader, film: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    films = [film, film[:, ::-1].copy(), film[20:]]
    expected = [said(reader.read(one)) for one in films]
    begun, order = [threading.Event() for _ in films], iter(range(len(films)))

    class OneByOne:
        map_size, at_once = reader.engine.map_size, 1

        def __call__(self, shown: list, *, maps: bool = False) -> Any:
            begun[next(order)].set()
            assert len(shown) == 1
            return reader.engine(shown, maps=maps)

    piecewise = Reader(reader.bundle, engine=OneByOne())
    interpret, done = piecewise._interpret, []

    def waits(*arguments: Any) -> Any:
        assert begun[min(len(done) + 1, 2)].wait(60), "nothing is computed meanwhile"
        done.append(arguments)
        return interpret(*arguments)

    monkeypatch.setattr(piecewise, "_interpret", waits)
    assert [said(one) for one in piecewise.read_many(films)] == expected and len(done) == 3
    assert decoders() == []


class _Stumbles:
    """An engine that fails at its second film."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.map_size, self.at_once, self.begun = engine, engine.map_size, 1, 0

    def __call__(self, shown: list, *, maps: bool = False) -> Any:
        self.begun += 1
        if self.begun == 2:
            raise RuntimeError("bad allocation")
        return self.engine(shown, maps=maps)

    def embed(self, shown: list) -> Any:
        raise RuntimeError("bad allocation")


def test_an_engine_that_fails_costs_the_films_that_it_was_given_alone(reader: Reader, film: np.ndarray) -> None:
    films = [film, film[:, ::-1].copy(), film[20:]]
    expected = [said(reader.read(one)) for one in films]
    first, failed, last = Reader(reader.bundle, engine=_Stumbles(reader.engine)).read_many(films)
    assert isinstance(first, Findings) and isinstance(last, Findings) and isinstance(failed, ReadingFault)
    assert [said(first), said(last)] == [expected[0], expected[2]]
    assert "bad allocation" in "".join(traceback.format_exception(failed)), "in full where it is looked for"
    assert "bundle again" not in str(failed)
    stumbles = Reader(reader.bundle, engine=_Stumbles(reader.engine))
    blank = np.zeros((300, 300), np.uint8)
    refused, *lost = stumbles.embed([blank, *films])
    assert isinstance(refused, FilmError) and [type(one) for one in lost] == [ReadingFault] * 3


class _RefusesTwo:
    """An engine that fails where films are computed together, and of a film of ones always."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.map_size, self.at_once = engine, engine.map_size, None

    def __call__(self, shown: list, *, maps: bool = False) -> Any:
        self._check(shown)
        return self.engine(shown, maps=maps)

    def embed(self, shown: list) -> Any:
        self._check(shown)
        return self.engine.embed(shown)

    def _check(self, shown: list) -> None:
        if len(shown) > 1 or shown[0][512][0].mean() > 170:
            raise RuntimeError("bad allocation")


def test_an_engine_that_fails_for_one_film_of_a_pass_costs_that_alone(reader: Reader, film: np.ndarray) -> None:
    films = [film, (255 * (film / 255) ** 0.4).astype(np.uint8), film[20:]]  # the second is brighter
    shown = [reader.prepare(Film(one, "array", 8)).views[512][0].mean() for one in films]
    assert shown[1] > 170 > max(shown[0], shown[2])
    expected = [said(reader.read(one)) for one in films]
    refuses = Reader(reader.bundle, engine=_RefusesTwo(reader.engine))
    first, failed, last = refuses.read_many(films)
    assert isinstance(first, Findings) and isinstance(last, Findings) and isinstance(failed, ReadingFault)
    assert [said(first), said(last)] == [expected[0], expected[2]]
    assert [type(one) for one in refuses.embed(films)] == [Embedded, ReadingFault, Embedded]


def test_the_seconds_of_a_film_are_those_of_decoding_network_and_findings(
    reader: Reader, film: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a second or more by a clock that they alone move."""
    now = [0.0]
    monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def takes(seconds: float, work: Any) -> Any:
        def timed(*given: Any, **more: Any) -> Any:
            now[0] += seconds
            return work(*given, **more)

        return timed

    monkeypatch.setattr(reader_module, "read_film", takes(1, reader_module.read_film))
    monkeypatch.setattr(reader_module, "cut_frame", takes(10, reader_module.cut_frame))
    monkeypatch.setattr(AveragedNetworks, "__call__", takes(100, AveragedNetworks.__call__))
    monkeypatch.setattr(reader_module, "findings_of", takes(1000, reader_module.findings_of))
    (one,) = reader.read_many([film])
    assert isinstance(one, Findings) and one.seconds == reader.read(film).seconds == 1111
    assert reader.read(np.zeros((300, 300), np.uint8)).seconds == 11


def test_threads_share_a_reader(reader: Reader, film: np.ndarray) -> None:
    films = [film, film[:, ::-1].copy(), film[20:], 255 - film]
    expected = [said(one) for one in map(reader.read, films)]
    begin = threading.Barrier(4)

    def read(first: int) -> list[dict]:
        begin.wait()
        order = films[first:] + films[:first]
        alone = [said(reader.read(one)) for one in order]
        many = [one.labels for one in reader.read_many(order) if isinstance(one, Findings)]
        for labels, one in zip(many, alone, strict=True):
            assert labels == pytest.approx(one["labels"], abs=1e-4)
        return alone[len(films) - first :] + alone[: len(films) - first]

    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(read, range(4)):
            assert got == expected


def test_a_network_that_gives_no_numbers_costs_the_film_and_names_the_bundle(
    reader: Reader, film: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, first = AveragedNetworks.__call__, iter([True])

    def diverged(self: AveragedNetworks, films: Any, **more: Any) -> Any:
        rows, maps = whole(self, films, **more)
        if next(first, False):
            rows[0, 3] = np.nan
        return rows, maps

    monkeypatch.setattr(AveragedNetworks, "__call__", diverged)
    bad, good = reader.read_many([film, film])
    assert type(bad) is FilmError and str(reader.bundle.folder) in bad.what and isinstance(good, Findings)


def test_the_embedded_bundle_is_small_and_says_what_it_is(reader: Reader) -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 20 * 2**20, (
        "weights twice: as safetensors and as ONNX"
    )
    assert "For research only" in reader.bundle.notice and "Trained on" in reader.bundle.notice
