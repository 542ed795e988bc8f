"""What a recipe may say of one stage: five answers, each checked against the stages before it."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from cxrlines.augment.policy import POLICIES

ORIGINS = ("imagenet", "scratch")
"""What a stage may start from besides an earlier stage of its member and a file."""

OWN = "own"
"""The set of films that a recipe's folds divide; every other set is external and has a name."""


Precision = Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)]  # YAML reads 16 as a number


class Strict(BaseModel):
    """A part of a recipe: cannot be changed, and knows no other fields than its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileStart(Strict):
    """Weights of another run, or someone else's: a timm, torchvision, Lightning or bare state dict, or safetensors.

    `{fold}` in `file` stands for the fold that is held out, so that training goes on from an earlier run's networks.
    Weights that do not know whom they have seen count as having seen everybody, and guard: refuse refuses them, unless
    `ancestry` is `trusted`: whoever trains vouches that they saw nobody who is held out. Every figure then says so.
    """

    file: str
    ancestry: Literal["trusted"] | None = None

    def of(self, fold: int) -> Path:
        """The file that a step which holds out `fold` starts from."""
        return Path(self.file.replace("{fold}", str(fold)))


class FilmsSpec(Strict):
    """On which films a stage trains, and how it sees them. `set` is `own` or a name under the recipe's `external`."""

    set: str = OWN
    which: Literal["all", "annotated"] = "all"
    view: Literal["plain", "overlay"] = "plain"  # overlay: the annotated lines drawn in, in colour
    colour_by: Literal["label", "device"] = "label"  # label tells a teacher the answer, as the published kernel does
    maps_of: str | None = None  # an earlier stage that learnt maps: the film is seen with what that says of it
    augment: str = "light"
    flip: bool = True


class LabelTarget(Strict):
    """Towards the 11 labels, by binary cross-entropy."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    class_weights: Literal["none", "balanced"] = "none"


class FeatureTarget(Strict):
    """Towards the feature map that an earlier, frozen stage makes of the film with its lines drawn in."""

    of: str
    weight: Annotated[float, Field(gt=0)] = 0.5


class SoftTarget(Strict):
    """Towards soft labels: probabilities that a member gives the films, or those of a file.

    Own films get them from models that saw neither the film's fold nor the fold held out here; films of an external set
    from the models of the very fold held out here. Beside `labels`, the two losses are a mixture of soft and hard.
    Nobody can tell whom the models behind a file have seen: `ancestry` as in a start from a file.
    """

    of: str | None = None  # an earlier member, or member/stage
    file: str | None = None  # a table like sample_submission.csv; a column `weight`, if there, weighs its films
    ancestry: Literal["trusted"] | None = None  # of a file
    weight: Annotated[float, Field(gt=0)] = 1.0
    keep_above: Annotated[float, Field(ge=0, lt=1)] = 0.0  # leave out films that have no label above this
    temperature: Annotated[float, Field(gt=0, le=10)] | Literal["dynamic"] | None = None  # below 1: towards .5
    film_weights: Literal["none", "certainty"] = "none"  # certainty: the mean over labels of |2p - 1|

    @model_validator(mode="after")
    def _agrees(self) -> "SoftTarget":
        if (self.of is None) == (self.file is None):
            raise ValueError("name either `of`, a member, or `file`, a table of soft labels")
        if self.ancestry and not self.file:
            raise ValueError("ancestry is that of a file; that of an earlier member is known")
        if self.file and self.temperature == "dynamic":
            raise ValueError("temperature: dynamic is fitted to a member's predictions; with a file give a number")
        return self

    @property
    def teacher(self) -> tuple[str, str | None]:
        """The member named by `of`, and its stage (None: the last)."""
        member, _, stage = (self.of or "").partition("/")
        return member, stage or None


class PresenceTarget(Strict):
    """Towards tube labels that an external set really has: whether a device is there, by noisy-or of its labels."""

    weight: Annotated[float, Field(gt=0)] = 1.0


class MapTarget(Strict):
    """Towards maps of the annotated films: where lines run, where they end, where the carina lies.

    In an `all` stage films without annotation count for the other targets alone. Landmarks need a `landmarks.csv`.
    """

    weight: Annotated[float, Field(gt=0)] = 1.0
    kinds: Annotated[tuple[Literal["line", "tip", "landmark"], ...], Field(min_length=1)] = ("line", "tip", "landmark")


class TargetsSpec(Strict):
    """Towards what a stage trains; the loss is the weighted sum of what is named."""

    labels: LabelTarget | None = None
    features: FeatureTarget | None = None
    soft: SoftTarget | None = None
    presence: PresenceTarget | None = None
    maps: MapTarget | None = None

    @property
    def classifies(self) -> bool:
        """Whether what is learnt is worth asking for labels: a stage that learns maps alone is a segmenter."""
        return self.named != ["maps"]

    @property
    def named(self) -> list[str]:
        """The targets there are."""
        return [name for name in type(self).model_fields if getattr(self, name) is not None]


class ScheduleSpec(Strict):
    """On which schedule. Epochs may be a fraction; learning rates are those of the optimiser's steps."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 5
    batch: Annotated[int, Field(ge=2, le=4096)] = 16
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: Annotated[float, Field(gt=0, le=1)] = 5e-4
    end_lr: Annotated[float, Field(ge=0, le=1)] = 1e-6
    shape: Literal["constant", "cosine", "restarts"] = "cosine"
    restart_epochs: Annotated[float, Field(gt=0)] | None = None
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-6
    clip: Annotated[float, Field(gt=0)] | None = None  # largest norm of the gradient
    precision: Precision = "auto"  # auto: bf16 on a GPU that has it, 16 on an older one, 32 without
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the weights' running average
    patience: Annotated[int, Field(ge=1)] | None = None  # stop after this many epochs without a better AUC
    validate_films: Annotated[int, Field(ge=0)] | None = None  # films of the live AUC; none: the whole fold

    @model_validator(mode="after")
    def _agrees(self) -> "ScheduleSpec":
        if (self.shape == "restarts") != (self.restart_epochs is not None):
            raise ValueError("shape: restarts and restart_epochs go together")
        if self.patience is not None and self.validate_films == 0:
            raise ValueError("patience needs an AUC to watch: leave validate_films out or make it larger than 0")
        return self


