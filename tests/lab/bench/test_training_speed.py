"""The benchmark of training measures what it says."""

import pytest

from cxrlines.lab.bench import training_speed as bench
from cxrlines.lab.bench.training_speed import bench_train


@pytest.mark.parametrize("films_per_s", [0.0123456, 1.449, 1234.56])
def test_its_ratio_is_that_of_its_figures_also_on_a_slow_machine(monkeypatch, films_per_s):
    monkeypatch.setattr(bench, "_films_per_s", lambda modes, seconds: films_per_s * (10.06 if "tuned" in modes else 1))
    figures = bench_train(seconds=0.3)
    assert set(figures) == {"speedup", "films_per_s", "films_per_s_default"}
    assert figures["speedup"] == pytest.approx(figures["films_per_s"] / figures["films_per_s_default"], rel=0.002)
    assert figures["speedup"] == pytest.approx(10.06, rel=0.001)


@pytest.mark.long
def test_the_set_up_keeps_the_factor_of_allocator_and_threads():
    assert bench_train(seconds=10)["speedup"] > 2
