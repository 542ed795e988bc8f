"""The part of ONNX's format that is read here, against the `onnx` package."""

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from cxrlines.reading.engines.onnx import OnnxError, check_graph
from cxrlines.reading.engines.onnx_messages import EXTERNAL, MESSAGES, read_model

ONNX_NAMES = {
    "Model": onnx.ModelProto, "Opset": onnx.OperatorSetIdProto, "Function": onnx.FunctionProto,
    "Graph": onnx.GraphProto, "Node": onnx.NodeProto, "Attribute": onnx.AttributeProto,
    "Sparse": onnx.SparseTensorProto, "Tensor": TensorProto,
}  # fmt: skip


def external() -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros((1,), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def model(graph: onnx.GraphProto) -> bytes:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()


def graph(*nodes: onnx.NodeProto, **more: object) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], **more)  # type: ignore[arg-type]


def sparse(values: TensorProto) -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros((1,), np.int64)), [1])


def test_numbers_and_types_of_fields_are_those_of_onnx():
    assert EXTERNAL == TensorProto.EXTERNAL
    for name, fields in MESSAGES.items():
        theirs = ONNX_NAMES[name].DESCRIPTOR.fields_by_name
        for field, (number, kind) in fields.items():
            assert theirs[field].number == number, f"{name}.{field}"
            assert theirs[field].is_repeated == kind.endswith("*")
            if kind.rstrip("*") in ONNX_NAMES:
                assert theirs[field].message_type.name == ONNX_NAMES[kind.rstrip("*")].DESCRIPTOR.name


def test_every_place_where_onnx_keeps_a_graph_a_tensor_or_a_function_is_searched():
    searched = {(ONNX_NAMES[name].DESCRIPTOR.name, field) for name, fields in MESSAGES.items() for field in fields}
    kinds = {"GraphProto", "TensorProto", "FunctionProto", "SparseTensorProto"}
    unseen = {
        (name, field.name)
        for name in ("ModelProto", "GraphProto", "NodeProto", "AttributeProto", "SparseTensorProto")
        for field in getattr(onnx, name).DESCRIPTOR.fields
        if field.message_type is not None and field.message_type.name in kinds
    }
    assert unseen <= searched


@pytest.mark.parametrize(
    "unsafe",
    [
        graph(initializer=[external()]),
        graph(sparse_initializer=[sparse(external())]),
        graph(helper.make_node("Constant", [], ["x"], value=external())),
        graph(helper.make_node("Constant", [], ["x"], sparse_value=sparse(external()))),
        graph(helper.make_node("Loop", [], [], body=graph(helper.make_node("Constant", [], ["x"], value=external())))),
        graph(helper.make_node("If", ["c"], [], then_branch=graph(helper.make_node("Add", [], [], domain="a.b")))),
        graph(helper.make_node("Add", ["x", "x"], ["y"], domain="com.microsoft")),
    ],
    ids=["initializer", "sparse", "constant", "sparse constant", "loop", "operator within", "operator"],
)
def test_what_is_unsafe_is_found_wherever_it_is(unsafe):
    with pytest.raises(OnnxError, match=r"m\.onnx: (keeps weights in another file|calls )"):
        check_graph(model(unsafe), "m.onnx")


def test_a_safe_graph_passes_and_noise_is_no_model():
    check_graph(model(graph(helper.make_node("Add", ["x", "x"], ["y"]))), "m.onnx")
    with pytest.raises(DecodeError):
        read_model(b"\xff" * 20)
