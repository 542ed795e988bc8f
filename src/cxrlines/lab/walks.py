"""How many files a newcomer opens to follow one command, and how often the way turns back.

`python -m cxrlines.lab.walks predict FILM [--bundle B]` follows the reading of a film, `... step` the training of the
first step of a tiny recipe on phantom films. Every Python call is observed (`sys.setprofile`): the files of cxrlines
that are entered are listed in the order of their first call.

A **turn back** is a call, counted once for each pair of files, from a file into another that was entered before it, or
that lies in a package above it (a callback). Returns do not count: who reads a function goes on below the call.

Not counted, as if they were a library: `__init__` files, the vocabulary (`task`) and the value types of `core` (errors,
notes, films, findings, quality, spacing, and the affine that carries points between a film and the network), which are
read once and then known; whatever runs while a module is imported; and other processes (decoders, loader workers).
`--strict` counts the value types, too.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import cxrlines

PACKAGES = (
    *("task", "core", "io", "metrics", "phantom", "augment", "models", "reading"),
    *("tracking", "training", "evaluation", "recipe", "cluster", "corrections", "pacs", "web", "lab", "cli"),
)
"""The rows of the table in docs/architecture.md, from the bottom up."""
KNOWN = {"task.py"} | {
    f"core/{name}.py" for name in ("errors", "film", "findings", "notes", "quality", "spacing", "transform")
}
RECIPE = """
name: walk
size: 64
store: {size: 72, aspect: stretch}
folds: {count: 2, seed: 0}
tracking: {use: [csv]}
members:
  plain:
    backbone: resnet10t
    stages:
      only: {start: scratch, schedule: {batch: 4, lr: 0.001, epochs: 1}}
"""


@dataclass
class Walk:
    """What was called below `root`, a package's folder: its files in the order of their first call, and from where.

    `known`: files that do not count.
    """

    root: Path
    known: frozenset[str] = frozenset(KNOWN)
    files: list[str] = field(default_factory=list)
    calls: dict[tuple[str, str], None] = field(default_factory=dict)  # (from, into), in order

    def __post_init__(self) -> None:
        self._names: dict[CodeType, str] = {}
        self._threads = threading.local()

    @contextlib.contextmanager
    def observed(self) -> Iterator[None]:
        """What is called in the block counts, in threads that it starts too."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @property
    def turns(self) -> list[tuple[str, str]]:
        """The calls that turn back, as (from, into)."""
        place = {name: number for number, name in enumerate(self.files)}

        def row(name: str) -> int:
            package = name.split("/")[0].removesuffix(".py")
            return PACKAGES.index(package) if package in PACKAGES else 0

        return [(a, b) for a, b in self.calls if place[b] < place[a] or row(b) > row(a)]

    def as_dict(self) -> dict[str, Any]:
        """Files, turns and their counts as JSON's own types."""
        return {"files": self.files, "turns": self.turns, "count": len(self.files), "turn_count": len(self.turns)}

    def text(self) -> str:
        """One line a file, one a turn, and the two counts."""
        turns = [f"turns back: {a} -> {b}" for a, b in self.turns]
        return "\n".join([*self.files, *turns, f"{len(self.files)} files, {len(turns)} turns back"])

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        name = self._names.get(code)
        if name is None:
            name = self._names[code] = self._name(code)
        if not name:
            return
        stack: list[str] = self._threads.__dict__.setdefault("stack", [])
        if event == "return":
            if stack:
                stack.pop()
            return
        at_import = not code.co_flags & inspect.CO_OPTIMIZED  # the body of a module or class
        if at_import or (stack and not stack[-1]):
            stack.append("")
            return
        if name not in self.files:
            self.files.append(name)
        if stack and stack[-1] != name:
            self.calls[stack[-1], name] = None
        stack.append(name)

    def _name(self, code: CodeType) -> str:
        """The file of the code below the root; empty for what does not count."""
        path = Path(code.co_filename)
        if path == Path(__file__) or not path.is_relative_to(self.root):
            return ""
        name = path.relative_to(self.root).as_posix()
        return "" if path.name == "__init__.py" or name in self.known else name


def follow_predict(film: Path, bundle: Path | None = None, known: frozenset[str] = frozenset(KNOWN)) -> Walk:
    """The walk of `cxrlines predict FILM`."""
    main = importlib.import_module("cxrlines.cli").main
    command = ["cxrlines", "predict", str(film), *(["--bundle", str(bundle)] if bundle else [])]
    with _arguments(command):
        return _follow(main, known)


def follow_step(known: frozenset[str] = frozenset(KNOWN)) -> Walk:
    """The walk of the first step of a tiny recipe on phantom films, in a folder that is removed afterwards."""
    from cxrlines.phantom.dataset import write_phantom
    from cxrlines.recipe.run.pipeline import plan_of, prepare
    from cxrlines.recipe.run.step import do_step
    from cxrlines.recipe.spec.load import load_recipe

    with tempfile.TemporaryDirectory(prefix="cxrlines-walk-") as place:
        data, recipe = Path(place, "data"), Path(place, "walk.yaml")
        write_phantom(data, studies=24, seed=0, size=96, balance="even", annotated=0.6, workers=1)
        recipe.write_text(RECIPE)
        run = prepare(load_recipe(str(recipe)), data, Path(place, "run"), 1)
        first = plan_of(run, [0])[0]
        return _follow(lambda: do_step(run, first, lambda status: None), known)


def _follow(work: Callable[[], object], known: frozenset[str]) -> Walk:
    walk = Walk(Path(cxrlines.__file__).parent, known)
    with contextlib.redirect_stdout(io.StringIO()), walk.observed():
        try:
            work()
        except SystemExit as end:
            if end.code:
                raise
    return walk


@contextlib.contextmanager
def _arguments(command: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, command
    try:
        yield
    finally:
        sys.argv = before


def main() -> None:
    """Print a walk."""
    parser = argparse.ArgumentParser(prog="cxrlines.lab.walks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--strict", action="store_true", help="count value types, too")
    walks = parser.add_subparsers(dest="walk", required=True)
    predict = walks.add_parser("predict", help="follow the reading of a film")
    predict.add_argument("film", type=Path)
    predict.add_argument("--bundle", type=Path, help="a bundle's folder; default: the embedded reader")
    walks.add_parser("step", help="follow the training of a step of a tiny recipe")
    asked = parser.parse_args()
    known = frozenset({"task.py"}) if asked.strict else frozenset(KNOWN)
    walk = follow_predict(asked.film, asked.bundle, known) if asked.walk == "predict" else follow_step(known)
    print(json.dumps(walk.as_dict(), indent=1) if asked.json else walk.text())


if __name__ == "__main__":
    main()
