"""The pages of the site: every block runs, in order, as a person types it; it builds and loads nothing from outside."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

import cxrlines
from cxrlines import cli
from cxrlines.recipe.spec.load import load_recipe, shipped

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", *sorted(page for room in ("tutorials", "how-to") for page in (DOCS / room).glob("*.md"))]
QUICK = "read-a-film"
"""The page that is run with the fast tests; the others start the command many times, or Ray, and are `doors`."""
NOT_RUN = "no test runs"
"""How a page says why the commands of a `text` block are only parsed."""


class Block(NamedTuple):
    """A fenced block of a page: its language, what it says, and the prose before and after it."""

    language: str
    text: str
    around: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    parts = re.split(r"^```(\w*)\n(.*?)^```\n", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [
        Block(language, text, before + after)
        for before, language, text, after in zip(parts[::3], parts[1::3], parts[2::3], parts[3::3], strict=False)
    ]


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after `cxrlines` of each command of a block, up to the next sign of the shell."""
    for line in text.replace("\\\n", "").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip(";|&><"):
                words.append(word)
            else:
                if words[:1] == ["cxrlines"]:
                    yield words[1:]
                words = []


def parse(words: list[str]) -> tuple[str, ...]:
    """The name of the command that the words call; fails where it would refuse them."""
    group, name = typer.main.get_command(cli.app), ()
    while hasattr(group, "commands"):
        name, group, words = (*name, words[0]), group.commands[words[0]], words[1:]
    group.make_context(name[-1], list(words))
    return name


def environment() -> dict[str, str]:
    """This process's, with this interpreter and its commands first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def save_recipes(page: Path, folder: Path) -> list[Path]:
    """The page's recipes in a folder, each under the name that its first line gives."""
    saved = []
    for block in blocks(page):
        if block.language == "yaml":
            saved.append(folder / block.text.splitlines()[0].removeprefix("# "))
            saved[-1].write_text(block.text)
    return saved


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_a_page_parse(page):
    for block in blocks(page):
        assert block.language in ("sh", "python", "yaml", "text"), block.text
        found = list(commands_in(block.text)) if block.language in ("sh", "text") else []
        for words in found:
            if parse(words) == ("train",) and words[1] in shipped() and block.language == "text":
                load_recipe(words[1], [value for flag, value in pairwise(words) if flag == "--set"])
        if block.language == "text" and found:
            assert NOT_RUN in block.around, f"a text block of commands needs its reason: {block.text}"


@pytest.mark.parametrize("page", sorted({*DOCS.glob("*.md")} - {*PAGES}), ids=lambda page: page.stem)
def test_commands_of_the_other_pages_parse(page):
    for block in blocks(page):
        for words in commands_in(block.text) if block.language in ("sh", "bash") else ():
            parse(words)


def test_commands_are_found_between_the_signs_of_a_shell():
    text = 'code=0; cxrlines predict a --set "b;c" \\\n  --json > out || code=1\nls && cxrlines schema | cat cxrlines\n'
    assert list(commands_in(text)) == [["predict", "a", "--set", "b;c", "--json"], ["schema"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_recipes_of_a_page_load(page, tmp_path):
    for path in save_recipes(page, tmp_path):
        assert load_recipe(str(path)).name == path.stem


def test_every_setting_in_the_table_of_changes_can_be_set():
    table = (DOCS / "how-to/change-a-recipe.md").read_text("utf-8")
    settings = re.findall(r"`'?([\w.*]+=[^`']+)'?`", "\n".join(re.findall(r"^\| .*", table, re.MULTILINE)))
    assert len(settings) == 8
    plain = load_recipe("baseline")
    for setting in settings:
        assert load_recipe("baseline", [setting]) != plain, setting


def _marks(page: str) -> list[pytest.MarkDecorator]:
    """A cluster of one machine is minutes of starting processes."""
    return {QUICK: [], "cluster": [pytest.mark.long]}.get(page, [pytest.mark.doors])


@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem, marks=_marks(page.stem)) for page in PAGES])
def test_blocks_of_a_page_run(page, tmp_path):
    """In order, in one folder: `sh` in bash, `python` as a script of its own."""
    save_recipes(page, tmp_path)
    for number, (language, text, _) in enumerate(blocks(page)):
        if language == "python":
            script = tmp_path / f"block{number}.py"
            script.write_text(text)
            command = [sys.executable, str(script)]
        elif language == "sh":
            command = ["bash", "-euo", "pipefail", "-c", text]
        else:
            continue
        ran = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=580)
        assert ran.returncode == 0, f"{text}\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.doors
