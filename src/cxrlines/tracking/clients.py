"""The five trackers, each by its own client, imported when it is opened. Every method may raise, or never return."""

import contextlib
import csv
import io
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cxrlines.core.files import write_text

Status = Literal["finished", "failed", "killed"]
Row = tuple[dict[str, float], int, float]
"""Metrics by name, their step, and their time in seconds since 1970."""

_LARGEST_SHOWN = 2**20  # characters of a text that TensorBoard shows


@dataclass(frozen=True)
class TrackedRun:
    """A run, or a step of one, for one tracker: paths are absolute; `address` is None for this machine."""

    tracker: str
    project: str
    group: str
    run: str
    identity: str
    folder: str
    root: str
    address: str | None

    def remember(self, own_id: str) -> None:
        """Keep the tracker's own id for a process that resumes this run."""
        note = {"identity": self.identity, "address": self.address, "id": own_id}
        write_text(self._note(), json.dumps(note))

    def recall(self) -> str | None:
        """The tracker's own id of the run that an earlier process began with the same identity and address."""
        note = self._noted()
        return note.get("id") if (note.get("identity"), note.get("address")) == (self.identity, self.address) else None

    def _note(self) -> Path:
        return Path(self.folder) / ".tracking" / f"{self.tracker}.json"

    def _noted(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._note().read_text()))
        except (OSError, ValueError, TypeError):
            return {}

    def own_folder(self) -> Path:
        """A local tracker's folder, emptied if what lies there is of a run with another identity."""
        folder = Path(self.folder) / self.tracker
        if self._noted().get("identity", self.identity) != self.identity:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.remember(self.tracker)
        return folder


def _file_name(name: str) -> str:
    """A name without folders."""
    return re.sub(r"[^\w\-. ]", "_", name).lstrip(".") or "unnamed"


