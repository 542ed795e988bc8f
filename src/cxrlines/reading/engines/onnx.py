"""A network as an ONNX file, run by ONNX Runtime: on any processor, without PyTorch."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from cxrlines.core.errors import Error

DOMAINS = frozenset({"", "ai.onnx"})
"""Of the operators that are run: the standard's own. Any other may be code of somebody's."""


class OnnxError(Error):
    """An ONNX file that is damaged, unsafe, or not a network of this program."""


class OnnxNetwork:
    """A network of `models/onnx_export`, ready to compute. Threads may share it.

    Args:
        content: the file's bytes.
        name: what errors call it.
        threads: that it computes with; none: as many as there are cores.
        trusted: whether the file is known to be the program's own, so that its graph is not searched.

    Raises:
        OnnxError: data outside the file, operators of other domains, functions; or ONNX Runtime cannot load it.
    """

    def __init__(self, content: bytes, name: str, *, threads: int | None = None, trusted: bool = False) -> None:
        import onnxruntime

        if not trusted:
            check_graph(content, name)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # what it says of its own optimisations helps nobody here
        # A thread that waits by spinning takes the core that another process needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common class of their own
            why = " ".join(str(error).split())[:300]
            raise OnnxError(f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load it: {why}", _AGAIN) from error
        (given,) = self._session.get_inputs()[:1] or (None,)
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        if given is None or given.name != "films" or given.type != "tensor(uint8)":
            raise OnnxError(f"{name}: it does not take films, uint8", _AGAIN)

    def __call__(self, films: np.ndarray, *outputs: str) -> tuple[np.ndarray, ...]:
        """The named outputs, float32, of films as the network takes them, uint8 (b, ...)."""
        return tuple(self._session.run(list(outputs), {"films": films}))


_AGAIN = "copy the bundle again, or write it anew with `cxrlines bundle`"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_graph(content: bytes, name: str) -> None:
    """`OnnxError` for a file that reads other files or calls operators that are not of the standard."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise OnnxError(f"{name}: is no ONNX file ({error})", _AGAIN) from error
    if strange := sorted({entry.domain for entry in model.opset_import} - DOMAINS):
        raise OnnxError(f"{name}: asks for operators of {', '.join(strange)}; allowed: ONNX's own", _AGAIN)
    if model.functions:
        raise OnnxError(f"{name}: defines functions of its own; allowed: ONNX's operators alone", _AGAIN)
    for graph in _graphs(model.graph):
        for node in graph.node:
            if node.domain not in DOMAINS:
                raise OnnxError(f"{name}: calls {node.domain}.{node.op_type}; allowed: ONNX's own operators", _AGAIN)
        tensors = [*graph.initializer, *(a.t for node in graph.node for a in node.attribute)]
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
            raise OnnxError(f"{name}: keeps weights in another file; allowed: none outside it", _AGAIN)


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)


