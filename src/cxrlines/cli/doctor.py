"""`cxrlines doctor`: what is installed, what it can be used for, and what is missing for what."""

import importlib
import importlib.metadata
import importlib.util
import json
import platform
from pathlib import Path
from typing import Any

import typer

from cxrlines import __version__
from cxrlines.cli.extras import BASE, EXTRAS, SERVES
from cxrlines.cli.options import PROBLEMS, Json
from cxrlines.core.pool import cores
from cxrlines.core.text import plural

app = typer.Typer()


@app.command(epilog="Example: cxrlines doctor --json")
def doctor(as_json: Json = False) -> None:
    """Show versions, devices, decoders and engines, and which features lack a package.

    Exit code 1 if films cannot be read.
    """
    found = examine()
    typer.echo(json.dumps(found, indent=1) if as_json else as_text(found))
    raise typer.Exit(PROBLEMS if found["broken"] else 0)


def examine() -> dict[str, Any]:
    """What `doctor` prints, as JSON's own types.

    `packages`: version of each package of the base; `broken`: what cannot be used, and why, of what reading needs;
    `missing`: extra -> its packages that are not installed.
    """
    broken = {name: why for name, module in BASE.items() if (why := _fails(module))}
    decoders: dict[str, str] = {}
    engines: dict[str, str] = {}
    for part, about, into in (
        ("JPEG, PNG, TIFF", _pillow, decoders),
        ("JPEG lossless, JPEG-LS in DICOM", _gdcm, decoders),
        ("JPEG 2000, HTJ2K in DICOM", _openjpeg, decoders),
        ("ONNX Runtime", _onnxruntime, engines),
        ("PyTorch", _torch, engines),
    ):
        try:
            into[part] = about()
        except Exception as error:  # a package that is there and broken fails in any way
            into[part] = f"none ({_why(error)})"
    reader = ""
    try:
        reader = _reader()
    except Exception as error:
        broken["the embedded reader"] = _why(error)
    return {
        "cxrlines": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "avx": _avx(),
        "packages": {name: _version(name) for name in BASE if name not in broken},
        "decoders": decoders,
        "engines": engines,
        "reader": reader,
        "broken": broken,
        "missing": {
            extra: lacks
            for extra, packages in EXTRAS.items()
            if (lacks := [name for name, module in packages.items() if _absent(module)])
        },
    }


def as_text(found: dict[str, Any]) -> str:
    """`examine`'s findings for a person."""
    avx = {True: ", AVX", False: ", no AVX: ONNX Runtime may not run", None: ""}[found["avx"]]
    rows = [
        f"cxrlines {found['cxrlines']}, Python {found['python']}, {found['system']}, {found['cores']} cores{avx}",
        "packages: " + ", ".join(f"{name} {version}" for name, version in found["packages"].items()),
        *(f"{title}:\n" + _table(found[title]) for title in ("decoders", "engines")),
    ]
    if found["reader"]:
        rows.append(f"embedded reader: {found['reader']}")
    if found["missing"]:
        lines = {
            f"[{extra}]": f"{SERVES[extra]}; lacks {', '.join(lacks)}: pip install 'cxrlines[{extra}]'"
            for extra, lacks in found["missing"].items()
        }
        rows.append("not installed, and what it is for:\n" + _table(lines))
    if found["broken"]:
        rows.append("cannot be used, and films are not read without:\n" + _table(found["broken"]))
    else:
        rows.append("films can be read: cxrlines predict --example")
    return "\n".join(rows)


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"  {name:{width}}  {text}" for name, text in rows.items())


def _why(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _fails(module: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a library that is missing in the system, a processor that is too old, ...
        return _why(error)
    return ""


def _absent(module: str) -> bool:
    """Whether a module is not installed; it is not imported, as some take seconds."""
    try:
        return importlib.util.find_spec(module) is None
    except ImportError:
        return True


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _avx() -> bool | None:
    """Whether the processor has AVX, which ONNX Runtime is made for; None where that is unknown, or no question."""
    try:
        text = Path("/proc/cpuinfo").read_text("ascii", "replace")
    except OSError:
        return None
    return " avx" in text if platform.machine() in ("x86_64", "AMD64") else None


def _pillow() -> str:
    import cv2
    from PIL import __version__ as version
    from PIL import features

    turbo = features.version_feature("libjpeg_turbo")
    return f"Pillow {version}{f' (libjpeg-turbo {turbo})' if turbo else ''}, OpenCV {cv2.__version__}"


def _gdcm() -> str:
    import gdcm

    return f"GDCM {gdcm.Version.GetVersion()}"


def _openjpeg() -> str:
    import openjpeg

    return f"pylibjpeg-openjpeg {openjpeg.__version__}"


def _onnxruntime() -> str:
    import onnxruntime

    return f"{onnxruntime.__version__}: processor"  # the provider that the engine asks for


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        devices = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
    else:
        devices = "processor"
    return f"{torch.__version__}: {devices}"


def _reader() -> str:
    from cxrlines.reading.bundle import EMBEDDED, load_bundle

    bundle = load_bundle(EMBEDDED)
    return f"{bundle.identity[:12]}, {plural(len(bundle.manifest.models), 'network')}"
