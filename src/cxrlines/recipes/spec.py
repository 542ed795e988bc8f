"""What a recipe may say. A stage answers five questions: start, films, targets with their losses, schedule.

Recipes are YAML. A field that does not exist or does not fit is refused with its path, the value, what is allowed
and the nearest right name.
"""

import copy
import difflib
import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cxrlines.augment.policy import POLICIES
from cxrlines.models.heads import HEADS

ORIGINS = ("imagenet", "scratch")
"""What a stage may start from besides an earlier stage of its member."""


Precision = Annotated[Literal["auto", "32", "bf16", "16"], BeforeValidator(str)]  # YAML reads 16 as a number


class RecipeError(ValueError):
    """A recipe that cannot be used; the message says where, what and how to mend it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FilmsSpec(_Strict):
    """On which films a stage trains, and how it sees them."""

    which: Literal["all", "annotated"] = "all"
    view: Literal["plain", "overlay"] = "plain"  # overlay: the annotated lines drawn in, in colour
    colour_by: Literal["label", "device"] = "label"  # label tells a teacher the answer, as the published kernel does
    augment: str = "light"
    flip: bool = True


class LabelTarget(_Strict):
    """Towards the 11 labels, by binary cross-entropy."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    class_weights: Literal["none", "balanced"] = "none"


class FeatureTarget(_Strict):
    """Towards the feature map that an earlier, frozen stage makes of the film with its lines drawn in."""

    of: str
    weight: Annotated[float, Field(gt=0)] = 0.5


class TargetsSpec(_Strict):
    """Towards what a stage trains; the loss is the weighted sum."""

    labels: LabelTarget | None = LabelTarget()
    features: FeatureTarget | None = None


class ScheduleSpec(_Strict):
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
    precision: Precision = "auto"  # auto: 16 on a GPU, 32 without
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


class StageSpec(_Strict):
    """One stage: five answers. `start` is `imagenet`, `scratch` or the name of an earlier stage."""

    start: str = "imagenet"
    films: FilmsSpec = FilmsSpec()
    targets: TargetsSpec = TargetsSpec()
    schedule: ScheduleSpec = ScheduleSpec()

    @property
    def needs_lines(self) -> bool:
        """Whether its films must be annotated: it sees, or its teacher sees, the lines."""
        return self.films.which == "annotated" or self.films.view == "overlay" or self.targets.features is not None


