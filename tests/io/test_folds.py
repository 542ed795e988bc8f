import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrlines.core.errors import Error
from cxrlines.io import folds as folds_module
from cxrlines.io.folds import describe_folds, folds_of, make_folds, read_folds, write_folds
from cxrlines.task import LABELS, UNKNOWN


def table_of(films: list[tuple[int, int]]) -> pd.DataFrame:
    """One (patient, bits of the 11 labels) a film."""
    rows = [
        [f"s{i}", f"p{patient}", *(bits >> k & 1 for k in range(len(LABELS)))]
        for i, (patient, bits) in enumerate(films)
    ]
    return pd.DataFrame(rows, columns=["study", "patient", *LABELS])


FILMS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2**11 - 1)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(films=FILMS, count=st.integers(2, 5), seed=st.integers(0, 3), order=st.randoms(use_true_random=False))
def test_every_study_once_no_patient_twice_whatever_the_order(films, count, seed, order):
    table = table_of(films)
    if table["patient"].nunique() < count:
        with pytest.raises(ValueError, match=f"{count} folds"):
            make_folds(table, count, seed)
        return
    before = table.copy()
    folds = make_folds(table, count, seed)
    pd.testing.assert_frame_equal(table, before)
    assert folds.index.equals(table.index)
    assert set(folds) == set(range(count))  # placed, and no fold empty
    assert (folds.groupby(table["patient"]).nunique() == 1).all()
    rows = list(range(len(table)))
    order.shuffle(rows)
    shuffled = make_folds(table.iloc[rows], count, seed)
    pd.testing.assert_series_equal(shuffled.sort_index(), folds)
    assert 0 <= describe_folds(table, folds).deviation <= count - 1 + 1e-9


def test_exchanging_patients_cannot_level_further():
    """An independent check of the search: no single move or swap lowers the squared deviation."""
    rng = np.random.default_rng(3)
    films = [(int(p), int(b)) for p, b in zip(rng.integers(0, 25, 120), rng.integers(0, 2**11, 120), strict=True)]
    table = table_of(films)
    folds = make_folds(table, 3, seed=1)

    def unevenness(assigned: pd.Series) -> float:
        counts = table[list(LABELS)].assign(films=1).groupby(assigned).sum().reindex(range(3), fill_value=0)
        return float(((counts / counts.mean() - 1) ** 2).to_numpy().sum())

    found = unevenness(folds)
    fold_of = folds.groupby(table["patient"]).first()
    for one in fold_of.index:
        for fold in range(3):
            assert unevenness(table["patient"].map({**fold_of, one: fold})) >= found - 1e-9
        for two in fold_of.index:
            swapped = {**fold_of, one: fold_of[two], two: fold_of[one]}
            assert unevenness(table["patient"].map(swapped)) >= found - 1e-9


def all_against_all(shares: np.ndarray, folds: np.ndarray, count: int) -> np.ndarray:
    """The same search, each patient compared with every other."""
    rows = np.vstack([shares, np.zeros((count, shares.shape[1]))])
    where = np.concatenate([folds, np.arange(count)])
    deviation = np.stack([rows[where == fold].sum(axis=0) for fold in range(count)]) - 1.0
    changed = True
    while changed:
        changed = False
        for patient in range(len(shares)):
            here = where[patient]
            change = rows - rows[patient]
            gain = np.round(((deviation[here] - deviation[where]) * change + change**2).sum(axis=1), 9)
            other = int(np.argmin(np.where(where == here, np.inf, gain)))
            if where[other] == here or gain[other] >= 0:
                continue
            deviation[here] += change[other]
            deviation[where[other]] -= change[other]
            where[patient], there = where[other], here
            if other < len(shares):
                where[other] = there
            changed = True
    return where[: len(shares)]


