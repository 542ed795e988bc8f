"""The measurement of augmentation's speed."""

import math
import sys

import numpy as np
import pytest

from cxrlines.augment.policy import make_policy
from cxrlines.lab.bench import augmentation_speed as bench
from cxrlines.lab.bench.augmentation_speed import bench_augment


def test_figures_are_there_and_agree():
    result = bench_augment(seconds=0.2, size=128)
    assert all(0 < result[name] < math.inf for name in ("films_per_s_core", "annotated")) and result["note"] == ""
    assert result["speedup"] == pytest.approx(result["films_per_s_core"] / result["albumentations_films_per_s_core"])


def test_figures_are_ratios_of_seconds_a_film(monkeypatch):
    took = iter([[(0.01, 0.02), (0.015, 0.03), (0.008, 0.01), (0.04, 0.05)], [(2.0, 2.0)]])
    monkeypatch.setattr(bench, "_seconds_a_call", lambda calls, seconds, turn=10: next(took))
    theirs = 0.04 + 2 * make_policy("hotwater", 64).piecewise_affine
    assert bench_augment(seconds=1, size=64) == {
        "films_per_s_core": pytest.approx(100),
        "films_per_s": pytest.approx(50),
        "annotated": pytest.approx(1.5),
        "albumentations_films_per_s_core": pytest.approx(1 / theirs),
        "speedup": pytest.approx(theirs / 0.01),
        "speedup_without_piecewise_affine": pytest.approx(5),
        "note": "",
    }


def test_an_annotated_film_is_one_whose_heatmaps_are_drawn():
    maps = bench._annotated(make_policy("hotwater", 64), np.full((64, 64), 128, np.uint8))()
    assert maps.shape[1:] == (32, 32) and (maps.max((1, 2)) > 0.5).sum() >= 4, "four lines and a carina"


def test_without_albumentations_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    result = bench_augment(seconds=0.1, size=64)
    assert all(0 < result[name] < math.inf for name in ("films_per_s_core", "annotated")) and result["speedup"] is None
    assert "albumentations is not installed" in result["note"]


@pytest.mark.long
def test_150_films_a_second_and_4_times_albumentations_without_its_slowest_map():
    result = bench_augment(seconds=8)
    assert result["films_per_s_core"] >= 150
    assert result["speedup"] >= 50
    assert result["speedup_without_piecewise_affine"] >= 4
