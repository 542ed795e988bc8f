"""A network has the heatmaps that were taught, and no other: what nothing teaches would be read as findings."""

import json
from dataclasses import replace

import pytest
import torch

from cxrlines.io.prepare import PREPARATION
from cxrlines.models.classifier import Classifier, TwoStep
from cxrlines.models.weights import load_weights, save_weights
from cxrlines.reading.bundle import load_bundle
from cxrlines.reading.bundle_writing import BundleMember, write_bundle
from cxrlines.reading.reader import Reader
from cxrlines.recipe.run.folder import WEIGHTS, Run, Step
from cxrlines.recipe.run.map_teachers import learnt_maps, map_teachers
from cxrlines.recipe.run.pipeline import plan_of, prepare
from cxrlines.recipe.run.step import _start, do_step
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.stage import FileStart, StageSpec
from cxrlines.task import MAP_NAMES

ALL = tuple(MAP_NAMES)
NO_LANDMARKS = tuple(name for name in ALL if not name.startswith("landmark"))
LINES = tuple(name for name in ALL if name.startswith("line"))
RECIPE = """
name: kinds
size: 64
store: {size: 72, aspect: stretch}
quality: {probe: none, leave_out: nothing}
folds: {count: 3, seed: 0}
defaults: {films: {flip: false}, schedule: {batch: 8, epochs: 0.2, validate_films: 0}, targets: {labels: {}}}
members:
  base:
    backbone: resnet10t
    stages:
      lines: {start: scratch, films: {which: annotated}, targets: {maps: {kinds: [line, tip]}}}
      last: {start: lines}
  more: {backbone: resnet10t, stages: {only: {start: base/lines, targets: {maps: {}}}}}
  fewer: {backbone: resnet10t, stages: {only: {start: base/lines, targets: {maps: {kinds: [line]}}}}}
  light:
    backbone: resnet10t
    decoder: separable
    stages: {only: {start: base/lines, targets: {maps: {kinds: [line]}}}}
  all: {backbone: resnet10t, stages: {only: {start: scratch, targets: {maps: {}}}}}
  taught: {backbone: resnet10t, stages: {only: {start: scratch, targets: {soft_maps: {of: all}}}}}
  two:
    backbone: resnet10t
    stages:
      segmenter: {start: scratch, films: {which: annotated}, targets: {maps: {kinds: [line, tip]}}}
      classifier: {start: scratch, films: {maps_of: segmenter}}
"""
STORE = {"size": 72, "aspect": "stretch", "preparation": PREPARATION}


def steps_of(run: Run) -> dict[str, Step]:
    return {str(step.key.source): step for step in plan_of(run, [0]) if len(step.key.held) == 1}


def stage_of(run: Run, step: Step) -> StageSpec:
    return run.recipe.spec(step.key.source)


