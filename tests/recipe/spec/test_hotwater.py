"""`hotwater` is what the write-up says, `hotwater-small` is the same graph, and docs/recipes.md shows what loads."""

import re
from pathlib import Path

import pytest
import yaml

from cxrlines.augment.policy import POLICIES
from cxrlines.models import HEADS
from cxrlines.models.backbones import check_backbone
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe
from cxrlines.recipe.spec.stage import FileStart

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/recipes.md").read_text()
SNIPPETS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def graph(recipe: Recipe):
    """Members, heads, stages, and of each stage all that leads to another: start, films, targets."""
    return {
        (name, member.head, stage_name): (
            "file" if isinstance(stage.start, FileStart) else stage.start,
            (stage.films.set, stage.films.which, stage.films.view),
            stage.targets,
        )
        for name, member in recipe.members.items()
        for stage_name, stage in member.stages.items()
    }


@pytest.fixture(scope="module")
def full() -> Recipe:
    return load_recipe("hotwater")


@pytest.fixture(scope="module")
def small() -> Recipe:
    return load_recipe("hotwater-small")


def test_the_small_one_is_the_same_graph(full, small):
    assert graph(full) == graph(small)
    assert list(full.members) == list(small.members)
    assert (full.external, full.ensemble, full.guard) == (small.external, small.ensemble, small.guard)


def test_it_has_every_backbone_head_and_set(full):
    assert {member.backbone for member in full.members.values()} == {
        "resnet200d", "tf_efficientnet_b7.ns_jft_in1k", "resnet50d",
    }  # fmt: skip
    for member in full.members.values():
        check_backbone(member.backbone)
    assert {member.head for member in full.members.values()} == set(HEADS)
    stages = [stage for member in full.members.values() for stage in member.stages.values()]
    assert {stage.films.set for stage in stages} == {"own", *full.external} == {"own", "nih", "padchest", "vinbigdata"}
    assert {name for stage in stages for name in stage.targets.named} == {"labels", "features", "soft", "presence"}
    assert full.folds.count == 5 and full.averaged == tuple(full.members) and full.ensemble.how == "mean"


@pytest.mark.parametrize("name", ["resnet200d", "efficientnet-b7", "resnet50d"])
def test_three_stages_are_those_of_its_own_runs(full, name):
    teacher, student, finetune = full.members[name].stages.values()
    assert full.size == 640 and full.members[name].head == "gap"
    assert [(s.schedule.epochs, s.schedule.lr) for s in (teacher, student, finetune)] == [
        (6, 1e-4), (14, 1e-3), (18, 1e-4),
    ]  # fmt: skip
    assert teacher.schedule.warmup_epochs == 1 and teacher.films.view == "overlay"
    assert (student.targets.features.weight, student.targets.labels.weight) == (0.5, 1)
    assert student.start == "imagenet" and finetune.start == "student"
    assert finetune.films.augment == "hotwater" and finetune.films.flip and finetune.films.which == "all"
    for stage in (teacher, student, finetune):
        assert (stage.schedule.optimizer, stage.schedule.batch, stage.schedule.weight_decay) == ("adam", 16, 1e-6)
        assert not stage.fold_shift


@pytest.mark.parametrize("name", ["nih", "padchest", "vinbigdata"])
def test_soft_labels_are_stage_four_and_five(full, name):
    pretrain, finetune = full.members[name].stages.values()
    soft, schedule = pretrain.targets.soft, pretrain.schedule
    assert pretrain.films.set == name and list(pretrain.targets.named) == ["soft"]
    assert (soft.of, soft.keep_above, soft.temperature) == ("resnet200d", 0.3, 0.8)
    assert (schedule.epochs, schedule.lr, schedule.end_lr, schedule.shape) == (22, 1e-4, 1e-7, "cosine")
    assert finetune.schedule.lr == 5e-6 and finetune.start == "pretrain" and finetune.films.set == "own"


def test_the_chain_goes_through_all_sets_to_the_own_films(full):
    stages = full.members["chain"].stages
    assert [stage.films.set for stage in stages.values()] == ["nih", "padchest", "vinbigdata", "own"]
    assert [stage.start for stage in stages.values()] == ["imagenet", "nih", "padchest", "vinbigdata"]


def test_multi_head_self_distilled_and_public(full):
    only = full.members["multi-head"].stages["only"]
    assert full.members["multi-head"].head == "attention"
    assert (only.schedule.lr, only.schedule.epochs, only.schedule.patience) == (2.5e-4, 16, 3)
    distilled = full.members["self-distilled"].stages["pretrain"]
    assert distilled.films.set == "own" and distilled.targets.soft.of == "resnet200d"
    assert isinstance(full.members["public"].stages["finetune"].start, FileStart)


def test_the_public_file_is_set_from_the_command_line():
    setting = "members.public.stages.finetune.start.file=theirs.pth"
    assert load_recipe("hotwater", [setting]).members["public"].stages["finetune"].start == FileStart(
        file="theirs.pth", ancestry="trusted"
    )


def laid(under, over):
    both = isinstance(under, dict) and isinstance(over, dict)
    return under | {key: laid(under.get(key), value) for key, value in over.items()} if both else over


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[text.split("\n")[0][:40] for text in SNIPPETS])
def test_every_snippet_of_the_page_loads(tmp_path, snippet):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(laid(yaml.safe_load(SNIPPETS[0]), yaml.safe_load(snippet)), sort_keys=False))
    recipe = load_recipe(str(path))
    assert set(yaml.safe_load(snippet).get("members", {})) <= set(recipe.members)


def test_what_the_page_names_exists(full):
    for path in set(re.findall(r"`([a-z_]+/[a-z_]+\.py)`", PAGE)):
        assert (ROOT / "src/cxrlines" / path).is_file(), path
    named = re.findall(r"members? ((?:`[a-z-]+`(?:, )?)+)", PAGE.partition("## How it is written")[0])
    members = {name for group in named for name in re.findall(r"`([a-z-]+)`", group)}
    assert members and members <= set(full.members)
    for head in ("gap", "gem", "concat", "attention"):
        assert f"`{head}`" in PAGE or f"head: {head}`" in PAGE
    assert set(re.findall(r"augment: ([a-z-]+)`", PAGE)) <= set(POLICIES)
