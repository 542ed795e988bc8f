"""Predictions are made in float32 a batch at a time, and what is no probability is no prediction."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxrlines.core.errors import Error
from cxrlines.task import LABELS
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.prediction import predict_films

from .small_stages import noise_store


def film_set(count: int = 7) -> FilmSet:
    films = Films(noise_store(count), np.arange(count), np.zeros((count, len(LABELS)), np.float32), [[]] * count)
    return FilmSet(films, "none", 32, seed=0)


class Asked(nn.Module):
    """A network that notes of each call how many films it is shown, and whether convolutions round to TF32."""

    def __init__(self, logit: float = 0.0, fails: type[Exception] | None = None) -> None:
        super().__init__()
        self.logit, self.fails = logit, fails
        self.shown: list[tuple[int, Any]] = []

    def forward(self, film: Tensor) -> Tensor:
        if self.fails:
            raise self.fails("CUDA out of memory")
        self.shown.append((len(film), torch.backends.cudnn.allow_tf32))
        logits = torch.zeros(len(film), len(LABELS))
        logits[0, 1] = self.logit
        return logits


def test_films_are_predicted_a_batch_at_a_time_in_float32_whatever_the_host_has(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    model = Asked()
    assert predict_films(model, film_set(), batch=3).shape == (7, len(LABELS))
    assert model.shown == [(3, False), (3, False), (1, False)]
    assert torch.backends.cudnn.allow_tf32


def test_probabilities_that_are_not_finite_are_refused_and_never_scored():
    with pytest.raises(Error, match="of 3 of 7 films are not finite"):
        predict_films(Asked(float("nan")), film_set(), batch=3)


def test_too_little_memory_is_said_with_the_field_that_takes_less():
    with pytest.raises(Error, match=r"3 films at once.*schedule\.accumulate"):
        predict_films(Asked(fails=torch.OutOfMemoryError), film_set(), batch=3)
