"""DICOM: the chain from stored values to gray, beside dcmtk's and pydicom's; headers, odd ones and bad files."""

import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_windowing
from pydicom.sr.codedict import codes as codes_of
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from cxrlines.core.film import Film, FilmError, NotAFilm
from cxrlines.core.notes import Code
from cxrlines.core.spacing import SpacingKind
from cxrlines.io.dicom.display import MOST_WINDOWS
from cxrlines.io.films import read_film
from cxrlines.io.prepare import by_rule

# Listed here rather than by `get_testdata_files`, which downloads what is missing.
OWN = Path(pydicom.__file__).parent / "data/test_files"
EXTRA = OWN.parents[2] / "data_store/data"
SECRET = "Doe^Secret"


def made(pixels: np.ndarray, **tags: object) -> FileDataset:
    """A DICOM film of these stored values; `tags` are laid over what is needed."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset("film.dcm", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    dataset.PatientName = dataset.PatientID = SECRET
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def file(dataset: FileDataset, **options: bool) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(out, **options)
    return out.getvalue()


def gray(dataset: FileDataset) -> np.ndarray:
    return read_film(file(dataset)).pixels


def film_of(dataset: FileDataset) -> Film:
    return read_film(file(dataset))


def codes(film: Film) -> list[Code]:
    return [note.code for note in film.notes]


def lut(table: np.ndarray, bits: int, first: int = 0, **tags: object) -> pydicom.Dataset:
    """An item of a LUT sequence; `tags` are laid over it."""
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = (
        [len(table) % 65536, first % 65536, bits],
        table.tobytes() + b"\0" * (table.nbytes % 2),
    )
    item["LUTData"].VR, item["LUTDescriptor"].VR = "OW", "US"
    for name, value in tags.items():
        if value is None:
            delattr(item, name)
        else:
            setattr(item, name, value)
    return item


def says(data: bytes) -> str:
    with pytest.raises(FilmError) as caught:
        read_film(data)
    assert "Secret" not in str(caught.value)
    return str(caught.value)


RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)


class TestChain:
    def test_8_bits_are_shown_as_they_are(self):
        values = np.arange(256, dtype=np.uint8).reshape(16, 16)
        assert np.array_equal(gray(made(values)), values)

    def test_monochrome1_is_turned_round(self):
        for tags in ({}, {"WindowCenter": 2000, "WindowWidth": 3000}):
            plain, turned = gray(made(RAMP, **tags)), gray(made(RAMP, **tags, PhotometricInterpretation="MONOCHROME1"))
            assert np.array_equal(turned, 255 - plain)

    @pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
    @pytest.mark.parametrize(("centre", "width"), [(2048, 4096), (1000, 500), (-200, 1)])
    def test_windows_are_pydicoms(self, function, centre, width):
        signed = (RAMP.astype(np.int16) - 2048).copy()
        dataset = made(
            signed, BitsStored=12, HighBit=11, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function
        )
        oracle = apply_windowing(signed, dataset)  # spans the stored range, -2048 to 2047
        assert np.abs(gray(dataset) - (oracle + 2048) / 4095 * 255).max() <= 0.51

    def test_rescale_comes_before_the_window(self):
        tags = {"BitsStored": 12, "HighBit": 11, "VOILUTFunction": "LINEAR_EXACT"}
        plain = gray(made(RAMP, **tags, WindowCenter=1000, WindowWidth=800))
        moved = made(
            RAMP, **tags, WindowCenter=1000 * 2.0 - 100, WindowWidth=1600, RescaleSlope=2, RescaleIntercept=-100
        )
        assert np.array_equal(gray(moved), plain)

    @pytest.mark.parametrize("pixels", [np.arange(40, 140, dtype=np.uint8).reshape(10, 10), RAMP])
    @pytest.mark.parametrize(
        "tags",
        [
            {"RescaleSlope": 1, "RescaleIntercept": 0},
            {"RescaleSlope": None, "RescaleIntercept": None},
            {"RescaleSlope": "", "RescaleIntercept": 0},
            {"RescaleSlope": 0, "RescaleIntercept": 0},
            {"WindowCenter": 0, "WindowWidth": 0},
            {"WindowCenter": None, "WindowWidth": None},
            {"WindowCenter": 30_000, "WindowWidth": 10},  # all black
            {"WindowCenter": -30_000, "WindowWidth": 10},  # all white
        ],
    )
    def test_tags_that_say_nothing_change_nothing(self, pixels, tags):
        assert np.array_equal(gray(made(pixels, **tags)), gray(made(pixels)))

    def test_a_film_of_one_value_is_shown_by_its_window(self):
        assert gray(made(np.full((4, 4), 900, np.uint16), WindowCenter=0, WindowWidth=10)).min() == 255

    def test_a_negative_slope_turns_round(self):
        tags = {"WindowCenter": -2000, "WindowWidth": 4000, "RescaleSlope": -1, "RescaleIntercept": 0}
        assert np.all(np.diff(gray(made(RAMP, **tags)).ravel().astype(int)) <= 0)

    def test_of_several_windows_the_first_counts(self):
        one = gray(made(RAMP, WindowCenter=900, WindowWidth=700))
        assert np.array_equal(gray(made(RAMP, WindowCenter=[900, 50], WindowWidth=[700, 2])), one)

    def test_without_a_window_percentiles_span_black_to_white(self):
        values = RAMP.copy()
        values[0, :3] = 60_000  # dead pixels do not set the scale
        shown = gray(made(values))
        assert np.percentile(shown, [1, 50, 99]) == pytest.approx([1, 127, 254], abs=4)

    def test_padding_does_not_count(self):
        values = RAMP + 5000
        values[:, :40] = 0
        without = gray(made(values, PixelPaddingValue=0))[:, 40:]
        assert without.min() < 10 and without.max() > 245

    def test_rgb_becomes_gray_by_luma(self):
        pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        dataset = made(pixels[..., 0], SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
        dataset.PixelData = pixels.tobytes()
        assert np.abs(gray(dataset) - pixels @ np.array([0.299, 0.587, 0.114])).max() <= 0.51

    @pytest.mark.parametrize(
        ("written", "view"),
        [
            ("LL", "LL"), ("AP", "AP"), (" pa ", "PA"), ("Lateral", "LATERAL"), ("", None), (SECRET, None),
            (["LL", "PA"], None), ("LAT", "LATERAL"), ("L LAT", "LATERAL"), ("LLAT", "LATERAL"), ("RLAT", "LATERAL"),
            ("XTABLE LATERAL", "LATERAL"), ("LATERO-LATERAL", "LATERAL"), ("l-lat", "LATERAL"), ("AP SUPINE", None),
            ("LAO", None), ("LEFT LATERAL DECUBITUS", None), ("PA/LAT", None), ("LATIF^JANE", None), ("PLATE", None),
        ],
    )  # fmt: skip
    def test_the_view_is_passed_on_if_it_is_one_of_those_known(self, written, view):
        assert read_film(file(made(RAMP, ViewPosition=written))).view == view
        colour = made(
            np.zeros((8, 8), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
        )
        colour.PixelData, colour.ViewPosition = bytes(8 * 8 * 3), written
        assert read_film(file(colour)).view == view

    @pytest.mark.parametrize("undefined", [False, True])
    @pytest.mark.parametrize(
        ("scheme", "code", "position", "view"),
        [
            ("SCT", codes_of.SCT.LateralProjection.value, "", "LATERAL"),
            ("SCT", codes_of.SCT.LeftLateral.value, "", "LL"),
            ("SCT", codes_of.SCT.RightLateral.value, SECRET, "RL"),
            ("SRT", "R-102CD", "", "LATERAL"),
            ("SRT", "R-10236", "", "LL"),
            ("SNM3", "R-10232", "", "RL"),
            ("SCT", codes_of.SCT.LateralProjection.value, "PA", "PA"),
            ("SCT", codes_of.SCT.AnteroPosterior.value, "", None),
            ("SRT", "R-10206", "", None),  # antero-posterior
            ("99DOE", codes_of.SCT.LateralProjection.value, "", None),
        ],
    )
    def test_a_side_view_may_be_named_by_its_code_alone(self, scheme, code, position, view, undefined):
        item = pydicom.Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, SECRET
        dataset = made(RAMP, ViewPosition=position, ViewCodeSequence=[item])
        dataset["ViewCodeSequence"].is_undefined_length = undefined
        assert film_of(dataset).view == read_film(file(dataset)).view == view
        assert by_rule(read_film(file(dataset)), RAMP).usable == (view in (None, "PA"))

    @pytest.mark.parametrize(
        ("orientation", "position", "view"),
        [
            (["A", "F"], "", "LATERAL"), (["P", "F"], "", "LATERAL"), (["AL", "FP"], SECRET, "LATERAL"),
            (["F", "A"], "", "LATERAL"), (["H", "P"], "", "LATERAL"), (["L", "F"], "", None), (["L", "P"], "", None),
            ("PA", "", None), (["A", "F"], "PA", "PA"), ("", "", None),
        ],
    )  # fmt: skip
    def test_a_side_view_may_be_named_by_its_orientation_alone(self, orientation, position, view):
        film = film_of(made(RAMP, ViewPosition=position, PatientOrientation=orientation))
        assert film.view == view and SECRET not in repr(film.notes)
        assert by_rule(film, RAMP).usable == (view in (None, "PA"))

    def test_a_damaged_view_code_costs_no_film(self):
        data = file(made(RAMP, ViewCodeSequence=[pydicom.Dataset()]))
        item = bytes.fromhex("54002002") + b"SQ" + bytes(2) + struct.pack("<I", 8) + bytes.fromhex("feff00e000000000")
        assert item in data
        assert read_film(data.replace(item, item[:-8] + b"\7" * 8)).view is None

    def test_a_film_without_a_view_has_none(self):
        assert read_film(file(made(RAMP))).view is None

    def test_without_preamble_and_header(self):
        dataset = made(RAMP, WindowCenter=2000, WindowWidth=4000)
        whole = file(dataset)
        bare = io.BytesIO()
        pydicom.filewriter.write_dataset(
            fp := pydicom.filebase.DicomBytesIO(), _without_meta(dataset), parent_encoding="iso8859"
        )
        bare.write(fp.getvalue())
        assert np.array_equal(read_film(bare.getvalue()).pixels, read_film(whole).pixels)


def _without_meta(dataset: FileDataset) -> pydicom.Dataset:
    plain = pydicom.Dataset()
    plain.update({element.tag: element for element in dataset})
    plain._read_implicit, plain._read_little = True, True
    return plain


class Dcmtk:
    """What dcmtk's dcm2pnm shows: an independent implementation of the chain."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("dcm2pnm") is None:
            assert "CI" not in os.environ, "dcm2pnm (dcmtk) is to be installed where CI runs"
            pytest.skip("dcm2pnm (dcmtk) is not installed")
        self.folder = folder

    def __call__(self, dataset: FileDataset, *options: str) -> np.ndarray:
        return self.shows(file(dataset), *options)

    def shows(self, data: bytes, *options: str) -> np.ndarray:
        (self.folder / "film.dcm").write_bytes(data)
        out = self.folder / "film.pgm"
        subprocess.run(
            ["dcm2pnm", "-O", "+op", *options, str(self.folder / "film.dcm"), str(out)], check=True, capture_output=True
        )
        kind, size, white, pixels = out.read_bytes().split(b"\n", 3)
        assert (kind, white) == (b"P5", b"255")
        columns, rows = map(int, size.split())
        return np.frombuffer(pixels[: rows * columns], np.uint8).reshape(rows, columns)


