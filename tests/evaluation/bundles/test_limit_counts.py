"""The counts at each limit are those of the findings that the limit gives."""

from pathlib import Path

import numpy as np
import pytest

from cxrlines.core.findings import Line
from cxrlines.core.heatmaps import draw_maps
from cxrlines.core.transform import Affine
from cxrlines.evaluation.bundles.limit_counts import limit_counts
from cxrlines.evaluation.bundles.reference import ReferenceFilm
from cxrlines.metrics.device_presence import EvaluatedReading
from cxrlines.metrics.limit_trade import CONFIDENCES
from cxrlines.metrics.line_figures import EvaluatedFilm
from cxrlines.reading.interpretation import FilmMaps, findings_of
from cxrlines.task import LABELS, LABELS_OF, Device

SIZE = 512
SHAPE = (SIZE, SIZE)
WAY = np.array([[150.0, 20], [200, 150], [200, 280]])
ON = np.concatenate([WAY, [[250.0, 330]]])
TUBE = np.array([[330.0, 0.0], [330.0, 200.0]])


def compare(found):
    true = [Line(Device.CVC, WAY, WAY[-1])]
    return EvaluatedReading(EvaluatedFilm("a", SHAPE, true, list(found.lines)), {}, {}, {})


@pytest.mark.parametrize("central", [0.6, 0.9])
@pytest.mark.parametrize("swan", [0.1, 0.9])
def test_each_limit_counts_what_its_findings_would_give(swan, central):
    drawn = [
        p * draw_maps([(LABELS_OF[device][0], path)], {}, SIZE)
        for device, path, p in ((Device.CVC, WAY, central), (Device.SWAN, ON, 0.95), (Device.ETT, TUBE, 0.6))
    ]
    maps = np.sum(drawn, axis=0).clip(0, 1)
    labels = dict.fromkeys(LABELS, 0.3) | {LABELS_OF[Device.SWAN][0]: swan}
    film = FilmMaps.of(maps, Affine(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))), SHAPE)
    counts = limit_counts(ReferenceFilm(Path("a.png"), "a", compare), findings_of(film, labels), film)
    for device in (Device.ETT, Device.CVC):
        for k, limit in enumerate(CONFIDENCES):
            found = findings_of(film, labels, min_confidence=dict.fromkeys(Device.__members__, limit))
            lines = [line for line in found.lines if line.device is device]
            assert counts[device].matched[k] + counts[device].false[k] == len(lines)
    # One catheter that is read as two: which is given hangs on whether the other may be there.
    found = counts[Device.CVC].matched[CONFIDENCES.index(0.7)]
    assert (counts[Device.CVC].true, found) == (1, 0 if swan == 0.9 and central == 0.6 else 1)
    # Without the classifier's limit the Swan-Ganz catheter counts all the same.
    assert counts[Device.SWAN].presence == pytest.approx(swan) and counts[Device.SWAN].false[0] == 1
