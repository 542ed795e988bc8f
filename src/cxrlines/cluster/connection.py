"""A Ray cluster, this machine's own or one that is there: connected to, and checked before it is given work.

Work goes to it as calls, films and results stay in files: every machine must see the same folders under the same
paths. That is checked, as otherwise half of a run would lie elsewhere.
"""

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cxrlines import __version__
from cxrlines.core.errors import Error
from cxrlines.core.pool import cores

CONNECT_S = 10.0
"""How long an address may take to answer."""
SEEN_S = 20.0
"""How long a new file may take to show on other machines: network file systems remember folders for a while."""
STARTS = 3
"""How often a cluster of this machine is started: Ray gives its own processes 30 s, too few on a busy machine."""
STORE_BYTES = 256 * 2**20
"""Ray's own memory for objects on this machine: only paths and probabilities pass through it."""
SHARE = "it must lie on a file system that all machines share, under the same path (docs/cluster.md)"
PORTS = (
    "`ray start --head` says where it listens: ray://HOST:10001 for any machine, HOST:6379 for one of the cluster's "
    "own; all machines need the same versions of Python, Ray and cxrlines"
)
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's own is 15: a step here would yield to everything else
    "RAY_agent_register_timeout_ms": "120000",  # its 15 s are too few for its own processes on a busy machine
}


class ClusterError(Error):
    """No cluster, or not one that can do the work; the message says why and what to do."""


@contextlib.contextmanager
def cluster(on: str) -> Iterator[Any]:
    """The module `ray`, connected to `on`: `ray` (a cluster of this machine alone), `ray://HOST:PORT` or `HOST:PORT`.

    `ClusterError` where Ray is not installed, or the address does not answer.
    """
    place = _address(on)
    logger = logging.getLogger("ray")
    level = logger.level
    added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    ray: Any = None
    try:
        try:
            import ray
        except ImportError:
            raise ClusterError(f"--on {on} needs Ray, which is not installed", 'pip install "cxrlines[ray]"') from None
        if place is not None:
            _check_answers(on, *place)
        _connect(ray, on, own=place is None)
        yield ray
    finally:
        if ray is not None:
            ray.shutdown()
        logger.setLevel(level)  # which connecting sets
        for name in added:
            os.environ.pop(name, None)


def _connect(ray: Any, on: str, *, own: bool) -> None:
    options: dict[str, Any] = {"address": on, "log_to_driver": False, "logging_level": "ERROR"}
    if own:
        options |= {"address": "local", "num_cpus": cores(), "include_dashboard": False}
        options["object_store_memory"] = STORE_BYTES
    for left in reversed(range(STARTS if own else 1)):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray's own are of many kinds
            ray.shutdown()
            if not left:
                way_out = "try again when the machine is less busy, or leave out --on" if own else PORTS
                raise ClusterError(f"--on {on}: {lines_of(error)[0]}", way_out) from error


def _address(on: str) -> tuple[str, int] | None:
    """Host and port; None for this machine's own cluster."""
    if on == "ray":
        return None
    host, _, port = on.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(
            f"--on is {on!r}, which is no cluster",
            "give ray (this machine), ray://HOST:PORT (a cluster's client port, usually 10001), or HOST:PORT (a "
            "cluster's own address, usually port 6379, from one of its machines)",
        )
    return host.strip("[]"), int(port)


def _check_answers(on: str, host: str, port: int) -> None:
    """Whether something that speaks gRPC, as Ray does, answers; Ray itself would try for a minute and more."""
    import grpc

    try:
        socket.create_connection((host, port), CONNECT_S / 2).close()
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            grpc.channel_ready_future(channel).result(CONNECT_S / 2)
    except (OSError, grpc.FutureTimeoutError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else "what listens there is not Ray"
        raise ClusterError(
            f"--on {on}: no Ray cluster answers at {host}:{port} ({why})",
            "start one with `ray start --head`, or check host, port and firewall, or leave out --on to work on this "
            f"machine. {PORTS}",
        ) from None


def lines_of(error: BaseException) -> list[str]:
    """The lines of what an exception says, which with Ray is often a traceback as text; one at least."""
    return str(error).strip().splitlines() or [type(error).__name__]


def leave_marker(folder: Path) -> Path:
    """A new file in `folder`, by which other machines show that they see it."""
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / f"shared-{uuid.uuid4().hex}"
    marker.touch()
    return marker


def check_shared(marker: Path | None, *inputs: Path) -> str:
    """On any machine: `ClusterError` unless it sees `marker` (if any), may write beside it, and sees the `inputs`.

    Returns this machine's version of cxrlines.
    """
    here = socket.gethostname()
    if marker is not None:
        if not shows(marker):
            raise ClusterError(f"the machine {here} does not see what this run wrote to {marker.parent}", SHARE)
        try:
            mine = marker.with_name(f"{marker.name}.{here}.{os.getpid()}")
            mine.touch()
            mine.unlink()
        except OSError as error:
            why = f"the machine {here} may not write to {marker.parent} ({error.strerror})"
            raise ClusterError(why, SHARE) from None
    for path in inputs:
        if not shows(path):
            raise ClusterError(f"the machine {here} does not see {path}", SHARE)
    return __version__


def shows(path: Path) -> bool:
    """Whether `path` is there; a network file system gets some time to notice."""
    ends = time.monotonic() + SEEN_S
    while not path.exists():
        if time.monotonic() > ends:
            return False
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            list(path.parent.iterdir())  # makes it look again
    return True


def check_machines(ray: Any, marker: Path | None, *inputs: Path, seconds: float = 180.0) -> None:
    """`check_shared` on every machine of the cluster, and that each has this version; `ClusterError` names those."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(check_shared)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[look.options(scheduling_strategy=there).remote(marker, *inputs)] = node["NodeManagerHostname"]
    ends = time.monotonic() + seconds
    wrong = []
    for answer, host in asked.items():
        try:
            version = ray.get(answer, timeout=max(1.0, ends - time.monotonic()))
            if version != __version__:
                wrong.append(f"{host} has cxrlines {version}, this machine {__version__}")
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            known = isinstance(cause, ClusterError)
            wrong.append(str(cause) if known else f"{host}: {type(cause).__name__}: {lines_of(cause)[-1]}")
    if wrong:
        raise ClusterError(
            "the cluster cannot do this: " + "; ".join(dict.fromkeys(wrong)),
            "all machines need the same cxrlines and the same folders (docs/cluster.md)",
        )
