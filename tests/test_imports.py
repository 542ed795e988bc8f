"""Reading needs no network library until it computes: its packages are imported where there is none."""

import subprocess
import sys
from pathlib import Path

import cxrlines

WITHOUT = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
for module in {modules}:
    importlib.import_module(module)
"""
NETWORKS = {"torch", "torchvision", "lightning", "timm", "segmentation_models_pytorch"}
SCIENCE = {"scipy", "sklearn", "skimage"}
ROOT = Path(cxrlines.__file__).resolve().parents[1]


def modules(*places: str) -> list[str]:
    """The modules of packages and files, by name."""
    files = [file for place in places for file in ROOT.glob(f"cxrlines/{place}") if file.suffix == ".py"]
    files += [file for place in places for file in ROOT.glob(f"cxrlines/{place}/**/*.py")]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files}
    return sorted(name.removesuffix(".__init__") for name in names)


def check(blocked: set[str], names: list[str]) -> None:
    assert names
    script = WITHOUT.format(blocked=sorted(blocked), modules=names)
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_room_that_reading_and_recipes_rest_on_imports_a_network_library() -> None:
    check(NETWORKS, modules("core", "io", "metrics", "reading", "recipe/spec"))


REFUSED = """
from typer.testing import CliRunner
from cxrlines import cli

for words, said in {cases}:
    result = CliRunner().invoke(cli.app, ["train", *words.split()])
    assert result.exit_code == 2 and said in result.stderr, (words, result.output, result.exception)
assert "torch" not in sys.modules
"""


def test_a_wrong_training_command_is_refused_before_a_network_library_is_imported(tmp_path: Path) -> None:
    given = f"--data {tmp_path} --out {tmp_path / 'run'}"
    cases = [
        (f"recomended {given}", "did you mean 'recommended'?"),
        (f"{tmp_path / 'mine.yaml'} {given}", "name a YAML file, or one of"),
        (f"demo {given} --set members.baseline.hed=gem", "did you mean 'head'?"),
        (f"demo {given} --external nih={tmp_path}", "the recipe has no external set 'nih'"),
        (f"demo {given} --folds a", "--folds is 'a'"),
        (f"demo --data {tmp_path} --out {tmp_path}", "is one of the inputs"),
    ]
    script = WITHOUT.format(blocked=sorted(NETWORKS), modules=[]) + REFUSED.format(cases=cases)
    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_reading_itself_needs_no_scipy_and_no_pandas() -> None:
    files = ("reader", "batch", "bundle", "interpretation", "trace", "engines", "results")
    names = modules("core", "io/dicom", "io/films.py", "io/images.py", "io/prepare.py")
    check(NETWORKS | SCIENCE | {"pandas"}, names + modules(*(f"reading/{file}*" for file in files)))


def test_evaluating_tables_needs_no_scipy() -> None:
    check(NETWORKS | SCIENCE, modules("evaluation/scores.py", "evaluation/predictions.py", "io/folds.py"))


def test_what_the_base_install_does_needs_no_scipy_and_no_pandas() -> None:
    files = modules("io/tables.py", "io/sheet.py", "io/patients.py", "io/marks.py", "io/store.py")
    packages = modules("metrics", "phantom", "reading", "evaluation/bundles", "corrections", "pacs", "web", "cli")
    check(NETWORKS | SCIENCE | {"pandas"}, files + packages)
