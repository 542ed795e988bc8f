"""Heatmaps of a teacher as a target: least at the teacher's own, on films without annotations, traced by the guard."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxrlines.core.heatmaps import DrawnLine
from cxrlines.core.transform import Affine
from cxrlines.io.patients import tokens
from cxrlines.lab.price.dry_run import dry_run
from cxrlines.models.classifier import Classifier
from cxrlines.models.weights import load_weights, save_weights
from cxrlines.reading.bundle import EMBEDDED, MANIFEST
from cxrlines.recipe.run.folder import LINEAGE_ENTRY, RECORD, WEIGHTS, Role, StepId
from cxrlines.recipe.run.map_teachers import check_file_teacher, map_teachers, network_of
from cxrlines.recipe.run.pipeline import plan_of, prepare, read_tables
from cxrlines.recipe.run.step import do_step
from cxrlines.recipe.run.step_lineage import made_from
from cxrlines.recipe.spec.load import RecipeError, load_recipe
from cxrlines.recipe.spec.recipe import Source
from cxrlines.task import LABELS, MAP_NAMES, MAPS, MapKind
from cxrlines.training.config import ScheduleSpec, StageConfig
from cxrlines.training.lineage import LeakError
from cxrlines.training.loader import Films, FilmSet
from cxrlines.training.module import StageModule
from cxrlines.training.outputs import Outputs, total_loss
from cxrlines.training.sampling import Key
from cxrlines.training.targets import LabelTarget, MapTarget, TargetsSpec
from cxrlines.training.targets.soft_maps import SoftMapTarget, soft_maps_loss

LINES = sum(kind is MapKind.LINE for kind, _ in MAPS)
COUNT = 6


def heat(seed: int) -> torch.Tensor:
    return 2 * torch.randn(3, len(MAPS), 10, 12, generator=torch.manual_seed(seed)) - 3


def network(seed: int) -> Classifier:
    torch.manual_seed(seed)
    return Classifier("resnet10t", "gap", weights="none", decoder="unet")


class TinyStore:
    films = np.random.default_rng(0).integers(0, 256, (COUNT, 40, 40), dtype=np.uint8)
    placements = [Affine(((1, 0, 0), (0, 1, 0)))] * COUNT


def stage(
    *teachers: Classifier,
    student: Classifier | None = None,
    annotated: int = 0,
    freeze: tuple[str, ...] = (),
    **targets,
) -> StageModule:
    """A stage on six films, of which some have known heatmaps."""
    line = DrawnLine(LABELS[0], np.array([[5.0, 5.0], [30.0, 30.0]]))
    mapped = np.zeros((COUNT, len(MAPS)), np.float32)
    mapped[:annotated] = 1
    more = {"mapped": mapped} if annotated else {}
    labels = np.zeros((COUNT, len(LABELS)), np.float32)
    films = Films(TinyStore(), np.arange(COUNT), labels, [[line]] * COUNT, more)  # type: ignore[arg-type]
    spec = TargetsSpec(soft_maps=SoftMapTarget(of="t"), **targets)
    seen = FilmSet(films, "none", 32, seed=0, maps=spec.draws_maps)
    config = StageConfig(ScheduleSpec(epochs=2, batch=3, lr=1e-3, freeze=freeze), spec)
    return StageModule(student or network(0), config, seen, None, view="plain", map_teachers=teachers)


def test_the_loss_is_zero_and_flat_at_the_teachers_heatmaps_and_nowhere_less():
    logits = heat(0).requires_grad_()
    parts = soft_maps_loss(logits, torch.sigmoid(logits.detach()))
    assert [sums.value().item() for _, sums in parts] == pytest.approx([0, 0, 0], abs=1e-6)
    (slope,) = torch.autograd.grad(total_loss(parts), logits)
    assert float(slope.abs().max()) < 1e-6
    wanted = torch.sigmoid(heat(0))
    for way in (heat(1), -heat(1), torch.ones(())):
        assert float(total_loss(soft_maps_loss(heat(0) + 0.3 * way, wanted))) > 1e-3


def test_its_parts_are_those_of_their_formulas():
    logits, wanted = heat(1), torch.sigmoid(heat(2))
    (line, divergence), (dice_weight, dice), (point_weight, focal) = soft_maps_loss(logits, wanted)
    assert (line, dice_weight, point_weight) == (20, 1, 1)
    p, t = torch.sigmoid(logits).double(), wanted.double()
    both = torch.stack([p, 1 - p]).log(), torch.stack([t, 1 - t])
    kl = functional.kl_div(both[0], both[1], reduction="none").sum(dim=0)
    torch.testing.assert_close(divergence.value().double(), kl[:, :LINES].mean(), rtol=1e-5, atol=0)
    a, b = p[:, :LINES], t[:, :LINES]
    v_net = 1 - (2 * (a * b).sum(dim=(0, 2, 3)) + 1) / ((a**2 + b**2).sum(dim=(0, 2, 3)) + 1)
    torch.testing.assert_close(dice.value().double(), v_net.mean(), rtol=1e-5, atol=0)
    entropy = -(t * p.log() + (1 - t) * (1 - p).log())
    quality = ((p - t).abs() ** 2 * entropy)[:, LINES:].sum(dim=(2, 3)).mean()
    torch.testing.assert_close(focal.value().double(), quality, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kinds", [("line",), ("tip",), ("landmark", "tip")])
def test_only_heatmaps_of_the_kinds_named_are_learnt(kinds):
    logits = heat(1).requires_grad_()
    (slope,) = torch.autograd.grad(total_loss(soft_maps_loss(logits, torch.sigmoid(heat(2)), kinds)), logits)
    learnt = slope.abs().amax(dim=(0, 2, 3)) > 0
    assert learnt.tolist() == [kind in kinds for kind, _ in MAPS]


def test_films_without_annotations_teach_the_student_and_the_teacher_stays():
    teacher = network(7)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    made = stage(teacher)
    start = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    weights = made.fit()
    assert not torch.equal(weights["decoder.out.weight"], start["decoder.out.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    losses = [row["loss"] for row in made.progress.history]
    assert losses[1] < losses[0]


def test_another_decoder_is_distilled_onto_a_frozen_backbone_and_labels_stay():
    teacher = network(7)
    student = Classifier("resnet10t", "gap", weights="none", decoder="separable")
    kept = {name: t.clone() for name, t in teacher.state_dict().items() if not name.startswith("decoder.")}
    student.load_state_dict(student.state_dict() | kept)
    made = stage(teacher, student=student, freeze=("backbone", "head"), labels=LabelTarget())
    weights = made.fit()
    assert all(torch.equal(weights[name], tensor) for name, tensor in kept.items())
    first, last = (row["loss"] for row in made.progress.history)
    assert last < first


def test_a_student_that_is_its_teacher_has_no_slope():
    teacher, student = network(7), network(7).eval()
    made = stage(teacher, student=student)
    batch = made.films.collate([made.films[Key(0, place)] for place in range(3)])
    total_loss(made._losses(batch)).backward()
    slopes = [p.grad.abs().max() for p in student.parameters() if p.grad is not None]
    assert len(slopes) > 10 and float(max(slopes)) < 1e-5


def test_several_teachers_give_the_mean_of_their_heatmaps_whatever_their_order():
    one, other = network(1), network(2)
    batch = {"film": torch.from_numpy(TinyStore.films[:2, None, :32, :32])}
    both, reverse = (Outputs(stage(*some), batch).teacher_maps for some in ((one, other), (other, one)))
    alone = [torch.sigmoid(each.eval().features_and_maps(batch["film"])[1]) for each in (one, other)]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)
    torch.testing.assert_close(both, reverse)
    assert not both.requires_grad


def test_beside_the_ground_truth_each_target_has_the_films_it_knows():
    made = stage(network(3), annotated=2, maps=MapTarget())
    made.model.eval()  # batch norms of a part would be others
    batch = made.films.collate([made.films[Key(0, place)] for place in (1, 4, 5)])
    assert batch["rows"].tolist() == [0]
    outputs = Outputs(made, batch)
    assert outputs.all_maps.shape[0] == outputs.teacher_maps.shape[0] == 3 and outputs.maps.shape[0] == 1
    torch.testing.assert_close(outputs.maps[0], outputs.all_maps[0])
    assert len(made._losses(batch)) == 6


# -- in recipes

RECIPE = """
name: taught
size: 32
store: {size: 40}
quality: {probe: none, leave_out: nothing}
folds: {count: 2}
external: {b: {}}
defaults: {films: {flip: false}, schedule: {batch: 8, lr: 0.001, epochs: 1, validate_films: 0}}
members:
  big:
    backbone: resnet10t
    stages:
      maps: {start: scratch, films: {which: annotated}, targets: {maps: {}, labels: {}}}
  small:
    backbone: resnet10t
    stages:
      unlabelled: {start: scratch, films: {set: b}, targets: {soft_maps: {of: big/maps}}}
      finetune: {start: unlabelled, targets: {soft_maps: {of: [big, small/unlabelled]}, maps: {}, labels: {}}}
