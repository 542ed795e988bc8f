"""Studies as tables name them, without pandas, which reading films does without."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cxrlines.task import LABELS

if TYPE_CHECKING:
    import pandas as pd


class Study(NamedTuple):
    """A study, its patient, the absolute path of its film ("" of a table alone), and its known labels: 0 or 1 each."""

    id: str
    patient: str
    film: str
    labels: dict[str, float]


@dataclass(frozen=True, eq=False)
class Studies:
    """Studies in order, as columns; a place or a loop gives a `Study`.

    Attributes:
        ids: n of them, each once.
        patients: The patient of each.
        labels: (n, labels) in the order of `task.LABELS`, int8, 0, 1 or `task.UNKNOWN`; float64 with NaN where only
            some studies have a row of ground truth; None if there are no labels.
        films: The absolute path of the film of each; None of a table alone.
    """

    ids: list[str]
    patients: list[str]
    labels: np.ndarray | None = None
    films: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> Study:
        values = () if self.labels is None else zip(LABELS, self.labels[place].tolist(), strict=True)
        known = {label: float(value) for label, value in values if value >= 0}  # neither NaN nor UNKNOWN
        return Study(self.ids[place], self.patients[place], self.films[place] if self.films else "", known)

    def __iter__(self) -> Iterator[Study]:
        return map(self.__getitem__, range(len(self)))

    def with_films(self, films: Mapping[str, str]) -> "Studies":
        """The studies that have a film; `films`: study -> path."""
        there = [place for place, study in enumerate(self.ids) if study in films]
        ids = [self.ids[place] for place in there]
        return replace(
            self,
            ids=ids,
            patients=[self.patients[place] for place in there],
            labels=None if self.labels is None else self.labels[there],
            films=[films[study] for study in ids],
        )

    def frame(self) -> "pd.DataFrame":
        """Columns `study`, `patient`, `film` (str), and the labels; without films or labels, without those. RangeIndex.

        Needs pandas.
        """
        import pandas as pd

        columns = {"study": self.ids, "patient": self.patients} | ({} if self.films is None else {"film": self.films})
        table = pd.DataFrame(columns, dtype=object)
        return table if self.labels is None else table.join(pd.DataFrame(self.labels, columns=list(LABELS)))