class StageSpec(Strict):
    """One stage: five answers. `start` is `imagenet`, `scratch`, the name of an earlier stage, or a file."""

    start: str | FileStart = "imagenet"
    fold_shift: Annotated[int, Field(ge=0)] = 0  # 1: start from the next fold's step, a leak; needs guard: report
    size: Annotated[int, Field(ge=32, le=4096)] | None = None  # px a side of its films; none: the recipe's
    films: FilmsSpec = FilmsSpec()
    targets: TargetsSpec = TargetsSpec(labels=LabelTarget())
    schedule: ScheduleSpec = ScheduleSpec()

    @property
    def started_from(self) -> str | None:
        """The earlier stage this one starts from, if it does."""
        return self.start if isinstance(self.start, str) and self.start not in ORIGINS else None

    @property
    def needs_lines(self) -> bool:
        """Whether its films must be annotated: it sees, or its teacher sees, the lines."""
        return self.films.which == "annotated" or self.films.view == "overlay" or self.targets.features is not None


def check_stage(stage: StageSpec, earlier: Mapping[str, StageSpec]) -> None:
    """`ValueError`, from the field's name on, where a stage contradicts itself or the stages before it."""
    allowed = (*ORIGINS, *earlier)
    if isinstance(stage.start, str) and stage.start not in allowed:
        hint = nearest(stage.start, allowed)
        raise ValueError(f"start is {stage.start!r}; allowed: {', '.join(allowed)}, {{file: PATH}}{hint}")
    if stage.fold_shift and not stage.started_from:
        raise ValueError(f"fold_shift is {stage.fold_shift}, but start is no earlier stage")
    films, targets = stage.films, stage.targets
    if films.augment not in POLICIES:
        hint = nearest(films.augment, POLICIES)
        raise ValueError(f"films.augment is {films.augment!r}; allowed: {', '.join(POLICIES)}{hint}")
    if not targets.named:
        raise ValueError(f"targets is empty; name one or more of {', '.join(TargetsSpec.model_fields)}")
    features = targets.features
    if features and features.of not in earlier:
        hint = nearest(features.of, earlier)
        known = ", ".join(earlier) or "none, it has no earlier stage"
        raise ValueError(f"targets.features.of is {features.of!r}; allowed: {known}{hint}")
    if features and earlier[features.of].films.view != "overlay":
        raise ValueError(
            f"targets.features.of is {features.of!r}, which sees plain films; a teacher is a stage with "
            "films.view: overlay"
        )
    if films.view == "overlay" and stage.started_from and earlier[stage.started_from].films.view == "plain":
        raise ValueError(
            f"start is {stage.start!r}, which sees one channel; a stage with films.view: overlay "
            "sees three and starts from imagenet, scratch or another overlay stage"
        )
    if films.set != OWN and (wrong := [name for name in targets.named if name in ("labels", "features")]):
        raise ValueError(
            f"targets.{wrong[0]}: films of the external set {films.set!r} have neither the 11 labels nor lines; "
            "their targets are soft and presence"
        )
    if films.set != OWN and stage.needs_lines:
        raise ValueError(f"films: those of the external set {films.set!r} have no lines; use which: all, view: plain")
    if films.set == OWN and targets.presence:
        raise ValueError("targets.presence is for external sets; films of the own set have the labels themselves")
    _check_maps(stage, earlier)
    if stage.needs_lines and films.which != "annotated":
        raise ValueError("films.which is 'all', but this stage needs the annotated lines; make it 'annotated'")


def _check_maps(stage: StageSpec, earlier: Mapping[str, StageSpec]) -> None:
    """`ValueError` where what a stage says of maps contradicts itself or the stages before it."""
    films, targets = stage.films, stage.targets
    if targets.maps and films.set != OWN:
        raise ValueError(f"targets.maps: films of the external set {films.set!r} have no annotated lines")
    if targets.maps and (films.view == "overlay" or films.maps_of):
        raise ValueError("targets.maps: a stage that is shown the lines cannot learn to find them; use view: plain")
    if films.maps_of is not None:
        teachers = [name for name, spec in earlier.items() if spec.targets.maps]
        if films.maps_of not in teachers:
            known = ", ".join(teachers) or "none, no earlier stage has targets.maps"
            raise ValueError(f"films.maps_of is {films.maps_of!r}; allowed: {known}{nearest(films.maps_of, teachers)}")
        if films.view == "overlay":
            raise ValueError("films.maps_of: maps are shown beside a plain film; use view: plain")
        if isinstance(stage.start, FileStart):
            raise ValueError("start is a file: a network that sees maps starts from imagenet, scratch or a stage")
    before = earlier[stage.started_from].films.maps_of if stage.started_from else films.maps_of
    if before != films.maps_of:
        raise ValueError(
            f"start is {stage.start!r}, which sees the maps of {before or 'no stage'}, and films.maps_of is "
            f"{films.maps_of or 'none'}: both must be the same"
        )


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing where no allowed name is near."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
