"""An exported graph made quick to load and to run, without changing what it computes.

ONNX Runtime keeps a convolution and what follows it in one pass over the feature maps only where it finds them side by
side, with constants: batch norms, paddings and enlargements are therefore written into, or as, what it knows.
"""

from collections import Counter
from collections.abc import Collection

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from cxrlines.models import WEIGHTS

LARGE = 256
"""Constants of fewer values stay in the graph, as they are."""


def simplify(graph: GraphProto) -> None:
    """Batch norms and paddings become part of their convolutions, enlargements say by how much; in place.

    Weights of convolutions stay as they are: the scale of a batch norm is a node of its own, computed once.
    """
    _name_constants(graph)
    _fold_norms(graph)
    _fold_pads(graph)
    _scale_resizes(graph)
    _drop_unused(graph)


def halve(graph: GraphProto) -> None:
    """Large float32 constants that 16 bits hold exactly are kept so, each behind a cast that is computed once."""
    casts = []
    for place, tensor in enumerate(graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < LARGE:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if np.array_equal(halves, values):
            graph.initializer[place].CopyFrom(numpy_helper.from_array(halves, f"{name}.16"))
            casts.append(helper.make_node("Cast", [f"{name}.16"], [name], to=onnx.TensorProto.FLOAT))
    _replace_nodes(graph, [*casts, *graph.node])


def emptied(content: bytes, stored: Collection[str], prefix: str) -> bytes:
    """An ONNX file without the values of its large constants that a safetensors file holds.

    Args:
        stored: names of the tensors in that file.
        prefix: what constants are called before these.
    """
    model = onnx.load_model_from_string(content)
    renamed = {}
    for tensor in model.graph.initializer:
        name = tensor.name.removeprefix(prefix).removesuffix(".16")
        if name in stored and np.prod(tensor.dims) >= LARGE:
            renamed[tensor.name] = tensor.name = WEIGHTS + name
            tensor.ClearField("raw_data")
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    emptied: bytes = model.SerializeToString(deterministic=True)
    return emptied


def _name_constants(graph: GraphProto) -> None:
    """Constants in nodes become initializers."""
    kept = []
    for node in graph.node:
        if node.op_type != "Constant":
            kept.append(node)
            continue
        attribute = node.attribute[0]
        value = helper.get_attribute_value(attribute)
        if not isinstance(value, onnx.TensorProto):
            dtype = np.float32 if attribute.name.startswith("value_float") else np.int64
            value = numpy_helper.from_array(np.asarray(value, dtype))
        tensor = graph.initializer.add()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
    _replace_nodes(graph, kept)


def _fold_norms(graph: GraphProto) -> None:
    """Batch norms after a convolution become a scale of its weights and its bias."""
    constants, users, makers = _constants(graph), _users(graph), _makers(graph)
    scales, gone = [], []
    for norm in graph.node:
        conv = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or users[norm.input[0]] != 1:
            continue
        gamma, beta, mean, variance = (
            numpy_helper.to_array(constants[name]).astype(np.float64) for name in norm.input[1:]
        )
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        bias = numpy_helper.to_array(constants[conv.input[2]]) if len(conv.input) > 2 else 0.0
        name = conv.input[1]
        for what, values in (("scale", scale.reshape(-1, 1, 1, 1)), ("bias", beta + (bias - mean) * scale)):
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), f"{name}.{what}"))
        scales.append(helper.make_node("Mul", [name, f"{name}.scale"], [f"{name}.scaled"]))
        del conv.input[1:]
        conv.input.extend([f"{name}.scaled", f"{name}.bias"])
        conv.output[0] = norm.output[0]
        gone.append(norm)
    _replace_nodes(graph, [*scales, *(node for node in graph.node if not any(node is norm for norm in gone))])


def _fold_pads(graph: GraphProto) -> None:
    """Zeros around the feature maps before a convolution become its own padding."""
    constants, users, makers = _constants(graph), _users(graph), _makers(graph)
    gone = []
    for conv in graph.node:
        pad = makers.get(conv.input[0]) if conv.op_type == "Conv" else None
        if pad is None or pad.op_type != "Pad" or users[pad.output[0]] != 1 or pad.input[1] not in constants:
            continue
        mode = next((a.s for a in pad.attribute if a.name == "mode"), b"constant")
        value = numpy_helper.to_array(constants[pad.input[2]]) if len(pad.input) > 2 and pad.input[2] else 0
        around = numpy_helper.to_array(constants[pad.input[1]]).reshape(2, -1)
        if mode != b"constant" or value != 0 or around[:, :2].any() or (around < 0).any():
            continue
        pads = next(a for a in conv.attribute if a.name == "pads")
        together = np.asarray(pads.ints) + around[:, 2:].reshape(-1)
        pads.ints[:] = together.tolist()
        conv.input[0] = pad.input[0]
        gone.append(pad)
    _replace_nodes(graph, [node for node in graph.node if not any(node is pad for pad in gone)])


def _scale_resizes(graph: GraphProto) -> None:
    """Enlargements to a size that is a multiple say by how much: so feature maps keep their order in memory."""
    shapes = {
        info.name: [side.dim_value for side in info.type.tensor_type.shape.dim]
        for info in (*graph.value_info, *graph.input, *graph.output)
    }
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) < 4:
            continue
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if len(before) != 4 or len(after) != 4 or 0 in (*before[1:], *after[1:]):
            continue
        if before[1] == after[1] and not any(a % b for a, b in zip(after[2:], before[2:], strict=True)):
            name = f"{node.output[0]}.scales"
            by = np.array([1, 1, after[2] // before[2], after[3] // before[3]], np.float32)
            graph.initializer.append(numpy_helper.from_array(by, name))
            first = node.input[0]
            del node.input[:]
            node.input.extend([first, "", name])


def _drop_unused(graph: GraphProto) -> None:
    """Nodes and constants that nothing uses any more are left out."""
    while True:
        used = _users(graph)
        kept = [node for node in graph.node if any(used[name] for name in node.output)]
        if len(kept) == len(graph.node):
            break
        _replace_nodes(graph, kept)
    tensors = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer if used[t.name]]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _constants(graph: GraphProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _makers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _users(graph: GraphProto) -> "Counter[str]":
    """How often each value is used, within the graph or as its output."""
    return Counter([*(name for node in graph.node for name in node.input), *(value.name for value in graph.output)])


def _replace_nodes(graph: GraphProto, nodes: list[NodeProto]) -> None:
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # those of the graph end with it
    del graph.node[:]
    graph.node.extend(nodes)
