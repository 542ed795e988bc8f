"""Lightning's trainer in a host process, which is left as it was found."""

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Literal

import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment

from cxrlines.training import distributed
from cxrlines.training.config import Precision, ScheduleSpec

LIGHTNING_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


@contextlib.contextmanager
def as_found() -> Iterator[None]:
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


def trainer(
    schedule: ScheduleSpec, precision: Precision, *, epochs: int, unused: Callable[[], bool]
) -> lightning.Trainer:
    """Lightning's trainer for `epochs`; `unused` says whether a step leaves parameters without a gradient."""
    alone = {"devices": 1, "plugins": [LightningEnvironment()]}  # whatever SLURM's variables say
    return lightning.Trainer(
        max_epochs=epochs,
        **(distributed.trainer_options(unused()) if distributed.world > 1 else alone),
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        # Tried once for each shape: one of all films, and one for each count that a decoder is run on.
        benchmark=torch.cuda.is_available(),
        precision=LIGHTNING_PRECISION[precision],
        gradient_clip_val=schedule.clip,
        logger=False,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
