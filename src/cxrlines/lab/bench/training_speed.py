"""Training speed on the processor: cxrlines' set-up against PyTorch's defaults, on the same work."""

import subprocess
import sys
import time

import torch

from cxrlines.core.pool import cores, keep_buffers
from cxrlines.models.classifier import Classifier
from cxrlines.task import LABELS
from cxrlines.training.outputs import total_loss
from cxrlines.training.targets.labels import label_loss

BACKBONE, SIZE, BATCH = "tf_efficientnet_lite0", 256, 16


def bench_train(seconds: float = 20.0) -> dict[str, float]:
    """`films_per_s` of all cores together as cxrlines trains, and its `speedup` over one process as PyTorch comes.

    The work is forward, backward and an optimiser step of an EfficientNet-Lite0 at 256 px, batch 16.
    """
    default = _films_per_s(["default"], seconds)
    tuned = _films_per_s(["tuned"] * cores(), seconds)
    figures = {"speedup": tuned / default, "films_per_s": tuned, "films_per_s_default": default}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def _films_per_s(modes: list[str], seconds: float) -> float:
    """Processes of these modes side by side, each printing its speed; the sum."""
    command = [sys.executable, "-m", "cxrlines.lab.bench.training_speed"]
    running = [subprocess.Popen([*command, mode, str(seconds)], stdout=subprocess.PIPE, text=True) for mode in modes]
    speeds = []
    for process in running:
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"a benchmark process ended with code {process.returncode}")
        speeds.append(float(out))
    return sum(speeds)


def _work(mode: str, seconds: float) -> float:
    """Films per second of this process."""
    if mode == "tuned":
        keep_buffers()
        torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Classifier(BACKBONE, "gap", weights="none").train()
    if mode == "tuned":
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    films, labels = torch.rand(BATCH, 1, SIZE, SIZE), torch.rand(BATCH, len(LABELS)).round()
    begun, done = time.monotonic(), -2  # the first two batches warm up
    while done < 2 or time.monotonic() - begun < seconds:
        optimizer.zero_grad(set_to_none=True)
        total_loss([(1.0, label_loss(model(films), labels))]).backward()
        optimizer.step()
        done += 1
        if done == 0:
            begun = time.monotonic()
    return done * BATCH / (time.monotonic() - begun)


if __name__ == "__main__":
    print(_work(sys.argv[1], float(sys.argv[2])))
