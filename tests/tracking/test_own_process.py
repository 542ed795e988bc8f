"""A tracker that fails, hangs, dies or floods costs no training step, and what it lost is reported.

The faults are real: a package named wandb, put before the real one for the tracker's process alone, does them.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxrlines.tracking import tracker as tracker_module
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.tracking.tracker import Tracker

pytestmark = pytest.mark.doors

# What wandb's client offers and `clients.Wandb` uses, keeping all it is called with in `calls.jsonl`.
CLIENT = """
import json, os, sys, time
def keep(**call):
    with open("calls.jsonl", "a") as file:
        file.write(json.dumps(call) + "\\n")
class Config:
    def update(self, values, allow_val_change): keep(config=values)
class Run:
    config, dir = Config(), "."
    def define_metric(self, name, step_metric): pass
    def log(self, values): keep(log=values)
    def save(self, path, base_path, policy): keep(save=path)
    def finish(self, exit_code): keep(finish=exit_code)
class Settings:
    def __init__(self, **fields): pass
def teardown(exit_code): pass
def init(**fields):
    keep(init=fields["id"], pid=os.getpid(), environment=dict(os.environ))
    return Run()
"""
LOG = "def log(self, values):\n    "
FAULTS = {
    "raises at start": "def init(**fields): raise RuntimeError(f'no entry for {os.environ[\"WANDB_API_KEY\"]}')",
    "raises at each call": LOG + "raise RuntimeError(f'lost step {values[\"step\"]}')\nRun.log = log",
    # Longer than any test may take: what waits for one of these does not return.
    "sleeps at start": "def init(**fields): keep(pid=os.getpid()); time.sleep(3600)",
    "sleeps at a call": LOG + "time.sleep(3600)\nRun.log = log",
    "sleeps at the end": "def finish(self, exit_code): time.sleep(3600)\nRun.finish = finish",
    "exits at start": "os._exit(3)",
    "exits at a call": LOG + "os._exit(3)\nRun.log = log",
    "floods": LOG + "[os.write(1, b'x' * 65536) + os.write(2, b'y' * 65536) for _ in range(20)]\nRun.log = log",
    "is broken": "import a_module_that_is_not_there",
}
HANGS = [fault for fault in FAULTS if fault.startswith("sleeps")]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Puts a client with a fault before the real one; the tracker's own processes alone see it."""

    def put(fault: str = "") -> None:
        package = tmp_path / "packages/wandb"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text(CLIENT + fault)
        paths = [str(package.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))

    monkeypatch.setenv("WANDB_API_KEY", "s3cret-key")
    return put


def opened(folder: Path, patience_s: float = 300, identity: str = "one") -> Tracker:
    settings = TrackingSettings(use=("wandb", "csv"), patience_s=patience_s)
    return Tracker(settings, run="m/fold0/teacher", group="demo", folder=folder, identity=identity)


def train(tracker: Tracker, steps: int = 200) -> None:
    """A training loop's calls."""
    for step in range(steps):
        tracker.metrics({"loss": 0.5, "lr": 0.001}, step)


