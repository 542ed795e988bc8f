"""Heads of public weight files: which of their tensors are the model's head, found by names and shapes.

Two layouts are known. One linear layer with an output for each label, behind the pooling; and the multi-head model with
an attention head for each device (`classifier.AttentionHead`). Their outputs are taken to be the labels in RANZCR
CLiP's order, which a file does not say. Beyond that, only what fits in one way is taken.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cxrlines.models.classifier import Classifier, DeviceHeads

_COUNTER = "num_batches_tracked"  # of BatchNorm, which some files lack


class HeadFit(NamedTuple):
    """The model's names of its head's tensors -> the file's, and in words what the file's are taken to be."""

    names: dict[str, str]
    taken: str


def fit_head(model: Classifier, tensors: Mapping[str, Tensor], prefix: str) -> HeadFit | None:
    """Find the head of `model` among the `tensors` beside those of the backbone, which were found under `prefix`.

    The nearest to the backbone is taken: first under its own prefix (timm's own classifier), then under that of the
    module that holds it, and so on outwards. None where nothing fits, or more than one thing does; where the states of
    the model's ETT exclude each other, as those of these layouts do not; or where timm does more before this backbone's
    classifier than to pool, so that a head of these shapes would see other features.
    """
    if model.exclusive or not _pools_alone(model.backbone.net, model.backbone.channels):
        return None
    parts = prefix.split(".")[:-1]
    for end in range(len(parts), -1, -1):
        within = "".join(f"{part}." for part in parts[:end])
        inside = {name: tensor for name, tensor in tensors.items() if name.startswith(within)}
        found = _fit_devices(model.head, inside) if isinstance(model.head, DeviceHeads) else _fit_linear(model, inside)
        if found:
            return found
    return None


def _pools_alone(net: Any, channels: int) -> bool:
    """Whether timm's own head is the mean over places and a linear layer, without a norm or a layer between."""
    some = torch.linspace(-1, 1, 12 * channels).reshape(2, channels, 2, 3)
    training = net.training
    try:
        with torch.inference_mode():
            return torch.allclose(net.eval().forward_head(some), some.mean(dim=(2, 3)), atol=1e-5)
    except (RuntimeError, ValueError, IndexError, AttributeError, TypeError):  # of tokens, or of no map at all
        return False
    finally:
        net.train(training)


def _fit_linear(model: Classifier, tensors: Mapping[str, Tensor]) -> HeadFit | None:
    """The one linear layer of the head's shape; the exponent of GeM must be there for `gem`, and for no other head."""
    state = {f"head.{name}": tensor for name, tensor in model.head.state_dict().items()}
    exponents = [name for name, t in tensors.items() if name.rpartition(".")[2] == "p" and t.numel() == 1]
    pooling = [name for name, t in state.items() if t.numel() == 1 and t.ndim == 0]
    ours, theirs = _modules(state), _modules(tensors)
    (last,) = (module for module in ours if "weight" in ours[module])
    fits = [module for module in theirs if theirs[module] == ours[last]]
    if len(fits) != 1 or len(exponents) != len(pooling):
        return None
    names = {last + leaf: fits[0] + leaf for leaf in ours[last]} | dict(zip(pooling, exponents, strict=True))
    where = "average before maximum, " if state[f"{last}weight"].shape[1] > model.backbone.channels else ""
    outputs = f"{len(model.labels)} outputs of {fits[0].removesuffix('.')}"
    return HeadFit(names, f"{outputs}, taken to be {where}the labels in RANZCR CLiP's order")


def _fit_devices(head: DeviceHeads, tensors: Mapping[str, Tensor]) -> HeadFit | None:
    """As many attention heads as devices, with as many outputs each.

    They are distinguished by the devices' names, where each has its own; else they go by their numbers, else by the
    file's order.
    """
    roots: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}
    for module, shapes in _modules(tensors).items():
        for root in _above(module):
            roots.setdefault(root, {})[module] = shapes
    kinds = {name: _kinds(_modules(each.state_dict())) for name, each in head.heads.items()}
    fits: dict[tuple[str, ...], str] = {}
    for root, modules in roots.items():  # the outermost of those that hold the same
        if _kinds(modules) in kinds.values() and len(root) < len(fits.get(tuple(modules), root + " ")):
            fits[tuple(modules)] = root
    order = list(fits.values())
    if len({re.sub(r"\d+", "", root) for root in order}) == 1:
        order.sort(key=lambda root: [int(number) for number in re.findall(r"\d+", root)])
    named = [[root for root in order if device.lower() in root.lower()] for device in head.heads]
    if all(len(one) == 1 for one in named):
        order = [root for (root,) in named]
    if [_kinds(roots[root]) for root in order] != list(kinds.values()):
        return None
    names = {}
    for (device, each), root in zip(head.heads.items(), order, strict=True):
        state = each.state_dict()
        pairs = zip(_sorted(_modules(state)), _sorted(roots[root]), strict=True)
        for mine, theirs in pairs:
            for leaf in (*roots[root][theirs], _COUNTER):
                if mine + leaf in state and theirs + leaf in tensors:
                    names[f"head.heads.{device}.{mine}{leaf}"] = theirs + leaf
    heads = ", ".join(root.removesuffix(".") for root in order)
    return HeadFit(names, f"attention heads {heads}, taken to be those of {', '.join(head.heads)}")


def _modules(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Modules, "a.b.", with the shapes of their tensors by name; counters of batches apart."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        leaf = name.rpartition(".")[2]
        if leaf != _COUNTER:
            found.setdefault(name.removesuffix(leaf), {})[leaf] = tuple(tensor.shape)
    return found


def _above(module: str) -> Iterator[str]:
    """A module's name and those of the modules that hold it: "a.b." and "a." of "a.b."."""
    parts = module.split(".")[:-1]
    return ("".join(f"{part}." for part in parts[:end]) for end in range(len(parts), 0, -1))


def _kinds(modules: Mapping[str, Mapping[str, tuple[int, ...]]]) -> Counter[frozenset[tuple[str, tuple[int, ...]]]]:
    return Counter(frozenset(shapes.items()) for shapes in modules.values())


def _sorted(modules: Mapping[str, Mapping[str, tuple[int, ...]]]) -> list[str]:
    """Modules by what they hold; those that hold the same by their names, numbers as numbers."""

    def key(module: str) -> tuple[Any, ...]:
        return sorted(modules[module].items()), [(int(n or -1), text) for n, text in re.findall(r"(\d*)(\D*)", module)]

    return sorted(modules, key=key)
