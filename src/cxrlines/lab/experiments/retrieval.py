"""A trained member with its neighbours' labels blended in: the retrieval-augmented member of the claims.

Each fold's network embeds all own films; the neighbours of a film, be it of the fold held out or a test film, are
those of the other folds. One weight a label is fitted out of fold (`evaluation.ensemble.neighbours`), without any test
film. As of any member, a test film's probabilities are the mean over the folds.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from cxrlines.core.files import write_text
from cxrlines.core.transform import Size
from cxrlines.evaluation.ensemble.neighbours import evidence_of, fit_neighbours
from cxrlines.evaluation.predictions import as_predictions, read_predictions, write_predictions
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.models.classifier import Model
from cxrlines.recipe.run.folder import HELD_OUT, TEST, Run, StepId, read_record
from cxrlines.recipe.run.training_data import films_of, load_step
from cxrlines.task import LABELS
from cxrlines.training.loader import FilmSet, in_order


def write_retrieval(run: Run, member: str, out: Path) -> Path:
    """Write the test films' predictions of a finished `member` with neighbours to `out`, its weights beside it as JSON.

    Nothing is done where that is there for these very networks and films.
    """
    assert run.test is not None and run.test_store is not None  # the claims have test films
    folds, last = [int(fold) for fold in sorted(run.folds.unique())], run.recipe.members[member].last
    folders = {fold: run.folder(StepId(member, (fold,), last)) for fold in folds}
    made_from = hashlib.sha256(run.test_store.fingerprint.encode())
    for folder in folders.values():
        made_from.update(read_record(folder)["identity"].encode())
    beside = out.with_suffix(".json")
    if beside.is_file() and json.loads(beside.read_text())["made_from"] == made_from.hexdigest():
        return out

    known = pd.concat([read_predictions(folder / HELD_OUT) for folder in folders.values()], ignore_index=True)
    rows = pd.Index(run.train.studies["study"].astype(str)).get_indexer(pd.Index(known["study"]))
    table, fold_of = run.train.studies.iloc[rows], run.folds.to_numpy()[rows]
    labels, patients = table[list(LABELS)].to_numpy(np.float64), table["patient"].astype(str).to_numpy()
    given = {fold: read_predictions(folder / TEST) for fold, folder in folders.items()}
    studies = pd.Index(given[folds[0]]["study"])
    asked = pd.Index(run.test.studies["study"].astype(str)).get_indexer(studies)
    strangers = run.test.studies["patient"].astype(str).iloc[asked].tolist()

    size = run.recipe.size_of(member, last)
    own, evidence = {}, {}
    for fold in folds:
        model = load_step(run, StepId(member, (fold,), last))
        own[fold] = embed(model, run.train, run.store, rows, size)
        others = fold_of != fold
        queries = embed(model, run.test, run.test_store, asked, size)
        evidence[fold] = evidence_of(
            queries, own[fold][others], labels[others], patients=strangers, patients_searched=patients[others].tolist()
        )
    truth = run.train.studies[["study", "patient", *LABELS]]
    weights = fit_neighbours(known, truth, pd.Series(fold_of, known["study"]), own)
    tables = {fold: frame.set_index("study").loc[studies, list(LABELS)].to_numpy() for fold, frame in given.items()}
    blends = [weights.blend(tables[fold], evidence[fold]) for fold in folds]
    write_predictions(as_predictions(list(studies), np.mean(blends, axis=0)), out)
    content = {"made_from": made_from.hexdigest(), "weights": dict(zip(LABELS, weights.weights.tolist(), strict=True))}
    write_text(beside, json.dumps(content | {"zero": weights.zero}, indent=1))
    return out


def embed(model: Model, dataset: Dataset, store: Store, rows: np.ndarray, size: Size) -> np.ndarray:
    """The last feature map of some films, seen plain, its mean over places at length 1: float32 (rows, c)."""
    model = model.to(memory_format=torch.channels_last).eval()
    films = FilmSet(films_of(dataset, store, rows, lines=False), "none", size, seed=0)
    with torch.inference_mode():  # not around `to`: what is moved in it can never be trained again
        pooled = [functional.normalize(model.features(item["film"]).mean(dim=(2, 3))) for item in in_order(films, 32)]
    return torch.cat(pooled).numpy()
