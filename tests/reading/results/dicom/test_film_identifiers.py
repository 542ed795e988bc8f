"""Patient and study of films that name none: checked, and by film from a table of studies."""

import pytest

from cxrlines.core.errors import Error
from cxrlines.io.rows import TableError
from cxrlines.reading.results.dicom.film_identifiers import Identifiers, check_identifiers, read_identifiers


@pytest.mark.parametrize(
    ("patient", "study", "flag"),
    [
        ("P-7", None, "--study-uid is missing"),
        (None, "1.2.3", "--patient-id is missing"),
        ("P-7", "1.02.3", "--study-uid"),
        ("P-7", "1.2." + "3" * 70, "--study-uid"),
        ("P-7", "study 7", "--study-uid"),
        (" ", "1.2.3", "--patient-id"),
        ("P\\7", "1.2.3", "--patient-id"),
        ("P" * 65, "1.2.3", "--patient-id"),
    ],
)
def test_identifiers_are_checked(patient, study, flag):
    with pytest.raises(Error, match=flag):
        check_identifiers(patient, study)


def test_neither_or_both():
    check_identifiers(None, None)
    check_identifiers("P-7", "1.2.3")


def test_a_table_names_them_by_study(tmp_path):
    table = tmp_path / "train.csv"
    table.write_text("StudyInstanceUID,ETT - Normal,PatientID\n1.2.3,1,P-7\n1.2.4,0,P-7\nphoto,0,P-8\n1.2.5,0,\n")
    found = read_identifiers(table)
    assert found == {"1.2.3": Identifiers("P-7", "1.2.3"), "1.2.4": Identifiers("P-7", "1.2.4")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("StudyInstanceUID,PatientID\n1.2.3,P-7\n1.2.3,P-8\n", "train.csv:3: its study"),
        ("StudyInstanceUID\n1.2.3\n", "PatientID"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_and_no_patient_repeated(tmp_path, text, said):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(TableError, match=said) as caught:
        read_identifiers(tmp_path / "train.csv")
    assert "P-7" not in str(caught.value) and "P-8" not in str(caught.value)
