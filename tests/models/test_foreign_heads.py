"""Heads of public files: adopted where shapes agree, with the outputs of the very model they come from."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cxrlines.models.adopt import Adoption, adopt
from cxrlines.models.classifier import Classifier
from cxrlines.task import LABELS

Weights = dict[str, Tensor]


class SpatialGate(nn.Module):
    """Convolutions, batch norms and activations; names as of the public multi-head model, `conv1.layers.0`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels, 64, 32, 16, 1]
        for place in range(4):
            step = nn.Module()
            conv = nn.Conv2d(widths[place], widths[place + 1], 3, 1, 1, bias=False)
            step.layers = nn.Sequential(
                conv, nn.BatchNorm2d(widths[place + 1]), nn.Sigmoid() if place == 3 else nn.ReLU()
            )
            setattr(self, f"conv{place + 1}", step)

    def forward(self, x: Tensor) -> Tensor:
        gate = x
        for place in range(4):
            gate = getattr(self, f"conv{place + 1}").layers(gate)
        return x * gate


class MultiHead(nn.Module):
    """The public multi-head model: a timm backbone and `head_0` to `head_3` with 3, 4, 3 and 1 outputs."""

    def __init__(self, outputs: tuple[int, ...] = (3, 4, 3, 1), names: str = "head_{}") -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet10t", num_classes=0, global_pool="")
        c = self.backbone.num_features
        self.names = [names.format(place) for place in range(len(outputs))]
        for name, count in zip(self.names, outputs, strict=True):
            parts = (nn.Linear(c, c), nn.ReLU(), nn.Dropout(0.5), nn.Linear(c, count))
            setattr(self, name, nn.Sequential(SpatialGate(c), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), *parts))

    def forward(self, x: Tensor) -> Tensor:
        features = self.backbone(x)
        return torch.cat([getattr(self, name)(features) for name in self.names], dim=1)


class Gem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(1) * 2.5)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(x.clamp(min=1e-6).pow(self.p), x.shape[2:]).pow(1 / self.p)


