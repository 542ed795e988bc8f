"""Decoder process for GDCM and OpenJPEG, which can crash, hang or eat memory on damaged streams.

It imports nothing of cxrlines but the other end of the line, and no pydicom, torch or OpenCV: it starts quickly.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxrlines.core.processes import serving

MEMORY = 512 * 2**20
"""Bytes the process may take beyond what its libraries take, whatever a stream says."""
GDCM = {
    "jpeg": "1.2.840.10008.1.2.4.51",
    "lossless jpeg": "1.2.840.10008.1.2.4.57",
    "jpeg-ls": "1.2.840.10008.1.2.4.81",
}
"""Kinds of stream that GDCM decodes, and the transfer syntax under which it takes all of each kind."""
CORRUPT = re.compile(rb"Corrupt JPEG data: (?!\d+ extraneous bytes)")
"""Printed on standard error alone by libjpeg in GDCM where it makes up the rest of a film."""
PACKAGES = {"gdcm": "python-gdcm", "openjpeg": "pylibjpeg-openjpeg"}


def serve() -> None:
    """Answer requests: a header (JSON) and a stream, by a header and the values' bytes (little-endian, by pixel)."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy comes along with OpenJPEG; nothing is multiplied here
    _limit_memory()
    messages, stderr = os.pipe()
    if hasattr(os, "set_blocking"):  # Windows has it from Python 3.12 on
        os.set_blocking(messages, False)
        os.set_blocking(stderr, False)  # what finds no room is lost
    os.dup2(stderr, 2)

    def answer(receive: Callable[[], bytes], send: Callable[[bytes | memoryview], None]) -> None:
        request, stream = json.loads(receive()), receive()
        values: bytes | memoryview = b""
        header: dict[str, Any] = {}
        try:
            values = (_by_gdcm if request["kind"] in GDCM else _by_openjpeg)(stream, **request)
        except ImportError as error:
            header = {"missing": PACKAGES.get(str(error.name), str(error.name))}
        except Exception as error:  # whatever a decoder raises, the stream is why
            header = {"failed": type(error).__name__}
        with contextlib.suppress(BlockingIOError):  # no room for more
            os.write(2, b"\n")  # so that reading finds something, and never waits
        if CORRUPT.search(os.read(messages, 2**16)):
            header, values = {"failed": "it is not whole"}, b""
        send(json.dumps(header).encode())
        send(values)

    serving(answer)


def _limit_memory() -> None:
    """Never more than MEMORY beyond what is taken once both libraries are loaded."""
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            __import__(name)
    status = Path("/proc/self/statm")
    if not status.exists():  # macOS and Windows have neither this nor a limit that they keep
        return
    import resource  # Windows has none

    limit = int(status.read_text().split()[0]) * resource.getpagesize() + MEMORY
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


def _by_gdcm(stream: bytes, kind: str, width: int, height: int, components: int, bits: int) -> bytes:
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((width, height, 1))
    image.SetDataElement(element)
    colours = gdcm.PhotometricInterpretation.GetPIType("RGB" if components == 3 else "MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(colours))
    if components == 3:
        image.SetPlanarConfiguration(0)
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(GDCM[kind])))
    image.SetPixelFormat(gdcm.PixelFormat(components, 8 if bits <= 8 else 16, bits, bits - 1, 0))
    text: str = image.GetBuffer()
    return text.encode("utf-8", "surrogateescape")  # GDCM gives its bytes as text


def _by_openjpeg(stream: bytes, **expected: Any) -> memoryview:
    from openjpeg.utils import decode

    values: memoryview = decode(stream, j2k_format=0, reshape=False).data
    return values.cast("B")
