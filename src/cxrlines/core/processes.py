"""Worker processes that answer messages: plain subprocesses instead of multiprocessing.

They run nothing of the caller's script and need no `__main__` guard, may be started from anywhere (a thread, a
notebook, a daemonic process, a forked server), and nobody waits for them at exit: they end when their parent is gone.
"""

import contextlib
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

PATIENCE_S = 5.0
"""How often a child checks that its parent is alive: the connection stays open where a fork of the parent holds it."""
STALLED_S = 300.0
"""Longest that a message may stand still on its way to a child or from it: one that is stopped reads none, and one that
begins imports for a while."""
CGROUP = Path("/sys/fs/cgroup")
"""Where a Linux container sees its own limits."""
BOOT = """
import importlib, json, sys
paths = json.loads(sys.argv[1])
sys.path[:] = paths + [path for path in sys.path if path not in paths]
importlib.import_module(sys.argv[2]).serve()
"""


def cores() -> int:
    """Processor cores this process may use: those it may run on, and no more than its container's quota, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # cgroups of version 2, and 1
        try:
            quota, period = map(int, " ".join((CGROUP / name).read_text() for name in names).split())
        except (OSError, ValueError):  # no such file, or `max`: no quota
            continue
        if quota > 0 and period > 0:  # -1: no quota
            return min(allowed, -(-quota // period))
    return allowed


class Died(Exception):
    """The child ended before it answered, or took too long; the text says which."""


class Overdue(Died):
    """The child took too long."""


class Child:
    """A process that runs `module`'s `serve()`; see `serving` for its side.

    Not for several threads at once. A fork of this process must not use it, only `forget` it.
    """

    def __init__(self, module: str, *, silent: bool = False) -> None:
        ours, theirs = Pipe()
        out = subprocess.DEVNULL if silent else None
        paths = [*(str(path) for path in sys.path if path), str(Path(__file__).resolve().parents[2])]
        command = [_python(), "-I", "-c", BOOT, json.dumps(list(dict.fromkeys(paths))), module]
        with theirs:
            # In a session of its own Ctrl-C does not reach it: what is to end, the parent decides.
            self.process = subprocess.Popen(
                command, stdin=_stdin_of(theirs), stdout=out, stderr=out, start_new_session=True
            )
        _limit_stalls(ours)
        self.connection = ours
        self._end = weakref.finalize(self, _kill, self.process, ours, os.getpid())

    def send(self, *messages: bytes | memoryview) -> None:
        """Send messages; `Died` if the process ended, `Overdue` if it stops reading them."""
        try:
            for message in messages:
                self.connection.send_bytes(message)
        except BlockingIOError:
            raise Overdue(f"read no message for {STALLED_S:g} s") from None
        except OSError:
            raise Died("ended") from None

    def receive(self, seconds: float | None = None) -> bytes:
        """The next message. `Died` if the process ended, `Overdue` if none begins within `seconds` (None: no limit), or
        it is not sent to its end."""
        try:
            if not self.connection.poll(seconds):
                raise Overdue(f"took longer than {seconds:g} s")
            return self.connection.recv_bytes()
        except BlockingIOError:
            raise Overdue(f"stopped for {STALLED_S:g} s within its answer") from None
        except (EOFError, OSError):
            raise Died("ended") from None

    def kill(self) -> None:
        """End the process now."""
        self._end()

    def forget(self) -> None:
        """In a fork of the process that started it: close the connection, without ending the child."""
        self._end.detach()
        self.connection.close()
        self.process.returncode = 0  # else `Popen` warns of a child that still runs


# On Windows a connection is a named pipe with a handle, where a process's standard input is wanted by its number.
if sys.platform == "win32":
    import msvcrt
    from multiprocessing.connection import PipeConnection

    def _stdin_of(connection: PipeConnection) -> int:
        return msvcrt.open_osfhandle(connection.fileno(), 0)  # which ends with the connection

    def _connection_of(number: int) -> PipeConnection:
        return PipeConnection(msvcrt.get_osfhandle(number))

    def _limit_stalls(connection: PipeConnection) -> None:
        """Nothing: a named pipe has no such limit."""

else:

    def _stdin_of(connection: Connection) -> int:
        return connection.fileno()

    def _connection_of(number: int) -> Connection:
        return Connection(number)

    def _limit_stalls(connection: Connection) -> None:
        """Have the system end what blocks for `STALLED_S` within a message by `BlockingIOError`."""
        whole, rest = divmod(STALLED_S, 1)
        limit = struct.pack("@ll", int(whole), int(1e6 * rest))  # a `timeval`
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            same.setblocking(True)  # whatever this process has as its default timeout
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                same.setsockopt(socket.SOL_SOCKET, option, limit)


def _kill(process: subprocess.Popen[bytes], connection: Connection, owner: int) -> None:
    if os.getpid() == owner:  # the exit of a fork ends nothing
        process.kill()  # first: a process whose connection ends may end by itself meanwhile
        connection.close()
        process.wait()


def _python() -> str:
    """The interpreter. Where Python is embedded in a server, `sys.executable` is the server or empty."""
    path = Path(sys.executable or "")
    return str(path if "python" in path.name.lower() else Path(sys.prefix, "bin", "python3"))


def quiet_libraries() -> None:
    """Keep off stderr and out of logs what libraries of DICOM say of the values they meet, patients' among them.

    For commands and worker processes; a process that called the library is not ours to change.
    """
    for name in ("pydicom", "pynetdicom", "highdicom", "dicomweb_client"):
        warnings.filterwarnings("ignore", module=name)
        logger = logging.getLogger(name)
        logger.addHandler(logging.NullHandler())
        logger.propagate = False


class _ParentGone(Exception):
    """The parent closed its end of the connection, or is gone."""


def serving(answer: Callable[[Callable[[], bytes], Callable[[bytes | memoryview], None]], None]) -> None:
    """The child's side: `answer(receive, send)` again and again, until the parent is gone.

    The connection arrives as standard input; that is free afterwards, for libraries that meddle with it. What `answer`
    raises of its own ends the process, and is shown.
    """
    quiet_libraries()
    parent = os.getppid()
    connection = _connection_of(os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)

    def receive() -> bytes:
        try:
            while not connection.poll(PATIENCE_S):
                if os.getppid() != parent:
                    raise _ParentGone
            return connection.recv_bytes()
        except (EOFError, OSError):
            raise _ParentGone from None

    def send(message: bytes | memoryview) -> None:
        try:
            connection.send_bytes(message)
        except OSError:
            raise _ParentGone from None

    with contextlib.suppress(_ParentGone):
        while True:
            answer(receive, send)
