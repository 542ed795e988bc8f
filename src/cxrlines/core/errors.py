"""The base of all errors that a user can cause and correct, and the fault of cxrlines that costs one film its reading.

A command prints such an error as one message and ends with exit code 2. Every other exception is a fault of cxrlines:
its traceback is never hidden behind a message that blames the input.
"""

import os
import traceback
from pathlib import Path
from typing import TypeVar

E = TypeVar("E", bound=Exception)
_HOME = f"{Path(__file__).parents[1]}{os.sep}"


class Error(ValueError):
    """Something the user gave cannot be used: a file, a field of a recipe, a flag, a machine that lacks something.

    Attributes:
        what: Which file, field or flag, the value received, and what is allowed.
        way_out: What to do about it; empty where `what` says all.
    """

    def __init__(self, what: str, way_out: str = "") -> None:
        super().__init__(what, way_out)
        self.what, self.way_out = what, way_out

    def __str__(self) -> str:
        return f"{self.what}; {self.way_out}" if self.way_out else self.what


class ReadingFault(RuntimeError):
    """A fault of cxrlines that cost one film its reading.

    It is no `cxrlines.Error`: who gave the film can correct nothing. `__cause__` is what was raised; its
    traceback is a note (`__notes__`), which `traceback.format_exception` shows.
    """

    @classmethod
    def of(cls, name: str, error: Exception) -> "ReadingFault":
        """The fault on the film called `name`: where, but not in the exception's words, which may quote the film."""
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(_HOME)]
        place = f" at {ours[-1].filename.removeprefix(_HOME)}:{ours[-1].lineno}" if ours else ""
        fault = cls(f"{name}: a fault of cxrlines ({type(error).__name__}{place}); please report it")
        fault.add_note("".join(traceback.format_exception(error)).rstrip())
        fault.__cause__ = light(error)
        return fault


class OverTime(ReadingFault):
    """A film took longer to read, or a result longer to make, than it may."""


def light(error: E) -> E:
    """An exception alone: through its traceback, or those of what led to it, it would keep its film in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
