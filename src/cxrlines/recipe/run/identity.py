"""What a step's identity holds beside its specification: the numbers and the code that decide what is trained.

A policy's numbers are hashed as data. Code is hashed as it is parsed: without comments, docstrings, annotations, places
in the file and texts of errors, so that editing those redoes nothing. Which files, and what of them, is declared
here, and of a file that serves several kinds of steps only what a step of this kind uses.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import cxrlines
from cxrlines.augment.policy import make_policy
from cxrlines.core.transform import Size
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.training.targets.base import CodePart

PACKAGE = Path(cxrlines.__file__).parent
_NOT_CODE = {"annotation", "returns", "type_comment", "type_params", "ctx"}
_NOT_TRAINED = {"check", "describe", "code"}
"""Methods of a `Target` that change nothing of what is trained."""


def code_identity(recipe: Recipe, source: Source, package: Path = PACKAGE) -> str:
    """Hash of the code that trains a stage."""
    digest = hashlib.sha256()
    for file, only, without in sorted(set(_parts(recipe, source))):
        digest.update(f"{file} {_hash_of(package / file, only, without)}\n".encode())
    return digest.hexdigest()


def resolved(stage: StageSpec, size: Size) -> dict[str, Any]:
    """The numbers behind what a stage names, ready for JSON."""
    return {"policy": asdict(make_policy(stage.films.augment, size, flip=stage.films.flip))}


def _parts(recipe: Recipe, source: Source) -> Iterator[CodePart]:
    stage = recipe.spec(source)
    targets, decodes = stage.targets, recipe.decodes(source)
    lines = stage.films.view == "overlay" or targets.draws_lines
    for target in targets.named.values():
        yield from target.code()
    yield CodePart("augment/policy.py", without=("POLICIES",))  # the numbers are in `resolved`
    yield CodePart("training/loader.py", without=() if lines else ("overlay",))
    yield CodePart(
        "training/sampling.py", without=() if stage.films.sampling == "rare" else ("repeat_factors", "_drawn")
    )
    if stage.films.mixed:
        yield CodePart("training/mixing.py")
    yield CodePart("training/module.py")
    yield CodePart("recipe/run/training_data.py", ("films_of", "training_films"))
    yield CodePart("recipe/run/step.py", ("_start", "_module"))
    yield CodePart("training/trainer.py", ("trainer",))
    yield CodePart(
        "models/weights.py", ("load_into", "imagenet_tensors") if stage.start == "imagenet" else ("load_into",)
    )
    for file in (
        "task.py", "augment/warp.py", "augment/intensity.py", "models/backbones.py",
        "training/config.py", "training/targets/base.py", "training/outputs.py", "training/weight_averaging.py",
        "training/optimizers.py", "training/accumulation.py", "training/depthwise.py", "training/epochs.py",
        "training/watching.py",
    ):  # fmt: skip
        yield CodePart(file)
    yield CodePart("models/classifier.py", without=("TwoStep", "model_of"))
    if lines or targets.reads_maps:
        yield CodePart("core/line_drawing.py", ("draw_lines", "draw_squares", "covered"))
    if decodes or stage.films.maps_of:
        yield CodePart("models/decoders.py")
        yield CodePart("recipe/run/map_teachers.py", ("learnt_maps",))
        yield CodePart("core/heatmaps.py")
    if stage.films.maps_of:
        yield CodePart("models/classifier.py", ("TwoStep",))
    if isinstance(stage.start, FileStart):
        yield CodePart("models/adopt.py", ("adopt",))
        yield CodePart("models/foreign_files.py", ("read_public",))
        yield CodePart("models/foreign_heads.py")


@lru_cache(maxsize=1024)
def _hash_of(file: Path, only: tuple[str, ...], without: tuple[str, ...]) -> str:
    """Hash of what is used of a file; `KeyError` where it has no such name."""
    tops = _tops(ast.parse(file.read_text(encoding="utf-8")))
    for wanted in (*only, *without):
        if wanted not in tops:
            raise KeyError(f"{file.name} has no {wanted}: recipe/run/identity.py names what is gone")
    users = {name: {other for other, nodes in tops.items() if name in _names(nodes)} - {name} for name in tops}
    dropped = set(without)
    while more := {n for n, by in users.items() if n not in dropped and by and by <= dropped}:
        dropped |= more
    kept = set(tops) - dropped
    if only:
        kept = {""} & kept
        reached = set(only)
        while reached - kept:
            kept |= reached
            reached = {n for name in kept for n in _names(tops.get(name, [])) if n in tops} - dropped
    text = json.dumps([[name, [_plain(node) for node in tops[name]]] for name in sorted(kept & tops.keys())])
    return hashlib.sha256(text.encode()).hexdigest()


def _tops(module: ast.Module) -> dict[str, list[ast.AST]]:
    """The definitions of a module by name; what else runs when it is imported is called "", imports are left out."""
    tops: dict[str, list[ast.AST]] = {}
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom) or _is_docstring(node):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)] or [""]
        for name in names:
            tops.setdefault(name, []).append(node)
    return tops


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {found.id for node in nodes for found in ast.walk(node) if isinstance(found, ast.Name)}


def _is_docstring(node: ast.AST) -> bool:
    """Whether it is a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _plain(node: object) -> Any:
    """A piece of parsed code as JSON values, the same for every version of Python that parses it alike."""
    if isinstance(node, list):
        return [_plain(each) for each in node if not _is_docstring(each)]
    if isinstance(node, ast.Raise):
        return "raise"
    if isinstance(node, ast.ClassDef):
        node.body = [each for each in node.body if getattr(each, "name", "") not in _NOT_TRAINED]
    if isinstance(node, ast.AST):
        fields = {name: _plain(value) for name, value in ast.iter_fields(node) if name not in _NOT_CODE}
        return [type(node).__name__, {name: value for name, value in fields.items() if value not in (None, [])}]
    return node if isinstance(node, str | int | float | bool | None) else repr(node)
