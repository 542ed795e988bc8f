"""The part of ONNX's file format by which a graph is searched and given its weights, so that reading needs no `onnx`
(29 MB on disk).

ONNX files are Protocol Buffers; numbers of fields are those of `onnx.proto` of the ONNX project. What is not named here
is passed over, and written as it was read.
"""

from functools import cache
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

EXTERNAL = 1
"""`data_location` of a tensor whose values are in another file."""
FLOATS: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2")}
"""`data_type` of the tensors that weights are given to."""
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph"), "opset_import": (8, "Opset*"), "functions": (25, "Function*")},
    "Opset": {"domain": (1, "string")},
    "Function": {"name": (1, "string")},
    "Graph": {"node": (1, "Node*"), "initializer": (5, "Tensor*"), "sparse_initializer": (15, "Sparse*")},
    "Node": {"op_type": (4, "string"), "attribute": (5, "Attribute*"), "domain": (7, "string")},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "tensors": (10, "Tensor*"),
        "graphs": (11, "Graph*"),
        "sparse_tensor": (22, "Sparse"),
        "sparse_tensors": (23, "Sparse*"),
    },
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Tensor": {
        "dims": (1, "int64*"),
        "data_type": (2, "int32"),
        "name": (8, "string"),
        "raw_data": (9, "bytes"),
        "data_location": (14, "int32"),
    },
}
"""Message -> field -> its number, and its type; a star stands for any number of them."""
_FIELD = descriptor_pb2.FieldDescriptorProto
_SIMPLE = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
}
_PACKAGE = "cxrlines.onnx"


def read_model(content: bytes) -> Any:
    """A `Model` of `MESSAGES`, as Protocol Buffers give it. Raises `google.protobuf.message.DecodeError`."""
    return _model_class().FromString(content)


@cache
def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="cxrlines/onnx.proto", package=_PACKAGE, syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            many, kind = kind.endswith("*"), kind.rstrip("*")
            made = message.field.add(
                name=field, number=number, label=_FIELD.LABEL_REPEATED if many else _FIELD.LABEL_OPTIONAL
            )
            if kind in _SIMPLE:
                made.type = _SIMPLE[kind]
            else:
                made.type, made.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))
