"""Films of folders as archives and operating systems leave them: found, or named as what they are."""

import os
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxrlines.core.film import FilmError
from cxrlines.io.films import read_film
from cxrlines.io.marks import patients_of
from cxrlines.reading.sources import find_films, patient_of

DICOM = b"\0" * 128 + b"DICM"
NAMES = ("ü 肺.dcm", "new\nline.png", "a;b,c.png", "-dash.dcm", "IM0001", "1.2.840.1", "FILM.DCM", "~.png", "x.y..png")


def reasons(paths: list[Path]) -> dict[str, str]:
    return {Path(path).name: why for path, why in find_films(paths).errors}


def test_names_of_all_kinds_are_found(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_bytes(DICOM)
    found = find_films([tmp_path])
    assert {path.name for path, _ in found.films} == set(NAMES) and not found.errors and not found.skipped
    assert len(set(found.names().values())) == len(NAMES)
    assert not any("\n" in name for name in found.names().values())


def test_pictures_of_formats_that_are_not_read_are_counted_by_format(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(DICOM)
    image = np.zeros((8, 8), np.uint8)
    for name in ("a.bmp", "b.bmp", "c.webp", "d.jp2"):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(500))
    (tmp_path / "sound.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(20))
    found = find_films([tmp_path])
    assert len(found.films) == 1 and not found.errors
    assert found.skipped == {
        "BMP image, which is not read": 2,
        "WebP image, which is not read": 1,
        "JPEG 2000 image, which is not read": 1,
        "HEIC image, which is not read": 1,
        "no film": 1,
    }


def test_what_operating_systems_leave_in_folders_is_no_film(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(DICOM)
    for name, data in {
        "._film.dcm": b"\0\5\x16\7",
        ".DS_Store": b"\0\0\0\1Bud1",
        "Thumbs.db": bytes.fromhex("d0cf11e0a1b11ae1"),
        "data.bin": b"\x08\0\0\0\1\0\0\0" * 20,
        "zero.txt": b"",
    }.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX/._film.dcm").write_bytes(b"\0\5\x16\7")
    (tmp_path / "folder.dcm").mkdir()
    (tmp_path / "folder.dcm/inner.dcm").write_bytes(DICOM)
    found = find_films([tmp_path])
    assert [path.name for path, _ in found.films] == ["film.dcm", "inner.dcm"]
    assert found.skipped == {"no film": 3} and not found.errors


def test_a_film_is_found_once_however_the_way_to_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/film.dcm").write_bytes(DICOM)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "a")
    ways = [tmp_path / way for way in ("a/film.dcm", "a/b/../film.dcm", "elsewhere/film.dcm", "a", "elsewhere")]
    for sources in (ways, ways[::-1]):
        assert len(find_films(sources).films) == 1


def test_links_without_their_film_are_errors_and_lose_no_other(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(DICOM)
    (tmp_path / "copy.dcm").symlink_to("film.dcm")
    (tmp_path / "annexed.dcm").symlink_to("../.git/annex/objects/film.dcm")
    (tmp_path / "itself.png").symlink_to("itself.png")
    (tmp_path / "notes").symlink_to("nowhere")
    (tmp_path / "round").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.dcm")
    found = find_films([tmp_path])
    assert [path.name for path, _ in found.films] == ["copy.dcm", "film.dcm"]
    assert sorted(Path(path).name for path, _ in found.errors) == ["annexed.dcm", "itself.png", "pipe.dcm"]
    assert found.skipped == {"link to nothing": 1, "link to a folder": 1}


def test_what_is_named_and_cannot_be_had_says_why_and_loses_no_other(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(DICOM)
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    paths = [tmp_path / name for name in ("x" * 300, "broken", "pipe", "none", "film.dcm/inner", "film.dcm")]
    paths.append(Path("nul\0"))
    found = find_films(paths)
    assert [path.name for path, _ in found.films] == ["film.dcm"]
    told = reasons(paths)
    assert os.strerror(36) in told["x" * 300] and "link to nothing" in told["broken"] and "regular" in told["pipe"]
    assert told["none"] == told["inner"] == told["nul\0"] == "there is no such file or folder"


@pytest.mark.parametrize("name", ["film.dcm", "IM0001"])
def test_what_may_not_be_read_is_an_error(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who is not root."""
    (tmp_path / name).write_bytes(DICOM)
    (tmp_path / "other.dcm").write_bytes(DICOM)
    opened, looked = Path.open, Path.stat

    def refused(path: Path, *more: object, **others: object) -> object:
        if path.name == name:
            raise PermissionError(13, os.strerror(13), str(path))
        return opened(path, *more, **others)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        patch.setattr(os, "access", lambda path, mode: Path(path).name != name)
        found = find_films([tmp_path])
        paths = [path for path, _ in found.films] + [Path(path) for path, _ in found.errors]
        assert {path.name for path in paths} == {name, "other.dcm"}
        if found.errors:
            assert os.strerror(13) in found.errors[0][1]

    def closed(path: Path, **more: bool) -> os.stat_result:
        if path.name == name:
            raise PermissionError(13, os.strerror(13), str(path))
        return looked(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", closed)
        assert os.strerror(13) in reasons([tmp_path / name, tmp_path / "other.dcm"])[name]
        assert [path.name for path, _ in find_films([tmp_path / name, tmp_path / "other.dcm"]).films] == ["other.dcm"]
    assert stat.S_ISREG((tmp_path / name).stat().st_mode)


def test_a_name_in_an_error_controls_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[31m\n.png").write_bytes(b"")
    with pytest.raises(FilmError) as caught:
        read_film(tmp_path / "\x1b[31m\n.png")
    assert str(caught.value).isprintable() and "0 bytes" in str(caught.value)


def test_a_film_is_of_the_patient_of_its_own_row_of_an_index(tmp_path: Path) -> None:
    for name in ("p1/IM1.jpg", "p2/IM1.jpg", "p3/c.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    index = tmp_path / "index.csv"
    for rows, patients in (("p1/IM1.jpg,A", ["A", "", ""]), ("p2/IM1.jpg,B\np1/IM1.jpg,A\nc,C", ["A", "B", "C"])):
        index.write_text(f"file,patient_id\n{rows}\n")
        indexed = patients_of(tmp_path)
        assert [patient_of(path, indexed) for path, _ in find_films([tmp_path]).films] == patients
