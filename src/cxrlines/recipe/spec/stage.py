"""The fields of a stage: its start, size, films, targets and schedule; and the checks of a stage by itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cxrlines.augment.policy import make_policy
from cxrlines.core.text import did_you_mean
from cxrlines.core.transform import Sides, Size
from cxrlines.training.config import ScheduleSpec
from cxrlines.training.targets import LabelTarget, TargetsSpec
from cxrlines.training.targets.base import OWN, TEST_SET, FilmsSpec, Strict, set_text

FilmSize = Annotated[Size, Sides(32, 4096)]
"""px a side, or [height, width]."""
ORIGINS = ("imagenet", "scratch")
"""What a stage may start from besides another stage and a file."""


class FileStart(Strict):
    """Weights of another run, or someone else's: a timm, torchvision, Lightning or bare state dict, or safetensors.

    `{fold}` in `file` stands for the fold that is held out, so that training goes on from an earlier run's networks.
    Weights whose training patients are unknown count as trained on everybody, and guard: refuse refuses them, unless
    `ancestry` is `trusted`: the user vouches that they saw nobody who is held out. Every figure then says so.
    """

    file: str  # path of the weights; `{fold}` in it stands for the held-out fold
    # trusted: you vouch that the weights were not trained on held-out patients
    ancestry: Literal["trusted"] | None = None
    # adopt: take the file's head where its shapes agree; leave: begin with a new one
    head: Literal["adopt", "leave"] = "adopt"

    def of(self, fold: int) -> Path:
        """The file that a step which holds out `fold` starts from."""
        return Path(self.file.replace("{fold}", str(fold)))


class StageSpec(Strict):
    """One stage: five answers. `start` is `imagenet`, `scratch`, an earlier stage, `member/stage` of any, or a file."""

    start: str | FileStart = "imagenet"  # initial weights: imagenet, scratch, STAGE, MEMBER/STAGE, or a file
    fold_shift: Annotated[int, Field(ge=0)] = 0  # 1: start from the next fold's step, a leak; needs guard: report
    size: FilmSize | None = None  # input size in this stage; null: the recipe's
    films: FilmsSpec = FilmsSpec()  # the films it trains on, and how they are shown
    targets: TargetsSpec = TargetsSpec(labels=LabelTarget())  # its losses
    schedule: ScheduleSpec = ScheduleSpec()  # epochs, batch, optimiser, learning rate

    @property
    def started_from(self) -> str | None:
        """The stage this one starts from, if it does: an earlier one of its member, or `member/stage`."""
        return self.start if isinstance(self.start, str) and self.start not in ORIGINS else None

    @property
    def needs_lines(self) -> bool:
        """Whether its films must be annotated: it sees, or its teacher sees, the lines."""
        return self.films.which == "annotated" or self.films.view == "overlay" or self.targets.needs_lines

    @property
    def learns_lines(self) -> bool:
        """Whether annotated lines and landmarks of its own films decide what it learns."""
        presence, retrieval = self.targets.presence, self.targets.retrieval
        by_tips = retrieval is not None and retrieval.tips is not None
        return self.needs_lines or self.targets.draws_maps or presence is not None or by_tips


def check_stage(stage: StageSpec, earlier: Mapping[str, StageSpec]) -> None:
    """`ValueError`, from the field's name on, where a stage contradicts itself or the stages before it."""
    start, films = stage.start, stage.films
    allowed = (*ORIGINS, *earlier)
    if isinstance(start, str) and start not in allowed and "/" not in start:
        hint = did_you_mean(start, allowed)
        raise ValueError(f"start is {start!r}; allowed: {', '.join(allowed)}, MEMBER/STAGE, {{file: PATH}}{hint}")
    if stage.fold_shift and not stage.started_from:
        raise ValueError(f"fold_shift is {stage.fold_shift}, but start is no stage")
    try:
        make_policy(films.augment, stage.size or 512, flip=films.flip)
    except ValueError as error:
        raise ValueError(f"films.{error}") from None
    if stage.started_from and stage.started_from in earlier:
        check_start(stage, earlier[stage.started_from])
    films.check()
    stage.targets.check(films, {name: spec.films for name, spec in earlier.items()})
    if films.set == TEST_SET and [*stage.targets.named] != ["soft"]:
        raise ValueError(f"targets names {', '.join(stage.targets.named)}; test films are learnt by soft labels alone")
    if films.pseudo_labels and films.set != TEST_SET:
        raise ValueError(f"films.pseudo_labels is for set: {TEST_SET}; here films.set is {films.set!r}")
    if films.set != OWN and stage.needs_lines:
        raise ValueError(f"films: those of {set_text(films.set)} have no lines; use which: all, view: plain")
    _check_maps_of(stage, earlier)
    _check_schedule(stage)
    if stage.needs_lines and films.which != "annotated":
        raise ValueError("films.which is 'all', but this stage needs the annotated lines; make it 'annotated'")


