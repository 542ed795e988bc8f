"""Training leaves the process that calls it as it found it: it may be a notebook or a service."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cxrlines.models.classifier import Classifier
from cxrlines.task import LABELS
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.prediction import predict_films

from .small_stages import noise_store


def film_set(count: int = 8) -> FilmSet:
    targets = np.random.default_rng(1).integers(0, 2, (count, len(LABELS))).astype(np.float32)
    films = Films(noise_store(count), np.arange(count), targets, [[]] * count)
    return FilmSet(films, "hotwater", 32, seed=0)


def stage(model: Classifier, **options: Any) -> StageModule:
    return StageModule(
        model, StageConfig(ScheduleSpec(epochs=2, batch=4, lr=1e-3)), film_set(), film_set(), view="plain", **options
    )


def state_of_the_host() -> dict[str, Any]:
    """All that a library could change under its host's feet."""
    loggers = {name: log for name, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger)}
    return {
        "loggers": {
            name: (log.level, list(log.handlers), log.propagate, log.disabled)
            for name, log in {"": logging.root, **loggers}.items()
        },
        "warning filters": list(warnings.filters),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "OpenCV's threads": cv2.getNumThreads(),
        "torch's threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch's flags": (
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32,
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
            torch.is_anomaly_enabled(), torch.is_autocast_enabled("cpu"),
        ),
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": str(np.random.get_state()),  # noqa: NPY002
        "Python's generator": random.getstate(),
        "environment": dict(os.environ),
        "excepthooks": (sys.excepthook, threading.excepthook),
        "threads": {thread.name for thread in threading.enumerate()},
    }  # fmt: skip


@pytest.fixture
def a_host_of_its_own():
    """Settings other than ours, so that ours would show; put back afterwards."""
    threads, handler, level = cv2.getNumThreads(), signal.getsignal(signal.SIGTERM), logging.root.level
    cv2.setNumThreads(3)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    logging.getLogger("lightning.pytorch").setLevel(logging.DEBUG)
    torch.manual_seed(12345)
    with warnings.catch_warnings():
        warnings.simplefilter("error", BytesWarning)
        yield
    cv2.setNumThreads(threads)
    signal.signal(signal.SIGTERM, handler)
    logging.root.setLevel(level)
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    known = before["loggers"].keys()  # a logger made by an import of a dependency is not a change
    after = after | {"loggers": {name: state for name, state in after["loggers"].items() if name in known}}
    return [name for name in before if before[name] != after[name]]


def test_fitting_and_predicting_change_nothing_of_the_host(a_host_of_its_own):
    model = Classifier("resnet10t", "gap", weights="none", dropout=0.5)
    before = state_of_the_host()
    stage(model).fit()
    assert differences(before, state_of_the_host()) == []
    with torch.no_grad():
        predict_films(model, film_set())
        without = state_of_the_host()
        stage(model).fit()
        assert differences(without, state_of_the_host()) == [], "also where the host takes no gradients"
    assert differences(before, state_of_the_host()) == []


def test_a_failure_and_an_interrupt_change_nothing_of_the_host(a_host_of_its_own):
    def fail(error: BaseException) -> Any:
        def keep(state: object) -> None:
            raise error

        return keep

    before = state_of_the_host()
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        model = Classifier("resnet10t", "gap", weights="none")
        torch.manual_seed(12345)
        with pytest.raises(type(error)):
            stage(model, keep=fail(error), keep_every_s=0).fit()
        assert differences(before, state_of_the_host()) == []


IMPORTS = """
import logging, signal, sys, warnings, os
import cv2, numpy as np, torch
import lightning, lightning.pytorch.strategies, timm, segmentation_models_pytorch, pandas, scipy.spatial, pydantic, rich
import tensorboard, filelock, PIL.Image, torch.utils.tensorboard, huggingface_hub, safetensors.torch
def state():
    loggers = {n: l for n, l in logging.root.manager.loggerDict.items() if isinstance(l, logging.Logger)}
    return {
        "root": (logging.root.level, list(logging.root.handlers)),
        "loggers": {n: (l.level, list(l.handlers), l.propagate) for n, l in loggers.items()},
        "filters": [f for f in warnings.filters], "format": warnings.formatwarning,
        "signals": {n: signal.getsignal(n) for n in signal.valid_signals()},
        "threads": (cv2.getNumThreads(), torch.get_num_threads()),
        "random": (torch.get_rng_state().tolist(), str(np.random.get_state())),
        "environment": dict(os.environ),
    }
before = state()
import importlib, pkgutil, cxrlines
for room in sys.argv[1:]:
    package = importlib.import_module("cxrlines." + room)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"cxrlines.{room}.{module.name}")
after = state()
after["loggers"] = {n: after["loggers"][n] for n in before["loggers"]}
print([name for name in before if before[name] != after[name]])
"""


def test_importing_the_rooms_of_training_changes_nothing():
    """Beyond what the packages that they need change when they are imported."""
    rooms = ["augment", "models", "tracking", "training"]
    done = subprocess.run([sys.executable, "-c", IMPORTS, *rooms], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
