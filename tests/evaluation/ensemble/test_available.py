"""Averages of members that do not all predict the same films."""

import numpy as np
import pandas as pd
import pytest

from cxrlines.evaluation.ensemble.available import average_available
from cxrlines.evaluation.ensemble.average import ensemble
from cxrlines.task import LABELS


def predictions(studies: str, value: float) -> pd.DataFrame:
    return pd.DataFrame(np.full((len(studies), len(LABELS)), value), columns=list(LABELS)).assign(study=list(studies))


def mean(frames, names):
    return ensemble(frames, "mean", names)


def test_each_film_is_the_average_of_the_members_that_predict_it():
    frames = {"one": predictions("dacb", 0.2), "two": predictions("ad", 0.8), "three": predictions("abd", 0.5)}
    blend, members = average_available(frames, mean)
    assert blend["study"].tolist() == list("abcd")
    assert blend[LABELS[0]].to_numpy() == pytest.approx([0.5, 0.35, 0.2, 0.5])
    assert members.to_dict() == {"a": 3, "b": 2, "c": 1, "d": 3}


def test_where_all_predict_all_it_is_the_plain_average():
    frames = {"one": predictions("cab", 0.2), "two": predictions("abc", 0.8)}
    blend, members = average_available(frames, mean)
    pd.testing.assert_frame_equal(blend, mean(list(frames.values()), list(frames)))
    assert set(members) == {2}
