"""The models of a bundle together: means over models and views, maps of one size whatever the models see."""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.reading.bundle import Bundle, Manifest, ModelEntry, StoreEntry
from cxrlines.reading.engines import pytorch as module
from cxrlines.reading.engines.pytorch import PyTorchEngine, gives_maps
from cxrlines.task import LABELS, MAPS


def network(seed: int, **options: Any) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier("resnet10t", "gap", weights="none", **options)
    if model.decoder is not None:
        torch.nn.init.normal_(model.decoder.out.weight)  # maps that are not next to nothing
    return model.eval()


def forward_of(
    *models: tuple[object, int],
    folds: Sequence[int] | None = None,
    fast: bool = True,
    names: str | None = None,
    **manifest: Any,
) -> PyTorchEngine:
    entries = [
        ModelEntry(name=name, fold=fold, file="m.safetensors", config={}, input_size=size)
        for name, fold, (_, size) in zip(names or "m" * len(models), folds or range(len(models)), models, strict=True)
    ]
    store = StoreEntry(size=96, aspect="pad")
    given = Manifest(store=store, input_size=64, models=tuple(entries), files={}, meta={}, **manifest)
    with mock.patch.object(module, "load_models", lambda bundle: copy.deepcopy([model for model, _ in models])):
        return PyTorchEngine(Bundle(Path(), given, ""), fast=fast)


def films(count: int, sizes: tuple[int, ...] = (64,), views: int = 1) -> list[dict[int, np.ndarray]]:
    rng = np.random.default_rng(count)
    return [{s: rng.integers(0, 256, (views, s, s), dtype=np.uint8) for s in sizes} for _ in range(count)]


def labels_of(model: Classifier | TwoStep, film: np.ndarray) -> np.ndarray:
    """Probabilities of one view, film by film: what the engine must agree with."""
    with torch.inference_mode():
        return torch.sigmoid(model(torch.from_numpy(film[None, None])).double())[0].numpy()


def maps_of(model: Classifier, film: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return torch.sigmoid(model.features_and_maps(torch.from_numpy(film[None, None]))[1])[0].numpy()


def test_two_engines_read_the_same_with_batch_norms_fused() -> None:
    model = network(0, decoder="unet")
    shown = films(2)
    first = forward_of((model, 64))
    (rows, maps), (again, maps_again) = first(shown, maps=True), forward_of((model, 64))(shown, maps=True)
    np.testing.assert_array_equal(rows, again)
    np.testing.assert_array_equal(maps, maps_again)
    fused = [
        sum(isinstance(m, torch.nn.BatchNorm2d) for m in each.modules()) for each in (first.networks[0][0].model, model)
    ]
    assert fused[0] < fused[1]


def test_a_reader_made_where_gradients_are_off_reads_the_same() -> None:
    model, shown = network(0, decoder="unet"), films(1)
    with torch.inference_mode():
        forward = forward_of((model, 64))
        inside = forward(shown)[0]
    np.testing.assert_array_equal(inside, forward(shown)[0])
    assert not any(value.is_inference() for value in (*model.parameters(), *forward.networks[0][0].model.parameters()))


def test_models_as_they_come_give_the_same_as_the_fast_ones() -> None:
    model, shown = network(0, decoder="unet"), films(2)
    (rows, maps), (plain, plain_maps) = (forward_of((model, 64), fast=fast)(shown, maps=True) for fast in (True, False))
    np.testing.assert_allclose(rows, plain, atol=1e-5)
    np.testing.assert_allclose(maps, plain_maps, atol=1e-4)
    np.testing.assert_allclose(plain[0], labels_of(model, shown[0][64][0]), atol=1e-7)


def test_labels_are_the_mean_over_models_of_the_mean_over_views() -> None:
    one, other = network(0), network(1, decoder="unet")
    shown = films(3, (64, 96), views=2)
    rows, maps = forward_of((one, 64), (other, 96))(shown)
    assert rows.dtype == np.float64 and maps is None, "not asked for"
    for row, film in zip(rows, shown, strict=True):
        each = [labels_of(m, view) for m, size in ((one, 64), (other, 96)) for view in film[size]]
        assert np.abs(each[0] - each[2]).max() > 1e-3
        np.testing.assert_allclose(row, np.mean(each, axis=0), atol=1e-5)


def test_where_folds_are_calibrated_labels_are_the_mean_over_folds_of_the_calibrated_mean_of_each() -> None:
    nets, folds = [network(seed) for seed in range(3)], (4, 2, 4)
    label = LABELS[7]
    lines = {label: (3.0, -1.0)}
    forward = forward_of(*((net, 64) for net in nets), folds=folds, fold_calibration=lines)
    shown = films(2, views=2)
    for row, film in zip(forward(shown)[0], shown, strict=True):
        each = np.array([[labels_of(net, view) for view in film[64]] for net in nets])
        of_folds = np.array([each[[0, 2]].mean(axis=(0, 1)), each[1].mean(axis=0)])
        wanted = of_folds.mean(axis=0)
        odds = of_folds[:, 7] / (1 - of_folds[:, 7])
        wanted[7] = np.mean(1 / (1 + np.exp(1.0) * odds**-3.0))
        np.testing.assert_allclose(row, wanted, atol=1e-5)


def test_asking_for_maps_changes_no_label_and_gives_those_of_the_plain_view_alone() -> None:
    model = network(0, decoder="unet")
    forward, shown = forward_of((model, 64)), films(2, views=3)
    without, _ = forward(shown)
    rows, maps = forward(shown, maps=True)
    np.testing.assert_allclose(rows, without, atol=1e-6)
    assert maps is not None and maps.shape == (2, len(MAPS), 32, 32) and maps.dtype == np.float32
    for found, film in zip(maps, shown, strict=True):
        np.testing.assert_allclose(found, maps_of(model, film[64][0]), atol=1e-5)


def test_maps_of_models_of_two_sizes_are_averaged_at_the_larger_one_and_models_without_have_no_say() -> None:
    small, large, none = network(0, decoder="unet"), network(1, decoder="unet"), network(2)
    forward, shown = forward_of((small, 64), (large, 96), (none, 128)), films(2, (64, 96, 128))
    assert forward.map_size == 96
    _, maps = forward(shown, maps=True)
    for found, film in zip(maps, shown, strict=True):
        mine = torch.from_numpy(maps_of(small, film[64][0]))[None]
        mine = functional.interpolate(mine, (48, 48), mode="bilinear", align_corners=False)[0].numpy()
        np.testing.assert_allclose(found, (mine + maps_of(large, film[96][0])) / 2, atol=1e-5)


def test_without_a_decoder_there_are_no_maps() -> None:
    forward = forward_of((network(0), 64))
    assert forward.map_size is None and not gives_maps(network(0))
    assert forward(films(2), maps=True)[1] is None


def test_a_two_step_model_gives_the_maps_it_reads_by() -> None:
    segmenter = network(0, decoder="unet")
    model = TwoStep(segmenter, network(1, in_channels=1 + len(MAPS))).eval()
    assert gives_maps(model)
    forward, shown = forward_of((model, 64)), films(2)
    rows, maps = forward(shown, maps=True)
    np.testing.assert_allclose(rows, forward(shown)[0], atol=1e-6)
    for row, found, film in zip(rows, maps, shown, strict=True):
        np.testing.assert_allclose(found, maps_of(segmenter, film[64][0]), atol=1e-5)
        np.testing.assert_allclose(row, labels_of(model, film[64][0]), atol=1e-5)


@pytest.mark.parametrize("maps", [False, True])
def test_neither_neighbours_nor_order_change_a_film_and_none_is_changed(maps: bool) -> None:
    forward, shown = forward_of((network(0, decoder="unet"), 64)), films(5)
    before = [hashlib.sha256(film[64].tobytes()).digest() for film in shown]
    rows, found = forward(shown, maps=maps)
    backwards, found_backwards = forward(shown[::-1], maps=maps)
    np.testing.assert_allclose(backwards[::-1], rows, atol=1e-6)
    np.testing.assert_allclose(forward(shown[2:3], maps=maps)[0], rows[2:3], atol=1e-5)
    if maps:
        np.testing.assert_allclose(found_backwards[::-1], found, atol=1e-5)
    assert before == [hashlib.sha256(film[64].tobytes()).digest() for film in shown]


def test_embeddings_are_the_first_models_pooled_features_at_length_1() -> None:
    first, other = network(0), network(1)
    shown = films(3, (64, 96), views=2)
    vectors = forward_of((first, 96), (other, 64)).embed(shown)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for vector, film in zip(vectors, shown, strict=True):
        with torch.inference_mode():
            pooled = first.features(torch.from_numpy(film[96][0][None, None])).mean(dim=(2, 3))[0].numpy()
        np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), atol=1e-5)


