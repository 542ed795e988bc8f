"""Executing a plan: workers do its steps side by side, parents first; a failed step costs only what depends on it."""

import errno
import os
import pickle
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import lru_cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import torch

from cxrlines.core.errors import Error
from cxrlines.core.pool import cores, keep_buffers
from cxrlines.core.processes import Child, Died
from cxrlines.core.text import plural
from cxrlines.recipe.run.folder import Run, Step, StepId
from cxrlines.recipe.run.progress import Board, StatusFile, read_status
from cxrlines.recipe.run.step import do_step
from cxrlines.training import distributed


class RunError(Error):
    """Steps failed, or the run cannot start; the message says which and what to do. Finished steps are kept."""


class Workers(Protocol):
    """Where steps are done: processes of this machine, or a cluster."""

    @property
    def places(self) -> int:
        """How many steps are done side by side."""

    def do(self, step: Step) -> None:
        """Do a step, in a thread of its own; raises what it raised."""

    def close(self) -> None:
        """Let the workers go. What still runs ends at once: whatever is on the disk is whole."""


Work = Callable[[Step], None]
Start = Callable[[Run, Sequence[Step], int | None], Workers]
"""Starts workers for a run's unfinished steps, at most so many (None: as many as fit)."""


def side_by_side(steps: Sequence[Step]) -> int:
    """How many steps can run at the same time: the stages of a member follow one another."""
    return len({(step.key.member, step.key.held) for step in steps})


def workers_for(steps: Sequence[Step], asked: int | None) -> int:
    """Processes: as many as asked for, else one for each GPU or each core; never more than can run side by side."""
    return max(1, min(asked or torch.cuda.device_count() or cores(), side_by_side(steps)))


def do_plan(run: Run, steps: Sequence[Step], workers: int | None = None, start: Start | None = None) -> None:
    """Do every unfinished step, `workers` at a time, parents first; on this machine, or on the workers of `start`.

    A step that fails, or whose process is killed, costs only those that depend on it; the others are done, then
    `RunError` is raised. Under torchrun all processes do each step together, one step after another.
    """
    if distributed.world > 1:
        if start:
            raise RunError("--on spreads steps over machines, --devices one step over GPUs", "give one of the two")
        return _do_together(run, steps)
    todo = {step.key: step for step in steps if not run.is_done(step)}
    if not todo:
        return
    failed: dict[StepId, str] = {}
    running: dict[Future[None], StepId] = {}
    hands = (start or LocalWorkers)(run, list(todo.values()), workers)
    threads = ThreadPoolExecutor(side_by_side(list(todo.values())))
    try:
        with Board(len(steps), len(steps) - len(todo)) as board:
            while todo or running:
                for step in _ready(todo, set(running.values()), failed, hands.places):
                    running[threads.submit(hands.do, todo.pop(step.key))] = step.key
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    key = running.pop(future)
                    if error := future.exception():
                        failed[key] = _why(error)
                        board.say(f"{key}: failed; the reason follows at the end, the other steps go on")
                    else:
                        board.finished(str(key), run.record(key))
                board.show((str(key), read_status(status_file(run.root, key))) for key in running.values())
    finally:
        hands.close()
        threads.shutdown()
        shutil.rmtree(run.root / ".status", ignore_errors=True)
    if failed:
        raise _not_done(run, failed, len(steps))


def _ready(todo: dict[StepId, Step], running: Set[StepId], failed: dict[StepId, str], places: int) -> list[Step]:
    """The steps to begin: parents done, a worker free. Those whose parents failed are dropped."""
    ready: list[Step] = []
    for key, step in list(todo.items()):
        parents = {parent.key for parent in step.parents}
        if parents & failed.keys():
            failed[key] = "not started: a step it is made from failed"
            del todo[key]
        elif len(running) + len(ready) < places and not parents & (todo.keys() | running):
            ready.append(step)
    return ready


def _do_together(run: Run, steps: Sequence[Step]) -> None:
    """Every unfinished step, by all processes of torchrun at once; the first one shows where it is."""
    with distributed.first() as shared:
        if shared.mine:
            shared.value = [step for step in steps if not run.is_done(step)]
    todo = shared.value
    with Board(len(steps), len(steps) - len(todo)) as board:
        for step in todo:

            def show(status: dict[str, Any], name: str = step.name) -> None:
                if distributed.rank == 0:
                    board.show([(name, status)])

            try:
                _do_traced(run, step, show)
            except Exception as error:
                raise _not_done(run, {step.key: _why(error)}, len(steps)) from error
            if distributed.rank == 0:
                board.finished(step.name, run.record(step.key))


