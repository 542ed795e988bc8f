"""Findings through JSON and back are the same to the last bit."""

import json
from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.findings import Distance, Findings, Keypoint, Line
from cxrlines.core.lossless import built, plain
from cxrlines.core.notes import Code, Note
from cxrlines.core.quality import Quality
from cxrlines.core.spacing import Spacing, SpacingKind
from cxrlines.task import LABELS, Device, Landmark, State

RNG = np.random.default_rng(0)
PATH = RNG.uniform(0, 3000, (40, 2))
FULL = Findings(
    (3001, 2500),
    (
        Line(Device.ETT, PATH, PATH[-1], float(np.float32(0.123456789))),
        Line(Device.CVC, PATH / 3, None, 1.0, PATH[-1] / 3),
    ),
    {Landmark.CARINA: Keypoint(RNG.uniform(0, 9, 2), 1 / 3)},
    (Distance("ETT tip above the carina", 0, 1 / 7, -0.1, None, (0.1 + 0.2, 5.0), "rule", State.NORMAL, 0.3, True),),
    {label: float(p) for label, p in zip(LABELS, RNG.random(len(LABELS)), strict=True)},
    Spacing(SpacingKind.DETECTOR, (0.143, 0.1430000001)),
    0.1,
    Quality(0.98765, 90, True, None, (Note(next(iter(Code)), "turned"),)),
    True,
    {"ETT": 1e-300},
    (1, 2, 2400, 2900),
    (Note(list(Code)[1], "odd µ \ud800"),),
    "1.2.3",
)


@pytest.mark.parametrize("findings", [FULL, Findings((1, 1), (), {}, ()), replace(FULL, labels=None, within=None)])
def test_nothing_is_lost(findings: Findings) -> None:
    again = built(json.loads(json.dumps(plain(findings))))
    assert plain(again) == plain(findings) and again.as_dict() == findings.as_dict()
    for one, other in zip(again.lines, findings.lines, strict=True):
        np.testing.assert_array_equal(one.path, other.path)
        assert type(one.device) is Device and not one.path.flags.writeable
        assert (one.tip is None) == (other.tip is None)
        np.testing.assert_array_equal(one.followed_to, other.followed_to)
    assert (again.film_shape, again.within, again.spacing) == (findings.film_shape, findings.within, findings.spacing)
    assert (again.quality, again.notes, again.distances) == (findings.quality, findings.notes, findings.distances)


def test_what_it_did_not_write_is_refused() -> None:
    for values in ({}, {"film_shape": [1, 2, 3], "lines": [], "landmarks": {}, "distances": []}, {"colour": 1}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            built(values)
