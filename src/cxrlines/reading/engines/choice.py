"""Which engine runs a bundle on this machine."""

import importlib.util
from pathlib import Path
from typing import Literal

from cxrlines.reading.bundle import Bundle
from cxrlines.reading.engines import Engine
from cxrlines.reading.engines.onnx import OnnxEngine
from cxrlines.reading.engines.pytorch import PyTorchEngine

_NVIDIA = Path("/proc/driver/nvidia/version")
"""There where NVIDIA's driver is loaded: importing PyTorch to ask would take longer than reading a film."""


def reads_on_gpu() -> bool:
    """Whether bundles are read on a GPU here: there is one of NVIDIA's, and PyTorch to use it."""
    return importlib.util.find_spec("torch") is not None and _NVIDIA.exists()


def engine_name(bundle: Bundle) -> Literal["onnx", "torch"]:
    """The engine that `engine_of` takes."""
    installed = importlib.util.find_spec("torch") is not None
    exported = all(entry.onnx for entry in bundle.manifest.models)
    return "torch" if reads_on_gpu() or (installed and not exported) else "onnx"


def computed_by(bundle: Bundle) -> str:
    """What computes a bundle here, in words: another engine, or a GPU, rounds otherwise."""
    return f"{engine_name(bundle)} on {'a GPU' if reads_on_gpu() else 'the processor'}"


def engine_of(bundle: Bundle, *, cores: int | None = None) -> Engine:
    """The engine for a bundle: ONNX Runtime, which is several times as fast on a processor.

    PyTorch is taken where it is installed and there is a GPU, or where the bundle has no ONNX files.
    `cores`: how many of the processor compute; default: all.

    Raises:
        BundleError: no engine can run the bundle here.
    """
    if engine_name(bundle) == "onnx":
        return OnnxEngine(bundle, cores=cores)
    if cores is not None:
        import torch

        torch.set_num_threads(cores)
    return PyTorchEngine(bundle)
