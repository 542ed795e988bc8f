"""Networks as ONNX: equal to PyTorch's, from one bundle; what is unsafe or no network of this program is refused."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from cxrlines.models.classifier import Classifier, Model, TwoStep
from cxrlines.models.onnx_export import ExportError, export_model
from cxrlines.models.weights import save_weights
from cxrlines.reading.bundle import Bundle, BundleError, load_bundle
from cxrlines.reading.bundle_writing import BundleMember, with_onnx, write_bundle
from cxrlines.reading.engines.choice import engine_of
from cxrlines.reading.engines.onnx import OnnxEngine, OnnxError, OnnxNetwork
from cxrlines.reading.engines.pytorch import PyTorchEngine
from cxrlines.task import LABELS, MAP_NAMES


def net(seed: int = 0, **options: object) -> Classifier:
    torch.manual_seed(seed)
    model = Classifier("resnet10t", "gap", weights="none", **options)
    if model.decoder is not None:
        torch.nn.init.normal_(model.decoder.out.weight)
    return model.eval()


@pytest.fixture(scope="module")
def exported() -> bytes:
    return export_model(net(decoder=True), (64, 48))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model with heatmaps on films that are not square, and a two-step model on others, in 16 bits."""
    folder = tmp_path_factory.mktemp("onnx")
    models: dict[str, tuple[Model, object]] = {
        "maps": (net(decoder=True), (64, 48)), "two": (TwoStep(net(1, decoder=True), net(2, in_channels=10)), 64),
    }  # fmt: skip
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
    like = export_model(first, (32, 32), half=half)
    assert export_model(second, (32, 32), half=half, like=like) == export_model(second, (32, 32), half=half) != like


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
    assert isinstance(engine_of(bundle), OnnxEngine) and isinstance(engine_of(bundle, "torch"), PyTorchEngine)
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


def test_the_file_names_its_outputs_and_keeps_no_path_of_the_machine(exported: bytes) -> None:
    network = OnnxNetwork(exported, "m.onnx")
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
    return model.SerializeToString()


@pytest.mark.parametrize("change", ["external data", "custom domain", "custom operator", "function", "no labels"])
def test_a_graph_that_is_unsafe_or_strange_is_refused_by_name(exported: bytes, change: str) -> None:
    with pytest.raises(OnnxError) as said:
        OnnxNetwork(_changed(exported, change), "some/m.onnx")
    assert said.value.what.startswith("some/m.onnx") and "cxrlines bundle" in said.value.way_out


def test_a_cut_file_is_refused_and_so_is_one_that_was_exchanged(
    bundle: Bundle, exported: bytes, tmp_path: Path
) -> None:
    with pytest.raises(OnnxError):
        OnnxNetwork(exported[: len(exported) // 2], "m.onnx")
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
