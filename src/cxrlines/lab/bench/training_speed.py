"""Training speed: films a second, how much of the time waits for films, and what share of a GPU's peak is used.

On a processor, besides: cxrlines' set-up against PyTorch's defaults, on the same work.
"""

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import torch

from cxrlines.core.pool import cores, keep_buffers
from cxrlines.lab.intact_films import picture
from cxrlines.lab.price.estimate import BACKWARD, watch
from cxrlines.models.classifier import Classifier
from cxrlines.task import LABELS
from cxrlines.training import distributed
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.outputs import total_loss
from cxrlines.training.targets.labels import label_loss

PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100 NVL": 835e12, "H100 PCIe": 756e12, "H100": 989e12, "L40S": 362e12,
    "L40": 181e12, "A100": 312e12, "A10": 125e12, "L4": 121e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""Floating-point operations a second in bf16, dense, of NVIDIA's data sheets, by a part of the card's name; the first
that fits counts."""
WARM_UP = 8
"""Batches before the clock starts: kernels are chosen and processes of the loader begin in them."""


class Mode(StrEnum):
    """What a process measures."""

    LOOP = "loop"  # a stage's own loop over epochs, with its films made ready, and without
    TUNED = "tuned"  # steps alone, as cxrlines trains
    DEFAULT = "default"  # steps alone, as PyTorch comes


class Work(NamedTuple):
    """What is trained: a network on films of `size` px under the augmentation `hotwater`; `workers` make films ready.

    `workers` None: as `train` has it, a process for each core up to 8 on a GPU, none without.
    """

    backbone: str = "tf_efficientnet_lite0"
    size: int = 256
    batch: int = 16
    workers: int | None = None


def bench_train(seconds: float = 20.0, work: Work | None = None) -> dict[str, Any]:
    """How fast a stage is trained on this machine, each measurement over `seconds`.

    Returns:
        films_per_s: on a GPU of the whole loop, films made ready included; on a processor of all cores together,
            forward and backward pass and optimiser step alone, as cxrlines trains: a process a core.
        speedup, films_per_s_default: on a processor, that over, and of, one process as PyTorch comes.
        waits_for_films: the share of a process's time that the whole loop spends on waiting for its films, by its speed
            with one batch again and again.
        gpu, tflops, share_of_peak, memory_gb: on a GPU; operations of forward and backward pass (three forward passes,
            counted by `torch.utils.flop_counter`) a second; None where the card's peak is not known; largest memory.
    """
    work = work or Work()
    (loop,) = _run([Mode.LOOP], work, seconds)
    figures: dict[str, Any] = {"waits_for_films": max(0.0, 1 - loop["films_per_s"] / loop.pop("films_per_s_ready"))}
    if loop["gpu"]:
        flops = loop["films_per_s"] * (1 + BACKWARD) * watch(work.backbone, "gap", work.size).flops
        peak = next((peak for part, peak in PEAKS.items() if part in loop["gpu"]), None)
        figures |= loop | {"tflops": flops / 1e12, "share_of_peak": flops / peak if peak else None}
    else:
        default = sum(process["films_per_s"] for process in _run([Mode.DEFAULT], work, seconds))
        tuned = sum(process["films_per_s"] for process in _run([Mode.TUNED] * cores(), work, seconds))
        figures |= {"speedup": tuned / default, "films_per_s": tuned, "films_per_s_default": default}
    return {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}


def _run(modes: Sequence[Mode], work: Work, seconds: float) -> list[dict[str, Any]]:
    """Measure in a process for each mode, side by side; what each of them prints as JSON."""
    command, options = [sys.executable, "-m", "cxrlines.lab.bench.training_speed"], json.dumps([*work, seconds])
    running = [subprocess.Popen([*command, mode, options], stdout=subprocess.PIPE, text=True) for mode in modes]
    figures = []
    for process in running:
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"a benchmark process ended with code {process.returncode}")
        figures.append(json.loads(out.splitlines()[-1]))
    return figures


def _steps(work: Work, seconds: float, *, tuned: bool) -> dict[str, Any]:
    """Films per second of this process's training steps, on films that are there already."""
    if tuned:
        keep_buffers()
        torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Classifier(work.backbone, "gap", weights="none").train()
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    films, labels = torch.rand(work.batch, 1, work.size, work.size), torch.rand(work.batch, len(LABELS)).round()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        total_loss([(1.0, label_loss(model(films), labels))]).backward()
        optimizer.step()

    for _ in range(2):  # warm up
        step()
    begun, done = time.monotonic(), 0
    while done < 2 or time.monotonic() - begun < seconds:
        step()
        done += 1
    return {"films_per_s": done * work.batch / (time.monotonic() - begun)}


@dataclass(frozen=True)
class _Store:
    """Films as a loader reads them."""

    films: np.ndarray


class _RepeatedBatch:
    """A loader that has its first batch ready, and gives it again and again."""

    def __init__(self, loader: Any) -> None:
        self.batch, self.count = next(iter(loader)), len(loader)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * self.count)


class _TimedStage(StageModule):
    """A stage that trains for `seconds` after the first batches; `films_per_s` of that time is there at its end.

    With `repeat` it trains on one batch again and again, and waits for no films.
    """

    seconds, repeat, films_per_s = 0.0, False, math.nan
    _done, _begun = 0, 0.0

    def train_dataloader(self) -> Any:
        return _RepeatedBatch(super().train_dataloader()) if self.repeat else super().train_dataloader()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        self._done += 1
        if self._done == WARM_UP:
            self._begun = self._now()
        elif self._done > WARM_UP and time.monotonic() - self._begun >= self.seconds:
            self.films_per_s = (self._done - WARM_UP) * self.schedule.batch / (self._now() - self._begun)
            self.trainer.should_stop = True

    def _now(self) -> float:
        """The clock, once all that was begun on a GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()


def _loop(work: Work, seconds: float) -> dict[str, Any]:
    """Films per second of a stage's own loop, with its films made ready, and with one batch again and again."""
    gpu = torch.cuda.is_available()
    keep_buffers()
    workers = work.workers if work.workers is not None else distributed.loader_workers()
    if not gpu:
        torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    stored = np.stack([picture(rng, work.size, work.size) for _ in range(32)])  # what is on them changes no speed
    count = 500 * work.batch
    labels = rng.integers(0, 2, (count, len(LABELS))).astype(np.float32)
    films = Films(_Store(stored), np.arange(count) % len(stored), labels, [[]] * count)  # type: ignore[arg-type]
    config = StageConfig(ScheduleSpec(epochs=1000, batch=work.batch, lr=1e-4))
    seen = FilmSet(films, "hotwater", work.size, seed=0)
    speeds = []
    for repeat in (False, True):
        model = Classifier(work.backbone, "gap", weights="none")
        stage = _TimedStage(model, config, seen, None, view="plain", keep_every_s=math.inf, loader_workers=workers)
        stage.seconds, stage.repeat = seconds, repeat
        stage.fit()
        speeds.append(stage.films_per_s)
        stage.loaders.clear()  # and its processes
    return {
        "films_per_s": speeds[0],
        "films_per_s_ready": speeds[1],
        "gpu": torch.cuda.get_device_name() if gpu else None,
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if gpu else None,
    }


if __name__ == "__main__":
    chosen, (*fields, limit) = Mode(sys.argv[1]), json.loads(sys.argv[2])
    task = Work(*fields)
    measured = _loop(task, limit) if chosen is Mode.LOOP else _steps(task, limit, tuned=chosen is Mode.TUNED)
    print(json.dumps(measured))
