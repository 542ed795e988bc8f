"""Soft labels: a member's predictions for films it was not trained on, as targets for another stage.

A film of the own set gets its label from a model that saw neither its fold nor the student's held-out fold; a film of
an external set from the model of the student's own fold. So nothing a student is judged on enters by way of a label.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.text import shown
from cxrlines.evaluation.ensemble.sharpen import dynamic_temperatures, kept, sharpen
from cxrlines.evaluation.predictions import read_predictions
from cxrlines.io.rows import read_rows
from cxrlines.task import LABELS, STUDY_COLUMN
from cxrlines.training.targets import SoftTarget
from cxrlines.training.targets.base import TargetData

WEIGHT = "weight"


def soft_labels(
    spec: SoftTarget, given: pd.DataFrame, studies: list[str], own: tuple[pd.DataFrame, pd.DataFrame] | None = None
) -> TargetData:
    """The soft labels of `studies` from the predictions `given` (study, the labels, perhaps `weight`).

    `own` holds a teacher's out-of-fold predictions and the ground truth of the same films, which a dynamic temperature
    is fitted to. `Error` where nothing is left.

    Returns:
        `soft` (kept, labels), sharpened, and `film_weights` (kept,), of mean 1, both float32. The note has how many
        films are kept and the exponent of each label, or None.
    """
    if missing := [label for label in LABELS if label not in given]:
        raise Error(
            f"soft labels: the predictions have no column {', '.join(map(repr, missing))}",
            "take those of a model of the same labels",
        )
    table = given.set_index("study").loc[studies]
    p = table[list(LABELS)].to_numpy(np.float64)
    temperature: float | np.ndarray | None
    if spec.temperature == "dynamic":
        assert own is not None  # the plan saw to it
        predicted, truth = own
        truth = truth.set_index("study").loc[predicted["study"]]
        temperature = dynamic_temperatures(predicted[list(LABELS)].to_numpy(), truth[list(LABELS)].to_numpy())
    else:
        temperature = spec.temperature
    keep = kept(p, spec.keep_above) if spec.keep_above else np.ones(len(p), bool)
    if not keep.any():
        raise Error(
            f"soft.keep_above is {spec.keep_above}, but no film of {len(p)} has a label above it "
            f"(the largest is {p.max():.3f})",
            "lower it",
        )
    weights = np.abs(2 * p - 1).mean(axis=1) if spec.film_weights == "certainty" else np.ones(len(p))
    if WEIGHT in table:
        weights = weights * table[WEIGHT].to_numpy(np.float64)
    weights = weights[keep]
    if not weights.sum() > 0:
        raise Error("soft labels: the weights of all films are 0", "give at least one film a weight")
    arrays = {
        "soft": sharpen(p[keep], temperature).astype(np.float32),
        "film_weights": (weights / weights.mean()).astype(np.float32),
    }
    exponents = None if temperature is None else np.broadcast_to(temperature, len(LABELS)).astype(float).tolist()
    return TargetData(arrays, keep, {"kept": int(keep.sum()), "of": len(keep), "temperatures": exponents})


def read_soft_labels(path: Path, needed: list[str], known: set[str]) -> pd.DataFrame:
    """Soft labels of a file, for the films `needed`; it may hold others of the films `known`, but no foreign ones.

    Raises:
        Error: no such columns, values outside [0, 1] or NaN, a weight that is negative or no number, a study
            twice, unknown to the set, or missing.
    """
    frame = read_predictions(path)
    have = set(frame["study"])
    problems = [
        f"{len(some)} {what} (the first: {shown(min(some), 80)})"
        for what, some in (
            ("of its studies have no film in the set", have - known),
            ("studies that are trained on are not in it", set(needed) - have),
        )
        if some
    ]
    if problems:
        raise Error(
            f"{path}: {'; '.join(problems)}",
            "soft labels are for the films of one set: a row for each, and for no other",
        )
    rows = read_rows(path, (STUDY_COLUMN, *LABELS))
    if WEIGHT in rows.columns:
        cells = rows.column(WEIGHT)
        values = pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(np.float64)
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise Error(
                f"{path}, line {rows.lines[row]}: column {WEIGHT} is {cells[row]!r}", "a weight is a number, 0 or more"
            )
        frame[WEIGHT] = values
    return frame