@pytest.fixture(scope="module")
def run(phantom, tmp_path_factory) -> Run:
    """Stages of fold 0 that others start from, or learn of, are done. Tests must not change it."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "kinds.yaml").write_text(RECIPE)
    run = prepare(load_recipe(str(folder / "kinds.yaml")), phantom, folder / "run", 1)
    steps = steps_of(run)
    for name in ("base/lines", "all/only", "two/segmenter"):
        do_step(run, steps[name], lambda status: None)
    return run


@pytest.fixture(scope="module")
def without_landmarks(run) -> Run:
    """The same, of films of which none has a landmark."""
    films = replace(run.films, own=replace(run.films.own, landmarks={}))
    return replace(run, films=films)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base/lines", NO_LANDMARKS),
        ("base/last", NO_LANDMARKS),  # of the stage it starts from
        ("more/only", ALL),
        ("fewer/only", NO_LANDMARKS),
        ("light/only", LINES),  # its decoder is of another kind, and begins anew
        ("all/only", ALL),
        ("taught/only", ALL),
    ],
)
def test_a_network_has_the_heatmaps_that_its_stage_or_what_it_starts_from_learns(run, name, expected):
    step = steps_of(run)[name]
    assert learnt_maps(run, step, stage_of(run, step)) == expected
    assert _start(run, step, stage_of(run, step))[0].map_names == expected


def test_no_film_with_a_landmark_teaches_none(run, without_landmarks):
    bare = without_landmarks
    step = steps_of(bare)["all/only"]
    assert step.identity != steps_of(run)["all/only"].identity
    assert steps_of(bare)["two/segmenter"].identity != step.identity
    assert learnt_maps(bare, step, stage_of(bare, step)) == NO_LANDMARKS


def test_a_decoder_goes_on_heatmap_by_heatmap(run):
    theirs, _ = load_weights(run.root / "base/fold0/lines" / WEIGHTS)
    step = steps_of(run)["more/only"]
    model, _, source = _start(run, step, stage_of(run, step))
    mine, count = model.state_dict(), len(NO_LANDMARKS)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs if not name.startswith("decoder.out."))
    for part in ("weight", "bias"):
        assert torch.equal(mine[f"decoder.out.{part}"][:count], theirs[f"decoder.out.{part}"])
        assert len(mine[f"decoder.out.{part}"]) == len(ALL)
    assert source["adapted"] == ["decoder: heatmaps that begin anew: landmark CARINA"]
    assert _start(run, steps_of(run)["fewer/only"], stage_of(run, step))[2]["fresh"] == []


def test_a_file_gives_its_heatmaps_on_though_the_stage_learns_fewer(run, tmp_path):
    step = steps_of(run)["fewer/only"]
    weights = run.root / "all/fold0/only" / WEIGHTS
    stage = stage_of(run, step).model_copy(update={"start": FileStart(file=str(weights))})
    model, adoption, _ = _start(run, step, stage)
    assert model.map_names == ALL and not adoption.fresh
    assert torch.equal(model.state_dict()["decoder.out.weight"], load_weights(weights)[0]["decoder.out.weight"])
    # of a file from elsewhere that has a "config" of its own nothing is known
    save_weights(tmp_path / "theirs.safetensors", load_weights(weights)[0], {"config": "resnet"})
    theirs = stage.model_copy(update={"start": FileStart(file=str(tmp_path / "theirs.safetensors"))})
    assert learnt_maps(run, step, theirs) == LINES


def test_a_two_step_classifier_sees_the_heatmaps_that_its_segmenter_learnt(run):
    step = steps_of(run)["two/classifier"]
    model, _, _ = _start(run, step, stage_of(run, step))
    assert isinstance(model, TwoStep) and model.map_names == NO_LANDMARKS
    assert model.classifier.config()["in_channels"] == 1 + len(NO_LANDMARKS)
    assert model(torch.zeros(1, 1, 64, 64, dtype=torch.uint8)).isfinite().all()


def test_a_student_of_heatmaps_trains_beside_a_teacher_that_has_fewer(run, tmp_path):
    """As where no film has a landmark: teacher and student are to learn all kinds, and have lines and tips."""
    tensors, meta = load_weights(run.root / "base/fold0/lines" / WEIGHTS)
    other = replace(run, root=tmp_path)
    (tmp_path / "all/fold0/only").mkdir(parents=True)
    save_weights(tmp_path / "all/fold0/only" / WEIGHTS, tensors, meta)
    (tmp_path / "all/fold0/only/lineage.json").write_text((run.root / "all/fold0/only/lineage.json").read_text())
    step = steps_of(run)["taught/only"]
    assert [teacher.map_names for teacher in map_teachers(other, step, stage_of(run, step))] == [NO_LANDMARKS]
    do_step(other, step, lambda status: None)
    config = json.loads(load_weights(tmp_path / "taught/fold0/only" / WEIGHTS)[1]["config"])
    assert tuple(config["maps"]) == NO_LANDMARKS


def bundle_of(run: Run, out, *names: str):
    members = [
        BundleMember(
            name.split("/")[0],
            0,
            json.loads(load_weights(run.root / name / WEIGHTS)[1]["config"]),
            run.root / name / WEIGHTS,
        )
        for name in names
    ]
    return load_bundle(write_bundle(out, members, store=STORE, input_size=64, meta={}, onnx=False))


def test_a_bundle_names_no_heatmap_that_was_not_learnt(run, phantom, tmp_path):
    assert bundle_of(run, tmp_path / "some", "base/fold0/lines").map_names == NO_LANDMARKS
    assert bundle_of(run, tmp_path / "all", "all/fold0/only").map_names == ALL
    both = bundle_of(run, tmp_path / "both", "all/fold0/only", "base/fold0/lines")
    assert both.map_names == NO_LANDMARKS, "what each of its networks learnt"
    film = next((phantom / "test").iterdir())
    assert Reader(both).read(film).landmarks == {}


def test_a_network_of_lines_alone_reads_films(run, phantom, tmp_path):
    torch.manual_seed(0)
    model = Classifier("resnet10t", "gap", weights="none", decoder="unet", maps=LINES)
    save_weights(tmp_path / "lines.safetensors", model.state_dict(), {})
    member = BundleMember("lines", 0, model.config(), tmp_path / "lines.safetensors")
    bundle = load_bundle(write_bundle(tmp_path / "out", [member], store=STORE, input_size=64, meta={}, onnx=False))
    assert bundle.map_names == LINES
    assert all(line.tip is None for line in Reader(bundle).read(next((phantom / "test").iterdir())).lines)
