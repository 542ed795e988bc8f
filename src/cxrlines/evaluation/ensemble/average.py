"""Several predictions of the same films averaged into one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing
from cxrlines.task import LABELS, STUDY_COLUMN


def check_predictions(frame: pd.DataFrame, name: str) -> None:
    """`Error` unless `frame` has `study`, each once, and the 11 labels as probabilities; `name` says which."""
    check_columns(frame, name)
    if frame["study"].isna().any():
        row = int(np.flatnonzero(frame["study"].isna())[0])
        raise Error(f"{name}: row {row + 1} has no study", "name the study of every row")
    twice = frame["study"].duplicated()
    if twice.any():
        raise Error(
            f"{name}: {int(twice.sum())} studies are listed more than once, the first again in row "
            f"{int(np.flatnonzero(twice)[0]) + 1}",
            "keep one row a study",
        )
    for label in LABELS:
        values = frame[label].to_numpy(np.float64)
        wrong = ~((values >= 0) & (values <= 1))  # NaN as well
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise Error(
                f"{name}: column {label}, row {row + 1} is {values[row]:g}; predictions are numbers from 0 to 1 "
                f"({int(wrong.sum())} of {len(values)} in this column are not)",
                "apply a sigmoid to logits",
            )


How = Literal["mean", "rank", "power", "fitted"]
POWER = 0.5
"""Exponent of the power mean. The write-ups that used one do not say theirs. Of real predictions with noise added to
their log odds, the power mean of 0.5 ranked better than the mean, and that of 2 worse."""

LEAST = 1e-5
"""Probabilities nearer to 0 or 1 than this count as so near where log odds are averaged."""


@dataclass(frozen=True, eq=False)
class FittedWeights:
    """What each member counts for in the blend, label by label; `evaluation.fitted.fit_weights` finds them.

    Attributes:
        members: their names, each once.
        weights: (members, 11) float64, 0 or more, each label's adding up to 1.
        equal: label -> why its weights were not fitted but are all the same.
    """

    members: tuple[str, ...]
    weights: np.ndarray
    equal: dict[str, str] = field(default_factory=dict)

    def of(self, names: Sequence[str]) -> np.ndarray:
        """The weights (members, 11) in the order of `names`, which must be the members; `Error` if not."""
        if sorted(names) != sorted(self.members):
            raise Error(
                f"the weights were fitted for {', '.join(self.members)}; the predictions given are {', '.join(names)}",
                "give just those members, under the same names, or fit anew",
            )
        return self.weights[[self.members.index(name) for name in names]]

    def as_dict(self) -> dict[str, Any]:
        """JSON values: `weights` is member -> label -> weight."""
        rows = (dict(zip(LABELS, row, strict=True)) for row in self.weights.tolist())
        return {"weights": dict(zip(self.members, rows, strict=True)), "equal": dict(self.equal)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FittedWeights":
        """The weights of an `as_dict()`; `Error` says what is missing or out of range in it."""
        try:
            members = tuple(str(member) for member in values["weights"])
            rows = [[float(values["weights"][member][label]) for label in LABELS] for member in members]
            equal = {str(label): str(reason) for label, reason in values.get("equal", {}).items()}
        except KeyError as error:
            raise Error(f"fitted weights: {error} is missing", "they are weights, by member, by label") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise Error(f"fitted weights: {error}", "they are numbers, by member, by label") from None
        weights = np.array(rows, np.float64).reshape(-1, len(LABELS))
        for label, column in zip(LABELS, weights.T, strict=True):
            if not ((column >= 0).all() and abs(column.sum() - 1) < 1e-6):  # NaN as well
                raise Error(
                    f"fitted weights: those of {label} are {', '.join(f'{w:g}' for w in column)}",
                    "they must be 0 or more and add up to 1",
                )
        return cls(members, weights, equal)


def ensemble(
    frames: Sequence[pd.DataFrame],
    how: How = "mean",
    names: Sequence[str] | None = None,
    *,
    power: float = POWER,
    weights: FittedWeights | None = None,
) -> pd.DataFrame:
    """Average predictions of the same studies, matched by study; rows in the order of the first frame.

    `mean` averages probabilities. `rank` first replaces each frame's values, label by label, by their rank among
    the studies, 0 for the lowest and 1 for the highest, ties sharing theirs: it mixes models whose
    probabilities are on different scales, and gives scores that are no probabilities any more. `power` is
    (mean of p^k)^(1/k) with k = `power`, from 0.01 to 100: 1 is the mean, above it the frames that say yes count
    for more, below it those that say no. `fitted` averages log odds under `weights`, which go by `names`.

    Frames are those of any models, the stages of one model among them. Their order does not matter. `names` call
    the frames in errors: `Error` on what `check_predictions` refuses, on frames of different studies, or on
    weights of other members.
    """
    if how not in get_args(How):
        raise ValueError(f"how is {how!r}; allowed are {', '.join(map(repr, get_args(How)))}")
    if how == "power" and not 0.01 <= power <= 100:  # NaN as well
        raise Error(f"power is {power}", f"the exponent of a power mean is from 0.01 to 100, {POWER:g} by default")
    if how == "fitted" and (weights is None or names is None):
        raise ValueError("how 'fitted' needs weights and the names of the frames; fit_weights finds the weights")
    studies, values = stack(frames, names)
    if how == "rank":
        values = np.stack([_ranks(value) for value in values])
    if how == "fitted" and weights is not None and names is not None:
        blend = blended(values, weights.of(names))
    elif how == "power":
        highest = values.max(axis=0)
        shares = np.sort(values / np.where(highest > 0, highest, 1), axis=0)  # powers of small numbers would vanish
        blend = highest * (shares**power).mean(axis=0) ** (1 / power)
    else:
        # sorted before the sum: addition rounds differently in another order
        blend = np.sort(values, axis=0).mean(axis=0)
    return as_predictions(studies, blend)


def stack(frames: Sequence[pd.DataFrame], names: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
    """The studies of the first frame in its order, and all probabilities, float64 (frames, studies, 11), by them.

    `ValueError` without frames; `Error` on what `check_predictions` refuses, or on frames of different studies.
    """
    if not frames:
        raise ValueError("nothing to average; give at least one set of predictions")
    names = names or [f"predictions {i + 1}" for i in range(len(frames))]
    if len(names) != len(frames):
        raise ValueError(f"{len(names)} names for {len(frames)} sets of predictions; give one each")
    for frame, name in zip(frames, names, strict=True):
        check_predictions(frame, name)
        _check_same_studies(frames[0], frame, names[0], name)
    studies = frames[0]["study"].astype(str).to_list()
    aligned = [frame.assign(study=frame["study"].astype(str)).set_index("study").loc[studies] for frame in frames]
    return studies, np.stack([frame[list(LABELS)].to_numpy(np.float64) for frame in aligned])


def log_odds(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p at least `LEAST` from 0 and 1."""
    inside = np.clip(probability, LEAST, 1 - LEAST)
    return np.log(inside / (1 - inside))


