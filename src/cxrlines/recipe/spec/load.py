"""Recipes read from YAML: shipped ones by name, others by path, with settings laid over.

A field that does not exist or does not fit is refused with its path, the value, what is allowed and the nearest right
name.
"""

import copy
import fnmatch
import json
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
import yaml
from pydantic import BaseModel, ValidationError

from cxrlines.augment.policy import make_policy
from cxrlines.core.errors import Error
from cxrlines.core.text import did_you_mean, must_be
from cxrlines.core.transform import height_width, size_text
from cxrlines.recipe.spec.parts import FoldsSpec, TrackingSpec
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.recipe.spec.stage import StageSpec
from cxrlines.training.config import MOMENTUM
from cxrlines.training.targets.base import FilmsSpec


class RecipeError(Error):
    """A recipe that cannot be used: `what` names the fields by their paths, `way_out` says how to correct it."""


def shipped() -> dict[str, str]:
    """The recipes in the package: name -> YAML text."""
    files = sorted((resources.files("cxrlines.recipe.spec") / "shipped").iterdir(), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text() for file in files if file.name.endswith(".yaml")}


def load_recipe(
    name_or_path: str, settings: list[str] | None = None, say: Callable[[str], None] = lambda text: None
) -> Recipe:
    """A shipped recipe by name, or a YAML file by path, with `path.to.field=value` settings laid over it.

    A part of a path may be a pattern (`members.gem*.stages.*.schedule.epochs=1`): every member and stage that matches
    and has the field. `films.augment.rotate=10` changes a field of the policy that is named there. A top-level
    `defaults` is laid under every stage of every member. `say` is given a line for each setting that changes nothing,
    and where films would be enlarged from the store. Raises `RecipeError`.
    """
    data, where = _read(name_or_path)
    given = settings or []
    try:
        recipe = Recipe.model_validate(_laid_on(data, given))
    except ValidationError as error:
        raise RecipeError(_explain(error, where), "docs/reference/recipe-fields.md lists each field") from None
    for setting in dict.fromkeys(given):
        if without := _without(data, [other for other in given if other != setting]):
            if without == recipe:
                say(f"note: --set {setting!r} changes nothing: without it the recipe, or another --set, says the same")
            elif _as_used(without) == _as_used(recipe):
                why = f"tracking.use is {list(recipe.tracking.use)}, and no tracker there takes it"
                if without.members != recipe.members:
                    why = "it is the value that holds without it; steps that were trained without it are trained again"
                elif without.folds != recipe.folds:
                    why = "folds are read from folds.file, and none are drawn"
                say(f"note: --set {setting!r} changes nothing: {why}")
    if enlarged := _enlarged(recipe):
        kept = size_text(recipe.store.size)
        say(f"note: store.size is {kept}, and {enlarged}: films are kept smaller than they are seen; raise store.size")
    return recipe


def _as_used(recipe: Recipe) -> dict[str, Any]:
    """The recipe with the usual values in place of null, and the defaults of what it does not use: how folds are drawn
    beside a file of them, and the addresses of trackers that are not in use."""
    folds, tracking = recipe.folds, recipe.tracking
    if folds.file:
        folds = FoldsSpec(file=folds.file)
    addresses = {name for name in ("mlflow", "neptune", "wandb") if name not in tracking.use}
    tracking = TrackingSpec.model_validate(tracking.model_dump(exclude=addresses))
    used = recipe.model_copy(update={"folds": folds, "tracking": tracking}).model_dump()
    for source in recipe.sources():
        spec, values = recipe.spec(source), used["members"][source.member]["stages"][source.stage]
        values["size"] = recipe.size_of(*source)
        values["films"]["augment"] = make_policy(spec.films.augment, values["size"], flip=spec.films.flip)
        values["schedule"]["keep"] = spec.schedule.keeps_best
        if spec.schedule.momentum is None:
            values["schedule"]["momentum"] = MOMENTUM.get(spec.schedule.optimizer)
        if spec.targets.labels:
            values["targets"]["labels"] = spec.targets.labels.describe(), spec.targets.labels.weight
    return used


def _enlarged(recipe: Recipe) -> str:
    """The stages whose films are enlarged from the store, with their size; "" where there are none."""
    stages = [
        f"{source} sees {size_text(size)}"
        for source in recipe.sources()
        if max(np.subtract(height_width(size := recipe.size_of(*source)), height_width(recipe.store.size))) > 0
    ]
    return f"{stages[0]}{f' ({len(stages) - 1} more likewise)' if stages[1:] else ''}" if stages else ""


def _without(data: dict[str, Any], settings: list[str]) -> Recipe | None:
    """The recipe under these settings alone; None where they do not make one."""
    try:
        return Recipe.model_validate(_laid_on(data, settings))
    except (RecipeError, ValidationError):
        return None


