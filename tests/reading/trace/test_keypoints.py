"""Peaks of heat maps against bells whose place and height are known."""

import numpy as np
import pytest

from cxrlines.core.heatmaps import KEYPOINT_SIGMA
from cxrlines.reading.trace.keypoints import MAX_KEYPOINTS, PEAK, SEPARATION, find_keypoints

SIDE = 192


def test_a_peak_at_the_edge_of_the_film_is_not_pulled_inward():
    y, x = np.mgrid[:SIDE, :SIDE]
    heat = np.exp(-((x - 0.7) ** 2 + (y - 100.4) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2).astype(np.float32)
    (spot,) = find_keypoints(heat)
    assert np.abs(spot.xy - (0.7, 100.4)).max() < 0.05


@pytest.mark.parametrize("height", [0.09, 0.105, 0.115, 0.13, 0.16, 0.2])
def test_the_quick_look_at_the_highest_value_hides_no_peak(height):
    y, x = np.mgrid[:SIDE, :SIDE]
    sigma = KEYPOINT_SIGMA * SIDE
    for spread in (0.7 * sigma, sigma, 3 * sigma):
        heat = (height * np.exp(-((x - 90) ** 2 + (y - 100) ** 2) / 2 / spread**2)).astype(np.float32)
        smooth = 1.36 * height * spread**2 / (spread**2 + (0.6 * sigma) ** 2)  # of two Gaussians
        assert len(find_keypoints(heat)) == (smooth > PEAK)
    assert bool(find_keypoints(np.full((SIDE, SIDE), height, np.float32))) == (1.36 * height > PEAK)


def test_peaks_of_one_height_side_by_side_are_one_and_crowd_out_no_other():
    heat = np.zeros((SIDE, SIDE), np.float32)
    heat[80:100, 80:100] = 1  # flat within, where it is smoothed
    y, x = np.mgrid[:SIDE, :SIDE]
    heat += 0.5 * np.exp(-((x - 30) ** 2 + (y - 150) ** 2) / 2 / (KEYPOINT_SIGMA * SIDE) ** 2).astype(np.float32)
    found = find_keypoints(heat)
    within = [spot for spot in found if np.abs(spot.xy - 89.5).max() < 12]
    assert len(found) == len(within) + 1 and np.abs(found[-1].xy - (30, 150)).max() < 0.1
    places = np.array([spot.xy for spot in find_keypoints(np.ones((SIDE, SIDE), np.float32))])
    apart = np.abs(places[:, None] - places).max(axis=2) + SIDE * np.eye(len(places))
    assert len(places) == MAX_KEYPOINTS and apart.min() > SEPARATION * SIDE - 1
