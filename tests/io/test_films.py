"""Films of JPEG, PNG and TIFF, and everything that is none."""

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrlines.core.film import Film, FilmError
from cxrlines.core.notes import Code
from cxrlines.io.films import is_film, kind_of, read_film
from cxrlines.io.images import tiff_directory


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(FilmError, match="its path is empty; name the film"):
        read_film("")
    with pytest.raises(FilmError, match=r"is empty \(0 bytes\)"):
        read_film(b"")


def test_a_path_may_be_bytes_behind_a_path_like(tmp_path) -> None:
    class Entry:
        def __fspath__(self) -> bytes:
            return os.fsencode(tmp_path / "a.png")

    (tmp_path / "a.png").write_bytes(encoded(ramp(), "PNG"))
    assert np.array_equal(read_film(Entry()).pixels, ramp())
    (tmp_path / "a.png").unlink()
    with pytest.raises(FilmError, match=r"a\.png: cannot be read"):
        read_film(Entry())


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def ramp(height: int = 40, width: int = 64) -> np.ndarray:
    return np.add.outer(np.arange(height) * 2, np.arange(width)).astype(np.uint8)


def says(data: bytes) -> str:
    with pytest.raises(FilmError) as caught:
        read_film(data)
    assert caught.value.what.startswith("the film: ") and caught.value.way_out
    return str(caught.value)


def film_or_error(data: bytes) -> None:
    try:
        film = read_film(data)
    except FilmError as error:
        assert 10 < len(str(error)) < 300
    else:
        assert film.pixels.dtype == np.uint8 and film.pixels.ndim == 2 and film.pixels.size