ensemble: {members: [small]}
"""
SOFT_MAPS = "members.small.stages.unlabelled.targets.soft_maps"


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("recipe") / "taught.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"{SOFT_MAPS}.of=bog", "is 'bog'; stages that learn heatmaps: .*did you mean 'big'"),
        (f"{SOFT_MAPS}.of=small/unlabelled", "stages that learn heatmaps: big/maps, small/finetune, big, small"),
        ("members.big.stages.maps.targets={labels: {}}", "soft_maps.of is 'big/maps'; stages that learn heatmaps: sm"),
        ("members.big.stages.maps.targets.maps.kinds=[line]", "names tip, landmark, but big/maps learns line"),
        ("members.big.stages.maps.size=96", "sees 96 px, and this stage 32 px"),
        ("members.small.stages.unlabelled.films.flip=true", "was trained without flips, and this stage flips"),
        (f"{SOFT_MAPS}={{}}", "name either `of`"),
        (f"{SOFT_MAPS}.file=x", "name either `of`"),
        (f"{SOFT_MAPS}.of=[big, big]", "name each once"),
        (f"{SOFT_MAPS}.ancestry=trusted", "ancestry is that of a file"),
        (f"{SOFT_MAPS}.of=small/finetune", "is a cycle"),
        ("members.small.stages.finetune.films.mixup=1", "soft_maps is not learnt from mixed films|maps is not learnt"),
        (
            "members.small.stages.finetune={films: {maps_of: unlabelled}, targets: {soft_maps: {of: big}}}",
            "targets.soft_maps: a stage that is shown lines or heatmaps cannot learn to find them",
        ),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(recipe_file, setting, said):
    with pytest.raises(ValueError, match=said):
        load_recipe(recipe_file, [setting])


@pytest.fixture(scope="module")
def taught_run(recipe_file, phantom, site_b, tmp_path_factory):
    """Steps of fold 0, done: a teacher, and a student on films without annotations; its fine-tune is not done."""
    recipe = load_recipe(recipe_file, [f"external.b.folder={site_b}"])
    run = prepare(recipe, phantom, tmp_path_factory.mktemp("taught"), 1)
    for step in plan_of(run, [0])[:2]:
        do_step(run, step, lambda status: None)
    return run


def test_a_recipe_teaches_unannotated_films_and_the_guard_sees_the_teacher(taught_run):
    student, teacher = StepId("small", (0,), "unlabelled"), StepId("big", (0,), "maps")
    lineage = taught_run.lineage(student)
    (role, parent), *others = lineage.parents
    assert (role, parent.step, others) == (Role.SOFT_MAPS, str(teacher), [])
    trained = taught_run.films.training(taught_run.recipe.spec(teacher.source), teacher.held)
    patients = taught_run.films.own.studies["patient"].iloc[trained].astype(str)
    assert {*tokens(patients, "phantom")} <= lineage.seen(), "whom the teacher saw, the student saw"
    with pytest.raises(LeakError, match="by way of small/fold0/unlabelled <- soft maps big/fold0/maps"):
        lineage.refuse_seen({*patients}, "phantom")
    assert taught_run.record(student)["films"] == 16, "of the external set, of which no film is annotated"
    finetune = plan_of(taught_run, [0])[-1]
    assert [parent.name for parent in finetune.parents] == [
        "start",
        "soft maps of big",
        "soft maps of small/unlabelled",
    ]
    stage = taught_run.recipe.spec(finetune.key.source)
    assert len(map_teachers(taught_run, finetune, stage)) == 2


@pytest.mark.parametrize("kept", ["lineage", "nothing"])
def test_a_file_teaches_and_is_traced_like_a_start(taught_run, recipe_file, phantom, tmp_path, kept):
    tensors, meta = load_weights(taught_run.folder(StepId("big", (0,), "maps")) / WEIGHTS)
    file = tmp_path / "teacher.safetensors"
    save_weights(file, tensors, {k: meta[k] for k in ("config", *([LINEAGE_ENTRY] if kept == "lineage" else []))})
    given = [f"external.b.folder={taught_run.recipe.external['b'].folder}"]
    given += [f"{SOFT_MAPS}={{file: {file}, kinds: [line]}}", "members.small.stages.finetune.targets={labels: {}}"]
    if kept == "nothing":
        with pytest.raises(LeakError, match=r"targets.soft_maps: .*teacher.safetensors has no record of the patients"):
            read_tables(load_recipe(recipe_file, given), phantom)
        given.append(f"{SOFT_MAPS}.ancestry=trusted")
    recipe = load_recipe(recipe_file, given)
    read_tables(recipe, phantom)
    run = replace(taught_run, recipe=recipe)
    step = next(step for step in plan_of(run, [0]) if step.name == "small/fold0/unlabelled")
    stage = recipe.spec(step.key.source)
    lineage = made_from(run, step, stage, run.films.training(stage, step.key.held), None)
    assert [role for role, _ in lineage.parents] == ([Role.SOFT_MAPS] if kept == "lineage" else [])
    trusted = ["small/fold0/unlabelled: heatmaps by teacher.safetensors"] if kept == "nothing" else []
    assert lineage.vouched_for() == trusted and not lineage.untraced()
    (teacher,) = map_teachers(run, step, stage)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in teacher.state_dict().items())


def taught_by(recipe_file: str, file: Path, *settings: str):
    """The recipe whose student learns the lines of a file on films without annotations."""
    student = "members.small.stages"
    lines = [f"{SOFT_MAPS}={{file: {file}, kinds: [line], ancestry: trusted}}"]
    return load_recipe(recipe_file, [*lines, f"{student}.finetune.targets={{labels: {{}}}}", *settings])


FLIPS, LARGER = "members.small.stages.unlabelled.films.flip=true", "members.small.stages.unlabelled.size=96"
AS_EMBEDDED = "members.small.stages.unlabelled.size=512"
STUDENT = Source("small", "unlabelled")
UNFLIPPED = r"members.small.stages.unlabelled.targets.soft_maps.file is '.*', which was trained without flips, and this"
UNKNOWN = "of which nothing says whether it was trained with flips, .*set films.flip: false, or name the file where it"


@pytest.fixture
def weights_of(taught_run, tmp_path):
    """A step's weights in the folder of its run, of another run that flips, or alone."""

    def weights(kept: str) -> Path:
        step = taught_run.folder(StepId("big", (0,), "maps"))
        if kept == "run":
            return step / WEIGHTS
        folder = tmp_path / "big/fold0/maps"
        folder.mkdir(parents=True)
        shutil.copy(step / WEIGHTS, folder)
        if kept == "flipping run":
            record = json.loads((step / RECORD).read_text())
            record["spec"]["films"]["flip"] = True
            (folder / RECORD).write_text(json.dumps(record))
            shutil.copy(taught_run.root / "recipe.json", tmp_path)
        return folder / WEIGHTS

    return weights


