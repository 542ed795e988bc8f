"""Processes that answer messages: they end with their parent, and their end is reported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxrlines.core import processes as child
from cxrlines.core.pool import cores
from cxrlines.core.processes import Child, Died, Overdue

MODULE = "child_that_answers"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module whose `serve` answers with the message and the process's own id, and does worse if asked to."""
    (tmp_path / f"{MODULE}.py").write_text(
        "import os, sys, time\n"
        "from cxrlines.core.processes import serving\n"
        "def answer(receive, send):\n"
        "    message = receive()\n"
        "    if message == b'abort': os.abort()\n"
        "    if message == b'sleep': time.sleep(600)\n"
        "    if message == b'half':\n"
        "        (connection,) = (cell.cell_contents for cell in send.__closure__)\n"
        "        os.write(connection.fileno(), b'\\0\\0\\0\\x09half'); time.sleep(600)\n"
        "    if message == b'fail': open(__file__ + '.missing')\n"
        "    if message == b'print': print('to nobody', flush=True); sys.stdin.read()\n"
        "    send(message + b' %d' % os.getpid())\n"
        "def serve(): serving(answer)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return MODULE


@pytest.mark.parametrize(
    ("files", "most"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "odd\n"}, 8),
        ({}, 8),
    ],
)
def test_cores_keep_within_a_containers_quota(tmp_path, monkeypatch, files, most):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(child, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert child.cores() == cores() == most


def gone(pid: int, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


class TestChild:
    def test_it_answers_again_and_again(self, module):
        one = Child(module, silent=True)
        for message in (b"a", b"", b"b" * 3_000_000, b"print"):
            one.send(message)
            assert one.receive(60) == message + b" %d" % one.process.pid
        one.kill()
        assert one.process.returncode == -signal.SIGKILL

    def test_death_and_silence_are_distinguished(self, module):
        one = Child(module, silent=True)
        one.send(b"abort")
        with pytest.raises(Died, match="ended"):
            one.receive(60)
        with pytest.raises(Died, match="ended"):
            one.send(b"a" * 10_000_000)
        other = Child(module, silent=True)
        other.send(b"sleep")
        with pytest.raises(Died, match=r"0\.2 s"):
            other.receive(0.2)
        for each in (one, other):
            each.kill()
            each.kill()  # as often as one likes

    @pytest.mark.skipif(sys.platform == "win32", reason="its pipes have no such limit")
    def test_one_that_reads_no_message_or_stops_in_its_answer_took_too_long(self, module, monkeypatch):
        monkeypatch.setattr(child, "STALLED_S", 0.2)
        one, other = Child(module, silent=True), Child(module, silent=True)
        os.kill(one.process.pid, signal.SIGSTOP)
        with pytest.raises(Overdue, match=r"0\.2 s"):
            one.send(b"a" * 10_000_000)
        other.send(b"half")
        with pytest.raises(Overdue, match=r"0\.2 s"):
            other.receive(60)
        for each in (one, other):
            each.kill()

    def test_an_error_of_its_work_is_shown_and_the_end_of_its_parent_is_none(self, module, capfd):
        one = Child(module)
        one.send(b"fail")
        with pytest.raises(Died, match="ended"):
            one.receive(60)
        one.process.wait(60)
        assert "FileNotFoundError" in capfd.readouterr().err
        other = Child(module)
        other.send(b"a")
        other.receive(60)
        other.connection.close()
        assert other.process.wait(60) == 0 and capfd.readouterr().err == ""

    def test_one_that_cannot_begin_is_dead(self):
        one = Child("there_is_no_such_module", silent=True)
        with pytest.raises(Died):
            one.send(b"a")
            one.receive(60)

    def test_it_ends_when_nobody_holds_it(self, module):
        one = Child(module, silent=True)
        one.send(b"a")
        one.receive(60)
        process = one.process
        del one
        assert process.returncode is not None

    @pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into /proc")
    @pytest.mark.parametrize("forked", [False, True])
    def test_it_ends_when_its_parent_is_killed(self, module, tmp_path, forked):
        # A fork holds the other end of the line open; the child sees all the same that its parent is another.
        script = f"""
import os, sys, time
from cxrlines.core.processes import Child
one = Child({module!r}, silent=True)
one.send(b"a"); one.receive(60)
if {forked} and os.fork() == 0:
    time.sleep(600)
print(one.process.pid, flush=True)
time.sleep(600)
"""
        path = os.pathsep.join([str(tmp_path), str(Path(child.__file__).parents[2])])
        parent = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            pid = int(parent.stdout.readline())
            parent.kill()
            parent.wait()
            assert gone(pid)
        finally:
            os.killpg(parent.pid, signal.SIGKILL) if forked else None
            parent.stdout.close()

    def test_a_fork_lets_go_of_it_without_ending_it(self, module):
        one = Child(module, silent=True)
        pid = os.fork()
        if pid == 0:
            one.forget()
            os._exit(0)
        os.waitpid(pid, 0)
        one.send(b"a")
        assert one.receive(60).startswith(b"a")
        one.kill()


def test_an_embedded_python_is_found(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    assert child._python() == str(Path(sys.prefix, "bin", "python3"))
