"""Work on a Ray cluster: the steps of a plan, and films read in bulk, on this machine's own or one that is there.

Work goes to it as calls, films and results stay in files: every machine must see the same folders under the same
paths. That is checked, as otherwise half of a run would lie elsewhere.
"""

import contextlib
import itertools
import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from filelock import FileLock, Timeout

from cxrlines import __version__
from cxrlines.core.errors import Error
from cxrlines.core.pool import cores
from cxrlines.reading.batch import Outcome, Predictions, collected
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.engines.choice import engine_of
from cxrlines.reading.reader import Progress, Reader, allowed_views
from cxrlines.reading.sources import Found, find_films

if TYPE_CHECKING:  # reading films needs nothing of training
    from cxrlines.recipe.run.execute import Start
    from cxrlines.recipe.run.folder import Run, Step

CONNECT_S = 10.0
"""How long an address may take to answer."""
SEEN_S = 20.0
"""How long a new file may take to show on other machines: network file systems remember folders for a while."""
STARTS = 3
"""How often a cluster of this machine is started: Ray gives its own processes 30 s, too few on a busy machine."""
STORE_BYTES = 256 * 2**20
"""Ray's own memory for objects on this machine: only paths and probabilities pass through it."""
RETRIES = 3
"""How often a step is begun again, from its last kept state, when its worker or machine dies."""
LET_GO_S = 300.0
"""How long a step waits for another machine that was given up to let go of its folder."""
AT_ONCE = 32
"""Batches of films handed to a worker at once, at most: while one is computed, the next films are decoded."""
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
                raise ClusterError(f"--on {on}: {_lines(error)[0]}", way_out) from error


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


def _lines(error: BaseException) -> list[str]:
    """Of what is often a traceback as text."""
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
            wrong.append(str(cause) if known else f"{host}: {type(cause).__name__}: {_lines(cause)[-1]}")
    if wrong:
        raise ClusterError(
            "the cluster cannot do this: " + "; ".join(dict.fromkeys(wrong)),
            "all machines need the same cxrlines and the same folders (docs/cluster.md)",
        )


def ray_workers(on: str) -> "Start":
    """Workers for `train` on the cluster that `--on` names."""
    return partial(RayWorkers, on)


class RayWorkers:
    """Steps as Ray's tasks; `asked` limits how many are done side by side.

    Where the cluster has GPUs a step gets one, with its share of the machine's cores; else cores alone. The step of a
    machine that dies is begun again elsewhere, from its last kept state.
    """

    def __init__(self, on: str, run: "Run", steps: "Sequence[Step]", asked: int | None) -> None:
        from cxrlines.recipe.run.execute import side_by_side

        self.root, self.data, self.asked = run.root.absolute(), run.data.absolute(), asked
        self.running: list[Any] = []
        with contextlib.ExitStack() as stack:
            self.ray = stack.enter_context(cluster(on))
            machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self.threads, self.gpus = shares(machines, asked, side_by_side(steps))
            self.marker = leave_marker(self.root / ".status")
            check_machines(self.ray, self.marker, self.data)
            options = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": RETRIES}
            self.task = self.ray.remote(retry_exceptions=False, **options)(_do_there)
            self._stack = stack.pop_all()

    @property
    def places(self) -> int:
        """How many steps the cluster, as it is now, can do side by side."""
        there = self.ray.cluster_resources()
        room = there.get("GPU", 0) if self.gpus else there.get("CPU", 0) // self.threads
        return max(1, min(self.asked or int(room), int(room)))

    def do(self, step: "Step") -> None:
        """A step, as soon as a machine has room."""
        task = self.task.options(name=step.name).remote(self.root, self.data, step, self.threads, self.marker)
        self.running.append(task)
        try:
            self.ray.get(task)
        except Exception as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, BaseException):
                raise cause from None
            raise ClusterError(
                f"its worker died {RETRIES + 1} times: {type(error).__name__}: {_lines(error)[0]}",
                "if it was out of memory give fewer --workers",
            ) from error
        shows(self.root / step.name / "step.json")  # another machine made it

    def close(self) -> None:
        """End what still runs, and part from the cluster."""
        for task in self.running:
            with contextlib.suppress(Exception):
                self.ray.cancel(task, force=True)
        with contextlib.suppress(Exception):  # threads that wait for a task must not do so in a shutdown
            self.ray.wait(self.running, num_returns=len(self.running), timeout=SEEN_S)
        self._stack.close()


