"""The library leaves the process that uses it as it found it.

Run as a script this file is such a process: it imports what cxrlines builds on, notes down the state of the process,
imports and uses cxrlines step by step, and prints what differs after each. A child is a process that it leaves behind.
"""

import contextlib
import csv
import decimal
import importlib
import io
import json
import locale
import logging
import multiprocessing
import os
import pkgutil
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

OTHERS = [
    "PIL.Image", "PIL.ImageFile", "PIL.ImageOps", "PIL.TiffImagePlugin", "concurrent.futures.process", "cv2",
    "filelock", "jinja2", "lightning.pytorch", "numpy", "openjpeg", "pandas", "pydantic", "pydicom", "pydicom.pixels",
    "pydicom.encaps", "rich.progress", "safetensors.torch", "scipy.optimize", "scipy.spatial", "scipy.stats",
    "segmentation_models_pytorch", "timm", "torch.utils.data", "torch.utils.tensorboard", "torchvision", "typer",
    "yaml",
]  # fmt: skip
"""What cxrlines builds on: what these do to a process is not ours."""
STEPS = ("imports", "film", "dicom", "folder", "table", "drawing", "reading", "loading", "training")


def state() -> dict[str, Any]:
    """All that a process shares with everybody in it, as values that compare and print."""
    import cv2
    import numpy as np
    import pydicom.charset
    import pydicom.config
    import torch
    from PIL import Image, ImageFile

    found: dict[str, Any] = {}
    root = logging.getLogger()
    for name, logger in {"root": root, **root.manager.loggerDict}.items():
        if isinstance(logger, logging.Logger):
            about = (logger.level, logger.propagate, logger.disabled, len(logger.handlers), len(logger.filters))
            found[f"logger {name}"] = about
    found["logging.disable"] = root.manager.disable
    found["warnings.filters"] = [str(entry) for entry in warnings.filters]
    found["warnings.showwarning"] = repr(warnings.showwarning)
    simple = (bool, int, float, str, type(None))
    for name, value in vars(pydicom.config).items():
        if isinstance(value, simple) and not name.startswith("__"):
            found[f"pydicom.config.{name}"] = value
    for name, value in vars(pydicom.config.settings).items():
        found[f"pydicom.config.settings.{name}"] = str(value)
    found["pydicom.charset"] = sorted(pydicom.charset.python_encoding)
    found["csv.field_size_limit"] = csv.field_size_limit()
    found["csv.dialects"] = csv.list_dialects()
    found["cv2"] = (cv2.getNumThreads(), cv2.useOptimized(), cv2.ocl.useOpenCL())
    found["torch.threads"] = (torch.get_num_threads(), torch.get_num_interop_threads())
    found["torch.modes"] = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_inference_mode_enabled())
    found["torch.exactness"] = (
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        torch.get_float32_matmul_precision(),
    )
    found["torch.sharing"] = torch.multiprocessing.get_sharing_strategy()
    found["numpy.geterr"] = np.geterr()
    found["numpy.printoptions"] = str(np.get_printoptions())
    found["numpy.random"] = str(np.random.get_state())  # noqa: NPY002
    found["random"] = hash(random.getstate())
    found["PIL"] = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    found["signals"] = {number.name: str(signal.getsignal(number)) for number in signal.valid_signals() if number > 0
                        and isinstance(number, signal.Signals)}  # fmt: skip
    found["locale"] = locale.setlocale(locale.LC_ALL)
    # Two switches are set where the host has not set them, and nothing else: tests/test_telemetry.py.
    switches = dict.fromkeys(("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"), "1")
    found["environment"] = switches | dict(os.environ)
    found["cwd"] = str(Path.cwd())
    umask = os.umask(0)
    os.umask(umask)
    found["umask"] = umask
    found["sys.path"] = list(sys.path)
    hooks = (sys.excepthook, sys.displayhook, sys.unraisablehook, threading.excepthook)
    found["hooks"] = [repr(hook) for hook in hooks]
    found["streams"] = [id(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)]
    found["limits"] = (sys.getrecursionlimit(), sys.getswitchinterval(), socket.getdefaulttimeout())
    found["decimal"] = str(decimal.getcontext())
    default = multiprocessing.get_all_start_methods()[0]
    found["multiprocessing"] = multiprocessing.get_start_method(allow_none=True) or default  # asking sets the default
    return found


