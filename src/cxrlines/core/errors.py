"""The base of all errors that a user can cause and mend.

A command prints such an error as one message and ends with exit code 2. Every other exception is a fault of cxrlines:
its traceback is never hidden behind a message that blames the input.
"""


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
