"""Lineage: what a checkpoint was made from, and which patients any of its ancestors saw.

Patients are kept as the first 16 hex digits of the SHA-256 of their identifier, so that a lineage file can leave
the hospital that made it. Scoring a checkpoint on a patient in its ancestry is refused; the error names the way by
which that patient got in.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxrlines.errors import Error


class LeakError(Error):
    """A checkpoint was to be scored on patients that it, or something it was made from, has seen."""


def patient_key(patient: str) -> str:
    """16 hex digits that stand for a patient in lineage files."""
    return hashlib.sha256(str(patient).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Lineage:
    """A step and all it descends from.

    `parents` maps a role (`start`, `teacher`) to that ancestor's own lineage. `patients` are the keys of those
    whose films or labels this very step used. `unknown` says, for each origin that cannot be traced, what it is.
    """

    step: str
    patients: frozenset[str]
    parents: tuple[tuple[str, "Lineage"], ...] = ()
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        step: str,
        patients: Iterable[str],
        parents: Iterable[tuple[str, "Lineage"]] = (),
        unknown: Iterable[str] = (),
    ) -> "Lineage":
        """A lineage from patient identifiers (hashed here)."""
        return cls(step, frozenset(map(patient_key, patients)), tuple(parents), tuple(unknown))

    def walk(self, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], "Lineage"]]:
        """This step and every ancestor, each with the roles that lead to it, nearest first."""
        yield path, self
        for role, parent in self.parents:
            yield from parent.walk((*path, f"{role} {parent.step}"))

    def seen(self) -> frozenset[str]:
        """Keys of all patients in the ancestry."""
        return frozenset().union(*(ancestor.patients for _, ancestor in self.walk()))

    def untraced(self) -> list[str]:
        """Origins anywhere in the ancestry that cannot be known, each with the step that used it."""
        return [f"{ancestor.step}: {origin}" for _, ancestor in self.walk() for origin in ancestor.unknown]

    def refuse_seen(self, patients: Iterable[str]) -> None:
        """Raise `LeakError` if any of these patients (identifiers) is in the ancestry."""
        asked = {patient_key(patient) for patient in patients}
        for path, ancestor in self.walk():
            leaked = sorted(asked & ancestor.patients)
            if leaked:
                way = " <- ".join((self.step, *path))
                raise LeakError(
                    f"refused to score {self.step}: {len(leaked)} of {len(asked)} patients were seen in training "
                    f"(first key: {leaked[0]}), by way of {way}. Score it on other patients, or train it with folds "
                    "that keep these patients out of every step it is made from."
                )

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form; the inverse of `from_dict`."""
        return {
            "step": self.step,
            "patients": sorted(self.patients),
            "parents": [{"role": role, **parent.as_dict()} for role, parent in self.parents],
            "unknown": list(self.unknown),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Lineage":
        """The inverse of `as_dict`."""
        return cls(
            data["step"],
            frozenset(data["patients"]),
            tuple((parent["role"], cls.from_dict(parent)) for parent in data["parents"]),
            tuple(data["unknown"]),
        )


def read_lineage(path: Path) -> Lineage:
    """The lineage written beside a checkpoint."""
    return Lineage.from_dict(json.loads(path.read_text()))
