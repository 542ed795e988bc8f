"""Workers of this machine: which processes end, and a script without a guard."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cxrlines.core.processes import Died
from cxrlines.recipe.run import execute
from cxrlines.recipe.run.execute import LocalWorkers, RunError
from cxrlines.recipe.run.folder import Step, StepId
from cxrlines.recipe.run.pipeline import plan_of, prepare
from cxrlines.recipe.spec.load import load_recipe


def steps(count: int) -> list[Step]:
    return [Step(StepId(f"m{k}", (0,), "only"), "", (), 1, last=True) for k in range(count)]


def test_closing_ends_its_own_processes_and_no_other_child_of_the_host(phantom, tiny_recipe, tmp_path, wait_until):
    run = prepare(load_recipe(str(tiny_recipe)), phantom, tmp_path, 1)
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    workers = LocalWorkers(run, steps(2), 2)
    errors: list[Exception] = []

    def do(step: Step) -> None:
        try:
            workers.do(step)
        except Exception as error:
            errors.append(error)

    slow = next(step for step in plan_of(run, [0]) if step.name == "plain/fold0/only")
    under_way = threading.Thread(target=do, args=(slow,))
    under_way.start()
    wait_until(lambda: workers._children)
    workers.close()
    under_way.join(300)
    try:
        assert not under_way.is_alive() and isinstance(errors[0], RunError)
        assert [child.process.wait(300) for child in workers._children] == [-9]
        assert foreign.poll() is None
        with pytest.raises(RunError):
            workers.do(slow)
    finally:
        foreign.kill()
        foreign.wait()


def test_a_worker_that_is_killed_costs_its_step_and_another_takes_its_place(tmp_path, monkeypatch):
    class Dying:
        def __init__(self, module: str) -> None:
            self.process = subprocess.Popen([sys.executable, "-c", ""])

        def send(self, message: bytes) -> None: ...

        def receive(self) -> bytes:
            raise Died("ended")

    monkeypatch.setattr(execute, "Child", Dying)
    workers = LocalWorkers(type("Run", (), {"root": tmp_path, "data": tmp_path}), steps(1), 1)
    for _ in range(2):
        with pytest.raises(RunError, match="killed"):
            workers.do(steps(1)[0])
    assert len(workers._children) == 2
    for child in workers._children:
        child.process.wait()


SCRIPT = """
import sys
from pathlib import Path
from cxrlines.recipe.run.pipeline import train
from cxrlines.recipe.spec.load import load_recipe
train(load_recipe(sys.argv[1], ["tracking.use=[]"]), Path(sys.argv[2]), Path(sys.argv[3]), folds=[0], workers=2)
"""


@pytest.mark.doors
def test_a_plain_script_trains_without_a_main_guard(phantom, tiny_recipe, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", tiny_recipe, phantom, tmp_path / "run"]
    environment = os.environ | {"PYTHONPATH": str(Path(execute.__file__).parents[3])}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads((tmp_path / "run/steps.json").read_text())) == 4