def calls_of(folder: Path) -> list[dict]:
    path = folder / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def gone(pid: int, within_s: float) -> bool:
    """Whether a process ends in time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True  # ended; its new parent has not asked yet
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.1)
    return False


def test_everything_arrives_in_order_and_as_it_was_when_logged(client, tmp_path):
    client()
    report = tmp_path / "results/report.html"  # not where the client, whose folder is ".", puts what it is given
    report.parent.mkdir()
    report.write_text("first")
    values = {"films": {"view": "overlay"}}
    tracker = opened(tmp_path)
    tracker.settings(values)
    values["films"]["view"] = "changed"
    train(tracker, 3000)
    tracker.text("lineage.json", "{}")
    tracker.file(report)
    report.write_text("second")
    tracker.close()
    assert tracker.problems == []
    rows = calls_of(tmp_path)
    assert [row["log"]["step"] for row in rows if "log" in row] == list(range(3000))
    assert {"films.view": "overlay"} in [row.get("config") for row in rows]
    assert [row for row in rows if "log" not in row][-1] == {"finish": 0}
    assert (tmp_path / "report.html").read_text() == "first"
    assert not (tmp_path / ".tracking/outbox").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_no_step(client, tmp_path, fault, capsys):
    client(FAULTS[fault])
    tracker = opened(tmp_path, 2.0 if fault in HANGS else 300.0)
    train(tracker)
    (client_process,) = [c for c in tracker._clients if isinstance(c, tracker_module._OwnProcess)]
    tracker.close()
    assert not client_process.thread.is_alive()
    assert client_process.process.returncode is not None  # no zombie
    problems = "\n".join(tracker.problems)
    if fault == "floods":
        assert problems == "" and len([row for row in calls_of(tmp_path) if "finish" in row]) == 1
    else:
        assert problems.startswith("wandb: ")
        assert capsys.readouterr().err.count("tracking: wandb:") == len(tracker.problems) <= 6
    assert ("did not finish within" in problems) == (fault in HANGS)
    if fault in HANGS:
        assert "did not finish within 2 s" in problems and "of 200 calls" in problems
    if fault.startswith("exits"):
        assert "ended with code 3" in problems and "200 of 200 calls are lost" in problems
    if fault == "raises at start":
        assert "RuntimeError: no entry for <WANDB_API_KEY>" in problems and "s3cret" not in problems
    if fault == "raises at each call":
        assert "RuntimeError: lost step 0" in problems and "200 of 200 calls are lost" in problems
    if fault == "is broken":
        assert "a_module_that_is_not_there" in problems
    assert len((tmp_path / "csv/metrics.csv").read_text().splitlines()) == 401  # the other tracker has it all


def test_more_than_may_wait_is_dropped_and_counted(client, tmp_path, monkeypatch, wait_until):
    monkeypatch.setattr(tracker_module, "WAITING", 50)
    client("while not os.path.exists('go'): time.sleep(0.05)")  # it is not ready before all is said
    tracker = opened(tmp_path, 300)
    tracker.text("long", "x" * 300_000)  # more than a pipe holds: the writer waits
    (own,) = (client for client in tracker._clients if hasattr(client, "calls"))
    wait_until(own.calls.empty)  # it is taken: of all that follows those that may wait are sent
    train(tracker, 500)
    (tmp_path / "go").touch()
    tracker.close()
    arrived = len([row for row in calls_of(tmp_path) if "log" in row])
    assert arrived == 50
    lost = 500 - arrived
    assert tracker.problems == [f"wandb: {lost} of 501 calls are lost, {lost} of them because too many waited"]


def test_a_training_that_fails_is_logged_as_failed(client, tmp_path):
    client()
    with pytest.raises(FloatingPointError), opened(tmp_path) as tracker:
        raise FloatingPointError("the loss became nan")
    assert calls_of(tmp_path)[-1] == {"finish": 1}
    assert tracker.problems == []


def test_a_resumed_run_keeps_its_id_and_another_gets_one(client, tmp_path):
    client()
    for identity in ("one", "one", "other"):
        opened(tmp_path, identity=identity).close()
    ids = [row["init"] for row in calls_of(tmp_path) if "init" in row]
    assert ids[0] == ids[1] != ids[2]


def test_children_that_hold_the_pipe_do_not_delay_the_end(client, tmp_path):
    """A loader's workers are forks of training and hold every file that it has open."""
    client()
    tracker = opened(tmp_path)
    loader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(3600,), daemon=True)
    loader.start()
    try:
        train(tracker, 5)
        tracker.close()
        assert loader.is_alive() and tracker.problems == []
    finally:
        loader.kill()
        loader.join()


TRAINING = """
import os, sys, time
from pathlib import Path
from cxrlines.tracking.settings import TrackingSettings
from cxrlines.tracking.tracker import Tracker
settings = TrackingSettings(use=("wandb",), patience_s=1)
tracker = Tracker(settings, run="r", group="g", folder=Path(sys.argv[1]), identity="one")
tracker.metrics({"loss": 0.5}, 1)
"""


def started(folder: Path) -> int:
    """The tracker's process, once it says so."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if calls := calls_of(folder):
            return calls[0]["pid"]
        time.sleep(0.05)
    raise AssertionError("the tracker's process did not start")


@pytest.mark.parametrize("fault", ["", FAULTS["sleeps at start"]], ids=["sound", "sleeps"])
def test_a_killed_training_leaves_no_process(client, tmp_path, fault):
    client(fault)
    # A fork that outlives the killed process holds the pipe open, as a loader's worker may.
    script = TRAINING + "fork = os.fork()\nif fork: print(fork, flush=True)\ntime.sleep(600)"
    training = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert training.stdout is not None
    fork = int(training.stdout.readline())
    try:
        pid = started(tmp_path)
        training.send_signal(signal.SIGKILL)
        training.wait()
        assert gone(pid, 120)
    finally:
        training.kill()
        os.kill(fork, signal.SIGKILL)
        training.stdout.close()
    if not fault:
        assert calls_of(tmp_path)[-1] == {"finish": 1}  # and the run is closed as one that did not finish


def test_a_tracker_that_nobody_closes_does_not_keep_python_from_ending(client, tmp_path):
    client(FAULTS["sleeps at start"])
    done = subprocess.run([sys.executable, "-c", TRAINING, str(tmp_path)], timeout=300, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


def test_the_clients_report_nothing_of_their_own(client, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "99")
    client()
    opened(tmp_path).close()
    seen = calls_of(tmp_path)[0]["environment"]
    assert seen["DO_NOT_TRACK"] == seen["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert seen["WANDB_ERROR_REPORTING"] == "false"
    assert seen["WANDB_API_KEY"] == "s3cret-key" and seen["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "99"  # the user's own
    env = pytest.importorskip("wandb.env", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", seen["WANDB_ERROR_REPORTING"])
    assert not env.error_reporting_enabled()
