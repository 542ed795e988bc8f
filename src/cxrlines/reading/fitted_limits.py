"""Limits that `cxrlines evaluate-bundle --limits --json` fitted, put into a bundle."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cxrlines.core.errors import Error
from cxrlines.reading.bundle import FORMAT, Bundle, DeviceName, Manifest, Share, first_problem


class _Limit(BaseModel):
    confidence: Share
    presence: Share


class _Fitted(BaseModel):
    fitted: dict[DeviceName, _Limit]
    films: int
    wanted: float


class _Evaluation(BaseModel):
    bundle: str
    limits: _Fitted


def with_limits(bundle: Bundle, evaluation: Path) -> Manifest:
    """The bundle's manifest with the limits in the JSON of an evaluation; devices that it does not name keep theirs.

    `meta["limits"]` says on what they were fitted. `Error` for a file without such limits, or with another bundle's.
    """
    try:
        content = json.loads(evaluation.read_text("utf-8"))
        evaluated = _Evaluation.model_validate(content)
    except (OSError, ValueError, RecursionError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else "is not readable as JSON"
        raise Error(
            f"--limits {evaluation}: {why}",
            "write it by `cxrlines evaluate-bundle FILMS --marks MARKS --limits 0.25 --json`",
        ) from None
    if evaluated.bundle != bundle.identity:
        raise Error(
            f"--limits {evaluation}: its limits were fitted to what bundle {evaluated.bundle} finds, and "
            f"{bundle.folder} is bundle {bundle.identity}",
            "evaluate that one (`cxrlines evaluate-bundle FILMS --bundle BUNDLE --limits 0.25 --json`), or name the "
            "one that was evaluated",
        )
    manifest, limits = bundle.manifest, evaluated.limits
    about = {"films": limits.films, "wanted": limits.wanted, "bundle": bundle.identity}
    fields: dict[str, Any] = {
        "format": FORMAT,
        "denied": (manifest.denied or {}) | {name: limit.presence for name, limit in limits.fitted.items()},
        "confident": (manifest.confident or {}) | {name: limit.confidence for name, limit in limits.fitted.items()},
        "meta": manifest.meta | {"limits": about},
    }
    return manifest.model_copy(update=fields)
