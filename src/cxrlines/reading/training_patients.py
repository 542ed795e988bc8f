"""Which patients each model of a bundle was trained on, so that it need not be evaluated on them.

`seen.json` of a bundle: {"<weights file>": {"<name of a key>": [digits of cut tokens, ...]}}; cxrlines 0.1 wrote a list
of cut bare hashes for each file. A token (`io.patients`) is cut to so few digits that many identifiers share it: a
bundle travels, and must not give away who was there. Every training patient is recognised by it; with n of them, one in
2^20 / n other patients is taken for one of them: 1 in 350 with the 3,000 of RANZCR. `*` stands for patients of a public
set who may be among them under other identifiers.
"""

import json
from collections.abc import Iterable, Mapping

from cxrlines.io.patients import BARE, CUT, SOME, as_known, cut, foreign, names_in
from cxrlines.reading.bundle import Bundle, BundleError

SEEN = "seen.json"


def patients_text(patients: Mapping[str, Iterable[str]]) -> str:
    """The content of `SEEN`, from weights file -> tokens of the patients in its lineage, whole or cut."""
    files: dict[str, dict[str, list[str]]] = {file: {} for file in patients}
    for file, tokens in patients.items():
        for token in sorted(set(map(cut, tokens))):
            key, _, digits = token.partition(":")
            files[file].setdefault(key, []).append(digits)
    return json.dumps(files) + "\n"


def training_patients(bundle: Bundle) -> frozenset[str] | None:
    """The cut tokens of all patients that any model of the bundle was trained on; None where the bundle has no list.

    Raises:
        BundleError: Its list is of another form.
    """
    if SEEN not in bundle.manifest.files:
        return None
    patients, text = set(), bundle.read(SEEN)
    try:
        files = json.loads(text)
        for entry in bundle.manifest.models:
            keys = files[entry.file]
            if not isinstance(keys, dict):
                keys = {BARE: [*keys]}  # as cxrlines 0.1 wrote it
            for key, tokens in keys.items():
                if any(not isinstance(digits, str) or (len(digits) != CUT and digits != SOME) for digits in tokens):
                    raise ValueError(f"a key has not {CUT} digits")
                patients |= {f"{key}:{digits}" for digits in tokens}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(
            f"{bundle.folder / SEEN}: does not list the patients each model has seen ({error})", "export it again"
        ) from error
    return frozenset(patients)


def is_training_patient(patient: str, seen: frozenset[str]) -> bool:
    """Whether a patient, by identifier, is among those that models have seen, or shares the cut token of one.

    `seen`: as `training_patients` gives it.
    """
    return any(cut(token) in seen for token in as_known([patient], names_in(seen))[0])


def has_other_sites(seen: frozenset[str]) -> bool:
    """Whether some training patients cannot be compared with anyone here: they are kept under another site's key."""
    return bool(foreign(names_in(seen)))
