"""The prose of errors in one place: `tests/golden/errors.txt` holds every message a user can get, as the code has it.

A reworded message changes that file and no other test. To write it anew: `python tests/test_error_messages.py`.
"""

import ast
from pathlib import Path

import cxrlines.core.errors

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests/golden/errors.txt"


def template(node: ast.expr, texts: dict[str, str]) -> str:
    """A string of the code with `{}` for each value in it; "{}" alone for what is no string. `texts`: by name."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return texts.get(node.id, "{}")
    if isinstance(node, ast.FormattedValue):
        return template(node.value, texts)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part, texts) for part in node.values)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "plural":
        return "{} " + (template(node.args[2], texts) if len(node.args) > 2 else template(node.args[1], texts) + "s")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left, texts) + template(node.right, texts)
    return "{}"


def error_classes(trees: list[ast.Module]) -> set[str]:
    """The names of `Error` and of all that derives from it."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"Error"}
    while more := {name for name, of in bases.items() if of & found} - found:
        found |= more
    return found


def messages() -> list[str]:
    """Every message as `Class: what; way out`, sorted, each once."""
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "src/cxrlines").rglob("*.py"))]
    classes = error_classes(trees)
    found = set()
    for function in (node for tree in trees for node in tree.body):
        texts: dict[str, str] = {}  # what a message is put together of, by name, as last given above it
        of_interest = [node for node in ast.walk(function) if isinstance(node, ast.Assign | ast.Call)]
        for node in sorted(of_interest, key=lambda node: node.lineno):
            if isinstance(node, ast.Assign):
                texts |= {name.id: template(node.value, texts) for name in node.targets if isinstance(name, ast.Name)}
            elif isinstance(node.func, ast.Name) and node.func.id in classes:
                parts = [template(argument, texts) for argument in node.args[:2]]
                if any(part != "{}" for part in parts):
                    found.add(f"{node.func.id}: {'; '.join(parts)}".replace("\n", "\\n"))
    return sorted(found)


def test_messages_are_those_of_the_golden_file():
    assert messages() == GOLDEN.read_text("utf-8").splitlines()


def test_an_error_says_both():
    error = cxrlines.core.errors.Error("a.csv: has no row", "give one that has")
    assert str(error) == "a.csv: has no row; give one that has"
    assert isinstance(error, ValueError)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("\n".join(messages()) + "\n", "utf-8")
