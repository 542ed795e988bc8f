"""Soft labels as a training target: another model's probabilities, by binary cross-entropy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cxrlines.training.targets.base import BatchOutputs, CodePart, FilmSource, Losses, Target, TargetData
from cxrlines.training.targets.labels import label_loss


class SoftTarget(Target):
    """Soft labels: probabilities that a member predicts for the films, or those of a file.

    Own films get them from models that saw neither the film's fold nor the fold held out here; films of an external set
    from the models of the very fold held out here. Beside `labels`, the two losses are a mixture of soft and hard.
    Which patients the models behind a file saw is not known: `ancestry` as in a start from a file.
    """

    key = "soft"
    selects = True
    mixes = True

    # the teacher: a member (its last stage), or member/stage; of several, the mean
    of: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    # a table like sample_submission.csv, `{fold}` in its name: the fold held out; a column `weight` weighs its films
    file: str | None = None
    ancestry: Literal["trusted"] | None = None  # of file, as in a start from a file
    keep_above: Annotated[float, Field(ge=0, lt=1)] = 0.0  # films without a label above this probability are left out
    # temperature of the soft labels; below 1 they move towards .5; dynamic: fitted for each label
    temperature: Annotated[float, Field(gt=0, le=10)] | Literal["dynamic"] | None = None
    film_weights: Literal["none", "certainty"] = "none"  # certainty: the mean over labels of |2p - 1|

    @model_validator(mode="after")
    def _agrees(self) -> "SoftTarget":
        if (self.of is None) == (self.file is None):
            raise ValueError("name either `of`, a member or several, or `file`, a table of soft labels")
        if len(set(self.teachers)) < len(self.teachers):
            raise ValueError(f"of is {', '.join(self.teachers)}: name each once")
        if self.ancestry and not self.file:
            raise ValueError("ancestry is that of a file; that of a member is known")
        if self.file and self.temperature == "dynamic":
            raise ValueError("temperature: dynamic is fitted to a member's predictions; with a file give a number")
        return self

    def file_of(self, fold: int) -> Path | None:
        """The file whose labels a step that holds out `fold` learns."""
        return Path(self.file.replace("{fold}", str(fold))) if self.file else None

    @property
    def teachers(self) -> tuple[str, ...]:
        """The members, or `member/stage`, whose predictions are averaged; none where they are of a file."""
        return (self.of,) if isinstance(self.of, str) else self.of or ()

    def data(self, films: FilmSource) -> TargetData:
        return films.soft_labels(self)

    def losses(self, outputs: BatchOutputs, batch: Mapping[str, Any]) -> Losses:
        return [(1.0, label_loss(outputs.logits, batch["soft"], film_weights=batch["film_weights"]))]

    def describe(self) -> tuple[str, str]:
        sharp = f", T {self.temperature}" if self.temperature else ""
        above = f", any > {self.keep_above:g}" if self.keep_above else ""
        return f"soft labels of {' and '.join(self.teachers) or Path(self.file or '').name}{sharp}{above}", "BCE (soft)"

    def code(self) -> tuple[CodePart, ...]:
        return (
            *super().code(),
            CodePart("training/targets/labels.py", ("label_loss",)),
            CodePart("recipe/run/soft_labels.py", ("soft_labels", "read_soft_labels")),
            CodePart("evaluation/ensemble/sharpen.py"),
        )
