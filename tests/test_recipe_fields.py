"""docs/reference/recipe-fields.md holds every field of a recipe as the code has it: bounds, default, meaning.

A changed field changes that page. To write it again: `python tests/test_recipe_fields.py`.
"""

import ast
import inspect
import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AfterValidator, BaseModel
from pydantic_core import PydanticUndefined

from cxrlines.augment.policy import Policy
from cxrlines.core.transform import Sides
from cxrlines.recipe.spec import ensemble, parts, recipe, stage
from cxrlines.training.config import ScheduleSpec
from cxrlines.training.targets import TargetsSpec
from cxrlines.training.targets.base import FilmsSpec

PAGE = Path(__file__).parents[1] / "docs/reference/recipe-fields.md"
OPENING = """# Fields of a recipe

Every field with what it may be, its default and its meaning; the page is made from the code that checks recipes.
[Recipes](../recipes.md) explains the fields in use. A field is set by its path, such as
`--set members.NAME.stages.NAME.schedule.lr=3e-4` ([Change a recipe](../how-to/change-a-recipe.md)). `null`, or
none, means that nothing is set.
"""
TARGETS = {
    f"`targets.{name}`": get_args(field.annotation)[0]  # of `Target | None`
    for name, field in TargetsSpec.model_fields.items()
}
SECTIONS = {
    "The recipe": recipe.Recipe,
    "`store`": recipe.StoreSpec,
    "`quality`": parts.QualitySpec,
    "`folds`": parts.FoldsSpec,
    "`external.NAME`": parts.ExternalSpec,
    "`members.NAME`": recipe.MemberSpec,
    "`members.NAME.stages.NAME`": stage.StageSpec,
    "`start` from a file": stage.FileStart,
    "`films`": FilmsSpec,
    "`films.augment`": Policy,
    "`targets`": TargetsSpec,
    **TARGETS,
    "`schedule`": ScheduleSpec,
    "`ensemble`": ensemble.EnsembleSpec,
    "`ensemble.views`": ensemble.ViewsSpec,
    "`tracking`": parts.TrackingSpec,
}
"""Heading -> the class whose fields it lists, in the order of the page."""


class Field(NamedTuple):
    """A field: its name, its type with bounds, its default (`PydanticUndefined` where it has none)."""

    name: str
    type: Any
    default: Any


def fields_of(kind: type) -> Iterator[Field]:
    """The fields of a part of a recipe, in the order of its code."""
    hints = get_type_hints(kind, include_extras=True)
    if issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            yield Field(name, hints[name], field.get_default(call_default_factory=True))
        return
    yield Field("policy", Annotated[str, "none, light, hotwater, hotwater-code, wild"], PydanticUndefined)
    for each in fields(kind):
        if each.name != "size":  # the stage's
            yield Field(each.name, hints[each.name], PydanticUndefined if each.default is MISSING else each.default)


def comments_of(kind: type) -> dict[str, str]:
    """Field -> its comment in the code: behind it, or in the lines above it."""
    found = {"policy": "name of the policy whose fields hold where none is given here"}
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("cxrlines."):
            lines = inspect.getsource(each).splitlines()
            for node in ast.parse("\n".join(lines)).body[0].body:
                if not isinstance(node, ast.AnnAssign):
                    continue
                behind = re.search(r"  # (.*)", lines[node.end_lineno - 1])
                above, at = [], node.lineno - 2
                while re.match(r" +# ", lines[at]):
                    above.insert(0, lines[at].strip(" #"))
                    at -= 1
                found[node.target.id] = behind[1] if behind else " ".join(above)
    return found


def allowed(kind: Any) -> str:
    """What a value of a type may be, in words."""
    if get_origin(kind) is Annotated:
        return bounded(*get_args(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return "; or ".join("`null`" if each is types.NoneType else allowed(each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return ", ".join(f"`{name}`" for name in get_args(kind))
    if get_origin(kind) is tuple:
        each = get_args(kind)
        return f"list of: {allowed(each[0])}" if each[-1] is Ellipsis else f"[low, high] of: {allowed(each[0])}"
    if get_origin(kind) is dict:
        values = get_args(kind)[1]
        return "a policy's fields" if values is Any else f"names, each with: {allowed(values)}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        heading = next(heading for heading, each in SECTIONS.items() if each is kind)
        return f"[fields](#{anchor(heading)})"
    return {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}[kind]


def bounded(kind: Any, *metadata: Any) -> str:
    """A type with its bounds in words."""
    words = ""
    bounds: list[str] = []
    for each in metadata:
        for rule in getattr(each, "metadata", [each]):
            match rule:
                case str():
                    words = ", ".join(f"`{name}`" for name in rule.split(", "))
                case Sides():
                    words = f"px a side, or [height, width]; {rule.low} to {rule.high}"
                case Gt():
                    bounds.append(f"above {rule.gt:g}")
                case Ge():
                    bounds.append(f"{rule.ge:g} or more")
                case Lt():
                    bounds.append(f"below {rule.lt:g}")
                case Le():
                    bounds.append(f"{rule.le:g} at most")
                case MinLen():
                    bounds.append(f"at least {rule.min_length} of them")
                case AfterValidator():
                    limits = inspect.getclosurevars(rule.func).nonlocals
                    if "low" in limits:
                        bounds.append(f"{limits['low']:g} to {limits['high']:g}")
                    elif rule.func.__name__ == "_odd":
                        bounds.append("odd")
    words = ", ".join([words or allowed(kind), *bounds])
    return re.sub(r"(\S+) or more, (\S+) at most", r"\1 to \2", words)


def value(default: Any) -> str:
    """A default as a recipe has it."""
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, BaseModel):
        changed = default.model_dump(exclude_defaults=True)
        return f"`{yaml(changed)}`" if changed else "its defaults"
    return f"`{yaml(default)}`"


def yaml(given: Any) -> str:
    """A value as YAML, on a line."""
    if isinstance(given, dict):
        return f"{{{', '.join(f'{name}: {yaml(each)}' for name, each in given.items())}}}"
    if isinstance(given, tuple):
        return f"[{', '.join(map(yaml, given))}]"
    if given is None or isinstance(given, bool):
        return {None: "null", True: "true", False: "false"}[given]
    return f"{given:.4g}" if isinstance(given, float) else str(given) or '""'


def anchor(heading: str) -> str:
    """The address of a heading on its page."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def page() -> str:
    """The whole page."""
    text = [OPENING]
    for heading, kind in SECTIONS.items():
        comments = comments_of(kind)
        about = inspect.getdoc(kind).partition("\n\nAttributes:")[0]
        text.append(f"## {heading}\n\n{about}\n")
        text.append("| field | allowed | default | meaning |\n|---|---|---|---|")
        for name, type_, default in fields_of(kind):
            cells = (f"`{name}`", allowed(type_), value(default), comments[name])
            text.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        text.append("")
    return "\n".join(text)


def test_the_page_is_what_the_code_says():
    assert page() == PAGE.read_text("utf-8"), "write it again: python tests/test_recipe_fields.py"


def test_every_part_of_a_recipe_has_its_section():
    seen, open_ = set(), [recipe.Recipe]
    while open_:
        kind = open_.pop()
        seen.add(kind)
        for field in kind.model_fields.values():
            found = [each for each in parts_in(field.annotation) if each not in seen]
            open_ += found
    assert seen | {Policy} == set(SECTIONS.values())


def parts_in(annotation: Any) -> list[type[BaseModel]]:
    """The parts of a recipe within a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for each in get_args(annotation) for part in parts_in(each)]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
