"""Read public weight files: PyTorch's pickles and safetensors, never unpickled unsafely: no code of a file is run.

NumPy's arrays in a file, such as predictions kept beside the weights, are passed over: what would rebuild them is never
called, an empty object stands in its place. `convert` does the same with whatever else a file names.
"""

import contextlib
import pickle
import pickletools
import re
import shlex
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cxrlines.models.weights import WeightsError, few, load_weights, save_weights

_SWOLLEN = 20  # tensors may claim so many times their file's bytes: tied weights do twice, an attack any number
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2
_ARRAYS = (
    *(f"{module}.{name}" for module in _NUMPY for name in ("_reconstruct", "scalar")),
    "numpy.ndarray",
    "numpy.dtype",
)
"""What a pickled array or number of NumPy names."""


class _Absent:
    """Stands in for an object of a file that is not made: whatever the file does to it is kept or forgotten here."""

    state: Any = None

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def of_module(self) -> dict[Any, Any]:
        """The parameters, buffers and modules of an `nn.Module` by name; of any other object nothing."""
        state = self.state if isinstance(self.state, Mapping) else {}
        parts = (state.get(kind) for kind in ("_parameters", "_buffers", "_modules"))
        return {name: value for part in parts if isinstance(part, Mapping) for name, value in part.items()}


def read_public(path: Path) -> tuple[dict[str, Tensor], str]:
    """All named tensors of a weights file (on the CPU, owned by the caller) and its format; no code is run.

    Nested dictionaries are flattened: `{"state_dict": {"fc.bias": t}}` gives `state_dict.fc.bias`. What is no tensor
    (epochs, hyperparameters, arrays of NumPy), or has no name (an optimiser's state), is passed over. The content
    decides the format.

    Raises:
        WeightsError: the file is missing, damaged, of another kind, holds no tensors or swollen ones, or would need
            code to be run.
    """
    return _read(path, _ARRAYS)


def convert(path: Path, out: Path) -> int:
    """Write the named tensors of a PyTorch file as safetensors, even of one that `read_public` refuses; their number.

    Nothing of the file is run: for every class and function that it names an empty object stands in. The tensors of a
    whole pickled `nn.Module` get the names that its state dict has. Tensors that share memory become copies.

    Raises:
        WeightsError: as `read_public`; the file is safetensors already; or it names a module that no weights file has a
            use for (`os`, `sys`).
    """
    if path.suffix == ".safetensors":
        raise WeightsError(f"{path} is safetensors already", "use it as it is")
    absent = list(_ARRAYS)
    while True:
        try:
            tensors, _ = _read(path, absent)
        except _UnknownGlobalError as error:
            if error.name in absent:
                raise
            absent += [error.name, f"builtins.{error.name}"]  # PyTorch names builtins without their module
        else:
            save_weights(out, tensors, {})
            return len(tensors)


class _UnknownGlobalError(WeightsError):
    """A file that names what is no tensor's; `name` is the first."""

    def __init__(self, what: str, way_out: str, name: str) -> None:
        super().__init__(what, way_out)
        self.name = name
        self.args = (what, way_out, name)  # what it is pickled by


