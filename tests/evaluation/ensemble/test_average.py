import json
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import gmean, pmean, rankdata

from cxrlines.evaluation.ensemble.average import FittedWeights, ensemble
from cxrlines.evaluation.predictions import read_predictions, write_predictions
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


def test_films_whose_ranks_add_up_to_the_same_are_ties():
    frames = [frame(seed).assign(**frame(seed)[NAMES].round(1)) for seed in range(3)]
    exact = sum(each[NAMES].rank() for each in frames)
    found = ensemble(frames, "rank")
    assert [found[name].nunique() for name in NAMES] == [exact[name].nunique() for name in NAMES]


def test_rank_forgets_the_scale():
    squashed = frame(1)
    squashed[NAMES] = squashed[NAMES] ** 3 / 7
    pd.testing.assert_frame_equal(ensemble([frame(0), frame(1)], "rank"), ensemble([frame(0), squashed], "rank"))


@pytest.mark.parametrize("how", ["mean", "rank", "power"])
def test_order_of_frames_does_not_matter_to_the_last_bit(how):
    frames = [frame(s) for s in range(3)]
    for other in permutations(frames):
        pd.testing.assert_frame_equal(ensemble(other, how), ensemble(frames, how), check_exact=True)


@pytest.mark.parametrize("how", ["mean", "rank", "power"])
def test_rows_are_matched_by_study(how):
    shuffled = frame(1).sample(frac=1, random_state=0)
    before = shuffled.copy()
    pd.testing.assert_frame_equal(ensemble([frame(0), shuffled], how), ensemble([frame(0), frame(1)], how))
    pd.testing.assert_frame_equal(shuffled, before)


def test_one_frame_is_its_own_mean():
    pd.testing.assert_frame_equal(ensemble([frame(0)]), frame(0))


@pytest.mark.parametrize("power", [0.5, 1, 3, 40])
def test_power_is_the_power_mean(power):
    frames = [frame(s) for s in range(3)]
    values = np.stack([f[NAMES] for f in frames])
    got = ensemble(frames, "power", power=power)[NAMES].to_numpy()
    np.testing.assert_allclose(got, pmean(values, power, axis=0), rtol=1e-12)
    assert got.min() >= 0 and (got <= values.max(axis=0)).all()


def test_power_grows_from_the_geometric_mean_to_the_highest():
    frames = [frame(s).assign(**{NAMES[0]: np.random.default_rng(s).uniform(1e-9, 1e-5, 20)}) for s in range(3)]
    values = np.stack([f[NAMES] for f in frames])
    blends = [ensemble(frames, "power", power=k)[NAMES].to_numpy() for k in (0.01, 0.5, 1, 2, 100)]
    for low, high in pairwise(blends):
        assert (low <= high + 1e-15).all() and (low < high).any()
    np.testing.assert_allclose(blends[0], gmean(values + 1e-300, axis=0), atol=0.02)
    np.testing.assert_allclose(blends[-1], values.max(axis=0), rtol=0.02)
    np.testing.assert_allclose(blends[2], ensemble(frames)[NAMES], rtol=1e-12)


def fitted(*rows: float, members: tuple[str, ...] = ("a", "b")) -> FittedWeights:
    return FittedWeights(members, np.repeat(np.array(rows)[:, None], len(NAMES), axis=1))


def inside(seed: int) -> pd.DataFrame:
    return frame(seed).assign(**{name: np.clip(frame(seed)[name], 0.05, 0.95) for name in NAMES})


def test_fitted_averages_log_odds_by_the_members_names_not_their_places():
    weights = fitted(0.25, 0.75)
    got = ensemble([inside(0), inside(1)], "fitted", ["a", "b"], weights=weights)
    expected = expit(0.25 * logit(inside(0)[NAMES]) + 0.75 * logit(inside(1)[NAMES]))
    np.testing.assert_allclose(got[NAMES], expected)
    other = ensemble([inside(1), inside(0)], "fitted", ["b", "a"], weights=weights)
    pd.testing.assert_frame_equal(got, other, check_exact=True)


def test_each_label_has_weights_of_its_own_and_all_the_weight_is_the_member_itself():
    weights = FittedWeights(("a", "b"), np.eye(2)[[k % 2 for k in range(len(NAMES))]].T)
    got = ensemble([frame(0), frame(1)], "fitted", ["a", "b"], weights=weights)
    for k, name in enumerate(NAMES):  # zeros and ones among them, which come back as near as log odds go
        np.testing.assert_allclose(got[name], frame(k % 2)[name], atol=1.1e-5)


