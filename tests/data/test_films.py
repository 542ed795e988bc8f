"""Films of JPEG, PNG and TIFF, and everything that is none."""

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrlines.data.films import FilmError, is_film, kind_of, read_film

LIMIT = 2.0  # seconds within which anything is a film or an error


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def ramp(height: int = 40, width: int = 64) -> np.ndarray:
    return np.add.outer(np.arange(height) * 2, np.arange(width)).astype(np.uint8)


def says(data: bytes, **options: int) -> str:
    start = time.perf_counter()
    with pytest.raises(FilmError) as caught:
        read_film(data, **options)
    assert time.perf_counter() - start < LIMIT
    return str(caught.value)


def film_or_error(data: bytes) -> None:
    start = time.perf_counter()
    try:
        film = read_film(data)
    except FilmError as error:
        assert 10 < len(str(error)) < 300
    else:
        assert film.pixels.dtype == np.uint8 and film.pixels.ndim == 2 and film.pixels.size
    assert time.perf_counter() - start < LIMIT


class TestGoodFilms:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_lossless_gray_comes_back_as_it_is(self, kind):
        film = read_film(encoded(ramp(), kind))
        assert np.array_equal(film.pixels, ramp())
        assert (film.format, film.bits, film.mm_per_px) == (kind, 8, None)

    def test_jpeg(self):
        assert np.abs(read_film(encoded(ramp(), "JPEG", quality=95)).pixels.astype(int) - ramp()).max() <= 4

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bits_span_their_range(self, kind):
        deep = ramp().astype(np.uint16) * 100 + 20_000
        film = read_film(encoded(deep, kind))
        expected = np.clip((ramp() - np.percentile(ramp(), 0.5)) / np.diff(np.percentile(ramp(), [0.5, 99.5])), 0, 1)
        assert film.bits == 16
        assert np.abs(film.pixels - 255 * expected).max() <= 1

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "LA", "1"])
    def test_colour_becomes_gray(self, mode):
        out = io.BytesIO()
        image = Image.fromarray(ramp()).convert(mode)
        image.save(out, "TIFF" if mode == "CMYK" else "PNG")
        expected = np.asarray(image.convert("L"))
        assert np.array_equal(read_film(out.getvalue()).pixels, expected)

    def test_tiff_with_white_at_zero_is_turned_round(self):
        deep = ramp().astype(np.uint16) * 200
        turned = read_film(encoded(deep, "TIFF", tiffinfo={262: 0})).pixels
        assert np.array_equal(turned, 255 - read_film(encoded(deep, "TIFF")).pixels)
        # Of 8 bits Pillow turns the pixels itself, in writing as in reading.
        data = encoded(ramp(), "TIFF", tiffinfo={262: 0})
        assert (255 - ramp()).tobytes() in data and np.array_equal(read_film(data).pixels, ramp())

    def test_orientation_is_obeyed(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # rotate by a quarter to show
        film = read_film(encoded(ramp(), "PNG", exif=exif.tobytes()))
        assert np.array_equal(film.pixels, np.rot90(ramp(), -1))
        for kind in ("JPEG", "TIFF"):
            plain = read_film(encoded(ramp(), kind)).pixels
            film = read_film(encoded(ramp(), kind, exif=exif.tobytes()))
            assert np.array_equal(film.pixels, np.rot90(plain, -1))
            film.pixels[:] = 0  # an array of its own, to write on

    def test_one_pixel_and_one_gray(self):
        assert read_film(encoded(np.full((1, 1), 7, np.uint8), "PNG")).pixels.tolist() == [[7]]
        assert read_film(encoded(np.full((3, 3), 700, np.uint16), "PNG")).pixels.max() == 0

    def test_content_tells_the_kind_not_the_name(self, tmp_path):
        path = tmp_path / "film.dcm"
        path.write_bytes(encoded(ramp(), "PNG"))
        assert read_film(path).format == "PNG" and is_film(path)

    def test_the_real_films(self, shared):
        for path in sorted((shared / "cxr/images").glob("*.jpg"))[::40]:
            film = read_film(path)
            assert 640 in film.pixels.shape and film.pixels.std() > 10


class TestBadFilms:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
    def test_truncated_anywhere(self, kind):
        data = encoded(np.random.default_rng(0).integers(0, 255, (50, 60), dtype=np.uint8), kind)
        for length in np.linspace(0, len(data) - 40, 60).astype(int):
            message = says(data[:length])
            assert (message.startswith("the film: ") and "; " in message) or "is not a film" in message

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.sampled_from(
            [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"\0" * 128 + b"DICM", b"\x08\0"]
        ),
        st.binary(max_size=300),
    )
    def test_random_bytes(self, head, rest):
        film_or_error(head + rest)

    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(["JPEG", "PNG", "TIFF"]), st.data())
    def test_flipped_bytes(self, kind, data):
        film = bytearray(encoded(ramp(), kind))
        for place in data.draw(st.lists(st.integers(0, len(film) - 1), min_size=1, max_size=8)):
            film[place] = data.draw(st.integers(0, 255))
        film_or_error(bytes(film))

    @pytest.mark.parametrize("side", [8_000, 60_000])  # beyond our limit, and beyond Pillow's own
    def test_a_decompression_bomb_is_not_decoded(self, side):
        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**7)))
        message = says(bomb + chunk(b"IEND", b""))
        assert message.endswith("at least 1 and at most 50,000,000 px; shrink it") and "damaged" not in message

    def test_the_limit_is_in_the_message(self):
        message = says(encoded(ramp(), "PNG"), max_pixels=1000)
        assert message == "the film: is 64 x 40 px; a film has at least 1 and at most 1,000 px; shrink it"

    def test_float_and_many_pages_are_refused(self):
        assert "float pixels, of unknown black and white; save it as" in says(
            encoded(ramp().astype(np.float32), "TIFF")
        )
        pages = [Image.fromarray(ramp())] * 2
        out = io.BytesIO()
        pages[0].save(out, "TIFF", save_all=True, append_images=pages)
        assert "has 3 pages; a film is one" in says(out.getvalue())

    def test_no_file_no_film(self, tmp_path):
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("not a film at all, but long enough to look at")
        for name, said in (
            ("none.png", "cannot be read (No such file"),
            ("", "is a folder; name the film in it"),
            ("empty.png", "is empty (0 bytes)"),
            ("text.png", "is not a film; JPEG, PNG, TIFF and DICOM are read"),
        ):
            with pytest.raises(FilmError) as caught:
                read_film(tmp_path / name)
            assert str(caught.value).startswith(str(tmp_path / name)) and said in str(caught.value)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FilmError, match="is not a regular file"):
            read_film(tmp_path / "pipe")

    def test_kinds_are_told_by_their_first_bytes(self):
        assert kind_of(b"GIF89a" + bytes(200)) is None
        assert kind_of(b"II*\0" + bytes(124) + b"DICM") == "DICOM"  # a preamble may be a TIFF header
