"""Prediction files averaged: what is written, and what is not written over."""

import json

import numpy as np
import pandas as pd
import pytest

from cxrlines.core.errors import Error
from cxrlines.core.files import OutputError
from cxrlines.evaluation.ensemble.blend import blend_files
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN


@pytest.fixture
def files(tmp_path):
    """Two prediction files, the truth and the folds of 40 films."""
    rng = np.random.default_rng(0)
    studies = [f"s{k:02}" for k in range(40)]
    truth = pd.DataFrame(rng.integers(0, 2, (40, len(LABELS))), columns=list(LABELS))
    for name in ("a", "b"):
        scores = (truth + rng.random(truth.shape)) / 2
        scores.assign(**{STUDY_COLUMN: studies}).to_csv(tmp_path / f"{name}.csv", index=False)
    truth.assign(**{STUDY_COLUMN: studies, PATIENT_COLUMN: studies}).to_csv(tmp_path / "truth.csv", index=False)
    folds = pd.DataFrame({STUDY_COLUMN: studies, PATIENT_COLUMN: studies, "fold": np.arange(40) % 2})
    folds.to_csv(tmp_path / "folds.csv", index=False)
    return tmp_path


def fitted(files, out, **more):
    return blend_files(
        [files / "a.csv", files / "b.csv"], files / out, "fitted", power=1, truth=files / "truth.csv",
        folds=files / "folds.csv", **more,
    )  # fmt: skip


def test_fitted_weights_lie_beside_the_table_of_their_name(files):
    for out in ("blend.v1", "blend.v2", "blend.csv"):
        table, weights = fitted(files, out)
        assert table == files / out and weights == files / f"{out.removesuffix('.csv')}.weights.json"
        assert set(json.loads(weights.read_text())["weights"]) == {"1", "2"}
        applied = files / "applied.csv"
        blend_files([files / "a.csv", files / "b.csv"], applied, "fitted", power=1, weights=weights)
        assert list(pd.read_csv(applied)) == [STUDY_COLUMN, *LABELS]
    assert fitted(files, "blend.v1", weights=files / "w.json")[1] == files / "w.json"


@pytest.mark.parametrize(
    ("out", "more"),
    [("a.csv", {}), ("truth.csv", {}), ("x.weights.json", {}), ("x.csv", {"weights": "x.csv"}),
     ("x.csv", {"weights": "folds.csv"}), ("x.csv", {"weights": "a.csv/w.json"})],
)  # fmt: skip
def test_no_input_and_no_other_output_is_written_over(files, out, more):
    before = {path: path.read_bytes() for path in files.iterdir()}
    with pytest.raises(OutputError):
        fitted(files, out, **{name: files / value for name, value in more.items()})
    assert {path: path.read_bytes() for path in files.iterdir()} == before


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"{}", b"no json"])
def test_a_file_that_holds_no_weights_is_the_users_error(files, content):
    (files / "w.json").write_bytes(content)
    with pytest.raises(Error):
        blend_files([files / "a.csv"], files / "x.csv", "fitted", power=1, weights=files / "w.json")
    assert not (files / "x.csv").exists()


def test_weights_of_ones_own_go_by_the_order_of_the_files(files):
    a, b = (pd.read_csv(files / f"{name}.csv")[list(LABELS)].to_numpy() for name in "ab")
    for weights in ("3,1", "0.75, .25"):
        blend_files([files / "a.csv", files / "b.csv"], files / "w.csv", "weighted", power=1, weights=weights)
        np.testing.assert_allclose(pd.read_csv(files / "w.csv")[list(LABELS)], 0.75 * a + 0.25 * b, atol=1e-12)


@pytest.mark.parametrize("weights", [None, "", "1", "1,0", "1,-1", "1,nan", "1,inf", "1,2,3", "a,b"])
def test_other_weights_are_refused(files, weights):
    with pytest.raises(Error, match="2,1"):
        blend_files([files / "a.csv", files / "b.csv"], files / "w.csv", "weighted", power=1, weights=weights)
    with pytest.raises(Error, match="--weights: --how mean takes no such option"):
        blend_files([files / "a.csv", files / "b.csv"], files / "w.csv", "mean", power=1, weights="1,1")
