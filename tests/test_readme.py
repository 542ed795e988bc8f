"""What the README tells people to type exists; what it shows of recipes is so."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from cxrlines import cli
from cxrlines.recipe.spec.load import load_recipe, shipped
from cxrlines.recipe.spec.recipe import MemberSpec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WHOLE = README.replace("\\\n", "")  # a command may go on in the next line
COMMANDS = [line.split("#")[0].strip() for line in WHOLE.splitlines() if line.startswith("cxrlines ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_line_parses(line):
    _, name, *rest = shlex.split(line)
    command = typer.main.get_command(cli.app).commands[name]  # type: ignore[attr-defined]
    assert command.make_context(name, rest).params


def test_every_command_is_in_the_table():
    page = (ROOT / "docs/commands.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([a-z-]+)", page, re.MULTILINE))
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert listed == {name for name, command in commands.items() if not command.hidden}


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


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page):
    for link in re.findall(r"\]\(([^)#h][^)#]*)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_the_code_that_a_page_names_exist(page):
    if page.name == "experiments.md":
        pytest.skip("the log names files as they were")
    rooms = "|".join(path.name for path in (ROOT / "src/cxrlines").iterdir() if path.is_dir())
    for name in re.findall(rf"\b((?:{rooms})/[a-z_/]+\.(?:py|json|yaml))\b", page.read_text("utf-8")):
        assert (ROOT / "src/cxrlines" / name).exists() or (ROOT / "tests" / name).exists(), name


def test_what_the_pages_import_exists():
    for page in PAGES:
        for module, names in re.findall(
            r"^from (cxrlines[\w.]*) import ([\w, ]+)$", page.read_text("utf-8"), re.MULTILINE
        ):
            for name in names.split(", "):
                assert hasattr(importlib.import_module(module), name), f"{page.name}: {module} has no {name}"


def test_the_python_of_the_readme_runs(tmp_path):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    film = np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)
    for name in ("film.dcm", "other.png"):
        Image.fromarray(film).save(tmp_path / name, format="PNG")  # what a file is, its content says
    ran = subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
