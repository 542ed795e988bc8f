"""Which end of a centerline is its tip, and which of several lines a peak is given to."""

from itertools import permutations

import numpy as np

from cxrlines.core.findings import Keypoint
from cxrlines.core.polyline import resample
from cxrlines.reading.trace.bounds import Bounds
from cxrlines.reading.trace.endings import directed
from cxrlines.task import Device

BOUNDS = Bounds(0, 0, 255, 255)
SCALE = 256.0


def line(*points):
    return resample(np.array(points, float), 1.0)


def test_lines_that_share_a_course_get_their_tips_whatever_the_last_bits_and_their_order():
    """Three catheters end in the vein at one peak; two of them may stop at another one, a little above."""
    entries = ((20, 40), (60, 40), (90, 50))
    lines = [line(entry, (120, 90), (122, 160)) for entry in entries]
    tips = [Keypoint(np.array([122.0, 160.0]), 0.4), Keypoint(np.array([121.0, 150.0]), 0.3)]
    rng = np.random.default_rng(0)
    given = set()
    for order in permutations(range(3)):
        for _ in range(5):
            moved = [lines[k] + rng.normal(0, 1e-5, lines[k].shape) for k in order]
            endings = dict(zip(order, directed(Device.CVC, moved, tips, BOUNDS, SCALE), strict=True))
            given.add(tuple(next(j for j, tip in enumerate(tips) if endings[k].tip is tip) for k in range(3)))
    assert len(given) == 1


def test_the_longest_of_lines_that_fit_a_peak_equally_ends_there():
    short, long = line((90, 50), (120, 90), (122, 160)), line((10, 30), (120, 90), (122, 160))
    tips = [Keypoint(np.array([122.0, 160.0]), 0.4), Keypoint(np.array([121.0, 150.0]), 0.3)]
    for lines in ([short, long], [long, short]):
        endings = directed(Device.CVC, lines, tips, BOUNDS, SCALE)
        ends = {len(one): ending.tip for one, ending in zip(lines, endings, strict=True)}
        assert ends[len(long)] is tips[0]
        assert ends[len(short)] is tips[1]


def test_a_better_fit_goes_before_a_longer_line():
    short, long = line((90, 50), (120, 90), (122, 160)), line((10, 30), (120, 90), (121, 150))
    tips = [Keypoint(np.array([122.0, 160.0]), 0.4)]
    found = directed(Device.CVC, [long, short], [*tips, Keypoint(np.array([121.0, 150.0]), 0.3)], BOUNDS, SCALE)
    assert [ending.tip.confidence for ending in found] == [0.3, 0.4]


def test_a_line_without_a_peak_keeps_its_likelier_end_as_the_tip():
    from_edge = line((2, 40), (120, 90))
    (ending,) = directed(Device.CVC, [from_edge[::-1]], [], BOUNDS, SCALE)
    assert ending.tip is None
    np.testing.assert_allclose(ending.path, from_edge)
