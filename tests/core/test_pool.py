"""Work in other processes: every item once, crashes, exceptions, an early end, and who may ask."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from operator import floordiv
from pathlib import Path

import pytest

from cxrlines.core.errors import Error
from cxrlines.core.pool import Team, in_parallel
from cxrlines.core.processes import Overdue


def square(number: int) -> int:
    return number * number


def die_of_seven(number: int) -> int:
    if number == 7:
        os.abort()
    return number


def die_once_of_seven(folder: Path, number: int) -> int:
    """As where the system ends a process for lack of memory."""
    tries = len(list(folder.iterdir()))
    if number == 7:
        (folder / str(tries)).touch()
        if not tries:
            os.kill(os.getpid(), signal.SIGKILL)
    return number


def interrupt_myself(number: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return number


def refuse(number: int) -> int:
    raise Error(f"{number} is refused", "take another")


class Unpicklable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("cannot be made anew from this")


def raise_unpicklable(number: int) -> int:
    raise Unpicklable(number, number)


def name_pid(folder: Path, number: int) -> int:
    (folder / str(os.getpid())).touch()
    if number:
        time.sleep(600)
    return number


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestParallel:
    @pytest.mark.parametrize("workers", [1, 2, 5])
    def test_every_item_once(self, workers):
        assert dict(in_parallel(square, range(50), workers, "")) == {n: n * n for n in range(50)}

    def test_nothing_to_do(self):
        assert list(in_parallel(square, [], 3, "")) == []

    def test_an_item_that_kills_its_process_costs_no_other(self):
        assert dict(in_parallel(die_of_seven, range(10), 2, "")) == {n: None if n == 7 else n for n in range(10)}

    def test_an_item_whose_process_was_ended_is_tried_once_more_and_last(self, tmp_path):
        done = list(in_parallel(partial(die_once_of_seven, tmp_path), range(10), 2, ""))
        assert dict(done) == {n: n for n in range(10)} and done[-1] == (7, 7)
        assert len(list(tmp_path.iterdir())) == 2

    def test_an_interrupt_is_for_the_parent_alone(self):
        assert dict(in_parallel(interrupt_myself, range(4), 2, "")) == {n: n for n in range(4)}

    @pytest.mark.parametrize("workers", [1, 2])
    def test_what_the_work_raises_is_raised_here(self, workers):
        with pytest.raises(Error) as caught:
            list(in_parallel(refuse, [3], workers, ""))
        assert (caught.value.what, caught.value.way_out) == ("3 is refused", "take another")

    def test_with_where_it_arose(self):
        with pytest.raises(ZeroDivisionError) as caught:
            list(in_parallel(partial(floordiv, 1), [1, 0], 2, ""))
        assert "Traceback" in "".join(caught.value.__notes__)

    def test_what_cannot_be_sent_arrives_as_text(self):
        with pytest.raises(RuntimeError, match="Unpicklable: cannot be made anew"):
            list(in_parallel(raise_unpicklable, range(2), 2, ""))

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
    def test_an_early_end_ends_the_processes(self, tmp_path, wait_until):
        done = in_parallel(partial(name_pid, tmp_path), [0, 1, 1, 1], 2, "")
        assert next(done) == (0, 0)
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        done.close()
        assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


class TestTeam:
    def test_a_process_that_takes_too_long_is_ended_and_replaced(self, tmp_path):
        team = Team(partial(name_pid, tmp_path), seconds=60)
        try:
            assert team.result(0) == 0
            (first,) = team.children.values()
            team.seconds = 0.2
            with pytest.raises(Overdue):
                team.result(1)
            assert first.process.returncode is not None
            team.seconds = 60
            assert team.result(0) == 0
        finally:
            team.stop()


class TestHosts:
    """`in_parallel` from where multiprocessing runs the caller's script again, or refuses."""

    SCRIPT = """
print("begun", flush=True)
import math
from cxrlines.core.pool import Team, in_parallel
from cxrlines.core.processes import Overdue
print(sum(root for _, root in in_parallel(math.sqrt, [1, 4, 9, 16], 2, "")), flush=True)
"""

    def run(self, script: str, *command: str) -> list[str]:
        source = str(Path(sys.modules["cxrlines"].__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": source}
        done = subprocess.run(
            [sys.executable, *command], input=script, text=True, capture_output=True, timeout=120, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def test_a_plain_script(self, tmp_path):
        (tmp_path / "script.py").write_text(self.SCRIPT)
        assert self.run("", str(tmp_path / "script.py")) == ["begun", "10.0"]

    def test_standard_input(self):
        assert self.run(self.SCRIPT, "-") == ["begun", "10.0"]

    def test_a_daemonic_process(self):
        script = f"""
import multiprocessing
def work():
    exec({self.SCRIPT!r})
child = multiprocessing.get_context("fork").Process(target=work, daemon=True)
child.start()
child.join(100)
"""
        assert self.run(script, "-") == ["begun", "10.0"]
