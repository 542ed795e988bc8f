"""Which engine runs a bundle on this machine."""

import importlib.util
from pathlib import Path
from typing import Literal

from cxrlines.reading.bundle import Bundle, BundleError
from cxrlines.reading.engines import Engine
from cxrlines.reading.engines.onnx import OnnxEngine
from cxrlines.reading.engines.pytorch import PyTorchEngine

EngineName = Literal["auto", "onnx", "torch"]
_NVIDIA = Path("/proc/driver/nvidia/version")
"""There where NVIDIA's driver is loaded: importing PyTorch to ask would take longer than reading a film."""


def engine_name(bundle: Bundle) -> Literal["onnx", "torch"]:
    """The engine that `engine_of` takes by itself."""
    installed = importlib.util.find_spec("torch") is not None
    exported = all(entry.onnx for entry in bundle.manifest.models)
    return "torch" if installed and (_NVIDIA.exists() or not exported) else "onnx"


def engine_of(bundle: Bundle, name: EngineName = "auto", *, threads: int | None = None) -> Engine:
    """The engine of a name for a bundle. `auto`: ONNX Runtime, which is several times as fast on a processor.

    PyTorch is taken where it is installed and there is a GPU, or where the bundle has no ONNX files.
    `threads` compute on a processor; default: one for each core.

    Raises:
        BundleError: no engine can run the bundle here.
    """
    installed = importlib.util.find_spec("torch") is not None
    name = engine_name(bundle) if name == "auto" else name
    if name == "torch" and not installed:
        raise BundleError(
            f"{bundle.folder}: PyTorch is to read it, which is not installed", "pip install 'cxrlines[train]'"
        )
    if name == "onnx":
        return OnnxEngine(bundle, threads=threads)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    return PyTorchEngine(bundle)
