"""The wheel in a bare environment: what a person gets who types `pip install cxrlines`, and how much of it."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import httpx
import pytest

from .serving import DEADLINE_S, EXAMPLE, serving

pytestmark = pytest.mark.doors
ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
HEAVY = ("torch", "torchvision", "timm", "lightning", "pandas", "scipy", "skimage", "sklearn", "tensorboard")
MB = 1_000_000
DOWNLOAD, DISK = 150 * MB, 430 * MB
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
    """Bytes of all files below a folder, but of compiled bytecode, which comes with use."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".pyc")
    return sum(path.stat().st_size for path in files)


def environment(place: Path, name: str, extra: str = "") -> Path:
    """The folder of programs of a new environment with the wheel, maybe an extra, and what they depend on."""
    call(UV, "venv", "--quiet", "--python", sys.executable, place / name, folder=place)
    (wheel,) = (place / "wheel").glob("*.whl")
    python = place / name / "bin/python"
    call(UV, "pip", "install", "--quiet", "--python", python, f"{wheel}{extra}", folder=place)
    return python.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    """A folder with `wheel/`, `bare/` (an environment with that wheel and what it depends on) and `bare/bin`."""
    folder = tmp_path_factory.mktemp("light")
    call(UV, "build", "--quiet", "--wheel", "--out-dir", folder / "wheel", ROOT, folder=folder)
    environment(folder, "bare")
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


@pytest.mark.parametrize(("extra", "words"), [
    ("train", ["train", "demo", "--data", "x", "--out", "y"]),
    ("train", ["check", "x"]),
    ("train", ["bundle", "x", "--out", "y", "--prior", "t.csv"]),
    ("evaluate", ["evaluate", "x.csv", "y.csv"]),
    ("evaluate", ["folds", "x.csv"]),
    ("serve", ["serve"]),
    ("pacs", ["listen"]),
], ids=lambda value: value if isinstance(value, str) else value[0])  # fmt: skip
def test_a_command_says_which_extra_it_needs(place, extra, words):
    assert f"pip install 'cxrlines[{extra}]'" in refusal(place, *words)


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


@pytest.fixture(scope="module")
def phantoms(place) -> Path:
    """A data folder of three training and three test films, made there."""
    call(place / "bare/bin/cxrlines", "synth", "data", "--studies", 3, "--test", 3, "--size", 128, folder=place)
    return place / "data"


def test_a_folder_is_read_there_into_every_file(place, phantoms):
    read = [place / "bare/bin/cxrlines", "predict", phantoms / "test", "--out", "out/readings.csv"]
    call(*read, "--resume", "--json", folder=place)
    film = next((phantoms / "test").iterdir())
    patient = "--patient-id", "P", "--study-uid", "1.2.3"
    call(place / "bare/bin/cxrlines", "predict", film, "--dicom", "out/dicom", *patient, folder=place)
    with (place / "out/readings.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (phantoms / "test_truth.csv").open(newline="") as file:
        truth, *known = csv.reader(file)
    assert header == truth[: len(header)] and {row[0] for row in rows} == {row[0] for row in known}
    assert all(0 < float(cell) < 1 for row in rows for cell in row[1:])
    assert len(json.loads((place / "out/readings.json").read_text())) == 3
    results = sorted(path.name for path in (place / "out/dicom").rglob("*.dcm"))
    assert results == ["film.dcm", "pr.dcm", "sc.dcm", "sr.dcm"]


def test_a_data_folder_is_shown_indexed_and_judged_there(place, phantoms):
    cxrlines = place / "bare/bin/cxrlines"
    call(cxrlines, "show", phantoms, "--size", 64, "--out", "sheet.png", folder=place)
    assert (place / "sheet.png").stat().st_size > 5_000
    call(cxrlines, "index", phantoms, "--out", "index.safetensors", folder=place)
    film = next((phantoms / "train").iterdir())
    near = json.loads(call(cxrlines, "similar", film, "--index", "index.safetensors", "--json", folder=place))
    assert film.stem not in {neighbour["study"] for neighbour in near} and 1 <= len(near) <= 2
    judged = call(cxrlines, "evaluate-bundle", phantoms, "--resamples", 10, "--json", folder=place)
    assert json.loads(judged)["films"] == 3


def test_real_films_are_judged_there_by_their_marks(place, phantoms):
    films = place / "films"
    films.mkdir()
    marks = {}
    for film in (phantoms / "test").iterdir():
        shutil.copy(film, films)
        marks[film.stem] = {"carina": [60, 50], "lines": [{"device": "drain", "path": [[9, 9], [60, 60]]}]}
    (place / "marks.json").write_text(json.dumps({"films": marks}))
    (films / "index.csv").write_text("".join(["image_id,patient_id\n", *(f"{name},{name}\n" for name in marks)]))
    words = ["evaluate-bundle", films, "--marks", "marks.json", "--resamples", 10, "--json"]
    assert json.loads(call(place / "bare/bin/cxrlines", *words, folder=place))["films"] == 3


def test_a_folder_goes_through_the_module_there(place):
    (place / "in").mkdir()
    shutil.copy(EXAMPLE, place / "in/example.jpg")
    call(place / "bare/bin/cxrlines", "module", "in", "results", folder=place)
    assert (place / "results/result.json").stat().st_size > 100


def test_films_are_served_and_corrected_without_pandas(place):
    """With the extras of the services, which bring no pandas either."""
    programs = environment(place, "services", "[serve,pacs]")
    code = f"import cxrlines.pacs.node, importlib.util as u; print([m for m in {HEAVY} if u.find_spec(m)])"
    assert call(programs / "python", "-c", code, folder=place).strip() == "[]"
    with serving("--project", place / "project", python=programs / "python") as server:
        films = f"{server.wait()}/v1/films"
        kind = {"Content-Type": "image/jpeg"}
        film = httpx.post(films, content=EXAMPLE.read_bytes(), headers=kind, timeout=DEADLINE_S).json()
        said = {"author": "R. Reader", "comment": "seen"}
        saved = httpx.put(f"{films}/{film['id']}/corrections", json=said, timeout=DEADLINE_S)
        assert saved.status_code == 200, saved.text
    tables = (place / "project/train.csv").read_text()
    assert len(tables.splitlines()) == 2
    call(place / "bare/bin/cxrlines", "corrections", "export", "project", "--label-studio", "t.json", folder=place)
    assert len(json.loads((place / "t.json").read_text())) == 1


def test_readings_are_evaluated_there_with_the_small_extra(place):
    labels = "StudyInstanceUID,PatientID,ETT - Abnormal,ETT - Borderline,ETT - Normal,NGT - Abnormal,NGT - Borderline"
    labels += ",NGT - Incompletely Imaged,NGT - Normal,CVC - Abnormal,CVC - Borderline,CVC - Normal"
    labels += ",Swan Ganz Catheter Present"
    rows = [f"s{i},p{i // 2}," + ",".join([str(i % 2)] * 11) for i in range(6)]
    (place / "t.csv").write_text("\n".join([labels, *rows]) + "\n")
    cxrlines = environment(place, "small", "[evaluate]") / "cxrlines"
    told = call(cxrlines, "evaluate", "t.csv", "t.csv", "--json", "--resamples", 10, folder=place)
    assert json.loads(told)["macro_auc"] == 1.0
    assert "fold 1" in call(cxrlines, "folds", "t.csv", "--count", 2, "--out", "folds.csv", folder=place)


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
