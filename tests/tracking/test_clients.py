"""Each tracker by its real client: what was logged is read back by the client's own means."""

import base64
import csv
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrlines.recipe.run.step import settings_of
from cxrlines.recipe.spec.load import load_recipe
from cxrlines.tracking.clients import LOCAL
from cxrlines.tracking.settings import TrackingSettings, check_trackers
from cxrlines.tracking.tracker import ENVIRONMENT, Tracker, flatten

pytestmark = pytest.mark.doors

LOSSES = [0.5, 0.25, 0.125]
RECIPE = {"members": {"resnet": {"lr": 0.001, "heads": ["gap", "gem"]}}, "seed": 7}


def log(settings: TrackingSettings, folder: Path, run: str = "m/fold0/teacher", identity: str = "one") -> list[str]:
    """A run as training logs it; the problems it had."""
    check_trackers(settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.html").write_text("<p>0.97")
    with Tracker(settings, run=run, group="demo", folder=folder, identity=identity) as tracker:
        tracker.settings(RECIPE)
        for epoch, loss in enumerate(LOSSES, 1):
            tracker.metrics({"loss": loss, "auc of ETT - Abnormal": 0.9, "nan": float("nan")}, epoch)
        tracker.text("lineage.json", '{"patients": ["a1"]}')
        tracker.file(folder / "report.html")
    return tracker.problems


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    tracking = pytest.importorskip("mlflow.tracking", reason="mlflow is not installed: pip install 'cxrlines[mlflow]'")
    from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY

    assert MLFLOW_DISABLE_TELEMETRY.get() is True  # the name that `tracker` sets is the client's
    return tracking


def runs_of(client: Any, project: str = "cxrlines") -> list[Any]:
    experiment = client.get_experiment_by_name(project)
    return client.search_runs([experiment.experiment_id])


def check_mlflow(client: Any, run: Any, root: Path) -> None:
    assert run.info.run_name == "m/fold0/teacher" and run.info.status == "FINISHED"
    assert run.data.tags["group"] == "demo" and run.data.tags["identity"] == "one"
    assert run.data.params == {"members.resnet.lr": "0.001", "members.resnet.heads": '["gap", "gem"]', "seed": "7"}
    history = sorted(client.get_metric_history(run.info.run_id, "loss"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in history] == list(enumerate(LOSSES, 1))
    assert run.data.metrics["auc of ETT - Abnormal"] == 0.9
    got = {
        path.path: Path(client.download_artifacts(run.info.run_id, path.path, str(root))).read_text()
        for path in client.list_artifacts(run.info.run_id)
    }
    assert got == {"lineage.json": '{"patients": ["a1"]}', "report.html": "<p>0.97"}


def test_mlflow_in_a_sqlite_file(mlflow, tmp_path):
    root = tmp_path / "run"
    assert log(TrackingSettings(use=("mlflow",), root=str(root), patience_s=240), root / "m/fold0/teacher") == []
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    (run,) = runs_of(client)
    check_mlflow(client, run, tmp_path)
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(root)


@pytest.mark.long
def test_mlflow_takes_steps_that_begin_at_once_and_goes_on_with_a_resumed_one(mlflow, tmp_path):
    settings = TrackingSettings(use=("mlflow",), root=str(tmp_path), patience_s=240)
    names = [f"m/fold{fold}" for fold in range(3)]
    trackers = [Tracker(settings, run=name, group="demo", folder=tmp_path / name, identity=name) for name in names]
    for tracker in trackers:
        for step in range(500):
            tracker.metrics({"loss": 1 / (step + 1)}, step)
    for tracker in trackers:
        tracker.close()
        assert tracker.problems == []
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert sorted(run.info.run_name for run in runs_of(client)) == names
    with Tracker(settings, run=names[0], group="demo", folder=tmp_path / names[0], identity=names[0]) as tracker:
        tracker.metrics({"loss": 0.0}, 500)
    assert tracker.problems == []
    runs = {run.info.run_name: run for run in runs_of(client)}
    assert len(runs_of(client)) == 3 and runs[names[0]].info.status == "FINISHED"
    steps = {name: len(client.get_metric_history(run.info.run_id, "loss")) for name, run in runs.items()}
    assert steps == {names[0]: 501, names[1]: 500, names[2]: 500}


@pytest.fixture
def mlflow_server(tmp_path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path / 'server.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 200
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (tmp_path / "server.log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.long
def test_mlflow_on_a_server(mlflow, mlflow_server, tmp_path):
    settings = TrackingSettings(use=("mlflow",), mlflow=mlflow_server, root=str(tmp_path), patience_s=200)
    assert log(settings, tmp_path / "run") == []
    assert not (tmp_path / "mlflow.db").exists() and not (tmp_path / "mlartifacts").exists()
    client = mlflow.MlflowClient(tracking_uri=mlflow_server)
    (run,) = runs_of(client)
    check_mlflow(client, run, tmp_path)


def test_an_mlflow_server_that_does_not_answer_costs_nothing(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    address = f"http://127.0.0.1:{free_port()}"
    settings = TrackingSettings(use=("mlflow", "csv"), mlflow=address)
    tracker = Tracker(settings, run="m", group="demo", folder=tmp_path, identity="one")
    for step in range(200):
        tracker.metrics({"loss": 0.5}, step)
    tracker.close()
    problems = "\n".join(tracker.problems)
    assert (
        "mlflow: could not start, training goes on without it: MlflowException" in problems
        and address[7:-6] in problems
    )
    assert "200 of 200 calls are lost" in problems
    assert len((tmp_path / "csv/metrics.csv").read_text().splitlines()) == 201


def neptune_operations(run: Path) -> Iterator[Any]:
    """What an offline run would send to a server, in order."""
    from neptune.core.components.queue.disk_queue import DiskQueue
    from neptune.internal.operation import Operation

    kept = DiskQueue(run, lambda op: op.to_dict(), Operation.from_dict, threading.RLock())
    while (element := kept.get()) is not None:
        yield element.obj


def test_neptune_offline(tmp_path):
    pytest.importorskip("neptune", reason="neptune is not installed: pip install 'cxrlines[neptune]'")
    from neptune.internal.operation import AssignString, LogFloats, UploadFile

    assert (
        log(TrackingSettings(use=("neptune",), root=str(tmp_path), patience_s=240), tmp_path / "m/fold0/teacher") == []
    )
    (run,) = (tmp_path / ".neptune/offline").iterdir()
    operations = list(neptune_operations(run))
    texts = {"/".join(op.path): op.value for op in operations if isinstance(op, AssignString)}
    assert texts["sys/name"] == "m/fold0/teacher" and texts["identity"] == "one" and texts["status"] == "finished"
    assert texts["settings/members.resnet.heads"] == '["gap", "gem"]'
    series: dict[str, list[tuple[float, float]]] = {}
    for op in operations:
        if isinstance(op, LogFloats):
            series.setdefault("/".join(op.path), []).extend((value.step, value.value) for value in op.values)
    assert series["metrics/loss"] == list(enumerate(LOSSES, 1))
    assert len(series["metrics/auc of ETT - Abnormal"]) == 3 and "metrics/nan" not in series
    uploads = {"/".join(op.path): op for op in operations if isinstance(op, UploadFile)}
    assert set(uploads) == {"texts/lineage.json", "files/report.html"}
    report = uploads["files/report.html"]  # by its contents, so that the run can be synced from anywhere
    assert report.file_path is None
    assert (run / "upload_path" / report.tmp_file_name).read_text() == "<p>0.97"


def test_a_neptune_server_that_does_not_answer_costs_nothing(tmp_path, monkeypatch):
    pytest.importorskip("neptune", reason="neptune is not installed: pip install 'cxrlines[neptune]'")
    address = f"http://127.0.0.1:{free_port()}"
    token = base64.b64encode(json.dumps({"api_address": address, "api_url": address}).encode()).decode()
    monkeypatch.setenv("NEPTUNE_API_TOKEN", token)
    settings = TrackingSettings(use=("neptune",), neptune=address, project="team/lines", patience_s=5)
    problems = "\n".join(log(settings, tmp_path))
    assert "could not start" in problems or "did not finish within 5 s" in problems  # the client asks again and again
    assert "6 of 6 calls" in problems and token not in problems


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of an offline run's file: LevelDB's log format, after 7 bytes of wandb's own."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, whole = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # no header fits into what is left of the block
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield Record.FromString(whole)
            whole = b""


def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 'cxrlines[wandb]'")
    settings = TrackingSettings(use=("wandb",), project="team/lines", root=str(tmp_path), patience_s=240)
    assert log(settings, tmp_path / "m/fold0/teacher") == []
    assert log(settings, tmp_path / "m/fold0/teacher") == []  # resumed
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    ids = {
        record.run.run_id
        for run in runs
        for record in wandb_records(next(run.glob("*.wandb")))
        if record.WhichOneof("record_type") == "run"
    }
    assert len(runs) == 2 and len(ids) == 1  # two folders, one run; those of one second are named apart
    (file,) = runs[0].glob("*.wandb")
    records = list(wandb_records(file))
    (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (begun.entity, begun.project, begun.run_group) == ("team", "lines", "demo")
    assert begun.display_name == "m/fold0/teacher" and not begun.git.remote_url
    config = {item.key: json.loads(item.value_json) for record in records for item in record.config.update}
    assert config["members.resnet.lr"] == 0.001 and config["seed"] == 7 and config["identity"] == "one"
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(row["step"], row["loss"]) for row in rows] == list(enumerate(LOSSES, 1))
    assert {record.exit.exit_code for record in records if record.WhichOneof("record_type") == "exit"} == {0}
    assert (runs[0] / "files/report.html").read_text() == "<p>0.97"
    assert json.loads((runs[0] / "files/lineage.json").read_text()) == {"patients": ["a1"]}
    assert not list(runs[0].rglob("wandb-metadata.json")) and not list(runs[0].rglob("requirements.txt"))


# One process that logs many runs, each by the client itself: the clients take seconds to begin.
MANY = """
import json, sys
from cxrlines.tracking.clients import CLIENTS, TrackedRun
tracker, root, runs = sys.argv[1], sys.argv[2], json.loads(sys.stdin.read())
for name, settings in runs.items():
    backend = CLIENTS[tracker](TrackedRun(tracker, "cxrlines", "demo", name, name, f"{root}/{name}", root, None))
    backend.settings(settings)
    backend.close("finished")
"""


def stages_of(recipe: str) -> dict[str, dict[str, Any]]:
    """The settings of a step of every stage of a shipped recipe, as its trackers get them, by member/stage."""
    whole = load_recipe(recipe)
    return {
        f"{member}/{stage}": flatten(settings_of(whole, member, stage))
        for member, spec in whole.members.items()
        for stage in spec.stages
    }


def kept_by_csv(root: Path, runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    kept = {}
    for name in runs:
        with (root / name / "csv/settings.csv").open(newline="") as file:
            kept[name] = {row["setting"]: row["value"] for row in csv.DictReader(file)}
    return kept


def kept_by_tensorboard(root: Path, runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    kept = {}
    for name in runs:
        events = EventAccumulator(str(root / name / "tensorboard")).Reload()
        (shown,) = events.Tensors("settings/text_summary")
        rows = [line.strip("| ").split(" | ") for line in shown.tensor_proto.string_val[0].decode().splitlines()[2:]]
        kept[name] = {setting: value for setting, value in rows}
    return kept


def kept_by_mlflow(root: Path, runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
    return {run.info.run_name: run.data.params for run in runs_of(client)}


def kept_by_neptune(root: Path, runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    kept = {}
    for run in (root / ".neptune/offline").iterdir():
        values = {
            "/".join(op.path): op.value for op in neptune_operations(run) if type(op).__name__.startswith("Assign")
        }
        settings = {name: value for name, value in values.items() if name.startswith("settings/")}
        kept[values["sys/name"]] = {name.removeprefix("settings/"): str(value) for name, value in settings.items()}
    return kept


def kept_by_wandb(root: Path, runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    kept = {}
    for file in (root / "wandb").glob("offline-run-*/*.wandb"):
        records = list(wandb_records(file))
        (name,) = {record.run.display_name for record in records if record.WhichOneof("record_type") == "run"}
        kept[name] = {
            item.key or item.nested_key[0]: str(json.loads(item.value_json))
            for record in records
            for item in record.config.update
        }
    return kept


KEPT = {
    "csv": kept_by_csv,
    "tensorboard": kept_by_tensorboard,
    "mlflow": kept_by_mlflow,
    "neptune": kept_by_neptune,
    "wandb": kept_by_wandb,
}


@pytest.mark.parametrize("tracker", KEPT)
def test_the_client_stores_every_setting_of_every_stage_of_hotwater(tracker, tmp_path):
    if tracker not in LOCAL:
        pytest.importorskip(tracker, reason=f"{tracker} is not installed: pip install 'cxrlines[{tracker}]'")
    runs = stages_of("hotwater")
    assert len(runs) == 37
    if tracker in LOCAL:
        for name, settings in runs.items():
            with Tracker(
                TrackingSettings(use=(tracker,)), run=name, group="demo", folder=tmp_path / name, identity=name
            ) as opened:
                opened.settings(settings)
            assert opened.problems == []
    else:
        environment = os.environ | ENVIRONMENT | {"NEPTUNE_DATA_DIRECTORY": str(tmp_path / ".neptune")}
        subprocess.run(
            [sys.executable, "-c", MANY, tracker, str(tmp_path)],
            input=json.dumps(runs), text=True, cwd=tmp_path, env=environment, check=True, capture_output=True,
        )  # fmt: skip
    kept = KEPT[tracker](tmp_path, runs)
    assert kept.keys() == runs.keys()
    for name, settings in runs.items():
        logged = {setting: value for setting, value in kept[name].items() if setting not in ("identity", "_wandb")}
        assert logged == {setting: str(value) for setting, value in settings.items()}, name
        assert logged["stage.size"].isdigit() and logged["backbone"] and logged["head"] and logged["member"] in name
        for part in ("stage.films.view", "stage.films.augment", "stage.schedule.lr", "stage.schedule.epochs"):
            assert logged[part]
        assert any(setting.startswith("stage.targets.") and setting.endswith(".weight") for setting in logged)
