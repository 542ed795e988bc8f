"""Which patients each model of a bundle has seen, so that it need not be judged on them.

`seen.json` of a bundle: {"<weights file>": [keys of patients, ...]}. A key is cut to so few digits that many
identifiers share it: a bundle travels, and must not tell who was there. Every patient seen is known by it, and where n
were seen, one in 2^20 / n of those never seen is taken for one of them: 1 in 350 with the 3,000 of RANZCR.
"""

import json
from collections.abc import Iterable, Mapping

from cxrlines.inference.bundle import Bundle, BundleError
from cxrlines.inference.index import patient_key

SEEN = "seen.json"
DIGITS = 5


def seen_text(seen: Mapping[str, Iterable[str]]) -> str:
    """The content of `SEEN`, from weights file -> keys of the patients in its lineage."""
    return json.dumps({name: sorted({key[:DIGITS] for key in keys}) for name, keys in seen.items()}) + "\n"


def seen_by(bundle: Bundle) -> frozenset[str] | None:
    """The cut keys of all patients that any model of the bundle has seen; None where the bundle does not tell.

    `BundleError` if it tells something else.
    """
    if SEEN not in bundle.manifest.files:
        return None
    path = bundle.folder / SEEN
    try:
        told = json.loads(path.read_text("utf-8"))
        each = [told[entry.file] for entry in bundle.manifest.models]
        if any(not isinstance(key, str) or len(key) != DIGITS for keys in each for key in keys):
            raise ValueError(f"a key has not {DIGITS} digits")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path}: does not list the patients each model has seen ({error}); pack it anew") from error
    return frozenset(key for keys in each for key in keys)


def was_seen(patient: str, seen: frozenset[str]) -> bool:
    """Whether a patient, by identifier, is among those seen, or shares the cut key of one."""
    return patient_key(patient)[:DIGITS] in seen
