"""What the README tells people to type exists; what it shows of recipes is so."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from cxrlines import cli
from cxrlines.recipe.spec.load import load_recipe, shipped
from cxrlines.recipe.spec.recipe import MemberSpec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
WHOLE = README.replace("\\\n", "")  # a command may go on in the next line
COMMANDS = [line.split("#")[0].strip() for line in WHOLE.splitlines() if line.startswith("cxrlines ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_parses(line):
    _, name, *rest = shlex.split(line)
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    assert command.make_context(name, rest).params


def test_every_command_is_in_the_table():
    listed = set(re.findall(r"^\| `([a-z-]+)", README, re.MULTILINE))
    every = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert listed | {"demo"} == {name for name, command in every.items() if not command.hidden}


def test_the_recipe_shown_is_that_of_the_shipped_one():
    text = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert text
    shown = MemberSpec.model_validate(yaml.safe_load(text[1])["members"]["resnet200d"])
    ours = load_recipe("three-stage").members["resnet200d"]
    assert shown.stages.keys() == ours.stages.keys()
    for name, stage in shown.stages.items():
        assert stage.films.view == ours.stages[name].films.view
        assert stage.films.which == ours.stages[name].films.which
        assert stage.targets == ours.stages[name].targets
        assert stage.schedule.epochs == ours.stages[name].schedule.epochs
        assert stage.schedule.shape == ours.stages[name].schedule.shape


def test_every_shipped_recipe_is_named():
    assert all(f"`{name}`" in README for name in shipped())


def test_make_targets_and_linked_files_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / link).exists(), link
