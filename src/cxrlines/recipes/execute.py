"""The steps of a plan done on this machine: worker processes side by side, parents first, nothing finished lost."""

import multiprocessing
import os
import shutil
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path

import torch

from cxrlines.data.pool import begin_worker, cores
from cxrlines.recipes.plan import Key, Step, name_of
from cxrlines.recipes.progress import Board, StatusFile, read_status
from cxrlines.recipes.step import Run, do_step, read_record
from cxrlines.training.process import keep_buffers


class RunError(RuntimeError):
    """Steps failed, or the run cannot start; the message says which and what to do. Finished steps are kept."""


def workers_for(steps: Sequence[Step], asked: int | None) -> int:
    """Processes: as many as asked for, else one for each GPU or each core; never more than can run side by side."""
    side_by_side = len({step.key[:2] for step in steps})
    return max(1, min(asked or torch.cuda.device_count() or cores(), side_by_side))


def do_plan(run: Run, data: Path, steps: Sequence[Step], workers: int | None = None) -> None:
    """Do every unfinished step, `workers` at a time, parents first.

    A step that fails costs only those that depend on it; the others are done, then `RunError` is raised. A process
    that is killed takes those beside it down: then nothing more is started.
    """
    todo = {step.key: step for step in steps if not run.is_done(step)}
    if not todo:
        return
    failed: dict[Key, str] = {}
    running: dict[Future[None], Key] = {}
    count = workers_for(list(todo.values()), workers)
    threads = max(1, cores() // count)
    pool = _pool(count, threads)
    try:
        with Board(len(steps), len(steps) - len(todo)) as board:
            while todo or running:
                _start_ready(pool, run, data, todo, running, failed, count, threads)
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    key = running.pop(future)
                    try:
                        future.result()
                        board.finished(name_of(key), read_record(run.folder(key)))
                    except BrokenProcessPool:
                        raise
                    except Exception as error:
                        failed[key] = f"{type(error).__name__}: {error}"
                        board.say(f"{name_of(key)}: failed; why is said at the end, the other steps go on")
                board.show((name_of(key), read_status(_status_file(run.root, key))) for key in running.values())
    except BrokenProcessPool:
        reason = "a worker was killed (out of memory? then fewer --workers); the same command goes on from there"
        failed |= {step.key: reason for step in steps if not run.is_done(step) and step.key not in failed}
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.kill()  # whatever is on the disk is whole
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(run.root / ".status", ignore_errors=True)
    if failed:
        raise RunError(_told(run, failed, len(steps)))


def _start_ready(
    pool: ProcessPoolExecutor,
    run: Run,
    data: Path,
    todo: dict[Key, Step],
    running: dict[Future[None], Key],
    failed: dict[Key, str],
    count: int,
    threads: int,
) -> None:
    """Submit steps whose parents are done while there are free workers; drop those whose parents failed."""
    for key, step in list(todo.items()):
        parents = step.parents.values()
        if any(parent in failed for parent in parents):
            failed[key] = "not started: a step it is made from failed"
            del todo[key]
        elif len(running) < count and not any(parent in todo or parent in running.values() for parent in parents):
            running[pool.submit(_do_one, run.root, data, step, threads)] = key
            del todo[key]


def _told(run: Run, failed: dict[Key, str], total: int) -> str:
    reasons: dict[str, list[str]] = {}
    for key, reason in failed.items():
        reasons.setdefault(reason, []).append(name_of(key))
    lines = "\n".join(f"  {', '.join(names)}: {reason}" for reason, names in reasons.items())
    return (
        f"{len(failed)} of {total} steps are not done:\n{lines}\n"
        f"Finished steps are kept; tracebacks are in {run.root / '.work'}. Mend the cause and run the same command."
    )


def _status_file(root: Path, key: Key) -> Path:
    return root / ".status" / f"{name_of(key).replace('/', '.')}.json"


def _pool(count: int, threads: int) -> ProcessPoolExecutor:
    """Workers, each with a GPU of its own where there are several; those the user allowed, by the user's names."""
    context = multiprocessing.get_context("spawn")
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = allowed.split(",") if allowed else [str(index) for index in range(torch.cuda.device_count())]
    devices: Queue[str] = context.Queue()
    for worker in range(count):
        devices.put(names[worker % len(names)] if len(names) > 1 else "")
    return ProcessPoolExecutor(count, context, _start_worker, (threads, devices))


def _start_worker(threads: int, devices: "Queue[str]") -> None:
    begin_worker()
    if device := devices.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    keep_buffers()
    torch.set_num_threads(threads)


def _do_one(root: Path, data: Path, step: Step, threads: int) -> None:
    try:
        loader_workers = min(8, threads) if torch.cuda.is_available() else 0
        do_step(Run.open(root, data), step, StatusFile(_status_file(root, step.key)), loader_workers)
    except Exception:
        trace = root / ".work" / f"{step.name.replace('/', '.')}.traceback.txt"
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.write_text(traceback.format_exc())
        raise
