"""Several predictions of the same films averaged into one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from cxrlines.core.errors import Error
from cxrlines.evaluation.predictions import REQUIRED, as_predictions, stack
from cxrlines.metrics.means import blended, plain_mean, power_mean, weighted_mean
from cxrlines.task import LABELS

How = Literal["mean", "rank", "power", "weighted", "fitted"]
POWER = 0.5
"""Exponent of the power mean. The write-ups that used one do not say theirs. Of real predictions with noise added to
their log odds, the power mean of 0.5 ranked better than the mean, and that of 2 worse."""


@dataclass(frozen=True, eq=False)
class FittedWeights:
    """What each member counts for in the blend, label by label; `fitted_weights.fit_weights` finds them."""

    members: tuple[str, ...]  # their names, each once
    weights: np.ndarray  # (members, labels) float64, 0 or more, each label's adding up to 1
    equal: dict[str, str] = field(default_factory=dict)  # label -> why its weights were not fitted but are equal
    labels: tuple[str, ...] = LABELS  # of the columns

    def of(self, names: Sequence[str], labels: Sequence[str] = LABELS) -> np.ndarray:
        """The weights (members, labels) in the order of `names`, which must be the members; `Error` if not.

        A label that has none counts all members alike.
        """
        if sorted(names) != sorted(self.members):
            raise Error(
                f"the weights were fitted for {', '.join(self.members)}; the predictions given are {', '.join(names)}",
                "give just those members, under the same names, or fit again",
            )
        table = pd.DataFrame(self.weights, index=list(self.members), columns=list(self.labels))
        return table.reindex(columns=list(labels), fill_value=1 / len(names)).loc[list(names)].to_numpy()

    @classmethod
    def fixed(cls, weights: Mapping[str, float]) -> "FittedWeights":
        """The same weights for every label, scaled to add up to 1; those given are above 0."""
        shares = np.array(list(weights.values()), np.float64)[:, None] / sum(weights.values())
        return cls(tuple(weights), np.tile(shares, len(LABELS)))

    def as_dict(self) -> dict[str, Any]:
        """JSON values: `weights` is member -> label -> weight."""
        rows = (dict(zip(self.labels, row, strict=True)) for row in self.weights.tolist())
        return {"weights": dict(zip(self.members, rows, strict=True)), "equal": dict(self.equal)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FittedWeights":
        """The weights of an `as_dict()`; `Error` says what is missing or out of range in it."""
        try:
            by_member = {str(member): dict(row) for member, row in values["weights"].items()}
            labels = [label for label in LABELS if label in REQUIRED or all(label in r for r in by_member.values())]
            rows = [[float(row[label]) for label in labels] for row in by_member.values()]
            equal = {str(label): str(reason) for label, reason in values.get("equal", {}).items()}
        except KeyError as error:
            raise Error(f"fitted weights: {error} is missing", "they are weights, by member, by label") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise Error(f"fitted weights: {error}", "they are numbers, by member, by label") from None
        weights = np.array(rows, np.float64).reshape(-1, len(labels))
        for label, column in zip(labels, weights.T, strict=True):
            if not ((column >= 0).all() and abs(column.sum() - 1) < 1e-6):  # NaN as well
                shown = ", ".join(f"{weight:g}" for weight in column)
                raise Error(f"fitted weights: those of {label} are {shown}", "they must be 0 or more and add up to 1")
        return cls(tuple(by_member), weights, equal, tuple(labels))


def ensemble(
    frames: Sequence[pd.DataFrame],
    how: How = "mean",
    names: Sequence[str] | None = None,
    *,
    power: float = POWER,
    weights: FittedWeights | None = None,
) -> pd.DataFrame:
    """Average predictions of the same studies, matched by study; rows in the order of the first frame.

    `mean` averages probabilities. `rank` averages, label by label, their ranks among the studies, 0 for the lowest and
    1 for the highest, ties sharing theirs: it mixes models on different scales, and gives no probabilities any more.
    `power` is (mean of p^k)^(1/k) with k = `power`, from 0.01 to 100: above 1, the mean, frames that say yes count for
    more, below it those that say no. `fitted` averages log odds under `weights`, which go by `names`,
    `weighted` probabilities.

    The order of frames does not matter; `names` call them in errors. `Error` on what `check_predictions` refuses, on
    frames of different studies, or on weights of other members.
    """
    if how not in get_args(How):
        raise ValueError(f"how is {how!r}; allowed are {', '.join(map(repr, get_args(How)))}")
    if how == "power" and not 0.01 <= power <= 100:  # NaN as well
        raise Error(f"power is {power}", f"the exponent of a power mean is from 0.01 to 100, {POWER:g} by default")
    if how in ("weighted", "fitted") and (weights is None or names is None):
        raise ValueError(f"how {how!r} needs weights and the names of the frames; fit_weights finds fitted ones")
    members, studies, labels, values = stack(frames, names)
    if how == "rank":
        ranks, films = np.mean(rankdata(values, axis=1), axis=0), len(studies)  # divided last, so that ties stay ties
        blend = (ranks - 1) / (films - 1) if films > 1 else np.full_like(ranks, 0.5)  # a single film ranks 0.5
    elif how == "fitted" and weights is not None:
        blend = blended(values, weights.of(members, labels))
    elif how == "weighted" and weights is not None:
        blend = weighted_mean(values, weights.of(members, labels))
    elif how == "power":
        blend = power_mean(values, power)
    else:
        blend = plain_mean(values)
    return as_predictions(studies, blend, labels)