def test_fitted_weights_survive_json():
    weights = FittedWeights(
        ("a", "b"), np.linspace([0] * len(NAMES), [1] * len(NAMES), 2), {NAMES[0]: "3 of 20 films are positive"}
    )
    back = FittedWeights.from_dict(json.loads(json.dumps(weights.as_dict())))
    assert (back.members, back.equal) == (weights.members, weights.equal)
    np.testing.assert_array_equal(back.weights, weights.weights)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("weights"), "fitted weights: 'weights' is missing"),
        (lambda d: d["weights"]["a"].pop(NAMES[3]), f"fitted weights: '{NAMES[3]}' is missing"),
        (lambda d: d["weights"]["a"].update({NAMES[1]: "much"}), "could not convert string to float: 'much'"),
        (lambda d: d["weights"]["a"].update({NAMES[1]: 0.5}), f"those of {NAMES[1]} are 0.5, 0.75; they must be 0 or"),
        (lambda d: d["weights"]["b"].update({NAMES[2]: float("nan")}), f"those of {NAMES[2]} are 0.25, nan"),
        (lambda d: d.update(weights={}), f"those of {NAMES[0]} are ; they must be 0 or more and add up to 1"),
    ],
)
def test_bad_weights_say_what_is_wrong(change, says):
    values = fitted(0.25, 0.75).as_dict()
    change(values)
    with pytest.raises(ValueError) as error:
        FittedWeights.from_dict(values)
    assert says in str(error.value)


def test_weights_of_a_shorter_vocabulary_count_members_alike_for_the_labels_they_lack(monkeypatch):
    weights = fitted(0.25, 0.75).as_dict()
    for row in weights["weights"].values():
        del row[NAMES[-1]]
    monkeypatch.setattr("cxrlines.evaluation.ensemble.average.REQUIRED", LABELS[:-1])
    found = FittedWeights.from_dict(weights)
    assert found.labels == LABELS[:-1] and found.as_dict() == weights
    np.testing.assert_array_equal(found.of(["b", "a"])[:, -2:], [[0.75, 0.5], [0.25, 0.5]])


def test_weights_of_other_members_and_powers_out_of_range_are_refused():
    frames = [frame(0), frame(1)]
    with pytest.raises(ValueError, match="were fitted for a, b; the predictions given are a, c; give just those"):
        ensemble(frames, "fitted", ["a", "c"], weights=fitted(0.5, 0.5))
    with pytest.raises(ValueError, match="the predictions given are a, a;"):
        ensemble(frames, "fitted", ["a", "a"], weights=fitted(0.5, 0.5))
    with pytest.raises(ValueError, match="'fitted' needs weights and the names of the frames"):
        ensemble(frames, "fitted", ["a", "b"])
    for power in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"power is {power}; the exponent of a power mean is from 0.01 to 100"):
            ensemble(frames, "power", power=power)
    with pytest.raises(ValueError, match="1 names for 2 sets of predictions"):
        ensemble(frames, names=["a"])


def test_different_studies_say_how_many_and_which():
    other = frame(1, 18)
    other.loc[0, "study"] = "elsewhere"
    with pytest.raises(ValueError) as error:
        ensemble([frame(0), other], names=["a.csv", "b.csv"])
    assert (
        "a.csv and b.csv are of different studies: 3 only in a.csv (the first in row 1), 1 only in b.csv (the first in "
        "row 1), 17 in both" in str(error.value)
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns=NAMES[2]), f"b.csv: no column {NAMES[2]}"),
        (lambda f: f.drop(columns="study"), "b.csv: no column study"),
        (lambda f: f.assign(**{NAMES[0]: [1.5, *f[NAMES[0]][1:]]}), f"b.csv, row 1: column {NAMES[0]} is 1.5"),
        (lambda f: f.assign(**{NAMES[4]: [0.5, np.nan, *f[NAMES[4]][2:]]}), f"b.csv, row 2: column {NAMES[4]} is nan"),
        (
            lambda f: f.assign(study=["s01", *f["study"][1:]]),
            "b.csv, row 2: its study is listed before (1 such row)",
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
    with pytest.raises(ValueError, match="how is 'median'; allowed are 'mean', 'rank', 'power', 'weighted', 'fitted'"):
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
            "StudyInstanceUID," + ",".join(NAMES) + "\ns," + ",".join(["0.1"] * (len(NAMES) - 1)) + ",high\n",
            f"line 2: column {NAMES[-1]} is 'high', not a number (1 such row)",
        ),
    ],
)
def test_bad_files_name_the_file(tmp_path, text, says):
    csv = tmp_path / "p.csv"
    csv.write_text(text)
    with pytest.raises(ValueError) as error:
        read_predictions(csv)
    assert says in str(error.value)


def test_real_test_predictions_of_two_teams(ranzcr):
    one, two = (read_predictions(ranzcr / f"predictions_test_{name}.csv") for name in "ab")
    mean = ensemble([one, two])
    assert len(mean) == 3582 and mean["study"].equals(one["study"])
    row = two.set_index("study").loc[one["study"].iloc[7]]
    np.testing.assert_allclose(mean.iloc[7][NAMES].astype(float), (one.iloc[7][NAMES] + row[NAMES]).astype(float) / 2)
    with pytest.raises(ValueError, match="3582 only in"):
        ensemble([one, read_predictions(ranzcr / "predictions_fold0.csv")])
