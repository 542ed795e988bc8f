"""The soak of the reading of films, in small; and that it would notice."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cxrlines.cli import app
from cxrlines.core.processes import Died
from cxrlines.lab import robustness
from cxrlines.lab.film_damages import DAMAGES
from cxrlines.lab.intact_films import as_dicom, images, picture
from cxrlines.lab.robustness import Report, film_of, soak

INTACT = [film.data for film in images(np.random.default_rng(0), 40, 48)]


def test_300_films():
    steps = []
    report = soak(300, seed=0, progress=lambda done, total: steps.append((done, total)))
    assert report.passed, report
    assert report.read + report.refused == report.films == 300
    assert report.undamaged[1] > 5 and report.forgiven[1] > 10 and report.refused > 100
    assert steps == [(number + 1, 300) for number in range(300)]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_20_000_films():
    report = soak(20_000, seed=int(os.environ.get("CXRLINES_SEED", "1")))
    assert report.passed, report


def test_the_command(monkeypatch):
    answer = Report(films=3, read=2, refused=1, undamaged=(1, 1))
    monkeypatch.setattr(robustness, "soak", lambda films, seed, progress: answer)
    done = CliRunner().invoke(app, ["bench", "robustness", "--films", "3", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == json.loads(json.dumps(asdict(answer)))


class TestCounts:
    """What a soak would say of films that are read wrongly, slowly, with much memory, or deadly."""

    class Asking:
        def __init__(self, answer: dict | None) -> None:
            self.answers = iter(() if answer is None else (json.dumps(answer).encode(), b""))

        def send(self, data: bytes) -> None:
            pass

        def receive(self, seconds: float) -> bytes:
            try:
                return next(self.answers)
            except StopIteration:
                raise Died("ended") from None

        def kill(self) -> None:
            pass

    def of(self, monkeypatch, answer: dict | None, sort: str = "damaged") -> Report:
        case = robustness.Case("a film", b"", sort, np.arange(6.0).reshape(2, 3))
        monkeypatch.setattr(robustness, "_begin", lambda: self.Asking(answer))
        monkeypatch.setattr(robustness, "_Library", lambda seed: type("", (), {"case": lambda self, number: case})())
        return soak(1, 0)

    @pytest.mark.parametrize(
        ("answer", "counted"),
        [
            (None, {"died": 1}),
            ({"fault": "IndexError: 7"}, {"faults": {"IndexError: 7": 1}}),
            ({"refused": "no film", "seconds": 2.5}, {"slow": 1, "slowest_s": 2.5, "refused": 1}),
            ({"shape": [0, 0], "megabytes": 600}, {"large": 1, "largest_mb": 600, "read": 1}),
            ({"refused": "no film", "decoder_died": 1}, {"decoder_died": 1, "refused": 1}),
        ],
    )
    def test_of_damaged_films(self, monkeypatch, answer, counted):
        report = self.of(monkeypatch, answer)
        assert {name: getattr(report, name) for name in counted} == counted
        assert report.passed == (set(counted) <= {"slow", "slowest_s", "refused", "decoder_died"})
        assert bool(report.odd) == (counted.keys() & {"died", "faults", "slow", "large"} != set())

    @pytest.mark.parametrize("sort", ["undamaged", "forgiven"])
    def test_of_films_that_must_be_read(self, monkeypatch, sort):
        report = self.of(monkeypatch, {"refused": "it is damaged"}, sort)
        assert getattr(report, sort) == (0, 1) and not report.passed
        assert report.odd == [(0, "a film", "it is damaged")]


def test_what_is_read_right():
    shows = picture(np.random.default_rng(0), 30, 40)
    assert robustness._alike(shows // 2 + 30, shows)
    assert not robustness._alike(255 - shows, shows) and not robustness._alike(shows[:20], shows)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured by /proc")
def test_memory_that_is_given_back_counts():
    script = """
import os, numpy as np
from cxrlines.lab.robustness import _Meter
meter, pids = _Meter(), [os.getpid()]
for megabytes in (0, 150, 0):
    meter.start(pids)
    np.ones(megabytes * 2**17).sum()
    print(meter.stop(pids)[1])
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(robustness.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    nothing, much, again = map(float, done.stdout.split())
    assert 140 < much < 250 and nothing < 50 and again < 50


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_changes_films_as_its_seed_says(name):
    films = [*INTACT, as_dicom(picture(np.random.default_rng(0), 40, 48, 12), 12)]
    changed = Counter()
    for number, film in enumerate(films):
        one, again = (DAMAGES[name](np.random.default_rng(number), film) for _ in range(2))
        assert one == again
        changed[one != film] += 1
    assert changed[True] > 0.6 * len(films)


def test_a_film_can_be_had_by_its_number(monkeypatch):
    monkeypatch.setattr(robustness, "SIZES", ((40, 48),))
    monkeypatch.setattr(robustness, "LARGE", (48, 40))
    (name, data), other = film_of(0, 5), film_of(0, 6)
    assert (name, data) == film_of(0, 5) != other and isinstance(name, str) and data
