"""Masks thinned, and skeletons cut into segments."""

import cv2
import numpy as np
from scipy.ndimage import label

from cxrlines.data.lines import line_mask
from cxrlines.inference.skeleton import segments_of, thin

NO_TIPS = np.zeros((0, 2))
EIGHT = np.ones((3, 3), int)


def test_thinning_keeps_what_is_connected_and_leaves_one_pixel():
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = cv2.GaussianBlur(rng.random((60, 60)), (0, 0), 3) > 0.5
        before = mask.copy()
        thinned = thin(mask)
        assert (mask == before).all()
        assert not (thinned & ~mask).any()
        assert label(thinned, EIGHT)[1] == label(mask, EIGHT)[1]
        assert (thin(thinned) == thinned).all()
    band = np.zeros((40, 40), bool)
    band[15:22, 5:35] = True
    assert thin(band).sum(0).max() == 1


def drawn(*lines, width=2.0):
    return line_mask([np.array(line, float) for line in lines], (128, 128), width).astype(np.float32) / 255


def test_a_line_is_one_segment_with_two_free_ends():
    (segment,) = segments_of(drawn([(20, 20), (60, 70), (100, 100)]), NO_TIPS)
    assert segment.nodes == [-1, -1]
    assert np.hypot(*(segment.points[[0, -1]] - [(20, 20), (100, 100)]).T).max() < 3


def test_a_crossing_has_four_segments_at_one_junction():
    segments = segments_of(drawn([(20, 20), (100, 100)], [(20, 100), (100, 20)]), NO_TIPS)
    assert (
        sorted(tuple(sorted(s.nodes)) for s in segments) == [(-1, segments[0].nodes[0] + segments[0].nodes[1] + 1)] * 4
    )


def test_a_spur_goes_unless_a_tip_is_at_its_end():
    film = np.pad(drawn([(60, 10), (60, 110)], [(60, 60), (66, 60)]), (0, 128))  # 6 of 256 px: shorter than 3 %
    plain = segments_of(film, NO_TIPS)
    tipped = segments_of(film, np.array([[66.0, 60.0]]))
    assert all(np.ptp(s.points[:, 1]) > 20 for s in plain)
    (spur,) = (s for s in tipped if np.ptp(s.points[:, 1]) < 3)
    assert spur.points[:, 0].max() > 64


def test_weak_pixels_count_only_where_a_sure_one_leads_to_them():
    film = drawn([(60, 10), (60, 110)], width=3)
    film[60:] *= 0.15
    assert max(s.points[:, 1].max() for s in segments_of(film, NO_TIPS)) > 105
    film[:60] *= 0.15
    assert segments_of(film, NO_TIPS) == []
    assert segments_of(np.zeros((64, 64), np.float32), NO_TIPS) == []


def test_a_map_full_of_lines_shows_next_to_none_and_haze_hides_none():
    rng = np.random.default_rng(0)
    for noise in (np.ones((128, 128)), rng.random((128, 128)), rng.random((128, 128)) > 0.9):
        segments = segments_of(noise.astype(np.float32), NO_TIPS)
        assert max((len(segment.points) for segment in segments), default=0) < 40
    haze = np.maximum(drawn([(20, 20), (60, 70), (100, 100)], width=3), 0.2 + 0.05 * rng.random((128, 128)))
    assert max(len(segment.points) for segment in segments_of(haze.astype(np.float32), NO_TIPS)) > 60