@pytest.mark.parametrize("calibrated", [False, True])
def test_members_are_averaged_as_the_bundle_says(calibrated: bool) -> None:
    """Over all folds; or within each, where folds are calibrated."""
    nets = [network(seed) for seed in range(4)]
    weights = {"a": dict.fromkeys(LABELS, 0.9), "b": dict.fromkeys(LABELS, 0.1)}
    lines = {LABELS[0]: (1.0, 0.0)} if calibrated else None
    more: dict[str, Any] = {"ensemble": {"how": "fitted", "weights": weights}, "fold_calibration": lines}
    forward = forward_of(*((net, 64) for net in nets), folds=(0, 1, 0, 1), names="aabb", **more)
    shown = films(2, views=2)
    for row, film in zip(forward(shown)[0], shown, strict=True):
        each = np.mean([[labels_of(net, view) for view in film[64]] for net in nets], axis=1)

        def blend(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            odds = 0.9 * np.log(a / (1 - a)) + 0.1 * np.log(b / (1 - b))
            return 1 / (1 + np.exp(-odds))

        over_all = blend(each[:2].mean(axis=0), each[2:].mean(axis=0))
        of_folds = (blend(each[0], each[2]) + blend(each[1], each[3])) / 2
        np.testing.assert_allclose(row, of_folds if calibrated else over_all, atol=1e-5)


def test_all_networks_are_started_before_the_first_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a GPU has the next one's work while the processor waits for the first."""
    forward, calls = forward_of((network(0), 64), (network(1, decoder="unet"), 64)), []
    for number, (each, _) in enumerate(forward.networks):

        def start(films: np.ndarray, *, maps: bool, number: int = number, start: Any = each.start) -> Any:
            calls.append(f"start {number}")
            wait = start(films, maps=maps)
            return lambda: (calls.append(f"wait {number}"), wait())[1]

        monkeypatch.setattr(each, "start", start)
    forward(films(1), maps=True)
    assert calls == ["start 0", "start 1", "wait 0", "wait 1"]
