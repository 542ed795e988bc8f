"""Predictions of a finished step that a run's report scores besides its own: of test films, and over several views."""

import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cxrlines.core.files import write_text
from cxrlines.evaluation.predictions import write_predictions
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.models.classifier import Model
from cxrlines.reading.tta import views
from cxrlines.recipe.run.folder import RECORD, TEST, Run, Step
from cxrlines.recipe.run.training_data import PlainView, films_of, load_step, plain_view, predict_rows
from cxrlines.recipe.spec.ensemble import ViewsSpec
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.task import LABELS
from cxrlines.training import distributed
from cxrlines.training.loader import FilmSet, Key
from cxrlines.training.prediction import predict_films

HELD_OUT_VIEWS, TEST_VIEWS = "predictions_views.csv", "test_predictions_views.csv"
Predicted = dict[str, pd.DataFrame]
"""File name -> its predictions."""


def is_scored(recipe: Recipe, step: Step) -> bool:
    """Whether a step's predictions are scored: the last of a member, or one the ensemble names."""
    named = {recipe.source(name) for name in recipe.averaged}
    wanted = step.fold is not None and recipe.trains(step.key.member, step.fold)
    return wanted and (step.last or step.key.source in named)


def predict_scored(run: Run, step: Step, model: Model | None = None) -> None:
    """Predict what is scored of a finished step, unless that is done for these very films and views.

    That is the test films, and of a step that the ensemble averages, held-out and test films over the recipe's views.
    `model` is the step's, where it need not be loaded.
    """
    recipe, test = run.recipe, run.test_store.fingerprint if run.test_store else None
    view = plain_view(recipe, step.key.source)

    def of_test_films() -> Predicted:
        if run.test is None or run.test_store is None:
            return {}
        network = model or load_step(run, step.key)
        return {TEST: predict_rows(run.test, run.test_store, _present(run), network, view)}

    def of_views(spec: ViewsSpec) -> Predicted:
        network = model or load_step(run, step.key)
        made = {HELD_OUT_VIEWS: over_views(run.train, run.store, run.films.held(step.key.held), network, view, spec)}
        if run.test is not None and run.test_store is not None:
            made[TEST_VIEWS] = over_views(run.test, run.test_store, _present(run), network, view, spec)
        return made

    _renew(run, step, "test", test, (TEST,), of_test_films)
    averaged = {recipe.source(name) for name in recipe.averaged}
    if (spec := recipe.ensemble.views) and step.fold is not None and step.key.source in averaged:
        wanted = spec.model_dump(mode="json") | {"test": test}
        _renew(run, step, "views", wanted, (HELD_OUT_VIEWS, TEST_VIEWS), partial(of_views, spec))


def _renew(
    run: Run,
    step: Step,
    entry: str,
    wanted: object,
    files: Sequence[str],
    predict: Callable[[], Predicted],
) -> None:
    """Write the `files` that `predict` gives, unless the step's record has them as `wanted` under `entry`.

    Several processes predict together; the first writes, the record last.
    """
    folder = run.folder(step.key)
    with distributed.first() as shared:
        if shared.mine:
            shared.value = run.record(step.key)
            if shared.value.get(entry) != wanted:
                for name in files:
                    (folder / name).unlink(missing_ok=True)
    record: dict[str, Any] = shared.value
    if record.get(entry) == wanted:
        return
    predicted = predict()
    with distributed.first() as shared:
        if shared.mine:
            for name, predictions in predicted.items():
                write_predictions(predictions, folder / name)
            write_text(folder / RECORD, json.dumps(record | {entry: wanted}, indent=1))


def _present(run: Run) -> np.ndarray:
    """The rows of the test films that the store has."""
    assert run.test is not None and run.test_store is not None
    return np.flatnonzero(run.test.studies["study"].isin(set(run.test_store.studies)))


def over_views(
    dataset: Dataset, store: Store, rows: np.ndarray, model: Model, view: PlainView, spec: ViewsSpec
) -> pd.DataFrame:
    """As `predict_rows`, each film's probabilities the mean over its plain view and those of `spec`."""
    shown = _Viewed(films_of(dataset, store, rows), "none", view.size, seed=0, tta=spec.names, scales=spec.scales)
    scores = predict_films(_OverViews(model), shown, batch=view.batch)
    return pd.DataFrame(scores, columns=list(LABELS)).assign(study=dataset.studies["study"].iloc[rows].to_numpy())


@dataclass(eq=False)
class _Viewed(FilmSet):
    """Films in the views of the reader: `film` is uint8 (views, S, S)."""

    _: KW_ONLY
    tta: tuple[str, ...]
    scales: tuple[float, ...]

    def __getitem__(self, key: Key | tuple[int, int]) -> dict[str, Tensor]:
        film = self.films.store.films[int(self.films.rows[Key(*key).position])]
        return {"film": torch.from_numpy(views(film, self.size, self.tta, self.scales))}


class _OverViews(nn.Module):
    """A model of films (b, views, S, S) uint8: the logits of its mean probability over views."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, films: Tensor) -> Tensor:
        each = [torch.sigmoid(self.model(films[:, k : k + 1]).double()) for k in range(films.shape[1])]
        return torch.logit(torch.stack(each).mean(dim=0))
