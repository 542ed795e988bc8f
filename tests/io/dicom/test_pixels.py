"""Pixels of compressed DICOM: from wherever they are asked for, and where stream and header contradict each other."""

import base64
import io
import itertools
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from cxrlines.core.film import FilmError
from cxrlines.core.notes import Code
from cxrlines.io.dicom import pixels as decoders
from cxrlines.io.films import read_film
from cxrlines.lab.intact_films import (
    JPEG,
    as_dicom,
    by_gdcm,
    by_openjpeg,
    by_pillow,
    coloured,
    dicoms,
    every_kind,
    picture,
    shipped,
)

RNG = np.random.default_rng(0)
GRAY, TWELVE, DEEP = (picture(np.random.default_rng(0), 90, 112, bits) for bits in (8, 12, 16))
COLOUR = coloured(GRAY)
OWN = Path(pydicom.__file__).parent / "data/test_files"
LOSSLESS, LS = OWN / "SC_rgb_jpeg_gdcm.dcm", OWN / "MR_small_jpeg_ls_lossless.dcm"
"""Films that GDCM alone decodes."""
ALIKE = 0.97


def alike(pixels: np.ndarray, shows: np.ndarray) -> float:
    """Correlation with what a film shows."""
    shows = shows if shows.ndim == 2 else shows @ np.array([0.299, 0.587, 0.114])
    assert pixels.shape == shows.shape
    return float(np.corrcoef(pixels.ravel().astype(float), shows.ravel().astype(float))[0, 1])


def codes(data: bytes) -> list[Code]:
    return [note.code for note in read_film(data).notes]


def refusal(data: bytes) -> str:
    with pytest.raises(FilmError) as caught:
        read_film(data)
    assert caught.value.way_out
    return caught.value.what


class Dcmtk:
    """dcmtk's encoders and decoders: independent of ours, and with streams of exactly the bits stored."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("dcmcjpeg") is None:
            assert "CI" not in os.environ, "dcmcjpeg (dcmtk) is to be installed where CI runs"
            pytest.skip("dcmcjpeg (dcmtk) is not installed")
        self.folder = folder

    def __call__(self, program: str, data: bytes, *options: str) -> bytes:
        source, made = self.folder / "source.dcm", self.folder / "made"
        source.write_bytes(data)
        subprocess.run([program, *options, str(source), str(made)], check=True, capture_output=True)
        return made.read_bytes()


@pytest.fixture
def dcmtk(tmp_path: Path) -> Dcmtk:
    return Dcmtk(tmp_path)


class TestHosts:
    """GDCM works in another process: that must come about wherever a film is read, and leave nothing behind."""

    READ = f"""
print("begun", flush=True)
from pathlib import Path
from cxrlines.io.films import read_film
def read(path):
    return read_film(Path(path)).pixels.shape
LOSSLESS, LS = {str(LOSSLESS)!r}, {str(LS)!r}
"""
    SHAPES = "(100, 100) (64, 64)"

    def run(self, script: str, folder: Path, *, stdin: bool = False) -> list[str]:
        """What a script prints. It is killed with all that it began if it hangs."""
        file = folder / "script.py"
        file.write_text(self.READ + script)
        source = str(Path(decoders.__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-" if stdin else str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(file.read_text() if stdin else "", timeout=180)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == 0, err
        return out.splitlines()

    @pytest.mark.parametrize("stdin", [False, True])
    def test_a_plain_script_runs_once(self, tmp_path, stdin):
        assert self.run("print(read(LOSSLESS), read(LS))", tmp_path, stdin=stdin) == ["begun", self.SHAPES]

    def test_many_threads(self, tmp_path):
        script = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(6) as pool:
    print(set(pool.map(read, [LOSSLESS, LS] * 20)) == {(100, 100), (64, 64)})
"""
        assert self.run(script, tmp_path) == ["begun", "True"]

    def test_a_thread_that_is_still_at_it_at_the_end(self, tmp_path):
        script = """
import threading
def forever():
    while True:
        read(LOSSLESS)
threading.Thread(target=forever, daemon=True).start()
print(read(LOSSLESS), read(LS))
"""
        assert self.run(script, tmp_path) == ["begun", self.SHAPES]

    @pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
    def test_a_pool_of_daemonic_workers(self, tmp_path, start):
        script = f"""
if __name__ == "__main__":
    import multiprocessing
    before = read(LOSSLESS) if {start == "fork"} else None  # forks of a process that has decoded already
    with multiprocessing.get_context({start!r}).Pool(3) as pool:
        print(*pool.map(read, [LOSSLESS, LS]))
    print(*map(read, [LOSSLESS, LS]))
"""
        assert self.run(script, tmp_path)[-2:] == [self.SHAPES, self.SHAPES]

    @pytest.mark.parametrize(
        "start", ["fork", *(pytest.param(start, marks=pytest.mark.long) for start in ("spawn", "forkserver"))]
    )
    def test_workers_of_a_data_loader(self, tmp_path, start):
        script = f"""
class Films:
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return read([LOSSLESS, LS][index % 2])
if __name__ == "__main__":
    from torch.utils.data import DataLoader
    loader = DataLoader(Films(), batch_size=2, num_workers=2, collate_fn=list, multiprocessing_context={start!r})
    print([len(set(batch)) for batch in loader])
"""
        assert self.run(script, tmp_path)[-1] == "[2, 2, 2]"

    def test_a_forking_server(self, tmp_path):
        """Parent and forks read in turn, while a thread of the parent holds the line."""
        script = """
import os, threading
read(LS)
busy = threading.Thread(target=lambda: [read(LOSSLESS) for _ in range(200)])
busy.start()
forks = []
for _ in range(4):
    if (pid := os.fork()) == 0:
        right = read(LOSSLESS) == (100, 100) and read(LS) == (64, 64)
        os._exit(not right)
    forks.append(pid)
    read(LS)
print([os.waitpid(pid, 0)[1] for pid in forks])
busy.join()
print(read(LOSSLESS), read(LS))
"""
        assert self.run(script, tmp_path) == ["begun", "[0, 0, 0, 0]", self.SHAPES]

    def test_a_script_that_checks_films_with_two_workers(self, tmp_path):
        script = """
from cxrlines.core.pool import in_parallel
from cxrlines.io.films import read_film
print(sorted(film.pixels.shape for _, film in in_parallel(read_film, [Path(LOSSLESS), Path(LS)], 2, "")))
"""
        assert self.run(script, tmp_path) == ["begun", "[(64, 64), (100, 100)]"]


