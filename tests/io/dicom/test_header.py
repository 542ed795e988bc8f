"""Elements as pydicom reads them: an independent reader of the same files."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrlines.io.dicom.header import KEYWORDS, MAX_ITEMS, Elements, parse

OWN = Path(pydicom.__file__).parent / "data/test_files"
EXTRA = OWN.parents[2] / "data_store/data"
FILES = sorted(path for folder in (OWN, EXTRA) for path in folder.rglob("*") if path.is_file())


def by_pydicom(data: bytes) -> pydicom.FileDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        assert len(dataset)  # pydicom gives up silently on a file that is cut off
        dataset.update(dataset.file_meta)
        return dataset


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_values_are_pydicoms(path):
    data = path.read_bytes()
    if data[128:132] != b"DICM" and b"\x08\0" not in data[:8]:
        return
    try:
        dataset = by_pydicom(data)
    except Exception:
        return  # then there is nothing to compare with
    if dataset.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99":
        return
    elements = parse(data)
    for keyword in KEYWORDS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value = dataset.get(keyword)
            except Exception:
                continue
        if keyword in ("LUTDescriptor", "LUTData") or (value is None and keyword not in elements):
            continue
        if keyword == "PixelData":
            assert elements.pixels == value
        elif isinstance(value, pydicom.Sequence):
            assert len(elements[keyword].items) == len(value)
            for mine, theirs in zip(elements[keyword].items, value, strict=True):
                if "LUTDescriptor" in theirs:
                    assert [number % 65536 for number in theirs.LUTDescriptor] == mine.words("LUTDescriptor").tolist()
        elif isinstance(value, bytes):
            assert elements[keyword].data == value
        elif value is None or value == "":
            assert not elements[keyword].data
        else:
            values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
            if isinstance(values[0], str):
                assert elements.text(keyword).split("\\") == [str(text).strip() for text in values]
            else:
                signed = dataset.get("PixelRepresentation") == 1
                assert elements.numbers(keyword, signed) == pytest.approx([float(number) for number in values])


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    size = len(value) if length is None else length
    return head + (struct.pack("<HI", 0, size) if vr in ("SQ", "OW", "OB", "UN") else struct.pack("<H", size)) + value


UNDEFINED = 0xFFFFFFFF
ROWS = element(0x00280010, "US", struct.pack("<H", 7))
ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HHI", 0xFFFE, number, 0) for number in (0xE000, 0xE00D, 0xE0DD))


def item(inner: bytes, defined: bool) -> bytes:
    length = len(inner) if defined else UNDEFINED
    return ITEM[:4] + struct.pack("<I", length) + inner + (b"" if defined else ITEM_END)


class TestStructure:
    @pytest.mark.parametrize("defined", [True, False])
    @pytest.mark.parametrize("defined_item", [True, False])
    def test_what_lies_within_a_sequence_is_not_the_films(self, defined, defined_item):
        inner = item(element(0x00280010, "US", struct.pack("<H", 99)), defined_item)
        nested = item(element(0x00081199, "SQ", inner + SEQUENCE_END, UNDEFINED), defined_item)
        for tag in (0x00081140, 0x00091001):  # a private one too
            sequence = element(tag, "SQ", nested if defined else nested + SEQUENCE_END, None if defined else UNDEFINED)
            elements = parse(bytes(128) + b"DICM" + sequence + ROWS)
            assert elements.integer("Rows") == 7 and not elements.cut

    def test_a_sequence_of_unknown_kind_is_implicit_within(self):
        inner = struct.pack("<HHIH", 0x0028, 0x0010, 2, 99)
        sequence = element(0x00081140, "UN", item(inner, False) + SEQUENCE_END, UNDEFINED)
        assert parse(bytes(128) + b"DICM" + sequence + ROWS).integer("Rows") == 7

    @pytest.mark.parametrize("defined", [True, False])
    def test_items_that_are_no_elements_are_passed_over(self, defined):
        """As fragments of an icon's compressed pixels, or of private data."""
        junk = item(b"", True) + item(b"\xff\xd8\xff\xe0 no elements", True) + SEQUENCE_END
        icon = item(element(0x00280010, "US", b"\5\0") + element(0x7FE00010, "OB", junk, UNDEFINED), defined)
        for sequence in (
            element(0x00880200, "SQ", icon + SEQUENCE_END, UNDEFINED),
            element(0x00291010, "OB", junk, UNDEFINED),
            element(0x00291010, "UN", junk, UNDEFINED),
        ):
            elements = parse(bytes(128) + b"DICM" + sequence + ROWS)
            assert elements.integer("Rows") == 7 and not elements.cut and "PixelData" not in elements

    def test_group_lengths_and_private_junk_are_passed_over(self):
        junk = (
            element(0x00280000, "UL", bytes(4))
            + element(0x00290010, "LO", b"Doe ")
            + element(0x00291010, "OB", bytes(50))
        )
        assert parse(bytes(128) + b"DICM" + junk + ROWS).integer("Rows") == 7

    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            (b"1.5\\2", (1.5, 2)),
            (b" 3 ", (3,)),
            (b"", ()),
            (b"Doe\\2", (np.nan, 2)),
            (b"0,143 ", (np.nan,)),
            (b"\\5", (np.nan, 5)),
        ],
    )
    def test_numbers_in_words(self, text, numbers):
        elements = parse(bytes(128) + b"DICM" + element(0x00281050, "DS", text))
        assert elements.numbers("WindowCenter") == pytest.approx(numbers, nan_ok=True)

    def test_nothing_is_read_beyond_the_depth_of_sense(self):
        nested = ROWS
        for _ in range(5000):
            nested = element(0x00081140, "SQ", item(nested, False) + SEQUENCE_END, UNDEFINED)
        assert parse(bytes(128) + b"DICM" + nested).cut

    def test_a_hostile_file_costs_time_and_memory_by_its_size_alone(self):
        """Tables, items and numbers without end: none is copied again and again, nor kept."""

        class Counted(bytes):
            copied = 0

            def __getitem__(self, place):
                part = bytes.__getitem__(self, place)
                Counted.copied += len(part) if isinstance(part, bytes) else 1
                return part

        first = struct.pack("<HHI", 8, 5, 0)
        tables = first + 50_000 * struct.pack("<HHI", 0x0028, 0x3000, 0)
        items = element(0x00283000, "SQ", 50_000 * ITEM) + ROWS
        numbers = first + struct.pack("<HHI", 0x0028, 0x1050, 400_000) + b"1\\" * 200_000
        for content, kept in ((tables, 0), (items, MAX_ITEMS), (numbers, 0)):
            data, Counted.copied = Counted(bytes(128) + b"DICM" + content), 0
            elements = parse(data)
            assert len(elements["ModalityLUTSequence"].items) == kept and not elements.cut
            assert len(elements.numbers("WindowCenter")) <= 0x8000
            assert Counted.copied < 3 * len(data)

    def test_within_a_table_nothing_reaches_beyond_its_end(self):
        inner = ITEM[:4] + struct.pack("<I", 8) + element(0x00283002, "US", b"", 6)
        for tail in (b"", ROWS):
            assert parse(bytes(128) + b"DICM" + element(0x00283000, "SQ", inner) + tail).cut

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=400), st.booleans())
    def test_it_never_raises(self, data, preamble):
        elements = parse((bytes(128) + b"DICM" if preamble else b"") + data)
        for keyword in KEYWORDS:
            elements.numbers(keyword), elements.text(keyword), elements.words(keyword), elements[keyword].items

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_damage_anywhere(self, data):
        file = bytearray((OWN / "mlut_18.dcm").read_bytes() if (OWN / "mlut_18.dcm").is_file() else ROWS * 50)
        for place in data.draw(st.lists(st.integers(0, min(len(file), 3000) - 1), min_size=1, max_size=6)):
            file[place] = data.draw(st.integers(0, 255))
        assert isinstance(parse(bytes(file)), Elements)

    @pytest.mark.parametrize("undefined", [False, True])
    def test_what_follows_the_pixels(self, undefined):
        value = ITEM + ITEM[:4] + struct.pack("<I", 4) + b"1234" + SEQUENCE_END if undefined else b"1234"
        film = bytes(128) + b"DICM" + ROWS + element(0x7FE00010, "OB", value, UNDEFINED if undefined else None)
        padding, signature = element(0xFFFCFFFC, "OB", bytes(6)), element(0xFFFAFFFA, "SQ", SEQUENCE_END, UNDEFINED)
        private = element(0x7FE10010, "LO", b"Doe ") + element(0x7FE11001, "UN", b"\1\2")
        for behind in (b"", padding, signature, signature + padding, private):
            elements = parse(film + behind)
            assert bytes(elements.rest) == b"" and bytes(elements.pixels).startswith(value[:12]) and not elements.cut
        for behind in (b"\n", b"text", padding[:-1], ROWS, element(0x7FE00010, "OB", b"12")):
            elements = parse(film + behind)
            assert bytes(elements.rest) == behind and elements.integer("Rows") == 7 and not elements.cut

    def test_cut_off_anywhere(self):
        data = (OWN / "MR_small.dcm").read_bytes()
        whole = parse(data).pixels
        start = data.index(whole.tobytes())
        for length in range(140, len(data), 37):
            elements = parse(data[:length])
            assert elements.pixels == whole[: max(0, length - start)]