def blended(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probabilities (members, films, 11) averaged as log odds under weights (members, 11): (films, 11)."""
    odds = np.sort(log_odds(values) * weights[:, None], axis=0).sum(axis=0)  # sorted: in any order the same
    return 1 / (1 + np.exp(-odds))


def as_predictions(studies: Sequence[str], values: np.ndarray) -> pd.DataFrame:
    """The frame of values (films, 11): `study`, then the labels."""
    return pd.DataFrame(values, columns=list(LABELS)).assign(study=list(studies))[["study", *LABELS]]


def write_predictions(frame: pd.DataFrame, csv: Path) -> None:
    """Write the columns of sample_submission.csv in its order, whole or not at all."""
    with replacing(csv) as aside:
        frame[["study", *LABELS]].rename(columns={"study": STUDY_COLUMN}).to_csv(aside, index=False)


def _ranks(values: np.ndarray) -> np.ndarray:
    """(studies, labels) -> the same shape, mean ranks scaled to 0 .. 1; a single study ranks 0.5."""
    if len(values) < 2:
        return np.full_like(values, 0.5)
    return (pd.DataFrame(values).rank(method="average").to_numpy() - 1) / (len(values) - 1)


def check_columns(frame: pd.DataFrame, name: str, study: str = "study") -> None:
    """`Error` unless `frame` has `study` and the 11 labels; `study` is what the message calls that column."""
    missing = [label for label in LABELS if label not in frame]
    if "study" not in frame:
        missing = [study, *missing]
    if missing:
        raise Error(
            f"{name}: no column {', '.join(missing)}",
            f"predictions have {study} and the {len(LABELS)} labels, as sample_submission.csv",
        )


def _check_same_studies(first: pd.DataFrame, other: pd.DataFrame, first_name: str, other_name: str) -> None:
    one, two = first["study"].astype(str), other["study"].astype(str)
    parts = []
    for mine, theirs, name in ((one, two, first_name), (two, one, other_name)):
        rows = np.flatnonzero(~mine.isin(theirs))
        if len(rows):
            parts.append(f"{len(rows)} only in {name} (the first in row {rows[0] + 1})")
    if parts:
        raise Error(
            f"{first_name} and {other_name} are of different studies: {', '.join(parts)}, "
            f"{int(one.isin(two).sum())} in both",
            "predict the same films with every model, or keep the common rows",
        )
