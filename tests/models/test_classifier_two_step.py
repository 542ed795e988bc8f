"""A segmenter's maps beside the film: who learns, who does not, and what the classifier sees."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from cxrlines.models.classifier import Classifier, TwoStep, model_of
from cxrlines.models.weights import WeightsError, load_into, load_weights, save_weights
from cxrlines.task import MAPS


@pytest.fixture
def films() -> torch.Tensor:
    return torch.randint(0, 256, (3, 1, 64, 64), dtype=torch.uint8, generator=torch.manual_seed(0))


@pytest.fixture
def model() -> TwoStep:
    torch.manual_seed(1)
    segmenter = Classifier("resnet10t", "gap", weights="none", decoder="unet")
    torch.nn.init.normal_(segmenter.decoder.out.weight)  # maps that are not next to nothing
    return TwoStep(segmenter, Classifier("resnet10t", "gap", weights="none", in_channels=1 + len(MAPS)))


def test_the_classifier_sees_the_film_and_the_segmenters_maps_at_its_size(model: TwoStep, films: torch.Tensor) -> None:
    model.eval()
    with torch.inference_mode():
        maps = torch.sigmoid(model.segmenter.features_and_maps(films)[1])
        assert maps.shape == (3, len(MAPS), 32, 32)
        large = functional.interpolate(maps, (64, 64), mode="bilinear", align_corners=False)
        seen = torch.cat([films.float() / 255, large], dim=1)
        torch.testing.assert_close(model(films), model.classifier(seen))
        torch.testing.assert_close(model.maps(films), maps)
        features, logits = model.features_and_maps(films)
        torch.testing.assert_close(torch.sigmoid(logits), maps)
        torch.testing.assert_close(model.classify(features), model(films))


def test_bytes_and_fractions_mean_the_same_film(model: TwoStep, films: torch.Tensor) -> None:
    before = films.clone()
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(films), model(films.float() / 255))
    assert torch.equal(films, before)


def test_maps_given_from_outside_are_used_and_the_segmenter_is_not_asked(model: TwoStep, films: torch.Tensor) -> None:
    model.eval()
    given = torch.rand(3, len(MAPS), 32, 32)
    with torch.inference_mode():
        own = model.maps(films)
        torch.testing.assert_close(model.features(films, own), model.features(films))
        assert (model.features(films, given) - model.features(films)).abs().max() > 1e-3
        expected = model.features(films, given)
        torch.nn.init.zeros_(model.segmenter.decoder.out.weight)
        torch.testing.assert_close(model.features(films, given), expected, rtol=0, atol=0)


def test_the_segmenter_is_never_trained(model: TwoStep, films: torch.Tensor) -> None:
    before = {name: value.clone() for name, value in model.segmenter.state_dict().items()}
    learns = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model.train()
    assert model.classifier.training and not any(module.training for module in model.segmenter.modules())
    classifier = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    for _ in range(2):
        model(films).square().mean().backward()
        optimizer.step()
    after = model.segmenter.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), "batch statistics among them"
    assert all(p.grad is None for p in model.segmenter.parameters())
    assert len(learns) == len(list(model.classifier.parameters()))
    assert not any(torch.equal(p, classifier[name]) for name, p in model.classifier.named_parameters())
    assert not model.eval().classifier.training


def test_it_survives_a_file(model: TwoStep, films: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, model.state_dict(), {"config": json.dumps(model.config())})
    tensors, meta = load_weights(path)
    again = model_of(json.loads(meta["config"]))
    assert isinstance(again, TwoStep) and again.config() == model.config()
    assert load_into(again, tensors) == []
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(films), model.eval()(films), rtol=0, atol=0)
    assert not any(p.requires_grad for p in again.segmenter.parameters())


def test_a_plain_config_is_that_of_a_classifier(model: TwoStep) -> None:
    assert isinstance(model_of(model.classifier.config()), Classifier)
    with pytest.raises(ValueError, match="it has a segmenter, but no classifier"):
        model_of({"segmenter": model.segmenter.config()})
    with pytest.raises(WeightsError, match=r"the weights do not fit the model.* not of this model: classifier"):
        load_into(Classifier("resnet10t", "gap", weights="none"), model.state_dict())


def test_its_backbone_is_the_classifiers_and_its_decoder_the_segmenters(model: TwoStep) -> None:
    assert model.backbone is model.classifier.backbone and model.decoder is model.segmenter.decoder
