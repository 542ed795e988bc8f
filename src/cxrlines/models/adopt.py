"""Start a model from public weight files (timm, torchvision, Lightning), with every tensor accounted for.

Names and shapes decide. What they cannot tell (the padding of a convolution, an activation, the pixel statistics of the
training) is the model's, so a file should be given to the very timm model it was trained as.
"""

import hashlib
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from cxrlines.models.classifier import Classifier, current
from cxrlines.models.decoders import OUT, begun_anew, last_layer
from cxrlines.models.foreign_files import read_public
from cxrlines.models.foreign_heads import fit_head
from cxrlines.models.weights import WeightsError, few, named_by_order

_COMMON = (
    "resnet50 resnet50d resnet18 resnet34 resnet18d resnet34d resnet26d resnet10t resnext50_32x4d seresnext50_32x4d "
    "resnet101 resnet101d resnet152 resnet152d resnet200d",
    "tf_efficientnet_lite0 tf_efficientnet_b0 tf_efficientnet_b1 tf_efficientnet_b2 tf_efficientnet_b3 "
    "tf_efficientnet_b4 tf_efficientnet_b5 tf_efficientnet_b6 tf_efficientnet_b7 tf_efficientnet_lite2",
    "densenet121 densenet169",
    "convnext_tiny convnext_small convnext_base",
    "vit_base_patch16_224 vit_small_patch16_224",
)
"""timm models that a misfitting file is compared with, by families of like names; small ones first."""

_BACKBONE = "backbone.net."
_ORIGINAL_STEM = "_conv_stem.weight"  # of EfficientNet's original names
_PROBE_SECONDS = 3.0  # of this thread's computing, for telling which common backbone a misfitting file fits
_ENOUGH = 0.95  # share of a backbone's tensors below which a file is called another backbone's
_COUNTER = "num_batches_tracked"  # of BatchNorm; only momentum=None uses it


@dataclass(frozen=True)
class Adoption:
    """What became of a file's tensors and of a model's. (Its training patients are in its lineage.)

    Attributes:
        source: the file's name (no folders) and the start of its SHA-256.
        format: `"safetensors"`, `"PyTorch"` or `"Lightning"`.
        prefix: what stood before the backbone's names in the file, keys of nested dictionaries included.
        loaded: the model's tensors that the file gave.
        adapted: a line for each kind of change made on the way.
        fresh: the model's tensors that the file has not; they keep the values they had.
        left_out: the file's tensors that were not used, `"name: reason"`.
    """

    source: str
    format: str
    prefix: str
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]
    left_out: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def adopt(model: Classifier, path: Path, *, head: bool = True, config: Mapping[str, Any] | None = None) -> Adoption:
    """Give `model` the weights of a file that holds its backbone under whatever prefix, and say what was done.

    The prefix is the one under which most of the backbone's tensors are found by name and shape; of equal ones an
    average (`ema` in its name) goes first, then the file's first. Every tensor of the backbone must be there, except
    BatchNorm's counters, and none too many: ResNet101 holds all that ResNet50 has. A stem of 3 channels is summed for a
    model that sees 1, one of 1 divided by three for a model that sees 3. EfficientNet's original names (`_conv_stem`,
    `_blocks`) are matched by their order, for timm's `tf_efficientnet` models. All becomes float32.

    A head is taken whole, where its shapes agree: by name from a file of this project, else as `foreign_heads` finds
    it; with `head` False it is left. A decoder of maps of the model's kind comes from a file of this project alone.
    `config` is what is known of such a file's network (`Classifier.config`): shapes do not tell a generalised mean from
    an average. Then a head of another kind is left, and of a decoder's last layer what both have is taken.

    Raises:
        WeightsError: the file cannot be read, is of another backbone, lacks a tensor, or holds a value that is not
            finite; then the model is unchanged.
    """
    tensors, form = read_public(path)
    net = model.backbone.net
    fit = _fit(net, tensors)
    if not fit.complete:
        raise _misfit(path, model.config()["backbone"], fit, tensors)
    pairs = {_BACKBONE + mine: theirs for mine, theirs in fit.names.items()}
    state = model.state_dict()
    own = fit.prefix.removesuffix(_BACKBONE) if fit.prefix.endswith(_BACKBONE) else None
    converted, adapted = {}, []
    if own is not None:
        known = current(config.get(own.removesuffix("."), config)) if config else None
        of_kind = _same_kind(current(model.config()), known)
        if known and "decoder." in of_kind and own + OUT in tensors:
            tensors = tensors | _last_layer(model, tensors, own, known["maps"])
            adapted += begun_anew(model.map_names, known["maps"])
        for part in ("head.", "decoder.") if head else ("decoder.",):
            names = {name: own + name for name in state if name.startswith(part)}
            fits = (name in tensors and tensors[name].shape == state[mine].shape for mine, name in names.items())
            if part in of_kind and all(fits):
                pairs |= names
    elif head and (found := fit_head(model, tensors, fit.prefix)):
        pairs |= found.names
        adapted.append(f"head: {found.taken}")
    dtypes: Counter[torch.dtype] = Counter()
    for mine, theirs in pairs.items():
        tensor, want = tensors[theirs], state[mine]
        if tensor.dtype != want.dtype:
            dtypes[tensor.dtype] += want.is_floating_point()
            tensor = tensor.to(want.dtype)
        if not tensor.isfinite().all():
            what = f"{path}: {theirs} holds NaN or infinite values: the training it comes from failed"
            raise WeightsError(what, "take an earlier file")
        if tensor.numel() == want.numel() == 1:  # one number may be written as a list of one
            tensor = tensor.reshape(want.shape)
        if tensor.shape != want.shape:
            tensor, how = _recoloured(tensor)
            adapted.append(f"{mine}: {how}")
        converted[mine] = tensor
    adapted += [f"{count} tensors: {_type_name(dtype)} to float32" for dtype, count in dtypes.items() if count]
    model.load_state_dict(state | converted)
    with path.open("rb") as file:
        source = f"{path.name} (sha256 {hashlib.file_digest(file, 'sha256').hexdigest()[:12]})"
    model.backbone.source = source
    used = set(pairs.values())
    return Adoption(
        source=source,
        format=form,
        prefix=fit.prefix,
        loaded=tuple(pairs),
        adapted=tuple(adapted),
        fresh=tuple(name for name in state if name not in pairs),
        left_out=tuple(f"{name}: {_why(name, fit, model, own, head)}" for name in tensors if name not in used),
    )


