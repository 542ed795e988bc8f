"""External sets of films in a run: read, decoded once, and kept apart from the films a model is scored on.

The same film may lie in two collections under two names (28,729 of NIH's are RANZCR's, see RECIPES). Twins of films
that are held out, and all films of their patients, are left out of training.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.files import write_text
from cxrlines.core.text import plural
from cxrlines.core.transform import Size
from cxrlines.io.dedup.twins import twins_of_stores
from cxrlines.io.external.layouts import LAYOUTS, PRESENCE
from cxrlines.io.external.sets import read_external
from cxrlines.io.patients import PSEUDO, SITE, is_phantom, key_name
from cxrlines.io.prepare import Aspect, LeaveOut, Probe
from cxrlines.io.rows import bare
from cxrlines.io.store import Store, build_store, open_store
from cxrlines.io.tables import Dataset
from cxrlines.recipe.run.patient_groups import PatientGroups, tokens_of_set
from cxrlines.recipe.spec.parts import ExternalSpec
from cxrlines.training.targets.base import TEST_SET

STUDIES, TWINS, OWN_PATIENTS, COUNTS = "studies.csv", "twins.csv", "own_patients.csv", "set.json"
OWN = "own"
"""What `ExternalSpec.patients` is of a set whose identifiers are those of the own films."""


@dataclass(frozen=True)
class ExternalSet:
    """One set: `studies` with study, patient, film, view and PRESENCE, in the order of the store's films.

    `twins` has a row for each film of it that is also one of the own set: study (here), own_study, own_patient, split.
    `store` is the store's fingerprint, `taken` the studies that the gate takes along (None: all), `key` the name of the
    key under which its patients are hashed. `own` has a row for each film of it whose patient has own films too: study,
    own_patient, split; None where its patients are others. `meta` says who labelled it, if a bundle did.
    """

    name: str
    studies: pd.DataFrame
    store: str
    twins: pd.DataFrame
    left_out: dict[str, int] = field(default_factory=dict)
    taken: frozenset[str] | None = None
    key: str = SITE
    own: pd.DataFrame | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    _identities: dict[tuple[bytes, bool], str] = field(default_factory=dict, repr=False, compare=False)

    def rows(self, held: set[str]) -> np.ndarray:
        """Rows to train on, (n,), without films of the own patients `held`, nor of any patient of the test films."""
        twin = self.twins if self.own is None else pd.concat([self.twins, self.own])
        twin = twin[(twin["split"] == "test") | twin["own_patient"].isin(held)]
        patients = self.studies["patient"][self.studies["study"].isin(set(twin["study"]))]
        wanted = ~self.studies["patient"].isin(set(patients)).to_numpy()
        if self.taken is not None:
            wanted &= self.studies["study"].isin(self.taken).to_numpy()
        return np.flatnonzero(wanted)

    def patients(self, rows: np.ndarray) -> set[str]:
        """The patients of these rows: `SET:PATIENT` of this set, and the own patients of twins among them."""
        patients, own = self._patients(rows)
        return {f"{self.name}:{patient}" for patient in patients} | own

    def tokens(self, rows: np.ndarray, groups: PatientGroups) -> set[str]:
        """The tokens of `patients`."""
        patients, own = self._patients(rows)
        return tokens_of_set(patients, self.name, self.key) | groups.tokens(own)

    def _patients(self, rows: np.ndarray) -> tuple[set[str], set[str]]:
        some = self.studies.iloc[rows]
        patients = set(some["patient"].astype(str))
        own = set(self.twins["own_patient"][self.twins["study"].isin(set(some["study"]))].astype(str))
        return (patients, own) if self.own is None else (set(), patients | own)

    def identity(self, rows: np.ndarray, *, presence: bool) -> str:
        """Hash of the store, the studies, their twins' patients, and, where learnt from, the tube labels."""
        asked = (rows.tobytes(), presence)
        if asked not in self._identities:  # a plan asks for the same rows again and again, and they may be 100,000
            digest = hashlib.sha256(self.store.encode())
            digest.update(json.dumps(self.studies["study"].iloc[rows].tolist()).encode())
            digest.update(json.dumps(sorted(self.patients(rows))).encode())
            if presence:
                digest.update(np.ascontiguousarray(self.presence(rows)).tobytes())
            self._identities[asked] = digest.hexdigest()
        return self._identities[asked]

    def presence(self, rows: np.ndarray) -> np.ndarray:
        """(n, PRESENCE) float32: 1 there, 0 not there, NaN unknown."""
        return self.studies[list(PRESENCE)].iloc[rows].to_numpy(np.float32)


def own_test(test: Dataset, store: Store, gate: LeaveOut, key: str) -> tuple[ExternalSet, Store]:
    """The own test films as a stage sees them that learns soft labels of them; no label of theirs can be read."""
    table = test.studies[["study", "patient", "film"]].set_index("study").loc[store.studies].reset_index()
    none = pd.DataFrame({"study": [], "own_study": [], "own_patient": [], "split": []}, dtype=object)
    return ExternalSet(TEST_SET, table, store.fingerprint, none, {}, frozenset(store.taken(gate)), key, none), store


