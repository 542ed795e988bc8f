"""What encoded streams say of themselves, and where they end."""

import io
import re
import struct

import numpy as np
import pytest
from PIL import Image

from cxrlines.io.dicom.streams import MAX_SCANS, Kind, StreamError, fragments, parse
from cxrlines.lab.intact_films import by_gdcm, by_openjpeg, by_pillow, coloured, picture

GRAY = picture(np.random.default_rng(0), 40, 56)
DEEP = picture(np.random.default_rng(0), 40, 56, 12)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


STREAMS = {
    "JPEG": by_pillow(GRAY),
    "progressive": by_pillow(coloured(GRAY), progressive=True),
    "lossless": by_gdcm(DEEP, 12, 57),
    "LS": by_gdcm(coloured(GRAY), 8, 80),
    "2000": by_openjpeg(DEEP, 12),
}


@pytest.mark.parametrize(
    ("name", "kind", "components", "bits", "signed"),
    [
        ("JPEG", Kind.JPEG, 1, 8, None),
        ("progressive", Kind.JPEG, 3, 8, None),
        ("lossless", Kind.LOSSLESS, 1, 16, None),
        ("LS", Kind.JPEG_LS, 3, 8, None),
        ("2000", Kind.JPEG_2000, 1, 12, False),
    ],
)
def test_what_a_stream_says(name, kind, components, bits, signed):
    stream = parse(STREAMS[name])
    assert (stream.kind, stream.components, stream.bits, stream.signed) == (kind, components, bits, signed)
    assert (stream.width, stream.height) == (56, 40)


@pytest.mark.parametrize("name", STREAMS)
class TestEnds:
    def test_what_follows_the_end_is_none_of_it(self, name):
        stream = STREAMS[name].rstrip(b"\0")
        for behind in (b"", b"\0", b" ", b"text", b"\xff\xd9", stream, b"\xff\xff\xff"):
            assert parse(stream + behind).end == len(stream)

    def test_one_that_is_cut_off_has_no_end(self, name):
        stream = STREAMS[name].rstrip(b"\0")
        # JPEG 2000 knows the lengths of its parts: without its end marker alone it is whole.
        lacks = 3 if name == "2000" else 1
        for length in {len(stream) - lacks, len(stream) // 2, len(stream) // 4, 20, 3}:
            with pytest.raises(StreamError):
                parse(stream[:length])

    def test_an_end_in_a_comment_is_none(self, name):
        stream = STREAMS[name].rstrip(b"\0")
        comment, place = (0x64, 45) if name == "2000" else (0xFE, 2)  # after SIZ; after SOI
        assert name != "2000" or stream[place : place + 2] == b"\xff\x52"
        longer = stream[:place] + segment(comment, b"\0\1 not \xff\xd9 yet") + stream[place:]
        assert parse(longer).end == len(longer)


class TestColours:
    def test_jfif_and_adobe_say_what_components_are(self):
        plain = by_pillow(coloured(GRAY))  # with JFIF
        assert parse(plain).colour == "YBR"
        bare = plain[:2] + plain[4 + int.from_bytes(plain[4:6]) :]
        assert parse(bare).colour is None
        for transform, colour in ((0, "RGB"), (1, "YBR")):
            adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
            assert parse(bare[:2] + adobe + bare[2:]).colour == colour

    @pytest.mark.parametrize("transform", [True, False])
    def test_jpeg_2000_undoes_its_own_transform(self, transform):
        assert parse(by_openjpeg(coloured(GRAY), 8, transform=transform)).colour == ("RGB" if transform else None)


class TestBadStreams:
    def test_what_would_take_long_is_not_walked_to_its_end(self):
        head, scans = STREAMS["JPEG"].split(b"\xff\xda", 1)
        scan = b"\xff\xda" + scans[:10]
        with pytest.raises(StreamError, match="scans"):
            parse(head + scan * (MAX_SCANS + 1) + b"\xff\xd9")
        with pytest.raises(StreamError, match="parts"):
            parse(head + segment(0xFE, b"") * 100_000 + scan + b"\xff\xd9")
        assert len(fragments(b"\xfe\xff\x00\xe0\0\0\0\0" * 100_000)) < 70_000

    def test_tiles_are_counted_and_lie_on_the_picture(self):
        stream = bytearray(STREAMS["2000"])
        for width, height in ((0, 9), (1, 1)):
            struct.pack_into(">II", stream, 24, width, height)
            with_many = bytes(stream[:8]) + struct.pack(">II", 20_000, 20_000) + bytes(stream[16:])
            with pytest.raises(StreamError, match="tiles"):
                parse(with_many)

    def test_components_are_alike(self):
        stream = bytearray(by_openjpeg(coloured(GRAY), 8))
        stream[42 + 3] = 11  # the second has 12 bits
        with pytest.raises(StreamError, match="different"):
            parse(stream)

    @pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"no stream at all", bytes(100)])
    def test_what_is_none(self, data):
        with pytest.raises(StreamError):
            parse(data)

    def test_a_process_that_is_not_read_is_named(self):
        with pytest.raises(StreamError, match="SOF9"):
            parse(STREAMS["JPEG"].replace(b"\xff\xc0", b"\xff\xc9"))

    def test_restart_markers_are_counted_and_in_order(self):
        out = io.BytesIO()
        Image.fromarray(GRAY).save(out, "JPEG", restart_marker_rows=1)
        stream = out.getvalue()
        first, second, *_ = (mark.start() for mark in re.finditer(rb"\xff[\xd0-\xd7]", stream))
        rows = -(-len(GRAY) // 8)
        assert parse(stream).by_line and parse(stream[:-2] + bytes([0xFF, 0xD0 + (rows - 1) % 8]) + b"\xff\xd9")
        for damaged in (stream[:first] + stream[second:], stream[:second] + stream[first:]):
            with pytest.raises(StreamError, match="not in order"):
                parse(damaged)
        with pytest.raises(StreamError, match=f"1 of {rows - 1} restart markers"):
            parse(stream[:second] + b"\xff\xd9")

    def test_any_byte_may_be_wrong(self):
        rng = np.random.default_rng(0)
        for name in STREAMS:
            for _ in range(300):
                stream = bytearray(STREAMS[name])
                for place in rng.integers(0, len(stream), 3):
                    stream[place] = rng.integers(256)
                try:
                    assert 0 < parse(bytes(stream)).end <= len(stream)
                except StreamError as error:
                    assert str(error)


def test_fragments_without_the_offset_table():
    def item(body: bytes) -> bytes:
        return b"\xfe\xff\x00\xe0" + struct.pack("<I", len(body)) + body

    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    assert fragments(item(b"") + item(b"ab") + item(b"cd") + end) == [b"ab", b"cd"]
    assert fragments(item(b"\0\0\0\0") + item(b"ab")) == [b"ab"]  # no delimiter
    assert fragments(item(b"\1\2\3\4") + item(b"ab") + end) == [b"ab"]  # a table that is wrong
    assert fragments(item(b"ab") + end) == [b"ab"]  # no table
    start = b"\xff\xd8\xff\xe0"
    assert fragments(item(start) + item(b"cd") + end) == [start, b"cd"]  # no table either
    assert fragments(item(b"") + b"\xfe\xff\x00\xe0\xff\xff\xff\x7f" + b"ab") == [b"ab"]  # cut off
    assert fragments(b"") == []
