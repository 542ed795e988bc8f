"""Masks thinned, and skeletons cut into segments."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import label

from cxrlines.core.line_drawing import line_mask
from cxrlines.reading.trace import skeleton
from cxrlines.reading.trace.skeleton import HIGH, LOW, MAX_AREA, segments_of, thin

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


def test_a_diagonal_neighbour_counts_where_no_straight_one_leads_to_it():
    mask = np.random.default_rng(3).random((30, 41)) < 0.4
    rows, columns = np.nonzero(mask)
    pixels = list(zip(columns.tolist(), rows.tolist(), strict=True))
    there = set(pixels)
    found = skeleton._neighbours(mask, pixels)
    assert list(found) == pixels
    for (x, y), neighbours in found.items():
        straight = [p for p in ((x, y - 1), (x + 1, y), (x, y + 1), (x - 1, y)) if p in there]
        diagonal = [
            (x + dx, y + dy)
            for dx, dy in ((1, -1), (1, 1), (-1, 1), (-1, -1))
            if (x + dx, y + dy) in there and not {(x + dx, y), (x, y + dy)} & there
        ]
        assert neighbours == straight + diagonal


def by_the_book(mask: np.ndarray) -> np.ndarray:
    """Guo and Hall's two sub-iterations, pixel by pixel as they are printed."""
    image = np.pad(mask, 1).astype(int)
    while True:
        before = image.copy()
        for step in (0, 1):
            gone = []
            for y, x in zip(*np.nonzero(image), strict=True):
                p2, p3, p4 = image[y - 1, x], image[y - 1, x + 1], image[y, x + 1]
                p5, p6, p7 = image[y + 1, x + 1], image[y + 1, x], image[y + 1, x - 1]
                p8, p9 = image[y, x - 1], image[y - 1, x - 1]
                runs = sum((1 - a) & (b | c) for a, b, c in ((p2, p3, p4), (p4, p5, p6), (p6, p7, p8), (p8, p9, p2)))
                pairs = min(
                    (p9 | p2) + (p3 | p4) + (p5 | p6) + (p7 | p8), (p2 | p3) + (p4 | p5) + (p6 | p7) + (p8 | p9)
                )
                kept = ((p6 | p7 | (1 - p9)) & p8) if step == 0 else ((p2 | p3 | (1 - p5)) & p4)
                if runs == 1 and 2 <= pairs <= 3 and not kept:
                    gone.append((y, x))
            for place in gone:
                image[place] = 0
        if (image == before).all():
            return image[1:-1, 1:-1].astype(bool)


def test_thinning_is_guo_and_halls_wherever_the_lines_lie():
    rng = np.random.default_rng(1)
    for _ in range(10):
        mask = np.zeros((50, 70), bool)
        top, left = rng.integers(0, 21, 2)
        mask[top : top + 30, left : left + 40] = cv2.GaussianBlur(rng.random((30, 40)), (0, 0), 2) > 0.5
        assert (thin(mask) == by_the_book(mask)).all()
        assert (thin(mask.T) == by_the_book(mask.T)).all()  # not contiguous
    empty = np.zeros((5, 6), bool)
    assert thin(empty).shape == (5, 6) and not thin(empty).any()


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


@pytest.mark.parametrize("share", [0.05, 0.119, 0.12, 0.121, 0.5])
@pytest.mark.parametrize("height", [LOW, (LOW + HIGH) / 2, HIGH, 0.9])
def test_haze_is_the_quantile_of_a_map_whatever_lies_above_it(share, height, monkeypatch):
    """The quantile is not asked for where it changes nothing: the ridges are those of a map that asks."""
    rng = np.random.default_rng(0)
    heat = np.where(rng.random((100, 100)) < share, height, 0.6 * LOW * rng.random((100, 100))).astype(np.float32)
    monkeypatch.setattr(skeleton.cv2, "GaussianBlur", lambda values, *_: values)  # so that shares are these
    haze = np.quantile(heat, 1 - MAX_AREA)
    sure = heat >= max(HIGH, min(2 * haze, (1 + haze) / 2))
    low = heat >= max(LOW, haze)
    component, _ = label(low, np.ones((3, 3)))
    ridged = np.isin(component, np.unique(component[sure & low])) & low
    curvature = skeleton.cv2.Laplacian(heat, skeleton.cv2.CV_32F, ksize=1)
    assert np.array_equal(skeleton._ridges(heat), ridged & (curvature <= skeleton.VALLEY))
