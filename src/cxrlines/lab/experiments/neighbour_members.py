"""A trained member's neighbours: blended with it, alone, and how like they are. The retrieval of the claims.

Each fold's network embeds all own films; the neighbours of a film, be it of the fold held out or a test film, are
those of the other folds. One weight a label is fitted out of fold (`evaluation.ensemble.neighbours`), without any test
film. As of any member, a test film's probabilities are the mean over the folds; so are the figures of its neighbours.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch.nn import functional

from cxrlines.core.files import write_text
from cxrlines.core.nearest import nearest_rows
from cxrlines.core.transform import Size
from cxrlines.evaluation.ensemble.neighbours import evidence_of, fit_neighbours
from cxrlines.evaluation.predictions import as_predictions, read_predictions, write_predictions
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.models.classifier import Model
from cxrlines.recipe.run.folder import HELD_OUT, TEST, Run, StepId, read_record
from cxrlines.recipe.run.training_data import TableFilms, films_of, load_step
from cxrlines.task import LABELS
from cxrlines.training.loader import FilmSet, in_order
from cxrlines.training.targets.retrieval import tip_places

NEAREST = 10
"""Neighbours whose labels are compared with a film's own."""
_MADE = "2"  # of what is written: raised where it is made in another way


def write_retrieval(run: Run, member: str, out: Path) -> Path:
    """Write the test films' predictions of a finished `member` with neighbours to `out`, by them alone to `.alone.csv`.

    Beside them as JSON the blend's weights and the `figures` of the neighbours, means over the folds: `jaccard`, of a
    film's labels with those of its `NEAREST`; `same`, the share of films of which the nearest has the very same labels;
    `tip`, the median distance of a device's tips from those of the nearest annotated film with that device, in shares
    of the film's side (None where no test film has lines). Nothing is done where that is there for these very networks
    and films.
    """
    assert run.test is not None and run.test_store is not None  # the claims have test films
    folds, last = [int(fold) for fold in sorted(run.folds.unique())], run.recipe.members[member].last
    folders = {fold: run.folder(StepId(member, (fold,), last)) for fold in folds}
    made_from = hashlib.sha256((_MADE + run.test_store.fingerprint).encode())
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
    own, evidence, figures = {}, {}, []
    wanted = run.test.studies[list(LABELS)].to_numpy(np.float64)[asked]
    tips = _tips(run.train, run.store, rows), _tips(run.test, run.test_store, asked)
    for fold in folds:
        model = load_step(run, StepId(member, (fold,), last))
        own[fold] = embed(model, run.train, run.store, rows, size)
        others = fold_of != fold
        queries = embed(model, run.test, run.test_store, asked, size)
        evidence[fold] = evidence_of(
            queries, own[fold][others], labels[others], patients=strangers, patients_searched=patients[others].tolist()
        )
        same, jaccard = label_agreement(queries, wanted, own[fold][others], labels[others])
        tip = median_tip_distance(queries, tips[1], own[fold][others], tips[0][others])
        figures.append({"jaccard": jaccard, "same": same, "tip": tip})
    truth = run.train.studies[["study", "patient", *LABELS]]
    weights = fit_neighbours(known, truth, pd.Series(fold_of, known["study"]), own)
    tables = {fold: frame.set_index("study").loc[studies, list(LABELS)].to_numpy() for fold, frame in given.items()}
    blends = [weights.blend(tables[fold], evidence[fold]) for fold in folds]
    write_predictions(as_predictions(list(studies), np.mean(blends, axis=0)), out)
    alone = np.mean([expit(evidence[fold]) for fold in folds], axis=0)  # of a label's order, which is all an AUC asks
    write_predictions(as_predictions(list(studies), alone), out.with_name(f"{out.stem}.alone.csv"))
    content = {"made_from": made_from.hexdigest(), "weights": dict(zip(LABELS, weights.weights.tolist(), strict=True))}
    means = {name: None if figures[0][name] is None else np.mean([f[name] for f in figures]) for name in figures[0]}
    write_text(beside, json.dumps(content | {"zero": weights.zero, "figures": means}, indent=1))
    return out


def label_agreement(
    queries: np.ndarray, wanted: np.ndarray, vectors: np.ndarray, labels: np.ndarray
) -> tuple[float, float]:
    """How often the nearest film has a query's very labels, and the mean Jaccard index with its `NEAREST`, both in 0-1.

    `wanted` (q, labels) are the queries' labels and `labels` (n, labels) those of the films searched, 0 or 1. Of films
    without any label the index is 1.
    """
    rows, _ = nearest_rows(queries, vectors, min(NEAREST, len(vectors)))
    mine, theirs = wanted[:, None] == 1, labels[rows] == 1
    both, either = (mine & theirs).sum(axis=2), (mine | theirs).sum(axis=2)
    index = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    return float((index[:, 0] == 1).mean()), float(index.mean())


def median_tip_distance(
    queries: np.ndarray, tips: np.ndarray, vectors: np.ndarray, searched: np.ndarray
) -> float | None:
    """Over films and devices the median distance of a device's tips from those of the nearest film that has the device.

    `tips` of the queries (q, devices, k, 2) and `searched` of the others (n, devices, m, 2), NaN: none. The distance is
    the mean over a query's tips of that to the nearest of the other's. None where no pair has a device in common.
    """
    found: list[float] = []
    for device in range(tips.shape[1]):
        mine, theirs = (np.isfinite(points[:, device]).all(axis=2) for points in (tips, searched))
        asked, there = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(theirs.any(axis=1))
        if len(asked) and len(there):
            rows, _ = nearest_rows(queries[asked], vectors[there], 1)
            for film, other in zip(asked, there[rows[:, 0]], strict=True):
                points, others = tips[film, device][mine[film]], searched[other, device][theirs[other]]
                apart = np.linalg.norm(points[:, None] - others[None], axis=2)
                found.append(float(apart.min(axis=1).mean()))
    return float(np.median(found)) if found else None


def _tips(dataset: Dataset, store: Store, rows: np.ndarray) -> np.ndarray:
    films = TableFilms(dataset, store, rows)
    return tip_places(films.lines(), films.side)


def embed(model: Model, dataset: Dataset, store: Store, rows: np.ndarray, size: Size) -> np.ndarray:
    """The last feature map of some films, seen plain, its mean over places at length 1: float32 (rows, c)."""
    model = model.to(memory_format=torch.channels_last).eval()
    films = FilmSet(films_of(dataset, store, rows, lines=False), "none", size, seed=0)
    with torch.inference_mode():  # not around `to`: what is moved in it can never be trained again
        pooled = [functional.normalize(model.features(item["film"]).mean(dim=(2, 3))) for item in in_order(films, 32)]
    return torch.cat(pooled).numpy()
