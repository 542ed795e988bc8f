"""The fields of a recipe: members made of stages, films, folds, ensemble, trackers."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from cxrlines.augment.policy import POLICIES
from cxrlines.core.text import did_you_mean
from cxrlines.io.patients import BARE, SITE
from cxrlines.io.prepare import LeaveOut
from cxrlines.models import HEADS
from cxrlines.recipe.spec.ensemble import EnsembleSpec
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.training.config import ScheduleSpec
from cxrlines.training.targets import LabelTarget, TargetsSpec
from cxrlines.training.targets.base import OWN, FilmsSpec, Strict

ORIGINS = ("imagenet", "scratch")
"""What a stage may start from besides an earlier stage of its member and a file."""


class FileStart(Strict):
    """Weights of another run, or someone else's: a timm, torchvision, Lightning or bare state dict, or safetensors.

    `{fold}` in `file` stands for the fold that is held out, so that training goes on from an earlier run's networks.
    Weights whose training patients are unknown count as trained on everybody, and guard: refuse refuses them, unless
    `ancestry` is `trusted`: the user vouches that they saw nobody who is held out. Every figure then says so.
    """

    file: str
    ancestry: Literal["trusted"] | None = None

    def of(self, fold: int) -> Path:
        """The file that a step which holds out `fold` starts from."""
        return Path(self.file.replace("{fold}", str(fold)))


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
        return self.films.which == "annotated" or self.films.view == "overlay" or self.targets.needs_lines


def check_stage(stage: StageSpec, earlier: Mapping[str, StageSpec]) -> None:
    """`ValueError`, from the field's name on, where a stage contradicts itself or the stages before it."""
    start, films = stage.start, stage.films
    allowed = (*ORIGINS, *earlier)
    if isinstance(start, str) and start not in allowed:
        hint = did_you_mean(start, allowed)
        raise ValueError(f"start is {start!r}; allowed: {', '.join(allowed)}, {{file: PATH}}{hint}")
    if stage.fold_shift and not stage.started_from:
        raise ValueError(f"fold_shift is {stage.fold_shift}, but start is no earlier stage")
    if films.augment not in POLICIES:
        hint = did_you_mean(films.augment, POLICIES)
        raise ValueError(f"films.augment is {films.augment!r}; allowed: {', '.join(POLICIES)}{hint}")
    if films.view == "overlay" and stage.started_from and earlier[stage.started_from].films.view == "plain":
        raise ValueError(
            f"start is {start!r}, which sees one channel; a stage with films.view: overlay "
            "sees three and starts from imagenet, scratch or another overlay stage"
        )
    stage.targets.check(films, {name: spec.films for name, spec in earlier.items()})
    if films.set != OWN and stage.needs_lines:
        raise ValueError(f"films: those of the external set {films.set!r} have no lines; use which: all, view: plain")
    _check_maps_of(stage, earlier)
    if stage.needs_lines and films.which != "annotated":
        raise ValueError("films.which is 'all', but this stage needs the annotated lines; make it 'annotated'")


def _check_maps_of(stage: StageSpec, earlier: Mapping[str, StageSpec]) -> None:
    """`ValueError` where the stage whose heatmaps are shown contradicts the stage or those before it."""
    films = stage.films
    if films.maps_of is not None:
        segmenters = [name for name, spec in earlier.items() if spec.targets.maps]
        if films.maps_of not in segmenters:
            known = ", ".join(segmenters) or "none, no earlier stage has targets.maps"
            hint = did_you_mean(films.maps_of, segmenters)
            raise ValueError(f"films.maps_of is {films.maps_of!r}; allowed: {known}{hint}")
        if films.view == "overlay":
            raise ValueError("films.maps_of: heatmaps are shown beside a plain film; use view: plain")
        if isinstance(stage.start, FileStart):
            raise ValueError("start is a file: a network that sees heatmaps starts from imagenet, scratch or a stage")
    before = earlier[stage.started_from].films.maps_of if stage.started_from else films.maps_of
    if before != films.maps_of:
        raise ValueError(
            f"start is {stage.start!r}, which sees the heatmaps of {before or 'no stage'}, and films.maps_of is "
            f"{films.maps_of or 'none'}: both must be the same"
        )


RESERVED = (*ORIGINS, OWN, "ensemble")


def _is_key(name: str) -> str:
    if not name.replace("-", "").isalnum() or name != name.lower() or name == BARE or name.startswith(f"{SITE}-"):
        raise ValueError(f"allowed: {SITE}, or the name of a public data set, in small letters, digits and -")
    return name