def settle() -> None:
    """Settings of a host that are nobody's defaults, so that a default put back is noticed."""
    import cv2
    import torch

    cv2.setNumThreads(3)
    torch.set_num_threads(3)
    csv.field_size_limit(77_777)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)


def make(folder: Path) -> None:
    """A data folder of phantoms, and a film of each kind that is decoded in a way of its own."""
    import numpy as np
    import pydicom
    from PIL import Image
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

    from cxrlines.phantom.dataset import write_phantom

    write_phantom(folder / "data", studies=4, seed=1, size=256, test=0, workers=1)
    pixels = np.asarray(Image.open(min((folder / "data/train").iterdir())).convert("L"))
    pixels = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
    Image.fromarray(pixels).save(folder / "film.png")
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG")
    for name, syntax, data in (
        ("plain.dcm", ExplicitVRLittleEndian, pixels.tobytes()),
        ("packed.dcm", JPEGBaseline8Bit, encapsulate([packed.getvalue()])),
    ):
        film = pydicom.Dataset()
        film.file_meta = pydicom.dataset.FileMetaDataset()
        film.file_meta.TransferSyntaxUID = syntax
        film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = generate_uid()
        film.StudyInstanceUID, film.SeriesInstanceUID = generate_uid(), generate_uid()
        film.SpecificCharacterSet = "KOI8-R"  # which is none of DICOM's
        film.Rows, film.Columns = pixels.shape
        film.SamplesPerPixel, film.PhotometricInterpretation, film.PixelRepresentation = 1, "MONOCHROME2", 0
        film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
        film.PixelData = data
        film.save_as(folder / name, enforce_file_format=True)


