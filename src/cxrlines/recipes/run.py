"""A recipe run on a folder of films: prepared, planned, its steps done here, its proof written."""

import json
import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from cxrlines.data.folds import folds_of, make_folds, read_folds, write_folds
from cxrlines.data.pool import cores
from cxrlines.data.store import Store, StoreError, build_store, open_store
from cxrlines.data.tables import Dataset, read_dataset
from cxrlines.recipes.plan import Key, Step, make_plan
from cxrlines.recipes.progress import Board, StatusFile, read_status
from cxrlines.recipes.spec import Recipe
from cxrlines.recipes.step import Run, do_step, read_record
from cxrlines.task import LABELS
from cxrlines.training.process import die_with_parent, keep_buffers, use_threads


class RunError(RuntimeError):
    """Steps failed, or the run cannot start; the message says which and what to do. Finished steps are kept."""


def prepare(recipe: Recipe, data: Path, root: Path, workers: int) -> Run:
    """Decode the films into the run's store, draw the folds, and write down the recipe. Cheap when done before."""
    root.mkdir(parents=True, exist_ok=True)
    train = read_dataset(data, "train")
    if not set(LABELS) <= set(train.studies):
        raise RunError(f"{data} has no labels to train on; it needs a train.csv with the 11 labels beside train/")
    store = _store(recipe, train, root / "store/train", workers)
    test, test_store = None, None
    if (data / "sample_submission.csv").is_file():
        test = read_dataset(data, "test")
        test_store = _store(recipe, test, root / "store/test", workers)
    folds = folds_for(recipe, train)
    write_folds(train.studies, folds, root / "folds.csv")
    aside = root / "recipe.json.partial"
    aside.write_text(recipe.model_dump_json(indent=1))
    aside.replace(root / "recipe.json")
    (root / "data.json").write_text(json.dumps({"data": str(data.resolve())}))
    return Run(root, recipe, train, store, folds, test, test_store)


def folds_for(recipe: Recipe, train: Dataset) -> pd.Series:
    """The recipe's folds of the studies: drawn, or read from its file."""
    if recipe.folds.file:
        return folds_of(train.studies, read_folds(Path(recipe.folds.file)))
    return make_folds(train.studies, recipe.folds.count, recipe.folds.seed)


def _store(recipe: Recipe, dataset: Dataset, folder: Path, workers: int) -> Store:
    return build_store(dataset, folder, size=recipe.store.size, aspect=recipe.store.aspect, workers=workers)


def plan_of(run: Run, wanted: Sequence[int] | None) -> list[Step]:
    """The steps of a prepared run on some folds (None: all). `RunError` for a fold that does not exist."""
    chosen = _chosen(run.folds, wanted)
    return make_plan(run.recipe, run.train, run.stored(), run.store.fingerprint, run.folds, chosen)


def _chosen(folds: pd.Series, wanted: Sequence[int] | None) -> list[int]:
    known = sorted(int(fold) for fold in folds.unique())
    chosen = known if wanted is None else list(dict.fromkeys(wanted))
    if strange := [fold for fold in chosen if fold not in known]:
        raise RunError(f"--folds names {strange}; this recipe has folds {known}")
    return chosen


def dry_run(recipe: Recipe, data: Path, root: Path, wanted: Sequence[int] | None) -> str:
    """The plan for people: each step, what it is made from, its films, whether it is done. Writes nothing."""
    dataset = read_dataset(data, "train")
    folds = folds_for(recipe, dataset)
    try:
        store = open_store(root / "store/train")
        stored, fingerprint = dataset.studies["study"].isin(set(store.studies)).to_numpy(), store.fingerprint
    except StoreError:  # not built yet: as if every film could be read
        stored, fingerprint = np.ones(len(dataset.studies), bool), "not built"
    steps = make_plan(recipe, dataset, stored, fingerprint, folds, _chosen(folds, wanted))
    lines = [f"{recipe.name}: {len(steps)} steps in {root}"]
    for step in steps:
        stage = recipe.members[step.key[0]].stages[step.key[2]]
        made_from = ", ".join(f"{role} {_name(key)}" for role, key in step.parents.items()) or f"start {stage.start}"
        done = read_record(root / step.name).get("identity") == step.identity
        lines.append(
            f"  {step.name}: {'done' if done else 'to do'}; from {made_from}; {step.films} {stage.films.which} films, "
            f"{stage.films.view}; {stage.schedule.epochs:g} epochs"
        )
    return "\n".join(lines)


