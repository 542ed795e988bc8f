"""A bundle made before the vocabulary grew is read by its manifest: its labels, its heatmaps."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cxrlines
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.task import LABELS

READ = """
import json, sys
from cxrlines.reading.batch import predict
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.reader import EMBEDDED
from cxrlines.task import LABELS, MAPS
result = predict([sys.argv[1]], load_bundle(EMBEDDED), lines=True)
print(json.dumps([len(LABELS), len(MAPS), list(result.rows.columns), list(result.each_dict())]))
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.png"
    scene = make_scene([5], [5, 1], size=400, balance="even", site="a")
    Image.fromarray(render(scene, difficulty=0.2, site="a", rng=np.random.default_rng(5))).save(path)
    return path


def read(film: Path, place: Path) -> list:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    script = READ.replace("sys.argv[1]", "__import__('pathlib').Path(sys.argv[1])")
    done = subprocess.run([sys.executable, "-c", script, film], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("mapped", "maps"), [(False, 9), (True, 11)])
def test_the_embedded_bundle_reads_the_same_beside_a_fifth_device(
    film: Path, tmp_path: Path, mapped: bool, maps: int
) -> None:
    here = Path(cxrlines.__file__).resolve().parent
    shutil.copytree(here, tmp_path / "cxrlines", ignore=shutil.ignore_patterns("embedded", "__pycache__"))
    (tmp_path / "cxrlines/embedded").symlink_to(here / "embedded")
    task = tmp_path / "cxrlines/task.py"
    text = task.read_text()
    member, row = '    SWAN = "Swan Ganz Catheter"', "    Device.SWAN: DeviceSpec("
    spec = f'DeviceSpec("chest tube", (State.PRESENT,), (9, 9, 9), separator=" ", mapped={mapped}, optional=True)'
    text = text.replace(member, f'    CHEST_TUBE = "Chest Tube"\n{member}', 1)
    end = text.index("}\n", text.index(row))
    task.write_text(f"{text[:end]}    Device.CHEST_TUBE: {spec},\n{text[end:]}")

    count, channels, columns, found = read(film, tmp_path)
    assert (count, channels) == (len(LABELS) + 1, maps)
    labels, _, usual_columns, usual = read(film, here.parent)
    assert labels == len(LABELS) and columns == usual_columns
    for one, other in zip(found, usual, strict=True):
        assert one["lines"] and set(one["presence"]) == {"ETT", "NGT", "CVC", "SWAN"}
        for key in ("labels", "presence"):  # a layer of one output more rounds otherwise
            assert one.pop(key) == pytest.approx(other.pop(key), abs=1e-6)
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