@pytest.mark.parametrize("name", ["findings-for-programs"])
def test_blocks_of_a_page_run_in_a_notebook(name, tmp_path, monkeypatch):
    """The same blocks as cells of one Jupyter kernel, which has an event loop running and its own stdout."""
    from nbclient import NotebookClient
    from nbformat import v4

    page = next(page for page in PAGES if page.stem == name)
    cells = [
        v4.new_code_cell(("%%bash\nset -euo pipefail\n" if language == "sh" else "") + text)
        for language, text, _ in blocks(page)
        if language in ("sh", "python")
    ]
    monkeypatch.setenv("PATH", environment()["PATH"])
    notebook = v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=580, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.outputs)
    assert "ETT - Normal" in printed and "broken.dcm cannot be read" in printed


@pytest.mark.doors
@pytest.mark.parametrize(
    ("change", "found"), [("", 0), ("wrong: int = by_path.labels\n", 1)], ids=["as-it-is", "with-a-mistake"]
)
def test_the_python_of_a_page_is_typed(change, found, tmp_path):
    """As a caller's own strict type checker sees it; it does find what is wrong."""
    page = DOCS / "how-to/findings-for-programs.md"
    scripts = [text for language, text, _ in blocks(page) if language == "python" and "cxrlines" in text]
    for number, text in enumerate(scripts):
        (tmp_path / f"block{number}.py").write_text(text + (change if number == 0 else ""))
    how = "--strict --ignore-missing-imports --follow-imports=silent"
    command = [sys.executable, "-m", "mypy", *how.split(), "--config-file=", f"--cache-dir={os.devnull}", "."]
    ran = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT / "src")}, capture_output=True, text=True
    )
    assert ran.stdout.count("error:") == found, ran.stdout + ran.stderr
    assert ran.returncode == found


class Loaded(HTMLParser):
    """What a page makes a browser load; a link that a person clicks on is none."""

    ATTRIBUTES = ("src", "srcset", "data", "poster", "action", "background")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        for name, value in attrs:
            if name in self.ATTRIBUTES or (tag == "link" and name == "href") or name == "style":
                self.found.append(value or "")
            if name == "class":
                self.classes |= set((value or "").split())


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site as `make docs` builds it, in a folder of its own."""
    pytest.importorskip("zensical", reason="the site needs the extra docs")
    folder = tmp_path_factory.mktemp("site-of-docs")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder / "site"


def test_the_site_has_every_page(site):
    """All pages are in the navigation, and built."""

    def listed(nav: Any) -> Iterator[str]:
        for entry in nav if isinstance(nav, list) else nav.values():
            if isinstance(entry, str):
                yield entry
            else:
                yield from listed(entry)

    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert set(listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"])) == pages
    for page in pages:
        assert (site / page).with_suffix(".html").stat().st_size > 2000, page


def test_the_site_loads_nothing_from_elsewhere(site):
    """Hospital networks reach no content network: no font, script, style or picture of another host."""
    for page in site.rglob("*.html"):
        seen = Loaded()
        seen.feed(page.read_text("utf-8"))
        assert seen.found
        for value in seen.found:
            assert not re.search(r"(https?:)?//", value), f"{page.name} loads {value}"
        # What the theme's script would fetch from elsewhere, and only for elements of these classes:
        assert not seen.classes & {"mermaid", "glightbox", "arithmatex", "md-source", "md-exec"}, page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text("utf-8")), style.name


def test_the_reference_has_all_that_the_package_offers(site):
    page = (site / "reference/python.html").read_text("utf-8")
    for name in cxrlines.__all__:
        assert re.search(rf'id="cxrlines\.[\w.]*\b{name}"', page), name
    assert "one that cannot be read costs the others nothing" in page.lower()  # a docstring, not a name alone
    fields = (site / "reference/recipe-fields.html").read_text("utf-8")
    assert "<details" not in fields and re.search(r"<td><code>fold_shift</code></td>", fields)
