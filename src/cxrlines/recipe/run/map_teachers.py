"""The frozen networks whose heatmaps a step learns: finished steps, or a file of weights."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from cxrlines.augment.policy import make_policy
from cxrlines.core.errors import Error
from cxrlines.core.transform import Size
from cxrlines.models.classifier import Classifier, model_of
from cxrlines.models.weights import load_into, load_weights, weights_header
from cxrlines.reading.bundle import MANIFEST, load_bundle
from cxrlines.recipe.run.folder import RECORD, WEIGHTS, Role, Run, Step
from cxrlines.recipe.run.training_data import load_step
from cxrlines.recipe.spec.load import RecipeError
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import StageSpec
from cxrlines.task import MAP_NAMES


def map_teachers(run: Run, step: Step, stage: StageSpec) -> list[Classifier]:
    """The networks of `targets.soft_maps`; none where the stage has no such target. `Error` where a file has none."""
    target = stage.targets.soft_maps
    if target is None:
        return []
    if file := target.file_of(step.key.held[0]):
        return [network_of(file)]
    found = [load_step(run, parent.key) for parent in step.parents if parent.role is Role.SOFT_MAPS]
    return [model for model in found if isinstance(model, Classifier)]  # a stage that learns heatmaps is shown none


class _Known(NamedTuple):
    """What is known of a file of weights: its network, the size of the films it saw, and whether it saw flips."""

    config: dict[str, Any] | None = None
    size: Size | None = None
    flips: bool | None = None


def check_file_teacher(recipe: Recipe, source: Source, fold: int) -> None:
    """`RecipeError` where a file teaches heatmaps of films that its network cannot read, as far as that is known."""
    target = recipe.spec(source).targets.soft_maps
    if target is None or (file := target.file_of(fold)) is None or not file.is_file():
        return
    known = _known_of(file, weights_header(file))
    try:
        target.check_file(recipe.taught(source), known.size, known.flips)
    except ValueError as error:
        raise RecipeError(f"members.{source.member}.stages.{source.stage}.{error}") from None


def network_of(file: Path) -> Classifier:
    """The network of a file of weights, of a run's step or of a bundle.

    Raises:
        Error: it is no such file, or gives no heatmaps, or others than those that are learnt here.
    """
    way_out = "targets.soft_maps.file is weights.safetensors of a step that learnt heatmaps, or a bundle's beside its "
    tensors, meta = load_weights(file)
    config = _known_of(file, meta).config
    if config is None:
        raise Error(f"{file}: does not say which network its weights are of", f"{way_out}{MANIFEST}")
    model = model_of(config)
    if not isinstance(model, Classifier) or model.decoder is None:
        raise Error(f"{file}: its network gives no heatmaps", f"{way_out}{MANIFEST}")
    if model.map_names != tuple(MAP_NAMES):
        raise Error(
            f"{file}: its network gives the heatmaps {', '.join(model.map_names)}; learnt are {', '.join(MAP_NAMES)}",
            "take a network of the same devices and landmarks",
        )
    load_into(model, tensors)
    return model


def _known_of(file: Path, header: dict[str, str]) -> _Known:
    """What the header of a file of weights says, and what lies beside it: its step's record, or its bundle's manifest.

    `BundleError` for a bundle that is not whole.
    """
    if "config" in header:
        config = json.loads(header["config"])
        return _Known(config, *_seen_by_step(file.parent.absolute())) if file.name == WEIGHTS else _Known(config)
    if (file.parent / MANIFEST).is_file():
        bundle = load_bundle(file.parent)
        for entry, size in zip(bundle.manifest.models, bundle.sizes, strict=True):
            if entry.file == file.name:
                return _Known(entry.config, size, bundle.manifest.meta.get("flip"))
    return _Known()


def _seen_by_step(folder: Path) -> tuple[Size | None, bool | None]:
    """The size of the films that a finished step saw, and whether they were flipped; None where its run is not here."""
    try:
        stage = json.loads((folder / RECORD).read_text())["spec"]
        size = stage["size"] or json.loads((folder.parents[2] / "recipe.json").read_text())["size"]
        size = size if isinstance(size, int) else (size[0], size[1])
        films = stage["films"]
        return size, make_policy(films["augment"], size, flip=films["flip"]).flip > 0
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None, None
