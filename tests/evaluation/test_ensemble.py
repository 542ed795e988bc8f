from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from cxrlines.evaluation.ensemble import ensemble, write_predictions
from cxrlines.evaluation.evaluate import read_predictions
from cxrlines.task import LABELS

NAMES = list(LABELS)


def frame(seed: int, studies: int = 20) -> pd.DataFrame:
    values = np.random.default_rng(seed).random((studies, len(NAMES))).round(1)  # with ties
    predictions = pd.DataFrame(values, columns=NAMES)
    predictions.insert(0, "study", [f"s{i:02d}" for i in range(studies)])
    return predictions


def test_mean_is_the_mean():
    mean = ensemble([frame(0), frame(1)])
    np.testing.assert_allclose(mean[NAMES], (frame(0)[NAMES] + frame(1)[NAMES]) / 2)
    assert mean.columns.tolist() == ["study", *NAMES]


def test_rank_is_the_mean_of_scaled_ranks():
    ranks = [(np.apply_along_axis(rankdata, 0, frame(s)[NAMES]) - 1) / 19 for s in (0, 1)]
    np.testing.assert_allclose(ensemble([frame(0), frame(1)], "rank")[NAMES], np.mean(ranks, axis=0))


def test_rank_forgets_the_scale():
    squashed = frame(1)
    squashed[NAMES] = squashed[NAMES] ** 3 / 7
    pd.testing.assert_frame_equal(ensemble([frame(0), frame(1)], "rank"), ensemble([frame(0), squashed], "rank"))


@pytest.mark.parametrize("how", ["mean", "rank"])
def test_order_of_frames_does_not_matter_to_the_last_bit(how):
    frames = [frame(s) for s in range(3)]
    for other in permutations(frames):
        pd.testing.assert_frame_equal(ensemble(other, how), ensemble(frames, how), check_exact=True)


@pytest.mark.parametrize("how", ["mean", "rank"])
def test_rows_are_matched_by_study(how):
    shuffled = frame(1).sample(frac=1, random_state=0)
    before = shuffled.copy()
    pd.testing.assert_frame_equal(ensemble([frame(0), shuffled], how), ensemble([frame(0), frame(1)], how))
    pd.testing.assert_frame_equal(shuffled, before)


def test_one_frame_is_its_own_mean():
    pd.testing.assert_frame_equal(ensemble([frame(0)]), frame(0))


def test_different_studies_say_how_many_and_which():
    other = frame(1, 18)
    other.loc[0, "study"] = "elsewhere"
    with pytest.raises(ValueError) as error:
        ensemble([frame(0), other], names=["a.csv", "b.csv"])
    assert (
        "a.csv and b.csv are of different studies: 3 only in a.csv (s00, s18, s19); 1 only in b.csv (elsewhere); 17"
        in str(error.value)
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns=NAMES[2]), f"b.csv: no column {NAMES[2]}"),
        (lambda f: f.drop(columns="study"), "b.csv: no column study"),
        (lambda f: f.assign(**{NAMES[0]: [1.5, *f[NAMES[0]][1:]]}), f"b.csv: column {NAMES[0]}, row 1 is 1.5"),
        (lambda f: f.assign(**{NAMES[4]: [0.5, np.nan, *f[NAMES[4]][2:]]}), f"b.csv: column {NAMES[4]}, row 2 is nan"),
        (
            lambda f: f.assign(study=["s01", *f["study"][1:]]),
            "b.csv: 1 studies are listed more than once, the first is s01",
        ),
    ],
)
def test_bad_predictions_say_what_is_wrong(change, says):
    with pytest.raises(ValueError) as error:
        ensemble([frame(0), change(frame(1))], names=["a.csv", "b.csv"])
    assert says in str(error.value)


def test_nothing_and_unknown_ways_are_refused():
    with pytest.raises(ValueError, match="nothing to average"):
        ensemble([])
    with pytest.raises(ValueError, match="how is 'median'; allowed are 'mean' and 'rank'"):
        ensemble([frame(0)], "median")


def test_written_predictions_read_back_exactly(tmp_path):
    mean = ensemble([frame(0), frame(1), frame(2)])
    csv = tmp_path / "new" / "e.csv"
    write_predictions(mean, csv)
    pd.testing.assert_frame_equal(read_predictions(csv), mean, check_exact=True)
    assert csv.read_text().splitlines()[0] == ",".join(["StudyInstanceUID", *NAMES])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "p.csv: is empty; it needs a header"),
        ("a,b\n1,2\n", "p.csv: lacks the columns 'StudyInstanceUID', 'ETT - Abnormal'"),
        (
            "StudyInstanceUID," + ",".join(NAMES) + "\ns," + ",".join(["0.1"] * 10) + ",high\n",
            f"line 2: column {NAMES[10]} is 'high', not a number (1 such rows)",
        ),
    ],
)
def test_bad_files_name_the_file(tmp_path, text, says):
    csv = tmp_path / "p.csv"
    csv.write_text(text)
    with pytest.raises(ValueError) as error:
        read_predictions(csv)
    assert says in str(error.value)


def test_real_test_predictions_of_two_teams(real):
    one, two = (read_predictions(real / f"predictions_test_{name}.csv") for name in "ab")
    mean = ensemble([one, two])
    assert len(mean) == 3582 and mean["study"].equals(one["study"])
    row = two.set_index("study").loc[one["study"].iloc[7]]
    np.testing.assert_allclose(mean.iloc[7][NAMES].astype(float), (one.iloc[7][NAMES] + row[NAMES]).astype(float) / 2)
    with pytest.raises(ValueError, match="3582 only in"):
        ensemble([one, read_predictions(real / "predictions_fold0.csv")])
