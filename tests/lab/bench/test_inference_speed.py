"""The benchmark of reading does the reader's own work both ways, and says what it measured."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cxrlines.core.film import FilmError
from cxrlines.core.pool import cores
from cxrlines.io.films import read_film
from cxrlines.lab.bench import inference_speed as bench
from cxrlines.lab.bench.inference_speed import BenchError, bench_predict
from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.models.weights import save_weights
from cxrlines.phantom.render import render
from cxrlines.phantom.scene import make_scene
from cxrlines.reading.bundle import Bundle, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, write_bundle
from cxrlines.recipe.spec.load import load_recipe


@pytest.fixture(autouse=True)
def allocator(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The allocator is left alone here; what is asked of it is noted."""
    asked: list[str] = []
    monkeypatch.setattr(bench, "keep_buffers", lambda: asked.append("keep"))
    return asked


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A two-step model and a plain one that sees less; calibrated in one label; untrained."""
    torch.manual_seed(0)

    def net(**options: object) -> Classifier:
        return Classifier("tf_efficientnet_lite0", "gap", weights="none", **options)

    members = []
    for name, size, model in (("two", 96, TwoStep(net(decoder=True), net(in_channels=10))), ("one", 64, net())):
        save_weights(tmp_path / f"{name}.safetensors", model.state_dict(), {})
        members.append(BundleMember(name, 0, model.config(), tmp_path / f"{name}.safetensors", size))
    written = write_bundle(
        tmp_path / "bundle",
        members,
        store={"size": 128, "aspect": "pad"},
        input_size=96,
        meta={},
        onnx=False,
        calibration={"NGT - Normal": (0.5, 1.0)},
    )
    return load_bundle(written)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    films = tmp_path / "films"
    films.mkdir()
    for seed in range(3):
        scene = make_scene([seed, 1], [seed, 1, 0], size=200, balance="even", site="a")
        film = render(scene, difficulty=0.2, site="a", rng=np.random.default_rng(seed))
        cv2.imwrite(str(films / f"{seed}.png"), film)
    return films


def test_both_ways_of_a_two_step_bundle_say_the_same(bundle, folder, allocator):
    figures = bench_predict(bundle, films=2, folder=folder)
    assert figures["films"] == 2 and figures["threads"] == torch.get_num_threads()
    assert 0 <= figures["largest_difference"] < 1e-5
    assert sum(figures[f"{stage}_share"] for stage in ("decode", "prepare", "network", "findings")) == pytest.approx(
        1, abs=0.002
    )
    for mode in ("latency", "batch"):
        assert figures[f"{mode}_s"] > 0
        assert figures[f"{mode}_speedup"] == pytest.approx(figures["plain_s"] / figures[f"{mode}_s"], rel=0.05)
    assert allocator == ["keep"]


def test_a_reader_that_says_something_else_is_found_out(bundle, folder, monkeypatch):
    whole = bench.Reader.read

    def wrong(self, film):
        found = whole(self, film)
        found.labels["CVC - Normal"] += 0.25
        return found

    monkeypatch.setattr(bench.Reader, "read", wrong)
    assert bench_predict(bundle, films=1, folder=folder)["largest_difference"] == pytest.approx(0.25, abs=1e-5)


def test_the_films_made_are_jpegs_of_the_size_told(monkeypatch):
    monkeypatch.setattr(bench, "HEIGHT", 300)
    monkeypatch.setattr(bench, "WIDTH", 250)
    one, other = bench._files(2, None)
    film = read_film(one)
    assert film.format == "JPEG" and film.pixels.shape == (300, 250)
    assert one != other and list(bench._files(1, None)) == [one]


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


@pytest.fixture
def all_cores() -> Iterator[None]:
    """As a command has them; the tests have one thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    yield
    torch.set_num_threads(before)


@pytest.mark.long
def test_the_reader_in_the_box_keeps_to_its_time(all_cores):
    from cxrlines.reading.bundle import EMBEDDED

    figures = bench_predict(load_bundle(EMBEDDED), films=8)
    assert figures["latency_s"] <= 0.25 and figures["batch_s"] <= 0.25
    assert figures["largest_difference"] < 1e-4


@pytest.mark.long
def test_a_fold_of_the_two_step_recipe_keeps_to_its_time_at_full_size(all_cores, tmp_path):
    """Untrained: weights cost the same whatever they are. Its size, backbone and store are the shipped recipe's."""
    recipe = load_recipe("two-step")
    (name,) = recipe.members
    member = recipe.members[name]

    def net(**options: object) -> Classifier:
        return Classifier(member.backbone, member.head, weights="none", exclusive=member.exclusive, **options)

    torch.manual_seed(0)
    model = TwoStep(net(decoder=True), net(in_channels=10))
    save_weights(tmp_path / "w.safetensors", model.state_dict(), {})
    written = write_bundle(
        tmp_path / "bundle",
        [BundleMember(name, 0, model.config(), tmp_path / "w.safetensors", recipe.size)],
        store=recipe.store.model_dump(),
        input_size=recipe.size,
        meta={},
        onnx=False,
    )
    figures = bench_predict(load_bundle(written), films=4)
    assert figures["latency_s"] <= 1.0 and figures["batch_s"] <= 1.0
    assert figures["largest_difference"] < 1e-4
