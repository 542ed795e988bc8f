"""A fifth, optional device: tables without its columns stay readable, and its labels are unknown there."""

import json

import cv2

from cxrlines.io.folds import describe_folds, make_folds
from cxrlines.io.tables import read_labels
from cxrlines.task import LABELS

READ = """
import json, sys
from pathlib import Path
from cxrlines.io.tables import read_labels
from cxrlines.task import LABELS, UNKNOWN
table = read_labels(Path(sys.argv[1]))
assert list(table.columns) == ["study", "patient", *LABELS] and "Chest Tube - Present" in LABELS
print(json.dumps([len(table), {str(t) for t in table[list(LABELS)].dtypes} == {"int8"},
                  table["Chest Tube - Present"].value_counts().to_dict(), UNKNOWN]))
"""

LEVEL = """
import json, sys
from pathlib import Path
from cxrlines.io.folds import describe_folds, make_folds
from cxrlines.io.tables import read_labels
table = read_labels(Path(sys.argv[1]))
folds = make_folds(table, 2)
described = describe_folds(table, folds)
print(json.dumps([folds.tolist(), described.counts.index.tolist(), described.worst, described.deviation]))
"""

LOOK = """
import json, sys
from pathlib import Path
from cxrlines.io.audit import audit
from cxrlines.io.external.sets import read_external
from cxrlines.io.sheet import contact_sheet
from cxrlines.task import Device
root = Path(sys.argv[1])
found = audit(root)
contact_sheet(root, root / "sheet.png", films=4, size=64)
presence = read_external(root).studies
print(json.dumps([[p.text() for p in found.problems], found.as_dict().get("absent_columns"), found.text(),
                  presence[str(Device.CHEST_TUBE)].isna().all().item(), presence["any"].tolist()]))
"""


def test_ranzcrs_own_table_stays_readable(shared, with_chest_tube):
    rows, int8, values, unknown = json.loads(with_chest_tube(READ, shared / "ranzcr/train.csv"))
    assert (rows, int8, values, unknown) == (30_083, True, {"-1": 30_083}, -1)


def test_its_own_columns_are_read_where_they_are(folder, with_chest_tube):
    label = "Chest Tube - Present"
    folder.header = [*folder.header, label]
    folder.rows = [[*row, str(i % 2)] for i, row in enumerate(folder.rows)]
    rows, int8, values, _ = json.loads(with_chest_tube(READ, folder.write() / "train.csv"))
    assert (rows, int8, values) == (12, True, {"0": 6, "1": 6})
    folder.rows[3][-1], folder.rows[5][-1], folder.rows[7][-1] = "-1", "", "x"
    rows, _, values, _ = json.loads(with_chest_tube(READ, folder.write() / "train.csv"))
    assert (rows, values) == (11, {"0": 6, "1": 3, "-1": 2})  # x is no label


def test_folds_are_those_of_the_known_labels(folder, with_chest_tube):
    csv = folder.write() / "train.csv"
    folds, rows, worst, deviation = json.loads(with_chest_tube(LEVEL, csv))
    table = read_labels(csv)
    own = describe_folds(table, make_folds(table, 2))
    assert folds == make_folds(table, 2).tolist() and rows == ["films", "patients", *LABELS]
    assert (tuple(worst), deviation) == (own.worst, own.deviation)


def test_absent_columns_are_one_note_and_no_problem(folder, with_chest_tube):
    problems, absent, text, unknown, any_device = json.loads(with_chest_tube(LOOK, folder.write()))
    assert problems == [] and absent == {"train.csv": ["Chest Tube - Present"]}
    assert text.count("Chest Tube - Present") == 1 and text.endswith("no problems")
    assert unknown and any_device == [1.0] * 12
    assert cv2.imread(str(folder.root / "sheet.png")) is not None
