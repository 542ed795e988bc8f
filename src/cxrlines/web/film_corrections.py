"""Corrections of a film that the page shows: what the project has of it, and saving what a person says."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from cxrlines.core.files import OutputError
from cxrlines.corrections.correction import Correction, CorrectionError
from cxrlines.corrections.correction_journal import JournalError
from cxrlines.corrections.project import CorrectedMeanwhile, Project, ProjectError
from cxrlines.web.kept_films import KeptFilm
from cxrlines.web.problems import Problem

MOST = 5_000_000
"""Bytes of a correction."""
LONGEST_NAME = 255


def saved_correction(project: Project, film: KeptFilm) -> dict[str, Any]:
    """The latest correction of a film (null: none), and whether the model had found then what it finds now (`same`).

    `Problem` 507 where the folder cannot be read.
    """
    try:
        known = project.find(film.source)
        if known is None:
            return {"correction": None, "same": False, "count": 0}
        lines = None if known.findings is None else known.findings.get("lines")
    except (JournalError, ProjectError) as error:
        raise Problem(507, "project-not-readable", error.what, error.way_out) from None
    return {
        "correction": known.correction.model_dump(mode="json"),
        "same": lines == film.findings.as_dict()["lines"],
        "count": len(known.history),
    }


def save_correction(project: Project, film: KeptFilm, values: Any) -> dict[str, Any]:
    """Save a correction in the project: its id of the film, and the correction with its time, which is now.

    `values` may say `after` how many corrections of the film it comes. `Problem` 409 where there are others of them,
    422 for values that are no correction of the film, 507 where the folder cannot be read or written.
    """
    if not isinstance(values, Mapping):
        raise Problem(422, "correction", "the correction is no JSON object", "see /openapi.json")
    given = {name: value for name, value in values.items() if name not in ("name", "after")}
    after = values.get("after")
    if after is not None and type(after) is not int:
        raise Problem(422, "correction", "after is no whole number", "see /openapi.json")
    name = str(values.get("name") or "film").encode("utf-8", "replace").decode("utf-8")[:LONGEST_NAME]
    if isinstance(given.get("author"), str):
        given["author"] = given["author"].strip()
    try:
        correction = Correction.of({**given, "time": datetime.now(UTC)})
        known = project.save(film.source, name, film.findings.as_dict(), correction, after)
    except CorrectedMeanwhile as error:
        raise Problem(409, "corrected-meanwhile", error.what, error.way_out) from None
    except CorrectionError as error:
        raise Problem(422, "correction", error.what, error.way_out) from None
    except (JournalError, OutputError) as error:
        raise Problem(507, "project-not-writable", error.what, error.way_out) from None
    except OSError as error:
        what = f"{project.folder}: cannot be written ({error.strerror})"
        raise Problem(507, "project-not-writable", what, "check the folder's disk and permissions") from None
    return {"film": known, "correction": correction.model_dump(mode="json")}
