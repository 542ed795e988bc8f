"""`benchmarks/gpu.sh`: its commands are right before a GPU is paid for, and what failed or lacks is said."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from cxrlines import cli

ROOT = Path(__file__).parents[1]
SCRIPT = ["bash", str(ROOT / "benchmarks/gpu.sh")]


def run(*options: str, python: str = sys.executable, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python, "HOME": str(Path.home())} | more
    return subprocess.run([*SCRIPT, *options], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_part_is_a_command_that_exists_and_all_fit_into_nine_minutes(device):
    done = run("--dry-run", "--device", device, "--", "cxrlines", "train", "demo", "--data", "here", "--out", "there")
    assert done.returncode == 0, done.stderr
    parts = {
        name: (limit, command) for name, limit, command in (line.split(" ", 2) for line in done.stdout.splitlines())
    }
    assert {"machine", "tests", "predict", "training"} <= set(parts)
    assert {name for name in parts if name.startswith("train-")} == (
        {"train-512", "train-640"} if device == "cuda" else {"train-64"}
    )
    limits = {name: limit for name, (limit, _) in parts.items()}
    assert limits.pop("training") == "rest"
    assert device == "cpu" or sum(map(int, limits.values())) < 9 * 60 - 60, "a minute at least is left to train"
    compile(parts["machine"][1].partition(" -c ")[2], "machine", "exec")
    assert (ROOT / shlex.split(parts["tests"][1])[-1]).is_file()
    for name in parts.keys() - {"machine", "tests"}:
        _, _, command = parts[name][1].partition("cxrlines ")
        group = typer.main.get_command(cli.app)
        first, *rest = shlex.split(command)
        assert group.commands[first].make_context(first, rest).params is not None  # type: ignore[attr-defined]
        if first == "bench":
            bench, *rest = rest
            assert group.commands[first].commands[bench].make_context(bench, rest).params  # type: ignore[attr-defined]


def test_a_machine_without_packages_is_told_which(tmp_path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    done = run("--device", "cpu", "--out", str(tmp_path / "out"), python=str(bare))
    assert done.returncode == 3
    for wanted in ("torch>=2.13", "timm>=1.0.20", "pytest>=8.3", "pip download"):
        assert wanted in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--device", "tpu"], ["--fast"]])
def test_options_it_does_not_have_are_refused(options):
    done = run(*options)
    assert done.returncode == 2 and options[-1] in done.stderr


@pytest.mark.doors
def test_a_part_out_of_time_leaves_the_results_of_the_others(tmp_path):
    done = run("--device", "cpu", "--minutes", "2", "--out", str(tmp_path), "--", "sleep", "600")
    assert done.returncode == 1
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert parts["machine"]["ended"] == "done" and "torch" in parts["machine"]["figures"]
    assert {part["ended"] for part in parts.values()} & {"out of time", "no time left"}
    assert set(parts) == {"machine", "tests", "train-64", "predict", "training"}


@pytest.mark.long
def test_the_rehearsal_without_a_gpu(tmp_path):
    done = run("--device", "cpu", "--out", str(tmp_path), "--", sys.executable, "-c", "print('{\"trained\": 1}')")
    assert done.returncode == 0, done.stdout + (tmp_path / "parts.log").read_text()
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert {part["ended"] for part in parts.values()} == {"done"}
    assert parts["train-64"]["figures"]["films_per_s"] > 0 and parts["training"]["figures"] == {"trained": 1}
    assert "waits_for_films" in (tmp_path / "table.txt").read_text()