@pytest.mark.parametrize(
    ("kept", "setting", "said"),
    [
        ("run", "seed=1", None),
        ("run", FLIPS, UNFLIPPED),
        ("run", LARGER, "which sees 32 px, and this stage 96 px: both read the same film, make it one size"),
        ("flipping run", FLIPS, None),
        ("flipping run", LARGER, "which sees 32 px, and this stage 96 px"),
        ("alone", FLIPS, UNKNOWN),
        ("alone", LARGER, None),
    ],
)
def test_a_step_teaches_only_films_as_it_saw_them_as_far_as_that_is_known(recipe_file, weights_of, kept, setting, said):
    recipe = taught_by(recipe_file, weights_of(kept), setting)
    if not said:
        return check_file_teacher(recipe, STUDENT, 0)
    with pytest.raises(RecipeError, match=said):
        check_file_teacher(recipe, STUDENT, 0)


def test_a_file_teaches_the_kinds_that_its_network_learnt(recipe_file, tmp_path):
    few = Classifier("resnet10t", "gap", weights="none", decoder="unet", maps=list(MAP_NAMES)[:-1])
    save_weights(tmp_path / "few.safetensors", few.state_dict(), {"config": json.dumps(few.config())})
    check_file_teacher(taught_by(recipe_file, tmp_path / "few.safetensors"), STUDENT, 0)
    recipe = taught_by(recipe_file, tmp_path / "few.safetensors", f"{SOFT_MAPS}.kinds=[line, tip, landmark]")
    with pytest.raises(
        RecipeError, match=r"soft_maps.kinds names landmark, but .*few.safetensors learns line, tip; name"
    ):
        check_file_teacher(recipe, STUDENT, 0)
    assert network_of(tmp_path / "few.safetensors", ("tip",)).map_names == few.map_names


