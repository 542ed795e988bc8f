"""Networks as ONNX: equal to PyTorch's, from one bundle; what is unsafe or no network of this program is refused."""

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from cxrlines.models import WEIGHTS
from cxrlines.models.classifier import Classifier, Model, TwoStep
from cxrlines.models.onnx_export import ExportError, export_model, trace_model
from cxrlines.models.weights import save_weights
from cxrlines.reading.averaging import Averaging
from cxrlines.reading.bundle import Bundle, BundleError, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, with_onnx, write_bundle
from cxrlines.reading.engines.averaged import AveragedNetworks
from cxrlines.reading.engines.choice import engine_of
from cxrlines.reading.engines.onnx import OnnxEngine, OnnxError, OnnxNetwork, filled
from cxrlines.reading.engines.pytorch import PyTorchEngine
from cxrlines.task import LABELS, MAP_NAMES


def net(seed: int = 0, **options: object) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier("resnet10t", "gap", weights="none", **options)
    if model.decoder is not None:
        torch.nn.init.normal_(model.decoder.out.weight)
    return model.eval()


SIZE = (64, 48)


@pytest.fixture(scope="module")
def exported() -> bytes:
    return export_model(net(decoder="unet"), SIZE)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in net(decoder="unet").state_dict().items()}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model with heatmaps on films that are not square, and a two-step model on others, in 16 bits."""
    folder = tmp_path_factory.mktemp("onnx")
    models: dict[str, tuple[Model, object]] = {
        "maps": (net(decoder="unet"), (64, 48)),
        "two": (TwoStep(net(1, decoder="separable"), net(2, in_channels=10)), 64),
    }
    members = []
    for name, (model, size) in models.items():
        save_weights(folder / f"{name}.safetensors", model.state_dict(), {})
        members.append(BundleMember(name, 0, model.config(), folder / f"{name}.safetensors", size))
    way = {"store": {"size": 96, "aspect": "pad"}, "input_size": 64, "meta": {}, "half": True}
    return load_bundle(write_bundle(folder / "bundle", members, **way))


@pytest.mark.parametrize("half", [False, True])
def test_a_graph_traced_once_takes_the_weights_of_another_model(half: bool) -> None:
    first, second = net(5), net(6)
    if half:  # as they are in a bundle of 16 bits
        for model in (first, second):
            model.load_state_dict({name: t.half().to(t.dtype) for name, t in model.state_dict().items()})
    of_first = trace_model(first, (32, 32))
    assert trace_model(second, (32, 32)) != of_first
    assert export_model(second, (32, 32), traced=of_first) == export_model(second, (32, 32))
    assert export_model(first, (32, 32), traced=of_first) != export_model(second, (32, 32), traced=of_first)


def films(count: int) -> list[dict[object, np.ndarray]]:
    rng = np.random.default_rng(count)
    return [
        {
            size: rng.integers(0, 256, (2, *shape), dtype=np.uint8)
            for size, shape in (((64, 48), (64, 48)), (64, (64, 64)))
        }
        for _ in range(count)
    ]


def test_both_engines_give_the_same_one_film_or_several(bundle: Bundle) -> None:
    ours, theirs = OnnxEngine(bundle), PyTorchEngine(bundle)
    assert ours.map_size == theirs.map_size == 64
    for count in (1, 3):
        shown = films(count)
        (rows, maps), (wanted, wanted_maps) = (engine(shown, maps=True) for engine in (ours, theirs))
        np.testing.assert_allclose(rows, wanted, atol=1e-4)
        np.testing.assert_allclose(maps, wanted_maps, atol=1e-3)
        np.testing.assert_allclose(ours.embed(shown), theirs.embed(shown), atol=1e-4)
    assert ours(films(1))[1] is None, "heatmaps are given where they are asked for"


def test_the_processor_reads_by_onnx_and_a_bundle_without_it_by_pytorch(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(engine_of(bundle), OnnxEngine)
    bare = tuple(entry.model_copy(update={"onnx": None}) for entry in bundle.manifest.models)
    without = Bundle(bundle.folder, bundle.manifest.model_copy(update={"models": bare}), "")
    assert isinstance(engine_of(without), PyTorchEngine)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BundleError) as said:
        engine_of(without)
    assert "maps-fold0.safetensors" in said.value.what and "cxrlines[train]" in said.value.way_out


def test_a_bundle_without_onnx_is_given_it(bundle: Bundle, tmp_path: Path) -> None:
    with_onnx(bundle, tmp_path / "again")
    again = load_bundle(tmp_path / "again")
    assert set(again.manifest.files) == set(bundle.manifest.files)
    np.testing.assert_allclose(OnnxEngine(again)(films(2))[0], OnnxEngine(bundle)(films(2))[0], atol=1e-6)


def test_a_bundle_reads_films_of_another_size_with_the_same_weights(bundle: Bundle, tmp_path: Path) -> None:
    before = {name: bundle.read(name) for name in bundle.manifest.files}
    with_onnx(bundle, tmp_path / "small", size=96)
    small = load_bundle(tmp_path / "small")
    assert set(small.sizes) == {96} and small.manifest.meta["resized"]["bundle"] == bundle.identity
    ours, theirs = OnnxEngine(small), PyTorchEngine(small)
    shown: list[dict[object, np.ndarray]] = [{96: np.random.default_rng(4).integers(0, 256, (2, 96, 96), np.uint8)}]
    (rows, maps), (wanted, wanted_maps) = (engine(shown, maps=True) for engine in (ours, theirs))
    np.testing.assert_allclose(rows, wanted, atol=1e-4)
    np.testing.assert_allclose(maps, wanted_maps, atol=1e-3)
    assert ours.map_size == theirs.map_size == 96
    assert {name: small.read(name) for name in before if name.endswith(".safetensors")} == {
        name: content for name, content in before.items() if name.endswith(".safetensors")
    }
    assert {name: bundle.read(name) for name in before} == before


def test_the_file_names_its_outputs_and_keeps_no_path_of_the_machine(
    exported: bytes, weights: dict[str, np.ndarray], pool: ThreadPoolExecutor
) -> None:
    network = OnnxNetwork(exported, "m.onnx", weights, SIZE, pool)
    assert (network.labels, network.map_names) == (
        LABELS,
        MAP_NAMES if isinstance(MAP_NAMES, tuple) else tuple(MAP_NAMES),
    )
    assert b"site-packages" not in exported and str(Path(__file__).parents[3]).encode() not in exported


def test_an_export_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrlines.models.onnx_export.PROBABILITIES", -1.0)
    with pytest.raises(ExportError) as said:
        export_model(net(), (32, 32))
    assert "logits" in said.value.what


def _changed(content: bytes, change: str) -> bytes:
    model = onnx.load_model_from_string(content)
    if change == "external data":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")
    elif change == "custom domain":
        model.opset_import.append(helper.make_opsetid("com.example", 1))
    elif change == "custom operator":
        model.graph.node[0].domain = "com.example"
    elif change == "function":
        model.functions.append(helper.make_function("ai.onnx", "F", ["x"], ["x"], [], model.opset_import))
    elif change == "no labels":
        del model.metadata_props[:]
    elif change == "opset":
        model.opset_import[0].version = 9999
    elif change == "no heatmaps":
        del model.graph.output[2]
    return model.SerializeToString()


@pytest.mark.parametrize(
    "change", ["external data", "custom domain", "custom operator", "function", "no labels", "opset", "no heatmaps"]
)
def test_a_graph_that_is_unsafe_or_strange_is_refused_by_name(
    exported: bytes, weights: dict[str, np.ndarray], pool: ThreadPoolExecutor, change: str
) -> None:
    with pytest.raises(OnnxError) as said:
        OnnxNetwork(_changed(exported, change), "some/m.onnx", weights, SIZE, pool)
    assert said.value.what.startswith("some/m.onnx") and "cxrlines bundle" in said.value.way_out


def test_films_of_another_shape_are_refused_when_it_is_loaded(
    exported: bytes, weights: dict[str, np.ndarray], pool: ThreadPoolExecutor
) -> None:
    with pytest.raises(OnnxError, match=r"m\.onnx: takes .*64, 48.* not films .* 1 x 96 x 96"):
        OnnxNetwork(exported, "m.onnx", weights, (96, 96), pool)


def test_weights_are_those_of_the_safetensors_file_and_must_fit(
    exported: bytes, weights: dict[str, np.ndarray], pool: ThreadPoolExecutor
) -> None:
    kept = sum(values.nbytes for values in weights.values())
    assert len(exported) < kept / 10, "they are not kept twice"
    name = "head.2.weight"
    film = films(1)[0][SIZE][:1, None]
    changed = weights | {name: 2 * weights[name]}
    logits = [OnnxNetwork(exported, "m", given, SIZE, pool).start(film)()[0] for given in (weights, changed)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    for wrong in (weights | {name: weights[name][:-1]}, {k: v for k, v in weights.items() if k != name}):
        with pytest.raises(OnnxError, match=rf"m\.onnx: needs {name} of .* the safetensors file beside it "):
            OnnxNetwork(exported, "m.onnx", wrong, SIZE, pool)


def test_a_file_that_holds_its_weights_itself_is_read_as_well(
    exported: bytes, weights: dict[str, np.ndarray], pool: ThreadPoolExecutor
) -> None:
    """As bundles of format 5 have them."""
    whole, film = filled(exported, "m.onnx", weights), films(1)[0][SIZE][:1, None]
    renamed = onnx.load_model_from_string(whole)
    for tensor in renamed.graph.initializer:
        tensor.name = tensor.name.removeprefix(WEIGHTS)
    for node in renamed.graph.node:
        node.input[:] = [name.removeprefix(WEIGHTS) for name in node.input]
    (one, _), (other, _) = (
        OnnxNetwork(content, "m.onnx", given, SIZE, pool).start(film)()
        for content, given in ((exported, weights), (renamed.SerializeToString(), {}))
    )
    np.testing.assert_array_equal(one, other)


def test_networks_that_lack_a_label_that_is_promised_are_refused(bundle: Bundle) -> None:
    networks = [SimpleNamespace(labels=LABELS[1:], map_names=()) for _ in bundle.manifest.models]
    with pytest.raises(BundleError, match=f"maps-fold0.safetensors does not give '{LABELS[0]}'"):
        AveragedNetworks(bundle, networks)


def test_networks_that_lack_a_heatmap_that_is_promised_are_refused(bundle: Bundle) -> None:
    names = [name for name in MAP_NAMES if name != "tip CVC"]
    networks = [SimpleNamespace(labels=LABELS, map_names=tuple(names)) for _ in bundle.manifest.models]
    with pytest.raises(BundleError, match="does not give 'tip CVC'"):
        AveragedNetworks(bundle, networks)
    AveragedNetworks(bundle, [SimpleNamespace(labels=LABELS, map_names=()) for _ in bundle.manifest.models])


@pytest.mark.parametrize("spoilt", [(1,), (0, 1, 2)], ids=["one film", "all films"])
@pytest.mark.parametrize("how", ["mean", "power", "rank"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_film_whose_values_are_no_numbers_costs_the_others_nothing(
    bundle: Bundle, spoilt: tuple[int, ...], how: str, calibrated: bool
) -> None:
    """Nor is it an error of the engine: the reader says of which film, and of which bundle."""

    class Network:
        labels, map_names = LABELS, ()

        def __init__(self, logits: np.ndarray) -> None:
            self.logits = logits

        def start(self, films: np.ndarray, *, maps: bool = False) -> Callable[[], tuple[np.ndarray, None]]:
            return lambda: (self.logits, None)

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(bundle.manifest.models), 3, len(LABELS))).astype(np.float32)
    names = {entry.name for entry in bundle.manifest.models}
    ensemble = {
        "mean": Averaging(),
        "power": Averaging(how="power", power=2),
        "rank": Averaging(how="rank", quantiles={name: {label: (0.0, 0.5, 1.0) for label in LABELS} for name in names}),
    }[how]
    change = {"ensemble": ensemble, "fold_calibration": {LABELS[0]: (2.0, 1.0)} if calibrated else None}
    changed = replace(bundle, manifest=bundle.manifest.model_copy(update=change))
    shown = [dict.fromkeys(bundle.sizes, np.zeros((1, 8, 8), np.uint8))] * 3
    whole, _ = AveragedNetworks(changed, [Network(each) for each in logits])(shown)
    logits[0, list(spoilt), 2] = np.nan
    rows, _ = AveragedNetworks(changed, [Network(each) for each in logits])(shown)
    sound = [k for k in range(3) if k not in spoilt]
    np.testing.assert_array_equal(rows[sound], whole[sound])
    assert np.isfinite(whole).all() and np.isnan(rows[list(spoilt)]).all()


def test_without_onnx_runtime_it_is_said(
    exported: bytes, weights: dict[str, np.ndarray], pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not installed, or, as on a processor that it does not support, not loaded."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OnnxError, match=r"m\.onnx: ONNX Runtime cannot be loaded here") as said:
        OnnxNetwork(exported, "m.onnx", weights, SIZE, pool)
    assert "pip install onnxruntime" in said.value.way_out and "AVX" in said.value.way_out


def test_a_network_that_fails_at_a_film_does_not_blame_its_file(
    exported: bytes, weights: dict[str, np.ndarray], pool: ThreadPoolExecutor
) -> None:
    network = OnnxNetwork(exported, "m.onnx", weights, SIZE, pool)
    with pytest.raises(Exception, match="films") as said:
        network.start(np.zeros((1, 1, 9, 9), np.uint8))()
    assert not isinstance(said.value, BundleError) and "bundle again" not in str(said.value)


def test_a_cut_file_is_refused_and_so_is_one_that_was_exchanged(
    bundle: Bundle, exported: bytes, weights: dict[str, np.ndarray], pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError):
        OnnxNetwork(exported[: len(exported) // 2], "m.onnx", weights, SIZE, pool)
    for file in bundle.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "maps-fold0.onnx").write_bytes(exported)
    with pytest.raises(BundleError) as said:
        load_bundle(tmp_path)
    assert "maps-fold0.onnx" in said.value.what


def test_the_manifest_cannot_name_a_file_outside(bundle: Bundle, tmp_path: Path) -> None:
    for file in bundle.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((tmp_path / "bundle.json").read_text())
    content["models"][0]["onnx"] = "../m.onnx"
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError) as said:
        load_bundle(tmp_path)
    assert "onnx" in said.value.what
