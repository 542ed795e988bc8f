"""The report of a run: what the page needs, and the writing of `report.html` with `metrics.json` beside
it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

FilmOf = Callable[[str], tuple[np.ndarray, Sequence[tuple[str, np.ndarray]]]]
"""study -> (uint8 (height, width) film, white bone; its lines as (label, (n, 2) points, xy in px of that
film))."""

ENSEMBLE = "ensemble"
"""The name under which the ensemble's predictions are kept, beside those of the members."""


@dataclass(frozen=True)
class DataSummary:
    """The films a run learnt from, for the page's data section.

    Attributes:
        name: what to call them, e.g. `"phantom, site a"` or the folder's name.
        films, patients: how many. annotated: films that have lines drawn by hand.
        positives: label -> positive films.
        left_out: reason, in words -> how many films or rows were left out for it.
        settings: how the films were made or prepared (phantom settings, store size, seed), in short.
    """

    name: str
    films: int
    patients: int
    annotated: int
    positives: Mapping[str, int]
    left_out: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """One member of the ensemble, or the baseline it is compared with.

    Attributes:
        name: the key of its predictions.
        role: a baseline is shown and compared, but is not part of the ensemble.
        stages: one mapping of short strings a stage, e.g. `{"stage": "teacher", "start": "ImageNet", "films":
            "annotated, lines drawn in", "targets": "labels", "losses": "BCE"}`; the keys become table
            columns.
        seconds: training time of all its steps together.
        lineage: what it was made from, as short strings, e.g. `{"parents": "teacher of fold 0", "patients
            seen": "312"}`.
        ancestry_unknown: empty if everything it was made from is known; else why not, in words. Every figure
            of such a member, and of an ensemble holding it, is marked on the page.
    """

    name: str
    role: Literal["baseline", "member"]
    stages: Sequence[Mapping[str, str]]
    seconds: float
    lineage: Mapping[str, str] = field(default_factory=dict)
    ancestry_unknown: str = ""


@dataclass(frozen=True)
class Predictions:
    """Predictions on one set of films, with their truth.

    Attributes:
        scope: which films, in words that continue "on ...", e.g. `"test films of patients no member saw"`.
        by_name: member name, and `"ensemble"` -> frame of `study` and the 11 labels (probabilities).
        truth: frame of `study`, `patient` and the 11 labels (0 or 1).
    """

    scope: str
    by_name: Mapping[str, pd.DataFrame]
    truth: pd.DataFrame


@dataclass(frozen=True)
class Report:
    """Everything `report.html` shows.

    Attributes:
        command, seed: what to type to have the same run again.
        environment: e.g. `{"Python": "3.11.7", "torch": "2.13.0", "machine": "2 cores", "wall time": "13
            min"}`.
        folds: frame of `study`, `patient`, the 11 labels and `fold`; None where none were drawn.
        members: in the order in which they are shown.
        main: the predictions of the headline; `metrics.json` is computed from them.
        out_of_fold: predictions on the training films, each by members that did not see its patient.
        film_of: gives a study of `main` as pixels and lines; None leaves the films off the page.
        steps: one mapping a step: `step, member, fold, stage, seconds, films` (fold may be None).
        notes: sentences to be read with the headline, e.g. what was seen that was not expected.
    """

    title: str
    command: str
    seed: int
    environment: Mapping[str, str]
    data: DataSummary
    folds: pd.DataFrame | None
    members: Sequence[Member]
    main: Predictions
    out_of_fold: Predictions | None = None
    film_of: FilmOf | None = None
    steps: Sequence[Mapping[str, object]] = ()
    notes: Sequence[str] = ()
