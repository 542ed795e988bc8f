"""A trained member's nearest films: their labels blended with its own, alone, and how alike they are.

Each fold's network embeds all own films; the neighbours of a film, of the fold held out or of the test set, are
those of the other folds. One weight a label is fitted out of fold (`evaluation.ensemble.neighbours`), without any test
film. As of any member, a test film's probabilities are the mean over the folds; so are the figures of its neighbours.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
_FORMAT = "2"  # raised where what is written is made in another way; a file of another is made again


@dataclass(frozen=True, eq=False)
class _Films:
    """Films of one table, in one order.

    Attributes:
        rows: Their rows in the data set (n,).
        labels: float64 (n, labels), 0 or 1.
        patients: One a film.
        tips: Tips of devices in shares of the film's side, float (n, devices, k, 2), x then y; NaN: none.
    """

    dataset: Dataset
    store: Store
    rows: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    tips: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, store: Store, studies: pd.Series | pd.Index) -> "_Films":
        rows = pd.Index(dataset.studies["study"].astype(str)).get_indexer(pd.Index(studies))
        table, films = dataset.studies.iloc[rows], TableFilms(dataset, store, rows)
        labels, patients = table[list(LABELS)].to_numpy(np.float64), table["patient"].astype(str).to_numpy()
        return cls(dataset, store, rows, labels, patients, tip_places(films.lines(), films.side))

    def embedded(self, model: Model, size: Size) -> np.ndarray:
        return embed(model, self.dataset, self.store, self.rows, size)


@dataclass(frozen=True, eq=False)
class _Search:
    """What a fold's network says.

    Attributes:
        embeddings: Of all own films, float32 (n, c).
        evidence: Of the neighbours for each label of a test film, in log odds, float (q, labels).
        figures: How alike the neighbours are, see `write_retrieval`.
    """

    embeddings: np.ndarray
    evidence: np.ndarray
    figures: dict[str, float | None]


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
    steps = {fold: StepId(member, (fold,), last) for fold in folds}
    made_from = _made_from(run, steps.values())
    record = out.with_suffix(".json")
    if record.is_file() and json.loads(record.read_text())["made_from"] == made_from:
        return out

    held_out = [read_predictions(run.folder(step) / HELD_OUT) for step in steps.values()]
    out_of_fold = pd.concat(held_out, ignore_index=True)
    predicted = {fold: read_predictions(run.folder(step) / TEST).set_index("study") for fold, step in steps.items()}
    studies = predicted[folds[0]].index
    own = _Films.of(run.train, run.store, out_of_fold["study"])
    test = _Films.of(run.test, run.test_store, studies)
    fold_of, size = run.folds.to_numpy()[own.rows], run.recipe.size_of(member, last)
    searches = {
        fold: _search(load_step(run, step), size, own=own, others=fold_of != fold, test=test)
        for fold, step in steps.items()
    }

    truth = run.train.studies[["study", "patient", *LABELS]]
    embeddings = {fold: search.embeddings for fold, search in searches.items()}
    weights = fit_neighbours(out_of_fold, truth, pd.Series(fold_of, out_of_fold["study"]), embeddings)
    probabilities = {fold: table.loc[studies, list(LABELS)].to_numpy() for fold, table in predicted.items()}
    blended = np.mean([weights.blend(probabilities[fold], searches[fold].evidence) for fold in folds], axis=0)
    write_predictions(as_predictions(list(studies), blended), out)
    # Not calibrated: an AUC asks for the order of the films of a label and no more.
    alone = np.mean([expit(search.evidence) for search in searches.values()], axis=0)
    write_predictions(as_predictions(list(studies), alone), out.with_name(f"{out.stem}.alone.csv"))
    by_label = dict(zip(LABELS, weights.weights.tolist(), strict=True))
    figures = _means([search.figures for search in searches.values()])
    content = {"made_from": made_from, "weights": by_label, "zero": weights.zero, "figures": figures}
    write_text(record, json.dumps(content, indent=1))
    return out


def _search(model: Model, size: Size, *, own: _Films, others: np.ndarray, test: _Films) -> _Search:
    """Search the own films that are in `others`, bool (n,), for those nearest to each test film, by one network."""
    embeddings, queries = own.embedded(model, size), test.embedded(model, size)
    searched, labels, patients = embeddings[others], own.labels[others], own.patients[others].tolist()
    evidence = evidence_of(queries, searched, labels, patients=test.patients.tolist(), patients_searched=patients)
    same, jaccard = label_agreement(queries, test.labels, searched, labels)
    tip = median_tip_distance(queries, test.tips, searched, own.tips[others])
    return _Search(embeddings, evidence, {"jaccard": jaccard, "same": same, "tip": tip})


def _made_from(run: Run, steps: Iterable[StepId]) -> str:
    """What the results depend on, as a hash: the networks, the test films, and how it is done."""
    assert run.test_store is not None
    digest = hashlib.sha256((_FORMAT + run.test_store.fingerprint).encode())
    for step in steps:
        digest.update(read_record(run.folder(step))["identity"].encode())
    return digest.hexdigest()


def _means(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """The mean of each figure over the folds; None where there is none, which is so in all folds or in no fold."""
    found: dict[str, float | None] = {}
    for name in figures[0]:
        values = [fold[name] for fold in figures]
        found[name] = None if None in values else float(np.mean(np.array(values, float)))
    return found


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
    distances: list[float] = []
    for device in range(tips.shape[1]):
        known, known_there = (np.isfinite(points[:, device]).all(axis=2) for points in (tips, searched))
        films, candidates = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known_there.any(axis=1))
        if not (len(films) and len(candidates)):
            continue
        nearest = nearest_rows(queries[films], vectors[candidates], 1)[0][:, 0]
        for film, other in zip(films, candidates[nearest], strict=True):
            own, others = tips[film, device][known[film]], searched[other, device][known_there[other]]
            pairs = np.linalg.norm(own[:, None] - others[None], axis=2)
            distances.append(float(pairs.min(axis=1).mean()))
    return float(np.median(distances)) if distances else None


def embed(model: Model, dataset: Dataset, store: Store, rows: np.ndarray, size: Size) -> np.ndarray:
    """The last feature map of some films, seen plain, its mean over places at length 1: float32 (rows, c)."""
    model = model.to(memory_format=torch.channels_last).eval()
    films = FilmSet(films_of(dataset, store, rows, lines=False), "none", size, seed=0)
    with torch.inference_mode():  # not around `to`: what is moved in it can never be trained again
        pooled = [functional.normalize(model.features(item["film"]).mean(dim=(2, 3))) for item in in_order(films, 32)]
    return torch.cat(pooled).numpy()
