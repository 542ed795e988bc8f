"""Who is who in a run: patients with a film in common are one person; and the tokens by which lineages know them.

The same film, re-encoded, mirrored or turned, may lie in a set under several patient identifiers. Folds, the guard and
all figures by patient take those patients for one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from cxrlines.core.files import write_text
from cxrlines.io.dedup.twins import copies_in_stores
from cxrlines.io.patients import SITE, tokens
from cxrlines.io.store import Store
from cxrlines.io.tables import Dataset
from cxrlines.training.lineage import LeakError

SAME_FILMS = "same_films.csv"
COLUMNS = ("study_a", "patient_a", "split_a", "study_b", "patient_b", "split_b")
_MARK = "same_films.json"


@dataclass(frozen=True)
class People:
    """The own patients of a run.

    `key`: the name of the key under which they are hashed. `pairs`: two films a row (`COLUMNS`) that are the same
    picture, though their patients differ.
    """

    key: str
    pairs: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COLUMNS), dtype=object))

    @cached_property
    def taken_for(self) -> dict[str, str]:
        """Patient -> whom they are taken for, the first by name of all who share films; only those who do."""
        found: dict[str, str] = {}

        def first(patient: str) -> str:
            while found.get(patient, patient) != patient:
                patient = found[patient]
            return patient

        for a, b in zip(self.pairs["patient_a"], self.pairs["patient_b"], strict=True):
            one, other = sorted((first(a), first(b)))
            found |= {a: found.get(a, a), b: found.get(b, b), one: one, other: one}
        return {patient: first(patient) for patient in found}

    def merged(self, dataset: Dataset) -> Dataset:
        """The table with one name for each person."""
        if not self.taken_for:
            return dataset
        patient = dataset.studies["patient"].astype(str).map(lambda patient: self.taken_for.get(patient, patient))
        return replace(dataset, studies=dataset.studies.assign(patient=patient))

    def names(self, patients: Iterable[str]) -> set[str]:
        """All identifiers of these patients."""
        some = set(patients)
        return some | {patient for patient, one in self.taken_for.items() if one in some}

    def tokens(self, patients: Iterable[str]) -> set[str]:
        """The tokens of all identifiers of these patients."""
        return set(tokens(sorted(self.names(patients)), self.key))

    def text(self) -> str:
        """What was found, in counts; empty where nothing was."""
        if not len(self.pairs):
            return ""
        across = int((self.pairs["split_a"] != self.pairs["split_b"]).sum())
        return (
            f"{len(self.pairs)} pairs of films are the same picture (re-encoded, resized, mirrored or turned) under "
            f"two patient identifiers: {len(self.taken_for)} patients are taken for {len(set(self.taken_for.values()))}"
            + (f"; {across} of the pairs are of a training and a test film" if across else "")
        )


def find_people(root: Path, own: Mapping[str, tuple[Dataset, Store]], key: str) -> People:
    """The people of a run's splits, from the films of their stores; listed in `root`, and looked for once."""
    patients = {split: dict(zip(*_columns(dataset), strict=True)) for split, (dataset, _) in own.items()}
    told = json.dumps([key, {split: [store.fingerprint, patients[split]] for split, (_, store) in own.items()}])
    mark = hashlib.sha256(told.encode(errors="surrogateescape")).hexdigest()
    path = root / _MARK
    if not (path.is_file() and json.loads(path.read_text()) == {"of": mark, "key": key}):
        splits = list(own)
        rows = []
        for a, b in copies_in_stores([store for _, store in own.values()]):
            if not any(own[splits[s]][1].kept[row].quality.usable for s, row in (a, b)):
                continue  # a black film, or a page that stands for a film, may be of any number of patients
            films = [(own[splits[s]][1].studies[row], splits[s]) for s, row in (a, b)]
            (study_a, split_a), (study_b, split_b) = films
            who = patients[split_a][study_a], patients[split_b][study_b]
            if who[0] != who[1]:
                rows.append((study_a, who[0], split_a, study_b, who[1], split_b))
        write_text(root / SAME_FILMS, pd.DataFrame(rows, columns=list(COLUMNS), dtype=object).to_csv(index=False))
        write_text(path, json.dumps({"of": mark, "key": key}))
    return open_people(root)


def open_people(root: Path) -> People:
    """The people of a prepared run."""
    pairs = pd.read_csv(root / SAME_FILMS, dtype=str, keep_default_na=False)
    return People(json.loads((root / _MARK).read_text())["key"], pairs)


def check_people(train: Dataset, test: Dataset | None, folds: pd.Series) -> None:
    """`LeakError` where the same films under several identifiers leak from one fold to another, or into the test films.

    Both tables are `People.merged`, `folds` has the fold of each row of `train`.
    """
    split = int((folds.groupby(train.studies["patient"]).nunique() > 1).sum())
    if split:
        raise LeakError(
            f"{split} patients have films in two folds: the same films lie there under other identifiers "
            f"({SAME_FILMS} in the run's folder lists them)",
            "draw the folds anew (without folds.file), or set guard: report to go on and say so in every figure",
        )
    both = set() if test is None else set(train.studies["patient"]) & set(test.studies["patient"])
    if both:
        raise LeakError(
            f"{len(both)} patients have films in both training and test: the same films lie there under other "
            f"identifiers ({SAME_FILMS} in the run's folder lists them)",
            "leave them out of one of the two, or set guard: report to go on and say so in every figure",
        )


def of_set(patients: Iterable[str], name: str, key: str) -> set[str]:
    """The tokens of patients of the external set `name`, which a site's own patients are told apart from by it."""
    own = key.startswith(f"{SITE}-")
    return set(tokens([f"{name}:{patient}" if own else patient for patient in patients], key))


def _columns(dataset: Dataset) -> tuple[list[str], list[str]]:
    return [dataset.studies[name].astype(str).tolist() for name in ("study", "patient")]  # type: ignore[return-value]