def _read(name_or_path: str) -> tuple[dict[str, Any], str]:
    """The content of a recipe, and what to call it in errors."""
    known = shipped()
    if name_or_path in known:
        text, where = known[name_or_path], f"recipe {name_or_path}"
    elif Path(name_or_path).is_file():
        where = name_or_path
        try:
            text = Path(name_or_path).read_text("utf-8")
        except UnicodeDecodeError:
            raise RecipeError(f"{where} is no text in UTF-8", "name a recipe in YAML") from None
    else:
        raise RecipeError(
            f"there is no recipe {name_or_path!r}",
            f"name a YAML file, or one of {', '.join(known)}{did_you_mean(name_or_path, known)}",
        )
    try:
        data = _parsed(text)
        # a YAML alias shared by two members becomes a copy for each
        data = json.loads(json.dumps(data, default=str))
    except yaml.YAMLError as error:
        raise RecipeError(f"{where} is not valid YAML: {error}", "correct it there") from None
    except (TypeError, ValueError, RecursionError):  # an alias that holds itself
        raise RecipeError(f"{where} holds YAML that is no recipe", "no value contains itself") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{where} holds {type(data).__name__}", "a recipe has fields; see docs/recipes.md")
    return data, where


class _Loader(yaml.SafeLoader):
    """YAML of which each mapping has a key once, and texts alone as keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                what = f"the name {key.value!r} is no text in YAML; put it in quotes"
                raise yaml.MarkedYAMLError(problem=what, problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


def _parsed(text: str) -> Any:
    """The value of some YAML; `yaml.YAMLError` for none, with its line."""
    return yaml.load(text, _Loader)


def _laid_on(content: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The content of a recipe with its defaults laid under every stage, and the settings over all."""
    data = copy.deepcopy(content)
    of_defaults = [setting for setting in settings if re.match(r"defaults[.=]", setting)]
    for setting in of_defaults:
        _set(data, setting)
    defaults = data.pop("defaults", None) or {}
    if not isinstance(defaults, dict):
        raise RecipeError(
            f"defaults is {defaults!r}", "it has the fields of a stage: defaults: {schedule: {epochs: 3}}"
        )
    for member in _values(data.get("members")):
        for name, stage in (member.get("stages") or {}).items() if isinstance(member.get("stages"), dict) else ():
            member["stages"][name] = _laid_over(copy.deepcopy(defaults), stage or {})
    for setting in settings:
        if setting not in of_defaults:
            _set(data, setting)
    return data


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run wrote down in its folder. `RecipeError` where it is cut short, or another version's."""
    path = run / "recipe.json"
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RecipeError(
            _explain(error, str(path)), "use the version of cxrlines that made the run, or begin a new one with --out"
        ) from None


def _values(members: Any) -> list[dict[str, Any]]:
    return [m for m in members.values() if isinstance(m, dict)] if isinstance(members, dict) else []


def _laid_over(under: Any, over: Any) -> Any:
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return under | {key: _laid_over(under.get(key), value) for key, value in over.items()}


def _set(data: dict[str, Any], setting: str) -> None:
    path, equals, value = setting.partition("=")
    if not equals or not path:
        lacks = "value" if path else "field"
        raise RecipeError(f"--set {setting!r} has no {lacks}", "write it as path.to.field=value, e.g. --set size=640")
    try:
        content = _parsed(value)
    except yaml.YAMLError:
        raise RecipeError(f"--set {setting!r}: {value!r} is not YAML", "put it in quotes") from None
    ways = _matches(data, path.split(".")) if _is_pattern(path) else [tuple(path.split("."))]
    if not ways:
        _refuse_unknown(setting, path.split("."))
        known = ", ".join(data["members"]) if isinstance(data.get("members"), dict) else ""
        raise RecipeError(f"--set {setting!r}: nothing matches it", f"the members are: {known}; * stands for any name")
    for way in ways:
        _put(data, way, copy.deepcopy(content), setting)


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any, setting: str) -> None:
    *way, last = path
    at = data
    for depth, key in enumerate(way):
        # A group of fields that the file leaves to its defaults may be set into; a member or stage must exist.
        if key not in at and depth and way[depth - 1] in _NAMED:
            _refuse_unknown(setting, path)
            raise RecipeError(
                f"--set {setting!r}: there is no {key!r}",
                f"there are: {', '.join(at) or 'none'}{did_you_mean(key, at)}; new ones are written in a recipe file",
            )
        if key == _POLICY and not isinstance(at.get(key), dict):  # a policy by its name
            at[key] = {"policy": at.get(key, FilmsSpec().augment)}
        at = at.setdefault(key, {})
        if not isinstance(at, dict):
            _refuse_unknown(setting, path)
            place = ".".join(way[: depth + 1])
            raise RecipeError(
                f"--set {setting!r}: {place} is {at!r}, which has no fields",
                f"replace it, e.g. --set '{place}={{{path[depth + 1]}: ...}}'",
            )
    at[last] = value


_NAMED = ("members", "stages", "external")
"""Fields whose own fields are names."""
_POLICY = "augment"
"""The field that is a policy's name, or a policy with some of its fields changed."""