class TensorBoard:
    """Metrics as scalars, settings as a table, texts as they are; files lie beside the events."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = run.own_folder()
        self.writer = SummaryWriter(str(self.folder), flush_secs=1)  # type: ignore[no-untyped-call]

    def settings(self, values: dict[str, Any]) -> None:
        rows = [f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in values.items()]
        self._show("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def metrics(self, rows: list[Row]) -> None:
        for values, step, at in rows:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step, walltime=at)  # type: ignore[no-untyped-call]

    def text(self, name: str, text: str) -> None:
        shown = text if len(text) <= _LARGEST_SHOWN else text[:_LARGEST_SHOWN] + "\n..."
        self._show(name, "\n".join(f"    {line}" for line in shown.splitlines()))  # Markdown: as it is

    def file(self, path: Path) -> None:
        shutil.copyfile(path, self.folder / path.name)
        self._show(path.name, f"`{path.name}` lies beside these curves.")

    def _show(self, name: str, markdown: str) -> None:
        self.writer.add_text(name, markdown)  # type: ignore[no-untyped-call]
        self.writer.flush()  # type: ignore[no-untyped-call]

    def close(self, status: Status) -> None:
        self.writer.close()  # type: ignore[no-untyped-call]


class Csv:
    """`metrics.csv` (step, metric, value, time in s), `settings.csv`, and texts and files under their names.

    A line is either whole or not there. A step that is logged twice has two lines; the later one counts.
    """

    def __init__(self, run: TrackedRun) -> None:
        self.folder = run.own_folder()

    def settings(self, values: dict[str, Any]) -> None:
        (self.folder / "settings.csv").write_bytes(_csv([("setting", "value"), *values.items()]))

    def metrics(self, rows: list[Row]) -> None:
        lines = [(step, name, repr(value), f"{at:.3f}") for values, step, at in rows for name, value in values.items()]
        with (self.folder / "metrics.csv").open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            _, newline, torn = file.read().rpartition(b"\n")
            if torn:  # by a kill or a full disk
                file.truncate(size - len(torn))
            file.write(_csv(lines if newline else [("step", "metric", "value", "time"), *lines]))

    def text(self, name: str, text: str) -> None:
        (self.folder / _file_name(name)).write_text(text, encoding="utf-8")

    def file(self, path: Path) -> None:
        shutil.copyfile(path, self.folder / _file_name(path.name))

    def close(self, status: Status) -> None:
        """Everything is written already."""


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    return lines.getvalue().encode()


class MLflow:
    """A run of the experiment named by the project, in a sqlite file or on a server."""

    def __init__(self, run: TrackedRun) -> None:
        from filelock import FileLock
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        root = Path(run.root)
        # Two processes that make the sqlite file at once leave it broken (seen with mlflow 3.17, for all its own lock).
        with contextlib.nullcontext() if run.address else FileLock(root / ".mlflow.lock"):
            self.client = MlflowClient(tracking_uri=run.address or f"sqlite:///{root / 'mlflow.db'}")
            if begun := run.recall():
                with contextlib.suppress(MlflowException):  # removed meanwhile
                    self.client.update_run(begun, status="RUNNING")
                    self.run_id = begun
                    return
            if self.client.get_experiment_by_name(run.project) is None:
                artifacts = None if run.address else (root / "mlartifacts").as_uri()
                with contextlib.suppress(MlflowException):  # on a server another step may be first
                    self.client.create_experiment(run.project, artifact_location=artifacts)
            experiment = self.client.get_experiment_by_name(run.project)
        if experiment is None:
            raise RuntimeError(f"the experiment {run.project!r} can be neither found nor made")
        tags = {"group": run.group, "identity": run.identity}
        self.run_id = self.client.create_run(experiment.experiment_id, run_name=run.run, tags=tags).info.run_id
        run.remember(self.run_id)

    def settings(self, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_mlflow_name(name), str(value)) for name, value in values.items()]
        for first in range(0, len(params), 100):  # the most that one request may hold
            self.client.log_batch(self.run_id, params=params[first : first + 100])

    def metrics(self, rows: list[Row]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_mlflow_name(name), value, round(at * 1000), step)
            for values, step, at in rows
            for name, value in values.items()
        ]
        for first in range(0, len(metrics), 1000):  # the most that one request may hold
            self.client.log_batch(self.run_id, metrics=metrics[first : first + 1000])

    def text(self, name: str, text: str) -> None:
        self.client.log_text(self.run_id, text, _file_name(name))

    def file(self, path: Path) -> None:
        self.client.log_artifact(self.run_id, str(path))

    def close(self, status: Status) -> None:
        self.client.set_terminated(self.run_id, status.upper())


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name)[:250]


class Neptune:
    """An offline run, or one on a server of one's own. Neptune keeps no value that is not finite."""

    def __init__(self, run: TrackedRun) -> None:
        import neptune

        own_id = run.recall() or uuid.uuid4().hex
        project = run.project if "/" in run.project else os.environ.get("NEPTUNE_PROJECT", run.project)
        self.run = neptune.init_run(
            mode="async" if run.address else "offline",
            project=project if run.address else None,
            custom_run_id=own_id if run.address else None,
            name=run.run,
            tags=[run.group],
            capture_stdout=False,
            capture_stderr=False,
            capture_traceback=False,
            capture_hardware_metrics=False,
            fail_on_exception=False,
            source_files=[],
            git_ref=False,
        )
        self.run["identity"] = run.identity
        run.remember(own_id)

    def settings(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.run[f"settings/{name}"] = value

    def metrics(self, rows: list[Row]) -> None:
        for values, step, at in rows:
            for name, value in values.items():
                if math.isfinite(value):
                    self.run[f"metrics/{name}"].append(value=value, step=step, timestamp=at)

    def text(self, name: str, text: str) -> None:
        self._upload("texts", name, text)

    def file(self, path: Path) -> None:
        self._upload("files", path.name, path.read_bytes())

    def _upload(self, where: str, name: str, content: str | bytes) -> None:
        from neptune.types import File

        extension = Path(name).suffix.lstrip(".") or "txt"
        self.run[f"{where}/{_file_name(name)}"].upload(File.from_content(content, extension=extension))

    def close(self, status: Status) -> None:
        self.run["status"] = status
        self.run["sys/failed"] = status != "finished"
        self.run.stop()


class Wandb:
    """A run of the project, in a folder until it is synced, or on a server. Metrics are plotted over `step`."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        mode = run.address or "offline"
        if mode not in ("offline", "online"):
            os.environ["WANDB_BASE_URL"] = mode
        own_id = run.recall() or uuid.uuid4().hex[:12]
        entity, _, project = run.project.rpartition("/")
        self.run = wandb.init(
            project=project,
            entity=entity or None,
            group=run.group,
            name=run.run,
            id=own_id,
            resume=None if mode == "offline" else "allow",
            dir=run.root,
            mode="offline" if mode == "offline" else "online",
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        self.teardown = wandb.teardown
        self.run.config.update({"identity": run.identity}, allow_val_change=True)
        self.run.define_metric("*", step_metric="step")
        run.remember(own_id)

    def settings(self, values: dict[str, Any]) -> None:
        self.run.config.update(values, allow_val_change=True)

    def metrics(self, rows: list[Row]) -> None:
        for values, step, at in rows:
            self.run.log({**values, "step": step, "_timestamp": at})

    def text(self, name: str, text: str) -> None:
        self._save(name, text.encode())

    def file(self, path: Path) -> None:
        self._save(path.name, path.read_bytes())

    def _save(self, name: str, content: bytes) -> None:
        copied = Path(self.run.dir) / _file_name(name)
        copied.write_bytes(content)
        self.run.save(str(copied), base_path=self.run.dir, policy="now")

    def close(self, status: Status) -> None:
        code = 0 if status == "finished" else 1
        self.run.finish(exit_code=code)
        self.teardown(exit_code=code)


CLIENTS = {client.__name__.lower(): client for client in (TensorBoard, Csv, MLflow, Neptune, Wandb)}
LOCAL = ("tensorboard", "csv")
"""Trackers that only write files of their own; the others run in a process of their own."""
