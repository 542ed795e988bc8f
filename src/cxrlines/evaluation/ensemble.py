"""Several predictions of the same films averaged into one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cxrlines.task import LABELS, STUDY_COLUMN


def check_predictions(frame: pd.DataFrame, name: str) -> None:
    """`ValueError` unless `frame` has `study`, each once, and the 11 labels as probabilities; `name` says
    which."""
    check_columns(frame, name)
    if frame["study"].isna().any():
        row = int(np.flatnonzero(frame["study"].isna())[0])
        raise ValueError(f"{name}: row {row + 1} has no study; name the study of every row")
    twice = frame["study"].duplicated()
    if twice.any():
        raise ValueError(
            f"{name}: {int(twice.sum())} studies are listed more than once, the first is "
            f"{frame['study'][twice].iloc[0]}; keep one row a study"
        )
    for label in LABELS:
        values = frame[label].to_numpy(np.float64)
        wrong = ~((values >= 0) & (values <= 1))  # NaN as well
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{name}: column {label}, row {row + 1} is {values[row]:g}; predictions are numbers from 0 to 1 "
                f"({int(wrong.sum())} of {len(values)} in this column are not); apply a sigmoid to logits"
            )


def ensemble(
    frames: Sequence[pd.DataFrame],
    how: Literal["mean", "rank"] = "mean",
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Average predictions of the same studies, matched by study; rows in the order of the first frame.

    `mean` averages probabilities. `rank` first replaces each frame's values, label by label, by their rank
    among
    the studies, 0 for the lowest and 1 for the highest, ties sharing theirs: it mixes models whose
    probabilities are on different scales, and gives scores that are no probabilities any more. Either way the
    order of frames does not matter. `names` call the frames in errors: `ValueError` on what
    `check_predictions` refuses, or on frames of different studies.
    """
    if not frames:
        raise ValueError("nothing to average; give at least one set of predictions")
    if how not in ("mean", "rank"):
        raise ValueError(f"how is {how!r}; allowed are 'mean' and 'rank'")
    names = names or [f"predictions {i + 1}" for i in range(len(frames))]
    for frame, name in zip(frames, names, strict=True):
        check_predictions(frame, name)
        _check_same_studies(frames[0], frame, names[0], name)
    studies = frames[0]["study"].astype(str).to_list()
    aligned = [frame.assign(study=frame["study"].astype(str)).set_index("study").loc[studies] for frame in frames]
    values = np.stack([frame[list(LABELS)].to_numpy(np.float64) for frame in aligned])
    if how == "rank":
        values = np.stack([_ranks(value) for value in values])
    # sorted before the sum: addition rounds differently in another order
    mean = np.sort(values, axis=0).mean(axis=0)
    return pd.DataFrame(mean, columns=list(LABELS)).assign(study=studies)[["study", *LABELS]]


def write_predictions(frame: pd.DataFrame, csv: Path) -> None:
    """Write the columns of sample_submission.csv in its order, whole or not at all."""
    csv = Path(csv)
    csv.parent.mkdir(parents=True, exist_ok=True)
    aside = csv.with_name(f".{csv.name}.partial")
    frame[["study", *LABELS]].rename(columns={"study": STUDY_COLUMN}).to_csv(aside, index=False)
    aside.replace(csv)


def _ranks(values: np.ndarray) -> np.ndarray:
    """(studies, labels) -> the same shape, mean ranks scaled to 0 .. 1; a single study ranks 0.5."""
    if len(values) < 2:
        return np.full_like(values, 0.5)
    return (pd.DataFrame(values).rank(method="average").to_numpy() - 1) / (len(values) - 1)


def check_columns(frame: pd.DataFrame, name: str, study: str = "study") -> None:
    """`ValueError` unless `frame` has `study` and the 11 labels; `study` is what the message calls that column."""
    missing = [label for label in LABELS if label not in frame]
    if "study" not in frame:
        missing = [study, *missing]
    if missing:
        raise ValueError(
            f"{name}: no column {', '.join(missing)}; predictions have {study} and the {len(LABELS)} labels, as "
            "sample_submission.csv"
        )


def _check_same_studies(first: pd.DataFrame, other: pd.DataFrame, first_name: str, other_name: str) -> None:
    one, two = set(first["study"].astype(str)), set(other["study"].astype(str))
    if one == two:
        return
    parts = [
        f"{len(only)} only in {name} ({', '.join(sorted(only)[:3])}{', ...' if len(only) > 3 else ''})"
        for only, name in ((one - two, first_name), (two - one, other_name))
        if only
    ]
    raise ValueError(
        f"{first_name} and {other_name} are of different studies: {'; '.join(parts)}; {len(one & two)} in both; "
        "predict the same films with every model, or keep the common rows"
    )
