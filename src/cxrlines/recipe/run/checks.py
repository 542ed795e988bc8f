"""What of a recipe is refused before a film is decoded: networks, folders, files and precisions that are not here."""

from pathlib import Path

import torch

from cxrlines.core.errors import Error
from cxrlines.io.external.sets import read_external
from cxrlines.io.rows import TableError
from cxrlines.models.backbones import check_backbone
from cxrlines.models.classifier import Classifier
from cxrlines.recipe.run.map_teachers import check_file_teacher
from cxrlines.recipe.run.plan import files_of
from cxrlines.recipe.spec.load import RecipeError
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import StageSpec
from cxrlines.training.config import precision_of
from cxrlines.training.optimizers import Frozen, make_optimizer


def check_networks(recipe: Recipe) -> None:
    """`RecipeError` where a member names a network that does not exist, or that cannot be trained as a stage says."""
    for name, member in recipe.members.items():
        try:
            check_backbone(member.backbone)
        except ValueError as error:
            raise RecipeError(f"members.{name}.{error}") from None
    networks: dict[tuple[str, str, str | None], Classifier] = {}
    for source in recipe.sources():
        schedule, member = recipe.spec(source).schedule, recipe.members[source.member]
        kind = member.backbone, member.head, recipe.decoder_of(source)
        if kind[2] or schedule.freeze != () or schedule.layer_decay < 1 or schedule.checkpoint_gradients:
            try:
                if kind not in networks:
                    with torch.device("meta"):  # names and shapes alone
                        networks[kind] = Classifier(*kind[:2], weights="none", decoder=kind[2])
                _check_frozen(networks[kind], recipe.spec(source))
                make_optimizer(networks[kind], schedule)
                if schedule.checkpoint_gradients:
                    networks[kind].backbone.checkpoint_gradients(True)
            except Error as error:
                where = f"members.{source.member}.stages.{source.stage}"
                raise RecipeError(f"{where}.{error.what}", error.way_out) from None


def _check_frozen(network: Classifier, stage: StageSpec) -> None:
    """`Error` for a pattern of `freeze` that matches nothing, or if all is frozen that targets or a rate move."""
    schedule = stage.schedule
    frozen = schedule.freeze
    held = set(map(id, Frozen(network, frozen).parameters))
    moved = ("backbone.", *["head."] * stage.targets.classifies, *["decoder."] * stage.targets.reads_maps)
    if not any(name.startswith(moved) and id(each) not in held for name, each in network.named_parameters()):
        raise Error(
            f"schedule.freeze: {', '.join([frozen] if isinstance(frozen, str) else frozen)} leaves nothing to train: "
            f"the stage's targets ({', '.join(stage.targets.named)}) move {', '.join(moved).replace('.', '')} alone",
            "freeze less, or leave the stage out",
        )
    free = [name for name, each in network.named_parameters() if not schedule.stays_frozen or id(each) not in held]
    for rate, parts in (("layer_decay", ("backbone.",)), ("head_lr", ("head.", "decoder."))):
        if getattr(schedule, rate) != 1 and not any(name.startswith(parts) for name in free):
            raise Error(
                f"schedule.{rate} is {getattr(schedule, rate):g}, but schedule.freeze leaves nothing that it moves to "
                "train",
                "leave one of them out, or say with freeze_epochs how long it is frozen",
            )


def check_precision(recipe: Recipe) -> None:
    """`RecipeError` where a stage is to be trained in a precision that this machine has not."""
    for path, stage in recipe.stages():
        try:
            precision_of(stage.schedule)
        except Error as error:
            raise RecipeError(f"{path}.{error.what}", error.way_out) from None


def slow_precision(recipe: Recipe) -> str | None:
    """A sentence where a stage is to be trained in bf16 on an x86 processor without instructions for it, else None."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.13 has none
    has = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))
    if has or capabilities.get("architecture") != "x86_64" or torch.cuda.is_available():
        return None
    if all(stage.schedule.precision != "bf16" for _, stage in recipe.stages()):
        return None
    return (
        "schedule.precision is bf16, which this processor emulates (it has neither AVX-512 BF16 nor AMX): training may "
        "take ten times as long as in 32"
    )


def check_places(recipe: Recipe) -> None:
    """`RecipeError` where a folder or file that the recipe needs is not given or not there."""
    for name in recipe.used_sets:
        folder = recipe.external[name].folder
        if folder is None or not Path(folder).is_dir():
            raise RecipeError(
                f"external.{name}.folder {f'{folder} is no folder' if folder else 'is not given'}",
                f"name the folder of its films with --external {name}=FOLDER, or leave out the stages that use it",
            )
    probe = recipe.quality.probe
    if probe not in ("embedded", "none") and not Path(probe).is_file():
        raise RecipeError(
            f"quality.probe is {probe!r}: no such file", "it is embedded, none, or a file that `cxrlines quality` wrote"
        )
    for source in recipe.sources():
        check_files(recipe, source, recipe.first_fold(source.member))


def check_files(recipe: Recipe, source: Source, fold: int) -> None:
    """`RecipeError` where a file that a stage reads which holds out `fold` is not there, or cannot teach it."""
    for name, path in files_of(recipe.spec(source), fold).items():
        if not path.is_file():
            field = f"members.{source.member}.stages.{source.stage}.{name}.file"
            raise RecipeError(f"{field}: {path} is no file", f"set it with --set {field}=PATH")
    check_file_teacher(recipe, source, fold)


def check_sets(recipe: Recipe) -> None:
    """`RecipeError` where a folder of external films cannot be read as such; their tables are read, no film is."""
    for name in recipe.used_sets:
        spec = recipe.external[name]
        try:
            read_external(Path(spec.folder or ""), laterals=spec.laterals, children=spec.children)
        except TableError as error:
            raise RecipeError(f"external.{name}: {error}", f"--external {name}=FOLDER names it") from None