@pytest.mark.parametrize(
    ("flip", "settings", "said"),
    [
        (False, [AS_EMBEDDED], None),
        (False, [AS_EMBEDDED, FLIPS], UNFLIPPED),
        (False, [], "which sees 512 px, and this stage 32 px"),
        (True, [AS_EMBEDDED, FLIPS], None),
        (None, [AS_EMBEDDED, FLIPS], UNKNOWN),
        (None, [AS_EMBEDDED], None),
    ],
)
def test_a_network_of_a_bundle_teaches_only_films_as_its_manifest_says(recipe_file, tmp_path, flip, settings, said):
    bundle = shutil.copytree(EMBEDDED, tmp_path / "bundle")
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["meta"]["flip"] = flip
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    recipe = taught_by(recipe_file, bundle / "reader-fold0.safetensors", *settings)
    if not said:
        return check_file_teacher(recipe, STUDENT, 0)
    with pytest.raises(RecipeError, match=said):
        check_file_teacher(recipe, STUDENT, 0)


def test_training_and_its_plan_refuse_a_file_that_cannot_teach(recipe_file, taught_run, phantom, tmp_path):
    file = taught_run.folder(StepId("big", (0,), "maps")) / WEIGHTS
    folder = f"external.b.folder={taught_run.recipe.external['b'].folder}"
    recipe = taught_by(recipe_file, file, folder, FLIPS)
    with pytest.raises(RecipeError, match=UNFLIPPED):
        read_tables(recipe, phantom)
    with pytest.raises(RecipeError, match=UNFLIPPED):
        dry_run(recipe, phantom, tmp_path, [0])