def imports(folder: Path) -> None:
    import cxrlines

    for module in pkgutil.walk_packages(cxrlines.__path__, "cxrlines."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                if (error.name or "").startswith("cxrlines"):  # else a package that is optional and not installed
                    raise


def film(folder: Path) -> None:
    from cxrlines.core.film import FilmError
    from cxrlines.io.films import read_film

    assert read_film(folder / "film.png").pixels.ndim == 2
    (folder / "cut.png").write_bytes((folder / "film.png").read_bytes()[:2000])
    with contextlib.suppress(FilmError):
        read_film(folder / "cut.png")
    (folder / "cut.png").unlink()


def dicom(folder: Path) -> None:
    from cxrlines.core.film import FilmError
    from cxrlines.io.films import read_film

    for name in ("plain.dcm", "packed.dcm"):
        assert read_film(folder / name).format == "DICOM"
    with contextlib.suppress(FilmError):
        read_film((folder / "packed.dcm").read_bytes()[:-3000], name="cut")


def folder(folder: Path) -> None:
    from cxrlines.io.audit import audit
    from cxrlines.reading.probe import embedded_probe

    assert audit(folder / "data", workers=1, probe=embedded_probe()).counts["films read"] == 4
    assert audit(folder / "data", workers=2, probe=embedded_probe()).counts["films read"] == 4


def table(folder: Path) -> None:
    from cxrlines.io.folds import make_folds, read_folds, write_folds
    from cxrlines.io.tables import read_dataset, read_labels

    labels = read_labels(folder / "data/train.csv")
    assert len(read_dataset(folder / "data").studies) == len(labels) == 4
    write_folds(labels, make_folds(labels, 2), folder / "folds.csv")
    read_folds(folder / "folds.csv")


def drawing(folder: Path) -> None:
    import numpy as np

    from cxrlines.augment.policy import make_policy
    from cxrlines.core.line_drawing import line_mask
    from cxrlines.io.sheet import contact_sheet

    assert line_mask([np.array([[1.0, 1], [30, 20]])], (40, 40), 2).any()
    make_policy("hotwater", 64)(np.zeros((90, 90), np.uint8), np.random.default_rng(0), points=[])
    contact_sheet(folder / "data", folder / "sheet.png", films=2, columns=2, size=64, seed=0, lines=True)


def reading(folder: Path) -> None:
    import cxrlines
    from cxrlines.reading.results.dicom.objects import result_objects
    from cxrlines.reading.results.dicom.read_by import ReadBy

    reader = cxrlines.load_reader()
    for name in ("film.png", "packed.dcm"):
        found = reader.read(folder / name)
    assert result_objects((folder / name).read_bytes(), found, ReadBy.of(reader.bundle, "onnx", ()))


def _film_set() -> Any:
    import numpy as np

    from cxrlines.core.transform import Affine
    from cxrlines.task import LABELS
    from cxrlines.training.loader import Films, FilmSet

    pixels = np.random.default_rng(0).integers(0, 255, (8, 40, 40), dtype=np.uint8)
    store = SimpleNamespace(films=pixels, placements=[Affine(((1, 0, 0), (0, 1, 0)))] * 8)
    targets = np.eye(8, len(LABELS), dtype=np.float32)
    lines = [[(LABELS[0], np.array([[5.0, 5], [30, 30]]))]] * 8
    return FilmSet(Films(store, np.arange(8), targets, lines), "hotwater", 32, seed=0)  # type: ignore[arg-type]


def loading(folder: Path) -> None:
    assert _film_set()[0, 0]["film"].shape == (1, 32, 32)


def training(folder: Path) -> None:
    from cxrlines.models.classifier import Classifier
    from cxrlines.training.config import ScheduleSpec, StageConfig
    from cxrlines.training.module import StageModule
    from cxrlines.training.prediction import predict_films

    model = Classifier("resnet10t", "gap", in_channels=1, weights="none")
    StageModule(
        model, StageConfig(ScheduleSpec(epochs=1, batch=4, lr=1e-3), seed=5), _film_set(), _film_set(), view="plain"
    ).fit()
    assert predict_films(model, _film_set()).shape == (8, 11)


def main(place: Path) -> None:
    """Do each step; print as JSON what differs after it from before, or the error it ended in."""
    for name in OTHERS:
        importlib.import_module(name)
    subprocess.run([sys.executable, __file__, "make", str(place)], check=True)  # in another process, not in this one
    settle()
    found: dict[str, Any] = {}
    last = state()
    for step in STEPS:
        try:
            globals()[step](place)
        except Exception as error:
            found[step] = f"{type(error).__name__}: {error}"
            break
        now = state()
        # A logger that is new is its owner's; what holds of one that was there holds on.
        found[step] = {
            name: [repr(last[name])[:2000], repr(now.get(name))[:2000]] for name in last if last[name] != now.get(name)
        }
        last |= now
    print(json.dumps(found))


@pytest.fixture(scope="module")
def host(tmp_path_factory) -> tuple[dict[str, Any], list[int]]:
    """What each step changed in a process, and the processes of its session that outlived it."""
    place = tmp_path_factory.mktemp("host")
    process = subprocess.Popen(
        [sys.executable, __file__, str(place)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0
    for _ in range(600):  # what ends with its parent needs a moment to notice
        if not (left := _in_session(process.pid)):
            break
        time.sleep(0.1)
    for number in left:
        os.kill(number, signal.SIGKILL)
    return json.loads(out.splitlines()[-1]), left


def _in_session(session: int) -> list[int]:
    """The processes of a session that are not dead, as far as /proc tells."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            status, _, _, of = entry.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(of) == session and status not in "ZX":
            found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize("step", STEPS)
def test_a_process_is_left_as_it_was(host, step):
    assert host[0].get(step, "a step before it failed") == {}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_process_outlives_the_interpreter(host):
    assert host[1] == []


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