def _same_kind(mine: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The parts of a network, `head.` and `decoder.`, that are of the same kind in another, as far as that is known."""
    if theirs is None:
        return "head.", "decoder."
    decides = {"head.": ("head", "exclusive", "labels"), "decoder.": ("decoder",)}
    return tuple(part for part, by in decides.items() if all(mine[name] == theirs.get(name) for name in by))


def _last_layer(model: Classifier, tensors: Mapping[str, Tensor], own: str, maps: Sequence[str]) -> dict[str, Tensor]:
    """The last layer of a file's decoder for the model's heatmaps, by the file's names; see `decoders.last_layer`."""
    theirs = {
        name.removeprefix(own): tensor for name, tensor in tensors.items() if name.startswith(own + "decoder.out.")
    }
    made = last_layer(model.state_dict(), model.map_names, theirs, maps)
    return {own + name: tensor for name, tensor in made.items()}


@dataclass(frozen=True)
class _Fit:
    """How a file's tensors meet a timm model's."""

    prefix: str
    names: dict[str, str]  # the model's name -> the file's, where shapes fit
    wanted: int  # how many tensors the model has, counters apart
    missing: list[str]
    misfit: list[str]
    foreign: list[str]  # parameters inside the backbone's modules that the backbone has not

    @property
    def complete(self) -> bool:
        return not (self.missing or self.misfit or self.foreign)

    @property
    def matched(self) -> int:
        return sum(not name.endswith(_COUNTER) for name in self.names)


def _fit(net: Any, tensors: Mapping[str, Tensor]) -> _Fit:
    """Find the model `net` among `tensors`, by names under the best prefix, or by EfficientNet's order."""
    state: dict[str, Tensor] = net.state_dict()
    ordered = _ordered_fit(net, state, tensors)
    if ordered is not None:
        return ordered
    scores: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        for cut in range(len(parts)):
            inner = ".".join(parts[cut:])
            if inner in state and not inner.endswith(_COUNTER):
                score = scores.setdefault(name.removesuffix(inner), [0, 0])
                score[0] += _goes(tensor, state[inner])
                score[1] += 1
    prefix = max(scores, key=lambda p: (*scores[p], "ema" in re.split(r"[._]", p.lower())), default="")
    inside = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    goes = {name: _goes(inside[name], tensor) for name, tensor in state.items() if name in inside}
    fits = [name for name in goes if goes[name]]
    modules = {name.partition(".")[0] for name in fits}
    kinds = {name.rpartition(".")[2] for name, _ in net.named_parameters()}
    extra = [name for name in inside if name not in state and not name.startswith(_classifiers(net))]
    return _Fit(
        prefix,
        {name: prefix + name for name in fits},
        sum(not name.endswith(_COUNTER) for name in state),
        missing=[name for name in state if name not in inside and not name.endswith(_COUNTER)],
        misfit=[
            f"{name} {_shape(inside[name])} where {_shape(state[name])} is needed" for name in goes if not goes[name]
        ],
        foreign=[n for n in extra if n.partition(".")[0] in modules and n.rpartition(".")[2] in kinds],
    )


def _ordered_fit(net: Any, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> _Fit | None:
    """The fit of EfficientNet's original names to timm's `tf_` models, which pad as it does; None for any other."""
    stem = next((name for name in tensors if name.endswith(_ORIGINAL_STEM)), None)
    if stem is None or not net.pretrained_cfg["architecture"].startswith("tf_efficientnet"):
        return None
    prefix = stem.removesuffix(_ORIGINAL_STEM)
    theirs = {name: t for name, t in tensors.items() if re.match(rf"{re.escape(prefix)}_(?!fc\.)", name)}
    first = state["conv_stem.weight"]
    if theirs[stem].shape != first.shape and _goes(theirs[stem], first):
        theirs[stem] = _recoloured(theirs[stem])[0]
    names = named_by_order(theirs, state)
    if names is None:
        return None
    counters = {
        mine.replace("running_mean", _COUNTER): counter
        for mine, their in names.items()
        if (counter := their.replace("running_mean", _COUNTER)) != their and counter in tensors
    }
    return _Fit(prefix, names | counters, len(names), [], [], [])


def _goes(tensor: Tensor, want: Tensor) -> bool:
    """Whether a tensor has the wanted shape, or is a stem for 3 channels where 1 is wanted or the reverse."""
    if tensor.is_floating_point() != want.is_floating_point():
        return False
    have, need = tuple(tensor.shape), tuple(want.shape)
    other_colours = len(have) == len(need) == 4 and {have[1], need[1]} == {1, 3} and have[0] == need[0]
    return have == need or (other_colours and have[2:] == need[2:])


def _recoloured(stem: Tensor) -> tuple[Tensor, str]:
    """A stem (c, 3, h, w) for gray films, or one (c, 1, h, w) for colour; and how."""
    if stem.shape[1] == 3:
        return stem.sum(dim=1, keepdim=True), "3 input channels summed into 1"
    return stem.expand(-1, 3, -1, -1) / 3, "1 input channel divided among 3"


def _classifiers(net: Any) -> tuple[str, ...]:
    """What the names of timm's own classifier of this model begin with."""
    names = net.pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))


