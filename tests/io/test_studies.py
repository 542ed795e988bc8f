"""Studies as columns: what pandas, as an independent reader, finds in the same tables."""

import numpy as np
import pandas as pd
import pytest

from cxrlines.io.studies import Studies, Study
from cxrlines.io.tables import read_data_folder, read_dataset
from cxrlines.task import LABELS, PATIENT_COLUMN, STUDY_COLUMN, UNKNOWN


def studies(count: int = 4) -> Studies:
    labels = np.resize(np.array([0, 1, UNKNOWN], np.int8), (count, len(LABELS)))
    return Studies([f"s{i}" for i in range(count)], [f"p{i // 2}" for i in range(count)], labels)


class TestStudies:
    def test_a_study_has_the_labels_that_are_known(self):
        every = studies()
        for study, row in zip(every, every.labels, strict=True):
            assert study.labels == {label: v for label, v in zip(LABELS, row, strict=True) if v != UNKNOWN}
        gaps = Studies(["a", "b"], ["a", "p"], np.array([[np.nan] * len(LABELS), [1.0] * len(LABELS)]), ["/a", "/b"])
        assert gaps[0] == Study("a", "a", "/a", {}) and gaps[1].labels == dict.fromkeys(LABELS, 1.0)
        assert Studies(["a"], ["p"])[0] == Study("a", "p", "", {})

    def test_those_with_films_stay_in_order(self):
        every = studies()
        some = every.with_films({"s3": "/3", "s1": "/1", "other": "/x"})
        assert [study._replace(film="") for study in some] == [every[1], every[3]] and some.films == ["/1", "/3"]
        assert len(every) == 4 and every.films is None
        assert len(every.with_films({})) == 0 and every.with_films({}).frame().columns[2] == "film"

    @pytest.mark.parametrize("films", [None, ["/0", "/1", "/2", "/3"]])
    def test_the_frame_says_the_same(self, films):
        every = Studies(studies().ids, studies().patients, studies().labels, films)
        frame = every.frame()
        assert list(frame) == ["study", "patient", *(["film"] if films else []), *LABELS]
        for study, (_, row) in zip(every, frame.iterrows(), strict=True):
            assert study[:2] == (row["study"], row["patient"]) and study.film == row.get("film", "")
            assert study.labels == {label: row[label] for label in LABELS if row[label] >= 0}


class TestAgainstPandas:
    """A data folder whose test films partly have ground truth, read by pandas alone."""

    @pytest.fixture
    def root(self, folder):
        root = folder.write()
        (root / "train").rename(root / "test")
        table = pd.read_csv(root / "train.csv", dtype=str)
        (root / "train.csv").unlink()
        table.sample(frac=1, random_state=0).drop(columns=PATIENT_COLUMN).to_csv(
            root / "sample_submission.csv", index=False
        )
        table.sample(8, random_state=1).to_csv(root / "test_truth.csv", index=False)
        (root / "test" / f"{table[STUDY_COLUMN][0]}.png").unlink()
        return root

    def test_studies_of_the_test_split(self, root):
        listed = pd.read_csv(root / "sample_submission.csv", dtype=str)[[STUDY_COLUMN]]
        expected = listed.merge(pd.read_csv(root / "test_truth.csv"), on=STUDY_COLUMN, how="left")
        expected = expected[expected[STUDY_COLUMN] != "s000"]
        assert expected[PATIENT_COLUMN].isna().any() and expected[PATIENT_COLUMN].notna().any()
        found = read_data_folder(root, "test").studies
        assert found.ids == expected[STUDY_COLUMN].tolist()
        assert found.patients == expected[PATIENT_COLUMN].fillna(expected[STUDY_COLUMN]).tolist()
        np.testing.assert_array_equal(found.labels, expected[list(LABELS)].to_numpy(float))
        assert found.films == [str((root / "test" / f"{study}.png").resolve()) for study in found.ids]

    def test_with_all_of_the_truth_labels_are_whole_numbers(self, root):
        truth = pd.read_csv(root / "sample_submission.csv", dtype=str).assign(**{PATIENT_COLUMN: "p"})
        truth[::-1].to_csv(root / "test_truth.csv", index=False)
        found = read_data_folder(root, "test").studies
        assert found.labels.dtype == np.int8 and set(found.patients) == {"p"}
        np.testing.assert_array_equal(
            found.labels, truth.set_index(STUDY_COLUMN).loc[found.ids, list(LABELS)].astype(int)
        )

    def test_a_data_set_is_the_folder_as_a_frame(self, root):
        folder, dataset = read_data_folder(root, "test"), read_dataset(root, "test")
        pd.testing.assert_frame_equal(dataset.studies, folder.studies.frame())
        assert (dataset.left_out, dataset.meta, dataset.root) == (folder.left_out, folder.meta, folder.root)
        np.testing.assert_array_equal(dataset.annotated, folder.annotated)
