"""How far work is, on stderr, where there is no terminal."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from cxrlines.core import counted, pool


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(counted, "LINE_EVERY_S", 0.0)


def test_a_line_says_how_much_is_done_and_how_long_the_rest_takes(capsys, monkeypatch):
    times = iter([0.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr(counted, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with counted.counted("reading films") as progress:
        progress(1, 4)
        progress(2, None)
        progress(4, 4)
    assert capsys.readouterr().err == "reading films: 1 of 4, 0:06 left\nreading films: 2\n"


def test_what_was_done_before_gives_no_line_and_no_speed(capsys, monkeypatch):
    times = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr(counted, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with counted.counted("reading films") as progress:
        progress(90, 100)
        progress(92, 100)
    assert capsys.readouterr().err == "reading films: 92 of 100, 0:12 left\n"


def test_lines_are_half_a_minute_apart(capsys, monkeypatch):
    monkeypatch.setattr(counted, "LINE_EVERY_S", 30.0)
    times = iter([0.0, 29.0, 31.0, 60.0, 61.0])
    monkeypatch.setattr(counted, "time", SimpleNamespace(monotonic=lambda: next(times)))
    with counted.counted("reading films") as progress:
        for done in range(1, 5):
            progress(done, None)
    assert capsys.readouterr().err == "reading films: 2\nreading films: 4\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_parallel_map_says_how_far_it_is(capsys, workers):
    assert sorted(pool.in_parallel(Path, ["a", "b", "c"], workers, "making films")) == [
        (number, Path(name)) for number, name in enumerate("abc")
    ]
    assert re.fullmatch(r"(making films: [12] of 3, 0:\d\d left\n){2}", capsys.readouterr().err)