PatientKey = Annotated[str, AfterValidator(_is_key)]
"""Under which key patients are hashed (`data.patients`): `site`, or a published one: a public data set's name."""


class MemberSpec(Strict):
    """One member of the ensemble: a backbone, a head, and a chain of stages; the last one is what predicts."""

    backbone: str
    head: str = "gap"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # none: the head's own
    exclusive: bool = False  # the states of an ETT exclude each other: a softmax over them and "none"
    stages: Annotated[dict[str, StageSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _chain(self) -> "MemberSpec":
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}; allowed: {', '.join(HEADS)}{did_you_mean(self.head, HEADS)}")
        earlier: dict[str, StageSpec] = {}
        for name, stage in self.stages.items():
            _check_name(name)
            try:
                check_stage(stage, earlier)
            except ValueError as error:
                raise ValueError(f"stages.{name}.{error}") from None
            earlier[name] = stage
        if stage.films.view == "overlay":
            raise ValueError(f"stages.{name}.films.view is 'overlay': a last stage must read plain films")
        if not stage.targets.classifies:
            raise ValueError(f"stages.{name}.targets names maps alone: a last stage must learn labels too")
        return self

    def decodes(self, stage: str) -> bool:
        """Whether the network of a stage has a decoder of maps: it, or a stage it descends from, learns them."""
        spec = self.stages[stage]
        return spec.targets.maps is not None or (spec.started_from is not None and self.decodes(spec.started_from))

    def made_of(self, stage: str) -> list[StageSpec]:
        """A stage and its ancestors within the member: those it starts from or learns the features of, and theirs."""
        spec = self.stages[stage]
        before = [spec.started_from, spec.targets.features.of if spec.targets.features else None]
        return [spec, *(found for name in before if name for found in self.made_of(name))]

    @property
    def last(self) -> str:
        """The stage that predicts."""
        return list(self.stages)[-1]


class StoreSpec(Strict):
    """How films are kept: shrunk once to `size` px a side, `pad` (keeps the aspect ratio) or `stretch`."""

    size: Annotated[int, Field(ge=32, le=4096)] = 640
    aspect: Literal["pad", "stretch"] = "stretch"


class QualitySpec(Strict):
    """How films are assessed and righted as the store is made, and which are left out of training (docs/quality.md).

    `probe` is `box` (the one that ships), `none` (rules alone), or a file that `cxrlines quality` wrote. Test films are
    predicted whatever they are.
    """

    probe: str = "box"
    leave_out: LeaveOut = "not-films"  # or nothing; or doubtful: turned, inverted, unsure and cropped ones as well


class FoldsSpec(Strict):
    """Patient-disjoint, label-levelled folds: drawn with `count` and `seed`, or read from `file`."""

    file: str | None = None
    count: Annotated[int, Field(ge=2, le=50)] = 5
    seed: int = 0


class ExternalSpec(Strict):
    """Films besides the own set: NIH, PadChest, VinBigData, CheXpert as distributed, or a folder like the own one.

    The folder is usually given on the command line: `--external NAME=FOLDER`.
    """

    folder: str | None = None
    laterals: bool = False
    children: bool = False
    # none: NIH, PadChest, VinBigData, CheXpert are public, all others are the site's
    patients: PatientKey | None = None


class TrackingSpec(Strict):
    """Trackers of a run; see `tracking.settings.TrackingSettings`. Nothing of it changes what is trained."""

    use: tuple[Literal["tensorboard", "csv", "mlflow", "neptune", "wandb"], ...] = ("tensorboard",)
    project: str = "cxrlines"
    mlflow: str | None = None  # a server's address; none: sqlite in the run's folder
    neptune: str | None = None  # a server of one's own; none: offline (the hosted service ended in March 2026)
    wandb: str = "offline"  # offline, online or the address of a server of one's own
    patience_s: Annotated[float, Field(gt=0, le=3600)] = 60.0  # then a tracker that hangs at the end is killed

    def settings(self, root: Path) -> TrackingSettings:
        """With what all steps of the run in `root` share in there."""
        return TrackingSettings(**self.model_dump(), root=str(root / "tracking"))


class Recipe(Strict):
    """The whole method: what is trained, on which folds, at which size, and what is averaged."""

    name: str
    about: str = ""
    seed: int = 0
    size: Annotated[int, Field(ge=32, le=4096)] = 512  # px a side of the film a model sees
    store: StoreSpec = StoreSpec()
    quality: QualitySpec = QualitySpec()
    folds: FoldsSpec = FoldsSpec()
    patients: PatientKey = "site"  # of the own films; `ranzcr` where they are RANZCR CLiP's. Phantoms are public
    external: dict[str, ExternalSpec] = Field(default_factory=dict)
    members: Annotated[dict[str, MemberSpec], Field(min_length=1)]
    ensemble: EnsembleSpec = EnsembleSpec()
    tracking: TrackingSpec = TrackingSpec()
    guard: Literal["refuse", "report"] = "refuse"  # report: go on where a held-out patient was seen, and say so

    @model_validator(mode="after")
    def _agrees(self) -> "Recipe":
        _check_name(self.name)
        for name in (*self.external, *self.members):
            _check_name(name)
        names = list(self.members)
        for place, (name, member) in enumerate(self.members.items()):
            for stage_name, stage in member.stages.items():
                try:
                    self._check_references(stage, names[:place])
                    if stage.films.maps_of:
                        self._check_sizes(name, stage_name, stage.films.maps_of)
                except ValueError as error:
                    raise ValueError(f"members.{name}.stages.{stage_name}.{error}") from None
        for name in self.ensemble.members:
            self._check_source("ensemble.members names", name, names)
        self.ensemble.check_weights(self.averaged)
        if self.ensemble.views and self.ensemble.views.flip:
            self._check_flips()
        return self

    def _check_flips(self) -> None:
        if unflipped := [name for name in self.averaged if not self.saw_flips(*self.source(name))]:
            raise ValueError(
                f"ensemble.views.flip is true, and {', '.join(unflipped)} was trained without flips (films.flip): a "
                "model that never saw a flipped film misreads one; train it with flips, or make views.flip false"
            )

    def _check_references(self, stage: StageSpec, earlier: list[str]) -> None:
        films, soft = stage.films, stage.targets.soft
        if films.set != OWN and films.set not in self.external:
            known = (OWN, *self.external)
            raise ValueError(f"films.set is {films.set!r}; allowed: {', '.join(known)}{did_you_mean(films.set, known)}")
        if soft and soft.of:
            self._check_source("targets.soft.of is", soft.of, earlier)
        if stage.fold_shift and self.guard == "refuse":
            raise ValueError(
                f"fold_shift is {stage.fold_shift}: it starts from a step that saw the films it is scored on; "
                "leave it out, or set guard: report to measure what the leak is worth"
            )

    def _check_sizes(self, member: str, stage: str, maps_of: str) -> None:
        sees, maps = self.size_of(member, stage), self.size_of(member, maps_of)
        if sees != maps or sees % 2:
            raise ValueError(
                f"films.maps_of is {maps_of!r}, which sees {maps} px, and this stage {sees}: make it one even size"
            )

    def _check_source(self, what: str, source: str, members: list[str]) -> None:
        member, slash, stage = source.partition("/")
        if member not in members:
            known = ", ".join(members) or "none, it has no earlier member"
            raise ValueError(f"{what} {source!r}; allowed: {known}{did_you_mean(member, members)}")
        stages = {
            name: spec
            for name, spec in self.members[member].stages.items()
            if spec.films.view == "plain" and spec.targets.classifies
        }
        if slash and stage not in stages:
            raise ValueError(
                f"{what} {source!r}; stages of {member} that read plain films: {', '.join(stages)}"
                f"{did_you_mean(stage, stages)}"
            )

    def stages(self) -> Iterator[tuple[str, StageSpec]]:
        """Every stage of every member with its path, `members.MEMBER.stages.STAGE`."""
        for name, member in self.members.items():
            for stage_name, stage in member.stages.items():
                yield f"members.{name}.stages.{stage_name}", stage

    @property
    def used_sets(self) -> list[str]:
        """The external sets that a stage trains on."""
        used = {stage.films.set for _, stage in self.stages()}
        return [name for name in self.external if name in used]

    @property
    def averaged(self) -> tuple[str, ...]:
        """What the ensemble averages: members, or member/stage."""
        return self.ensemble.members or tuple(self.members)

    def source(self, name: str) -> tuple[str, str]:
        """Member and stage of `member` (its last stage) or `member/stage`."""
        member, _, stage = name.partition("/")
        return member, stage or self.members[member].last

    def saw_flips(self, member: str, stage: str) -> bool:
        """Whether every network of a stage was trained with flips, the segmenter of its heatmaps among them."""
        films = self.members[member].stages[stage].films
        return films.flip and (films.maps_of is None or self.saw_flips(member, films.maps_of))

    def size_of(self, member: str, stage: str) -> int:
        """px a side of the films a stage sees."""
        return self.members[member].stages[stage].size or self.size


def _check_name(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum() or name in RESERVED:
        raise ValueError(f"{name!r} cannot be a name: use letters, digits, - and _, and none of {', '.join(RESERVED)}")
