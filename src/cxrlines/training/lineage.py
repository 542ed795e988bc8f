"""Lineage: what a checkpoint was made from, and its training patients, those of all its ancestors among them.

Patients are kept as tokens, keyed hashes that may leave the hospital (`io.patients`). Scoring a checkpoint on a
patient in its ancestry is refused; the error names the way by which that patient got in. A checkpoint whose ancestry
cannot be traced counts as trained on all patients, unless the user vouches for it; then every figure says so.

A weights file carries its lineage in its header, so that a copy under any name keeps it.
"""

import base64
import json
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.core.errors import Error
from cxrlines.io.patients import BARE, CUT, SITE, SOME, as_known, cut, foreign, names_in

TRUSTED = "trusted"
"""The ancestry of a file in a recipe whose user vouches for it."""


class LeakError(Error):
    """A checkpoint was to be scored on patients that it, or something it was made from, has seen or may have seen."""


class UntracedError(LeakError):
    """Whether it has is not known, since what it was made from is not."""


class Ancestry(StrEnum):
    """Whether models saw the patients they are scored on, as far as that is known."""

    CLEAN = "clean"
    TRUSTED = "trusted"
    UNKNOWN = "unknown"
    LEAK = "leak"


@dataclass(frozen=True)
class Lineage:
    """A step and all it descends from.

    `patients` are the tokens of those whose films or labels this very step used; of weights out of a bundle they are
    cut (`io.patients.cut`). `parents` maps a role (`start`, `teacher`) to that ancestor's own lineage. `unknown`
    has a line for each origin that cannot be traced; `trusted` the same of those that the user vouches for.
    `pseudo_labelled`: its films were test films, learnt by soft labels as the recipe allows.
    """

    step: str
    patients: frozenset[str]
    parents: tuple[tuple[str, "Lineage"], ...] = ()
    unknown: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    pseudo_labelled: bool = False

    def walk(self) -> Iterator[tuple[tuple[str, ...], "Lineage"]]:
        """This step and every ancestor once, each with the roles that lead to it."""
        done: set[int] = set()

        def down(lineage: "Lineage", path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], "Lineage"]]:
            if id(lineage) not in done:
                done.add(id(lineage))
                yield path, lineage
                for role, parent in lineage.parents:
                    yield from down(parent, (*path, f"{role} {parent.step}"))

        yield from down(self, ())

    def seen(self) -> frozenset[str]:
        """Tokens of all patients in the ancestry."""
        return frozenset().union(*(ancestor.patients for _, ancestor in self.walk()))

    def untraced(self) -> list[str]:
        """Origins anywhere in the ancestry that are unknown, each with the step that used it."""
        return list(dict.fromkeys(f"{a.step}: {origin}" for _, a in self.walk() for origin in a.unknown))

    def vouched_for(self) -> list[str]:
        """Origins anywhere in the ancestry that are trusted and not checked, each with the step that used it."""
        return list(dict.fromkeys(f"{a.step}: {origin}" for _, a in self.walk() for origin in a.trusted))

    def pseudo_labels(self) -> list[str]:
        """The steps in the ancestry that learnt test films by soft labels."""
        return list(dict.fromkeys(a.step for _, a in self.walk() if a.pseudo_labelled))

    def trusting(self) -> "Lineage":
        """The same, whatever is unknown in it trusted."""
        parents = tuple((role, parent.trusting()) for role, parent in self.parents)
        return replace(self, parents=parents, unknown=(), trusted=(*self.trusted, *self.unknown))

    def gaps(self, patients: Collection[str], declared: str = SITE) -> list[str]:
        """Why, besides `untraced`, it is unknown whether any of these patients is in the ancestry."""
        some = []
        if strange := foreign(names_in(self.seen())):
            some.append(f"patients under the key of another site ({', '.join(sorted(strange))})")
        if f"{declared}:{SOME}" in self.seen():
            some.append(f"patients of {declared} may be among its own, under other identifiers")
        if any(shared for _, _, shared in self._met(patients, declared)):
            some.append("its patients are known by cut keys, some of which these patients share")
        return some

    def refuse_seen(self, patients: Collection[str], declared: str = SITE, *, pseudo_labelled: bool = False) -> None:
        """Raise `LeakError` if any of these patients (identifiers) is in the ancestry.

        `UntracedError` where that is unknown. `declared`: the public data set whose patients they are, or `site`.
        `pseudo_labelled`: they may have been seen by steps that were allowed to learn test films by soft labels.
        """
        known = {*self.untraced(), *self.vouched_for()}
        for way, whole, shared in self._met(patients, declared, pseudo_labelled):
            if whole or shared > _by_chance(len(patients), len(self.seen())) or (shared and not known):
                raise LeakError(
                    f"refused to score {self.step}: {whole or shared} of {len(patients)} patients were seen in training"
                    f"{'' if whole else ', or share the cut key of one who was'}, by way of {way}",
                    "score it on other patients, or train it with folds that keep these patients out of every step it "
                    "is made from" + ("" if whole else "; a run's own weights.safetensors know more than a bundle's"),
                )
        if untraced := self.untraced():
            raise UntracedError(
                f"refused to score {self.step}: its training patients are unknown: it counts as having seen all "
                f"{len(patients)} patients ({'; '.join(untraced)})",
                "start from the weights.safetensors of a run's step, which know their ancestry; if you know that they "
                f"saw none of these patients, say `ancestry: {TRUSTED}` beside `file`, which every figure will then "
                "say; or set guard: report to go on without knowing",
            )

    def _met(
        self, patients: Collection[str], declared: str, pseudo_labelled: bool = False
    ) -> Iterator[tuple[str, int, int]]:
        """Each ancestor that has seen some of the patients: the way to it, how many, how many share a cut key."""
        identities = as_known(patients, names_in(self.seen()), declared)
        halves = [set(map(cut, own)) for own in identities]
        for path, ancestor in self.walk():
            if pseudo_labelled and ancestor.pseudo_labelled:
                continue
            whole = sum(not own.isdisjoint(ancestor.patients) for own in identities)
            shared = sum(not own.isdisjoint(ancestor.patients) for own in halves)
            if whole or shared:
                yield " <- ".join((self.step, *path)), whole, shared

    def sharing(self, sets: Collection[str]) -> "Lineage":
        """The same, patients of these public sets among its own under other identifiers, for all that is known."""
        return replace(self, patients=self.patients | {f"{name}:{SOME}" for name in sets})

    def cut(self) -> "Lineage":
        """What may travel in a bundle: all patients seen as cut tokens, and what is unknown or trusted."""
        learnt = [ancestor for _, ancestor in self.walk()]
        seen = frozenset(cut(token) for a in learnt if not a.pseudo_labelled for token in a.patients)
        pseudo = tuple(
            ("pseudo-labels", Lineage(a.step, frozenset(map(cut, a.patients)), pseudo_labelled=True))
            for a in learnt
            if a.pseudo_labelled
        )
        return Lineage(self.step, seen, pseudo, tuple(self.untraced()), tuple(self.vouched_for()))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form; the inverse of `from_dict`.

        `patients` lists, by key, all that are in the ancestry; each of `steps`, parents first, has a bit for each of
        them (base64, the first bit highest), its parents by their place in the list, and what is unknown or trusted.
        """
        everyone = sorted(self.seen())
        place = {token: k for k, token in enumerate(everyone)}
        steps: list[dict[str, Any]] = []
        known: dict[str, int] = {}
        written: dict[int, int] = {}

        def add(lineage: "Lineage") -> int:
            if id(lineage) not in written:
                parents = [[role, add(parent)] for role, parent in lineage.parents]
                bits = np.zeros(len(everyone), bool)
                bits[[place[token] for token in lineage.patients]] = True
                step = {
                    "step": lineage.step,
                    "seen": base64.b64encode(np.packbits(bits).tobytes()).decode(),
                    "parents": parents,
                    "unknown": list(lineage.unknown),
                    "trusted": list(lineage.trusted),
                } | ({"pseudo_labelled": True} if lineage.pseudo_labelled else {})
                text = json.dumps(step)
                if text not in known:
                    known[text] = len(steps)
                    steps.append(step)
                written[id(lineage)] = known[text]
            return written[id(lineage)]

        add(self)
        by_name: dict[str, list[str]] = {}
        for token in everyone:
            name, _, digits = token.partition(":")
            by_name.setdefault(name, []).append(digits)
        return {"format": 2, "patients": by_name, "steps": steps}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Lineage":
        """The inverse of `as_dict`; reads the form of cxrlines 0.1 as well, which hashed patients without a key.

        `ValueError`, `KeyError`, `TypeError` or `IndexError` for anything else.
        """
        if "format" not in data:
            parents = tuple((parent["role"], cls.from_dict(parent)) for parent in data["parents"])
            patients = frozenset(f"{BARE}:{digits}" for digits in data["patients"])
            return cls(data["step"], patients, parents, tuple(data["unknown"]))
        everyone = sorted(f"{name}:{digits}" for name, some in data["patients"].items() for digits in some)
        made: list[Lineage] = []
        for step in data["steps"]:
            bits = np.unpackbits(np.frombuffer(base64.b64decode(step["seen"]), np.uint8))
            if not len(everyone) <= len(bits) < len(everyone) + 8:
                raise ValueError(f"step {len(made)} has {len(bits)} bits for {len(everyone)} patients")
            patients = frozenset(everyone[k] for k in np.flatnonzero(bits))
            parents = tuple((str(role), made[place]) for role, place in step["parents"])
            origins = tuple(step["unknown"]), tuple(step["trusted"])
            made.append(cls(step["step"], patients, parents, *origins, step.get("pseudo_labelled") is True))
        return made[-1]

    def text(self) -> str:
        """`as_dict` as JSON, for a file or a weights file's header."""
        return json.dumps(self.as_dict(), separators=(",", ":"))


def read_lineage(path: Path) -> Lineage:
    """The lineage written beside a checkpoint."""
    return Lineage.from_dict(json.loads(path.read_text()))


def state_of(lineages: Iterable[Lineage], *, leaked: bool) -> Ancestry:
    """The worst ancestry of models that are scored together."""
    some = list(lineages)
    if leaked:
        return Ancestry.LEAK
    if any(lineage.untraced() for lineage in some):
        return Ancestry.UNKNOWN
    return Ancestry.TRUSTED if any(lineage.vouched_for() for lineage in some) else Ancestry.CLEAN


def _by_chance(patients: int, seen: int) -> float:
    """How many of so many other patients may share a cut token with one of `seen`: five deviations above the mean."""
    expected = patients * seen / 16**CUT
    return expected + 5 * math.sqrt(expected) + 1
