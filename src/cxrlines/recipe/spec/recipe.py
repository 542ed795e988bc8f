"""The fields of a recipe: members made of stages, films, folds, ensemble, trackers; and what must agree among them."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from cxrlines.augment.policy import make_policy
from cxrlines.core.text import did_you_mean
from cxrlines.core.transform import Size, height_width, size_text
from cxrlines.models import DECODERS, HEADS
from cxrlines.recipe.spec.ensemble import EnsembleSpec
from cxrlines.recipe.spec.graph import Source, refuse_circles
from cxrlines.recipe.spec.parts import ExternalSpec, FoldsSpec, PatientKey, QualitySpec, TrackingSpec
from cxrlines.recipe.spec.stage import ORIGINS, FilmSize, StageSpec, check_stage, check_start
from cxrlines.training.targets.base import OWN, TEST_SET, Strict
from cxrlines.training.targets.soft_maps import Taught, check_films

RESERVED = (*ORIGINS, OWN, "ensemble")


class MemberSpec(Strict):
    """One member of the ensemble: a backbone, a head, and a chain of stages; the last one is what predicts."""

    backbone: str  # name of any timm network
    head: str = "gap"  # pooling: gap, gem, concat (average and max) or attention (gated, one head per device)
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # dropout rate of the head; null: the head's default
    decoder: str = "unet"  # decoder of the heatmaps: unet, or separable, which is faster
    # states of an ETT exclude each other: softmax over them and none, instead of a sigmoid each
    exclusive: bool = False
    # folds that the member is trained on; null: all of the recipe's
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    stages: Annotated[dict[str, StageSpec], Field(min_length=1)]  # stages, in the order of training

    @model_validator(mode="after")
    def _chain(self) -> "MemberSpec":
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}; allowed: {', '.join(HEADS)}{did_you_mean(self.head, HEADS)}")
        if self.decoder not in DECODERS:
            allowed = f"{', '.join(DECODERS)}{did_you_mean(self.decoder, DECODERS)}"
            raise ValueError(f"decoder is {self.decoder!r}; allowed: {allowed}")
        if self.folds and len(set(self.folds)) < len(self.folds):
            raise ValueError(f"folds is {list(self.folds)}: name each once")
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
            alone = " and ".join(stage.targets.named)
            raise ValueError(f"stages.{name}.targets names {alone} alone: a last stage must learn labels too")
        return self

    @property
    def last(self) -> str:
        """The stage that predicts."""
        return list(self.stages)[-1]


class StoreSpec(Strict):
    """How films are kept: shrunk once to `size`, `pad` (keeps the aspect ratio) or `stretch`."""

    size: FilmSize = 640  # size of the stored films; at least the largest that a model sees
    # pad keeps the aspect ratio and pads with black; stretch does not keep it
    aspect: Literal["pad", "stretch"] = "stretch"


class Recipe(Strict):
    """The whole method: what is trained, on which folds, at which size, and what is averaged."""

    name: str  # name in reports, bundles and trackers
    about: str = ""  # description, one sentence
    seed: Annotated[int, Field(ge=0)] = 0  # seed of weight initialisation, film order, augmentation and dropout
    size: FilmSize = 512  # input size of the networks
    store: StoreSpec = StoreSpec()  # the films as they are prepared once and kept
    quality: QualitySpec = QualitySpec()  # the quality gate: which films are left out of training
    folds: FoldsSpec = FoldsSpec()  # cross-validation folds
    # key under which patient identifiers are hashed: site, or ranzcr where the films are RANZCR CLiP's
    patients: PatientKey = "site"
    external: dict[str, ExternalSpec] = Field(default_factory=dict)  # external data sets
    members: Annotated[dict[str, MemberSpec], Field(min_length=1)]  # the networks of the ensemble
    ensemble: EnsembleSpec = EnsembleSpec()  # how members are averaged
    tracking: TrackingSpec = TrackingSpec()  # experiment tracking
    # report: go on where a held-out patient was seen in training, and mark every figure
    guard: Literal["refuse", "report"] = "refuse"

    @model_validator(mode="wrap")
    @classmethod
    def _of_numbers(cls, given: Any, made_of: ModelWrapValidatorHandler["Recipe"]) -> "Recipe":
        made = made_of(given)
        _check_numbers(given, made.model_dump(), "")
        return made

    @model_validator(mode="after")
    def _agrees(self) -> "Recipe":
        _check_name(self.name)
        for name in (*self.external, *self.members):
            _check_name(name)
        if TEST_SET in self.external:
            raise ValueError(f"external.{TEST_SET} cannot be a name: it is that of the own test films")
        for source in self.sources():
            stage = self.spec(source)
            try:
                self._check_references(source.member, stage)
                if stage.targets.soft_maps:
                    stage.targets.soft_maps.check_teachers(self.taught(source), self._able(source))
                if stage.films.maps_of:
                    self._check_sizes(*source, stage.films.maps_of)
                self._check_frozen(source)
            except ValueError as error:
                raise ValueError(f"members.{source.member}.stages.{source.stage}.{error}") from None
        for name in self.ensemble.members:
            self._check_source("ensemble.members names", name)
        if len({self.source(name) for name in self.ensemble.members}) < len(self.ensemble.members):
            raise ValueError(
                f"ensemble.members is {', '.join(self.ensemble.members)}: name each once; a member alone is its last "
                "stage"
            )
        self.ensemble.check_weights(self.averaged)
        refuse_circles({source: self.parents(source) for source in self.sources()})
        for name in self.members:
            self._check_decoder(name)
        self._check_folds()
        if self.ensemble.views and self.ensemble.views.flip:
            self._check_flips()
        return self

    def _check_decoder(self, name: str) -> None:
        """`ValueError` where a member says which decoder it has, and has none."""
        member = self.members[name]
        usual = type(member).model_fields["decoder"].default
        if member.decoder != usual and not any(
            self.decodes(source) for source in self.sources() if source.member == name
        ):
            raise ValueError(
                f"members.{name}.decoder is {member.decoder!r}, but no stage of it learns heatmaps (targets.maps, "
                "targets.soft_maps): leave it out, or name such a target"
            )

    def _check_flips(self) -> None:
        if unflipped := [name for name in self.averaged if not self.saw_flips(*self.source(name))]:
            raise ValueError(
                f"ensemble.views.flip is true, and {', '.join(unflipped)} was trained without flips (films.flip): a "
                "model that never saw a flipped film misreads one; train it with flips, or make views.flip false"
            )

    def _check_references(self, member: str, stage: StageSpec) -> None:
        films, soft = stage.films, stage.targets.soft
        if films.set == TEST_SET and not films.pseudo_labels and self.guard == "refuse":
            raise ValueError(
                "films.set is 'test': test films are then seen before they are scored; leave it out, or say "
                "films.pseudo_labels: allowed, which every figure of test films will then state"
            )
        known = (OWN, TEST_SET, *self.external)
        if films.set not in known:
            raise ValueError(f"films.set is {films.set!r}; allowed: {', '.join(known)}{did_you_mean(films.set, known)}")
        if stage.started_from and "/" in stage.started_from:
            self._check_start(member, stage, stage.started_from)
        for teacher in soft.teachers if soft else ():
            self._check_source("targets.soft.of is", teacher)
        if stage.fold_shift and self.guard == "refuse":
            raise ValueError(
                f"fold_shift is {stage.fold_shift}: it starts from a step that saw the films it is scored on; "
                "leave it out, or set guard: report to measure what the leak is worth"
            )

    def _check_start(self, member: str, stage: StageSpec, start: str) -> None:
        """`ValueError` where there is no such stage `member/stage`, or it is of a network that does not fit."""
        known = [str(source) for source in self.sources()]
        if start not in known:
            raise ValueError(f"start is {start!r}; allowed: {', '.join(known)}{did_you_mean(start, known)}")
        other, name = start.split("/")
        mine, theirs = self.members[member], self.members[other]
        check_start(stage, theirs.stages[name])
        if mine.backbone != theirs.backbone:
            raise ValueError(
                f"start is {start!r}, whose backbone is {theirs.backbone}, and this member's is {mine.backbone}: "
                "start from a member of the same backbone"
            )
        if stage.films.maps_of and other != member:
            raise ValueError(f"start is {start!r}: a network that sees heatmaps starts from a stage of its own member")

    def taught(self, source: Source) -> Taught:
        """What a stage learns of heatmaps: their kinds, the size of its films, and whether they are flipped."""
        return Taught(self.spec(source).targets.map_kinds, self.size_of(*source), self.saw_flips(*source))

    def _able(self, student: Source) -> dict[str, Taught]:
        """The others that learn heatmaps: stages, as `member/stage`, and members whose last stage does."""
        named = {str(other): other for other in self.sources()} | {name: self.source(name) for name in self.members}
        return {name: taught for name, s in named.items() if s != student and (taught := self.taught(s)).kinds}

    def _check_folds(self) -> None:
        """`ValueError` where members name folds that there are not, or that the ensemble cannot do with."""
        count = self.folds.count
        for name, member in self.members.items():
            strange = [fold for fold in member.folds or () if fold >= count]
            if strange and not self.folds.file:
                raise ValueError(f"members.{name}.folds names {strange}; this recipe has folds 0 to {count - 1}")
        averaged = {name: self.members[self.source(name).member].folds for name in self.averaged}
        differ = len({frozenset(folds) if folds else None for folds in averaged.values()}) > 1
        if self.ensemble.how in ("rank", "fitted") and differ:
            some = "; ".join(f"{name}: {'all' if folds is None else list(folds)}" for name, folds in averaged.items())
            raise ValueError(
                f"ensemble.how is {self.ensemble.how}, which compares members film by film, but they are trained on "
                f"different folds ({some}); name members of the same folds in ensemble.members, or take mean or power"
            )

    def _check_sizes(self, member: str, stage: str, maps_of: str) -> None:
        sees, maps = self.size_of(member, stage), self.size_of(member, maps_of)
        if sees != maps or any(side % 2 for side in height_width(sees)):
            raise ValueError(
                f"films.maps_of is {maps_of!r}, which sees {size_text(maps)}, and this stage {size_text(sees)}: "
                "make it one even size"
            )

    def _check_frozen(self, source: Source) -> None:
        """`ValueError` where a frozen network of the member saw films of another size, or none of the flipped ones."""
        spec = self.spec(source)
        features = spec.targets.features
        named = {"targets.features.of": features.of if features else None, "films.maps_of": spec.films.maps_of}
        for field, of in named.items():
            if of:
                check_films(f"{field} is {of!r}", self.taught(Source(source.member, of)), self.taught(source))

    def _check_source(self, what: str, source: str) -> None:
        member, slash, stage = source.partition("/")
        if member not in self.members:
            known = ", ".join(self.members)
            raise ValueError(f"{what} {source!r}; allowed: {known}{did_you_mean(member, self.members)}")
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
    def learns_test_films(self) -> bool:
        """Whether a stage trains on the own test films, with soft labels."""
        return any(stage.films.set == TEST_SET for _, stage in self.stages())

    @property
    def allows_pseudo_labels(self) -> bool:
        """Whether a stage says that test films may have been seen under soft labels."""
        return any(stage.films.pseudo_labels is not None for _, stage in self.stages())

    def first_fold(self, member: str) -> int:
        """A fold that a member is trained on, for questions that are the same for all."""
        return min(self.members[member].folds or (0,))

    def trains(self, member: str, fold: int) -> bool:
        """Whether a member is trained on a fold for its own sake, and not only as a teacher of others."""
        folds = self.members[member].folds
        return folds is None or fold in folds

    @property
    def averaged(self) -> tuple[str, ...]:
        """What the ensemble averages: members, or member/stage."""
        return self.ensemble.members or tuple(self.members)

    def sources(self) -> list[Source]:
        """Every stage of every member."""
        return [Source(name, stage) for name, member in self.members.items() for stage in member.stages]

    def source(self, name: str) -> Source:
        """Member and stage of `member` (its last stage) or `member/stage`."""
        member, _, stage = name.partition("/")
        return Source(member, stage or self.members[member].last)

    def spec(self, source: Source) -> StageSpec:
        """What a stage is."""
        return self.members[source.member].stages[source.stage]

    def origin(self, source: Source) -> Source | None:
        """The stage that a stage starts from, of its member or another; None where it starts from none."""
        name = self.spec(source).started_from
        if name is None:
            return None
        return self.source(name) if "/" in name else Source(source.member, name)

    def parents(self, source: Source) -> list[Source]:
        """The stages that a stage is made from: its start, its teachers, and the segmenter whose heatmaps it sees."""
        spec, origin = self.spec(source), self.origin(source)
        features, soft = spec.targets.features, spec.targets.soft
        names = [features.of if features else None, spec.films.maps_of]
        own = [Source(source.member, name) for name in names if name]
        own += map(self.source, (*(soft.teachers if soft else ()), *spec.targets.map_teachers))
        return [*([origin] if origin else []), *own]

    def epochs_chosen(self, source: Source) -> set[Source]:
        """Of a stage and all that it is made from, those whose epoch is chosen on the fold held out."""
        own = {source} if self.spec(source).schedule.keeps_best else set()
        return own.union(*map(self.epochs_chosen, self.parents(source)))

    def decodes(self, source: Source) -> bool:
        """Whether the network of a stage has a decoder of maps: it, or a stage it descends from, learns them."""
        origin = self.origin(source)
        return self.spec(source).targets.reads_maps or (origin is not None and self.decodes(origin))

    def decoder_of(self, source: Source) -> str | None:
        """The kind of the decoder that the network of a stage has; None where it has none."""
        return self.members[source.member].decoder if self.decodes(source) else None

    def made_of(self, source: Source) -> list[StageSpec]:
        """A stage and its ancestors: those it starts from or learns the features or heatmaps of, and theirs."""
        spec, origin = self.spec(source), self.origin(source)
        teacher = Source(source.member, spec.targets.features.of) if spec.targets.features else None
        before = (origin, teacher, *map(self.source, spec.targets.map_teachers))
        return [spec, *(found for other in before if other for found in self.made_of(other))]

    def of_own_films(self, source: Source) -> list[StageSpec]:
        """Those of `made_of` that train on own films."""
        return [stage for stage in self.made_of(source) if stage.films.set == OWN]

    def saw_flips(self, member: str, stage: str) -> bool:
        """Whether a stage flips films; then every network of it was trained with flips, as it refuses others."""
        films = self.members[member].stages[stage].films
        return make_policy(films.augment, self.size_of(member, stage), flip=films.flip).flip > 0

    def size_of(self, member: str, stage: str) -> Size:
        """The size of the films a stage sees."""
        return self.members[member].stages[stage].size or self.size


def _check_numbers(given: Any, made: Any, path: str) -> None:
    """`ValueError` for a number that is infinite or none, or was given as true or false, which would count as 1 or 0.

    `made` is what became of the values `given`, with the defaults of those that were not.
    """
    if isinstance(made, dict):
        named = given if isinstance(given, dict) else {}
        for name, value in made.items():
            _check_numbers(named.get(name), value, f"{path}.{name}" if path else name)
    elif isinstance(made, list | tuple):
        listed = given if isinstance(given, list | tuple) and len(given) == len(made) else [None] * len(made)
        for place, (value, of) in enumerate(zip(made, listed, strict=True)):
            _check_numbers(of, value, f"{path}.{place}")
    elif isinstance(given, bool) and not isinstance(made, bool):
        raise ValueError(f"{path} is {str(given).lower()}; give a number")
    elif isinstance(made, float) and not math.isfinite(made):
        raise ValueError(f"{path} is {made}; give a finite number")


def _check_name(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum() or name in RESERVED:
        raise ValueError(f"{name!r} cannot be a name: use letters, digits, - and _, and none of {', '.join(RESERVED)}")