def _why(name: str, fit: _Fit, model: Classifier, own: str | None, head: bool) -> str:
    if own is not None and name.startswith(own + "head."):
        return "of another head than the model's" if head else "heads are left, as wanted"
    if own is not None and model.decoder is not None and name.startswith(own + "decoder."):
        return "of another decoder than the model's"
    if not name.startswith(fit.prefix):
        return f"outside of {fit.prefix!r}, where the backbone was found"
    if name.removeprefix(fit.prefix).startswith((*_classifiers(model.backbone.net), "_fc.")):
        return "the file's own classifier, whose outputs are not known to be this model's labels"
    return "the model has no such tensor"


def _misfit(path: Path, backbone: str, fit: _Fit, tensors: Mapping[str, Tensor]) -> WeightsError:
    parts = [
        f"{fit.matched} of the {fit.wanted} tensors of {backbone!r} are in it with the right shape"
        + (f" (under {fit.prefix!r})" if fit.prefix and fit.matched else "")
    ]
    for names, what in ((fit.missing, "missing"), (fit.misfit, "of another shape"), (fit.foreign, "too many")):
        if names:
            parts.append(f"{len(names)} {what}: {few(names)}")
    if fit.missing and not fit.matched:
        parts.append(f"the file's names are: {few(list(tensors))}")
    details = "; ".join(parts)
    if fit.matched >= _ENOUGH * fit.wanted and not fit.foreign:
        way_out = "take the file as it was published"
        if any("pos_embed" in line for line in fit.misfit):
            way_out = "position embeddings belong to one image size: take weights of this backbone's"
        what = f"{path}: not all of the backbone. {details}. No part of a backbone is left random"
        return WeightsError(what, way_out)
    found, compared = _recognised(tensors, backbone)
    fits, way = f"none of the {compared} common backbones compared", "give the `backbone` it was trained as"
    if found:
        fits, way = f"timm's {found!r}", "give that as `backbone`"
    what = f"{path}: a checkpoint for another backbone. {details}. It fits {fits}"
    return WeightsError(what, f"{way}, or take a file of {backbone!r}")


def _recognised(tensors: Mapping[str, Tensor], besides: str) -> tuple[str | None, int]:
    """Which of the `_COMMON` models the tensors are, if one, and how many were compared; given up after seconds."""
    until, compared = time.thread_time() + _PROBE_SECONDS, 0
    original = any(name.endswith(_ORIGINAL_STEM) for name in tensors)
    for family in _COMMON:
        for place, name in enumerate(family.split()):
            if time.thread_time() > until:
                return None, compared
            with torch.device("meta"):
                net = timm.create_model(name, num_classes=0)
            compared += 1
            fit = _fit(net, tensors)
            if fit.complete and name != besides.partition(".")[0]:
                return name, compared
            by_order = original and name.startswith("tf_efficientnet")
            if place == 0 and not by_order and len(fit.missing) > 0.9 * fit.wanted:
                break  # the family has other names
    return None, compared


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape)) + ("" if tensor.is_floating_point() else f" {_type_name(tensor.dtype)}")


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