def default_workers(steps: Sequence[Step]) -> int:
    """A process for each GPU, or without one for each core, but no more than steps that can run side by side."""
    side_by_side = len({step.key[:2] for step in steps})
    return max(1, min(torch.cuda.device_count() or cores(), side_by_side))


def do_plan(run: Run, data: Path, steps: Sequence[Step], workers: int) -> None:
    """Do every unfinished step, `workers` at a time, parents first.

    A step that fails costs only those that depend on it; the others are done, then `RunError` is raised.
    """
    todo = {step.key: step for step in steps if not run.is_done(step)}
    running: dict[Future[None], Key] = {}
    failed: dict[Key, str] = {}
    broken = False
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    devices: Queue[int] = context.Queue()
    for worker in range(workers):
        devices.put(worker % max(1, torch.cuda.device_count()))
    threads = max(1, cores() // workers)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (threads, devices))
    try:
        with Board(len(steps), len(steps) - len(todo)) as board:
            while (todo or running) and not broken:
                for key, step in list(todo.items()):
                    if any(parent in failed for parent in step.parents.values()):
                        failed[key] = "not started: a step it is made from failed"
                        del todo[key]
                    elif len(running) < workers and all(
                        parent not in todo and parent not in running.values() for parent in step.parents.values()
                    ):
                        running[pool.submit(_do_one, run.root, data, step, threads)] = key
                        del todo[key]
                finished, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    key = running.pop(future)
                    try:
                        future.result()
                        board.finished(run.folder(key).relative_to(run.root).as_posix(), read_record(run.folder(key)))
                    except BrokenProcessPool:
                        broken = True
                        failed[key] = "its process was killed (out of memory?); the same command goes on from there"
                    except Exception as error:
                        failed[key] = f"{type(error).__name__}: {error}"
                        board.say(f"{_name(key)}: failed; why is said at the end, the other steps go on")
                board.show((_name(key), read_status(_status_file(run.root, key))) for key in running.values())
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(run.root / ".status", ignore_errors=True)
    if failed:
        reasons: dict[str, list[str]] = {}
        for key, reason in failed.items():
            reasons.setdefault(reason, []).append(_name(key))
        lines = "\n".join(f"  {', '.join(names)}: {reason}" for reason, names in reasons.items())
        raise RunError(
            f"{len(failed)} of {len(steps)} steps are not done:\n{lines}\n"
            f"Finished steps are kept; tracebacks are in {run.root / '.work'}. Mend the cause and run the same command."
        )


def _name(key: Key) -> str:
    return f"{key[0]}/fold{key[1]}/{key[2]}"


def _status_file(root: Path, key: Key) -> Path:
    return root / ".status" / f"{_name(key).replace('/', '.')}.json"


def _start_worker(threads: int, devices: "Queue[int]") -> None:
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    keep_buffers()
    device = devices.get()
    if torch.cuda.device_count() > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
    use_threads(threads)


def _do_one(root: Path, data: Path, step: Step, threads: int) -> None:
    try:
        loader_workers = min(8, threads) if torch.cuda.is_available() else 0
        do_step(Run.open(root, data), step, StatusFile(_status_file(root, step.key)), loader_workers)
    except Exception:
        trace = root / ".work" / f"{step.name.replace('/', '.')}.traceback.txt"
        trace.parent.mkdir(parents=True, exist_ok=True)
        trace.write_text(traceback.format_exc())
        raise


def train(
    recipe: Recipe,
    data: Path,
    root: Path,
    *,
    folds: Sequence[int] | None = None,
    workers: int | None = None,
    command: str = "",
    say: Callable[[str], None] = print,
) -> Run:
    """Run a recipe to its end: store, folds, steps, predictions, metrics, report; resumes what was begun."""
    from cxrlines.recipes.proof import write_proof  # matplotlib: not before it is needed

    run = prepare(recipe, data, root, workers or cores())
    for split, store in (("train", run.store), ("test", run.test_store)):
        if store is not None and store.left_out:
            say(f"{len(store.left_out)} {split} films could not be read and are left out; see the report")
    steps = plan_of(run, folds)
    do_plan(run, data, steps, workers or default_workers(steps))
    write_proof(run, steps, command)
    return run
