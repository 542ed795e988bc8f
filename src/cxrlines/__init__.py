"""cxrlines reads the tubes and lines in a frontal chest radiograph.

import cxrlines

reader = cxrlines.load_reader()
findings = reader.read("film.dcm")
"""

from typing import Any

from cxrlines.errors import Error as Error

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_reader` and `Reader`, imported when they are asked for: they bring PyTorch."""
    if name in ("load_reader", "Reader"):
        from cxrlines.inference import reader

        return getattr(reader, name)
    raise AttributeError(f"module 'cxrlines' has no attribute {name!r}")
