"""The benchmark of training measures what it says."""

import math

import pytest
import torch

from cxrlines.lab.bench import training_speed as bench
from cxrlines.lab.bench.training_speed import Work, bench_train

SMALL = Work("resnet10t", 32, 2, 0)


def measured(monkeypatch, gpu: str | None, films_per_s: float) -> None:
    """Stands for the processes that measure."""

    def run(modes, work, seconds):
        factor = {"loop": 0.9, "default": 1.0, "tuned": 10.06}[modes[0]]
        measured = {"films_per_s": films_per_s * factor, "gpu": gpu, "memory_gb": 9.5 if gpu else None}
        return [measured | ({"films_per_s_ready": films_per_s} if modes[0] == "loop" else {})]

    monkeypatch.setattr(bench, "_run", run)


@pytest.mark.parametrize("films_per_s", [0.0123456, 1.449, 1234.56])
def test_its_ratios_are_those_of_its_figures_also_on_a_slow_machine(monkeypatch, films_per_s):
    measured(monkeypatch, None, films_per_s)
    figures = bench_train(seconds=0.3)
    assert set(figures) == {"speedup", "films_per_s", "films_per_s_default", "waits_for_films"}
    assert figures["speedup"] == pytest.approx(figures["films_per_s"] / figures["films_per_s_default"], rel=0.002)
    assert figures["speedup"] == pytest.approx(10.06, rel=0.001)
    assert figures["waits_for_films"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("gpu", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12),
     ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12), ("NVIDIA A10G", 125e12), ("A card of 2031", None)],
)  # fmt: skip
def test_the_share_of_a_cards_peak_is_that_of_three_forward_passes(monkeypatch, gpu, peak):
    measured(monkeypatch, gpu, 1000.0)
    figures = bench_train(1.0, Work("resnet50", 224, 8))
    # 4.09 G multiplications and additions of an image of three channels; the stem of one channel has 0.08 G less.
    assert figures["tflops"] == pytest.approx(900 * 3 * 2 * (4.09e9 - 0.08e9) / 1e12, rel=0.02)
    share = figures["share_of_peak"]
    assert share is None if peak is None else share == pytest.approx(figures["tflops"] * 1e12 / peak, rel=1e-3)
    assert figures["gpu"] == gpu and figures["memory_gb"] == 9.5


def test_the_loop_is_a_stages_own_and_ends(monkeypatch):
    monkeypatch.setattr(bench, "keep_buffers", lambda: None)
    figures = bench._loop(SMALL, 0.05)
    assert 0 < figures["films_per_s"] < math.inf and 0 < figures["films_per_s_ready"] < math.inf
    assert (figures["gpu"] is None) == (not torch.cuda.is_available())


@pytest.mark.long
def test_the_set_up_keeps_the_factor_of_allocator_and_threads():
    assert bench_train(seconds=10)["speedup"] > 2
