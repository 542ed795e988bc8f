"""The frozen networks whose heatmaps a step learns: finished steps, or a file of weights."""

import json
from pathlib import Path

from cxrlines.core.errors import Error
from cxrlines.models.classifier import Classifier, model_of
from cxrlines.models.weights import load_into, load_weights
from cxrlines.reading.bundle import MANIFEST, load_bundle
from cxrlines.recipe.run.folder import Role, Run, Step
from cxrlines.recipe.run.training_data import load_step
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


def network_of(file: Path) -> Classifier:
    """The network of a file of weights, of a run's step or of a bundle.

    Raises:
        Error: it is no such file, or gives no heatmaps, or others than those that are learnt here.
    """
    way_out = "targets.soft_maps.file is weights.safetensors of a step that learnt heatmaps, or a bundle's beside its "
    tensors, meta = load_weights(file)
    if "config" in meta:
        config = json.loads(meta["config"])
    elif (file.parent / MANIFEST).is_file():
        models = {entry.file: entry.config for entry in load_bundle(file.parent).manifest.models}
        config = models.get(file.name)
    else:
        config = None
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
