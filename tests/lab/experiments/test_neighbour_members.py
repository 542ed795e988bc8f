"""A member with neighbours: told by films of other folds and patients alone, under weights of no test film."""

import json

import numpy as np
import pandas as pd
import pytest

from cxrlines.evaluation.ensemble.neighbours import COUNT, PRIOR_FILMS, NeighbourWeights
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.io.tables import read_dataset
from cxrlines.lab.experiments import neighbour_members
from cxrlines.lab.experiments.neighbour_members import label_agreement, median_tip_distance, write_retrieval
from cxrlines.phantom.dataset import write_phantom
from cxrlines.recipe.run.folder import StepId
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.task import LABELS

RECIPE = """
name: near
size: 64
store: {size: 72}
folds: {count: 2}
tracking: {use: []}
members:
  one: {backbone: resnet10t, stages: {only: {start: scratch, schedule: {epochs: 0.5, batch: 4, validate_films: 0}}}}
"""


@pytest.fixture
def run(tmp_path, in_process):
    write_phantom(tmp_path / "own", studies=48, test=9, seed=0, size=96, workers=1)
    (tmp_path / "near.yaml").write_text(RECIPE)
    recipe = load_recipe(str(tmp_path / "near.yaml"))
    return train(recipe, tmp_path / "own", tmp_path / "run", workers=1, say=lambda text: None)


def test_blended_by_hand_film_by_film(run, tmp_path, monkeypatch):
    """With weights of 1: the log odds of each fold's network, plus those of its nearest films of other folds."""
    asked = {}

    def fitted(predictions, truth, folds, embeddings):
        asked.update(predictions=predictions, folds=folds, embeddings=embeddings)
        return NeighbourWeights(np.ones(len(LABELS)), {})

    monkeypatch.setattr(neighbour_members, "fit_neighbours", fitted)
    out = write_retrieval(run, "one", tmp_path / "near/one.csv")

    own = read_dataset(tmp_path / "own").studies.set_index("study")
    test = read_dataset(tmp_path / "own", "test").studies
    folds = pd.Series(run.folds.to_numpy(), run.train.studies["study"])
    known = asked["predictions"]["study"]
    assert set(known) == set(own.index) and asked["folds"].to_dict() == folds.to_dict()
    labels = own.loc[known, list(LABELS)].to_numpy(float)
    parts = []
    for fold in (0, 1):
        folder = run.folder(StepId("one", (fold,), "only"))
        alone = read_predictions(folder / "test_predictions.csv").set_index("study").loc[test["study"]].to_numpy()
        model = neighbour_members.load_step(run, StepId("one", (fold,), "only"))
        vectors = neighbour_members.embed(model, run.test, run.test_store, np.arange(len(test)), 64)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
        others = folds.loc[known].to_numpy() != fold
        share = (labels[others].sum(0) + 0.5) / (others.sum() + 1)
        blended = []
        for vector, p in zip(vectors, alone, strict=True):
            near = np.argsort(-(asked["embeddings"][fold][others] @ vector), kind="stable")[:COUNT]
            told = (labels[others][near].sum(0) + PRIOR_FILMS * share) / (COUNT + PRIOR_FILMS)
            odds = np.log(p / (1 - p)) + np.log(told / (1 - told)) - np.log(share / (1 - share))
            blended.append(1 / (1 + np.exp(-odds)))
        parts.append(blended)
    found = read_predictions(out).set_index("study").loc[test["study"]].to_numpy()
    assert found == pytest.approx(np.mean(parts, axis=0), abs=1e-4)
    assert np.std(read_predictions(tmp_path / "near/one.alone.csv")[list(LABELS)].to_numpy()) > 0
    figures = json.loads((tmp_path / "near/one.json").read_text())["figures"]
    assert 0 < figures["jaccard"] < 1 and 0 <= figures["same"] <= 1 and 0 < figures["tip"] < 1


def test_weights_of_few_positives_are_zero_and_then_it_is_the_member_itself(run, tmp_path):
    out = write_retrieval(run, "one", tmp_path / "one.csv")
    said = json.loads(out.with_suffix(".json").read_text())
    plain = read_predictions(tmp_path / "run/predictions/test/one.csv").set_index("study")
    found = read_predictions(out).set_index("study").loc[plain.index]
    zero = [label for label in LABELS if not said["weights"][label]]
    assert set(zero) == set(said["zero"]) and "ETT - Abnormal" in zero
    assert found[zero].to_numpy() == pytest.approx(plain[zero].to_numpy(), abs=1e-6)


def test_again_for_nothing_until_a_network_changes(run, tmp_path, monkeypatch):
    out = write_retrieval(run, "one", tmp_path / "one.csv")
    with monkeypatch.context() as patch:
        patch.setattr(neighbour_members, "embed", lambda *args: pytest.fail("done before"))
        write_retrieval(run, "one", out)
    record = run.folder(StepId("one", (1,), "only")) / "step.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"identity": "another"}))
    embedded = []
    real = neighbour_members.embed
    monkeypatch.setattr(neighbour_members, "embed", lambda *args: embedded.append(1) or real(*args))
    write_retrieval(run, "one", out)
    assert len(embedded) == 4, "own and test films, by the networks of two folds"


def test_agreement_of_labels_by_hand():
    vectors = np.eye(3, dtype=np.float32)
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    queries = np.array([[0.9, 0.4, 0], [0, 0.1, 0.9]], np.float32)
    same, jaccard = label_agreement(queries, np.array([[1, 1, 0], [0, 0, 0]]), vectors, labels)
    assert (same, jaccard) == (1.0, pytest.approx((1 + 0.5 + 0 + 1 + 0 + 0) / 6))


def test_tips_are_measured_against_the_nearest_film_that_has_the_device():
    nan = [np.nan, np.nan]
    vectors = np.eye(3, dtype=np.float32)
    queries = np.array([[0.9, 0.4, 0.1]], np.float32)
    searched = np.array([[[nan, nan], [[0.5, 0.5], nan]], [[[0.1, 0.1], [0.9, 0.9]], [nan, nan]], [[nan] * 2] * 2])
    asked = np.array([[[[0.1, 0.2], [0.9, 0.6]], [[0.5, 0.1], nan]]])
    found = median_tip_distance(queries, asked, vectors, searched)
    assert found == pytest.approx(np.median([(0.1 + 0.3) / 2, 0.4]))
    assert median_tip_distance(queries, asked * np.nan, vectors, searched) is None