def shares(machines: Sequence[dict[str, float]], asked: int | None, side_by_side: int) -> tuple[int, int]:
    """(cores, GPUs) a step asks for, of machines with so many `CPU` and `GPU` each.

    With GPUs: one, and its share of the cores of the machine that has fewest for each. Without: as on one machine, all
    cores shared among the steps that run side by side, but no more than the smallest machine has.
    """
    if with_gpus := [machine for machine in machines if machine.get("GPU", 0) >= 1]:
        return max(1, int(min(machine.get("CPU", 0) // machine["GPU"] for machine in with_gpus))), 1
    cpus = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1]
    if not cpus:
        raise ClusterError(
            "the cluster has neither a GPU nor a core for a step", "start Ray with --num-cpus or --num-gpus"
        )
    count = max(1, min(asked or sum(cpus), side_by_side))
    return max(1, min(sum(cpus) // count, *cpus)), 0


def _do_there(root: Path, data: Path, step: "Step", threads: int, marker: Path) -> None:
    """On some machine of the cluster: one step, from where an earlier try left it."""
    from cxrlines.core.pool import keep_buffers
    from cxrlines.recipe.run.execute import do_one, opened, status_file
    from cxrlines.recipe.run.folder import RECORD

    check_shared(marker, data, *(root / str(parent.key) / RECORD for parent in step.parents))
    cv2.setNumThreads(1)
    keep_buffers()
    try:
        # A machine that was given up may still be at it, for the seconds until it notices.
        with FileLock(status_file(root, step.key).with_suffix(".lock"), timeout=LET_GO_S):
            if not opened(root, data).is_done(step):
                do_one(root, data, step, threads)
    except Timeout:
        raise ClusterError(
            f"another machine still works in this step's folder after {LET_GO_S:.0f} s",
            "see that its worker has ended, and run the same command",
        ) from None


def predict_on_ray(
    sources: Iterable[Path] | Found,
    bundle_folder: Path,
    on: str,
    *,
    batch_size: int = 8,
    tta: Sequence[str] | None = None,
    lines: bool = False,
    progress: Progress | None = None,
    journal: Path | None = None,
    resume: bool = False,
) -> Predictions:
    """As `reading.batch.predict`, by the cluster `on` (see `cluster`): rows in the order of the sources.

    A worker has one GPU, or where the cluster has none one core, and loads the bundle once. All machines must see
    bundle and films under the same paths. A machine that dies costs time only: others read its films. The journal is
    written here.

    Raises:
        ClusterError: no Ray, no answer, or a machine that does not see the folders.
        JournalError, OutputError, Stopped: as `reading.batch.predict`.
    """
    bundle = load_bundle(bundle_folder)
    views = allowed_views(bundle, tta)
    found = sources if isinstance(sources, Found) else find_films(sources)
    folders = {*map(Path.absolute, found.folders), *(path.absolute().parent for path in found.named)}
    inputs = [bundle_folder.absolute(), *sorted(folders)]

    def read(places: Sequence[int]) -> Generator[Outcome, None, None]:
        with cluster(on) as ray:
            check_machines(ray, None, *inputs)
            each = _from_outside if on.startswith("ray://") else _outcomes
            paths = [found.films[place][0] for place in places]
            for index, reading in each(ray, paths, inputs, batch_size, views, lines):
                yield places[index], reading

    return collected(found, read, bundle, tta=views, lines=lines, journal=journal, resume=resume, progress=progress)


def _from_outside(ray: Any, paths: Sequence[Path], *options: Any) -> Iterator[Outcome]:
    """`_outcomes` through Ray Client, which Ray Data does not know: from a process on the cluster's head."""
    head = {"node:__internal_head__": 0.001}
    inside = ray.remote(num_cpus=0, resources=head)(_Inside).remote([path.absolute() for path in paths], *options)
    while some := ray.get(inside.more.remote()):
        yield from some


class _Inside:
    def __init__(self, *options: Any) -> None:
        import ray

        self.outcomes = _outcomes(ray, *options)

    def more(self) -> list[Outcome]:
        """The next outcomes; none at the end."""
        return list(itertools.islice(self.outcomes, 64))


def _outcomes(
    ray: Any, paths: Sequence[Path], inputs: Sequence[Path], batch_size: int, tta: Sequence[str], lines: bool
) -> Iterator[Outcome]:
    """The reading of each film, as it is read: Ray Data hands films out, each worker reads its share."""
    if not paths:
        return
    import ray.data as ray_data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray_data.DataContext.get_current().enable_progress_bars = False
    there = ray.cluster_resources()
    gpus = 1 if there.get("GPU", 0) >= 1 else 0
    workers = max(1, int(there["GPU"] if gpus else there.get("CPU", 1)))
    share = min(AT_ONCE * batch_size, batch_size * math.ceil(len(paths) / (batch_size * 2 * workers)))
    items = [{"place": place, "path": os.fsencode(path.absolute())} for place, path in enumerate(paths)]  # any bytes
    read = ray_data.from_items(items, override_num_blocks=math.ceil(len(items) / share)).map_batches(
        _Reader,
        batch_size=share,
        batch_format="numpy",
        concurrency=(1, workers),
        num_cpus=1,
        num_gpus=gpus,
        fn_constructor_args=(list(inputs), batch_size, list(tta), lines),
    )
    for batch in read.iter_batches(batch_size=None, batch_format="numpy"):
        yield from zip(batch["place"].tolist(), batch["reading"], strict=True)


class _Reader:
    """A worker: the bundle (the first of `inputs`), loaded once, and films read in batches of `batch_size`."""

    def __init__(self, inputs: list[Path], batch_size: int, tta: list[str], lines: bool) -> None:
        check_shared(None, *inputs)
        cv2.setNumThreads(1)
        bundle = load_bundle(inputs[0])
        self.reader = Reader(bundle, tta=tta, batch_size=batch_size, lines=lines, engine=engine_of(bundle, threads=1))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`place` and `path` (n,) to `place` and `reading`."""
        readings = np.empty(len(batch["path"]), object)
        readings[:] = list(self.reader.read_many([Path(os.fsdecode(path)) for path in batch["path"]]))
        return {"place": batch["place"], "reading": readings}
