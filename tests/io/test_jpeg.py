"""JPEG streams that are damaged between their ends are refused, and whole ones of every kind read as Pillow does."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import cxrlines
from cxrlines.core.film import FilmError
from cxrlines.io import jpeg
from cxrlines.io.dicom import streams
from cxrlines.io.films import read_film
from cxrlines.lab.intact_films import JPEG, as_dicom

FILM = Image.open(Path(cxrlines.__file__).parent / "embedded/example.jpg").convert("L")
COLOUR = Image.fromarray(np.dstack([np.asarray(FILM), np.asarray(FILM), 255 - np.asarray(FILM)]))
BLOCK, END = 4096, b"\xff\xd9"
NOISE = np.random.default_rng(0).integers(0, 255, BLOCK, dtype=np.uint8).tobytes()  # without 255, and so no marker
DAMAGE = {
    "zeroed": lambda data, at: data[:at] + bytes(BLOCK) + data[at + BLOCK :],
    "noise": lambda data, at: data[:at] + NOISE + data[at + BLOCK :],
    "removed": lambda data, at: data[:at] + data[at + BLOCK :],
    "cut": lambda data, at: data[:at] + END,
}
KINDS = {
    "gray": (FILM, {"quality": 90}),
    "optimised": (FILM, {"quality": 75, "optimize": True}),
    "colour": (COLOUR, {"quality": 90}),
    "CMYK": (COLOUR.convert("CMYK"), {}),
    "restarts": (FILM, {"restart_marker_rows": 1}),
    "colour with restarts": (COLOUR, {"restart_marker_blocks": 7, "subsampling": 1}),
}


def encoded(image: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(FilmError) as error:
        read_film(data)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
class TestKinds:
    def test_a_whole_one_is_read_as_pillow_does(self, kind):
        image, options = KINDS[kind]
        data = encoded(image, **options)
        assert np.array_equal(read_film(data).pixels, Image.open(io.BytesIO(data)).convert("L"))

    @pytest.mark.parametrize("damage", DAMAGE)
    def test_damage_in_its_midst_is_refused(self, kind, damage):
        image, options = KINDS[kind]
        data = encoded(image, **options)
        for share in (0.2, 0.5, 0.7):
            assert "its compressed pixels are damaged" in refusal(DAMAGE[damage](data, int(share * len(data))))


@pytest.mark.parametrize("damage", DAMAGE)
def test_within_dicom_too(damage):
    data = encoded(FILM, quality=90)
    whole, hurt = (
        as_dicom(np.asarray(FILM), 8, syntax=f"{JPEG}50", frame=frame)
        for frame in (data, DAMAGE[damage](data, len(data) // 2))
    )
    assert np.array_equal(read_film(whole).pixels, read_film(data).pixels)
    assert "its compressed pixels are damaged" in refusal(hurt)


def test_what_an_encoder_leaves_before_the_end_is_no_damage():
    data = encoded(FILM)
    pixels = read_film(data).pixels
    for rest in (b"\0", b"\x5a\x13" * (jpeg.LEFT_OVER // 2), bytes(5000), b"\xff" * 3):
        assert np.array_equal(read_film(data[:-2] + rest + END).pixels, pixels)
    assert "long before their end" in refusal(data[:-2] + NOISE[:200] + END)


def test_progressive_and_small_ones_are_read():
    for size in ((1, 1), (1, 40), (40, 1), (8, 8), (17, 33)):
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
            data = encoded(FILM.resize(size), **options)
            image = jpeg.decoded(data, streams.parse(data))
            assert np.array_equal(image, Image.open(io.BytesIO(data)))


def test_a_host_that_bears_truncated_images_changes_nothing(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(FILM)
    assert "end before the last line" in refusal(DAMAGE["cut"](data, len(data) // 2))


def test_the_real_films_are_whole(shared):
    for path in sorted((shared / "cxr/images").glob("*.jpg"))[::40]:
        data = path.read_bytes()
        assert np.array_equal(jpeg.decoded(data, streams.parse(data)), Image.open(path))
