"""The vocabulary agrees with the challenge."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cxrlines import task


def test_eleven_labels_in_the_order_of_the_challenge():
    assert len(task.LABELS) == len(set(task.LABELS)) == 11
    assert task.LABELS[0] == "ETT - Abnormal"
    assert task.LABELS[5] == "NGT - Incompletely Imaged"
    assert task.LABELS[-1] == "Swan Ganz Catheter Present"


def test_columns_equal_the_real_submission(ranzcr):
    with (ranzcr / "sample_submission.csv").open() as file:
        assert tuple(next(csv.reader(file))) == (task.STUDY_COLUMN, *task.LABELS)


def test_label_of_inverts_device_and_state():
    for name in task.LABELS:
        assert task.label_of(task.DEVICE_OF[name], task.STATE_OF[name]) == name


def test_label_of_refuses_what_the_task_has_not():
    with pytest.raises(ValueError, match=r"no label for ETT in state PRESENT; it has: ETT - Abnormal"):
        task.label_of(task.Device.ETT, task.State.PRESENT)


def test_colours_are_distinct():
    assert len(set(task.LABEL_COLOURS.values())) == 11


FIFTH = """
import json
from cxrlines import task
tube = task.Device.CHEST_TUBE
print(json.dumps({
    "labels": task.LABELS, "maps": len(task.MAPS), "mapped": tube in task.MAPPED, "own": task.LABELS_OF[tube],
    "states": [task.label_of(device, state) for device, spec in task.DEVICES.items() for state in spec.states],
    "colours": len(set(task.LABEL_COLOURS.values())),
}))
"""


def with_a_fifth_device(folder: Path) -> Path:
    """A copy of the package, below `folder`, whose task has a chest tube as well: a path for PYTHONPATH."""
    package = folder / "cxrlines"
    shutil.copytree(Path(task.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    text = (package / "task.py").read_text("utf-8")
    member = '    SWAN = "Swan Ganz Catheter"  # pulmonary artery catheter\n'
    row = re.search(r"^    Device\.SWAN: DeviceSpec\(.*\),\n", text, re.MULTILINE)
    assert member in text and row
    spec = 'DeviceSpec("chest tube", (State.PRESENT,), (200, 200, 200), separator=" ", mapped=False, optional=True)'
    text = text.replace(member, f'{member}    CHEST_TUBE = "Chest Tube"\n')
    text = text.replace(row[0], f"{row[0]}    Device.CHEST_TUBE: {spec},\n")
    (package / "task.py").write_text(text, "utf-8")
    return folder


def test_a_fifth_device_is_a_member_and_a_row(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(with_a_fifth_device(tmp_path))}
    done = subprocess.run([sys.executable, "-c", FIFTH], env=environment, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert found["labels"] == [*task.LABELS, "Chest Tube Present"] and len(found["labels"]) == 12
    assert found["maps"] == 9 == len(task.MAPS) and not found["mapped"]
    assert found["own"] == ["Chest Tube Present"] and found["states"] == found["labels"] and found["colours"] == 12


def test_a_phantom_without_a_drawer_for_a_device_has_its_label_0(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(with_a_fifth_device(tmp_path))}
    script = "from pathlib import Path; from cxrlines.phantom.dataset import write_phantom; "
    call = f"write_phantom(Path({str(tmp_path / 'set')!r}), studies=4, seed=0, size=96, balance='even', workers=1)"
    subprocess.run([sys.executable, "-c", script + call], env=environment, capture_output=True, check=True)
    with (tmp_path / "set/train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and {row["Chest Tube Present"] for row in rows} == {"0"}
