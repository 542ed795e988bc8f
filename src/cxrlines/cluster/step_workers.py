"""The steps of a run as tasks of a Ray cluster."""

import contextlib
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from filelock import FileLock, Timeout

from cxrlines.cluster.connection import (
    SEEN_S,
    SHARE,
    ClusterError,
    check_machines,
    check_shared,
    cluster,
    leave_marker,
    lines_of,
    shows,
)
from cxrlines.core.pool import keep_buffers
from cxrlines.recipe.run.execute import Start, do_one, opened, side_by_side, status_file
from cxrlines.recipe.run.folder import RECORD, Run, Step
from cxrlines.recipe.run.plan import files_of

RETRIES = 3
"""How often a step is begun again, from its last kept state, when its worker or machine dies."""
LET_GO_S = 300.0
"""How long a step waits for another machine that was given up to release its folder."""


def ray_workers(on: str) -> Start:
    """Workers for `train` on the cluster that `--on` names."""
    return partial(RayWorkers, on)


class RayWorkers:
    """Steps as Ray's tasks; `asked` limits how many are done side by side.

    Where the cluster has GPUs a step gets one, with its share of the machine's cores; else cores alone. The step of a
    machine that dies is begun again elsewhere, from its last kept state.
    """

    def __init__(self, on: str, run: Run, steps: Sequence[Step], asked: int | None) -> None:
        self.root, self.data, self.asked = run.root.absolute(), run.data.absolute(), asked
        self.running: list[Any] = []
        files = sorted({file for step in steps for file in _files(run, step)})
        if near := [file for file in files if not file.is_absolute()]:
            raise ClusterError(
                f"the recipe names {near[0]}, which is another file on each machine", "give its whole path, from / on"
            )
        with contextlib.ExitStack() as stack:
            self.ray = stack.enter_context(cluster(on))
            machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            self.threads, self.gpus = shares(machines, asked, side_by_side(steps))
            self.marker = leave_marker(self.root / ".status")
            check_machines(self.ray, self.marker, self.data, *files)
            options = {"num_cpus": self.threads, "num_gpus": self.gpus, "max_retries": RETRIES}
            self.task = self.ray.remote(retry_exceptions=False, **options)(_do_there)
            self._stack = stack.pop_all()

    @property
    def places(self) -> int:
        """How many steps the cluster, as it is now, can do side by side."""
        there = self.ray.cluster_resources()
        room = there.get("GPU", 0) if self.gpus else there.get("CPU", 0) // self.threads
        return max(1, min(self.asked or int(room), int(room)))

    def do(self, step: Step) -> None:
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
                f"its worker died {RETRIES + 1} times: {type(error).__name__}: {lines_of(error)[0]}",
                "if it was out of memory give fewer --workers",
            ) from error
        if not shows(record := self.root / step.name / RECORD):  # another machine made it
            raise ClusterError(f"{record} is not seen here, though the step is done", SHARE)

    def close(self) -> None:
        """End what still runs, and disconnect from the cluster."""
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


def _files(run: Run, step: Step) -> Collection[Path]:
    """The files that a step reads besides films and tables."""
    return files_of(run.recipe.spec(step.key.source), step.key.held[0]).values()


def _do_there(root: Path, data: Path, step: Step, threads: int, marker: Path) -> None:
    """On some machine of the cluster: one step, from where an earlier try left it."""
    check_shared(marker, data, *(root / str(parent.key) / RECORD for parent in step.parents))
    run = opened(root, data)
    check_shared(None, *_files(run, step))
    cv2.setNumThreads(1)
    keep_buffers()
    try:
        # A machine that was given up may still be at it, for the seconds until it notices.
        with FileLock(status_file(root, step.key).with_suffix(".lock"), timeout=LET_GO_S):
            if not run.is_done(step):
                do_one(root, data, step, threads)
    except Timeout:
        raise ClusterError(
            f"another machine still works in this step's folder after {LET_GO_S:.0f} s",
            "see that its worker has ended, and run the same command",
        ) from None