def codes(film: Film) -> list[Code]:
    return [note.code for note in film.notes]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels: np.ndarray, colour: int, *chunks: bytes) -> bytes:
    """A PNG file of 8 or 16 bits of pixels (h, w, channels), written by hand; `chunks` stand before the pixels."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(f">u{pixels.itemsize}").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(pixels: np.ndarray, order: str = "<", big: bool = False, deflated: bool = False, **tags: int) -> bytes:
    """A TIFF file of 16 bits of pixels (h, w, channels) in strips of three rows, written by hand by its standard."""
    height, width, samples = pixels.shape
    values = {"photometric": 2 if samples > 2 else 1, "predictor": 1, "orientation": 1, "planes": 1} | tags
    rows = pixels.astype(np.uint16)
    if values["predictor"] == 2 and deflated:  # of others it says nothing
        rows = np.diff(rows, axis=1, prepend=np.uint16(0))
    strips = [rows[top : top + 3].astype(f"{order}u2").tobytes() for top in range(0, height, 3)]
    strips = [zlib.compress(strip) if deflated else strip for strip in strips]
    head, word, count, kind = (16, "Q", "Q", 16) if big else (8, "I", "H", 4)
    starts = [head + sum(map(len, strips[:place])) for place in range(len(strips))]
    entries = {
        256: [width], 257: [height], 258: [16] * samples, 259: [8 if deflated else 1], 262: [values["photometric"]],
        273: starts, 274: [values["orientation"]], 277: [samples], 278: [3], 279: list(map(len, strips)),
        284: [values["planes"]], 317: [values["predictor"]],
    }  # fmt: skip
    if samples in (2, 4):
        entries[338] = [2]
    place = starts[-1] + len(strips[-1])
    place += place % 2
    directory, arrays = struct.pack(order + count, len(entries)), b""
    after = place + len(directory) + len(entries) * (20 if big else 12) + (8 if big else 4)
    for tag, numbers in entries.items():
        size = len(numbers)
        value = numbers[0] if size == 1 else after + len(arrays)
        arrays += struct.pack(f"{order}{size}{word}", *numbers) if size > 1 else b""
        directory += struct.pack(f"{order}HH{word}{word}", tag, kind, size, value)
    mark = b"II" if order == "<" else b"MM"
    first = struct.pack(f"{order}HHHQ", 43, 8, 0, place) if big else struct.pack(f"{order}HI", 42, place)
    data = (mark + first + b"".join(strips)).ljust(place, b"\0")
    return data + directory + struct.pack(order + word, 0) + arrays


def _sized(data: bytes, width: int, height: int) -> bytes:
    """A TIFF file of `tiff`, of other sides than it has."""
    for tag, side in ((256, width), (257, height)):
        place = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
        data = data[:place] + struct.pack("<I", side) + data[place + 4 :]
    return data


DEEP = np.add.outer(np.arange(40) * 40, np.arange(64) * 35).astype(np.uint16)
"""A ramp of 12 bits in 16."""


def deep(channels: int, colour: bool = False) -> np.ndarray:
    """DEEP in all channels, in halves of it in green if in colour; what is transparent is not seen."""
    pixels = np.repeat(DEEP[..., None], channels, axis=2)
    if colour:
        pixels[..., 1] //= 2
    if channels in (2, 4):
        pixels[..., -1] = 65535
    return pixels


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

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("big", [False, True])
    def test_deep_tiff_of_digitised_films(self, order, big):
        """White at zero, in either byte order: Pillow knows but one of them."""
        data = tiff(4095 - deep(1), order, big, photometric=0)
        assert np.abs(read_film(data).pixels.astype(int) - read_film(tiff(deep(1))).pixels).max() <= 1

    def test_tiff_of_32_bits_without_a_sign(self):
        values = ramp().astype(np.uint32) * 2**24  # beyond 2**31
        signed = encoded((values // 2).astype(np.int32), "TIFF")
        place = signed.index(struct.pack("<HHI", 339, 3, 1)) + 8
        unsigned = signed[:place] + b"\1" + signed[place + 1 :]
        data = unsigned.replace((values // 2).tobytes(), values.tobytes())
        assert data != unsigned and np.array_equal(read_film(data).pixels, read_film(signed).pixels)

    def test_tiff_of_8_bits_with_a_sign_is_refused(self):
        start = 8 + ramp().size
        tags = {256: (64,), 257: (40,), 258: (8,), 262: (1,), 273: (8,), 277: (1,), 279: (ramp().size,), 339: (2,)}
        head = b"II*\0" + struct.pack("<I", start) + ramp().tobytes()
        assert "signed values of 8 bits" in says(head + tiff_directory(tags, start))
        assert np.array_equal(read_film(head + tiff_directory(tags | {339: (1,)}, start)).pixels, ramp())

    def test_a_tag_that_points_beyond_the_file_is_refused_used_or_not(self):
        tags = {256: (8,), 257: (8,), 258: (16,), 259: (1,), 262: (1,), 273: (8,), 277: (1,), 278: (8,), 279: (128,)}
        pixels = struct.pack("<HI", 42, 136) + np.arange(64, dtype="<u2").tobytes()
        data = bytearray(b"II" + pixels + tiff_directory(tags | {40000: (1, 2, 3)}, 136))
        assert read_film(bytes(data)).pixels.shape == (8, 8)
        place = data.index(struct.pack("<HHI", 40000, 4, 3)) + 8
        data[place : place + 4] = struct.pack("<I", len(data) - 11)
        assert "without an image, or cut off" in says(bytes(data))

    @pytest.mark.parametrize(("channels", "kind"), [(1, 0), (2, 4), (3, 2), (4, 6)])
    def test_deep_png_is_kept_deep(self, channels, kind):
        film = read_film(png(deep(channels), kind))
        assert np.array_equal(film.pixels, read_film(png(deep(1), 0)).pixels)
        assert film.bits == 16 and len(np.unique(film.pixels)) == 256 and not film.notes

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("big", [False, True])
    @pytest.mark.parametrize("tags", [{}, {"deflated": True}, {"deflated": True, "predictor": 2}])
    def test_deep_tiff_is_kept_deep(self, channels, order, big, tags):
        film = read_film(tiff(deep(channels), order, big, **tags))
        assert np.array_equal(film.pixels, read_film(png(deep(1), 0)).pixels) and film.bits == 16 and not film.notes

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_a_predictor_without_a_compression_that_has_one_is_passed_over(self, channels):
        data = tiff(deep(channels), predictor=2)
        by_libtiff = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert channels == 2 or np.array_equal(by_libtiff.reshape(*deep(1).shape[:2], -1)[..., 0], deep(1)[..., 0])
        assert np.array_equal(read_film(data).pixels, read_film(tiff(deep(channels))).pixels)

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_a_palette_has_the_bits_of_its_header(self, bits):
        colours = Image.fromarray(ramp() & (2**bits - 1)).convert("P")
        out = io.BytesIO()
        colours.save(out, "PNG", bits=bits)
        film = read_film(out.getvalue())
        assert film.bits == bits and np.array_equal(film.pixels, ramp() & (2**bits - 1))

    def test_a_tiff_of_32_bits_says_so(self):
        assert read_film(encoded(ramp().astype(np.int32) * 70_000, "TIFF")).bits == 32

    def test_deep_colour_becomes_gray_by_luma(self):
        rgb = deep(3, colour=True)
        expected = read_film(encoded(np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(np.uint16), "PNG"))
        for data in (png(rgb, 2), tiff(rgb), tiff(rgb, ">")):
            film = read_film(data)
            assert np.abs(film.pixels.astype(int) - expected.pixels).max() <= 1
            assert codes(film) == [Code.COLOUR_TO_GRAY]

    @pytest.mark.parametrize("channels", [1, 2])
    def test_deep_tiff_with_white_at_zero_is_turned_round(self, channels):
        turned = read_film(tiff(deep(channels), photometric=0)).pixels
        assert np.array_equal(turned, 255 - read_film(tiff(deep(channels))).pixels)

    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize("channels", [1, 2])
    def test_a_border_is_black_whichever_end_of_the_values_is_white(self, channels, order):
        pixels = deep(channels) + np.uint16(2000)
        pixels[:4, :, 0], pixels[..., 1:] = 65535, 65535
        usual = read_film(tiff(pixels, order))
        pixels[..., 0] = ~pixels[..., 0]
        turned = read_film(tiff(pixels, order, photometric=0))
        assert codes(usual) == codes(turned) == [Code.BORDER_LEFT_OUT] and not turned.pixels[:4].any()
        assert np.abs(turned.pixels.astype(int) - usual.pixels).max() <= 1

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_of_deep_images(self, orientation):
        by_pillow = read_film(tiff(deep(1), orientation=orientation))
        noted = [Code.ORIENTATION_OBEYED] * (orientation != 1)
        assert codes(by_pillow) == noted
        exif = Image.Exif()
        exif[0x0112] = orientation
        for data in (
            tiff(deep(3), orientation=orientation),
            png(deep(3), 2, chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))),
        ):
            film = read_film(data)
            assert np.array_equal(film.pixels, by_pillow.pixels) and codes(film) == noted

    def test_colour_is_noted_and_gray_in_colour_is_not(self):
        gray = np.repeat(ramp()[..., None], 3, axis=2)
        red = gray.copy()
        red[..., 0] = 255 - red[..., 0]
        assert codes(read_film(encoded(gray, "PNG"))) == []
        assert codes(read_film(encoded(red, "PNG"))) == [Code.COLOUR_TO_GRAY]
        lettered = np.repeat(ramp(400, 300)[..., None], 3, axis=2)
        lettered[:10, :40] = (255, 0, 0)
        assert codes(read_film(encoded(lettered, "PNG"))) == []

    @pytest.mark.parametrize("share", [0.006, 0.01, 0.05, 0.25])
    @pytest.mark.parametrize("value", [0, 65535])
    def test_a_saturated_border_of_an_image(self, share, value):
        rows, columns = np.mgrid[:400, :300]
        film = (
            2000 + 900 * np.sin(rows / 60) * np.cos(columns / 45) + np.random.default_rng(0).normal(0, 30, rows.shape)
        )
        pixels = (film + (20_000 if value == 0 else 0)).astype(np.uint16)
        plain = read_film(encoded(pixels, "PNG")).pixels
        border = max(1, round(share * 300))
        pixels[:, :border] = value
        shown = read_film(encoded(pixels, "PNG"))
        assert codes(shown) == [Code.BORDER_LEFT_OUT]
        assert np.abs(shown.pixels[:, border:].astype(int) - plain[:, border:]).max() <= 6

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            (b"iCCP", b"icc\0\0" + zlib.compress(bytes(3_000_000))),
            (b"iTXt", bytes(2**21)),
            (b"iCCP", b"junk"),
            (b"zTXt", b"x"),
        ],
    )
    def test_what_lies_beside_a_pngs_pixels_does_not_matter(self, kind, body):
        large = len(body) > 2**20
        film = read_film(png(ramp()[..., None], 0, chunk(kind, body)))
        assert np.array_equal(film.pixels, ramp()) and codes(film) == [Code.METADATA_IGNORED] * large
        damaged = read_film(png(ramp()[..., None], 0, chunk(kind, body)[:-4] + b"\0\0\0\0"))
        assert np.array_equal(damaged.pixels, ramp()) and codes(damaged) == [Code.METADATA_IGNORED]

    @pytest.mark.parametrize("bits", [1, 8, 16])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_png_whose_checksum_alone_is_wrong_is_read_with_a_note(self, channels, bits):
        if bits == 1:
            whole = encoded(np.arange(40 * 64).reshape(40, 64) % 3 > 0, "PNG")
        else:
            whole = png(deep(channels).astype(f"u{bits // 8}"), 2 if channels == 3 else 0)
        place = whole.index(b"IEND") - 8
        film = read_film(whole[:place] + bytes(4) + whole[place + 4 :])
        assert np.array_equal(film.pixels, read_film(whole).pixels) and codes(film) == [Code.METADATA_IGNORED]
        more = read_film(whole[:place] + b"\1\2\3\4" + whole[place + 4 :] + b"something else")
        assert codes(more) == [Code.METADATA_IGNORED, Code.BYTES_AFTER_END]

    @pytest.mark.parametrize("beneath", [0, 128, 255])
    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "deep PNG", "deep TIFF"])
    def test_a_transparent_border_is_black_whatever_lies_beneath(self, beneath, mode, kind):
        visible = np.zeros(ramp().shape, bool)
        visible[5:-5, 8:-8] = True
        plain = np.where(visible, ramp(), beneath).astype(np.uint8)
        pixels = np.stack([plain] * (len(mode) - 1) + [visible * np.uint8(255)], axis=-1)
        if "deep" in kind:
            wide = pixels.astype(np.uint16) * 257
            data = png(wide, 6 if mode == "RGBA" else 4) if kind == "deep PNG" else tiff(wide)
            inner = read_film(png(wide[5:-5, 8:-8, :1], 0)).pixels
        else:
            data, inner = encoded(pixels, kind), ramp()[5:-5, 8:-8]
        film = read_film(data)
        assert np.array_equal(film.pixels[5:-5, 8:-8], inner) and not film.pixels[~visible].any()
        assert codes(film) == [Code.BORDER_LEFT_OUT]

    @pytest.mark.parametrize("kind", ["gray", "palette", "palette with alpha", "RGB", "deep gray", "deep RGB"])
    def test_a_transparent_colour_of_a_png_is_black(self, kind):
        visible = np.zeros(ramp().shape, bool)
        visible[5:-5, 8:-8] = True
        pixels, inner = np.where(visible, ramp(), 200).astype(np.uint8)[..., None], ramp()[5:-5, 8:-8]
        grays = chunk(b"PLTE", bytes(np.repeat(np.arange(256, dtype=np.uint8), 3)))
        one, three = chunk(b"tRNS", struct.pack(">H", 200)), chunk(b"tRNS", struct.pack(">3H", 200, 200, 200))
        if "deep" in kind:
            pixels = pixels.astype(np.uint16) * 257
            one, three = chunk(b"tRNS", b"\xc8" * 2), chunk(b"tRNS", b"\xc8" * 6)
            inner = read_film(png(pixels[5:-5, 8:-8], 0)).pixels
        opaque, clear = {
            "gray": (png(pixels, 0), png(pixels, 0, one)),
            "palette": (png(pixels, 3, grays), png(pixels, 3, grays, chunk(b"tRNS", b"\xff" * 200 + b"\0"))),
            "palette with alpha": (png(pixels, 3, grays), png(pixels, 3, grays, chunk(b"tRNS", b"\7" * 200 + b"\0"))),
            "RGB": (png(pixels.repeat(3, 2), 2), png(pixels.repeat(3, 2), 2, three)),
        }[kind.removeprefix("deep ")]
        film = read_film(clear)
        assert np.array_equal(film.pixels[5:-5, 8:-8], inner) and not film.pixels[~visible].any()
        assert codes(film) == [Code.BORDER_LEFT_OUT]
        assert read_film(opaque).pixels[0, 0] > 0

    @pytest.mark.parametrize(("bits", "clear"), [(1, 1), (2, 3), (4, 12)])
    def test_a_transparent_gray_of_few_bits_is_black(self, bits, clear):
        row = np.arange(64) % (2**bits)
        packed = np.packbits((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)).tobytes()
        parts = [
            chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 8, bits, 0, 0, 0, 0)),
            chunk(b"tRNS", struct.pack(">H", clear)),
            chunk(b"IDAT", zlib.compress((b"\0" + packed) * 8)),
            chunk(b"IEND", b""),
        ]
        film = read_film(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
        grays = np.where(row == clear, 0, row * (255 // (2**bits - 1)))
        assert np.array_equal(film.pixels, np.tile(grays, (8, 1))) and film.bits == bits

    @pytest.mark.parametrize("alpha", [0, 1, 128, 255])
    def test_transparency_of_the_whole_says_nothing(self, alpha):
        pixels = np.dstack([ramp(), np.full_like(ramp(), alpha)])
        for data in (encoded(pixels, "PNG"), png(pixels, 4)):
            film = read_film(data)
            assert np.array_equal(film.pixels, ramp()) and not film.notes

    def test_bytes_after_the_end_are_noted(self):
        for kind in ("PNG", "JPEG"):
            data = encoded(ramp(), kind)
            film = read_film(data + b"something else")
            assert np.array_equal(film.pixels, read_film(data).pixels) and codes(film) == [Code.BYTES_AFTER_END]
            assert not read_film(data + bytes(9)).notes

    @pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2}, {"optimize": True}])
    def test_jpegs_of_all_kinds_as_opencv_reads_them(self, options):
        data = encoded(np.dstack([ramp(64, 64), ramp(64, 64), ramp(64, 64)]), "JPEG", **options)
        oracle = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert np.abs(read_film(data).pixels.astype(int) - oracle).max() <= 2

    def test_cmyk_of_adobe_is_not_inverted(self):
        out = io.BytesIO()
        Image.fromarray(ramp()).convert("CMYK").save(out, "JPEG", quality=95)
        assert np.abs(read_film(out.getvalue()).pixels.astype(int) - ramp()).max() <= 6

    def test_orientation_is_obeyed(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # rotate by a quarter to show
        film = read_film(encoded(ramp(), "PNG", exif=exif.tobytes()))
        assert np.array_equal(film.pixels, np.rot90(ramp(), -1))
        for kind in ("JPEG", "TIFF"):
            plain = read_film(encoded(ramp(), kind)).pixels
            film = read_film(encoded(ramp(), kind, exif=exif.tobytes()))
            assert np.array_equal(film.pixels, np.rot90(plain, -1)) and codes(film) == [Code.ORIENTATION_OBEYED]
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
    @pytest.mark.parametrize(
        "tags",
        [{258: [10]}, {258: [24]}, {258: [64]}, {259: [34712]}, {259: [34887]}, {262: [9], 277: [3]}, {262: [32803]}],
        ids=["10 bits", "24 bits", "64 bits", "JPEG 2000", "LERC", "CIELab", "colour filter array"],
    )
    def test_a_sound_tiff_of_a_kind_that_is_not_read_is_not_said_to_be_damaged(self, tags):
        size = 64 * 64 * 8
        sound = {256: [64], 257: [64], 258: [8], 259: [1], 262: [1], 273: [8], 277: [1], 278: [64], 279: [size]}
        data = b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + tiff_directory({**sound, **tags}, 8 + size)
        with pytest.raises(FilmError, match=r"is not read.*; save it as") as caught:
            read_film(data)
        assert "is damaged or" not in str(caught.value)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
    def test_truncated_anywhere(self, kind):
        data = encoded(np.random.default_rng(0).integers(0, 255, (50, 60), dtype=np.uint8), kind)
        for length in np.linspace(0, len(data) - 40, 60).astype(int):
            says(data[:length])
            if kind == "TIFF":
                says(tiff(deep(3))[: length + 20])

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

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("kind", ["u1", "u2"])
    def test_a_png_of_damaged_pixels_is_refused_though_all_of_them_are_there(self, channels, kind):
        """Pillow stops once its rows are full, before the check value of the deflate stream."""
        whole = png(deep(channels).astype(kind), 2 if channels == 3 else 0)
        start, end = whole.index(b"IDAT") + 4, whole.index(b"IEND") - 8
        stored = zlib.compress(zlib.decompress(whole[start:end]), 0)  # each byte of them is one of a pixel
        parts = chunk(b"IDAT", stored[:-4]) + chunk(b"IDAT", stored[-4:])
        sound = whole[: start - 8] + parts + whole[end + 4 :]
        assert np.array_equal(read_film(sound).pixels, read_film(whole).pixels)
        for place in (start + 100, start + len(parts) - 13):
            data = bytearray(sound)
            data[place] ^= 1
            assert "damaged" in says(bytes(data))

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_pixels_that_name_colours_beyond_their_palette_are_refused(self, kind):
        pixels = ramp()

        def film(colours: int) -> bytes:
            grays = np.arange(colours, dtype=np.uint8)
            if kind == "PNG":
                return png(pixels[..., None], 3, chunk(b"PLTE", grays.repeat(3).tobytes()))
            start, size = 8 + 6 * colours, pixels.size
            tags = {256: [64], 257: [40], 258: [8], 259: [1], 262: [3], 273: [start], 277: [1], 278: [40], 279: [size]}
            directory = tiff_directory({**tags, 320: [8]}, start + size)
            directory = directory.replace(
                struct.pack("<HHI", 320, 4, 1), struct.pack("<HHI", 320, 3, 3 * colours)
            )  # a tag of 16 bits
            palette = (grays.astype("<u2") * 257).tobytes() * 3
            return b"II*\0" + struct.pack("<I", start + size) + palette + pixels.tobytes() + directory

        assert np.array_equal(read_film(film(256)).pixels, pixels)
        assert np.array_equal(read_film(film(142)).pixels, pixels)
        assert "its pixels name colour 141, its palette has 141" in says(film(141))

    @pytest.mark.parametrize("side", [8_000, 60_000])  # beyond our limit, and beyond Pillow's own
    def test_a_decompression_bomb_is_not_decoded(self, side):
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**7)))
        message = says(bomb + chunk(b"IEND", b""))
        said = f"is {side} x {side} px; a film has at least 1 and at most 50,000,000 px; shrink it"
        assert message == f"the film: {said}"

    @pytest.mark.parametrize("deep", [False, True])
    def test_a_tile_far_larger_than_its_film_is_not_decoded(self, deep):
        side = 16_000
        packer = zlib.compressobj(9)
        packed = b"".join(packer.compress(bytes(side)) for _ in range(side)) + packer.flush()
        tags = {256: [128], 257: [128], 258: [8], 259: [8], 262: [1], 277: [1]}
        tags |= {322: [side], 323: [side], 324: [8], 325: [len(packed)]} | ({258: [16] * 3, 277: [3]} if deep else {})
        data = b"II" + struct.pack("<HI", 42, 8 + len(packed)) + packed + tiff_directory(tags, 8 + len(packed))
        assert "tiles of 16000 x 16000 px" in says(data)

    def test_float_and_many_pages_are_refused(self):
        assert "float pixels, of unknown black and white; save it as" in says(
            encoded(ramp().astype(np.float32), "TIFF")
        )
        pages = [Image.fromarray(ramp())] * 2
        out = io.BytesIO()
        pages[0].save(out, "TIFF", save_all=True, append_images=pages)
        assert "has several pages; a film is one" in says(out.getvalue())

    def test_jpegs_of_other_processes_are_named(self):
        data = bytearray(encoded(ramp(), "JPEG"))
        data[data.index(b"\xff\xc0") + 1] = 0xC9  # arithmetic coding
        assert "SOF9" in says(bytes(data)) and "damaged" not in says(bytes(data))

    @pytest.mark.parametrize(
        ("head", "said"), [(b"\x1f\x8b\x08", "gunzip"), (b"PK\3\4", "unpack"), (b"BM", "PNG"), (b"%PDF-1.7", "PDF")]
    )
    def test_what_films_are_packed_in_is_named(self, head, said):
        assert said in says(head + bytes(300))

    @pytest.mark.parametrize("big", [False, True])
    def test_tags_of_a_tiff_that_share_their_bytes_take_no_memory_each(self, big):
        shared = bytes(200_000)
        for tags in ([*range(40_000, 40_400)], [273] * 400):
            entries = [(256, 1, 60), (257, 1, 50), *((tag, len(shared) // 4, 16) for tag in tags)]
            form, head = ("<HHQQ", b"II+\0\x08\0\0\0") if big else ("<HHII", b"II*\0")
            start = 16 + len(shared)
            data = head + struct.pack("<Q" if big else "<I", start) + bytes(0 if big else 8) + shared
            data += struct.pack("<Q" if big else "<H", len(entries))
            data += b"".join(struct.pack(form, tag, 4, number, value) for tag, number, value in entries) + bytes(8)
            tracemalloc.start()
            film_or_error(data)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 20 * len(data)  # each of the 400 takes ten times the file

    def test_numbers_of_a_tiff_tag_are_bounded(self):
        for tag, most in ((258, 256), (273, 2**18)):
            data = b"II*\0" + struct.pack("<IHHHII", 8, 1, tag, 1, most + 1, 26) + bytes(4 + most + 1)
            assert f"tag {tag} has {most + 1:,} numbers; at most {most:,} are read" in says(data)

    def test_deep_png_cut_off_or_smaller_than_it_says(self):
        data = png(deep(3), 2)
        for place in range(40, len(data) - 12, 97):
            says(data[:place] + data[-12:])
        more = bytearray(data)
        more[16:24] = struct.pack(">II", 4000, 4000)
        more[29:33] = struct.pack(">I", zlib.crc32(more[12:29]))
        tracemalloc.start()
        says(bytes(more))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6

    @pytest.mark.timeout(60)
    @pytest.mark.parametrize("apart", [False, True])
    def test_deep_png_whose_stream_ends_before_its_chunks_do_is_refused(self, apart):
        """What follows the end of a deflate stream is never consumed: to wait for that would be for ever."""
        header = struct.pack(">IIBBBBB", 512, 400, 16, 2, 0, 0, 0)
        stream, rest = zlib.compress(bytes(2**20 + 2**16)), b"x" * 100  # 400 rows are 1.2 MB
        pixels = [chunk(b"IDAT", stream), chunk(b"IDAT", rest)] if apart else [chunk(b"IDAT", stream + rest)]
        with pytest.raises(FilmError):
            read_film(b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), *pixels, chunk(b"IEND", b"")]))

    def test_deep_png_interlaced(self):
        rows, pixels = [], deep(3)
        for x, y, dx, dy in (
            (0, 0, 8, 8),
            (4, 0, 8, 8),
            (0, 4, 4, 8),
            (2, 0, 4, 4),
            (0, 2, 2, 4),
            (1, 0, 2, 2),
            (0, 1, 1, 2),
        ):
            rows += [b"\0" + row.astype(">u2").tobytes() for row in pixels[y::dy, x::dx]]
        header = struct.pack(">IIBBBBB", 64, 40, 16, 2, 0, 0, 1)
        parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"".join(rows))), chunk(b"IEND", b"")
        assert np.array_equal(read_film(png(pixels, 2)[:8] + b"".join(parts)).pixels, read_film(png(pixels, 2)).pixels)

    def test_more_deep_values_than_are_held(self):
        assert "values of 16 bits" in says(_sized(tiff(np.zeros((6, 6, 4))), 6000, 6000))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_tiff_without_all_of_its_strips(self, channels):
        whole = tiff(deep(channels))
        height, width = read_film(whole).pixels.shape
        assert "strips or tiles" in says(_sized(whole, width, height + 3))
        assert "strips or tiles" in says(_sized(encoded(ramp(), "TIFF"), 64, 4000))

    def test_deep_tiffs_that_are_not_read(self):
        for tags in ({"planes": 2}, {"photometric": 5}):
            assert "PNG" in says(tiff(deep(3), **tags))

    def test_a_bigtiff_with_the_highest_byte_first_is_named(self):
        data = tiff(deep(1), ">", big=True)
        tag = struct.pack(">HHQQ", 258, 16, 1, 16)
        assert "BigTIFF file with the highest byte first" in says(data.replace(tag, tag[:-1] + b"\x08"))
        assert read_film(data).bits == 16

    def test_no_file_no_film(self, tmp_path):
        (tmp_path / "empty.png").touch()
        (tmp_path / "text.png").write_text("not a film at all, but long enough to look at")
        (tmp_path / "phone.png").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
        (tmp_path / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
        (tmp_path / "sound.png").write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(200))
        for name, said in (
            ("none.png", "cannot be read (No such file"),
            ("", "is a folder; name the film in it"),
            ("empty.png", "is empty (0 bytes)"),
            ("text.png", "is not a film; JPEG, PNG, TIFF and DICOM are read"),
            ("phone.png", "is a HEIC image; save it as PNG"),
            ("pointer.png", "is a pointer of Git LFS, and not the film itself; fetch it with `git lfs pull`"),
            ("sound.png", "is not a film"),
        ):
            with pytest.raises(FilmError) as caught:
                read_film(tmp_path / name)
            assert str(caught.value).startswith(str(tmp_path / name)) and said in str(caught.value)

    def test_what_the_machine_fails_at_is_not_held_against_the_file(self, tmp_path, monkeypatch):
        def fails(error: Exception):
            return lambda *_, **__: (_ for _ in ()).throw(error)

        path = tmp_path / "film.png"
        path.write_bytes(encoded(ramp(), "PNG"))
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", fails(PermissionError(13, "Permission denied")))
            with pytest.raises(FilmError, match=r"film\.png: cannot be read \(Permission denied\)") as caught:
                read_film(path)
            assert caught.value.passing
        for opens in ("cxrlines.io.images.Image.open", "cxrlines.io.jpeg.Image.open"):
            monkeypatch.setattr(opens, fails(MemoryError()))
        for name, data in (("film.png", path.read_bytes()), ("film.jpg", encoded(ramp(), "JPEG"))):
            with pytest.raises(FilmError, match=rf"{name}: the memory") as caught:
                read_film(data, name=name)
            assert caught.value.passing
        for lasting in (tmp_path, tmp_path / "none.png", b"", b"no film"):
            with pytest.raises(FilmError) as caught:
                read_film(lasting)
            assert not caught.value.passing

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(FilmError, match="is not a regular file"):
            read_film(tmp_path / "pipe")

    def test_kinds_are_known_by_their_first_bytes(self):
        assert kind_of(b"GIF89a" + bytes(200)) is None
        assert kind_of(b"II*\0" + bytes(124) + b"DICM") == "DICOM"  # a preamble may be a TIFF header
        # Without preamble: explicit, implicit, big endian; a binary file that only begins with one of its groups.
        for head in (b"\2\0\0\0UL\4\0", b"\x08\0\5\0CS\x0a\0", b"\x08\0\0\0\4\0\0\0", b"\0\x08\0\5CS\0\x0a"):
            assert kind_of(head + bytes(50)) == "DICOM"
        for head in (b"\2\0\0\0\xff\xff\1\7", b"\x08\0\0\0\1\0\0\0", b"\0\x08\0\0\7\0\0\0"):
            assert kind_of(head + bytes(50)) is None