class Both(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((nn.functional.adaptive_avg_pool2d(x, 1), nn.functional.adaptive_max_pool2d(x, 1)), dim=1)


class OneLayer(nn.Module):
    """The public kernels' model: timm's with its pooling and classifier taken off, and others beside it."""

    def __init__(self, pooling: nn.Module, width: int = 1) -> None:
        super().__init__()
        self.model = timm.create_model("resnet10t", num_classes=0, global_pool="")
        self.pooling = pooling
        self.fc = nn.Linear(width * self.model.num_features, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pooling(self.model(x)).flatten(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "multi-head": (MultiHead, "attention"),
    "one layer": (lambda: OneLayer(nn.AdaptiveAvgPool2d(1)), "gap"),
    "GeM": (lambda: OneLayer(Gem()), "gem"),
    "average and maximum": (lambda: OneLayer(Both(), 2), "concat"),
    "timm's own classifier": (lambda: timm.create_model("resnet10t", num_classes=11), "gap"),
}


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(2)
    model = make().eval()
    for name, t in model.state_dict().items():  # off their start values
        if t.is_floating_point() and t.ndim == 1 and not name.endswith(".p"):
            t.copy_(torch.rand(t.shape) + 0.5)
    return model


def ours(head: str, backbone: str = "resnet10t", exclusive: bool = False) -> Classifier:
    torch.manual_seed(5)
    return Classifier(backbone, head, weights="none", exclusive=exclusive).eval()


def outputs_agree(model: Classifier, theirs: nn.Module) -> None:
    film = torch.randint(256, (2, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        want = theirs(((film / 255 - model.mean) / model.std).expand(-1, 3, -1, -1))
        assert want.shape == (2, len(LABELS)) and want.std() > 1e-3
        torch.testing.assert_close(model(film), want, rtol=1e-4, atol=1e-5)


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: t for name, t in weights.items()}


LAYOUTS: dict[str, Callable[[Weights], object]] = {
    "bare": lambda w: w,
    "DataParallel": lambda w: under("module.", w),
    "the kernels'": lambda w: {"model": w, "preds": torch.rand(5, 11).numpy()},
    "Lightning": lambda w: {"pytorch-lightning_version": "1.1.8", "state_dict": under("model.", w), "epoch": 3},
    "an average": lambda w: {"model": {n: t + 1 for n, t in w.items()}, "ema": under("module.", w)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_a_head_whose_shapes_agree_gives_the_outputs_of_its_model(name: str, layout: str, tmp_path: Path) -> None:
    make, head = MODELS[name]
    theirs = made(make)
    torch.save(LAYOUTS[layout](theirs.state_dict()), tmp_path / "w.pth")
    model = ours(head)
    done = adopt(model, tmp_path / "w.pth")
    outputs_agree(model, theirs)
    assert done.fresh == ()
    (said,) = [line for line in done.adapted if line.startswith("head: ")]
    assert "taken to be" in said and ("average before maximum" in said) == (head == "concat")
    assert sorted(done.loaded) == sorted(model.state_dict())


@pytest.mark.parametrize("head", ["gap", "attention"])
def test_it_is_left_where_that_is_wanted(head: str, tmp_path: Path) -> None:
    theirs = made(MODELS["multi-head" if head == "attention" else "one layer"][0])
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = ours(head)
    before = {name: t.clone() for name, t in model.head.state_dict().items()}
    done = adopt(model, tmp_path / "w.pth", head=False)
    assert all(torch.equal(t, before[name]) for name, t in model.head.state_dict().items())
    assert done.fresh == tuple(f"head.{name}" for name in before) and len(done.left_out) >= 2


def leaves(
    theirs: nn.Module, head: str, tmp_path: Path, backbone: str = "resnet10t", exclusive: bool = False
) -> Adoption:
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = ours(head, backbone, exclusive)
    done = adopt(model, tmp_path / "w.pth")
    assert set(done.fresh) == {f"head.{name}" for name in model.head.state_dict()}
    assert not any(line.startswith("head") for line in done.adapted)
    return done


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (MODELS["multi-head"][0], "gap"),
        (MODELS["one layer"][0], "attention"),
        (MODELS["one layer"][0], "concat"),
        (MODELS["one layer"][0], "gem"),  # no exponent: of another pooling
        (MODELS["GeM"][0], "gap"),
        (MODELS["average and maximum"][0], "gap"),
        (lambda: MultiHead((3, 3, 4, 1)), "attention"),
        (lambda: MultiHead((3, 4, 3)), "attention"),
        (lambda: timm.create_model("resnet10t", num_classes=12), "gap"),
    ],
)
def test_another_head_is_left_out_whole(make: Callable[[], nn.Module], head: str, tmp_path: Path) -> None:
    done = leaves(made(make), head, tmp_path)
    assert all(": " in line for line in done.left_out) and len(done.left_out) >= 2


@pytest.mark.parametrize(("layout", "head"), [("one layer", "gap"), ("multi-head", "attention")])
def test_states_that_exclude_each_other_take_no_head_of_independent_ones(
    layout: str, head: str, tmp_path: Path
) -> None:
    leaves(made(MODELS[layout][0]), head, tmp_path, exclusive=True)


def test_of_two_that_fit_none_is_taken(tmp_path: Path) -> None:
    theirs = made(MODELS["one layer"][0])
    theirs.auxiliary = nn.Linear(theirs.fc.in_features, 11)
    leaves(theirs, "gap", tmp_path)


def test_a_backbone_that_does_more_than_pool_keeps_its_new_head(tmp_path: Path) -> None:
    """ConvNeXt's own classifier sees a normalised mean; ours would give it the mean."""
    theirs = timm.create_model("convnext_atto", num_classes=11)
    leaves(theirs, "gap", tmp_path, "convnext_atto")


def test_heads_go_by_number_in_a_file_in_any_order_and_by_the_devices_names(tmp_path: Path) -> None:
    theirs = made(MultiHead)
    mixed = dict(reversed(theirs.state_dict().items()))
    torch.save(mixed, tmp_path / "w.pth")
    model = ours("attention")
    adopt(model, tmp_path / "w.pth")
    outputs_agree(model, theirs)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")  # in the alphabet's order
    model = ours("attention")
    adopt(model, tmp_path / "w.safetensors")
    outputs_agree(model, theirs)
    names = dict(zip(theirs.names, ("ett_head", "ngt_head", "cvc_head", "swan_head"), strict=True))
    renamed = {".".join(names.get(part, part) for part in name.split(".")): t for name, t in mixed.items()}
    save_file(renamed, tmp_path / "w.safetensors")
    model = ours("attention")
    done = adopt(model, tmp_path / "w.safetensors")
    assert any("heads ett_head, ngt_head, cvc_head, swan_head, taken" in line for line in done.adapted)
    outputs_agree(model, theirs)


def test_files_of_before_batch_counters_are_taken(tmp_path: Path) -> None:
    theirs = made(MultiHead)
    old = OrderedDict((n, t) for n, t in theirs.state_dict().items() if not n.endswith("num_batches_tracked"))
    torch.save(old, tmp_path / "w.pth")
    model = ours("attention")
    done = adopt(model, tmp_path / "w.pth")
    outputs_agree(model, theirs)
    assert all(name.endswith("num_batches_tracked") for name in done.fresh)
