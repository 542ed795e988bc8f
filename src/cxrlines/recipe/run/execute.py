"""The steps of a plan done by workers side by side, here or on a cluster: parents first, nothing finished lost."""

import errno
import multiprocessing
import os
import shutil
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Protocol

import torch

from cxrlines.cluster.connection import shows
from cxrlines.core.errors import Error
from cxrlines.core.pool import begin_worker, cores
from cxrlines.recipe.run.folder import RECORD, Run, read_record
from cxrlines.recipe.run.plan import Key, Step, name_of
from cxrlines.recipe.run.progress import Board, StatusFile, read_status
from cxrlines.recipe.run.step import do_step
from cxrlines.training import distributed
from cxrlines.training.malloc import keep_buffers


class RunError(Error):
    """Steps failed, or the run cannot start; the message says which and what to do. Finished steps are kept."""


def side_by_side(steps: Sequence[Step]) -> int:
    """How many steps can run at the same time: the stages of a member follow one another."""
    return len({step.key[:2] for step in steps})


def workers_for(steps: Sequence[Step], asked: int | None) -> int:
    """Processes: as many as asked for, else one for each GPU or each core; never more than can run side by side."""
    return max(1, min(asked or torch.cuda.device_count() or cores(), side_by_side(steps)))


class Workers(Protocol):
    """Where steps are done. `lost` says what it means that no more can be done: a future's `BrokenExecutor`."""

    lost: str

    @property
    def places(self) -> int:
        """How many steps are done side by side."""

    def submit(self, step: Step) -> "Future[None]":
        """Begin a step."""

    def stop(self) -> None:
        """End what is running, at once: whatever is on the disk is whole."""

    def close(self) -> None:
        """Let the workers go."""


def do_plan(run: Run, data: Path, steps: Sequence[Step], workers: int | None = None, on: str | None = None) -> None:
    """Do every unfinished step, `workers` at a time, parents first; `on` a Ray cluster (see `data.cluster`), or here.

    A step that fails costs only those that depend on it; the others are done, then `RunError` is raised. A process
    of this machine that is killed takes those beside it down: then nothing more is started. On a cluster its step is
    begun again. Under torchrun all processes do each step together, one step after another.
    """
    todo = {step.key: step for step in steps if not run.is_done(step)}
    if distributed.world() > 1:
        if on:
            raise RunError(
                f"--on {on} spreads steps over machines, --devices one step over GPUs", "give one of the two"
            )
        return _do_together(run, steps)
    if not todo:
        return
    failed: dict[Key, str] = {}
    running: dict[Future[None], Key] = {}
    hands = _workers(run, data, list(todo.values()), workers, on)
    try:
        with Board(len(steps), len(steps) - len(todo)) as board:
            while todo or running:
                _start_ready(hands, todo, running, failed)
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    key = running.pop(future)
                    try:
                        future.result()
                        shows(run.folder(key) / RECORD)  # another machine may have made it
                        board.finished(name_of(key), read_record(run.folder(key)))
                    except BrokenExecutor:
                        raise
                    except Exception as error:
                        failed[key] = _why(error)
                        board.say(f"{name_of(key)}: failed; why is said at the end, the other steps go on")
                board.show((name_of(key), read_status(status_file(run.root, key))) for key in running.values())
    except BrokenExecutor:
        failed |= {step.key: hands.lost for step in steps if not run.is_done(step) and step.key not in failed}
    except KeyboardInterrupt:
        hands.stop()
        raise
    finally:
        hands.close()
        shutil.rmtree(run.root / ".status", ignore_errors=True)
    if failed:
        raise _not_done(run, failed, len(steps))


def _workers(run: Run, data: Path, todo: Sequence[Step], workers: int | None, on: str | None) -> Workers:
    if on is None:
        return LocalWorkers(run.root, data, workers_for(todo, workers))
    from cxrlines.cluster.steps import RayWorkers

    return RayWorkers(run, data, on, workers, side_by_side(todo))