def _why(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{place}; free some space: what was trained is kept up to its last half minute"
    return str(error) if isinstance(error, Error) else f"{type(error).__name__}: {error}"


def _not_done(run: Run, failed: dict[StepId, str], total: int) -> RunError:
    reasons: dict[str, list[str]] = {}
    for key, reason in failed.items():
        reasons.setdefault(reason, []).append(str(key))
    lines = "\n".join(f"  {', '.join(names)}: {reason}" for reason, names in reasons.items())
    return RunError(
        f"{len(failed)} of {plural(total, 'step is', 'steps are')} not done:\n{lines}",
        f"finished steps are kept; remove the cause and run the same command (tracebacks are in {run.root / '.work'})",
    )


def status_file(root: Path, key: StepId) -> Path:
    """Where a running step says how far it is."""
    return root / ".status" / f"{key.flat}.json"


class LocalWorkers:
    """Processes of this machine, each with a GPU of its own where there are several. They end when this process does.

    They are `core.processes`, not multiprocessing's: a script that calls `train` needs no `__main__` guard.
    """

    def __init__(self, run: Run, steps: Sequence[Step], asked: int | None) -> None:
        self.places = workers_for(steps, asked)
        self._starting, self._closed = threading.Lock(), False
        self._idle: SimpleQueue[tuple[Work, Child | None]] = SimpleQueue()
        self._children: list[Child] = []
        threads = max(1, cores() // self.places)
        for device in devices_for(self.places):
            self._idle.put((partial(_do_apart, run.root, run.data, threads, device), None))

    def do(self, step: Step) -> None:
        """A step in a free process."""
        work, child = self._idle.get()
        try:
            child = child or self._start(work)
            _answer(child, step)
        except Died:
            child = None
            raise RunError(
                "its worker was killed (out of memory? then fewer --workers)", "the same command goes on from there"
            ) from None
        finally:
            self._idle.put((work, child))

    def _start(self, work: Work) -> Child:
        with self._starting:
            if self._closed:
                raise Died("closed")
            child = Child("cxrlines.core.pool")
            self._children.append(child)
        _answer(child, work)
        return child

    def close(self) -> None:
        """Kill the processes: ours, and no other child of whoever called."""
        with self._starting:
            self._closed = True
            for child in self._children:
                child.process.kill()  # and no more: its thread may be at its connection


def _answer(child: Child, message: object) -> None:
    """Send a worker's process a message and wait for its answer; raises what it raised."""
    child.send(pickle.dumps(message))
    fine, error = pickle.loads(child.receive())  # noqa: S301 - from a child of ours
    if not fine:
        raise error


def devices_for(count: int) -> list[str]:
    """What each of `count` processes sets CUDA_VISIBLE_DEVICES to: of the GPUs the user allowed; empty leaves it."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = allowed.split(",") if allowed else [str(index) for index in range(torch.cuda.device_count())]
    return [names[worker % len(names)] if len(names) > 1 else "" for worker in range(count)]


def _do_apart(root: Path, data: Path, threads: int, device: str, step: Step) -> None:
    """In a worker's process: a step of the run in `root`."""
    _begin_process(device)
    do_one(root, data, step, threads)


@lru_cache(maxsize=1)
def _begin_process(device: str) -> None:
    """Once in a worker's process, before it touches a GPU."""
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    keep_buffers()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """A step takes hours, and whoever killed the parent may begin it again."""
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)


def do_one(root: Path, data: Path, step: Step, threads: int) -> None:
    """A step of the run in `root`, in a process for it alone, of `threads` threads from now on.

    The traceback of an error is written to `.work`.
    """
    torch.set_num_threads(threads)
    _do_traced(opened(root, data), step, StatusFile(status_file(root, step.key)))


def opened(root: Path, data: Path) -> Run:
    """The run prepared in `root` on `data`, whose tables a process reads once."""
    return _opened(root, data, (root / "recipe.json").stat().st_mtime_ns)  # which every `prepare` writes again


@lru_cache(maxsize=1)
def _opened(root: Path, data: Path, prepared: int) -> Run:
    return Run.open(root, data)


def _do_traced(run: Run, step: Step, report: Callable[[dict[str, Any]], None]) -> None:
    try:
        do_step(run, step, report, distributed.loader_workers())
    except Exception:
        trace = run.root / ".work" / f"{step.key.flat}.traceback.txt"
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.write_text(traceback.format_exc())
        raise
