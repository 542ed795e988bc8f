"""JPEG streams that are damaged between their ends are refused, and whole ones of every kind read as Pillow does."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

import cxrlines
from cxrlines.core.film import FilmError
from cxrlines.io import jpeg
from cxrlines.io.dicom import streams
from cxrlines.io.films import read_film
from cxrlines.io.images import tiff_directory
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


class TestTiff:
    """JPEG strips and tiles, with and without tables of their own (tag 347)."""

    @staticmethod
    def strips(image: Image.Image) -> bytes:
        out = io.BytesIO()
        image.save(out, "TIFF", compression="jpeg", quality=90)
        return out.getvalue()

    @staticmethod
    def tiles(tile: bytes) -> bytes:
        """A film of 4 x 4 tiles, which are one in the file."""
        tags = {256: [256], 257: [256], 258: [8], 259: [7], 262: [1], 277: [1], 322: [64], 323: [64]}
        tags |= {324: [8] * 16, 325: [len(tile)] * 16}
        start = 8 + len(tile)
        return b"II*\0" + struct.pack("<I", start) + tile + tiff_directory(tags, start)

    @pytest.mark.parametrize("image", [FILM, COLOUR], ids=["gray", "colour"])
    def test_whole_strips_are_read_as_pillow_does(self, image):
        data = self.strips(image)
        assert np.array_equal(read_film(data).pixels, Image.open(io.BytesIO(data)).convert("L"))

    @pytest.mark.parametrize("image", [FILM, COLOUR], ids=["gray", "colour"])
    @pytest.mark.parametrize("damage", DAMAGE)
    def test_damage_in_the_midst_of_a_strip_is_refused(self, image, damage):
        data = self.strips(image)
        tags = Image.open(io.BytesIO(data)).tag_v2
        strip = max(range(len(tags[273])), key=tags[279].__getitem__)
        start, end = tags[273][strip], tags[273][strip] + tags[279][strip]
        hurt = DAMAGE[damage](data[start:end], (end - start) // 3)[: end - start]
        assert "its compressed pixels are" in refusal(data[:start] + hurt.ljust(end - start, b"\0") + data[end:])

    def test_tiles(self):
        tile = FILM.crop((100, 100, 164, 164))
        data = self.tiles(encoded(tile))
        assert np.array_equal(
            read_film(data).pixels, np.tile(np.asarray(Image.open(io.BytesIO(encoded(tile)))), (4, 4))
        )
        hurt = encoded(tile)
        assert "damaged" in refusal(self.tiles(hurt[:-20] + hurt[-2:]))
        assert "72 x 64 px in a strip or tile of 64 x 64" in refusal(self.tiles(encoded(FILM.crop((0, 0, 72, 64)))))

    def test_the_number_of_tiles_is_bounded(self, monkeypatch):
        monkeypatch.setattr(jpeg, "MAX_PARTS", 15)
        assert "lie in 16 strips or tiles; at most 15" in refusal(self.tiles(encoded(FILM.crop((0, 0, 64, 64)))))


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