def _start_ready(
    hands: Workers, todo: dict[Key, Step], running: dict[Future[None], Key], failed: dict[Key, str]
) -> None:
    """Submit steps whose parents are done while there are free workers; drop those whose parents failed."""
    places = hands.places
    for key, step in list(todo.items()):
        parents = step.parents.values()
        if any(parent in failed for parent in parents):
            failed[key] = "not started: a step it is made from failed"
            del todo[key]
        elif len(running) < places and not any(parent in todo or parent in running.values() for parent in parents):
            running[hands.submit(step)] = key
            del todo[key]


def _do_together(run: Run, steps: Sequence[Step]) -> None:
    """Every unfinished step, by all processes of torchrun at once; the first one shows where it is."""
    todo = [step for step in steps if not distributed.first(partial(run.is_done, step))]
    with Board(len(steps), len(steps) - len(todo)) as board:
        for step in todo:

            def show(status: dict[str, Any], name: str = step.name) -> None:
                if distributed.is_first():
                    board.show([(name, status)])

            try:
                do_step(run, step, show, distributed.loader_workers())
            except Exception as error:
                _write_traceback(run.root, step)
                raise _not_done(run, {step.key: _why(error)}, len(steps)) from error
            if distributed.is_first():
                board.finished(step.name, read_record(run.folder(step.key)))


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{place}; free some space: what was trained is kept up to its last half minute"
    return str(error) if isinstance(error, Error) else f"{type(error).__name__}: {error}"


def _not_done(run: Run, failed: dict[Key, str], total: int) -> RunError:
    reasons: dict[str, list[str]] = {}
    for key, reason in failed.items():
        reasons.setdefault(reason, []).append(name_of(key))
    lines = "\n".join(f"  {', '.join(names)}: {reason}" for reason, names in reasons.items())
    return RunError(
        f"{len(failed)} of {total} steps are not done:\n{lines}",
        f"finished steps are kept; mend the cause and run the same command (tracebacks are in {run.root / '.work'})",
    )


def status_file(root: Path, key: Key) -> Path:
    return root / ".status" / f"{name_of(key).replace('/', '.')}.json"


class LocalWorkers:
    """Processes of this machine, each with a GPU of its own where there are several."""

    lost = "a worker was killed (out of memory? then fewer --workers); the same command goes on from there"

    def __init__(self, root: Path, data: Path, count: int) -> None:
        self.root, self.data, self.places, self.threads = root, data, count, max(1, cores() // count)
        context = multiprocessing.get_context("spawn")
        devices: Queue[str] = context.Queue()
        for device in devices_for(count):
            devices.put(device)
        self._pool = ProcessPoolExecutor(count, context, _start_worker, (devices,))

    def submit(self, step: Step) -> "Future[None]":
        """Begin a step in a free process."""
        return self._pool.submit(do_one, self.root, self.data, step, self.threads)

    def stop(self) -> None:
        """Kill the processes: ours, and no other child of whoever called."""
        for process in list((self._pool._processes or {}).values()):
            process.kill()

    def close(self) -> None:
        """Let the processes end; those of unfinished steps too, once the step is done."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def devices_for(count: int) -> list[str]:
    """What each of `count` processes sets CUDA_VISIBLE_DEVICES to: of the GPUs the user allowed; empty leaves it."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = allowed.split(",") if allowed else [str(index) for index in range(torch.cuda.device_count())]
    return [names[worker % len(names)] if len(names) > 1 else "" for worker in range(count)]


def _start_worker(devices: "Queue[str]") -> None:
    begin_worker()
    if device := devices.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    keep_buffers()


def do_one(root: Path, data: Path, step: Step, threads: int) -> None:
    """A step of the run in `root`, in a process for it alone, of `threads` threads from now on.

    What went wrong is written to `.work`.
    """
    torch.set_num_threads(threads)
    try:
        do_step(Run.open(root, data), step, StatusFile(status_file(root, step.key)), distributed.loader_workers())
    except Exception:
        _write_traceback(root, step)
        raise


def _write_traceback(root: Path, step: Step) -> None:
    trace = root / ".work" / f"{step.name.replace('/', '.')}.traceback.txt"
    trace.parent.mkdir(parents=True, exist_ok=True)
    trace.write_text(traceback.format_exc())
