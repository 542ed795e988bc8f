"""Predictions averaged over several views of each film, beside the plain ones; made as a bundle's reader makes them."""

import json
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cxrlines.core.files import write_text
from cxrlines.core.transform import Size
from cxrlines.evaluation.predictions import write_predictions
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.models.classifier import Model
from cxrlines.reading.tta import views
from cxrlines.recipe.run.folder import RECORD, Run, Step
from cxrlines.recipe.run.training_data import films_of, load_step
from cxrlines.recipe.spec.ensemble import ViewsSpec
from cxrlines.task import LABELS
from cxrlines.training import distributed
from cxrlines.training.loader import FilmSet, Key
from cxrlines.training.prediction import predict_films

HELD_OUT_VIEWS, TEST_VIEWS = "predictions_views.csv", "test_predictions_views.csv"


def predict_views(run: Run, step: Step, model: Model | None = None) -> None:
    """Predict the held-out and the test films of a finished step that the ensemble averages, over the recipe's views.

    Nothing where the recipe has none, or where that is done for these very views and films. `model` is the step's,
    where it need not be loaded.
    """
    recipe, spec, folder = run.recipe, run.recipe.ensemble.views, run.folder(step.key)
    averaged = {recipe.source(name) for name in recipe.averaged}
    if spec is None or step.fold is None or (step.key.member, step.key.stage) not in averaged:
        return
    wanted = spec.model_dump(mode="json") | {"test": run.test_store.fingerprint if run.test_store else None}
    with distributed.first() as shared:
        if shared.mine:
            shared.value = run.record(step.key)
            if shared.value.get("views") != wanted:
                for name in (HELD_OUT_VIEWS, TEST_VIEWS):
                    (folder / name).unlink(missing_ok=True)
    record: dict[str, Any] = shared.value
    if record.get("views") == wanted:
        return
    model, size = model or load_step(run, step.key), recipe.size_of(step.key.member, step.key.stage)
    made = {HELD_OUT_VIEWS: over_views(run.train, run.store, run.films.held(step.key.held), model, size, spec)}
    if run.test is not None and run.test_store is not None:
        present = np.flatnonzero(run.test.studies["study"].isin(set(run.test_store.studies)))
        made[TEST_VIEWS] = over_views(run.test, run.test_store, present, model, size, spec)
    with distributed.first() as shared:
        if shared.mine:
            for name, predictions in made.items():
                write_predictions(predictions, folder / name)
            write_text(folder / RECORD, json.dumps(record | {"views": wanted}, indent=1))


def over_views(
    dataset: Dataset, store: Store, rows: np.ndarray, model: Model, size: Size, spec: ViewsSpec
) -> pd.DataFrame:
    """As `predict_rows`, each film's probabilities the mean over its plain view and those of `spec`."""
    shown = _Viewed(films_of(dataset, store, rows), "none", size, seed=0, tta=spec.names, scales=spec.scales)
    scores = predict_films(_OverViews(model), shown)
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
