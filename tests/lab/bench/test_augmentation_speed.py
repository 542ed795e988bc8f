"""The measurement of augmentation's speed."""

import sys

import pytest

from cxrlines.lab.bench.augmentation_speed import bench_augment


def test_figures_are_there_and_agree():
    result = bench_augment(seconds=0.2, size=128)
    assert result["films_per_s_core"] > 0 and result["annotated"] > 1 and result["note"] == ""
    assert result["speedup"] == pytest.approx(result["films_per_s_core"] / result["albumentations_films_per_s_core"])


def test_without_albumentations_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "albumentations", None)
    result = bench_augment(seconds=0.1, size=64)
    assert result["films_per_s_core"] > 0 and result["annotated"] > 1 and result["speedup"] is None
    assert "albumentations is not installed" in result["note"]


@pytest.mark.long
def test_150_films_a_second_and_4_times_albumentations_without_its_slowest_map():
    result = bench_augment(seconds=8)
    assert result["films_per_s_core"] >= 150
    assert result["speedup"] >= 50
    assert result["speedup_without_piecewise_affine"] >= 4
