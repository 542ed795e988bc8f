"""How a bundle averages its members: a part of its manifest, and the arithmetic that the reader does by it."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxrlines.metrics.means import blended, plain_mean, power_mean, rank_among, weighted_mean
from cxrlines.task import LABELS

ByLabel = dict[str, Annotated[float, Field(ge=0, le=1)]]
Quantiles = dict[str, Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]]


class Averaging(BaseModel):
    """The average over members of a bundle, label by label.

    Attributes:
        how: Mean of probabilities, under weights if `weighted`; of log odds under weights (`fitted`); of the ranks that
            probabilities have among those of reference films (`rank`); or the power mean.
        power: The power mean's exponent.
        weights: Member -> label -> what it counts for. A label that has none counts all members alike.
        quantiles: Member -> label -> evenly spaced quantiles, rising, of its probabilities of the reference films.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    how: Literal["mean", "weighted", "fitted", "rank", "power"] = "mean"
    power: Annotated[float, Field(ge=0.01, le=100)] | None = None
    weights: dict[str, ByLabel] | None = None
    quantiles: dict[str, Quantiles] | None = None

    @model_validator(mode="after")
    def _whole(self) -> "Averaging":
        needs = {"weighted": "weights", "fitted": "weights", "rank": "quantiles", "power": "power"}.get(self.how)
        for name in ("power", "weights", "quantiles"):
            if (getattr(self, name) is not None) != (name == needs):
                raise ValueError(f"{name}: {self.how} {'needs' if name == needs else 'has no'} {name}")
        for member, row in (self.weights or self.quantiles or {}).items():
            if strange := set(row) - set(LABELS):
                raise ValueError(f"{member}: {min(strange)!r} is no label")
        for member, labels in (self.quantiles or {}).items():
            if falling := [label for label, steps in labels.items() if list(steps) != sorted(steps)]:
                raise ValueError(f"quantiles.{member}.{falling[0]}: they must rise")
        return self

    def lacking(self, members: Sequence[str], labels: Sequence[str]) -> str | None:
        """What is not said of a member, or of a label that other members have; None where all is."""
        table = self.weights or self.quantiles
        if table is None:
            return None
        said = labels if self.quantiles else {label for row in table.values() for label in row}
        return next(
            (f"{member}, {label}" for member in members for label in said if label not in table.get(member, {})), None
        )

    def apply(self, values: np.ndarray, members: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """Probabilities (members, films, labels) as one, (films, labels) float64; ranks are from 0 to 1 as well.

        `members` may be some of those described: of a fold that has no others.
        """
        if self.how in ("weighted", "fitted"):
            weights = self._weights(members, labels)
            return weighted_mean(values, weights) if self.how == "weighted" else blended(values, weights)
        if self.how == "power" and self.power is not None:
            return power_mean(values, self.power)
        if self.quantiles is not None:
            ranks = np.empty(values.shape)
            for m, member in enumerate(members):
                for k, label in enumerate(labels):
                    ranks[m, :, k] = rank_among(self.quantiles[member][label], values[m, :, k])
            return plain_mean(ranks)
        return plain_mean(values)

    def _weights(self, members: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """(members, labels), each label's adding up to 1; alike where none of these members counts."""
        table = self.weights or {}
        weights = np.array([[table[member].get(label, 1.0) for label in labels] for member in members], np.float64)
        total = weights.sum(axis=0)
        return np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / len(members))
