"""Truth, predictions and a report to test with: made up from a seed, or the real RANZCR ones where they are."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxrlines.evaluation.ensemble.average import ensemble
from cxrlines.evaluation.report.page import DataSummary, Member, Predictions, Report
from cxrlines.io.folds import make_folds
from cxrlines.task import LABELS


def made_up(
    films: int = 300, patients: int = 60, seed: int = 0, noise: float = 1.0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(truth, predictions) with ties, uneven patients, and every label of both classes."""
    rng = np.random.default_rng(seed)
    truth = rng.random((films, len(LABELS))) < np.linspace(0.05, 0.5, len(LABELS))
    truth[:2] = [[False], [True]]
    logit = 2.5 * truth - 1.5 + rng.normal(0, noise, truth.shape)
    probability = np.round(1 / (1 + np.exp(-logit)), 2)
    studies = [f"study{i:04d}" for i in range(films)]
    who = [f"patient{p}" for p in np.sort(rng.integers(0, patients, films))]
    table = pd.DataFrame(truth.astype(np.int64), columns=list(LABELS))
    table.insert(0, "study", studies)
    table.insert(1, "patient", who)
    predictions = pd.DataFrame(probability, columns=list(LABELS))
    predictions.insert(0, "study", studies)
    return table, predictions


def film_of(study: str) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """A gray gradient with two lines on it; one film in seven cannot be read."""
    number = sum(map(ord, study))
    if number % 7 == 0:
        raise OSError("gone")
    film = np.linspace(20, 220, 600 * 500).reshape(600, 500).astype(np.uint8)
    tube = np.array([[240, 10], [250, 150], [245, 260]])
    return film, [("ETT - Normal", tube), ("CVC - Borderline", tube[:, ::-1] + 40)]


@pytest.fixture
def report() -> Report:
    """A whole report in miniature, with everything a page can hold."""
    truth, three_stage = made_up()
    _, multi_head = made_up(noise=1.2)
    _, baseline = made_up(noise=2.0)
    stages = [
        {"stage": "teacher", "start": "ImageNet", "films": "annotated, lines drawn in", "losses": "BCE", "epochs": "3"},
        {"stage": "student", "start": "ImageNet", "films": "annotated", "losses": "0.5 MSE + BCE", "epochs": "4"},
        {"stage": "fine-tune", "start": "student", "films": "all", "losses": "BCE", "epochs": "2"},
    ]
    members = [
        Member(
            "baseline", "baseline", [{"stage": "one stage", "start": "ImageNet", "films": "all", "losses": "BCE"}], 400
        ),
        Member("three-stage", "member", stages, 395.2, {"parents": "teacher <fold 0>", "patients seen": "48"}),
        Member("multi-head", "member", stages[:1], 120, {"parents": "none"}, "public weights of unknown films"),
    ]
    by_name = {"baseline": baseline, "three-stage": three_stage, "multi-head": multi_head}
    by_name["ensemble"] = ensemble([three_stage, multi_head])
    return Report(
        title="Made-up report",
        command="cxrlines train demo --data runs/demo/data --out runs/demo",
        seed=7,
        environment={"Python": "3.11", "machine": "2 cores"},
        data=DataSummary(
            name="phantom, site a",
            films=len(truth),
            patients=truth["patient"].nunique(),
            annotated=90,
            positives={label: int(truth[label].sum()) for label in LABELS},
            left_out={"film could not be read": 3, "row of no patient": 1},
            settings={"size": 512, "difficulty": 0.5},
        ),
        folds=truth.assign(fold=make_folds(truth, 3)),
        members=members,
        main=Predictions("test films of patients no member saw", by_name, truth),
        film_of=film_of,
        steps=[
            {
                "member": m.name,
                "fold": f,
                "stage": "teacher",
                "seconds": 61.0 * (f + 1),
                "films": 90,
            }
            for m in members
            for f in (0, 1)
        ],
        notes=["The teacher sees the lines, so its own AUC means little."],
    )


@pytest.fixture
def without_films(report: Report) -> Report:
    return replace(report, film_of=None, folds=None, steps=())
