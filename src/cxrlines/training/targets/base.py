"""What a training target is: its entry in a recipe, the data it needs, its loss, its text and its price.

A new target is a file beside this one with a subclass of `Target`, and its field in `TargetsSpec`. Importing it does
not import torch, so that a recipe is checked in an instant: losses import torch when they are called.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cxrlines.core.heatmaps import DrawnLine

if TYPE_CHECKING:
    from torch import Tensor

OWN = "own"
"""The set of films that a recipe's folds divide; every other set is external and has a name, but `TEST_SET`."""
TEST_SET = "test"
"""The own test films, which soft labels alone may be learnt of: no label of theirs is read."""

RARE_BELOW = 0.1
"""Share of the films that have a label, below which it counts as rare: in RANZCR CLiP six of eleven are."""

PositiveFloat = Annotated[float, Field(gt=0)]


class Strict(BaseModel):
    """A part of a recipe: cannot be changed, and knows no other fields than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FilmsSpec(Strict):
    """On which films a stage trains, and how it sees them.

    `set` is `own`, a name under the recipe's `external`, or `test`: the own test films, with soft labels.
    """

    set: str = OWN  # own, a name under external, or test
    pseudo_labels: Literal["allowed"] | None = None  # required by set: test; all figures on the test films then say so
    which: Literal["all", "annotated"] = "all"  # annotated: only films with annotated lines
    view: Literal["plain", "overlay"] = "plain"  # overlay: the annotated lines are drawn in colour
    # colour of a drawn line: by label (which shows a teacher the answer, as published) or by device
    colour_by: Literal["label", "device"] = "label"
    draw: Literal["lines", "squares"] = "lines"  # squares: one at each annotated point, as the published kernel draws
    maps_of: str | None = None  # an earlier stage with heatmaps: its predicted heatmaps are further input channels
    # name of an augmentation policy, or {policy: NAME} with fields of it changed
    augment: str | dict[str, Any] = "light"
    flip: bool = True  # false: films are never flipped, whatever the policy says
    # rare: films with rare labels are drawn more often; an epoch keeps its length
    sampling: Literal["uniform", "rare"] = "uniform"
    # with sampling: rare, the share of films below which a label is rare
    rare_below: Annotated[float, Field(gt=0, le=1)] = RARE_BELOW
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0  # alpha of the Beta distribution of MixUp; 0: off
    # alpha of the Beta distribution of CutMix; 0: off. With both, each batch takes one of them at random
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0.0

    @property
    def mixed(self) -> bool:
        """Whether films of a batch are mixed with one another."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self) -> None:
        """`ValueError`, from the field's name on, where fields contradict one another."""
        if self.draw != "lines" and self.view != "overlay":
            raise ValueError(f"films.draw is {self.draw!r}, but no lines are shown; use view: overlay, or leave it out")
        if self.colour_by != "label" and self.view != "overlay":
            raise ValueError(
                f"films.colour_by is {self.colour_by!r}, but no lines are shown; use view: overlay, or leave it out"
            )
        if self.sampling == "rare" and self.set != OWN:
            raise ValueError(
                f"films.sampling is 'rare', but films of the set {self.set!r} have no labels; use uniform, or set: own"
            )
        if self.sampling == "uniform" and self.rare_below != RARE_BELOW:
            raise ValueError(
                f"films.rare_below is {self.rare_below}, which sampling: rare reads; set it, or leave it out"
            )
        for name in ("mixup", "cutmix") if self.view == "overlay" or self.maps_of else ():
            if getattr(self, name):
                raise ValueError(
                    f"films.{name} is {getattr(self, name)}: films that are seen with lines or heatmaps are not mixed; "
                    "use 0, or view: plain without maps_of"
                )


def set_text(name: str) -> str:
    """A set of films in words."""
    return {OWN: "the own set", TEST_SET: "the test set"}.get(name, f"the external set {name!r}")


class TargetData(NamedTuple):
    """The data of a target for the n films of a stage: `arrays` (n, ...) by their name in a batch.

    `keep` (n,) bool leaves films out of training; `arrays` are then those of the films kept. `note` is for the record.
    """

    arrays: Mapping[str, np.ndarray]
    keep: np.ndarray | None = None
    note: dict[str, Any] | None = None


class FilmSource(Protocol):
    """What the tables say of the n films of a stage."""

    @property
    def set(self) -> str:
        """`own`, or the name of an external set."""

    @property
    def labels(self) -> np.ndarray:
        """(n, labels) float32 in `task.LABELS` order: 0 or 1, NaN where unknown."""

    @property
    def annotated(self) -> np.ndarray:
        """(n,) bool: whether a film's lines are annotated."""

    @property
    def shown(self) -> np.ndarray:
        """(n, devices) bool: whether a line of a device is annotated."""

    @property
    def tips_seen(self) -> np.ndarray:
        """(n, devices) bool: whether the tip of every annotated line of a device is seen."""

    @property
    def landmarks(self) -> np.ndarray:
        """(n, landmarks, 2) [x, y] px of the stored films, NaN where unknown."""

    @property
    def side(self) -> tuple[int, int]:
        """Width and height of the stored films in px."""

    def lines(self) -> Sequence[Sequence[DrawnLine]]:
        """For each film its lines, in px of the stored film."""

    def presence(self) -> np.ndarray:
        """(n, devices + 1) float32: whether a device is there, and any at all; NaN where unknown."""

    def soft_labels(self, spec: Any) -> TargetData:
        """`soft` (kept, labels) probabilities and `film_weights` (kept,), float32, by a `SoftTarget`."""


