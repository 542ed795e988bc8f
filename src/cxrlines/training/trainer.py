"""Stages trained to their end, taken up where they were left, and asked for their predictions."""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import lightning
import numpy as np
import torch
from torch import Tensor

from cxrlines.models.two_step import Model
from cxrlines.training import distributed
from cxrlines.training.checkpoint import State, load_state, save_state
from cxrlines.training.loader import FilmSet, View, in_order
from cxrlines.training.stage import StageModule

PRECISION: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}
"""What Lightning calls the precisions of `Fit`."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's advice on loader workers and unused hardware does not fit one process a core."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=UserWarning, message=".*lr_scheduler.*")
        yield


def fit_stage(module: StageModule) -> dict[str, Tensor]:
    """Train what is left of `module`. Returns the final weights."""
    left = math.ceil(module.total / module.per_epoch) - module.progress.epoch
    distributed.same_everywhere(module.step_now, "step to go on from")
    if not module.finished and left > 0:
        distributed.synchronise(module.model, module.in_batch)
        if module.ema is not None:
            module.ema.requires_grad_(False)
        with _quiet():
            trainer = lightning.Trainer(
                max_epochs=left,
                **distributed.trainer_options(find_unused=distributed.world() > 1 and module.leaves_unused()),
                benchmark=torch.cuda.is_available(),  # every batch has the same shape
                precision=PRECISION[module.fit_to.precision],
                gradient_clip_val=module.fit_to.clip,
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


@torch.inference_mode()
def predict_films(model: Model, films: FilmSet, *, batch: int = 32, view: View = "plain") -> np.ndarray:
    """Probabilities (n, 11) float32 of every film in order, without augmentation.

    Several processes predict a part each and all get the whole: all of them must call it.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    rows = [
        torch.sigmoid(model(item[("overlay" if view == "overlay" else "film")].to(device)).float()).cpu()
        for item in in_order(films, batch, part=distributed.part(len(films.films)))
    ]
    scores = torch.cat(rows).numpy() if rows else np.zeros((0, films.films.targets.shape[1]), np.float32)
    return distributed.gather_rows(scores)
