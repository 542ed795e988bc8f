"""Tables as people first give them: read as they are meant, or refused with what is wrong and the way out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlines.core.errors import Error
from cxrlines.evaluation.predictions import read_predictions, read_truth
from cxrlines.task import LABELS

NAMES = list(LABELS)
HEADER = ",".join(["StudyInstanceUID", *NAMES])


def predictions() -> pd.DataFrame:
    """Three films, ids as of the challenge, probabilities that differ in every cell."""
    values = np.arange(3 * len(NAMES)).reshape(3, -1) / 100 + 0.125
    return pd.DataFrame(values, columns=NAMES).assign(StudyInstanceUID=["1.2.1", "1.2.2", "1.2.3"])


def truth() -> pd.DataFrame:
    """The same films; each label is 1 on the first."""
    values = np.zeros((3, len(NAMES)), int)
    values[0] = 1
    frame = pd.DataFrame(values, columns=NAMES)
    return frame.assign(StudyInstanceUID=["1.2.1", "1.2.2", "1.2.3"], PatientID=["a", "a", "b"])


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda frame, path: frame.to_csv(path, index=False, encoding="utf-8-sig"), id="byte order mark"),
        pytest.param(lambda frame, path: frame.to_csv(path, index=False, lineterminator="\r\n"), id="Windows"),
        pytest.param(lambda frame, path: frame.to_csv(path), id="index of a data frame"),
        pytest.param(lambda frame, path: frame.to_csv(path, index=False, quoting=1), id="quoted numbers"),
        pytest.param(lambda frame, path: frame.to_csv(path, index=False, compression="gzip"), id="gzip"),
        pytest.param(lambda frame, path: frame.add_prefix(" ").add_suffix(" ").to_csv(path, index=False), id="spaces"),
    ],
)
def test_predictions_are_read_as_other_programs_write_them(
    tmp_path: Path, write: Callable[[pd.DataFrame, Path], None]
) -> None:
    write(predictions(), tmp_path / "p.csv")
    read = read_predictions(tmp_path / "p.csv")
    assert read["study"].tolist() == ["1.2.1", "1.2.2", "1.2.3"]
    np.testing.assert_array_equal(read[NAMES], predictions()[NAMES])


def first(value: object) -> str:
    """A table of one film whose first label has this value."""
    return f"{HEADER}\na,{value}" + ",0.5" * (len(NAMES) - 1) + "\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (first("58.2"), "line 2: column ETT - Abnormal is '58.2', outside 0 to 1 .* divide percentages by 100"),
        (first("58.2%"), "line 2: column ETT - Abnormal is '58.2%', not a number .* without a percent sign"),
        (first('"0,5"'), "line 2: column ETT - Abnormal is '0,5', not a number .* with a decimal point"),
        (first('"1,000.5"'), "line 2: column ETT - Abnormal is '1,000.5', not a number"),
        (first("0,5"), "p.csv:2: the row has 13 cells, the header 12; .* a cell with a comma needs quotes"),
        (first("NaN"), "line 2: column ETT - Abnormal is 'NaN', not a number .* film without predictions has no row"),
        (first(""), "line 2: column ETT - Abnormal is '', not a number"),
        (first(0.5) + first(0.5).splitlines()[1], r"line 3: its study is listed before \(1 such row\)"),
        (HEADER + "\n", "p.csv: has a header, but no rows; it needs a row for each film"),
        (first(0.5).replace(",", ";"), "separated by semicolons, not commas; save it as CSV UTF-8"),
        (first(0.5).replace(",", ";").replace("0.5", "0,5"), "separated by semicolons, not commas"),
        (
            first(0.5).replace("StudyInstanceUID", "image"),
            r"'StudyInstanceUID' \(its other columns: 'image'\); a table",
        ),
        (
            first(0.5).replace(" - ", "_"),
            r"'ETT - Abnormal' \(did you mean 'ETT_Abnormal'\?\), .* and \d+ more; a table",
        ),
        ('[{"StudyInstanceUID": "a"}]', "p.csv: is JSON, not a CSV table"),
    ],
)
def test_mistakes_in_predictions_are_named_with_the_way_out(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(Error, match=says):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.assign(**dict.fromkeys(NAMES, 0)), r"no label is 1 in any of its 3 rows, as in sample_submission"),
        (lambda t: t[["StudyInstanceUID", "PatientID"]], "lacks the columns 'ETT - Abnormal'.* and 8 more; a table"),
        (
            lambda t: t.rename(columns={"PatientID": "patient_id"}),
            "lacks the column 'PatientID', but has 'patient_id'; re",
        ),
        (lambda t: t.astype(dict.fromkeys(NAMES, bool)), "the first: t.csv:2: ETT - Abnormal is 'True'; a label is 0"),
        (
            lambda t: t.assign(**dict.fromkeys(NAMES, 0.5)),
            "3 x label not 0 or 1; .* ETT - Abnormal is '0.5'; a label is 0.*give predictions first",
        ),
    ],
)
def test_a_table_that_is_no_truth_is_refused_with_the_way_out(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], says: str
) -> None:
    change(truth()).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(Error, match=says):
        read_truth(tmp_path / "t.csv")


def test_labels_as_floats_and_unknown_ones_are_a_truth(tmp_path: Path) -> None:
    truth().astype(dict.fromkeys(NAMES, float)).replace({NAMES[1]: {0.0: -1.0}}).to_csv(tmp_path / "t.csv", index=False)
    read = read_truth(tmp_path / "t.csv")
    assert read[NAMES[0]].tolist() == [1, 0, 0] and read[NAMES[1]].tolist() == [1, -1, -1]


def test_a_truth_whose_patients_are_all_empty_may_be_given_without_the_column(tmp_path):
    truth().assign(PatientID=None).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(Error, match="'PatientID' is empty") as error:
        read_truth(tmp_path / "t.csv")
    assert "remove it" in error.value.way_out
    truth().drop(columns="PatientID").to_csv(tmp_path / "t.csv", index=False)
    assert len(read_truth(tmp_path / "t.csv")) == 3