class BatchOutputs(Protocol):
    """What the networks of a stage make of a batch of b films, in float32, computed when it is first read."""

    @property
    def logits(self) -> "Tensor":
        """(b, labels)."""

    @property
    def scores(self) -> "Tensor":
        """(b, labels): the logits, but of states that exclude each other what their softmax with "none" (0) is of."""

    @property
    def exclusive(self) -> bool:
        """Whether the model lets the states of an exclusive device (`task.EXCLUSIVE`) exclude each other."""

    @property
    def features(self) -> "Tensor":
        """(b, channels, h/32, w/32): the last feature map before pooling."""

    @property
    def teacher_features(self) -> "Tensor":
        """The same of the frozen teacher, for the film with its lines drawn in."""

    @property
    def embedding(self) -> "Tensor":
        """(b, channels), of length 1: the mean of `features` over places, which retrieval searches."""

    @property
    def maps(self) -> "Tensor":
        """Logits (m, maps, h/2, w/2) of the films `batch["rows"]`, in `task.MAPS` order; 0 of one the network lacks."""

    @property
    def all_maps(self) -> "Tensor":
        """Logits (b, maps, h/2, w/2) of all films."""

    @property
    def map_kinds(self) -> tuple[str, ...]:
        """The kinds of heatmaps that the network and all frozen teachers of heatmaps give."""

    @property
    def teacher_maps(self) -> "Tensor":
        """Heatmaps of frozen teachers for all films, of the same shape; probabilities, the mean of theirs."""


@dataclass(frozen=True)
class Sums:
    """A loss over some films as (terms,) tensors that add up over films: sum and count of each of its terms.

    The value over a whole batch is the mean of total / (count + smooth) over the terms whose `weight`, over the whole
    batch, is above 0. Where none is, it is 0. Most losses have one term, with `weight` = count.
    """

    total: "Tensor"
    count: "Tensor"
    weight: "Tensor"
    smooth: float = 0.0

    @classmethod
    def mean(cls, total: "Tensor", count: "Tensor | int") -> "Sums":
        """A plain mean of `count` things whose sum is `total`, both without dimensions."""
        counted = total.new_ones(1) * count
        return cls(total[None], counted, counted)

    def value(self) -> "Tensor":
        """The loss, if these sums are those of the whole batch."""
        import torch

        counts = self.weight > 0
        terms = torch.where(counts, self.total / torch.where(counts, self.count + self.smooth, 1.0), 0.0)
        return terms.sum() / counts.sum().clamp(min=1)


Losses = list[tuple[float, Sums]]
"""Terms of a loss, each with its weight."""


class CodePart(NamedTuple):
    """Code that decides what is trained: a file of the package, and the top-level names used of it (none: all).

    `without` names what is not used. What only these use is left out as well.
    """

    file: str
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class Target(Strict):
    """An entry of a recipe's `targets`.

    Attributes:
        weight: of its loss in the sum.
        key: its name under `targets`.
        own_films: True where only the own films have its data, False where only external sets have, None where both.
        lacking: what films of the other kind have not.
        classifies: whether a stage that learns this alone predicts labels.
        needs_lines: whether every film must be annotated.
        draws_lines: whether films are drawn with their lines in, as `overlay` in a batch.
        reads_maps: whether the network has a decoder of heatmaps.
        draws_maps: whether it is run on annotated films alone, which come with their true `maps` in a batch.
        selects: whether its data may leave films out.
        mixes: whether its data and its loss are those of films mixed by MixUp and CutMix as well.
        frozen_passes: for the price: forward passes of a frozen network of the same backbone, per film trained on.
    """

    weight: PositiveFloat = 1.0  # weight of this loss in the total loss

    key: ClassVar[str]
    own_films: ClassVar[bool | None] = None
    lacking: ClassVar[str] = ""
    classifies: ClassVar[bool] = True
    needs_lines: ClassVar[bool] = False
    draws_lines: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = False
    draws_maps: ClassVar[bool] = False
    selects: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    frozen_passes: ClassVar[int] = 0

    def check(self, films: FilmsSpec, earlier: Mapping[str, FilmsSpec]) -> None:
        """`ValueError`, from the field's name on, where a stage with these films, after those, cannot learn it."""
        if self.own_films is not None and self.own_films != (films.set == OWN):
            raise ValueError(f"targets.{self.key}: films of {set_text(films.set)} {self.lacking}")
        if films.mixed and not self.mixes:
            name, alpha = ("mixup", films.mixup) if films.mixup else ("cutmix", films.cutmix)
            raise ValueError(
                f"films.{name} is {alpha}, but targets.{self.key} is not learnt from mixed films; use 0, or leave the "
                "target out"
            )

    def file_of(self, fold: int) -> Path | None:
        """The file, if any, that a step which holds out `fold` learns from."""
        return None

    def data(self, films: FilmSource) -> TargetData:
        """The data of the films; `Error` where none has any."""
        return TargetData({})

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        """Its terms over the films of one process, as sums and counts."""
        raise NotImplementedError

    def describe(self) -> tuple[str, str]:
        """What is learnt and by which loss, for the report: `("labels", "BCE")`."""
        raise NotImplementedError

    def code(self) -> tuple[CodePart, ...]:
        """The code behind its data and its loss; a class's methods `check`, `describe` and `code` never count."""
        return (CodePart(type(self).__module__.removeprefix("cxrlines.").replace(".", "/") + ".py"),)
