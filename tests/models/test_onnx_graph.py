"""An exported graph made simpler computes what it did, and what is left to another file is left out."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from cxrlines.models import WEIGHTS
from cxrlines.models.onnx_graph import emptied, halve, simplify

RNG = np.random.default_rng(0)
W = RNG.normal(size=(8, 3, 4, 4)).astype(np.float32)


def model(*, pad_value: float = 0.0, mode: str = "constant") -> onnx.ModelProto:
    """A padded convolution without bias, a batch norm, and an enlargement to a size that is given."""
    numbers = {name: RNG.uniform(0.5, 2, 8).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")}
    constants = {"w": W, **numbers, "size": np.array([1, 8, 18, 18]), "pad_value": np.float32(pad_value)}
    nodes = [
        helper.make_node("Constant", [], ["pads"], value_ints=[0, 0, 1, 0, 0, 0, 2, 3]),
        helper.make_node("Pad", ["x", "pads", "pad_value"], ["padded"], mode=mode),
        helper.make_node("Conv", ["padded", "w"], ["c"], pads=[1, 1, 1, 1], strides=[1, 1], kernel_shape=[4, 4]),
        helper.make_node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["n"], epsilon=1e-3),
        helper.make_node(
            "Resize", ["n", "", "", "size"], ["y"],
            mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
        ),
    ]  # fmt: skip
    value = [(name, TensorProto.FLOAT, shape) for name, shape in (("n", [1, 8, 9, 9]), ("y", [1, 8, 18, 18]))]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 7, 7])],
        [helper.make_tensor_value_info(*value[1])],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()],
        value_info=[helper.make_tensor_value_info(*value[0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(made: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.linspace(-1, 1, 147, dtype=np.float32).reshape(1, 3, 7, 7)})[0]


def kinds(made: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


def test_norms_and_paddings_go_into_their_convolutions_and_nothing_else_changes():
    made = model()
    before = run(made)
    simplify(made.graph)
    onnx.checker.check_model(made, full_check=True)
    np.testing.assert_allclose(run(made), before, atol=1e-5)
    assert kinds(made) == ["Mul", "Conv", "Resize"], "the scale of the weights, computed once, is all that is left"
    assert made.graph.node[2].input[1] == "" and len(made.graph.node[2].input) == 3, "by how much, not to what size"
    (kept,) = (tensor for tensor in made.graph.initializer if tensor.name == "w")
    np.testing.assert_array_equal(numpy_helper.to_array(kept), W)


def test_a_padding_that_is_not_of_zeros_stays():
    for other in (model(pad_value=1.0), model(mode="reflect")):
        before = run(other)
        simplify(other.graph)
        np.testing.assert_allclose(run(other), before, atol=1e-5)
        assert "Pad" in kinds(other)


def test_weights_are_kept_in_16_bits_only_where_that_loses_nothing():
    exact, other = model(), model()
    exact.graph.initializer[0].CopyFrom(numpy_helper.from_array(W.astype(np.float16).astype(np.float32), "w"))
    before = run(exact), run(other)
    for made in (exact, other):
        halve(made.graph)
    np.testing.assert_array_equal(run(exact), before[0])
    np.testing.assert_array_equal(run(other), before[1])
    assert "Cast" in kinds(exact) and "Cast" not in kinds(other)


def test_what_the_other_file_holds_is_named_and_left_out():
    made = model()
    without = onnx.load_model_from_string(emptied(made.SerializeToString(), {"w", "gamma"}, ""))
    left = {tensor.name: tensor for tensor in without.graph.initializer}
    assert not left[f"{WEIGHTS}w"].raw_data and list(left[f"{WEIGHTS}w"].dims) == list(W.shape)
    assert left["gamma"].raw_data, "a small one stays"
    assert f"{WEIGHTS}w" in next(node for node in without.graph.node if node.op_type == "Conv").input