@pytest.fixture
def dcmtk(tmp_path: Path) -> Dcmtk:
    return Dcmtk(tmp_path)


CURVE = np.sqrt(np.arange(4096) / 4095)
TWELVE = {"BitsStored": 12, "HighBit": 11}
WINDOW = {"WindowCenter": 1500, "WindowWidth": 2200}


SMALL_WINDOW = {"WindowCenter": 120, "WindowWidth": 200}


class TestBesideDcmtk:
    """Gray for gray, to the one level that rounding makes."""

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize(
        ("tags", "option"),
        [
            (WINDOW, "+Wi 1"),
            ({"WindowCenter": [1500, 500], "WindowWidth": [2200, 300]}, "+Wi 1"),
            (WINDOW | {"VOILUTFunction": "SIGMOID"}, "+Wi 1"),
            (WINDOW | {"RescaleSlope": 2, "RescaleIntercept": -1024}, "+Wi 1"),
            (WINDOW | {"PresentationLUTShape": "INVERSE"}, "+Wi 1"),
            (WINDOW | {"PresentationLUTShape": "IDENTITY"}, "+Wi 1"),
            ({"VOILUTSequence": [lut((CURVE * 1023).astype(np.uint16), 10)]}, "+Wl 1"),
            ({"VOILUTSequence": [lut((CURVE * 1023).astype(np.uint16), 10)]} | WINDOW, "+Wl 1"),
            ({"VOILUTSequence": [lut((CURVE * 65535).astype(np.uint16), 16)]}, "+Wl 1"),
            ({"VOILUTSequence": [lut((CURVE * 4095).astype(np.uint16), 16)]}, "+Wl 1 +Mv"),
            ({"VOILUTSequence": [lut((CURVE[:3000] * 4095).astype(np.uint16), 16, 600)]}, "+Wl 1 +Mv"),
            ({"VOILUTSequence": [lut((CURVE * 4095)[::-1].astype(np.uint16), 16)]}, "+Wl 1 +Mv"),
            ({"VOILUTSequence": [lut((CURVE * 255).astype(np.uint8), 8)]}, "+Wl 1"),  # two entries a word
            ({"VOILUTSequence": [lut((CURVE * 255).astype(np.uint16), 8)]}, "+Wl 1 +Mv"),  # one entry a word
            ({"VOILUTSequence": [lut((CURVE * 511).astype(np.uint16), 9)]}, "+Wl 1"),
            ({"ModalityLUTSequence": [lut((CURVE * 4095).astype(np.uint16), 12)]} | WINDOW, "+Wi 1"),
            ({"ModalityLUTSequence": [lut((CURVE * 4095).astype(np.uint16), 16)]} | WINDOW, "+Wi 1"),
            ({"ModalityLUTSequence": [lut((CURVE * 255).astype(np.uint8), 8)]} | SMALL_WINDOW, "+Wi 1"),
        ],
    )  # fmt: skip
    def test_unsigned(self, dcmtk, photometric, tags, option):
        for item in tags.get("ModalityLUTSequence", ()):
            item.ModalityLUTType = "US"
        dataset = made(RAMP, **TWELVE, **tags, PhotometricInterpretation=photometric)
        assert np.abs(gray(dataset).astype(int) - dcmtk(dataset, *option.split())).max() <= 1

    @pytest.mark.parametrize(
        ("tags", "option"),
        [
            ({"WindowCenter": -200, "WindowWidth": 2200}, "+Wi 1"),
            ({"WindowCenter": -200, "WindowWidth": 2200, "RescaleSlope": -1, "RescaleIntercept": 10}, "+Wi 1"),
            ({"VOILUTSequence": [lut((CURVE * 4095).astype(np.uint16), 12, -2048)]}, "+Wl 1"),
            ({"VOILUTSequence": [lut((CURVE[:1000] * 4095).astype(np.uint16), 12, -500)]}, "+Wl 1 +Mv"),
            ({"ModalityLUTSequence": [lut((CURVE * 4095).astype(np.uint16), 12, -2048)]} | WINDOW, "+Wi 1"),
        ],
    )
    def test_signed(self, dcmtk, tags, option):
        for items in ("ModalityLUTSequence", "VOILUTSequence"):
            for item in tags.get(items, ()):
                item["LUTDescriptor"].VR = "SS"
                item.LUTDescriptor = [value - 65536 if value > 32767 else value for value in item.LUTDescriptor]
                item.ModalityLUTType = "US"
        dataset = made((RAMP.astype(np.int16) - 2048).copy(), **TWELVE, **tags)
        assert np.abs(gray(dataset).astype(int) - dcmtk(dataset, *option.split())).max() <= 1

    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize(("bits", "high"), [(12, 15), (12, 13), (10, 15), (16, 15), (8, 11)])
    def test_values_anywhere_in_their_words(self, dcmtk, bits, high, signed):
        values = np.random.default_rng(0).integers(0, 2**bits, (40, 50)).astype(np.uint16)
        words = values << np.uint16(high - bits + 1)
        centre = 2 ** (bits - 1) if not signed else 0
        tags = {"WindowCenter": centre, "WindowWidth": 2**bits * 3 // 4, "PixelRepresentation": int(signed)}
        dataset = made(words, BitsStored=bits, HighBit=high, **tags)
        assert np.abs(gray(dataset).astype(int) - dcmtk(dataset, "+Wi", "1")).max() <= 1

    @pytest.mark.parametrize(("bits", "high", "bit"), [(12, 11, 12), (12, 11, 15), (12, 15, 0), (10, 12, 14)])
    def test_overlays_within_the_words_are_masked(self, dcmtk, bits, high, bit):
        rng = np.random.default_rng(0)
        values = rng.integers(0, 2**bits, (40, 50)).astype(np.uint16) << np.uint16(high - bits + 1)
        overlay = (rng.random((40, 50)) < 0.1).astype(np.uint16) << np.uint16(bit)
        dataset = made(values | overlay, BitsStored=bits, HighBit=high, WindowCenter=2**bits / 2, WindowWidth=2**bits)
        dataset.add_new(0x60000010, "US", 40)
        dataset.add_new(0x60000011, "US", 50)
        dataset.add_new(0x60000040, "CS", "G")
        dataset.add_new(0x60000050, "SS", [1, 1])
        dataset.add_new(0x60000100, "US", 16)
        dataset.add_new(0x60000102, "US", bit)
        film = film_of(dataset)
        assert np.abs(film.pixels.astype(int) - dcmtk(dataset, "+Wi", "1")).max() <= 1
        assert codes(film) == [Code.OVERLAY_MASKED]


REAL = {
    "MR_small": "+Wi 1", "MR_small_bigendian": "+Wi 1", "MR_small_implicit": "+Wi 1", "examples_overlay": "+Wi 1",
    "693_UNCI": "+Wi 1", "MR-SIEMENS-DICOM-WithOverlays": "+Wi 1", "MR2_UNCR": "+Wi 1", "RG1_UNCI": "+Wi 1",
    "RG3_UNCR": "+Wi 1", "vlut_04": "+Wl 1 +Mv", "mlut_18": "",
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_files_beside_dcmtk(dcmtk, name):
    path = next((folder / f"{name}.dcm" for folder in (OWN, EXTRA) if (folder / f"{name}.dcm").is_file()), None)
    if path is None:
        pytest.skip("the package pydicom-data is not installed")
    shown = dcmtk.shows(path.read_bytes(), *REAL[name].split())
    assert np.abs(read_film(path).pixels.astype(int) - shown).max() <= 1


def smooth(depth: int, low: int = 0, shape: tuple[int, int] = (300, 240)) -> np.ndarray:
    """Values (h, w) uint16 of a film that runs on smoothly from `low` over `depth` of them, some noise on it."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    field = 0.5 + 0.3 * np.sin(rows / 40) * np.cos(columns / 30) + 0.15 * np.sin(rows / 7 + columns / 11)
    field += np.random.default_rng(0).normal(0, 0.01, shape)
    return (low + np.clip(field, 0, 1) * (depth - 1)).astype(np.uint16)


class TestHowItIsShown:
    """What is odd: shown by what serves, and with a note."""

    def test_a_voi_lut_comes_before_a_window(self):
        table = (CURVE * 1023).astype(np.uint16)
        film = film_of(made(RAMP, **TWELVE, VOILUTSequence=[lut(table, 10)], WindowCenter=5, WindowWidth=5))
        assert np.abs(film.pixels.ravel() - table / 1023 * 255).max() <= 0.51 and not film.notes

    @pytest.mark.parametrize(
        ("bits", "top", "white"), [(16, 4095, 4095), (16, 4000, 4095), (16, 4096, 4096), (12, 700, 1023)]
    )
    def test_a_lut_narrower_than_it_says_is_scaled_by_what_it_reaches(self, bits, top, white):
        table = np.rint(CURVE * top).astype(np.uint16)
        film = film_of(made(RAMP, **TWELVE, VOILUTSequence=[lut(table, bits)]))
        assert np.abs(film.pixels.ravel() - table / white * 255).max() <= 0.51
        assert codes(film) == [Code.LUT_RESCALED]

    @pytest.mark.parametrize("little", [True, False])
    def test_luts_in_either_byte_order_and_of_8_bits_in_either_form(self, little):
        for table in ((CURVE * 255).astype(np.uint8), (CURVE * 255).astype(np.uint16)):
            dataset = made(RAMP, **TWELVE, VOILUTSequence=[lut(table, 8)])
            if not little:  # words are turned round, of two entries too
                dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRBigEndian
                dataset.PixelData = RAMP.byteswap().tobytes()
                dataset.VOILUTSequence[0].LUTData = np.frombuffer(table.tobytes(), np.uint16).byteswap().tobytes()
                dataset.set_original_encoding(False, False)
            assert np.abs(gray(dataset).ravel().astype(int) - table).max() <= 1

    def test_a_lut_that_begins_below_0_of_a_film_that_does_not(self):
        values = np.clip(RAMP, 300, 1900).astype(np.int16)
        item = lut((CURVE * 4095).astype(np.uint16), 12, -2048)
        dataset = made(values, **TWELVE, VOILUTSequence=[item])
        film = film_of(dataset)
        assert np.abs(film.pixels.astype(int) - np.rint(CURVE[values + 2048] * 255)).max() <= 1 and not film.notes

    def test_a_lut_of_65536_entries(self):
        values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
        table = values.ravel()[::-1].copy()
        film = film_of(made(values, VOILUTSequence=[lut(table, 16)]))
        assert np.abs(film.pixels.ravel() - table / 65535 * 255).max() <= 0.51

    @pytest.mark.parametrize(
        "item",
        [
            lut(CURVE.astype(np.uint16), 12, LUTData=None),
            lut(CURVE.astype(np.uint16), 12, LUTData=b""),
            lut((CURVE * 4095).astype(np.uint16), 12, LUTData=(CURVE[:2000] * 4095).astype(np.uint16).tobytes()),
            lut(CURVE.astype(np.uint16), 12, LUTDescriptor=None),
            lut(np.full(4096, 4095, np.uint16), 12),  # all white
            lut((CURVE * 4095).astype(np.uint16), 12, 30_000),  # begins above all values
            lut(np.zeros(4096, np.uint16), 0),
        ],
        ids=["none", "empty", "short", "no descriptor", "white", "beside", "no bits"],
    )  # fmt: skip
    @pytest.mark.filterwarnings("error::RuntimeWarning")
    def test_a_lut_that_shows_nothing_gives_way(self, item):
        good = lut((CURVE * 4095).astype(np.uint16), 12)
        window, table = gray(made(RAMP, **TWELVE, **WINDOW)), gray(made(RAMP, **TWELVE, VOILUTSequence=[good]))
        for luts, shown in (([item], window), ([item, good], table)):
            film = film_of(made(RAMP, **TWELVE, **WINDOW, VOILUTSequence=luts))
            assert np.array_equal(film.pixels, shown) and codes(film) == [Code.LUT_IGNORED]
        alone = film_of(made(RAMP, **TWELVE, VOILUTSequence=[item]))
        assert np.array_equal(alone.pixels, gray(made(RAMP, **TWELVE))) and codes(alone) == [Code.LUT_IGNORED]

    def test_without_its_modality_lut_windows_mean_nothing(self):
        item = lut(CURVE.astype(np.uint16), 12, LUTData=None)
        film = film_of(made(RAMP, **TWELVE, **WINDOW, ModalityLUTSequence=[item]))
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE))) and codes(film) == [Code.LUT_IGNORED]

    @pytest.mark.parametrize(
        ("centre", "width"), [(2048, 0), (2048, -5), (2048, 0.5), ("nan", 5), (5, "inf"), (60_000, 10), (-9000, 10)]
    )
    def test_a_window_that_shows_nothing_gives_way(self, centre, width):
        tags = {**TWELVE, "WindowCenter": centre, "WindowWidth": width}
        data = file(made(RAMP, **(tags | {"WindowCenter": "123456", "WindowWidth": "234567"})))
        data = data.replace(b"123456", str(centre).encode().ljust(6)).replace(b"234567", str(width).encode().ljust(6))
        film = read_film(data)
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE))) and codes(film) == [Code.WINDOW_IGNORED]

    def test_the_first_window_that_serves_counts(self):
        film = film_of(made(RAMP, **TWELVE, WindowCenter=[2048, 1500], WindowWidth=[0, 2200]))
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE, **WINDOW)))
        assert codes(film) == [Code.WINDOW_IGNORED]

    def test_of_thousands_of_windows_the_first_few_are_looked_at(self):
        data = file(made(RAMP, **TWELVE, WindowCenter=[60_000] * 3000 + [1500], WindowWidth=[1] * 3000 + [2200]))
        film = read_film(data)
        assert codes(film) == [Code.WINDOW_IGNORED] * MOST_WINDOWS
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE)))
        last = film_of(made(RAMP, **TWELVE, WindowCenter=[60_000] * 15 + [1500], WindowWidth=[1] * 15 + [2200]))
        assert np.array_equal(last.pixels, gray(made(RAMP, **TWELVE, **WINDOW)))

    def test_a_window_that_only_tells_the_film_from_its_background_shows_nothing(self):
        values = smooth(2000, 1200)
        values[:, :150] = 0
        film = film_of(made(values, WindowCenter=600, WindowWidth=300))
        assert codes(film) == [Code.WINDOW_IGNORED] and np.array_equal(film.pixels, gray(made(values)))

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize(
        ("depth", "bits", "tags"),
        [
            (256, 8, {"WindowCenter": 2048, "WindowWidth": 4096}),  # of 12 bits beside pixels of 8
            (256, 8, {"VOILUTSequence": [lut((CURVE * 4095).astype(np.uint16)[:2000] // 8, 12)]}),
            (4096, 16, {"WindowCenter": 32768, "WindowWidth": 65535}),
            (4096, 12, {"WindowCenter": 127.5, "WindowWidth": 255}),  # of 8 beside pixels of 12
            (4096, 16, {"WindowCenter": 128, "WindowWidth": 256, "VOILUTFunction": "LINEAR_EXACT"}),
        ],
    )
    def test_a_window_of_another_depth_is_not_the_films(self, photometric, depth, bits, tags):
        values = smooth(depth).astype(np.uint8 if bits == 8 else np.uint16)
        plain = {"BitsStored": bits, "HighBit": bits - 1, "PhotometricInterpretation": photometric}
        film = film_of(made(values, **plain, **tags))
        assert np.array_equal(film.pixels, gray(made(values, **plain)))
        assert codes(film) == [Code.LUT_IGNORED if "VOILUTSequence" in tags else Code.WINDOW_IGNORED]

    @pytest.mark.parametrize(
        ("depth", "tags"),
        [
            (4096, {"WindowCenter": 4096, "WindowWidth": 8192}),  # dark, and bright enough to read
            (4096, {"WindowCenter": 500, "WindowWidth": 700}),  # hard
            (200, {"WindowCenter": 100, "WindowWidth": 50}),  # narrow on a narrow film
            (4096, {"WindowCenter": 40, "WindowWidth": 100, "RescaleSlope": 1, "RescaleIntercept": -1024}),
        ],
    )
    def test_a_window_that_is_only_dark_or_hard_is_used(self, depth, tags):
        film = film_of(made(smooth(depth), BitsStored=14, HighBit=13, **tags))
        values = smooth(depth).astype(float) + tags.get("RescaleIntercept", 0)
        expected = (values - (tags["WindowCenter"] - 0.5)) / (tags["WindowWidth"] - 1) + 0.5
        assert np.abs(film.pixels - np.clip(expected, 0, 1) * 255).max() <= 0.51 and not film.notes

    @pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
    @pytest.mark.parametrize("text", [b"0,5 ", b"1e30", b"nan ", b"Doe "])
    def test_without_its_rescale_windows_mean_nothing(self, name, text):
        rescale = {"RescaleSlope": 1, "RescaleIntercept": 0} | {name: 7654}
        data = file(made(RAMP, **TWELVE, WindowCenter=700, WindowWidth=900, **rescale)).replace(b"7654", text)
        film = read_film(data)
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE))) and codes(film) == [Code.METADATA_IGNORED]

    def test_a_film_for_processing_is_noted(self):
        film = film_of(made(RAMP, **TWELVE, **WINDOW, PresentationIntentType="FOR PROCESSING"))
        assert codes(film) == [Code.FOR_PROCESSING]
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE, **WINDOW)))
        by_class = made(RAMP, **TWELVE, **WINDOW, SOPClassUID=pydicom.uid.DigitalXRayImageStorageForProcessing)
        assert codes(film_of(by_class)) == [Code.FOR_PROCESSING]

    @pytest.mark.parametrize(
        ("orientation", "mirrored"),
        [
            (["L", "F"], False),
            (["R", "H"], False),
            (["F", "R"], False),
            (["H", "L"], False),
            (["R", "F"], True),
            (["L", "H"], True),
            (["RH", "FR"], True),
            (["F", "L"], True),
            (["A", "F"], False),
            ("R", False),
            ("", False),
        ],
    )
    def test_a_film_that_lies_mirrored_in_its_file_is_noted(self, orientation, mirrored):
        film = film_of(made(RAMP, **TWELVE, **WINDOW, PatientOrientation=orientation))
        assert codes(film) == [Code.MIRRORED] * mirrored
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE, **WINDOW)))

    def test_the_proportions_of_pixels_are_the_spacings_else_the_ratios(self):
        by_ratio = film_of(made(RAMP, **TWELVE, **WINDOW, PixelAspectRatio=[3, 2]))
        assert by_ratio.pixel_aspect == 1.5 and codes(by_ratio) == [Code.PIXELS_NOT_SQUARE]
        by_spacing = film_of(made(RAMP, **TWELVE, **WINDOW, ImagerPixelSpacing=[0.2, 0.1]))
        assert by_spacing.pixel_aspect == 2 and Code.PIXELS_NOT_SQUARE not in codes(by_spacing)
        ignored = film_of(made(RAMP, **TWELVE, **WINDOW, PixelSpacing=[0.1, 0.5]))
        assert ignored.pixel_aspect == 1 and codes(ignored) == [Code.PIXELS_NOT_SQUARE, Code.SPACING_IGNORED]

    @pytest.mark.parametrize("age", ["004M", "015Y", "000D", "100W", "7"])
    def test_a_child_is_noted(self, age):
        assert codes(film_of(made(RAMP, **TWELVE, **WINDOW, PatientAge=age))) == [Code.CHILD]

    @pytest.mark.parametrize("age", ["016Y", "192M", "900W", "51", "", "Doe", "4m x", "-1Y", "1234Y", "000Y", "0 "])
    def test_anybody_else_is_not(self, age):
        assert film_of(made(RAMP, **TWELVE, **WINDOW, PatientAge=age)).notes == ()

    @pytest.mark.parametrize(
        ("born", "seen", "age", "child"),
        [
            ("20080301", "20240229", "", True),
            ("20150000", "20240229", "", True),
            ("20080301", "20240301", "", False),
            ("20240301", "20240301", "", False),  # as in anonymised files
            ("2010.03.01", "20240301", "", True),
            ("19500101", "20240301", "", False),
            ("20240302", "20240301", "", False),  # of nobody who was born
            ("20200101", "20240301", "051Y", False),
            ("20200101", "20240301", "000Y", True),
            ("20200101", "", "", False),
            ("", "20240301", "", False),
            (SECRET, "20240301", "", False),
        ],
    )
    def test_without_an_age_the_dates_say_who_is_a_child(self, born, seen, age, child):
        dates = {"PatientBirthDate": born, "StudyDate": seen, "PatientAge": age}
        film = film_of(made(RAMP, **TWELVE, **WINDOW, **dates))
        assert codes(film) == [Code.CHILD] * child
        assert not any(date and date in str(film.notes) for date in (born, seen))

    @pytest.mark.parametrize("keyword", ["ContentDate", "AcquisitionDate", "SeriesDate"])
    @pytest.mark.parametrize("study", [None, "", "2024", "99999999", "20230229"])
    def test_without_the_date_of_the_study_another_one_says_who_is_a_child(self, keyword, study):
        given = {"PatientBirthDate": "20080301"} | ({} if study is None else {"StudyDate": study})
        film = film_of(made(RAMP, **TWELVE, **WINDOW, **given, **{keyword: "20240229"}))
        assert codes(film) == [Code.CHILD] and f"by PatientBirthDate and {keyword} the" in film.notes[0].text
        for date in ("20240301", "20080301", ""):  # an adult; as in anonymised files; none
            assert film_of(made(RAMP, **TWELVE, **WINDOW, **given, **{keyword: date})).notes == ()

    def test_the_date_of_the_study_comes_before_others(self):
        dates = {"PatientBirthDate": "20080301", "StudyDate": "20240301", "ContentDate": "20240229"}
        assert film_of(made(RAMP, **TWELVE, **WINDOW, **dates)).notes == ()

    def test_a_window_on_one_dead_pixel_shows_nothing(self):
        values = smooth(4096)
        values[0, 0] = 60_000
        film = film_of(made(values, WindowCenter=50_000, WindowWidth=1000))
        assert codes(film) == [Code.WINDOW_IGNORED] and 50 < np.median(film.pixels) < 200

    @pytest.mark.parametrize(("centre", "width"), [(0, 100_000), (4096, 65_536), (20_000, 90_000)])
    def test_a_window_that_leaves_a_film_few_grays_is_not_used(self, centre, width):
        values = smooth(4096)
        film = film_of(made(values, **TWELVE, WindowCenter=centre, WindowWidth=width))
        assert codes(film) == [Code.WINDOW_IGNORED]
        assert np.array_equal(film.pixels, gray(made(values, **TWELVE))) and np.ptp(film.pixels) == 255
        kept = film_of(made(values, **TWELVE, WindowCenter=2048, WindowWidth=16_384))
        assert not kept.notes and np.ptp(kept.pixels) == pytest.approx(64, abs=6)

    @pytest.mark.parametrize(
        ("function", "noted"), [("JUNK", [Code.ELEMENT_ASSUMED]), (["LINEAR", "LINEAR"], []), ("linear ", []), ("", [])]
    )
    def test_a_function_nobody_knows_is_linear(self, function, noted):
        film = film_of(made(RAMP, **TWELVE, **WINDOW, VOILUTFunction=function))
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE, **WINDOW))) and codes(film) == noted

    def test_presentation_lut_shape_decides_where_it_contradicts(self):
        turned = film_of(made(RAMP, **TWELVE, **WINDOW, PresentationLUTShape="INVERSE"))
        assert np.array_equal(turned.pixels, 255 - gray(made(RAMP, **TWELVE, **WINDOW)))
        assert codes(turned) == [Code.METADATA_IGNORED]
        once = film_of(
            made(RAMP, **TWELVE, **WINDOW, PresentationLUTShape="INVERSE", PhotometricInterpretation="MONOCHROME1")
        )
        assert np.array_equal(once.pixels, turned.pixels) and not once.notes

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("window", [{}, WINDOW])
    @pytest.mark.parametrize(("value", "limit"), [(0, None), (60_000, None), (0, 50), (4095, None)])
    def test_padding_is_black_and_no_part_of_the_contrast(self, photometric, window, value, limit):
        values = smooth(3000, 500)
        plain = gray(made(values, **window, PhotometricInterpretation=photometric))
        padded = values.copy()
        padded[:, :60] = np.arange(60) % ((limit or value) - value + 1) + value
        tags = {"PixelPaddingValue": value} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
        shown = gray(made(padded, **window, **tags, PhotometricInterpretation=photometric))
        assert not shown[:, :60].any()
        assert np.abs(shown[:, 60:].astype(int) - plain[:, 60:]).max() <= (0 if window else 12)

    def test_padding_is_noted_with_its_share(self):
        values = smooth(3000, 500)
        values[:, :60] = 0
        film = film_of(made(values, PixelPaddingValue=0, **WINDOW))
        assert codes(film) == [Code.BORDER_LEFT_OUT] and "25.0%" in film.notes[0].text
        values[:, :60], values[:, -3:] = 3600, 0  # white beside the padding is no border of it
        film = film_of(made(values, PixelPaddingValue=0, **WINDOW))
        assert codes(film) == [Code.BORDER_LEFT_OUT] and (film.pixels[:, :60] == 255).all()
        values[:, -3:-1] = 3600  # 0.4 %, as values of the film may happen to be
        assert not film_of(made(values, PixelPaddingValue=0, **WINDOW)).notes

    @pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
    @pytest.mark.parametrize("window", [{}, WINDOW])
    def test_a_padding_range_that_holds_values_of_the_film_is_ignored(self, photometric, window):
        values = smooth(3000, 500)
        values[:, :60] = 0
        plain = film_of(made(values, **window, PixelPaddingValue=0, PhotometricInterpretation=photometric))
        for limit in (1800, -1800):
            dataset = made(values.astype(np.int16) * (1 if limit > 0 else -1), PhotometricInterpretation=photometric)
            dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = 0, limit
            film = film_of(dataset)
            assert codes(film) == [Code.METADATA_IGNORED, Code.BORDER_LEFT_OUT]
            assert not film.pixels[:, :60].any()
        dataset = made(values, **window, PhotometricInterpretation=photometric)
        dataset.PixelPaddingValue, dataset.PixelPaddingRangeLimit = 0, 1800
        assert np.array_equal(gray(dataset), plain.pixels)

    def test_a_padding_range_of_many_values_apart_from_the_film_is_believed(self):
        values = smooth(3000, 1000)
        plain = gray(made(values, **WINDOW))
        values[:, :60] = np.random.default_rng(0).integers(0, 900, (300, 60))
        film = film_of(made(values, **WINDOW, PixelPaddingValue=0, PixelPaddingRangeLimit=950))
        assert codes(film) == [Code.BORDER_LEFT_OUT] and not film.pixels[:, :60].any()
        assert np.array_equal(film.pixels[:, 60:], plain[:, 60:])

    def test_signed_padding(self):
        values = smooth(3000).astype(np.int16)
        values[:, :60] = -2000
        shown = gray(made(values, PixelPaddingValue=-2000))
        assert not shown[:, :60].any() and np.ptp(shown[:, 60:]) > 200

    def test_a_film_that_is_all_padding_is_shown(self):
        values = np.full((20, 20), 700, np.uint16)
        assert gray(made(values, PixelPaddingValue=700, WindowCenter=0, WindowWidth=10)).min() == 255

    def test_values_of_more_bits_than_the_header_says(self):
        values = smooth(60_000)
        film = film_of(made(values, **TWELVE, WindowCenter=30_000, WindowWidth=60_000))
        assert np.array_equal(film.pixels, gray(made(values, WindowCenter=30_000, WindowWidth=60_000)))
        assert codes(film) == [Code.STREAM_DIFFERS_FROM_HEADER] and film.bits == 12

    def test_an_overlay_that_the_header_does_not_name_is_masked(self):
        values = smooth(4096)
        words = values.copy()
        words[50:60, 50:200] |= 1 << 13
        film = film_of(made(words, **TWELVE, **WINDOW))
        assert np.array_equal(film.pixels, gray(made(values, **TWELVE, **WINDOW)))
        assert codes(film) == [Code.OVERLAY_MASKED]

    def test_sign_bits_above_the_value_are_no_overlay(self):
        values = smooth(4000).astype(np.int16) - 2000
        whole = film_of(made(values, **TWELVE))
        cut = film_of(made((values & 0xFFF).astype(np.int16), **TWELVE))
        assert not whole.notes and not cut.notes and np.array_equal(whole.pixels, cut.pixels)

    @pytest.mark.parametrize(("bits", "photometric"), [(12, "MONOCHROME2"), (12, "MONOCHROME1"), (16, "MONOCHROME2")])
    def test_a_saturated_border_does_not_set_the_contrast(self, bits, photometric):
        values = smooth(2**bits // 16)
        plain = gray(made(values, PhotometricInterpretation=photometric))
        values[:, :4] = 2**16 - 1
        film = film_of(made(values, PhotometricInterpretation=photometric))
        assert codes(film) == [Code.BORDER_LEFT_OUT]
        assert np.abs(film.pixels[:, 4:].astype(int) - plain[:, 4:]).max() <= 5


class TestHeaders:
    def test_samples_per_pixel_may_be_missing(self):
        dataset = made(RAMP, **WINDOW)
        plain = gray(dataset)
        del dataset.SamplesPerPixel
        film = film_of(dataset)
        assert np.array_equal(film.pixels, plain) and codes(film) == [Code.ELEMENT_ASSUMED]

    @pytest.mark.parametrize(
        "keyword", ["Rows", "Columns", "BitsAllocated", "PixelRepresentation", "PhotometricInterpretation"]
    )
    def test_what_cannot_be_assumed_is_named(self, keyword):
        dataset = made(RAMP)
        delattr(dataset, keyword)
        message = says(file(dataset))
        assert keyword in message and "damaged" not in message

    @pytest.mark.parametrize(
        ("tags", "named"),
        [
            ({"BitsAllocated": 32}, "BitsAllocated"),
            ({"BitsStored": 17}, "BitsStored"),
            ({"BitsStored": 0}, "BitsStored"),
            ({"PixelRepresentation": 7}, "PixelRepresentation"),
            ({"SamplesPerPixel": 3}, "SamplesPerPixel"),
            ({"NumberOfFrames": 2}, "NumberOfFrames"),
            ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR"),
            ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000"),
            ({"Rows": 0}, "64 x 0"),
        ],
    )
    def test_what_contradicts_itself_is_named(self, tags, named):
        message = says(file(made(RAMP, **tags)))
        assert named in message and "damaged" not in message

    def test_spellings(self):
        dataset = made(RAMP, **WINDOW, PhotometricInterpretation="monochrome1", NumberOfFrames="1")
        assert np.array_equal(gray(dataset), 255 - gray(made(RAMP, **WINDOW)))

    @pytest.mark.parametrize("high", [3, 40])
    def test_a_high_bit_that_cannot_be_is_not_believed(self, high):
        film = film_of(made(RAMP, BitsStored=12, HighBit=high, **WINDOW))
        assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE, **WINDOW))) and codes(film) == [
            Code.ELEMENT_ASSUMED
        ]

    def test_identifiers_are_uids_or_nothing(self):
        film = film_of(made(RAMP, StudyInstanceUID="1.2.840.99.7"))
        assert (film.study_uid, film.sop_uid) == ("1.2.840.99.7", "1.2.3")
        for text in (SECRET, "2024.01.05", "1.2.03.4", "1", ""):
            data = file(made(RAMP, StudyInstanceUID="1.2.345678")).replace(
                b"1.2.345678", text.encode().ljust(10, b"\0")
            )
            assert read_film(data).study_uid is None

    @pytest.mark.parametrize(
        ("sop_class", "kind"),
        [
            ("1.2.840.10008.5.1.4.1.1.88.33", "structured report"),
            ("1.2.840.10008.5.1.4.1.1.88.59", "key object selection"),
            ("1.2.840.10008.5.1.4.1.1.11.1", "presentation state"),
            ("1.2.840.10008.5.1.4.1.1.104.1", "encapsulated document"),
            ("1.2.840.10008.5.1.4.1.1.481.5", "radiotherapy object"),
            ("1.3.46.670589.11.0.0.12.2", "object without an image"),
        ],
    )
    def test_what_comes_along_with_films_is_no_film(self, sop_class, kind):
        dataset = made(RAMP)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
        for keyword in ("Rows", "Columns", "PixelData"):
            delattr(dataset, keyword)
        with pytest.raises(NotAFilm) as caught:
            film_of(dataset)
        again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
        assert caught.value.kind == again.kind == kind and str(again) == str(caught.value)

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("DICOMDIR", "DICOMDIR"), ("test-SR.dcm", "structured report"), ("rtplan.dcm", "radiotherapy object")],
    )
    def test_real_files_that_are_no_films(self, name, kind):
        path = OWN / name if (OWN / name).is_file() else OWN / "dicomdirtests" / name
        with pytest.raises(NotAFilm) as caught:
            read_film(path)
        assert caught.value.kind == kind

    def test_without_pixels(self):
        dataset = made(RAMP)
        del dataset.PixelData
        assert "PixelData" in says(file(dataset))
        dataset.PixelData = b""
        says(file(dataset))

    def test_spacing_and_its_kind(self):
        wide = np.zeros((40, 2500), np.uint16)
        wide[:, ::2] = 4000
        detector = film_of(made(wide, ImagerPixelSpacing=[0.14, 0.14])).spacing
        assert (detector.kind, detector.mm_per_px) == (SpacingKind.DETECTOR, (0.14, 0.14))
        tags = {"EstimatedRadiographicMagnificationFactor": 1.1}
        calibrated = film_of(made(wide, ImagerPixelSpacing=[0.154, 0.154], **tags)).spacing
        assert calibrated.kind == SpacingKind.CALIBRATED and calibrated.mm_per_px == pytest.approx((0.14, 0.14))
        film = film_of(made(wide, PixelSpacing=[0.07, 0.07]))
        assert film.spacing.kind == SpacingKind.NOT_BELIEVED and codes(film) == [Code.SPACING_NOT_BELIEVED]


FULL = file(
    made(
        RAMP, **TWELVE, **WINDOW, PixelPaddingValue=0, PixelPaddingRangeLimit=3, RescaleSlope=2, RescaleIntercept=-5,
        VOILUTFunction="LINEAR", PresentationLUTShape="IDENTITY", PixelSpacing=[0.14, 0.14], PixelAspectRatio=[1, 1],
        ImagerPixelSpacing=[0.15, 0.15], EstimatedRadiographicMagnificationFactor=1.1, DistanceSourceToDetector=1800,
        DistanceSourceToPatient=1700, VOILUTSequence=[lut((CURVE[:64] * 4095).astype(np.uint16), 16, 9)],
        ModalityLUTSequence=[lut((CURVE[:64] * 255).astype(np.uint8), 8)], StudyInstanceUID="1.2.3.4",
    )
)  # fmt: skip
"""A film that says all that can be said."""


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_whatever_the_header_says_it_is_a_film_or_an_error(data):
    hurt = bytearray(FULL)
    header = range(132, len(FULL) - RAMP.nbytes)
    for place in data.draw(st.lists(st.sampled_from(header), min_size=1, max_size=5)):
        hurt[place] = data.draw(st.sampled_from(b"\0\1 09\\-\x7f\x80\xff") | st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            film = read_film(bytes(hurt))
        except FilmError as error:
            assert SECRET not in str(error)
        else:
            assert film.pixels.dtype == np.uint8 and film.pixels.ndim == 2
            assert SECRET not in str(film.notes)


@pytest.mark.parametrize("slope", [1e-7, 1, 1e7, 1e300, -1e-300])
def test_slopes_of_any_size(slope):
    film = film_of(made(RAMP, **TWELVE, RescaleSlope=slope, RescaleIntercept=0))
    assert np.array_equal(film.pixels, gray(made(RAMP, **TWELVE)))
    assert codes(film) == [Code.METADATA_IGNORED] * (not 1e-9 < abs(slope) < 1e9)


class TestDatasets:
    """A pydicom Dataset reads as its file does, whatever it lacks."""

    @pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
    def test_without_uids_and_file_header(self, syntax):
        item = lut((CURVE * 4095).astype(np.uint16), 16)
        dataset = made(RAMP, **TWELVE, VOILUTSequence=[item], ViewPosition="AP", PixelPaddingValue=0)
        dataset.file_meta.TransferSyntaxUID = syntax
        data = file(dataset)
        plain = read_film(data)
        for source in (pydicom.dcmread(io.BytesIO(data)), dataset):
            for keyword in ("SOPInstanceUID", "SOPClassUID"):
                delattr(source, keyword)
            for _ in range(2):
                film = read_film(source)
                assert np.array_equal(film.pixels, plain.pixels) and film.view == "AP" and film.notes == plain.notes
                source.file_meta = FileMetaDataset()
            assert source.file_meta == FileMetaDataset()  # left as it was

    def test_compressed(self):
        path = OWN / "MR_small_RLE.dcm"
        assert np.array_equal(read_film(pydicom.dcmread(path)).pixels, read_film(path).pixels)

    def test_pixels_that_were_replaced_under_a_compressed_syntax_are_named_with_the_way_out(self):
        dataset = pydicom.dcmread(OWN / "MR_small_RLE.dcm")
        dataset.PixelData = bytes(2 * dataset.Rows * dataset.Columns)
        with pytest.raises(FilmError, match=r"TransferSyntaxUID is RLE Lossless.*; set .*ExplicitVRLittleEndian"):
            read_film(dataset)

    def test_what_cannot_be_a_film(self):
        with pytest.raises(FilmError):
            read_film(pydicom.Dataset())


def test_the_host_is_left_as_it_was():
    program = f"""
import logging, warnings, copy, io
import pydicom, pydicom.pixels
def state():
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("pydicom", "PIL", "cxrlines"))]
    return (
        [(log.level, list(log.handlers), log.disabled, log.propagate) for log in loggers],
        list(warnings.filters), copy.deepcopy(vars(pydicom.config.settings)), warnings.showwarning,
    )
