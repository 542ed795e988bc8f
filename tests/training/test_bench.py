"""The benchmark of training measures what it says."""

import pytest

from cxrlines.training.bench import bench_train


def test_it_measures_both_sides():
    figures = bench_train(seconds=0.3)
    assert set(figures) >= {"speedup", "films_per_s"}
    assert figures["speedup"] == pytest.approx(figures["films_per_s"] / figures["films_per_s_default"], rel=0.002)
    assert figures["films_per_s_default"] > 0


@pytest.mark.long
def test_the_set_up_keeps_the_factor_of_allocator_and_threads():
    assert bench_train(seconds=10)["speedup"] > 2
