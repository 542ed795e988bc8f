"""Any timm model as a feature extractor: films in, its last feature map out."""

import difflib
from typing import Any, Literal, get_args

import timm
import torch
from torch import Tensor, nn

from cxrlines.core.errors import Error
from cxrlines.models.weights import WeightsError, imagenet_tensors

Start = Literal["imagenet", "none"]


class BackboneError(Error):
    """A backbone that timm does not have, or that cannot take these films."""


class Backbone(nn.Module):
    """A timm model without its classifier.

    Attributes:
        channels: channels of the feature map.
        source: where its weights came from, `"random"` if from nowhere.
    """

    net: Any  # timm's models share methods, but no type that has them

    def __init__(self, net: nn.Module, source: str) -> None:
        super().__init__()
        self.net = net
        self.channels = int(self.net.num_features)
        self.source = source
        # Transformers give tokens, or channels last; timm turns those into a map only on this other way.
        self.tokens = hasattr(net, "patch_embed")

    def forward(self, x: Tensor, pyramid: bool = False) -> Any:
        """The last feature map (b, channels, h, w) of normalised images x (b, in_channels, H, W).

        With `pyramid` what the method of that name gives.
        """
        if pyramid:
            return self.net.forward_intermediates(x, norm=self.tokens)
        if self.tokens:
            return self.net.forward_intermediates(x, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)[
                0
            ]
        return self.net.forward_features(x)

    def pyramid(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What `forward` gives, and the feature maps on the way, largest first, at `reductions`."""
        last, maps = self(x, pyramid=True)  # by way of a call, which may be compiled
        return last, maps

    def checkpoint_gradients(self, wanted: bool) -> None:
        """Whether activations are dropped and computed again as the gradients need them.

        Raises:
            BackboneError: timm cannot, for this model.
        """
        try:
            self.net.set_grad_checkpointing(wanted)
        except (AssertionError, AttributeError) as error:
            raise BackboneError(
                f"schedule.checkpoint_gradients: timm cannot, for {type(self.net).__name__}",
                "leave it out, take smaller parts by schedule.accumulate, or another backbone",
            ) from error

    @property
    def levels(self) -> tuple[list[int], list[int]]:
        """Channels of the feature maps that `pyramid` gives, and film px a px of each."""
        info = getattr(self.net.feature_info, "info", self.net.feature_info)
        return [level["num_chs"] for level in info], [level["reduction"] for level in info]


def make_backbone(name: str, *, in_channels: int = 1, weights: Start = "imagenet") -> Backbone:
    """The timm model `name`, e.g. `resnet200d` or `tf_efficientnet_b7.ns_jft_in1k`, to see 1, 3 or more channels.

    With one channel the pretrained stem is summed over red, green and blue: of input that is normalised alike in all
    three it makes what it made of the same film as red = green = blue. (ImageNet's statistics differ a little between
    them; a classifier here takes their means.) With more than three (a film and its heatmaps) it sees the film so, and
    what a heatmap shows as though drawn on the film in red, green or blue, in turn.

    Raises:
        BackboneError: a name timm does not know (the nearest are named), or a model without such an input.
        ValueError: another number of channels, or another start.
        WeightsError: ImageNet weights that cannot be had, or do not fit.
    """
    check_backbone(name)
    if in_channels < 1 or in_channels == 2:
        raise ValueError(
            f"in_channels: {in_channels!r}; it is 1 (gray film), 3 (with overlays) or more (with heatmaps)"
        )
    if weights not in get_args(Start):
        raise ValueError(f"weights: {weights!r} is unknown; it is one of: {', '.join(get_args(Start))}")
    options: dict[str, Any] = {"in_chans": in_channels}
    if _cfg(name).fixed_input_size:
        options["dynamic_img_size"] = True  # transformers: any size, positions interpolated
    source = "random"
    if weights == "imagenet":
        tensors, source = imagenet_tensors(name)
        # With its classifier still on, timm loads strictly: a tensor too few or too many is an error.
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": tensors}}
    try:
        net: Any = timm.create_model(name, **options)
    except TypeError as error:
        made_with = ", ".join(f"{key}={value}" for key, value in options.items() if not key.startswith("pretrained"))
        raise BackboneError(
            f"backbone {name!r} cannot be made with {made_with}: {error}", "take another one"
        ) from error
    except RuntimeError as error:
        raise WeightsError(
            f"the weights of {source} are not those of timm's {name!r}: {error}",
            "remove them from the cache and fetch them again, or start from scratch",
        ) from error
    net.pretrained_cfg.pop("state_dict", None)  # else the weights are held twice
    net.reset_classifier(0)
    if weights == "imagenet" and in_channels > 3:
        first = _cfg(name).first_conv
        for stem in [first] if isinstance(first, str) else first:  # some see the film at several scales
            _see_maps_beside_a_film(net.get_parameter(f"{stem}.weight"))
    return Backbone(net, source)


@torch.no_grad()
def _see_maps_beside_a_film(stem: Tensor) -> None:
    """Correct the film's part of a stem (out, in, k, k), in place.

    timm deals the three colours' stems out in turn, each times 3 / in, so that a film would be seen by red alone,
    at a tenth of the usual.
    """
    channels = stem.shape[1]
    colours = stem[:, :3] * channels / 3
    dealt = colours.repeat(1, (channels + 1) // 3, 1, 1)[:, : channels - 1]
    stem.copy_(torch.cat((colours.sum(dim=1, keepdim=True), dealt), dim=1))


def check_backbone(name: str) -> None:
    """`BackboneError` with the nearest names unless timm has a model `name`."""
    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        known = timm.list_pretrained(f"{architecture}.*")
        if not tag or name in known:
            return
        raise BackboneError(
            f"backbone: timm has {architecture!r}, but not with weights {tag!r}",
            f"take one that it has: {', '.join(known) or 'none'}",
        )
    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"the nearest names are: {', '.join(near)}" if near else "see timm.list_models() for those it knows"
    raise BackboneError(f"backbone: {name!r} is not a timm model", hint)


def pixel_statistics(name: str, in_channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of pixels in [0, 1] that the model was trained with; for gray those of their mean."""
    cfg = _cfg(name)
    mean, std = list(cfg.mean), list(cfg.std)
    if in_channels == 3:
        return mean, std
    maps = in_channels - 1  # in [0, 1] and mostly 0
    return [sum(mean) / len(mean)] + [0.0] * maps, [sum(std) / len(std)] + [0.5] * maps


def _cfg(name: str) -> Any:
    return timm.get_pretrained_cfg(name)
