"""Export of a network to ONNX, proved equal to the network; reading then needs no PyTorch (`reading/engines/onnx`)."""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn
from torch.nn import functional

from cxrlines.core.errors import Error
from cxrlines.models.classifier import Model
from cxrlines.models.onnx_graph import emptied, halve, simplify

OPSET = 20
"""Of the standard operators; ONNX Runtime 1.17 and later run it."""
PROBABILITIES, HEATMAPS, EMBEDDING = 1e-4, 1e-3, 1e-4
"""How far ONNX Runtime's outputs may lie from PyTorch's: they add up in another order."""


class ExportError(Error):
    """A network that cannot be exported, or whose export gives other values."""


class Outputs(nn.Module):
    """What reading asks of a model: films uint8 (b, 1, h, w) in; float32 `logits` (b, labels), `embedding` (b, c), and
    `heatmaps` (b, maps, h/2, w/2) in [0, 1] where it has a decoder.

    The embedding is the last feature map's mean over places, at length 1.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model.eval()
        self.names = ("logits", "embedding", *(("heatmaps",) if model.decoder is not None else ()))

    def forward(self, films: Tensor) -> tuple[Tensor, ...]:
        more: tuple[Tensor, ...] = ()
        if "heatmaps" in self.names:
            features, maps = self.model.features_and_maps(films)
            more = (torch.sigmoid(maps),)
        else:
            features = self.model.features(films)
        embedding = functional.normalize(features.mean(dim=(2, 3)))
        return self.model.classify(features), embedding, *more


def trace_model(model: Model, size: tuple[int, int]) -> bytes:
    """The graph of `Outputs(model)`, which models of the same config and size share: see `export_model`."""
    outputs = Outputs(model)
    return trace(outputs, (1, *size), outputs.names)


def export_model(model: Model, size: tuple[int, int], *, traced: bytes | None = None) -> bytes:
    """An ONNX file of `Outputs(model)` for films of `size` (height, width) px, any number at once.

    The values of large weights are left to the model's safetensors file: the file names them as `onnx_graph.WEIGHTS`.
    `traced`: `trace_model` of this model or of another of the same config and size, which takes nearly all of the time.

    Raises:
        ExportError: it cannot be exported, or ONNX Runtime computes other values: probabilities by more than
            `PROBABILITIES`, heatmaps by more than `HEATMAPS`.
    """
    outputs = Outputs(model)
    about = {"labels": list(model.labels), "maps": list(model.map_names) if "heatmaps" in outputs.names else []}
    content = export(outputs, (1, *size), outputs.names, about=about, traced=traced)
    _check_equal(outputs, content, (1, *size))
    return emptied(content, model.state_dict().keys(), "model.")


def export(
    net: nn.Module,
    shape: Sequence[int],
    names: Sequence[str],
    *,
    about: Mapping[str, Any] | None = None,
    traced: bytes | None = None,
) -> bytes:
    """An ONNX file of an evaluating network: `films` uint8 (b, *shape) in, its outputs by `names`. `ExportError`.

    Weights that 16 bits hold exactly, as those of a file in 16 bits, are kept so and computed with in 32.

    Args:
        about: JSON values for its metadata.
        traced: `trace` of a network of the same kind, whatever its weights.
    """
    proto, weights = onnx.load_model_from_string(traced or trace(net, shape, names)), net.state_dict()
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name].numpy(), tensor.name))
    onnx.helper.set_model_props(proto, {key: json.dumps(value) for key, value in (about or {}).items()})
    simplify(proto.graph)
    halve(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def trace(net: nn.Module, shape: Sequence[int], names: Sequence[str]) -> bytes:
    """The graph of an evaluating network, its weights under their own names, as `export` takes it. `ExportError`."""
    film = torch.zeros((2, *shape), dtype=torch.uint8)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # advice to those who maintain the exporter
            program = torch.onnx.export(
                net,
                (film,),
                input_names=["films"],
                output_names=list(names),
                dynamic_shapes=({0: torch.export.Dim("b", min=1, max=4096)},),
                opset_version=OPSET,
                dynamo=True,
                optimize=False,  # it multiplies weights, which then are no longer those of the safetensors file
                verbose=False,
            )
    except Exception as error:  # the exporter's own kinds of errors are many
        why = str(error).strip().splitlines()
        raise ExportError(f"ONNX: the network cannot be exported: {why[0] if why else type(error).__name__}") from error
    assert program is not None  # with dynamo it always returns one
    fold_constants(program.model)
    proto = program.model_proto
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info):
        part.ClearField("metadata_props")  # traces of the call, with paths of this machine
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _check_equal(outputs: Outputs, content: bytes, shape: Sequence[int]) -> None:
    """`ExportError` where ONNX Runtime's outputs of one film, or of three, differ from PyTorch's."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for count in (1, 3):
        coarse = rng.integers(0, 256, (count, 1, 16, 16), dtype=np.uint8)  # smooth films: noise alone has no features
        films = functional.interpolate(torch.from_numpy(coarse).float(), tuple(shape[1:]), mode="bicubic")
        films = (films + torch.from_numpy(rng.normal(0, 8, films.shape))).clamp(0, 255).to(torch.uint8)
        with torch.inference_mode():
            wanted = dict(zip(outputs.names, (value.double().numpy() for value in outputs(films)), strict=True))
        found = dict(zip(outputs.names, session.run(list(outputs.names), {"films": films.numpy()}), strict=True))
        for values in (wanted, found):
            values["logits"] = 1 / (1 + np.exp(-values["logits"]))
        for name, close in zip(("logits", "embedding", "heatmaps"), (PROBABILITIES, EMBEDDING, HEATMAPS), strict=True):
            off = np.abs(wanted[name] - found[name]).max() if name in wanted else 0.0
            if not off <= close:
                raise ExportError(
                    f"ONNX: its {name} differ from PyTorch's by {off:.2g}; at most {close:g} is allowed",
                    "write the bundle with `cxrlines bundle --no-onnx`; PyTorch reads it",
                )
