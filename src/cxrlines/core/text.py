"""Values and names in messages: quoting a value, and "did you mean" for a misspelt name."""

import difflib
from collections.abc import Iterable


def shown(value: object, length: int = 40) -> str:
    """A value as a message shows it: quoted, and cut to `length` characters."""
    text = str(value)
    return repr(text if len(text) <= length else f"{text[: length - 3]}...")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """` (did you mean 'X'?)` with the nearest of the known names, whatever its case; empty where none is near."""
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""