def test_the_embedded_network_teaches_the_shipped_recipe_and_none_that_flips_or_is_smaller():
    file = f"defaults.targets.soft_maps.file={EMBEDDED}/reader-fold{{fold}}.safetensors"
    quick = Source("reader", "quick")
    check_file_teacher(load_recipe("embedded-quick", [file]), quick, 0)
    for setting in ("size=320", "defaults.films={augment: light}"):
        with pytest.raises(RecipeError, match=r"members.reader.stages.quick.targets.soft_maps.file is '"):
            check_file_teacher(load_recipe("embedded-quick", [file, setting]), quick, 0)


def test_files_that_are_no_network_with_these_heatmaps_are_refused(tmp_path: Path):
    def saved(config: dict | None) -> Path:
        file = tmp_path / "weights.safetensors"
        save_weights(file, {"x": torch.zeros(1)}, {} if config is None else {"config": json.dumps(config)})
        return file

    config = network(0).config()
    for given, said in (
        (None, "does not say which network"),
        (config | {"decoder": None}, "gives no heatmaps"),
        (config | {"maps": ["line ETT", "tip ETT"]}, "gives the heatmaps line ETT, tip ETT; learnt are line ETT, line"),
    ):
        with pytest.raises(ValueError, match=said):
            network_of(saved(given), ("line",))
