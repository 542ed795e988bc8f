"""The steps of a plan on a Ray cluster: each asks for its GPU and cores; a dead machine's step is done elsewhere."""

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
from filelock import FileLock, Timeout

from cxrlines.cluster.connection import ClusterError, check_machines, check_shared, cluster, leave_marker
from cxrlines.recipe.run.execute import do_one, status_file
from cxrlines.recipe.run.folder import RECORD, Run
from cxrlines.recipe.run.plan import Step, name_of
from cxrlines.training.malloc import keep_buffers

RETRIES = 3
"""How often a step is begun again, from its last kept state, when its worker or machine dies."""
LET_GO_S = 300.0
"""How long a step waits for another machine that was given up to let go of its folder."""


class RayWorkers:
    """Steps as Ray's tasks. `on` is what `--on` says; `asked` limits how many are done side by side.

    Where the cluster has GPUs a step gets one, with its share of the machine's cores; else cores alone.
    """

    lost = "the connection to the Ray cluster was lost; the same command goes on from there"

    def __init__(self, run: Run, data: Path, on: str, asked: int | None, side_by_side: int) -> None:
        self.root, self.data, self.asked = run.root.absolute(), data.absolute(), asked
        self._stack = contextlib.ExitStack()
        self.ray = self._stack.enter_context(cluster(on))
        self.running: list[Any] = []
        try:
            machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self.threads, self.gpus = shares(machines, asked, side_by_side)
            self.marker = leave_marker(self.root / ".status")
            check_machines(self.ray, self.marker, self.data)
        except BaseException:
            self.close()
            raise
        self.task = self.ray.remote(
            num_cpus=self.threads, num_gpus=self.gpus, max_retries=RETRIES, retry_exceptions=False
        )(_do_there)

    @property
    def places(self) -> int:
        """How many steps the cluster, as it is now, can do side by side."""
        there = self.ray.cluster_resources()
        room = there.get("GPU", 0) if self.gpus else there.get("CPU", 0) // self.threads
        return max(1, min(self.asked or int(room), int(room)))

    def submit(self, step: Step) -> "Future[None]":
        """Have `step` done as soon as a machine has room."""
        task = self.task.options(name=step.name).remote(self.root, self.data, step, self.threads, self.marker)
        self.running.append(task)
        told: Future[None] = Future()
        told.set_running_or_notify_cancel()
        task.future().add_done_callback(lambda done: _pass_on(done, told))
        return told

    def stop(self) -> None:
        """End what is running, at once."""
        for task in self.running:
            with contextlib.suppress(Exception):
                self.ray.cancel(task, force=True)

    def close(self) -> None:
        """Part from the cluster."""
        self._stack.close()


def _pass_on(done: "Future[Any]", told: "Future[None]") -> None:
    """The outcome of a task, without Ray's wrapping."""
    error = done.exception()
    if error is None:
        told.set_result(None)
        return
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        told.set_exception(cause)
    else:
        first = (str(error).strip() or "no reason given").splitlines()[0]
        told.set_exception(
            ClusterError(
                f"its worker died {RETRIES + 1} times: {type(error).__name__}: {first}",
                "if it was out of memory give fewer --workers",
            )
        )


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


def _do_there(root: Path, data: Path, step: Step, threads: int, marker: Path) -> None:
    """On some machine of the cluster: one step, from where an earlier try left it."""
    check_shared(marker, data, *(root / name_of(parent) / RECORD for parent in step.parents.values()))
    cv2.setNumThreads(1)
    keep_buffers()
    place = status_file(root, step.key)
    try:
        # A machine that was given up may still be at it, for the seconds until it notices.
        with FileLock(place.with_suffix(".lock"), timeout=LET_GO_S):
            if not Run.open(root, data).is_done(step):
                do_one(root, data, step, threads)
    except Timeout:
        raise ClusterError(
            f"another machine still works in this step's folder after {LET_GO_S:.0f} s",
            "see that its worker has ended, and run the same command",
        ) from None