class TestDecoderDies:
    def test_its_death_costs_no_film(self):
        shape = read_film(LS).pixels.shape
        os.kill(decoders.decoding_pid(), signal.SIGKILL)
        before = decoders.deaths()
        assert read_film(LS).pixels.shape == shape
        assert decoders.deaths() == before + 1

    def test_a_film_that_kills_it_twice_costs_itself_alone(self, monkeypatch):
        before, died = decoders.deaths(), decoders.Died("ended")
        monkeypatch.setattr(decoders.Child, "receive", Mock(side_effect=died))
        with pytest.raises(FilmError, match="its decoder ended") as caught:
            read_film(LS)
        assert decoders.deaths() == before + 2 and not caught.value.passing
        monkeypatch.undo()
        assert read_film(LS).pixels.shape == (64, 64)

    def test_one_that_hangs_is_ended(self, monkeypatch):
        read_film(LS)
        monkeypatch.setattr(decoders, "SECONDS", 0.5)
        os.kill(decoders.decoding_pid(), signal.SIGSTOP)
        with pytest.raises(FilmError, match=r"its decoder took longer than 0\.5 s") as caught:
            read_film(LS)
        assert not caught.value.passing  # else a film that no decoder ends with would stop every store
        monkeypatch.undo()
        assert read_film(LS).pixels.shape == (64, 64)

    def test_an_interrupted_film_is_not_taken_for_the_next(self, monkeypatch):
        read_film(LS)

        def interrupted(self: object, seconds: float) -> bytes:
            raise KeyboardInterrupt

        monkeypatch.setattr(decoders.Child, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_film(LOSSLESS)
        monkeypatch.undo()
        assert read_film(LS).pixels.shape == (64, 64)

    def test_a_missing_decoder_names_its_package(self, monkeypatch):
        answers = iter([b'{"missing": "python-gdcm"}', b""])
        monkeypatch.setattr(decoders.Child, "receive", lambda self, seconds: next(answers))
        with pytest.raises(FilmError) as caught:
            read_film(LS)
        assert "python-gdcm" in caught.value.way_out and caught.value.passing
        decoders._decoder.child.kill()
        decoders._decoder.child = None

    @pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited where there is /proc")
    def test_its_memory_is_limited_whatever_a_stream_says(self):
        stream = bytearray(by_openjpeg(GRAY, 8))
        struct.pack_into(">II", stream, 8, 40_000, 40_000)  # of picture
        struct.pack_into(">II", stream, 24, 40_000, 40_000)  # of its one tile
        child = decoders.Child("cxrlines.io.dicom.native", silent=True)
        child.send(b'{"kind": "jpeg 2000"}', stream)
        try:
            child.receive(60), child.receive(60)
            most = Path(f"/proc/{child.process.pid}/status").read_text()
            assert int(most.split("VmHWM:")[1].split()[0]) < 700_000  # kB
        except decoders.Died:
            pass
        child.kill()


class TestSound:
    @pytest.mark.parametrize("sound", [*dicoms(np.random.default_rng(1), 61, 84)], ids=lambda sound: sound.name)
    def test_every_transfer_syntax_and_what_is_forgiven(self, sound):
        assert alike(read_film(sound.data).pixels, sound.shows) > ALIKE
        for name, data in sound.forgiven.items():
            assert alike(read_film(data).pixels, sound.shows) > ALIKE, name

    def test_notes_of_what_is_forgiven(self):
        sound = next(sound for sound in dicoms(np.random.default_rng(1), 61, 84) if sound.name == "DICOM JPEG 2000 12")
        found = {name: codes(data) for name, data in sound.forgiven.items()}
        assert codes(sound.data) == []
        assert found == {
            "text behind the stream": [Code.BYTES_AFTER_END],
            "blanks behind the stream": [Code.BYTES_AFTER_END],
            "many fragments": [],
            "no sequence delimiter": [Code.END_MISSING],
            "wrong offset table": [],
        }

    def test_of_small_sizes(self):
        for height, width in ((32, 33), (64, 32)):
            for sound in every_kind(np.random.default_rng(2), height, width):
                assert read_film(sound.data).pixels.shape == (height, width), sound.name

    @pytest.mark.parametrize("sound", [*shipped()], ids=lambda sound: sound.name)
    def test_films_of_other_encoders(self, sound):
        """Against pydicom's own reading, where it can."""
        dataset = pydicom.dcmread(io.BytesIO(sound.data), force=True)
        shown = read_film(sound.data).pixels
        assert shown.shape == (dataset.Rows, dataset.Columns) and np.ptp(shown) > 0
        if any(name in sound.name for name in ("JPEG-lossy", "JPGExtended", "overlay")):
            return  # pydicom cannot, or keeps overlays in
        values = dataset.pixel_array
        if values.ndim == 3:
            assert alike(shown, values) > ALIKE
        else:  # through whatever window: darker stays darker
            order = values.astype(float).ravel().argsort(kind="stable")
            rising = np.diff(shown.ravel()[order].astype(int))
            assert (rising < 0).mean() < 0.01 or (rising > 0).mean() < 0.01

    def test_htj2k(self):
        stream = base64.b64decode(HTJ2K)
        y, x = np.mgrid[:20, :24]
        values = ((x * x * 7 + y * y * 5 + x * y * 3) % 4096).astype(np.uint16)
        for number in (201, 202, 203):
            data = as_dicom(values, 12, syntax=f"{JPEG}{number}", frame=stream, WindowCenter=2048, WindowWidth=4096)
            assert np.abs(read_film(data).pixels - values / 4095 * 255).max() <= 0.51


HTJ2K = (
    "/0//UQApQAAAAAAYAAAAFAAAAAAAAAAAAAAAGAAAABQAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCIkJCQkJCQkJCQ"
    "kJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAhQAAf+TwAAmWfYFB3QAwAATQAATQAATAO7wA4d0AAr7Awd0AMn9Aod0AMAA"
    "E8AAE8AAEoC9RvACg3QAr0j1AoF0AJkCB3QAwAAWnAABWwAAVgDf3QHFbnHsN8Ld3QcFuIEBergAnwrG2jJB+QAhAb+WAEWsRISb/gAgwLZWAMAA"
    "F1UAAF1MAAFuAPe+77333uABXs7e+773fT/n4xCJOTHuWwPgcuq29wC22aQ2RcoWJDG8AOc8zznnnO7xnPM855z/Hke8uJLBPOXG/NW6+AC9BB/M"
    "Ah9ZcIQkMb4AXgEEgHwf5+O9AYAAAPAByBP80AvetbgQPMBaAMAAL3GAAF7pAAC6EO1u27Zt27ZtgwZ0ALW7bdu2bdu2DaBBxIWy0u62bdu2bYMG"
    "DRrAxwaXFWBFu9u2bdu2DQBf8NkgDWoAr5DV7rZt2zbQQIPwNXCDwEcDNEADUAu4/ADlr9ZeEvXr9ZeJevX6y4Blr9ev1lxCsbMbMb0ByUySJEmS"
    "JEmSJDNJkiRJkiQJSFAC6ZPMJEmSJEmCBAkS0I9+9EtQMpMkSZIkCaBvAhOQQPokIAEJcAl8CYgJlAmgCawJ4JZgjvRrcYK4kwD0JMA+ACBBiQIQ"
    "gAx4l69frL6pevX6y5Blr9ev1l8xsxsxsAL/d/9//3/+/z/+9/98n/97/3/n/XgWBdPHQNlh+PMJfgD/2Q=="
)
"""24 x 20 px of 12 bits in 16, by OpenJPH."""


class TestContradictions:
    """Kind of stream x components x precision x sign x header: read right, or refused; never garbage."""

    STREAMS: tuple[tuple[str, Callable[[np.ndarray, int], bytes]], ...] = (
        ("JPEG", lambda pixels, bits: by_pillow(pixels)),
        ("lossless", lambda pixels, bits: by_gdcm(pixels, bits, 70)),
        ("LS", lambda pixels, bits: by_gdcm(pixels, bits, 80)),
        ("2000", by_openjpeg),
    )
    LIES: tuple[dict[str, Any], ...] = (
        {},
        {"BitsStored": 8, "HighBit": 7},
        {"BitsStored": 8, "HighBit": 7, "BitsAllocated": 8},
        {"BitsStored": 10, "HighBit": 9, "BitsAllocated": 16},
        {"BitsStored": 12, "HighBit": 11, "BitsAllocated": 16},
        {"BitsStored": 16, "HighBit": 15, "BitsAllocated": 16},
        {"BitsStored": 12, "HighBit": 15, "BitsAllocated": 16},
        {"PixelRepresentation": 0},
        {"PixelRepresentation": 1},
        {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 1},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL", "PlanarConfiguration": 0},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_RCT", "PlanarConfiguration": 0},
        {"Rows": 45},
        {"Rows": 112, "Columns": 90},
    )

    @staticmethod
    def tried(name: str, values: np.ndarray, bits: int, shows: np.ndarray, stream: bytes) -> tuple[int, int]:
        """How many files of the stream under lying headers were read right, and refused."""
        read = refused = 0
        numbers = {"JPEG": 50, "lossless": 70, "LS": 80, "2000": 90}
        for lie, syntax in itertools.product(TestContradictions.LIES, (*numbers.values(), 51, 57, None)):
            if values.dtype.kind == "i" and bits == 8 and name != "2000" and lie == {"PixelRepresentation": 0}:
                continue  # of these streams the header alone knows the sign, and of 8 bits it is believed
            uid = ExplicitVRLittleEndian if syntax is None else f"{JPEG}{syntax}"
            try:
                film = read_film(as_dicom(values, bits, syntax=uid, frame=stream, **lie))
            except FilmError as error:
                refused += 1
                assert lie, (name, bits, syntax, error)
                continue
            read += 1
            assert alike(film.pixels, shows) > ALIKE, (name, bits, values.dtype, lie, syntax, film.notes)
            if syntax is None or (syntax in numbers.values() and syntax != numbers[name]):
                assert Code.STREAM_DIFFERS_FROM_HEADER in [note.code for note in film.notes]
        return read, refused

    @pytest.mark.parametrize(("name", "encode"), STREAMS, ids=[name for name, _ in STREAMS])
    def test_read_right_or_refused(self, name, encode):
        for bits, colour, signed in itertools.product((8, 12, 16), (False, True), (False, True)):
            if (name == "JPEG" and (bits > 8 or signed)) or (signed and colour):
                continue
            pixels = {8: GRAY, 12: TWELVE, 16: DEEP}[bits]
            pixels = coloured(pixels) if colour else pixels
            values = (pixels.astype(int) - 2 ** (bits - 1)).astype(f"i{pixels.itemsize}") if signed else pixels
            read, refused = self.tried(name, values, bits, pixels, encode(values, bits))
            assert read > refused > 0

    @pytest.mark.parametrize(
        ("name", "program", "option"),
        [("lossless", "dcmcjpeg", "+e1"), ("LS", "dcmcjpls", "+el"), ("JPEG", "dcmcjpeg", "+ee")],
    )
    @pytest.mark.parametrize("signed", [False, True])
    def test_with_streams_of_12_bits(self, dcmtk, name, program, option, signed):
        values = TWELVE.astype(np.int16) - 2048 if signed else TWELVE
        if signed and name == "JPEG":
            pytest.skip("lossy JPEG is not for signed values")
        encoded = pydicom.dcmread(io.BytesIO(dcmtk(program, as_dicom(values, 12), option)))
        stream = next(generate_frames(encoded.PixelData, number_of_frames=1))
        read, refused = self.tried(name, values, 12, TWELVE, stream)
        assert read > refused > 0

    def test_colour_under_monochrome1_is_refused(self):
        data = as_dicom(GRAY, 8, syntax=f"{JPEG}50", frame=by_pillow(COLOUR), PhotometricInterpretation="MONOCHROME1")
        assert "MONOCHROME1" in refusal(data)

    def test_a_size_that_differs_is_named(self):
        what = refusal(as_dicom(GRAY, 8, syntax=f"{JPEG}50", frame=by_pillow(GRAY), Rows=45))
        assert "112 x 90" in what and "112 x 45" in what

    def test_a_decoder_is_not_begun_on_what_would_take_too_much(self):
        stream = bytearray(by_openjpeg(COLOUR, 8))
        for place, value in ((8, 6000), (12, 6000), (24, 6000), (28, 6000)):
            struct.pack_into(">I", stream, place, value)
        data = as_dicom(COLOUR, 8, syntax=f"{JPEG}90", frame=bytes(stream), Rows=6000, Columns=6000)
        assert f"{6000 * 6000 * 3 * 8 >> 20} MB" in refusal(data)

    def test_without_loss_a_film_is_whole_or_refused(self):
        """Of a stream that ends too early libjpeg makes up the rest, and says so to nobody."""
        stream = by_gdcm(DEEP, 16, 70)
        for share in (0.3, 0.9, 0.99):
            data = as_dicom(DEEP, 16, syntax=f"{JPEG}70", frame=stream[: int(share * len(stream))] + b"\xff\xd9")
            assert "damaged" in refusal(data)
        assert alike(read_film(as_dicom(DEEP, 16, syntax=f"{JPEG}70", frame=stream)).pixels, DEEP) > ALIKE

    @pytest.mark.parametrize("number", [50, 70])
    def test_so_few_bytes_cannot_be_so_many_pixels(self, number):
        stream = by_pillow(GRAY) if number == 50 else by_gdcm(GRAY, 8, 70)
        at = max(stream.find(b"\xff\xc0"), stream.find(b"\xff\xc3"))
        huge = stream[: at + 5] + struct.pack(">HH", 6000, 6000) + stream[at + 9 :]
        assert "cut off" in refusal(as_dicom(GRAY, 8, syntax=f"{JPEG}{number}", frame=huge, Rows=6000, Columns=6000))

    def test_a_black_film_needs_few(self):
        black = np.zeros((2000, 2000), np.uint8)
        data = as_dicom(black, 8, syntax=f"{JPEG}50", frame=by_pillow(black, optimize=True))
        assert read_film(data).pixels.max() == 0
        lossless = as_dicom(black, 8, syntax=f"{JPEG}70", frame=by_gdcm(black, 8, 70))
        assert read_film(lossless).pixels.max() == 0

    @pytest.mark.parametrize("tags", [{}, {"NumberOfFrames": 1}])
    @pytest.mark.parametrize(("number", "encode"), [(50, by_pillow), (90, lambda pixels: by_openjpeg(pixels, 8))])
    def test_a_second_film_is_not_passed_over(self, number, encode, tags):
        one, other = (encode(pixels) for pixels in (GRAY, GRAY[::-1].copy()))
        for parts in ([one, other], [one + b"\0" * (len(one) % 2) + other]):
            assert "several frames" in refusal(as_dicom(GRAY, 8, syntax=f"{JPEG}{number}", parts=parts, **tags))
        assert codes(as_dicom(GRAY, 8, syntax=f"{JPEG}{number}", frame=one + b"text behind")) == [Code.BYTES_AFTER_END]

    def test_rle_planes_are_counted(self):
        dataset = pydicom.dcmread(OWN / "MR_small_RLE.dcm")
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        data = as_dicom(np.zeros((64, 64), np.uint8), 8, syntax=RLELossless, frame=frame)
        assert "2 RLE planes, the header says 1" in refusal(data)

    def test_a_stream_that_lies_in_its_element_bare(self):
        bare = as_dicom(GRAY, 8, syntax=f"{JPEG}90", frame=by_openjpeg(GRAY, 8))
        dataset = pydicom.dcmread(io.BytesIO(bare))
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        start = bare.index(b"\xe0\x7f\x10\x00")
        data = bare[:start] + b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<I", len(frame)) + frame
        assert alike(read_film(data).pixels, GRAY) > ALIKE

    @pytest.mark.parametrize("number", [".4.50", ".4.70", ".4.90", ".5"])
    def test_uncompressed_pixels_that_are_said_to_be_compressed(self, number):
        for values, bits in ((GRAY, 8), (TWELVE, 12)):
            plain = as_dicom(values, bits)
            start = plain.index(b"\xe0\x7f\x10\x00")
            head = as_dicom(values, bits, syntax=f"1.2.840.10008.1.2{number}", frame=b"0000")
            head = head[: head.index(b"\xe0\x7f\x10\x00")]
            film = read_film(head + plain[start:])
            assert np.array_equal(film.pixels, read_film(plain).pixels)
            assert [note.code for note in film.notes] == [Code.STREAM_DIFFERS_FROM_HEADER]
            assert refusal(head + plain[start:-2])  # of another size they are damaged, not uncompressed

    def test_a_file_in_a_box(self):
        boxed = (
            b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + b"\0\0\0\0jp2c" + by_openjpeg(TWELVE, 12)
        )
        assert alike(read_film(as_dicom(TWELVE, 12, syntax=f"{JPEG}90", frame=boxed)).pixels, TWELVE) > ALIKE


