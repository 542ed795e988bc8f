"""docs/api.md: its examples run against a server, and its table of settings is the truth."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from cxrlines.web.serve_settings import ServeSettings

from .serving import DEADLINE_S, EXAMPLE, serving

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)


def test_settings_and_their_defaults_are_those_of_the_page():
    (text,) = (text for language, text in BLOCKS if language == "text")
    said = tomllib.loads(text)
    fields = ServeSettings.model_fields
    assert set(said) == set(fields)
    for name, value in said.items():
        default = fields[name].default
        assert (
            value in ("FOLDER", "FILE") if default is None else value == (list(default) if default == () else default)
        )


def test_every_code_of_the_server_is_on_the_page():
    web = Path(__file__).parents[2] / "src/cxrlines/web"
    text = "\n".join(path.read_text("utf-8") for path in web.glob("*.py"))
    codes = set(re.findall(r'Problem\(\s*\d{3}, "([\w-]+)"', text)) | set(re.findall(r'_refused\("([\w-]+)"', text))
    assert len(codes) > 20
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


@pytest.mark.doors
def test_the_examples_run(tmp_path):
    shutil.copy(EXAMPLE, tmp_path / "film.jpg")
    dicom = get_testdata_file("RG1_UNCR.dcm")
    assert dicom is not None, "pip install pydicom-data"
    shutil.copy(str(dicom), tmp_path / "film.dcm")
    with serving() as server:
        address = server.wait()
        for language, text in BLOCKS:
            code = text.replace("http://127.0.0.1:8080", address)
            if language == "bash":
                command = ["bash", "-euo", "pipefail", "-c", code]
            elif language == "python":
                command = [sys.executable, "-c", code]
            else:
                continue
            environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
            ran = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE_S
            )
            assert ran.returncode == 0, f"{code}\n{ran.stdout}{ran.stderr}"
            if language == "python":
                assert ran.stdout.startswith("ETT [")
    assert json.loads((tmp_path / "findings.json").read_text())["lines"]
    assert len(json.loads((tmp_path / "many.json").read_text())["films"]) == 2
    assert pydicom.dcmread(tmp_path / "report.dcm").Modality == "SR"
    assert Image.open(tmp_path / "drawing.png").format == "PNG"