def prepare_set(
    name: str, spec: ExternalSpec, root: Path, own: dict[str, tuple[Dataset, Store]], groups: PatientGroups, *,
    size: Size, aspect: Aspect, probe: Probe | None = None, workers: int, gate: LeaveOut = "not-films",
) -> tuple[ExternalSet, Store]:  # fmt: skip
    """Read a set, prepare its films in `root`, find its twins in the own splits. Cheap when done before.

    `groups`: the own patients; `own` has one identifier for each group.

    Raises:
        Error: Patients of a set of the site have the identifiers of own ones, and the recipe does not say whether they
            are the same people; or they have them but for zeros in front and the like.
    """
    assert spec.folder is not None  # the run saw to it
    found = read_external(Path(spec.folder), laterals=spec.laterals, children=spec.children)
    dataset = Dataset(found.root, found.studies, left_out=found.left_out)
    store = build_store(dataset, root / "store", size=size, aspect=aspect, probe=probe, workers=workers)
    table = found.studies.set_index("study").loc[store.studies].reset_index()
    counts = dict(found.left_out)
    if store.left_out:
        counts["film that could not be read"] = len(store.left_out)
    _write_twins(root / TWINS, own, store, workers)
    declared = spec.patients or (found.kind if found.kind in LAYOUTS else SITE)
    key = groups.key if declared == OWN else key_name(declared, phantom=is_phantom(found))
    same = _of_own_patients(table, own, groups)
    if spec.patients is None and key.startswith(f"{SITE}-") and len(same):
        count = plural(same["own_patient"].nunique(), "patient has", "patients have")
        raise Error(
            f"external.{name}: {count} the identifier of an own one",
            f"set external.{name}.patients: own where they are the same people, so that no held-out patient is trained "
            f"on; {SITE} where they are not",
        )
    if (declared == OWN or (spec.patients is None and key.startswith(f"{SITE}-"))) and (
        alike := _alike(table, own, groups)
    ):
        raise Error(
            f"external.{name}: the identifiers of {plural(alike, 'patient differ', 'patients differ')} from an own one "
            "by zeros in front, `.0` behind or the coding of an accent alone",
            "write them alike in both tables where they are the same people"
            + ("" if declared == OWN else f"; set external.{name}.patients: {SITE} where they are not"),
        )
    if declared == OWN:
        table = groups.merged(replace(dataset, studies=table)).studies
        write_text(root / OWN_PATIENTS, same.to_csv(index=False))
    else:
        (root / OWN_PATIENTS).unlink(missing_ok=True)
    write_text(root / STUDIES, table.to_csv(index=False))
    meta = found.meta if found.meta.get("kind") == PSEUDO else {}
    write_text(root / COUNTS, json.dumps({"patients": key, "left_out": counts, "meta": meta}, indent=1))
    return open_set(name, root, gate)


def open_set(name: str, root: Path, gate: LeaveOut = "not-films") -> tuple[ExternalSet, Store]:
    """A prepared set, of which `gate` says what is trained on, and its store."""
    store = open_store(root / "store")
    table, twins = _read_table(root / STUDIES), _read_table(root / TWINS)
    kept = json.loads((root / COUNTS).read_text())
    counts = kept["left_out"] | {f"left out: {code}": count for code, count in store.counts(gate)[0].items()}
    taken = frozenset(store.taken(gate))
    own = _read_table(root / OWN_PATIENTS) if (root / OWN_PATIENTS).is_file() else None
    meta = kept.get("meta", {})
    return ExternalSet(name, table, store.fingerprint, twins, counts, taken, kept["patients"], own, meta), store


def _of_own_patients(table: pd.DataFrame, own: dict[str, tuple[Dataset, Store]], groups: PatientGroups) -> pd.DataFrame:
    """The films of a set whose patients have own films, by identifier: study, own_patient, split."""
    patients = table["patient"].astype(str).map(lambda patient: groups.group_of.get(patient, patient))
    rows = []
    for split, (dataset, _) in own.items():
        there = patients.isin(set(dataset.studies["patient"].astype(str)))
        rows.append(pd.DataFrame({"study": table["study"][there], "own_patient": patients[there]}).assign(split=split))
    return pd.concat(rows, ignore_index=True)


def _alike(table: pd.DataFrame, own: dict[str, tuple[Dataset, Store]], groups: PatientGroups) -> int:
    """How many patients of a set have the identifier of an own one if `bare`, and not as it is written."""
    known = set(groups.group_of).union(*(set(dataset.studies["patient"].astype(str)) for dataset, _ in own.values()))
    near = set(map(bare, known))
    return sum(bare(patient) in near for patient in set(table["patient"].astype(str)) - known)


def _read_table(path: Path) -> pd.DataFrame:
    """A table as it was written: names are text, a patient called NA among them; tube labels are numbers."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.assign(**{name: pd.to_numeric(table[name]) for name in PRESENCE if name in table})


def _write_twins(path: Path, own: dict[str, tuple[Dataset, Store]], store: Store, workers: int) -> None:
    """Write the twins of a set; they are searched for again only where films changed, not where patients did."""
    against = {split: other.fingerprint for split, (_, other) in own.items()} | {"this": store.fingerprint}
    mark = path.with_suffix(".json")
    if path.is_file() and mark.is_file() and json.loads(mark.read_text()) == against:
        table = _read_table(path)
    else:
        rows = [
            (store.studies[twin.b], other.studies[twin.a], "", split)
            for split, (_, other) in own.items()
            for twin in twins_of_stores(other, store, workers=workers)
        ]
        table = pd.DataFrame(rows, columns=["study", "own_study", "own_patient", "split"], dtype=object)
    patients = {split: dataset.studies.set_index("study")["patient"].astype(str) for split, (dataset, _) in own.items()}
    own_patient = [patients[split][study] for split, study in zip(table["split"], table["own_study"], strict=True)]
    table = table.assign(own_patient=pd.Series(own_patient, index=table.index, dtype=object))
    write_text(path, table.to_csv(index=False))
    write_text(mark, json.dumps(against))
