"""The decoder of maps: its size, its place, and what it cannot be put on."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cxrlines.core.errors import Error
from cxrlines.models import DECODERS
from cxrlines.models.backbones import make_backbone
from cxrlines.models.classifier import Classifier
from cxrlines.models.decoders import PRIOR, MapDecoder
from cxrlines.task import MAPS


@pytest.fixture(params=DECODERS)
def decoding(request: pytest.FixtureRequest) -> Classifier:
    torch.manual_seed(0)
    return Classifier("resnet10t", "gap", weights="none", decoder=request.param)


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize(
    "name", ["resnet10t", "tf_efficientnet_lite0", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
@pytest.mark.parametrize("size", [(64, 96), (224, 224)])
def test_maps_are_half_the_films_side_whatever_the_backbones_pyramid(
    name: str, size: tuple[int, int], kind: str
) -> None:
    if name.startswith("swin") and size != (224, 224):
        pytest.skip("its windows fit one size")
    backbone = make_backbone(name, weights="none").eval()
    decoder = MapDecoder(kind, *backbone.levels).eval()
    film = torch.rand(1, 1, *size)
    with torch.inference_mode():
        assert decoder(film, backbone.pyramid(film)[1]).shape == (1, len(MAPS), size[0] // 2, size[1] // 2)


def test_an_untrained_decoder_says_that_there_is_next_to_nothing(decoding: Classifier) -> None:
    maps = torch.sigmoid(decoding.eval().features_and_maps(torch.rand(2, 1, 64, 64))[1])
    assert float(maps.mean().detach()) == pytest.approx(PRIOR, rel=0.5)


def test_a_film_moved_by_the_coarsest_pixel_moves_its_maps_by_half_as_much(decoding: Classifier) -> None:
    decoding.eval()
    torch.nn.init.normal_(decoding.decoder.out.weight)
    film = torch.rand(1, 1, 384, 384, generator=torch.manual_seed(1))
    with torch.inference_mode():
        maps = decoding.features_and_maps(film)[1]
        moved = decoding.features_and_maps(film.roll((32, -64), (2, 3)))[1].roll((-16, 32), (2, 3))
        other = maps.roll(2, 3)
    inner = (..., slice(80, 112), slice(80, 112))  # away from the borders, which a convolution sees
    spread = float(maps[inner].std())
    assert float((moved - maps)[inner].abs().max()) < 0.2 * spread
    assert float((other - maps)[inner].abs().max()) > spread


def test_learning_maps_reaches_every_parameter_of_backbone_and_decoder(decoding: Classifier) -> None:
    decoding.features_and_maps(torch.rand(2, 1, 64, 64))[1].square().mean().backward()
    left = [name for name, p in decoding.named_parameters() if p.grad is None]
    assert left == [name for name, _ in decoding.named_parameters() if name.startswith("head.")]


def test_features_are_the_same_with_and_without_maps(decoding: Classifier) -> None:
    film = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        features, _ = decoding.eval().features_and_maps(film)
        torch.testing.assert_close(features, decoding.features(film))


@pytest.mark.parametrize("rows", [[2], [0, 3], [0, 1, 2, 3]])
def test_maps_of_some_films_are_those_of_all_and_the_decoder_runs_on_no_other(decoding: Classifier, rows) -> None:
    films = torch.rand(4, 1, 64, 64)
    seen = []
    decoding.decoder.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    with torch.inference_mode():
        features, maps = decoding.eval().features_and_maps(films)
        same, some = decoding.features_and_maps(films, torch.tensor(rows))
    torch.testing.assert_close(same, features)
    torch.testing.assert_close(some, maps[rows])
    assert seen == [4, len(rows)]


def test_a_classifier_with_a_decoder_says_so_in_its_config_and_one_without_does_not(decoding: Classifier) -> None:
    again = Classifier.from_config(decoding.config())
    assert {name: p.shape for name, p in again.named_parameters()} == {
        name: p.shape for name, p in decoding.named_parameters()
    }
    plain = Classifier("resnet10t", "gap", weights="none")
    assert plain.decoder is None and not {"decoder", "exclusive"} & plain.config().keys()


def test_a_plain_transformer_is_refused_with_the_way_out() -> None:
    with pytest.raises(Error, match=r"feature maps are at 1/16, 1/16.* of the film.*needs three") as refused:
        Classifier("vit_tiny_patch16_224", "gap", weights="none", decoder="unet")
    assert "convolutional backbone" in refused.value.way_out
    with pytest.raises(Error, match=r"1/8, 1/16 of the film"):
        MapDecoder("unet", [8, 16], [8, 16])


def test_an_older_config_with_a_decoder_is_a_u_nets() -> None:
    config = Classifier("resnet10t", "gap", weights="none", decoder="unet").config()
    again = Classifier.from_config(config | {"decoder": True})
    assert again.config() == config


def test_an_unknown_decoder_is_refused_with_those_there_are() -> None:
    with pytest.raises(Error, match="'seperable' is unknown") as refused:
        Classifier("resnet10t", "gap", weights="none", decoder="seperable")
    assert "unet, separable (did you mean 'separable'?)" in refused.value.way_out


@torch.no_grad()
def test_a_separable_decoder_costs_a_fifth_of_a_u_nets_multiplications() -> None:
    backbone = make_backbone("tf_efficientnet_lite0", weights="none").eval()
    film = torch.rand(1, 1, 256, 256)
    pyramid = backbone.pyramid(film)[1]
    work = {}
    for kind in DECODERS:
        with FlopCounterMode(display=False) as counted:
            MapDecoder(kind, *backbone.levels).eval()(film, pyramid)
        work[kind] = counted.get_total_flops()
    assert work["separable"] < work["unet"] / 5