@pytest.mark.parametrize(("patients", "films", "columns"), [(60, 12, 5), (150, 3, 12), (200, 40, 8), (40, 2, 3)])
def test_patients_passed_over_have_no_swap(patients, films, columns):
    """Folds are those of a search that passes over no patient, from a level start and from an uneven one."""
    rng = np.random.default_rng(patients)
    for count in (2, 5):
        counts = np.c_[rng.binomial(films, rng.random(columns) ** 3, (patients, columns)), np.full(patients, films)]
        counts[0] = np.maximum(counts[0], 1)
        units = count / counts.sum(axis=0)
        shares = counts * units
        for start in (folds_module._place(shares, count), np.arange(patients) % count):
            found = folds_module._change_places(shares, start, count, units)
            np.testing.assert_array_equal(found, all_against_all(shares, start, count))


def test_seed_changes_folds_and_repeats_them():
    table = table_of([(i // 2, i * 37 % 2048) for i in range(80)])
    assert make_folds(table, 4, seed=5).equals(make_folds(table, 4, seed=5))
    assert not make_folds(table, 4, seed=5).equals(make_folds(table, 4, seed=6))


def test_levelness_by_hand():
    table = table_of([(0, 1), (1, 1), (2, 1), (3, 0)])
    folds = pd.Series([0, 0, 1, 1])
    assert describe_folds(table, folds).deviation == pytest.approx(1 / 3)  # 2 and 1 of 3 positives: even would be 1.5
    described = describe_folds(table, folds)
    assert described.worst == (LABELS[0], 0)
    assert described.counts.loc["patients"].tolist() == [2, 2]
    assert described.as_dict()["folds"]["1"][LABELS[0]] == 1
    assert f"largest relative deviation: 0.3333 ({LABELS[0]}, fold 0)" in described.text()


def test_folds_of_films_without_a_known_label_are_drawn_and_described():
    table = table_of([(i // 2, 0) for i in range(8)])
    table[list(LABELS)] = UNKNOWN
    described = describe_folds(table, make_folds(table, 2))
    assert described.counts.loc["films"].tolist() == [4, 4]
    assert described.worst is None and described.as_dict()["deviation"] == 0
    assert described.text().endswith("no label is known of any film")


def test_real_labels_at_least_as_level_as_the_reference(ranzcr):
    table = pd.read_csv(ranzcr / "train.csv").rename(columns={"StudyInstanceUID": "study", "PatientID": "patient"})
    folds = make_folds(table, 5, seed=0)
    reference = folds_of(table, read_folds(ranzcr / "train_folds_grouped.csv"))
    assert describe_folds(table, folds).deviation < 0.06 < 0.27 < describe_folds(table, reference).deviation
    assert describe_folds(table, folds).as_dict()["films_deviation"] < 0.001
    assert make_folds(table.sample(frac=1, random_state=1), 5, seed=0).sort_index().equals(folds)


def test_written_folds_read_back_and_align_in_any_order(tmp_path):
    table = table_of([(i // 2, i * 37 % 2048) for i in range(20)])
    folds = make_folds(table, 2)
    csv = tmp_path / "new" / "folds.csv"
    write_folds(table, folds, csv)
    assert csv.read_text().splitlines()[0] == "StudyInstanceUID,PatientID,fold"
    assert [p.name for p in csv.parent.iterdir()] == ["folds.csv"]
    shuffled = table.sample(frac=1, random_state=0)
    pd.testing.assert_series_equal(folds_of(shuffled, read_folds(csv)).sort_index(), folds)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.drop(columns=["patient", LABELS[3]]), f"no column patient, {LABELS[3]}"),
        (lambda t: t.assign(patient=[None, *t["patient"][1:]]), "study 's0' of the table has no patient (1 such row)"),
    ],
)
def test_bad_tables_say_what_is_wrong(change, text):
    with pytest.raises(ValueError) as error:
        make_folds(change(table_of([(i, 1) for i in range(6)])), 2)
    assert text in str(error.value)


def test_fewer_patients_than_folds_says_both_numbers():
    with pytest.raises(ValueError, match=r"5 folds .*5 patients.* 3 .*6 films.*3 folds"):
        make_folds(table_of([(i // 2, 1) for i in range(6)]), 5)
    with pytest.raises(ValueError, match=r"count is 1.*2"):
        make_folds(table_of([(0, 1)]), 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty; it needs a header with the columns StudyInstanceUID, PatientID, fold"),
        ("StudyInstanceUID,fold\na,0\n", "lacks the column 'PatientID'"),
        ("StudyInstanceUID,PatientID,fold\na,p,0\nb,q,x\n", "line 3: fold is 'x' (1 such row); a fold is 0, 1, 2"),
        ("StudyInstanceUID,PatientID,fold\na,p,0\n\n\nb,q,x\n", "line 5: fold is 'x'"),
        ("StudyInstanceUID,PatientID,fold\na,p,0\nb,,1\n", "line 3: PatientID is empty (1 such row)"),
        ("StudyInstanceUID,PatientID,fold\na,p,0\nb,1\n", "line 3: the row has 2 cells, the header 3"),
        ("StudyInstanceUID,PatientID,fold\na,p,-1\n", "line 2: fold is '-1'"),
        (f"StudyInstanceUID,PatientID,fold\na,p,{2**63}\n", f"line 2: fold is '{2**63}'"),
        (f"StudyInstanceUID,PatientID,fold\na,p,{'9' * 5000}\n", "line 2: fold is '999"),
        ("StudyInstanceUID,PatientID,fold\na,p,0\na,p,0\n", "line 3: study 'a' is already in line 2"),
        (
            "StudyInstanceUID,PatientID,fold\na,p,0\nb,p,1\nc,q,1\n",
            "line 3: the patient of this row is in fold '1' here and '0' in line 2",
        ),
    ],
)
def test_bad_folds_files_say_what_is_wrong(tmp_path, text, says):
    csv = tmp_path / "folds.csv"
    csv.write_text(text)
    with pytest.raises(ValueError) as error:
        read_folds(csv)
    assert says in str(error.value) and "folds.csv" in str(error.value)


def test_a_fold_is_a_number_however_it_is_written(tmp_path):
    (tmp_path / "folds.csv").write_text("StudyInstanceUID,PatientID,fold\na,p,1\nb,p,1.0\nc,q,00\nd,r,9999\n")
    assert read_folds(tmp_path / "folds.csv")["fold"].tolist() == [1, 1, 0, 9999]


def test_ids_are_read_as_they_are_but_for_space(tmp_path):
    (tmp_path / "folds.csv").write_bytes(b"\xef\xbb\xbfStudyInstanceUID, PatientID,fold\n NA ,nan, 0\nnull,007 ,1\n")
    read = read_folds(tmp_path / "folds.csv")
    assert read.to_numpy().tolist() == [["NA", "nan", 0], ["null", "007", 1]]


def test_study_without_a_fold_is_an_error(tmp_path):
    table = table_of([(i, 1) for i in range(4)])
    csv = tmp_path / "folds.csv"
    write_folds(table[:3], make_folds(table[:3], 2), csv)
    with pytest.raises(ValueError, match=r"1 of 4 studies.*the first 's3'"):
        folds_of(table, read_folds(csv))


def test_ids_with_a_carriage_return_are_read_back_and_others_written_without_quotes(tmp_path):
    table = pd.DataFrame({"study": ["a", "b"], "patient": ["p", "q"]})
    write_folds(table, pd.Series([0, 1]), tmp_path / "f.csv")
    assert '"' not in (tmp_path / "f.csv").read_text()
    table["patient"] = ["p\rx", "q"]
    write_folds(table, pd.Series([0, 1]), tmp_path / "f.csv")
    assert read_folds(tmp_path / "f.csv")["patient"].tolist() == ["p\rx", "q"]


def test_no_more_folds_than_can_be_read_back():
    table = pd.DataFrame({"study": ["a"], "patient": ["p"]} | {label: [0] for label in LABELS})
    with pytest.raises(Error, match="count is 10001; a folds file has 10,000 folds at most"):
        make_folds(table, 10_001)
