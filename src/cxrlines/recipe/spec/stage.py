"""What a recipe may say of one stage: five answers, each checked against the stages before it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cxrlines.augment.policy import POLICIES
from cxrlines.training.schedule import ScheduleSpec
from cxrlines.training.targets import LabelTarget, TargetsSpec
from cxrlines.training.targets.base import OWN, FilmsSpec, Strict, nearest

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
        hint = nearest(start, allowed)
        raise ValueError(f"start is {start!r}; allowed: {', '.join(allowed)}, {{file: PATH}}{hint}")
    if stage.fold_shift and not stage.started_from:
        raise ValueError(f"fold_shift is {stage.fold_shift}, but start is no earlier stage")
    if films.augment not in POLICIES:
        hint = nearest(films.augment, POLICIES)
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
            hint = nearest(films.maps_of, segmenters)
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