def _refuse_unknown(setting: str, path: Sequence[str]) -> None:
    """`RecipeError` where a part of the path of a setting is no field."""
    kind: Any = Recipe
    for depth, part in enumerate(path):
        place = ".".join(path[:depth])
        if part == "defaults" and not depth:
            kind = StageSpec
        elif named := [each for each in _kinds(kind) if get_origin(each) is dict]:
            kind = get_args(named[0])[1]
        elif model := _model_in(kind):
            allowed = list(model.model_fields)
            if part not in allowed:
                raise RecipeError(
                    f"--set {setting!r}: {place or 'a recipe'} has no field {part!r}",
                    f"allowed: {', '.join(allowed)}{did_you_mean(part, allowed)}",
                )
            kind = model.model_fields[part].annotation
        else:
            raise RecipeError(f"--set {setting!r}: {place} has no fields", f"give it a value: --set {place}=VALUE")


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in "*?[")


def _matches(at: Any, parts: list[str], below: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths that a pattern stands for: of members and stages that are there, and of groups that they have."""
    if not parts:
        return [below]
    (part, *rest), there = parts, at if isinstance(at, dict) else {}
    if _is_pattern(part):
        keys = [key for key in there if fnmatch.fnmatchcase(key, part)]
    elif part in there:
        keys = [part]
    else:
        return [(*below, *parts)] if _may_begin(at, part, rest, below) else []
    return [way for key in keys for way in _matches(there[key], rest, (*below, key))]


def _may_begin(at: Any, part: str, rest: list[str], below: tuple[str, ...]) -> bool:
    """Whether a field that is not there may be set: no name, and within no group that is left out, such as `soft`."""
    if any(map(_is_pattern, rest)) or (below and below[-1] in _NAMED):
        return False
    if _POLICY in (*below, part, *rest)[:-1]:
        return True
    if not isinstance(at, dict):
        return False
    group: Any = _model_in(_place(below)[1]) or Recipe
    fields = group.model_fields
    for name in [part, *rest][:-1]:
        if name not in fields:  # a field that does not exist is reported where the recipe is checked
            return True
        group = getattr(group, name) if isinstance(group, BaseModel) else fields[name].get_default()
        if not isinstance(group, BaseModel):
            return False
        fields = type(group).model_fields
    return True


def _explain(error: ValidationError, where: str) -> str:
    """Every problem on a line: its path, the value, what is allowed, the nearest right name; the same one of several
    members or stages once."""
    problems: dict[tuple[str, ...], list[str]] = {}
    for problem in error.errors():
        place, value = problem["loc"], problem["input"]
        said = problems.setdefault(_place(place)[0], [])
        if problem["type"] == "extra_forbidden":
            model = _model_in(_place(place[:-1])[1])
            allowed = list(model.model_fields) if model else []
            said.append(f"there is no such field; allowed: {', '.join(allowed)}{did_you_mean(place[-1], allowed)}")
        elif problem["type"] == "missing":
            said.append("is missing and has no default")
        elif said:  # a value of several kinds is wrong for each
            said.append(f" or {must_be(problem).removeprefix('must be ')}")
        else:
            said.append(f"{'' if isinstance(value, dict) else f'is {repr(value)[:80]}; '}{must_be(problem)}")
    places: dict[tuple[str, ...], list[str]] = {}
    for path, said in problems.items():
        # what is wrong within a value says more than what is then wrong with the whole
        if not any(path == other[: len(path)] for other in problems if other != path):
            field = [part for above, part in zip(("", *path), path, strict=False) if above not in ("members", "stages")]
            text = f"{': ' if path else ''}{''.join(said)}"
            places.setdefault((*field, text), []).append(".".join(path))
    lines = [f"{where} cannot be used:"]
    for (*_, text), (first, *others) in places.items():
        lines.append(f"  {first}{text}{f' ({len(others)} more likewise)' if others else ''}")
    return "\n".join(lines)


def _place(location: Sequence[int | str]) -> tuple[tuple[str, ...], Any]:
    """The path of a pydantic location, without its names for the kinds that a value may be; and the type there."""
    path: list[str] = []
    kind: Any = Recipe
    for part in map(str, location):
        kinds = _kinds(kind)
        if len(kinds) > 1:
            kind = next((each for each in kinds if getattr(each, "__name__", "") == part), Any)
            continue
        path.append(part)
        if get_origin(kinds[0]) is dict:
            kind = get_args(kinds[0])[1]
        else:
            model = _model_in(kinds[0])
            kind = model.model_fields[part].annotation if model and part in model.model_fields else Any
    return tuple(path), kind


def _kinds(annotation: Any) -> list[Any]:
    """The kinds that a value of a type may be, None left out."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for each in get_args(annotation) if each is not NoneType for kind in _kinds(each)]
    return [annotation]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The part of a recipe that a value of a type may be: `SoftTarget` of `SoftTarget | None`."""
    return next((kind for kind in _kinds(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
