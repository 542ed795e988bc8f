"""The networks of a bundle as ONNX files, run by ONNX Runtime: on any processor, without PyTorch."""

import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from cxrlines.reading.bundle import EMBEDDED, Bundle, BundleError
from cxrlines.reading.engines.averaged import AveragedNetworks

DOMAINS = frozenset({"", "ai.onnx"})
"""Of the operators that are run: the standard's own. Any other may be code of somebody's."""


class OnnxError(BundleError):
    """An ONNX file that is damaged, unsafe, or not a network of this program."""


class OnnxNetwork:
    """A model that `models/onnx_export` wrote, as `engines.Network`. Threads may share it.

    Args:
        content: the file's bytes.
        name: what errors call it.
        trusted: whether the file is the program's own, so that its graph need not be searched.
        threads: that compute; default: one for each core.

    Raises:
        OnnxError: data outside the file, operators of other domains, functions; no network of this program; or ONNX
            Runtime cannot load it.
    """

    def __init__(self, content: bytes, name: str, *, trusted: bool = False, threads: int | None = None) -> None:
        self._session = session_of(content, name, threads=threads or usable_cores(), trusted=trusted)
        try:
            about = self._session.get_modelmeta().custom_metadata_map
            self.labels, self.map_names = (tuple(json.loads(about[key])) for key in ("labels", "maps"))
        except (KeyError, ValueError, TypeError) as error:
            raise OnnxError(f"{name}: does not say its labels and heatmaps ({error!r})", _AGAIN) from error

    def __call__(self, films: np.ndarray, *, maps: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """As `Network`."""
        wanted = ["logits", "heatmaps"] if maps and self.map_names else ["logits"]
        logits, *heat = self._session.run(wanted, {"films": films})
        return logits, heat[0] if heat else None

    def embed(self, films: np.ndarray) -> np.ndarray:
        """As `Network`."""
        (vectors,) = self._session.run(["embedding"], {"films": films})
        return np.asarray(vectors)


class OnnxEngine(AveragedNetworks):
    """The models of a bundle by ONNX Runtime, on the processor.

    Raises:
        BundleError: a model has no ONNX file. OnnxError: as `OnnxNetwork`.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None) -> None:
        networks = []
        for entry in bundle.manifest.models:
            if entry.onnx is None:
                raise BundleError(
                    f"{bundle.folder}: {entry.file} has no ONNX file beside it, and is read by PyTorch alone",
                    "install cxrlines[train], or write the bundle anew with `cxrlines bundle`",
                )
            path = bundle.folder / entry.onnx
            trusted = bundle.folder == EMBEDDED
            networks.append(OnnxNetwork(path.read_bytes(), str(path), trusted=trusted, threads=threads))
        super().__init__(bundle, networks)


_AGAIN = "copy the bundle again, or write it anew with `cxrlines bundle`"


def session_of(content: bytes, name: str, *, threads: int, trusted: bool = False) -> Any:
    """An ONNX Runtime session of a file's bytes; the arguments as of `OnnxNetwork`. `OnnxError`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise OnnxError(f"{name}: ONNX Runtime cannot be loaded here ({error})", "pip install onnxruntime") from error
    if not trusted:
        check_graph(content, name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # what it says of its own optimisations helps nobody here
    # A thread that waits by spinning takes the core that another process needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no class in common
        why = " ".join(str(error).split())[:300]
        raise OnnxError(f"{name}: ONNX Runtime {onnxruntime.__version__} cannot use it: {why}", _AGAIN) from error


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_graph(content: bytes, name: str) -> None:
    """`OnnxError` for a file that reads other files or calls operators that are not of the standard."""
    from google.protobuf.message import DecodeError

    from cxrlines.reading.engines.onnx_messages import EXTERNAL, read_model

    try:
        model = read_model(content)
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
        if any(tensor.data_location == EXTERNAL for tensor in _tensors(graph)):
            raise OnnxError(f"{name}: keeps weights in another file; allowed: none outside it", _AGAIN)


def _tensors(graph: Any) -> Iterator[Any]:
    """All constants of a graph, without those of graphs within it."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    yield from graph.initializer
    for attribute in attributes:
        yield from [attribute.t, *attribute.tensors]
    sparse = [*graph.sparse_initializer, *(s for a in attributes for s in [a.sparse_tensor, *a.sparse_tensors])]
    for each in sparse:
        yield from [each.values, each.indices]


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)
