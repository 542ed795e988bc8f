"""Patient groups: identifiers with a film in common are one patient, for folds, the leak guard and all figures.

The same film, re-encoded, mirrored or turned, may lie in a set under several patient identifiers.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxrlines.core.files import write_text
from cxrlines.core.text import plural
from cxrlines.io.dedup.twins import copies_in_stores
from cxrlines.io.patients import SITE, tokens
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.training.lineage import LeakError

SAME_FILMS = "same_films.csv"
COLUMNS = ("study_a", "patient_a", "split_a", "study_b", "patient_b", "split_b")
_MARK = "same_films.json"


@dataclass(frozen=True)
class PatientGroups:
    """The own patients of a run.

    `key`: the name of the key under which they are hashed. `pairs`: two films a row (`COLUMNS`) that are the same
    picture under two patient identifiers.
    """

    key: str
    pairs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS), dtype=object))

    @cached_property
    def group_of(self) -> dict[str, str]:
        """Identifier -> the first by name of all that share films with it; only those that share any."""
        if not len(self.pairs):
            return {}
        names, places = np.unique(self.pairs[["patient_a", "patient_b"]].to_numpy(str), return_inverse=True)
        a, b = places.reshape(-1, 2).T
        edges = coo_array((np.ones(len(a)), (a, b)), shape=(len(names), len(names)))
        first: dict[int, str] = {}
        groups = connected_components(edges, directed=False)[1].tolist()
        return {name: first.setdefault(group, name) for name, group in zip(names.tolist(), groups, strict=True)}

    def merged(self, dataset: Dataset) -> Dataset:
        """The table with one identifier for each group."""
        if not self.group_of:
            return dataset
        patient = dataset.studies["patient"].astype(str).map(lambda patient: self.group_of.get(patient, patient))
        return replace(dataset, studies=dataset.studies.assign(patient=patient))

    def identifiers(self, patients: Iterable[str]) -> set[str]:
        """All identifiers of these patients."""
        some = set(patients)
        return some | {patient for patient, group in self.group_of.items() if group in some}

    def tokens(self, patients: Iterable[str]) -> set[str]:
        """The tokens of all identifiers of these patients."""
        return set(tokens(sorted(self.identifiers(patients)), self.key))

    def text(self) -> str:
        """How many films and patients are grouped; empty where none is."""
        if not len(self.pairs):
            return ""
        across = int((self.pairs["split_a"] != self.pairs["split_b"]).sum())
        return (
            f"{plural(len(self.pairs), 'pair of films is', 'pairs of films are')} the same picture (re-encoded, "
            f"resized, mirrored or turned) under two patient identifiers: {len(self.group_of)} patients are taken for "
            f"{len(set(self.group_of.values()))}"
            + (f"; {across} of the pairs are of a training and a test film" if across else "")
        )


def find_patient_groups(root: Path, own: Mapping[str, tuple[Dataset, Store]], key: str) -> PatientGroups:
    """The patient groups of a run's splits, by the films in their stores; listed in `root`, and searched for once."""
    patients = {
        split: dict(zip(*(dataset.studies[name].astype(str) for name in ("study", "patient")), strict=True))
        for split, (dataset, _) in own.items()
    }
    content = json.dumps([key, {split: [store.fingerprint, patients[split]] for split, (_, store) in own.items()}])
    mark = {"of": hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest(), "key": key}
    path = root / _MARK
    if not (path.is_file() and json.loads(path.read_text()) == mark):
        splits, stores = list(own), [store for _, store in own.values()]
        rows = []
        for pair in copies_in_stores(stores):
            if not any(stores[split].kept[row].quality.usable for split, row in pair):
                continue  # a black film, or a page that stands for a film, may be of any number of patients
            (study_a, split_a), (study_b, split_b) = ((stores[s].studies[row], splits[s]) for s, row in pair)
            patient_a, patient_b = patients[split_a][study_a], patients[split_b][study_b]
            if patient_a != patient_b:
                rows.append((study_a, patient_a, split_a, study_b, patient_b, split_b))
        write_text(root / SAME_FILMS, pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).to_csv(index=False))
        write_text(path, json.dumps(mark))
    return open_patient_groups(root)


def open_patient_groups(root: Path) -> PatientGroups:
    """The patient groups of a prepared run."""
    pairs = pd.read_csv(root / SAME_FILMS, dtype=str, keep_default_na=False)
    return PatientGroups(json.loads((root / _MARK).read_text())["key"], pairs)


def check_patient_groups(train: Dataset, test: Dataset | None, folds: pd.Series) -> None:
    """`LeakError` where a group of identifiers has films in two folds, or in both training and test.

    Both tables are `PatientGroups.merged`, `folds` has the fold of each row of `train`.
    """
    split = int((folds.groupby(train.studies["patient"]).nunique() > 1).sum())
    both = set() if test is None else set(train.studies["patient"]) & set(test.studies["patient"])
    for count, where, way_out in (
        (split, "two folds", "draw the folds again (without folds.file)"),
        (len(both), "both training and test", "leave them out of one of the two"),
    ):
        if count:
            raise LeakError(
                f"{plural(count, 'patient has', 'patients have')} films in {where}: the same films are there under "
                f"other identifiers ({SAME_FILMS} in the run's folder lists them)",
                f"{way_out}, or set guard: report to go on and say so in every figure",
            )


def tokens_of_set(patients: Iterable[str], name: str, key: str) -> set[str]:
    """The tokens of patients of the external set `name`; under the site's key they have its name before them."""
    own = key.startswith(f"{SITE}-")
    return set(tokens([f"{name}:{patient}" if own else patient for patient in patients], key))
