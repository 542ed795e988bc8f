"""External sets of films in a run: read, decoded once, and kept apart from the films a model is judged on.

The same film may lie in two collections under two names (28,729 of NIH's are RANZCR's, see RECIPES). Twins of films
that are held out, and all films of their patients, are left out of training.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlines.core.files import write_text
from cxrlines.io.dedup.twins import twins_of_stores
from cxrlines.io.external.layouts import LAYOUTS, PRESENCE
from cxrlines.io.external.sets import read_external
from cxrlines.io.patients import SITE, is_phantom, key_name
from cxrlines.io.prepare import Aspect, LeaveOut, Probe
from cxrlines.io.store import Store, build_store, open_store
from cxrlines.io.tables import Dataset
from cxrlines.recipe.run.people import People, of_set
from cxrlines.recipe.spec.recipe import ExternalSpec

STUDIES, TWINS, COUNTS = "studies.csv", "twins.csv", "set.json"
_TEST = "test"


@dataclass(frozen=True)
class ExternalSet:
    """One set: `studies` with study, patient, film, view and PRESENCE, in the order of the store's films.

    `twins` has a row for each film of it that is also one of the own set: study (here), own_study, own_patient, split.
    `store` is the store's fingerprint, `taken` the studies that the gate takes along (None: all), `key` the name of the
    key under which its patients are hashed.
    """

    name: str
    studies: pd.DataFrame
    store: str
    twins: pd.DataFrame
    left_out: dict[str, int] = field(default_factory=dict)
    taken: frozenset[str] | None = None
    key: str = SITE
    _known: dict[tuple[bytes, bool], str] = field(default_factory=dict, repr=False, compare=False)

    def rows(self, held: set[str]) -> np.ndarray:
        """Rows to train on where the own patients `held` must not be seen; test films must never be."""
        twin = self.twins[(self.twins["split"] == _TEST) | self.twins["own_patient"].isin(held)]
        studies = self.studies["study"].isin(set(twin["study"]))
        patients = set(self.studies["patient"][studies])
        wanted = ~self.studies["patient"].isin(patients).to_numpy()
        if self.taken is not None:
            wanted &= self.studies["study"].isin(self.taken).to_numpy()
        return np.flatnonzero(wanted)

    def patients(self, rows: np.ndarray) -> set[str]:
        """Whom these rows show: patients of this set, and the own patients of twins among them."""
        theirs, own = self._people(rows)
        return {f"{self.name}:{patient}" for patient in theirs} | own

    def tokens(self, rows: np.ndarray, people: People) -> set[str]:
        """The tokens of `patients`."""
        theirs, own = self._people(rows)
        return of_set(theirs, self.name, self.key) | people.tokens(own)

    def _people(self, rows: np.ndarray) -> tuple[set[str], set[str]]:
        some = self.studies.iloc[rows]
        own = self.twins["own_patient"][self.twins["study"].isin(set(some["study"]))]
        return set(some["patient"].astype(str)), set(own.astype(str))

    def identity(self, rows: np.ndarray, *, presence: bool) -> str:
        """Hash of the store, the studies, who they are twins of, and, where learnt from, the tube labels."""
        asked = (rows.tobytes(), presence)
        if asked not in self._known:  # a plan asks for the same rows again and again, and they may be 100,000
            digest = hashlib.sha256(self.store.encode())
            digest.update(json.dumps(self.studies["study"].iloc[rows].tolist()).encode())
            digest.update(json.dumps(sorted(self.patients(rows))).encode())
            if presence:
                digest.update(np.ascontiguousarray(self.presence(rows)).tobytes())
            self._known[asked] = digest.hexdigest()
        return self._known[asked]

    def presence(self, rows: np.ndarray) -> np.ndarray:
        """(n, PRESENCE) float32: 1 there, 0 not there, NaN unknown."""
        return self.studies[list(PRESENCE)].iloc[rows].to_numpy(np.float32)


def prepare_set(
    name: str, spec: ExternalSpec, root: Path, own: dict[str, tuple[Dataset, Store]], *, size: int, aspect: Aspect,
    probe: Probe | None = None, workers: int,
) -> ExternalSet:  # fmt: skip
    """Read a set, prepare its films in `root`, find its twins in the own splits. Cheap when done before."""
    assert spec.folder is not None  # the run saw to it
    found = read_external(Path(spec.folder), laterals=spec.laterals, children=spec.children)
    dataset = Dataset(found.root, found.studies, left_out=found.left_out)
    store = build_store(dataset, root / "store", size=size, aspect=aspect, probe=probe, workers=workers)
    table = found.studies.set_index("study").loc[store.studies].reset_index()
    counts = dict(found.left_out)
    if store.left_out:
        counts["film that could not be read"] = len(store.left_out)
    against = {split: other.fingerprint for split, (_, other) in own.items()} | {"this": store.fingerprint}
    _twins(root / TWINS, against, own, store, workers)
    declared = spec.patients or (found.kind if found.kind in LAYOUTS else SITE)
    key = key_name(declared, phantom=is_phantom(found))
    write_text(root / STUDIES, table.to_csv(index=False))
    write_text(root / COUNTS, json.dumps({"patients": key, "left_out": counts}, indent=1))
    return open_set(name, root)[0]


def open_set(name: str, root: Path, gate: LeaveOut = "not-films") -> tuple[ExternalSet, Store]:
    """A prepared set, of which `gate` says what is trained on, and its store."""
    store = open_store(root / "store")
    table, twins = _read_table(root / STUDIES), _read_table(root / TWINS)
    said = json.loads((root / COUNTS).read_text())
    counts = said["left_out"] | {f"left out: {code}": count for code, count in store.counts(gate)[0].items()}
    taken = frozenset(store.taken(gate))
    return ExternalSet(name, table, store.fingerprint, twins, counts, taken, said["patients"]), store


def _read_table(path: Path) -> pd.DataFrame:
    """A table as it was written: names are text, a patient called NA among them; tube labels are numbers."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    tubes = [name for name in PRESENCE if name in table]
    return table.assign(**{name: pd.to_numeric(table[name]) for name in tubes})


def _twins(
    path: Path, against: dict[str, str], own: dict[str, tuple[Dataset, Store]], store: Store, workers: int
) -> pd.DataFrame:
    patient = {
        (split, study): who
        for split, (dataset, _) in own.items()
        for study, who in zip(*(dataset.studies[name].astype(str) for name in ("study", "patient")), strict=True)
    }
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
    # Films stay twins while the tables of who is who change.
    own_patient = [patient[film] for film in zip(table["split"], table["own_study"], strict=True)]
    table = table.assign(own_patient=pd.Series(own_patient, index=table.index, dtype=object))
    write_text(path, table.to_csv(index=False))
    write_text(mark, json.dumps(against))
    return table
