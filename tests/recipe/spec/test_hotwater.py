"""`hotwater` is what the write-up says, `hotwater-small` is the same graph, and docs/recipes.md shows what loads."""

import re
from pathlib import Path

import pytest
import yaml

from cxrlines.augment.policy import POLICIES
from cxrlines.models import HEADS
from cxrlines.models.backbones import check_backbone
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.recipe.spec.recipe import Recipe, Source
from cxrlines.recipe.spec.stage import FileStart

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/recipes.md").read_text()
SNIPPETS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def graph(recipe: Recipe):
    """Members, heads, folds, stages, and of each stage all that leads to another: start, films, targets."""
    return {
        (name, member.head, member.folds, stage_name): (
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


def test_it_combines_what_the_write_up_combines(full):
    """Each line of the table of the write-up's combinations, by what a member is made of."""
    staged = {"resnet200d": "resnet200d", "efficientnet-b7": "tf_efficientnet_b7.ns_jft_in1k", "resnet50d": "resnet50d"}
    for name, backbone in staged.items():
        member = full.members[name]
        assert (member.backbone, list(member.stages), member.folds) == (
            backbone, ["teacher", "student", "finetune"], None,
        )  # fmt: skip
    own = full.members["self-distilled"]
    assert (own.backbone, own.head) == ("resnet200d", "gem")
    assert own.stages["pretrain"].targets.soft.teachers == ("self-distilled/stage3",)
    assert full.made_of(Source("self-distilled", "stage3"))[1:] == full.made_of(Source("resnet200d", "student"))

    def way(name):
        """The sets that a member trains on, from first to last, of those it starts from as well."""
        source, sets = full.source(name), []
        while source:
            sets.insert(0, full.spec(source).films.set)
            source = full.origin(source)
        return sets

    assert way("chain") == ["own", "own", "nih", "own", "padchest", "own", "vinbigdata", "own"]
    assert way("multi-head-soft") == ["own", "nih", "padchest", "vinbigdata", "own"]
    assert full.members["multi-head-soft"].head == full.members["multi-head"].head == "attention"
    assert way("public") == ["nih", "own"] and isinstance(full.spec(Source("public", "nih")).start, FileStart)
    taught = {m.backbone for m in full.members.values() if any(s.targets.soft for s in m.stages.values())}
    assert taught == set(staged.values()), "soft labels for every backbone"
    onward = {n for n, m in full.members.items() if any(s.targets.soft for s in m.stages.values())}
    assert {name for name, member in full.members.items() if member.folds == (0,)} == onward


def test_nothing_is_trained_twice(full):
    """No two stages of the same network are the same: what two members share is one stage that both start from."""
    seen = [
        (m.backbone, m.head, m.exclusive, m.dropout, full.origin(source), full.spec(source).model_dump_json())
        for source in full.sources()
        for m in [full.members[source.member]]
    ]
    assert len(set(seen)) == len(seen)


def test_the_public_file_is_set_from_the_command_line():
    setting = "members.public.stages.nih.start.file=theirs.pth"
    assert load_recipe("hotwater", [setting]).members["public"].stages["nih"].start == FileStart(
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
    for path in set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", PAGE)):
        assert (ROOT / "src/cxrlines" / path).is_file(), path
    named = re.findall(r"members? ((?:`[a-z-]+`(?:, )?)+)", PAGE.partition("## How it is written")[0])
    members = {name for group in named for name in re.findall(r"`([a-z-]+)`", group)}
    assert members and members <= set(full.members)
    for head in ("gap", "gem", "concat", "attention"):
        assert f"`{head}`" in PAGE or f"head: {head}`" in PAGE
    assert set(re.findall(r"augment: ([a-z-]+)`", PAGE)) <= set(POLICIES)