class TestSigns:
    """Which sign is right, the picture says: with the wrong one its values leap."""

    @pytest.mark.parametrize(("coded", "said", "right"), [("u", 1, "u"), ("i", 0, "i"), ("u", 0, "u"), ("i", 1, "i")])
    def test_jpeg_2000_knows_its_sign(self, coded, said, right):
        values = TWELVE if coded == "u" else TWELVE.astype(np.int16) - 2048
        film = read_film(
            as_dicom(values, 12, syntax=f"{JPEG}90", frame=by_openjpeg(values, 12), PixelRepresentation=said)
        )
        assert alike(film.pixels, TWELVE) > 0.99
        assert bool(film.notes) == ((coded == "i") != said)

    def test_words_of_signed_values_coded_as_if_they_had_none(self):
        """As some encoders write them (pydicom's J2K_pixelrep_mismatch.dcm): the header is right."""
        values = TWELVE.astype(np.int16) - 2048
        words = (values & 0xFFF).astype(np.uint16)
        film = read_film(as_dicom(values, 12, syntax=f"{JPEG}90", frame=by_openjpeg(words, 12)))
        assert alike(film.pixels, TWELVE) > 0.99
        assert [note.code for note in film.notes] == [Code.STREAM_DIFFERS_FROM_HEADER]

    @pytest.mark.parametrize("number", [None, 70, 80])
    def test_a_header_that_is_wrong_about_it(self, number):
        encoded = {} if number is None else {"syntax": f"{JPEG}{number}", "frame": by_gdcm(DEEP, 16, number)}
        film = read_film(as_dicom(DEEP, 16, PixelRepresentation=1, **encoded))
        assert alike(film.pixels, DEEP) > 0.99
        assert [note.code for note in film.notes] == [Code.STREAM_DIFFERS_FROM_HEADER]

    @pytest.mark.parametrize("number", [None, 70, 80])
    def test_a_header_that_does_not_know_of_the_sign(self, number):
        values = (DEEP.astype(np.int32) - 2**15).astype(np.int16)
        encoded = {} if number is None else {"syntax": f"{JPEG}{number}", "frame": by_gdcm(values, 16, number)}
        film = read_film(as_dicom(values, 16, PixelRepresentation=0, **encoded))
        assert np.array_equal(film.pixels, read_film(as_dicom(values, 16)).pixels)
        assert [note.code for note in film.notes] == [Code.STREAM_DIFFERS_FROM_HEADER]

    @pytest.mark.parametrize("bits", [12, 16])
    @pytest.mark.parametrize("masked", [True, False])
    @pytest.mark.parametrize("low", [300, 1000, 1700])
    def test_a_sign_within_the_words_that_the_header_does_not_name(self, low, masked, bits):
        values = TWELVE.astype(np.int16) // 2 - low
        words = values.view(np.uint16) & (2**bits - 1) if masked else values.view(np.uint16)
        film = read_film(as_dicom(words, bits, WindowCenter=0, WindowWidth=4000))
        assert np.array_equal(film.pixels, read_film(as_dicom(values, bits, WindowCenter=0, WindowWidth=4000)).pixels)
        assert [note.code for note in film.notes] == [Code.STREAM_DIFFERS_FROM_HEADER]

    @pytest.mark.parametrize("bits", [12, 16])
    def test_letters_and_borders_on_a_dark_film_have_no_sign(self, bits):
        """Beside black they are, as signed values, as near to 0 as their neighbours."""
        dark = TWELVE // 4
        dark[:, 20:30] = np.random.default_rng(0).integers(0, 9, (90, 10))
        lettered = dark.copy()
        lettered[20:60, 40:80:2] = 2**bits - 6
        lettered[:, :20] = np.random.default_rng(0).integers(2**bits - 30, 2**bits - 2, (90, 20))
        film = read_film(as_dicom(lettered, bits, WindowCenter=512, WindowWidth=1024))
        plain = read_film(as_dicom(dark, bits, WindowCenter=512, WindowWidth=1024))
        assert film.notes == () and film.pixels[40, 40] == 255 and (film.pixels[:, :20] == 255).all()
        assert np.array_equal(film.pixels[:, 80:], plain.pixels[:, 80:])

    def test_values_of_more_bits_are_not_taken_for_signed(self):
        values = TWELVE // 2 + 3000
        tags = {"WindowCenter": 4096, "WindowWidth": 4096}
        film = read_film(as_dicom(values, 12, **tags))
        assert np.array_equal(film.pixels, read_film(as_dicom(values, 13, **tags)).pixels)

    def test_signed_films_are_believed(self):
        values = DEEP.astype(np.int32) - 2**15
        for low in (0, 15_000):  # also if all of it lies above 0, beside a margin at the lowest value
            film = (
                values.astype(np.int16) if not low else np.where(TWELVE < 400, -(2**15), TWELVE + 100).astype(np.int16)
            )
            assert read_film(as_dicom(film, 16)).notes == () or low
            assert (
                alike(read_film(as_dicom(film, 16, WindowCenter=2000, WindowWidth=4096)).pixels, np.clip(film, 0, 4095))
                > ALIKE
            )


