"""Importing the lower packages is cheap: decoders and networks are loaded where they are used."""

import os
import subprocess
import sys
from pathlib import Path

import cxrlines

HEAVY = {"torch", "pydicom", "cv2", "scipy", "pandas"}


def test_no_heavy_package_is_imported():
    names = "errors, files, film, notes, pool, processes, quality, spacing, text, transform"
    script = f"import sys, cxrlines.io.films, cxrlines.io.dicom; from cxrlines.core import {names}; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(cxrlines.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert not HEAVY & set(done.stdout.split())


def imported(module: str) -> set[str]:
    """What an import brings into a new interpreter, beside what is there anyway."""
    script = f"import sys; before = {{*sys.modules}}; import {module}; print(*({{*sys.modules}} - before))"
    environment = {**os.environ, "PYTHONPATH": str(Path(cxrlines.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.split())


def test_the_package_itself_brings_next_to_nothing():
    """So that it takes milliseconds; it was some 45 modules, all of them Python's own."""
    brought = imported("cxrlines")
    assert not (HEAVY | {"numpy", "pydantic", "onnxruntime", "PIL", "typer"}) & brought and len(brought) < 80


def test_reading_brings_what_every_film_needs():
    """Decoders, ONNX Runtime and tables come with the film, the network and the table that need them."""
    brought = imported("cxrlines.reading.batch")
    late = {"onnxruntime", "gdcm", "openjpeg", "safetensors", "google.protobuf"}
    assert not (HEAVY - {"cv2"} | late) & brought
