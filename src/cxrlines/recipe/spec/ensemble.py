"""What a recipe says of its ensemble: which members are averaged, how, and over which views of a film."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cxrlines.core.text import did_you_mean
from cxrlines.evaluation.ensemble.average import POWER
from cxrlines.training.targets.base import Strict


class ViewsSpec(Strict):
    """Views of a film besides the plain one that predictions are averaged over, as the reader does (`reading.tta`).

    `flip`: left and right swapped; only where every averaged network was trained with flips. `scales`: shown at so much
    of its size, about its centre.
    """

    flip: bool = False  # left and right swapped
    # scales of the film that are averaged besides the plain one
    scales: tuple[Annotated[float, Field(ge=0.5, le=2)], ...] = ()

    @model_validator(mode="after")
    def _some(self) -> "ViewsSpec":
        if not self.flip and not self.scales:
            raise ValueError("names no view: give flip: true or scales, or leave views out")
        if 1.0 in self.scales or len(set(self.scales)) < len(self.scales):
            raise ValueError("scales: each once, and not 1, which is the plain view and always among them")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the reader calls them."""
        return (*(["flip"] if self.flip else []), *(["scale"] if self.scales else []))


class EnsembleSpec(Strict):
    """Which members are averaged (none named: all), and how. `member/stage` names another stage than the last."""

    members: tuple[str, ...] = ()  # MEMBER, or MEMBER/STAGE; none named: all members
    # weighted: by `weights`; fitted: weights for each label, fitted to out-of-fold predictions
    how: Literal["mean", "rank", "power", "weighted", "fitted"] = "mean"
    power: Annotated[float, Field(ge=0.01, le=100)] = POWER  # exponent of the power mean
    # with how: weighted, the weight of each averaged member; scaled to add up to 1
    weights: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    # test-time augmentation: held-out and test films are averaged over these views, and a bundle reads so too
    views: ViewsSpec | None = None

    @model_validator(mode="after")
    def _agrees(self) -> "EnsembleSpec":
        if self.power != POWER and self.how != "power":
            raise ValueError(f"power is {self.power:g}, but how is {self.how}, and only power reads it; leave it out")
        return self

    def check_weights(self, averaged: Sequence[str]) -> None:
        """`ValueError` unless each averaged member has a weight, and no other, where `how` takes weights."""
        if self.weights and self.how != "weighted":
            raise ValueError(f"ensemble.weights: how is {self.how}, and only weighted takes weights; leave them out")
        if strange := [name for name in self.weights if name not in averaged]:
            hint = did_you_mean(strange[0], averaged)
            raise ValueError(f"ensemble.weights names {strange[0]!r}; averaged are: {', '.join(averaged)}{hint}")
        if self.how == "weighted" and (lacking := [name for name in averaged if name not in self.weights]):
            raise ValueError(
                f"ensemble.weights has none for {', '.join(lacking)}: give each averaged member one above 0, or leave "
                "those that should not count out of ensemble.members"
            )