class TestColours:
    """Gray of colours is their luma, whichever decoder made them."""

    def luma(self) -> np.ndarray:
        return COLOUR @ np.array([0.299, 0.587, 0.114])

    @pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
    @pytest.mark.parametrize("marked", [True, False])
    def test_jpeg(self, photometric, marked):
        vivid = np.stack([GRAY, 255 - GRAY, GRAY // 2], axis=-1)
        rgb = photometric == "RGB"
        stream = by_pillow(vivid, subsampling=0, **({"keep_rgb": True} if rgb else {}))
        if not marked:  # without JFIF or Adobe the header alone says what they are
            length = int.from_bytes(stream[4:6])
            stream = stream[:2] + stream[4 + length :]
            stream = stream.replace(b"\x52\x11\0\x47\x11\0\x42\x11\0", b"\1\x11\0\2\x11\0\3\x11\0")
            stream = stream.replace(b"\3\x52\0\x47\0\x42\0", b"\3\1\0\2\0\3\0")
        data = as_dicom(vivid, 8, syntax=f"{JPEG}50", frame=stream, PhotometricInterpretation=photometric)
        assert np.abs(read_film(data).pixels - vivid @ np.array([0.299, 0.587, 0.114])).max() < 12

    @pytest.mark.parametrize("transform", [True, False])
    def test_jpeg_2000(self, transform):
        said = "YBR_RCT" if transform else "RGB"
        stream = by_openjpeg(COLOUR, 8, transform=transform)
        data = as_dicom(COLOUR, 8, syntax=f"{JPEG}90", frame=stream, PhotometricInterpretation=said)
        assert np.abs(read_film(data).pixels - self.luma()).max() <= 1

    @pytest.mark.parametrize("number", [57, 70, 80])
    def test_without_loss(self, number):
        data = as_dicom(COLOUR, 8, syntax=f"{JPEG}{number}", frame=by_gdcm(COLOUR, 8, number))
        assert np.abs(read_film(data).pixels - self.luma()).max() <= 1

    def test_uncompressed_of_half_resolution(self):
        ybr = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
        pairs = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1)
        data = as_dicom(COLOUR, 8, PhotometricInterpretation="YBR_FULL_422")
        at = len(data) - COLOUR.size
        head = data[: at - 4] + struct.pack("<I", pairs.size)
        assert np.abs(read_film(head + pairs.tobytes()).pixels - ybr[..., 0].astype(int)).max() <= 1


class TestUncompressed:
    def test_what_is_missing_is_counted(self):
        data = as_dicom(DEEP, 16)
        assert f"{DEEP.nbytes - 224:,} of {DEEP.nbytes:,} bytes" in refusal(data[:-224])

    def test_what_follows_is_left_out_if_it_is_little(self):
        plain = read_film(as_dicom(DEEP, 16)).pixels
        data = as_dicom(DEEP, 16)
        head, pixels = data[: -DEEP.nbytes - 4], data[-DEEP.nbytes :]
        for behind, noted in ((bytes(1000), []), (b"text" * 30, [Code.BYTES_AFTER_END])):
            film = read_film(head + struct.pack("<I", DEEP.nbytes + len(behind)) + pixels + behind)
            assert np.array_equal(film.pixels, plain) and [note.code for note in film.notes] == noted

    def test_bytes_that_were_put_into_the_pixels_are_noted(self):
        """As by a line end of two bytes for one; the element is as long as before."""
        data = as_dicom(DEEP, 16)
        start = len(data) - DEEP.nbytes
        damaged = data[:start] + data[start:].replace(b"\n", b"\r\n")
        assert len(damaged) > len(data)
        moved = [Code.BYTES_AFTER_END, Code.STREAM_DIFFERS_FROM_HEADER]  # nearly all bytes lie one further
        for hurt, noted in (
            (damaged, moved[:1]),
            (data[: start + 1001] + b"\r" + data[start + 1001 :], moved),
            (data + b"text", moved[:1]),
        ):
            assert codes(hurt) == noted
        assert codes(data) == codes(data + bytes(100)) == []

    def test_pixels_of_another_shape_are_refused(self):
        assert "more than its header" in refusal(as_dicom(DEEP, 16, Rows=60))
        assert "more than its header" in refusal(as_dicom(DEEP, 16, BitsAllocated=8, BitsStored=8, HighBit=7))

    @pytest.mark.parametrize("width", [112, 111])
    def test_bytes_in_words_of_big_endian(self, width):
        gray = np.ascontiguousarray(GRAY[:89, :width])
        dataset = pydicom.dcmread(io.BytesIO(as_dicom(gray, 8, syntax=ExplicitVRBigEndian)))
        plain = read_film(as_dicom(gray, 8)).pixels
        words = np.frombuffer(dataset.PixelData, np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
        dataset["PixelData"].VR, dataset["PixelData"]._value = "OW", words
        out = io.BytesIO()
        dataset.save_as(out)
        assert np.array_equal(read_film(out.getvalue()).pixels, plain)


class TestBesideDcmtk:
    @pytest.mark.parametrize("bits", [8, 10, 12, 16])
    @pytest.mark.parametrize("signed", [False, True])
    @pytest.mark.parametrize(
        ("program", "options"),
        [("dcmcjpeg", ("+e1",)), ("dcmcjpeg", ("+el", "+sv", "6")), ("dcmcjpls", ("+el",)), ("dcmcrle", ())],
    )
    def test_its_streams_without_loss(self, dcmtk, program, options, bits, signed):
        pixels = picture(np.random.default_rng(bits), 71, 61, bits)
        values = (pixels.astype(int) - 2 ** (bits - 1)).astype(f"i{pixels.itemsize}") if signed else pixels
        centre = 0 if signed else 2 ** (bits - 1)
        plain = as_dicom(values, bits, WindowCenter=centre, WindowWidth=2**bits)
        film = read_film(dcmtk(program, plain, *options))
        assert np.array_equal(film.pixels, read_film(plain).pixels) and film.notes == ()

    @pytest.mark.parametrize(("program", "option"), [("dcmcjpeg", "+e1"), ("dcmcjpls", "+il"), ("dcmcjpls", "+is")])
    def test_its_colours(self, dcmtk, program, option):
        plain = as_dicom(COLOUR, 8)
        assert np.array_equal(read_film(dcmtk(program, plain, option)).pixels, read_film(plain).pixels)

    @pytest.mark.parametrize("options", [("+eb",), ("+ep",), ("+ee",), ("+es",)])
    @pytest.mark.parametrize("bits", [8, 12])
    def test_its_lossy_jpeg_is_decoded_as_by_itself(self, dcmtk, options, bits):
        pixels = {8: GRAY, 12: TWELVE}[bits]
        plain = as_dicom(pixels, bits, WindowCenter=2 ** (bits - 1), WindowWidth=2**bits)
        encoded = dcmtk("dcmcjpeg", plain, *options, "+q", "95")
        own = read_film(dcmtk("dcmdjpeg", encoded)).pixels
        assert np.abs(read_film(encoded).pixels.astype(int) - own).max() <= 1

    @pytest.mark.parametrize("way", ["+s4", "+s2", "+n1", "+cr"])
    def test_its_lossy_colours(self, dcmtk, way):
        encoded = dcmtk("dcmcjpeg", as_dicom(COLOUR, 8), "+eb", "+q", "95", way)
        assert alike(read_film(encoded).pixels, COLOUR) > 0.995

    @pytest.mark.parametrize("number", [57, 70, 80, 81])
    def test_it_reads_the_streams_these_tests_rest_on(self, dcmtk, number):
        program = "dcmdjpls" if number >= 80 else "dcmdjpeg"
        data = as_dicom(DEEP, 16, syntax=f"{JPEG}{number}", frame=by_gdcm(DEEP, 16, number))
        assert np.array_equal(read_film(dcmtk(program, data)).pixels, read_film(as_dicom(DEEP, 16)).pixels)


def test_one_line_serves_all_threads():
    read_film(LS)
    pid = decoders.decoding_pid()
    threads = [threading.Thread(target=read_film, args=(path,)) for path in (LS, LOSSLESS) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoders.decoding_pid() == pid


def test_subsampled_colour_of_an_odd_number_of_pixels_is_refused():
    data = as_dicom(COLOUR[:3, :3].copy(), 8, PhotometricInterpretation="YBR_FULL_422")
    assert "Columns is 3" in refusal(data)
