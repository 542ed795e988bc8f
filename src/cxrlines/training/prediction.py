"""Predictions of a network for films as they are stored, in full precision and without augmentation."""

import numpy as np
import torch
from torch import nn

from cxrlines.training import distributed
from cxrlines.training.loader import FilmSet, in_order


def predict_films(model: nn.Module, films: FilmSet, *, batch: int = 32) -> np.ndarray:
    """Probabilities (n, labels) float32 of every film in order, without augmentation.

    In full precision, as a bundle reads, whatever a stage was trained in. The model is moved to the GPU where there is
    one, and evaluates from then on; it can be trained further. Several processes predict a part each and all get the
    whole: all of them must call it.
    """
    gpu, together = torch.cuda.is_available(), distributed.world > 1
    device = torch.device("cuda" if gpu else "cpu")
    # Before inference mode: what is moved in it can never be trained again.
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    mine = distributed.rank_slice(len(films.films)) if together else slice(None)
    workers = distributed.loader_workers() if gpu else 0
    rows = []
    with torch.inference_mode():
        for item in in_order(films, batch, workers, mine, pin=gpu):
            rows.append(torch.sigmoid(model(item["film"].to(device, non_blocking=True)).float()))
        scores = torch.cat(rows).cpu().numpy() if rows else np.zeros((0, films.films.labels.shape[1]), np.float32)
    return distributed.gather_rows(scores) if together else scores
