"""The wheel in a bare environment: what a person gets who types `pip install cxrlines`, and how much of it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

pytestmark = pytest.mark.doors
ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
HEAVY = ("torch", "torchvision", "timm", "lightning", "scipy", "skimage", "sklearn", "tensorboard")
MB = 1_000_000
DOWNLOAD, DISK = 172 * MB, 470 * MB
"""What an install may take, all dependencies included: the wheels that are fetched, and the environment."""
PLAIN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def call(*words: object, folder: Path, code: int = 0) -> str:
    """Standard output of a command that runs in `folder` and ends with `code`."""
    done = subprocess.run(
        [*map(str, words)], cwd=folder, env=PLAIN, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with `wheel/`, `bare/` (an environment with that wheel and what it depends on) and `bare/bin`."""
    folder = tmp_path_factory.mktemp("light")
    call(UV, "build", "--quiet", "--wheel", "--out-dir", folder / "wheel", ROOT, folder=folder)
    call(UV, "venv", "--quiet", "--python", sys.executable, folder / "bare", folder=folder)
    (wheel,) = (folder / "wheel").glob("*.whl")
    python = folder / "bare/bin/python"
    call(UV, "pip", "install", "--quiet", "--python", python, wheel, folder=folder)
    yield folder
    shutil.rmtree(folder)  # half a gigabyte, with what is carried


def test_the_package_is_imported_and_says_what_it_is(place):
    code = "import cxrlines; print(cxrlines.__file__, cxrlines.__version__)"
    told = call(place / "bare/bin/python", "-c", code, folder=place)
    assert str(place) in told, "it is the installed one"
    assert "Usage" in call(place / "bare/bin/cxrlines", "--help", folder=place)
    assert "predict --example" in call(place / "bare/bin/cxrlines", folder=place)


def test_nothing_that_trains_is_installed(place):
    code = f"import importlib.util as u; print([m for m in {HEAVY} if u.find_spec(m)])"
    assert call(place / "bare/bin/python", "-c", code, folder=place).strip() == "[]"
    assert "pip install 'cxrlines[train]'" in refusal(place, "train", "demo", "--data", "x", "--out", "y")


def refusal(place: Path, *words: str) -> str:
    done = subprocess.run(
        [place / "bare/bin/cxrlines", *words], cwd=place, env=PLAIN, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and not done.stdout and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_the_wheel_holds_what_it_needs_and_no_tests(place):
    found = json.loads(call(place / "bare/bin/cxrlines", "doctor", "--json", folder=place))
    assert found["broken"] == {} and found["engines"]["PyTorch"].startswith("none (")
    packages = next((place / "bare/lib").glob("python*")) / "site-packages"
    names = {path.name for path in packages.iterdir()}
    assert "tests" not in names and (packages / "cxrlines/py.typed").is_file()
    assert (packages / "cxrlines/embedded/example.jpg").is_file()
    assert (packages / "cxrlines/web/static/index.html").is_file()


def test_the_example_is_read_there(place):
    printed = call(place / "bare/bin/cxrlines", "predict", "--example", "--json", "--draw", "drawn", folder=place)
    (film,) = json.loads(printed)
    assert {line["device"] for line in film["lines"]} >= {"ETT", "NGT"} and film["labels"]["ETT - Abnormal"] > 0.5
    assert (place / "drawn/example.png").stat().st_size > 10_000


def test_readings_are_evaluated_there(place):
    labels = "StudyInstanceUID,PatientID,ETT - Abnormal,ETT - Borderline,ETT - Normal,NGT - Abnormal,NGT - Borderline"
    labels += ",NGT - Incompletely Imaged,NGT - Normal,CVC - Abnormal,CVC - Borderline,CVC - Normal"
    labels += ",Swan Ganz Catheter Present"
    rows = [f"s{i},p{i // 2}," + ",".join([str(i % 2)] * 11) for i in range(6)]
    (place / "t.csv").write_text("\n".join([labels, *rows]) + "\n")
    told = call(place / "bare/bin/cxrlines", "evaluate", "t.csv", "t.csv", "--json", "--resamples", 10, folder=place)
    assert json.loads(told)["macro_auc"] == 1.0


@pytest.fixture(scope="module")
def downloaded(place) -> int:
    """Bytes of the wheel and of the wheels it depends on, fetched as pip fetches them."""
    pins = call(UV, "pip", "freeze", "--python", place / "bare/bin/python", folder=place).splitlines()
    (place / "pins.txt").write_text("".join(f"{pin}\n" for pin in pins if not pin.startswith("cxrlines")))
    where = place / "wheels"
    call(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
         "--requirement", "pins.txt", "--dest", where, folder=place)  # fmt: skip
    own = next(pin for pin in pins if pin.startswith("cxrlines"))
    shutil.copy(unquote(urlparse(own.split(" @ ")[1]).path), where)
    return folder_size(where)


def test_it_is_small(place, downloaded):
    on_disk = folder_size(place / "bare")
    print(f"download {downloaded / MB:.0f} MB, on disk {on_disk / MB:.0f} MB")
    assert downloaded <= DOWNLOAD and on_disk <= DISK


def test_it_is_installed_without_the_internet_from_wheels_that_were_carried(place, downloaded):
    call(UV, "venv", "--quiet", "--python", sys.executable, place / "carried", folder=place)
    python = place / "carried/bin/python"
    call(UV, "pip", "install", "--quiet", "--offline", "--no-cache", "--no-index", "--find-links", place / "wheels",
         "--python", python, "cxrlines", folder=place)  # fmt: skip
    assert "films can be read" in call(place / "carried/bin/cxrlines", "doctor", folder=place)
