"""cxrlines reads the tubes and lines in a frontal chest radiograph.

import cxrlines

reader = cxrlines.load_reader()
findings = reader.read("film.dcm")
"""

import os
from typing import TYPE_CHECKING, Any

from cxrlines.core.errors import Error, ReadingFault

if TYPE_CHECKING:
    from cxrlines.core.film import FilmError
    from cxrlines.core.findings import Findings
    from cxrlines.reading.reader import Reader, load_reader

__version__ = "0.1.0"
__all__ = ["Error", "FilmError", "Findings", "Reader", "ReadingFault", "load_reader"]

# ONNX Runtime and Hugging Face's client report their use to their makers, unless these are set when they are imported.
for _switch in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_switch, "1")


def __getattr__(name: str) -> Any:
    """What takes time to import is imported when it is asked for."""
    if name in __all__:
        from cxrlines.reading import reader

        return getattr(reader, name)
    raise AttributeError(f"module 'cxrlines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
