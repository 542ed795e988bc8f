import pytest
import torch

from cxrlines.models.backbones import BackboneError, check_backbone, make_backbone, pixel_statistics


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "tf_efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"],
)
def test_convolutional_and_transformer_nets_give_a_map_of_their_channels(name: str) -> None:
    backbone = make_backbone(name, weights="none").eval()
    features = backbone(torch.zeros(1, 1, 96, 64))
    stride = 16 if "patch16" in name else 32
    assert features.shape == (1, backbone.channels, 96 // stride, 64 // stride)
    assert backbone.source == "random"


@pytest.mark.parametrize("channels", [1, 3, 10])
def test_it_sees_the_channels_it_was_asked_for(channels: int) -> None:
    backbone = make_backbone("resnet10t", in_channels=channels, weights="none")
    backbone(torch.zeros(2, channels, 32, 32))
    with pytest.raises(RuntimeError, match="channels"):
        backbone(torch.zeros(2, channels + 1, 32, 32))


def test_no_weight_of_the_classifier_is_left() -> None:
    backbone = make_backbone("resnet10t", weights="none")
    backbone(torch.rand(2, 1, 64, 64)).sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []


def test_pixel_statistics_of_gray_are_those_of_the_mean_colour() -> None:
    assert pixel_statistics("tf_efficientnet_lite0", 1) == ([0.5], [0.5])
    assert pixel_statistics("resnet50d", 3) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    mean, std = pixel_statistics("resnet50d", 1)
    assert mean == pytest.approx([0.449]) and std == pytest.approx([0.226])


def test_pixel_statistics_of_maps_leave_nothing_at_0_and_a_gray_film_as_it_was() -> None:
    gray, with_maps = pixel_statistics("resnet50d", 1), pixel_statistics("resnet50d", 10)
    assert [values[:1] for values in with_maps] == list(gray)
    assert with_maps[0][1:] == [0.0] * 9 and with_maps[1][1:] == [0.5] * 9


def test_a_film_with_empty_maps_is_seen_as_the_film_alone_and_each_map_as_a_colour_drawn_on_it() -> None:
    gray, colour, with_maps = (make_backbone("tf_efficientnet_lite0", in_channels=c).eval() for c in (1, 3, 10))
    film = torch.rand(1, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(1, 9, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(with_maps(torch.cat((film, maps), 1)), gray(film), rtol=1e-4, atol=1e-4)
        for k in range(9):
            maps.zero_()[:, k, 40:44] = 0.5
            drawn = film.repeat(1, 3, 1, 1)
            drawn[:, k % 3] += maps[:, k]
            torch.testing.assert_close(with_maps(torch.cat((film, maps), 1)), colour(drawn), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "convnext_atto"])
def test_the_pyramid_has_the_levels_it_says_and_ends_in_the_features(name: str) -> None:
    backbone = make_backbone(name, weights="none").eval()
    films = torch.rand(1, 1, 96, 64)
    with torch.inference_mode():
        last, maps = backbone.pyramid(films)
        torch.testing.assert_close(last, backbone(films))
    channels, reductions = backbone.levels
    assert [tuple(level.shape) for level in maps] == [
        (1, many, 96 // by, 64 // by) for many, by in zip(channels, reductions, strict=True)
    ]
    assert reductions == sorted(set(reductions)) and reductions[-1] == 32


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet20d", "'resnet20d' is not a timm model; the nearest names are: resnet200d"),
        (
            "tf_efficientnet_b7.nope",
            "timm has 'tf_efficientnet_b7', but not with weights 'nope'; take one .*: .*ns_jft",
        ),
        ("hf-hub:someone/something", "'hf-hub:someone/something' is not a timm model"),
        ("", "'' is not a timm model; see timm.list_models"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, said: str) -> None:
    with pytest.raises(BackboneError, match=said):
        check_backbone(name)


def test_known_names_with_and_without_weights_pass() -> None:
    for name in ("resnet200d", "tf_efficientnet_b7.ns_jft_in1k", "resnet10t"):
        check_backbone(name)


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="in_channels: 2"):
        make_backbone("resnet10t", in_channels=2, weights="none")
    with pytest.raises(ValueError, match="weights: 'jft' is unknown; it is one of: imagenet, none"):
        make_backbone("resnet10t", weights="jft")  # type: ignore[arg-type]
