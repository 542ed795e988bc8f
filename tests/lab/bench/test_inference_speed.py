"""The benchmark of reading measures both ways in turns, and its figures fit together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cxrlines.core.film import FilmError
from cxrlines.core.pool import cores
from cxrlines.lab.bench import inference_speed as bench
from cxrlines.lab.bench.inference_speed import BenchError, bench_predict
from cxrlines.lab.bench.plain_pytorch import PlainPyTorch, Took
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import save_weights
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.reading.bundle import Bundle, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, write_bundle


@pytest.fixture(autouse=True)
def allocator(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The allocator is left alone here; what is asked of it is noted."""
    asked: list[str] = []
    monkeypatch.setattr(bench, "keep_buffers", lambda: asked.append("keep"))
    return asked


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One small model with heatmaps, untrained."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bench")
    model = Classifier("resnet10t", "gap", weights="none", decoder="unet")
    save_weights(folder / "m.safetensors", model.state_dict(), {})
    member = BundleMember("m", 0, model.config(), folder / "m.safetensors", 64)
    way = {"store": {"size": 128, "aspect": "pad"}, "input_size": 64, "meta": {}}
    return load_bundle(write_bundle(folder / "bundle", [member], **way))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    films = tmp_path / "films"
    films.mkdir()
    for seed in range(3):
        scene = make_scene([seed, 1], [seed, 1, 0], size=200, balance="even", site="a")
        film = render(scene, difficulty=0.2, site="a", rng=np.random.default_rng(seed))
        cv2.imwrite(str(films / f"{seed}.png"), film)
    return films


class Fake:
    """Plain PyTorch that takes as long as it says; `asked` is what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int | None]] = []

    def read(self, films: Sequence[int], threads: int | None = None) -> Took:
        self.asked.append((list(films), threads))
        return Took(2.0 * len(films), 1.5)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    plain = Fake()

    @contextmanager
    def beside(bundle: Path, films: Sequence[bytes]) -> Iterator[Fake]:
        yield plain

    monkeypatch.setattr(bench, "in_own_process", beside)
    return plain


def test_figures_fit_together_and_both_ways_take_turns(bundle, folder, allocator, fake, monkeypatch):
    whole = bench.Reader.read

    def noted(self, film):
        fake.asked.append(("reader", None))
        return whole(self, film)

    monkeypatch.setattr(bench.Reader, "read", noted)
    figures = bench_predict(bundle, films=2, folder=folder)
    assert figures["films"] == 2 and figures["cores"] == cores() and allocator == ["keep"]
    assert figures["plain_s"] == figures["plain_batch_s"] == 2.0
    for mode in ("latency", "batch"):
        assert figures[f"{mode}_speedup"] == pytest.approx(2.0 / figures[f"{mode}_s"], rel=0.05)
    one = figures["one_thread"]
    assert one["plain_cpu_s"] == 1.5 and one["latency_speedup"] == pytest.approx(1.5 / one["latency_cpu_s"], rel=0.01)
    assert set(figures["shares"]) == {"decode", "prepare", "probe", "network", "findings"}
    assert sum(figures["shares"].values()) == pytest.approx(1, abs=0.003)
    assert figures["loaded_factor"] > 0
    reader = ("reader", None)
    assert fake.asked[:6] == [([0], None), reader, ([0], None), reader, ([1], None), reader], "one film each, in turns"
    assert ([0, 1], None) in fake.asked and ([1], 1) in fake.asked


def test_plain_pytorch_is_two_networks_of_fixed_weights(bundle, folder):
    film = (folder / "0.png").read_bytes()
    before = torch.get_num_threads()
    one, other = (PlainPyTorch(bundle.folder, [film], seed=0) for _ in range(2))
    assert len(one.networks) == 2 and sum(p.numel() for p in one.networks[0].parameters()) > 3_000_000
    for mine, theirs in zip(one.networks, other.networks, strict=True):
        assert all(
            torch.equal(a, b) for a, b in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
        )
    took = one.read([0, 0], threads=1)
    assert took.wall > 0 and torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_nothing_to_measure_is_said(bundle, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BenchError, match=r"nowhere: there is no such file or folder; name a folder"):
        bench_predict(bundle, folder=tmp_path / "nowhere")
    with pytest.raises(BenchError, match=r"empty: the folder holds no film"):
        bench_predict(bundle, folder=empty)
    cv2.imwrite(str(empty / "black.png"), np.zeros((200, 200), np.uint8))  # refused by rule
    with pytest.raises(BenchError, match=r"empty: .* no chest film"):
        bench_predict(bundle, folder=empty)
    (empty / "cut.png").write_bytes((empty / "black.png").read_bytes()[:60])
    with pytest.raises(FilmError, match="damaged"):
        bench_predict(bundle, folder=empty)


@pytest.mark.long
def test_the_embedded_reader_is_much_faster_than_plain_pytorch():
    from cxrlines.reading.bundle import EMBEDDED

    figures = bench_predict(load_bundle(EMBEDDED), films=8)
    assert figures["one_thread"]["latency_speedup"] >= 1.5
    assert figures["latency_speedup"] >= 1.5 and figures["batch_speedup"] >= 1.5
    assert figures["loaded_factor"] <= 3