class MemberSpec(_Strict):
    """One member of the ensemble: a backbone, a head, and a chain of stages; the last one is what predicts."""

    backbone: str
    head: str = "gap"
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None  # none: the head's own
    stages: Annotated[dict[str, StageSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _chain(self) -> "MemberSpec":
        if self.head not in HEADS:
            raise ValueError(f"head is {self.head!r}; allowed: {', '.join(HEADS)}{_nearest(self.head, HEADS)}")
        earlier: list[str] = []
        for name, stage in self.stages.items():
            _check_name(name)
            allowed = (*ORIGINS, *earlier)
            if stage.start not in allowed:
                hint = _nearest(stage.start, allowed)
                raise ValueError(f"stages.{name}.start is {stage.start!r}; allowed: {', '.join(allowed)}{hint}")
            if stage.films.augment not in POLICIES:
                hint = _nearest(stage.films.augment, POLICIES)
                allowed_policies = ", ".join(POLICIES)
                raise ValueError(
                    f"stages.{name}.films.augment is {stage.films.augment!r}; allowed: {allowed_policies}{hint}"
                )
            features = stage.targets.features
            if features and features.of not in earlier:
                hint = _nearest(features.of, earlier)
                raise ValueError(
                    f"stages.{name}.targets.features.of is {features.of!r}; "
                    f"allowed: {', '.join(earlier) or 'none, it has no earlier stage'}{hint}"
                )
            if features and self.stages[features.of].films.view != "overlay":
                raise ValueError(
                    f"stages.{name}.targets.features.of is {features.of!r}, which sees plain films; "
                    "a teacher is a stage with films.view: overlay"
                )
            starts_plain = stage.start in earlier and self.stages[stage.start].films.view == "plain"
            if stage.films.view == "overlay" and starts_plain:
                raise ValueError(
                    f"stages.{name}.start is {stage.start!r}, which sees one channel; a stage with films.view: overlay "
                    "sees three and starts from imagenet, scratch or another overlay stage"
                )
            if not (stage.targets.labels or features):
                raise ValueError(f"stages.{name}.targets is empty; give it labels, features or both")
            if stage.needs_lines and stage.films.which != "annotated":
                raise ValueError(
                    f"stages.{name}.films.which is 'all', but this stage needs the annotated lines; make it 'annotated'"
                )
            earlier.append(name)
        last = self.stages[earlier[-1]]
        if last.films.view == "overlay":
            raise ValueError(f"stages.{earlier[-1]}.films.view is 'overlay': a last stage must read plain films")
        return self


class StoreSpec(_Strict):
    """How films are kept: shrunk once to `size` px a side, `pad` (keeps the aspect ratio) or `stretch`."""

    size: Annotated[int, Field(ge=32, le=4096)] = 640
    aspect: Literal["pad", "stretch"] = "stretch"


class FoldsSpec(_Strict):
    """Patient-disjoint, label-levelled folds: drawn with `count` and `seed`, or read from `file`."""

    file: str | None = None
    count: Annotated[int, Field(ge=2, le=50)] = 5
    seed: int = 0


class EnsembleSpec(_Strict):
    """Which members are averaged (none named: all), and how."""

    members: tuple[str, ...] = ()
    how: Literal["mean", "rank"] = "mean"


class Recipe(_Strict):
    """The whole method: what is trained, on which folds, at which size, and what is averaged."""

    name: str
    about: str = ""
    seed: int = 0
    size: Annotated[int, Field(ge=32, le=4096)] = 512  # px a side of the film a model sees
    store: StoreSpec = StoreSpec()
    folds: FoldsSpec = FoldsSpec()
    members: Annotated[dict[str, MemberSpec], Field(min_length=1)]
    ensemble: EnsembleSpec = EnsembleSpec()

    @model_validator(mode="after")
    def _agrees(self) -> "Recipe":
        _check_name(self.name)
        for name in self.members:
            _check_name(name)
        for name in self.ensemble.members:
            if name not in self.members:
                raise ValueError(
                    f"ensemble.members names {name!r}; allowed: {', '.join(self.members)}{_nearest(name, self.members)}"
                )
        return self

    @property
    def averaged(self) -> tuple[str, ...]:
        """The members of the ensemble."""
        return self.ensemble.members or tuple(self.members)


def _check_name(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum() or name in (*ORIGINS, "ensemble"):
        raise ValueError(
            f"{name!r} cannot be a name: use letters, digits, - and _, and none of {', '.join(ORIGINS)}, ensemble"
        )


def _nearest(name: str, allowed: Any) -> str:
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def shipped() -> dict[str, str]:
    """The recipes in the package: name -> YAML text."""
    folder = resources.files("cxrlines.recipes")
    return {
        f.name.removesuffix(".yaml"): f.read_text()
        for f in sorted(folder.iterdir(), key=lambda f: f.name)
        if f.name.endswith(".yaml")
    }


def load_recipe(name_or_path: str, settings: list[str] | None = None) -> Recipe:
    """A shipped recipe by name, or a YAML file by path, with `path.to.field=value` settings laid over it.

    A top-level `defaults` is laid under every stage of every member. Raises `RecipeError`.
    """
    known = shipped()
    if name_or_path in known:
        text, where = known[name_or_path], f"recipe {name_or_path}"
    elif Path(name_or_path).is_file():
        text, where = Path(name_or_path).read_text(), name_or_path
    else:
        raise RecipeError(
            f"no recipe {name_or_path!r}: neither a file nor one of {', '.join(known)}{_nearest(name_or_path, known)}"
        )
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{where} holds {type(data).__name__}, not the fields of a recipe")
    data = json.loads(json.dumps(data, default=str))  # a YAML alias shared by two members becomes a copy for each
    for setting in settings or []:
        if setting.startswith("defaults."):
            _set(data, setting)
    defaults = data.pop("defaults", {})
    for member in _values(data.get("members")):
        for name, stage in (member.get("stages") or {}).items() if isinstance(member.get("stages"), dict) else ():
            member["stages"][name] = _laid_over(copy.deepcopy(defaults), stage or {})
    for setting in settings or []:
        if not setting.startswith("defaults."):
            _set(data, setting)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(_explain(error, where)) from None


def _values(members: Any) -> list[dict[str, Any]]:
    return [m for m in members.values() if isinstance(m, dict)] if isinstance(members, dict) else []


def _laid_over(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return under | {key: _laid_over(under.get(key), value) for key, value in over.items()}


def _set(data: dict[str, Any], setting: str) -> None:
    path, equals, value = setting.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {setting!r}: write it as path.to.field=value, e.g. --set size=640")
    *way, last = path.split(".")
    at = data
    for depth, key in enumerate(way):
        # A group of fields that the file leaves to its defaults may be set into; a member or stage must exist.
        if key not in at and depth and way[depth - 1] in ("members", "stages"):
            raise RecipeError(f"--set {setting!r}: there is no {key!r}; there are: {', '.join(at)}{_nearest(key, at)}")
        at = at.setdefault(key, {})
        if not isinstance(at, dict):
            raise RecipeError(f"--set {setting!r}: {'.'.join(way[: depth + 1])} is a value, it has no fields")
    try:
        at[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {setting!r}: {value!r} is not YAML; put it in quotes") from None


def _explain(error: ValidationError, where: str) -> str:
    """Every problem on a line: its path, the value, what is allowed, the nearest right name."""
    lines = [f"{where} cannot be used:"]
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            allowed = _fields_at(problem["loc"][:-1])
            name = str(problem["loc"][-1])
            lines.append(f"  {path}: there is no such field; allowed: {', '.join(allowed)}{_nearest(name, allowed)}")
        elif problem["type"] == "missing":
            lines.append(f"  {path}: is missing and has no default")
        else:
            value = problem["input"]
            shown = "" if isinstance(value, dict) else f"is {value!r}; "
            lines.append(f"  {path + ': ' if path else ''}{shown}{problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def _fields_at(path: tuple[int | str, ...]) -> list[str]:
    """The fields allowed at a path of a recipe."""
    model: type[BaseModel] = Recipe
    inside: dict[str, type[BaseModel]] = {
        "store": StoreSpec, "folds": FoldsSpec, "ensemble": EnsembleSpec, "members": MemberSpec, "stages": StageSpec,
        "films": FilmsSpec, "targets": TargetsSpec, "schedule": ScheduleSpec, "labels": LabelTarget,
        "features": FeatureTarget,
    }  # fmt: skip
    for part in path:
        model = inside.get(str(part), model)
    return list(model.model_fields)