def _read(path: Path, absent: Sequence[str]) -> tuple[dict[str, Tensor], str]:
    """As `read_public`; of what the names `absent` would make nothing is made."""
    if path.is_dir():
        raise WeightsError(f"{path} is a folder", "name the weights file inside it")
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such weights file", "check the path")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise WeightsError(f"{path} is empty", "copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a pointer of Git LFS, not the file itself", "fetch it (git lfs pull)")
    form = "PyTorch"
    # First: one safetensors file in 32 begins like a pickle, since its header's length comes first.
    if head[8:9] == b"{":
        found: Any = load_weights(path)[0]
        form = "safetensors"
    elif head[:4] == b"PK\3\4":
        _check_zip(path)
        found = _unpickled(path, absent, mmap=True)
    elif head[:1] == b"\x80":
        found = _unpickled(path, absent, mmap=False)
    elif path.suffix == ".safetensors":
        found = load_weights(path)[0]  # its error names what is wrong
    else:
        way_out = "give a safetensors or PyTorch file (.pt, .pth, .bin, .ckpt)"
        raise WeightsError(f"{path} is not a weights file: it begins with {head[:24]!r}", way_out)
    if isinstance(found, Mapping) and "pytorch-lightning_version" in found:
        form = "Lightning"
    tensors = {name: tensor for name, tensor in _flat(found) if name}
    if not tensors:
        what = f"{path} holds no named tensors, but a {type(found).__name__}"
        raise WeightsError(what, "save a dictionary of them (a state dict)")
    for name, tensor in tensors.items():
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
        if not plain or tensor.device.type != "cpu":
            what = f"{path}: {name} is not a plain tensor ({tensor.layout}, {tensor.dtype}, {tensor.device})"
            raise WeightsError(what, "save plain tensors of the processor")
    claimed, size = sum(t.numel() * t.element_size() for t in tensors.values()), path.stat().st_size
    if claimed > _SWOLLEN * size:
        what = f"{path}: its tensors claim {claimed} bytes, the file has {size}: it is damaged or an attack"
        raise WeightsError(what, "take a file from a source you trust")
    if form != "safetensors":  # those are copies already; these may be pages of the file
        tensors = {name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    return tensors, form


def _flat(found: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested dictionaries under dotted names, in the file's order; a dictionary met twice is taken once."""
    stack, seen = [("", found)], set()
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping | _Absent) and id(value) not in seen:
            seen.add(id(value))
            named = value.of_module() if isinstance(value, _Absent) else value
            inner = [(f"{name}.{key}" if name else key, named[key]) for key in named if isinstance(key, str)]
            stack += reversed(inner)


def _check_zip(path: Path) -> None:
    """`WeightsError` unless a zip archive is PyTorch's, whole, without code, and nothing in it is compressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _damaged(path, str(error)) from error
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise WeightsError(f"{path} is a TorchScript program, which is code", _conversion(path))
    if "data.pkl" not in names:
        what = f"{path} is a zip archive, but not PyTorch's (it has {few(sorted(names))})"
        raise WeightsError(what, "unpack it and name the weights file")
    # PyTorch compresses nothing; what it maps into memory is as large as the file.
    if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(f"{path} is packed as PyTorch packs no file: it would grow when opened", _conversion(path))


def _unpickled(path: Path, absent: Sequence[str], mmap: bool) -> Any:
    """What PyTorch's restricted reader makes of a file: tensors, plain containers, and `_Absent` for those names."""
    stand_ins: list[Any] = [(_Absent, name) for name in absent]
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(stand_ins):
            return torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)( was not an allowed)?", str(error))
        culprits = [named[1]] if named else _globals(path)
        if culprits:
            what = f"{path} is refused: to open it, {few(culprits)} would have to be run"
            what = f"{what}, and a file from elsewhere may run anything"
            if named and named[2]:
                command = shlex.join(["cxrlines", "weights", str(path), "--out", f"{path.stem}.safetensors"])
                way_out = f"keep its tensors alone, which runs nothing of it: {command}"
                raise _UnknownGlobalError(what, way_out, named[1]) from None
            raise WeightsError(what, "take a file from a source you trust" if named else _conversion(path)) from None
        what = f"{path} cannot be read without running code: it is damaged, or pickled in another way than"
        raise WeightsError(f"{what} `torch.save` does by itself", _conversion(path)) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} ({path.stat().st_size} bytes) is cut short or damaged ({why})", "copy it again")


def _globals(path: Path) -> list[str]:
    """Functions and classes that a plain pickle names, beyond PyTorch's own for tensors; nothing is run."""
    found, strings = [], [""]
    with path.open("rb") as file, contextlib.suppress(ValueError, EOFError):  # damaged from there on
        for code, value, _ in pickletools.genops(file):
            if code.name == "GLOBAL":
                found.append(str(value).replace(" ", "."))
            elif code.name == "STACK_GLOBAL":
                found.append(".".join(strings[-2:]))
            elif isinstance(value, str):
                strings.append(value)
    return [name for name in dict.fromkeys(found) if not name.startswith(("torch._utils.", "collections."))]


def _conversion(path: Path) -> str:
    code = (
        "import sys, torch, safetensors.torch as s; "
        "d = torch.load(sys.argv[1], weights_only=False, map_location='cpu'); "
        "d = next((d[k] for k in ('state_dict', 'model', 'net') if isinstance(d, dict) and k in d), d); "
        "d = d if isinstance(d, dict) else d.state_dict(); "
        "s.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])"
    )
    command = shlex.join(["python", "-c", code, path.name, f"{path.stem}.safetensors"])
    return f"have it converted where it was made, or where its code can do no harm: {command}"
