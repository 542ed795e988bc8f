"""DICOM: the chain from stored values to gray, every compression there is a permissive decoder for, and bad files."""

import io
import struct
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from cxrlines.data import decoders
from cxrlines.data.dicom import windowed
from cxrlines.data.films import FilmError, read_film

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


def says(data: bytes) -> str:
    start = time.perf_counter()
    with pytest.raises(FilmError) as caught:
        read_film(data)
    assert time.perf_counter() - start < 2
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

    def test_a_voi_lut_comes_before_a_window(self):
        item = pydicom.Dataset()
        table = (np.arange(4096) ** 0.5 / 4096**0.5 * 1023).astype(np.uint16)
        item.LUTDescriptor, item.LUTData = [4096, 0, 10], table.tobytes()
        dataset = made(RAMP, BitsStored=12, HighBit=11, VOILUTSequence=[item], WindowCenter=5, WindowWidth=5)
        assert np.abs(gray(dataset).ravel() - table / 1023 * 255).max() <= 0.51

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
        ("tags", "spacing"),
        [
            ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [1, 1]}, (0.2, 0.3)),
            ({"ImagerPixelSpacing": [0.14, 0.15]}, (0.14, 0.15)),
            ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.14, 0.15]}, (0.14, 0.15)),
            ({"PixelSpacing": [0.2]}, None),
            ({}, None),
        ],
    )
    def test_spacing_is_vertical_then_horizontal(self, tags, spacing):
        assert read_film(file(made(RAMP, **tags))).mm_per_px == spacing

    @pytest.mark.parametrize(
        ("written", "told"),
        [
            ("LL", "LL"), ("AP", "AP"), (" pa ", "PA"), ("Lateral", "LATERAL"), ("", None), (SECRET, None),
            (["LL", "PA"], None),
        ],
    )  # fmt: skip
    def test_the_view_is_told_if_it_is_one_of_those_known(self, written, told):
        assert read_film(file(made(RAMP, ViewPosition=written))).view == told
        colour = made(
            np.zeros((8, 8), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
        )
        colour.PixelData, colour.ViewPosition = bytes(8 * 8 * 3), written
        assert read_film(file(colour)).view == told

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
            start = time.perf_counter()
            try:
                films += read_film(path).pixels.size > 0
            except FilmError as error:
                told = str(error).removeprefix(f"{path}: ")
                assert told != str(error) and ("; " in told) and len(told) < 300
            assert time.perf_counter() - start < 3  # the first that needs GDCM starts a process for it
        assert films > 40

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("MR_truncated", "is damaged"),
            ("image_dfl", "is a deflated DICOM file"),
            ("rtplan", "is DICOM without pixels"),
            ("test-SR", "is DICOM without pixels"),
            ("SC_rgb_rle_2frame", "has 2 frames; a film is one; export the frame"),
            ("examples_palette", "PhotometricInterpretation is 'PALETTE COLOR'"),
            ("rtdose_1frame", "has 32 bits a pixel"),
            ("JPEG-lossy", "12-bit JPEG needs the decoder pylibjpeg-libjpeg"),
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
                assert "; export it again" in str(error)

    def test_a_stream_larger_than_its_header_is_not_decoded(self):
        dataset = pydicom.dcmread(OWN / "MR_small_jp2klossless.dcm")
        frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
        start = frame.index(b"\xff\x4f\xff\x51")
        frame[start + 8 : start + 16] = (60_000).to_bytes(4) * 2
        dataset.PixelData = encapsulate([bytes(frame)])
        assert "compressed pixels are 60000 x 60000, the header says 64 x 64" in says(file(dataset))

    @pytest.mark.parametrize("packet", [b"\x81\xff", b"\x7f" + bytes(128), b"\x80"], ids=["run", "literal", "nothing"])
    def test_an_rle_stream_of_more_than_its_header_is_not_inflated(self, packet):
        dataset = made(np.zeros((16, 16), np.uint8))
        dataset.file_meta.TransferSyntaxUID = RLELossless
        frame = struct.pack("<16L", 1, 64, *[0] * 14) + packet * (2_000_000 // len(packet))
        dataset.PixelData = encapsulate([frame + b"\0" * (len(frame) % 2)])
        tracemalloc.start()
        message = says(file(dataset))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "RLE pixels hold more than the 16 x 16 px the header says; export it again" in message
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

    @pytest.mark.parametrize(
        ("tags", "said"),
        [
            ({"Rows": 60_000, "Columns": 60_000}, "is 60000 x 60000 px; a film has"),
            ({"Rows": 0}, "is 64 x 0 px"),
            ({"Rows": 65}, "is damaged"),
            ({"NumberOfFrames": 2}, "has 2 frames"),
            ({"BitsStored": 0}, "has 0 bits"),
            ({"WindowCenter": 5, "WindowWidth": 0}, "'LINEAR' with WindowWidth 0 cannot be shown"),
            ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "NONE"}, "VOILUTFunction 'NONE'"),
        ],
    )
    def test_contradicting_headers(self, tags, said):
        assert said in says(file(made(RAMP, **tags)))

    def test_a_deflated_file_is_not_inflated(self):
        dataset = made(np.zeros((3000, 3000), np.uint16))
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        assert "only its pixels may be compressed; save it undeflated" in says(file(dataset))

    def test_a_missing_decoder_names_the_package(self, monkeypatch):
        class Missing:
            is_available, available_plugins = False, ()

        monkeypatch.setattr(decoders, "get_decoder", lambda syntax: Missing())
        message = says((OWN / "MR_small_jp2klossless.dcm").read_bytes())
        assert JPEG2000Lossless.name in message and "install python-gdcm" in message

    def test_no_warning_quotes_a_tag(self, capfd, recwarn):
        data = file(made(RAMP)).replace(b"Doe^Secret", b"Doe^\xff\xfe\\\x1b$)")
        read_film(data)
        says(data[:-3000])
        assert "Doe" not in capfd.readouterr().err + "".join(str(w.message) for w in recwarn)

    def test_a_window_says_what_it_allows(self):
        with pytest.raises(FilmError, match="LINEAR needs a width of at least 1"):
            windowed(np.zeros(1), 0, 0.5, "LINEAR", "f")


def test_implicit_files_are_read_too():
    dataset = made(RAMP, WindowCenter=2000, WindowWidth=4000)
    explicit = gray(dataset)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert np.array_equal(read_film(file(dataset)).pixels, explicit)
