"""The import table of docs/architecture.md against the imports: arrows point down, no circle of files."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/cxrlines"
OUTSIDE = {"", "__main__"}
"""The package's own `__init__` and `__main__` lie above all packages."""


def allowed() -> dict[str, set[str]]:
    """Package -> what it may import; one with a star only within functions."""
    text = (ROOT / "docs/architecture.md").read_text("utf-8").split("## Who may import whom")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ?(.*?) ?\|$", text, re.M)
    packages = {package for package, _ in rows}
    table: dict[str, set[str]] = {}
    for package, names in rows:
        if names.startswith("everything"):
            table[package] = packages - {package} - set(re.findall(r"but (\w+)", names))
        else:
            table[package] = {name.strip() for name in names.split(",") if name.strip()}
    return table


def modules() -> dict[str, Path]:
    """Dotted name below cxrlines -> file; the package itself is ""."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.Module, known: set[str]) -> Iterator[tuple[str, bool]]:
    """(module below cxrlines, whether within a function or only for types) of every import."""
    later = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            later.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cxrlines":
            base = node.module.removeprefix("cxrlines").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                yield (inner if inner in known else base), node in later
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("cxrlines."):
                    yield alias.name.removeprefix("cxrlines."), node in later


@cache
def graph() -> dict[str, dict[str, bool]]:
    """Module -> what it imports -> whether every import of it is within a function or only for types."""
    files = modules()
    edges: dict[str, dict[str, bool]] = {}
    for name, path in files.items():
        mine = edges.setdefault(name, {})
        for other, later in imports(ast.parse(path.read_text("utf-8")), set(files)):
            if other != name:
                mine[other] = mine.get(other, True) and later
    return edges


def package_of(module: str) -> str:
    return module.split(".")[0]


def test_every_package_is_in_the_table_and_nothing_else():
    assert {package_of(name) for name in modules()} - OUTSIDE == set(allowed())


def test_the_table_has_no_circle_of_packages():
    below: set[str] = set()
    for package, names in allowed().items():  # from the bottom up, as the table is written
        assert {name.rstrip("*") for name in names} <= below, package
        below.add(package)


@pytest.mark.parametrize("package", sorted(allowed()))
def test_imports_go_by_the_table(package):
    may = allowed()[package]
    for name, others in graph().items():
        if package_of(name) != package:
            continue
        for other, later in others.items():
            there = package_of(other)
            fine = there in OUTSIDE or there == package or there in may or (later and f"{there}*" in may)
            assert fine, f"cxrlines.{name} imports cxrlines.{other}; docs/architecture.md does not allow it"


def test_no_circle_of_files():
    edges = graph()
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle of files: {' -> '.join((*way[way.index(name) :], name))}"
        if name not in done:
            for other in edges.get(name, {}):
                if other:  # the package itself is a face, which imports nothing but when asked
                    visit(other, (*way, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_what_is_private_stays_in_its_file():
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cxrlines"):
                private = [alias.name for alias in node.names if re.match(r"_[a-zA-Z]", alias.name)]
                assert not private, f"cxrlines.{name} imports {private} of {node.module}"


def test_no_two_files_of_one_name():
    seen: dict[str, str] = {}
    for name, path in modules().items():
        if path.name != "__init__.py":
            assert path.stem not in seen, f"cxrlines.{name} and cxrlines.{seen[path.stem]}"
            seen[path.stem] = name


def test_a_package_says_what_it_offers():
    for name, path in modules().items():
        if path.name == "__init__.py":
            words = ast.get_docstring(ast.parse(path.read_text("utf-8")))
            assert words and len(words) > 15, f"cxrlines.{name} has no docstring"


def test_files_fit_in_the_head():
    for name, path in modules().items():
        assert len(path.read_text("utf-8").splitlines()) <= 420, f"cxrlines.{name}"


def test_the_field_s_words():
    text = "\n".join(path.read_text("utf-8") for path in modules().values())
    assert len(re.findall(r"told|invented", text)) <= 20, "say it in the field's terms: false positive, recall, ..."
