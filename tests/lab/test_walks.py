"""The walk of a command, on a package of a few lines."""

import importlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cxrlines.core.film import FILM_SUFFIXES
from cxrlines.lab import walks

FILES = {
    "__init__.py": "",
    "task.py": "def word(): return 'film'",
    "core/__init__.py": "def nothing(): pass",
    "core/errors.py": "def fail(): pass",
    "core/lines.py": "def length(): return 1",
    "io/__init__.py": "",
    "io/films.py": """
from walked.core import errors, lines, nothing
from walked import task
at_import = lines.length()
class Film:
    side = lines.length()
def read(show):
    nothing(), errors.fail(), task.word(), lines.length()
    for step in lengths():
        show(step)
    again()
    lines.length()
def again(): pass
def lengths():
    yield lines.length()
    yield lines.length()
""",
    "reading/__init__.py": "",
    "reading/reader.py": """
from walked.io import films
from walked.reading import show
def read():
    films.read(show.one)
    show.one(2)
    films.again()
""",
    "reading/show.py": "def one(step): pass",
}


def test_the_packages_are_the_rows_of_the_table():
    page = (Path(__file__).parents[2] / "docs/architecture.md").read_text("utf-8")
    table = page.split("## Who may import whom")[1].split("\n## ")[0]
    assert list(walks.PACKAGES) == re.findall(r"^\| `(\w+)` \|", table, re.M)


@pytest.fixture
def package(tmp_path, monkeypatch):
    root = tmp_path / "walked"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield root
    for name in [name for name in sys.modules if name.split(".")[0] == "walked"]:
        del sys.modules[name]


def test_files_in_order_and_what_turns_back(package):
    walk = walks.Walk(package)
    with walk.observed():
        importlib.import_module("walked.reading.reader").read()
    assert walk.files == ["reading/reader.py", "io/films.py", "core/lines.py", "reading/show.py"]
    assert walk.turns == [("io/films.py", "reading/show.py")]  # a callback into a package above
    assert walk.text().splitlines()[-1] == "4 files, 1 turns back"
    assert json.loads(json.dumps(walk.as_dict()))["turn_count"] == 1


def test_a_file_entered_earlier_is_a_turn_back_once(package):
    importlib.import_module("walked.reading.reader")
    show, lines = (importlib.import_module(f"walked.{name}") for name in ("reading.show", "core.lines"))
    walk = walks.Walk(package)
    with walk.observed():
        lines.length()
        show.one(1)
        importlib.import_module("walked.io.films").read(show.one)
    assert walk.files == ["core/lines.py", "reading/show.py", "io/films.py"]
    assert walk.turns == [("io/films.py", "core/lines.py"), ("io/films.py", "reading/show.py")]


def test_threads_are_followed_and_nothing_afterwards(package):
    show = importlib.import_module("walked.reading.show")
    walk = walks.Walk(package)
    with walk.observed():
        thread = threading.Thread(target=show.one, args=(1,))
        thread.start()
        thread.join()
    importlib.import_module("walked.io.films").again()
    assert walk.files == ["reading/show.py"] and not walk.calls


@pytest.mark.long
def test_the_reading_of_a_film_is_followed(phantom):
    film = next(path for path in sorted((phantom / "test").iterdir()) if path.suffix in FILM_SUFFIXES)
    done = subprocess.run(
        [sys.executable, "-m", walks.__name__, "--json", "predict", str(film)], capture_output=True, check=True
    )
    walk = json.loads(done.stdout)
    assert walk["files"][0] == "cli/predict.py" and "io/films.py" in walk["files"]
    assert walk["count"] == len(walk["files"]) == len(set(walk["files"]))
    assert {tuple(turn) for turn in walk["turns"]} <= {(a, b) for a in walk["files"] for b in walk["files"]}