before = state()
from pathlib import Path
from cxrlines.io.films import read_film, FilmError
for path in sorted(Path({str(OWN)!r}).glob("*.dcm"))[::4]:
    try:
        read_film(path)
    except FilmError:
        pass
assert state() == before
"""
    subprocess.run([sys.executable, "-c", program], check=True)


class TestRealFiles:
    def test_the_chest_film_is_the_same_in_every_transfer_syntax(self):
        if not EXTRA.is_dir():
            pytest.skip("the package pydicom-data is not installed")
        raw, lossless, lossy = (read_film(EXTRA / f"RG1_{kind}.dcm") for kind in ("UNCI", "J2KR", "J2KI"))
        assert raw.pixels.shape == (1955, 1841) and raw.format == "DICOM"
        assert np.abs(raw.pixels.astype(int) - lossy.pixels).mean() < 1.5
        assert np.corrcoef(raw.pixels[::5, ::5].ravel(), lossless.pixels[::5, ::5].ravel())[0, 1] > 0.9
        # MONOCHROME1: the spine is bright, the air beside the patient's neck is dark.
        assert raw.pixels[900:1500, 850:1000].mean() > raw.pixels[:150, :150].mean()

    @pytest.mark.parametrize(
        ("compressed", "plain"),
        [
            ("MR_small_RLE", "MR_small"),
            ("MR_small_jp2klossless", "MR_small"),
            ("MR_small_jpeg_ls_lossless", "MR_small"),
            ("MR_small_bigendian", "MR_small"),
            ("MR_small_implicit", "MR_small"),
            ("MR_small_padded", "MR_small"),
            ("SC_rgb_jpeg_gdcm", "SC_rgb_rle"),  # lossless JPEG
        ],
    )
    def test_lossless_syntaxes_agree_exactly(self, compressed, plain):
        one, other = (read_film(OWN / f"{name}.dcm").pixels for name in (compressed, plain))
        assert np.array_equal(one, other)

    def test_every_file_is_a_film_or_an_error_that_helps(self):
        films = 0
        for path in sorted(OWN.iterdir()):
            try:
                films += read_film(path).pixels.size > 0
            except FilmError as error:
                assert error.what.startswith(f"{path}: ") and error.way_out and len(str(error)) < 300 + len(str(path))
        assert films > 40

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("image_dfl", "is a deflated DICOM file"),
            ("SC_rgb_rle_2frame", "NumberOfFrames is 2"),
            ("examples_palette", "PhotometricInterpretation is 'PALETTE COLOR'"),
        ],
    )
    def test_what_is_not_read_says_so(self, name, said):
        assert said in says((OWN / f"{name}.dcm").read_bytes())


class TestBadFiles:
    @pytest.mark.parametrize("name", ["MR_small", "MR_small_jp2klossless", "SC_rgb_jpeg_dcmtk", "MR_small_RLE"])
    def test_truncated_anywhere(self, name):
        data = (OWN / f"{name}.dcm").read_bytes()
        for length in np.linspace(0, len(data) - 200, 25).astype(int):
            says(data[:length])

    @pytest.mark.parametrize(
        "name", ["MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "SC_rgb_jpeg_gdcm", "SC_rgb_jpeg_dcmtk"]
    )
    def test_damaged_streams_never_take_the_process_down(self, name):
        dataset = pydicom.dcmread(OWN / f"{name}.dcm")
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        rng = np.random.default_rng(0)
        for _ in range(12):
            hurt = bytearray(frame)
            hurt[int(rng.integers(20, len(hurt)))] = int(rng.integers(256))
            hurt = hurt[: int(rng.integers(100, len(hurt)))] + b"\xff\xd9"
            dataset.PixelData = encapsulate([bytes(hurt) + b"\0" * (len(hurt) % 2)])
            try:
                assert read_film(file(dataset)).pixels.shape == (dataset.Rows, dataset.Columns)
            except FilmError as error:
                assert error.way_out

    def test_a_stream_larger_than_its_header_is_not_decoded(self):
        dataset = pydicom.dcmread(OWN / "MR_small_jp2klossless.dcm")
        frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
        start = frame.index(b"\xff\x4f\xff\x51")
        frame[start + 8 : start + 16] = (60_000).to_bytes(4) * 2
        dataset.PixelData = encapsulate([bytes(frame)])
        tracemalloc.start()
        says(file(dataset))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30e6

    @pytest.mark.parametrize("packet", [b"\x81\xff", b"\x7f" + bytes(128), b"\x80"], ids=["run", "literal", "nothing"])
    def test_an_rle_stream_of_more_than_its_header_is_not_inflated(self, packet):
        dataset = made(np.zeros((16, 16), np.uint8))
        dataset.file_meta.TransferSyntaxUID = RLELossless
        frame = struct.pack("<16L", 1, 64, *[0] * 14) + packet * (2_000_000 // len(packet))
        dataset.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
        tracemalloc.start()
        says(file(dataset))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 30e6

    def test_rle_planes_are_counted(self):
        dataset = pydicom.dcmread(OWN / "MR_small_RLE.dcm")
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit = 7
        assert "has 2 RLE planes, the header says 1" in says(file(dataset))

    @pytest.mark.parametrize("values", [RAMP, np.random.default_rng(0).integers(0, 2**16, (63, 61), np.uint16)])
    def test_whole_rle_films_are_read(self, values):
        dataset = made(values)
        plain = gray(dataset)
        dataset.compress(RLELossless)
        assert np.array_equal(gray(dataset), plain)

    def test_an_rle_plane_ends_where_its_pixels_do(self):
        """Rows that are padded, or a byte that says another length, move all that follows."""
        values = np.random.default_rng(0).integers(0, 256, (40, 61), np.uint8)

        def packed(rows: np.ndarray, behind: bytes = b"") -> bytes:
            dataset = made(values)
            dataset.file_meta.TransferSyntaxUID = RLELossless
            frame = b"".join(bytes([len(row) - 1]) + row.tobytes() for row in rows) + behind
            dataset.PixelData = encapsulate([struct.pack("<16L", 1, 64, *[0] * 14) + frame + bytes(len(frame) % 2)])
            return file(dataset)

        for behind in (b"", bytes(7), bytes(200), b"\x80\x80"):  # padding, and what stands for nothing
            film = read_film(packed(values, behind))
            assert np.array_equal(film.pixels, values) and not film.notes
        for hurt in (packed(np.pad(values, ((0, 0), (0, 1)))), packed(values, b"\0\7"), packed(values, b"\xff\7")):
            assert "hold more than the 61 x 40 px" in says(hurt)

    def test_a_deflated_file_is_not_inflated(self):
        dataset = made(np.zeros((3000, 3000), np.uint16))
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        assert "only its pixels may be compressed; save it undeflated" in says(file(dataset))

    def test_no_warning_quotes_a_tag(self, capfd, recwarn):
        data = file(made(RAMP)).replace(b"Doe^Secret", b"Doe^\xff\xfe\\\x1b$)")
        read_film(data)
        says(data[:-3000])
        assert "Doe" not in capfd.readouterr().err + "".join(str(w.message) for w in recwarn)


def test_implicit_files_are_read_too():
    dataset = made(RAMP, WindowCenter=2000, WindowWidth=4000)
    explicit = gray(dataset)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert np.array_equal(read_film(file(dataset)).pixels, explicit)


WITHOUT_UNIX = """
import os, sys
for name in ("register_at_fork", "set_blocking", "sched_getaffinity", "fork"):
    delattr(os, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None  # an import of it fails
import cxrlines.core.pool, cxrlines.io.dicom.native
from cxrlines.io.dicom.display import MOST_WINDOWS
from cxrlines.io.films import read_film
assert read_film(sys.stdin.buffer.read()).pixels.std() > 0
"""


def test_nothing_of_unix_alone_is_needed_to_read():
    film = made(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) & 0xFFF, **TWELVE)
    data = file(film)
    subprocess.run([sys.executable, "-c", WITHOUT_UNIX], input=data, check=True)
