"""Lines that are traced but not given, on heatmaps drawn from known lines: all of them, each for its own reason."""

from dataclasses import replace

import numpy as np
import pytest

from cxrlines.core.findings import Line
from cxrlines.core.heatmaps import draw_maps
from cxrlines.core.transform import Affine
from cxrlines.evaluation.bundles.withheld_lines import mean_along, withheld_lines
from cxrlines.metrics.failure_causes import MissedLine
from cxrlines.metrics.line_matching import match
from cxrlines.reading.interpretation import FilmMaps, findings_of
from cxrlines.task import LABELS, LABELS_OF, MAPS, Device, MapKind

SIZE = 256
SHAPE = (512, 512)
TUBE = np.array([[100.0, 0.0], [110.0, 120.0]])
CATHETER = np.array([[255.0, 60.0], [180.0, 60.0], [150.0, 150.0]])
PLACED = Affine(((0.5, 0.0, -0.25), (0.0, 0.5, -0.25)))  # films are twice as large


def read(weights, labels=None):
    """Findings and heatmaps of a tube and a catheter, their maps as high as `weights` by device say."""
    maps = draw_maps(
        [(LABELS_OF[Device.ETT][0], TUBE), (LABELS_OF[Device.CVC][0], CATHETER)], [np.full(2, np.nan)], SIZE
    )
    for channel, (kind, what) in enumerate(MAPS):
        if kind in (MapKind.LINE, MapKind.TIP):
            maps[channel] *= weights.get(what, 1.0)
    before = maps.copy()
    seen = FilmMaps.of(maps, PLACED, SHAPE)
    found = findings_of(seen, labels)
    assert np.array_equal(maps, before)
    return found, seen


def line(device, path):
    return Line(device, PLACED.to_film(path), None)


def test_what_is_given_is_not_withheld():
    found, seen = read({})
    assert {each.device for each in found.lines} == {Device.ETT, Device.CVC}
    assert withheld_lines(seen, found, None) == []


def test_a_faint_line_is_withheld_for_its_confidence_where_it_lies():
    found, seen = read({Device.CVC: 0.3})
    assert [each.device for each in found.lines] == [Device.ETT]
    (faint,) = withheld_lines(seen, found, None)
    assert faint.cause is MissedLine.CONFIDENCE
    assert match([line(Device.CVC, CATHETER)], [faint.line], SHAPE) == [(0, 0)]


@pytest.mark.parametrize("denied", [None, {"ETT": 0.5}])
def test_a_line_that_the_classifier_denies_is_withheld_for_it(denied):
    labels = dict.fromkeys(LABELS, 0.01) | {LABELS_OF[Device.CVC][0]: 0.9, LABELS_OF[Device.ETT][0]: 0.1}
    found, seen = read({}, labels)
    assert [each.device for each in found.lines] == [Device.CVC]
    (tube,) = withheld_lines(seen, found, denied)
    assert (tube.line.device, tube.cause) == (Device.ETT, MissedLine.SUPPRESSED)
    assert withheld_lines(seen, found, {"ETT": 0.05}) == []


def test_the_mean_along_a_line_is_that_of_its_devices_map():
    _, seen = read({Device.ETT: 0.6})
    assert mean_along(seen, line(Device.ETT, TUBE)) == pytest.approx(0.6, abs=0.05)
    assert mean_along(seen, line(Device.CVC, CATHETER)) == pytest.approx(1, abs=0.05)
    assert mean_along(seen, line(Device.ETT, CATHETER)) < 0.05 > mean_along(seen, line(Device.NGT, TUBE))
    # A mark 1 % of the height beside the line is still on it, one of 5 % is not; half of a line counts half.
    assert mean_along(seen, line(Device.ETT, TUBE + np.array([2.5, 0]))) > 0.4
    assert mean_along(seen, line(Device.ETT, TUBE + np.array([13.0, 0]))) < 0.05
    longer = np.array([[100.0, 0.0], [120.0, 240.0]])
    assert mean_along(seen, line(Device.ETT, longer)) == pytest.approx(0.3, abs=0.05)


def test_what_lies_off_the_film_or_has_no_map_counts_nothing():
    _, seen = read({})
    assert mean_along(seen, line(Device.ETT, np.array([[-40.0, -40], [-20, -20]]))) == 0
    above = np.concatenate([[[95.0, -60.0]], TUBE])
    assert mean_along(seen, line(Device.ETT, above)) == pytest.approx(1, abs=0.05)
    few = replace(seen, maps=seen.maps[:1], channels=MAPS[:1])
    assert mean_along(few, line(Device.CVC, CATHETER)) == 0
