"""Lightning's trainer in a host process, which is left as it was found."""

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator

import torch


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
