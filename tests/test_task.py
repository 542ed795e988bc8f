"""The vocabulary agrees with the challenge."""

import csv
from pathlib import Path

import pytest

from cxrlines import task

REAL = Path(__file__).parents[2] / "shared/data/ranzcr/sample_submission.csv"


def test_eleven_labels_in_the_order_of_the_challenge():
    assert len(task.LABELS) == len(set(task.LABELS)) == 11
    assert task.LABELS[0] == "ETT - Abnormal"
    assert task.LABELS[5] == "NGT - Incompletely Imaged"
    assert task.LABELS[-1] == "Swan Ganz Catheter Present"


@pytest.mark.skipif(not REAL.exists(), reason="the challenge's sample_submission.csv is not on this machine")
def test_columns_equal_the_real_submission():
    with REAL.open() as file:
        assert tuple(next(csv.reader(file))) == (task.STUDY_COLUMN, *task.LABELS)


def test_label_of_inverts_device_and_state():
    for name in task.LABELS:
        assert task.label_of(task.DEVICE_OF[name], task.STATE_OF[name]) == name


def test_label_of_refuses_what_the_task_has_not():
    with pytest.raises(ValueError, match=r"no label for ETT in state PRESENT; it has: ETT - Abnormal"):
        task.label_of(task.Device.ETT, task.State.PRESENT)


def test_colours_are_distinct():
    assert len(set(task.LABEL_COLOURS.values())) == 11
