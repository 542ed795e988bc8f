"""Which heatmaps the network of a step has, and the frozen networks that teach them: finished steps, or a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cxrlines.augment.policy import make_policy
from cxrlines.core.errors import Error
from cxrlines.core.transform import Size
from cxrlines.models.classifier import Classifier, current, model_of
from cxrlines.models.weights import load_into, load_weights, weights_header
from cxrlines.reading.bundle import MANIFEST, load_bundle
from cxrlines.recipe.run.folder import RECORD, WEIGHTS, Role, Run, Step
from cxrlines.recipe.run.training_data import load_step
from cxrlines.recipe.spec.load import RecipeError
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.task import MAP_NAMES, MapKind
from cxrlines.training.targets.maps import kinds_of
from cxrlines.training.targets.soft_maps import Taught


def map_teachers(run: Run, step: Step, stage: StageSpec) -> list[Classifier]:
    """The networks of `targets.soft_maps`; none where the stage has no such target. `Error` where a file has none."""
    target = stage.targets.soft_maps
    if target is None:
        return []
    if file := target.file_of(step.key.held[0]):
        return [network_of(file, target.kinds)]
    found = [load_step(run, parent.key) for parent in step.parents if parent.role is Role.SOFT_MAPS]
    return [model for model in found if isinstance(model, Classifier)]  # a stage that learns heatmaps is shown none


def learnt_maps(run: Run, step: Step, stage: StageSpec) -> tuple[str, ...]:
    """Names of the heatmaps that a step's network has: those that it learns, and those of what it starts from.

    One that nothing teaches is none of them: its peaks would be read as findings. Landmarks are taught where
    one of its films has them.
    """
    maps, soft = stage.targets.maps, stage.targets.soft_maps
    names = {*kept_maps(run, step, stage)}
    if maps:
        landmarks = run.films.landmarks(stage)
        names |= {
            name
            for name, (kind, what) in MAP_NAMES.items()
            if kind in maps.kinds and (kind is not MapKind.LANDMARK or what in landmarks)
        }
    if soft:
        one = soft.file_of(step.key.held[0])
        files = [one] if one else [run.folder(p.key) / WEIGHTS for p in step.parents if p.role is Role.SOFT_MAPS]
        taught = [decoder_in(file)[1] for file in files]
        names |= {
            name for name, (kind, _) in MAP_NAMES.items() if kind in soft.kinds and all(name in each for each in taught)
        }
    return tuple(name for name in MAP_NAMES if name in names)


def start_file(run: Run, step: Step, stage: StageSpec) -> Path | None:
    """The file of weights that a step starts from: someone's, or a finished step's; None where it starts from none."""
    if isinstance(stage.start, FileStart):
        return stage.start.of(step.key.held[0])
    start = step.parent(Role.START)
    return run.folder(start) / WEIGHTS if start else None


def kept_maps(run: Run, step: Step, stage: StageSpec) -> tuple[str, ...]:
    """Names of the heatmaps of what a step starts from; none where its decoder is of another kind, and begins anew."""
    file = start_file(run, step, stage)
    decoder, maps = decoder_in(file) if file else (None, ())
    return maps if decoder == run.recipe.decoder_of(step.key.source) else ()


def decoder_in(file: Path) -> tuple[str | None, tuple[str, ...]]:
    """The decoder of a file's network, and the names of its heatmaps; None, and none, as far as the file says."""
    config = current(known_of(file).config or {})
    return config["decoder"], tuple(config["maps"] if config["decoder"] else ())


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
    known = known_of(file)
    kinds = kinds_of(decoder_in(file)[1]) if known.config else target.kinds
    try:
        target.check_file(recipe.taught(source), Taught(kinds, known.size, known.flips))
    except ValueError as error:
        raise RecipeError(f"members.{source.member}.stages.{source.stage}.{error}") from None


def network_of(file: Path, kinds: Sequence[str]) -> Classifier:
    """The network of a file of weights, of a run's step or of a bundle.

    Raises:
        Error: it is no such file, or gives no heatmaps, or not all of the `kinds` that are learnt of it.
    """
    way_out = "targets.soft_maps.file is weights.safetensors of a step that learnt heatmaps, or a bundle's beside its "
    tensors, _ = load_weights(file)
    config = known_of(file).config
    if config is None:
        raise Error(f"{file}: does not say which network its weights are of", f"{way_out}{MANIFEST}")
    model = model_of(config)
    if not isinstance(model, Classifier) or model.decoder is None:
        raise Error(f"{file}: its network gives no heatmaps", f"{way_out}{MANIFEST}")
    wanted = [name for name, (kind, _) in MAP_NAMES.items() if kind in kinds]
    if not set(wanted) <= set(model.map_names):
        raise Error(
            f"{file}: its network gives the heatmaps {', '.join(model.map_names)}; learnt are {', '.join(wanted)}",
            "take a network of the same devices and landmarks",
        )
    load_into(model, tensors)
    return model


def known_of(file: Path) -> _Known:
    """What the header of a file of weights says, and what lies beside it: its step's record, or its bundle's manifest.

    `BundleError` for a bundle that is not whole.
    """
    config = _config_in(weights_header(file))
    if config:
        return _Known(config, *_seen_by_step(file.parent.absolute())) if file.name == WEIGHTS else _Known(config)
    if (file.parent / MANIFEST).is_file():
        bundle = load_bundle(file.parent)
        for entry, size in zip(bundle.manifest.models, bundle.sizes, strict=True):
            if entry.file == file.name:
                return _Known(entry.config, size, bundle.manifest.meta.get("flip"))
    return _Known()


def _config_in(header: dict[str, str]) -> dict[str, Any] | None:
    """The config of a network of ours; a file from elsewhere may call something else so."""
    try:
        config = json.loads(header["config"])
    except (KeyError, ValueError):
        return None
    return config if isinstance(config, dict) and {"backbone", "segmenter"} & config.keys() else None


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
