"""Values and names in messages: quoting a value, "did you mean" for a misspelt name, what a field must be."""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any


def shown(value: object, length: int = 40) -> str:
    """A value as a message shows it: quoted, and cut to `length` characters."""
    text = str(value)
    return repr(text if len(text) <= length else f"{text[: length - 3]}...")


def plural(count: float, one: str, many: str = "") -> str:
    """A count with what is counted: `1 film`, `1,200 films`. `many` is for words that do not just take an s."""
    return f"{count:,.12g} {one if count == 1 else many or f'{one}s'}"


def clock(seconds: float | None) -> str:
    """`2:05:09` or `5:09`; `-` where unknown."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def did_you_mean(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """` (did you mean 'X'?)` with the nearest of the known names, whatever its case; empty where none is near.

    `cutoff`: the least ratio of `difflib`, from 0 to 1, at which a name is near.
    """
    by_lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1, cutoff=cutoff)
    return f" (did you mean {by_lower[near[0]]!r}?)" if near else ""


def must_be(problem: Mapping[str, Any]) -> str:
    """What the value of a field must be; `problem` is one of the `errors()` that pydantic found.

    Its own words name Python's types (tuple, dictionary), which a person who writes YAML or TOML does not know.
    """
    kind = problem["type"]
    if kind in ("tuple_type", "list_type"):
        return "must be a list in brackets, such as [1, 2]"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return "must be fields with their values"
    said = str(problem["msg"]).removeprefix("Value error, ").partition(", unable to parse")[0]
    hint = did_you_mean(problem["input"], re.findall(r"'(.+?)'", said)) if kind == "literal_error" else ""
    return said.replace("Input should be", "must be") + hint
