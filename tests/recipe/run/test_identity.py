"""What changes a step's identity: numbers and code that it depends on, and nothing else."""

import shutil

import pytest
import yaml

from cxrlines.recipe.run.identity import PACKAGE, _parts, code_identity
from cxrlines.recipe.spec.load import load_recipe, shipped
from cxrlines.recipe.spec.recipe import Recipe

STAGES = """
labels: {start: scratch, targets: {labels: {}}}
balanced: {start: scratch, targets: {labels: {class_weights: balanced}}}
teacher: {start: scratch, films: {which: annotated, view: overlay}}
features: {start: scratch, films: {which: annotated}, targets: {features: {of: teacher}}}
presence: {start: scratch, films: {set: b}, targets: {presence: {}}}
soft: {start: scratch, targets: {soft: {of: one/labels}}}
segmenter: {start: scratch, films: {which: annotated}, targets: {maps: {}}}
public: {start: {file: x.pth}}
pretrained: {start: imagenet}
mixed: {start: scratch, films: {mixup: 0.4}}
rare: {start: scratch, films: {sampling: rare}}
focal: {start: scratch, targets: {labels: {loss: focal}}}
"""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    one = {"backbone": "resnet10t", "stages": yaml.safe_load(STAGES)}
    return Recipe.model_validate({"name": "test", "external": {"b": {}}, "members": {"one": one}})


@pytest.fixture
def package(tmp_path):
    """A copy of the source, to be edited."""
    return shutil.copytree(PACKAGE, tmp_path / "cxrlines", ignore=shutil.ignore_patterns("embedded", "__pycache__"))


def changed(recipe, package, file, old, new) -> set[str]:
    """The stages whose code another text in a file changes."""
    before = {source: code_identity(recipe, source) for source in recipe.sources()}
    path = package / file
    assert path.read_text().count(old) >= 1, f"{file} has no {old!r}"
    path.write_text(path.read_text().replace(old, new, 1))
    return {source.stage for source in before if code_identity(recipe, source, package) != before[source]}


def test_the_same_code_elsewhere_is_the_same(recipe, package):
    assert [code_identity(recipe, source) for source in recipe.sources()] == [
        code_identity(recipe, source, package) for source in recipe.sources()
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "stages"),
    [
        ("training/targets/maps.py", "LINE_PIXELS = 20.0", "LINE_PIXELS = 21.0", {"segmenter"}),
        ("training/targets/labels.py", "MAX_CLASS_WEIGHT = 20.0", "MAX_CLASS_WEIGHT = 21.0", {"balanced"}),
        ("training/targets/presence.py", "-1e-4", "-1e-5", {"presence"}),
        ("training/targets/features.py", "functional.mse_loss", "functional.l1_loss", {"features"}),
        ("training/loader.py", "LINE_WIDTH = 1 / 128", "LINE_WIDTH = 1 / 64", {"teacher", "features"}),
        ("training/mixing.py", "rng.random() < 0.5", "rng.random() < 0.4", {"mixed"}),
        ("training/sampling.py", "np.sqrt(", "np.cbrt(", {"rare"}),
        ("training/sampling.py", "rng.permutation(films)", "np.arange(films)", None),
        ("training/targets/labels.py", "-there * (gamma * absent)", "-there * (2 * absent)", {"focal"}),
        ("core/heatmaps.py", "KEYPOINT_SIGMA = 0.015", "KEYPOINT_SIGMA = 0.02", {"segmenter"}),
        ("models/foreign_files.py", "def read_public(", "X = 1\n\n\ndef read_public(", set()),
        ("models/adopt.py", "stem.sum(", "stem.mean(", {"public"}),
        ("evaluation/ensemble/sharpen.py", "def sharpen(", "X = 1\n\n\ndef sharpen(", {"soft"}),
        ("training/config.py", "math.cos", "math.sin", None),
        ("recipe/run/step.py", "in_channels=channels", "in_channels=1 + channels", None),
        ("recipe/run/step.py", "torch.manual_seed(", "print(", None),
        ("recipe/run/step.py", "flip=stage.films.flip", "flip=True", None),
        ("recipe/run/step.py", "(stage.schedule, targets, seed)", "(stage.schedule, targets)", None),
        ("recipe/run/step.py", "group=recipe.name", 'group=""', set()),
        ("training/trainer.py", "gradient_clip_val=schedule.clip", "gradient_clip_val=None", None),
        ("training/trainer.py", "logging.ERROR", "logging.WARNING", set()),
        ("recipe/run/step.py", "inputs.model.load_state_dict(weights)", "pass", set()),
    ],
)  # fmt: skip
def test_numbers_and_code_change_what_uses_them(recipe, package, file, old, new, stages):
    assert changed(recipe, package, file, old, new) == (
        {source.stage for source in recipe.sources()} if stages is None else stages
    )


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("training/targets/maps.py", "LINE_PIXELS = 20.0", "# A comment.\n\n\nLINE_PIXELS = 20.0  # px"),
        ("training/targets/labels.py", 'by = "BCE"', 'by = "cross-entropy"'),
        ("training/module.py", '"""', '"""Other words. '),
        ("training/config.py", "import math", "import math\nimport os"),
        ("training/config.py", "-> float", "-> int"),
        ("models/adopt.py", "take an earlier file", "take another file"),
    ],
)
def test_words_change_nothing(recipe, package, file, old, new):
    assert changed(recipe, package, file, old, new) == set()


def test_every_part_of_every_shipped_recipe_is_there():
    parts = set()
    for name in shipped():
        recipe = load_recipe(name)
        for source in recipe.sources():
            assert len(code_identity(recipe, source)) == 64
            parts |= {file for file, _, _ in _parts(recipe, source)}
    assert {"models/adopt.py", "models/classifier.py", "core/heatmaps.py", "evaluation/ensemble/sharpen.py"} <= parts
