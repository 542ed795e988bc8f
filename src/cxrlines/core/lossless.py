"""Findings as JSON without rounding, and back: for files that cxrlines writes for itself.

What others read is `Findings.as_dict`, which rounds.
"""

from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from cxrlines.core.findings import Findings


def plain(findings: Findings) -> dict[str, Any]:
    """Findings as values for `json`; `built` gives the same findings back, to the last bit."""
    values: dict[str, Any] = _plain(findings)
    return values


def built(values: dict[str, Any]) -> Findings:
    """The findings that `plain` was given. `KeyError`, `ValueError` or `TypeError` for what it did not write."""
    findings: Findings = _built(Findings, values)
    return findings


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _built(kind: Any, value: Any) -> Any:
    """A value of the type `kind`, as annotated in a dataclass."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (other,) = (arg for arg in args if arg is not NoneType)
        return None if value is None else _built(other, value)
    if is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        return kind(**{name: _built(hints[name], each) for name, each in value.items()})  # type: ignore[operator]
    if origin is tuple:
        kinds = [args[0]] * len(value) if args[1:] == (...,) else args
        return tuple(_built(one, each) for one, each in zip(kinds, value, strict=True))
    if origin is dict:
        return {_built(args[0], key): _built(args[1], each) for key, each in value.items()}
    if kind is np.ndarray:
        return np.array(value, np.float64)
    if issubclass(kind, Enum):
        return kind[value]
    return value
