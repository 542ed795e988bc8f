"""Importing the lower rooms is cheap: decoders and networks are loaded where they are used."""

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
