"""Training a stage to its end, resuming it, and predicting films."""

import contextlib
import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import lightning
import numpy as np
import torch
from torch import Tensor

from cxrlines.models.classifier import Model
from cxrlines.training import distributed
from cxrlines.training.checkpoint import State, load_state, save_state
from cxrlines.training.config import Precision
from cxrlines.training.loader import FilmSet, View, in_order
from cxrlines.training.module import StageModule

LIGHTNING_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


@contextlib.contextmanager
def _as_found() -> Iterator[None]:
    """Lightning quiet, and all that it and training set in this process restored: the caller may be no command.

    That is its logger's level, warning filters, signal handlers, cuDNN's choice of algorithms, whether gradients are
    taken, and the state of torch's generators. What it makes of Ctrl-C, an exit, is the interrupt again.
    """
    logger, benchmark, gradients = (
        logging.getLogger("lightning.pytorch"),
        torch.backends.cudnn.benchmark,
        torch.is_grad_enabled(),
    )
    level, interrupt = logger.level, signal.getsignal(signal.SIGINT)
    logger.setLevel(logging.ERROR)  # its advice on loader workers and unused hardware does not fit one process a core
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(gpus):
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", category=UserWarning, message=".*lr_scheduler.*")
            yield
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise ended.__context__ from None
        raise
    finally:
        logger.setLevel(level)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_grad_enabled(gradients)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)


def fit_stage(module: StageModule) -> dict[str, Tensor]:
    """Train what is left of `module`. Returns the final weights."""
    left = math.ceil(module.total / module.per_epoch) - module.progress.epoch
    distributed.same_everywhere(module.step_now, "step to go on from")
    if not module.finished and left > 0:
        distributed.synchronise(module.model, module.in_batch)
        with _as_found():
            trainer = lightning.Trainer(
                max_epochs=left,
                **distributed.trainer_options(find_unused=distributed.world() > 1 and module.leaves_unused()),
                # Tried once for each shape: one of all films, and one for each count of films that a decoder is run on.
                benchmark=torch.cuda.is_available(),
                precision=LIGHTNING_PRECISION[module.precision],
                gradient_clip_val=module.schedule.clip,
                logger=False,
                reload_dataloaders_every_n_epochs=1,
                num_sanity_val_steps=0,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(module)
    return module.result()


def resume(path: Path, step: str) -> tuple[State | None, Callable[[State], None]]:
    """The state a killed run of `step` left at `path`, and what keeps the next ones there."""
    return load_state(path, step), lambda state: save_state(path, step, state)


def predict_films(model: Model, films: FilmSet, *, batch: int = 32, view: View = "plain") -> np.ndarray:
    """Probabilities (n, labels) float32 of every film in order, without augmentation.

    In full precision, as a bundle reads, whatever a stage was trained in. The model is moved to the GPU where there is
    one, and evaluates from then on; it can be trained further. Several processes predict a part each and all get the
    whole: all of them must call it.
    """
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    # Before inference mode: what is moved in it can never be trained again.
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    mine = distributed.rank_slice(len(films.films))
    rows = []
    with torch.inference_mode():
        for item in in_order(films, batch, distributed.loader_workers(), mine, pin=gpu):
            shown = item["overlay" if view == "overlay" else "film"].to(device, non_blocking=True)
            rows.append(torch.sigmoid(model(shown).float()))
        scores = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, films.films.labels.shape[1]), np.float32)
    return distributed.gather_rows(scores)
