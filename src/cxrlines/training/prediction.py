"""Predictions of a network for films as they are stored, in full precision and without augmentation."""

import numpy as np
import torch
from torch import nn

from cxrlines.core.errors import Error
from cxrlines.models.fuse_bn import in_float32
from cxrlines.training import distributed
from cxrlines.training.loader import FilmSet, in_order


def predict_films(model: nn.Module, films: FilmSet, *, batch: int = 32) -> np.ndarray:
    """Probabilities (n, labels) float32 of every film in order, `batch` at once, without augmentation.

    In float32, whatever a stage was trained in. The model is moved to the GPU where there is one, and evaluates from
    then on; it can be trained further. Several processes predict a part each and all get the whole: all of them must
    call it.

    Raises:
        Error: the GPU's memory does not hold the films of a batch, or a probability is not finite.
    """
    gpu, together = torch.cuda.is_available(), distributed.world > 1
    device = torch.device("cuda" if gpu else "cpu")
    # Before inference mode: what is moved in it can never be trained again.
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    mine = distributed.rank_slice(len(films.films)) if together else slice(None)
    workers = distributed.loader_workers() if gpu else 0
    rows = []
    try:
        with torch.inference_mode(), in_float32():
            for item in in_order(films, batch, workers, mine, pin=gpu):
                rows.append(torch.sigmoid(model(item["film"].to(device, non_blocking=True)).float()))
            scores = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, films.films.labels.shape[1]), np.float32)
    except torch.OutOfMemoryError as error:
        raise Error(
            f"the GPU's memory does not hold the prediction of {batch} films at once",
            "free it of other programs; else raise schedule.accumulate of the stage, which is then trained again",
        ) from error
    scores = distributed.gather_rows(scores) if together else scores
    if count := int((~np.isfinite(scores)).any(axis=1).sum()):
        raise Error(
            f"the network's probabilities of {count} of {len(scores)} films are not finite: its training diverged",
            "train it with a lower schedule.lr, with schedule.clip, or in precision 32",
        )
    return scores