def _check_schedule(stage: StageSpec) -> None:
    """`ValueError` where the schedule leaves films or targets without what they need."""
    schedule = stage.schedule
    pairs = [("targets.retrieval compares", stage.targets.retrieval is not None)]
    pairs += [(f"films.{name} mixes", getattr(stage.films, name) > 0) for name in ("mixup", "cutmix")]
    if schedule.batch < 2 * schedule.accumulate and (needs := [what for what, wanted in pairs if wanted]):
        raise ValueError(
            f"schedule.accumulate is {schedule.accumulate}: a micro-batch has one film, but {needs[0]} the films of a "
            "micro-batch; use fewer of them or a larger batch"
        )
    if schedule.keeps_best and not stage.targets.classifies:
        name, value = ("patience", schedule.patience) if schedule.patience else ("keep", schedule.keep)
        raise ValueError(
            f"schedule.{name} is {value}, which watches the AUC of labels, but targets names "
            f"{' and '.join(stage.targets.named)} alone; leave it out"
        )
    if schedule.validate_films and not stage.targets.classifies:
        raise ValueError(
            f"schedule.validate_films is {schedule.validate_films}, films whose AUC of labels is watched, but targets "
            f"names {' and '.join(stage.targets.named)} alone; leave it out, or make it 0"
        )


def _check_maps_of(stage: StageSpec, earlier: Mapping[str, StageSpec]) -> None:
    """`ValueError` where the stage whose heatmaps are shown contradicts the stage or those before it."""
    films = stage.films
    if films.maps_of is not None:
        segmenters = [name for name, spec in earlier.items() if spec.targets.reads_maps]
        if films.maps_of not in segmenters:
            known = ", ".join(segmenters) or "none, no earlier stage has targets.maps"
            hint = did_you_mean(films.maps_of, segmenters)
            raise ValueError(f"films.maps_of is {films.maps_of!r}; allowed: {known}{hint}")
        if films.view == "overlay":
            raise ValueError("films.maps_of: heatmaps are shown beside a plain film; use view: plain")
        if isinstance(stage.start, FileStart):
            raise ValueError("start is a file: a network that sees heatmaps starts from imagenet, scratch or a stage")


def check_start(stage: StageSpec, before: StageSpec) -> None:
    """`ValueError` where a stage sees other channels than the one that it starts from."""
    if stage.films.view == "overlay" and before.films.view == "plain":
        raise ValueError(
            f"start is {stage.start!r}, which sees one channel; a stage with films.view: overlay "
            "sees three and starts from imagenet, scratch or another overlay stage"
        )
    if stage.films.maps_of != before.films.maps_of:
        raise ValueError(
            f"start is {stage.start!r}, which sees the heatmaps of {before.films.maps_of or 'no stage'}, and "
            f"films.maps_of is {stage.films.maps_of or 'none'}: both must be the same"
        )
