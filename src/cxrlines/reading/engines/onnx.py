"""The networks of a bundle as ONNX files, run by ONNX Runtime: on any processor, without PyTorch."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import numpy as np

from cxrlines.core.processes import cores as usable_cores
from cxrlines.core.transform import Size, height_width
from cxrlines.reading.bundle import Bundle, BundleError, ModelEntry
from cxrlines.reading.engines.averaged import AveragedNetworks

DOMAINS = frozenset({"", "ai.onnx"})
"""Of the operators that are run: the standard's own. Any other may be code of somebody's."""


MOST_THREADS = 4
"""That compute one film of one network together: more are better used for other films."""


class OnnxError(BundleError):
    """An ONNX file that is damaged, unsafe, or not a network of this program."""


class OnnxNetwork:
    """A model that `models/onnx_export` wrote, as `engines.Network`. Threads may share it.

    Args:
        content: the file's bytes.
        name: what errors call it.
        weights: the tensors of its safetensors file.
        size: (height, width) px of the films that it sees.
        pool: threads that compute films, one film each.
        threads: that compute a film together.

    Raises:
        OnnxError: data outside the file, operators of other domains, functions; weights that do not fit; no network of
            this program; or ONNX Runtime cannot load it.
    """

    def __init__(
        self,
        content: bytes,
        name: str,
        weights: Mapping[str, np.ndarray],
        size: tuple[int, int],
        pool: Executor,
        *,
        threads: int = 1,
    ) -> None:
        self._session, self._pool = session_of(content, name, weights, threads=threads), pool
        takes = [(value.name, value.type, value.shape[1:]) for value in self._session.get_inputs()]
        if takes != [("films", "tensor(uint8)", [1, *size])]:
            raise OnnxError(f"{name}: takes {takes}, not films of 8 bits of 1 x {size[0]} x {size[1]}", _AGAIN)
        try:
            about = self._session.get_modelmeta().custom_metadata_map
            self.labels, self.map_names = (tuple(json.loads(about[key])) for key in ("labels", "maps"))
        except (KeyError, ValueError, TypeError) as error:
            raise OnnxError(f"{name}: does not say its labels and heatmaps ({error!r})", _AGAIN) from error
        given = {output.name for output in self._session.get_outputs()}
        if lacking := {"logits", "embedding", *(["heatmaps"] if self.map_names else [])} - given:
            raise OnnxError(f"{name}: does not give {', '.join(sorted(lacking))}", _AGAIN)

    def start(self, films: np.ndarray, *, maps: bool = False) -> Callable[[], tuple[np.ndarray, np.ndarray | None]]:
        """As `Network`."""
        results = self._started(["logits", "heatmaps"] if maps and self.map_names else ["logits"], films)

        def wait() -> tuple[np.ndarray, np.ndarray | None]:
            logits, *heat = results()
            return logits, heat[0] if heat else None

        return wait

    def embed(self, films: np.ndarray) -> np.ndarray:
        """As `Network`."""
        return self._started(["embedding"], films)()[0]

    def _started(self, outputs: Sequence[str], films: np.ndarray) -> Callable[[], list[np.ndarray]]:
        """Outputs of films (b, 1, h, w), each computed in a thread of the pool, as a function that waits for them."""
        each = [self._pool.submit(self._run, outputs, films[i : i + 1]) for i in range(len(films))]
        return lambda: [np.concatenate(parts) for parts in zip(*(one.result() for one in each), strict=True)]

    def _run(self, outputs: Sequence[str], film: np.ndarray) -> list[np.ndarray]:
        given: list[np.ndarray] = self._session.run(outputs, {"films": film})
        return given


class OnnxEngine(AveragedNetworks):
    """The models of a bundle by ONNX Runtime, on the processor.

    Films and networks are computed beside each other, each by few threads, as threads that share one wait for the
    slowest of them after every layer: where other programs work too, that is most of the time.

    Args:
        cores: that it may use; None: all that the process may.

    Raises:
        BundleError: a model has no ONNX file. OnnxError: as `OnnxNetwork`.
    """

    def __init__(self, bundle: Bundle, *, cores: int | None = None) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        entries, cores = bundle.manifest.models, cores or usable_cores()
        threads = max(1, min(MOST_THREADS, cores // len(entries)))
        at_once = max(1, cores // threads)
        pool = ThreadPoolExecutor(at_once, thread_name_prefix="network")

        def network(entry: ModelEntry, size: Size) -> OnnxNetwork:
            if entry.onnx is None:
                raise BundleError(
                    f"{bundle.folder}: {entry.file} has no ONNX file beside it, and is read by PyTorch alone",
                    "install cxrlines[train], or export it again with `cxrlines bundle`",
                )
            path = bundle.folder / entry.onnx
            try:
                weights = load((bundle.folder / entry.file).read_bytes())
            except (OSError, SafetensorError) as error:
                raise OnnxError(f"{bundle.folder / entry.file}: {error}", _AGAIN) from error
            return OnnxNetwork(path.read_bytes(), str(path), weights, height_width(size), pool, threads=threads)

        super().__init__(bundle, list(pool.map(network, entries, bundle.sizes)), at_once=at_once)


_AGAIN = "copy the bundle again, or export it again with `cxrlines bundle`"


def session_of(content: bytes, name: str, weights: Mapping[str, np.ndarray] | None = None, *, threads: int) -> Any:
    """An ONNX Runtime session of a file's bytes; the arguments as of `OnnxNetwork`. `OnnxError`."""
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        way_out = (
            "pip install onnxruntime; on a processor that it does not support (x86 without AVX) PyTorch may read: "
        )
        way_out += "pip install 'cxrlines[train]'"
        raise OnnxError(f"{name}: ONNX Runtime cannot be loaded here ({error})", way_out) from error
    content = filled(content, name, weights or {})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # what it says of its own optimisations helps nobody here
    # A thread that waits by spinning takes the core that another process needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no class in common
        why = " ".join(str(error).split())[:300]
        raise OnnxError(f"{name}: ONNX Runtime {onnxruntime.__version__} cannot use it: {why}", _AGAIN) from error


def filled(content: bytes, name: str, weights: Mapping[str, np.ndarray]) -> bytes:
    """An ONNX file, checked by `check_graph`, with the values that it leaves to the safetensors file beside it.

    `OnnxError`: weights that the other file lacks, or has in another shape.
    """
    from cxrlines.models import WEIGHTS
    from cxrlines.reading.engines.onnx_messages import FLOATS

    model, found = check_graph(content, name), False
    for tensor in model.graph.initializer:
        if not tensor.name.startswith(WEIGHTS):
            continue
        what, found = tensor.name.removeprefix(WEIGHTS), True
        values, dtype = weights.get(what), FLOATS.get(tensor.data_type)
        if values is None or dtype is None or values.shape != tuple(tensor.dims):
            has = "does not have it" if values is None else f"has {values.dtype} of {values.shape}"
            wants = f"needs {what} of {tuple(tensor.dims)}, and the safetensors file beside it {has}"
            raise OnnxError(f"{name}: {wants}", _AGAIN)
        tensor.raw_data = values.astype(dtype).tobytes()
    whole: bytes = model.SerializeToString() if found else content
    return whole


def check_graph(content: bytes, name: str) -> Any:
    """The `Model` of a file; `OnnxError` for one that reads other files or calls operators outside the standard."""
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
    return model


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
