from dataclasses import fields
from itertools import pairwise

import cv2
import numpy as np

from cxrlines.phantom.anatomy import draw_patient, pose


def patients(count=60):
    return [draw_patient(np.random.default_rng(seed)) for seed in range(count)]


def test_a_pose_keeps_the_patient():
    patient = patients(1)[0]
    posed = pose(patient, np.random.default_rng(9))
    changed = {f.name for f in fields(patient) if getattr(patient, f.name) != getattr(posed, f.name)}
    assert changed == {
        "dome_right", "dome_left", "junction", "heart", "yaw", "lordotic", "clavicle_rise", "shoulder", "arm"
    }  # fmt: skip
    assert [a.tolist() for rib in patient.ribs() for a in rib] == [a.tolist() for rib in posed.ribs() for a in rib]


def test_anatomy_lies_as_in_a_patient():
    for k, patient in enumerate(patients()):
        body = pose(patient, np.random.default_rng(k))
        right, left, heart = body.lung(-1), body.lung(1), body.heart_outline()
        assert right[:, 0].max() < 0 < left[:, 0].min()
        assert body.dome_right < body.dome_left  # the liver lifts the right side
        assert -heart[:, 0].min() < heart[:, 0].max()  # most of the heart lies left
        assert 0 < body.cavo_atrial < body.dome_right < 15
        assert body.junction[0] > 0
        assert all(cv2.contourArea(shape.astype(np.float32)) > 100 for shape in (right, left))
        trachea, main_right, main_left = body.airway()
        assert trachea[-1, 1] < 0 < main_right[-1, 1]
        assert main_right[-1, 0] < 0 < main_left[-1, 0]


def test_ribs_descend_and_stay_within_the_cage():
    body = patients(1)[0]
    ribs = body.ribs()
    assert len(ribs) == 24
    starts = [back[0, 1] for back, _ in ribs[::2]]
    assert all(upper < lower for upper, lower in pairwise(starts))
    for back, front in ribs:
        assert np.abs(np.vstack([back, front])[:, 0]).max() < 15.5
        assert back[-1, 1] > back[0, 1]


def test_patients_differ():
    hearts = [patient.heart for patient in patients()]
    fat = [patient.fat for patient in patients()]
    assert np.std(hearts) > 0.1
    assert min(fat) < 0.2 < 0.7 < max(fat)
