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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["finished", "failed", "killed"]
Row = tuple[dict[str, float], int, float]
"""Metrics by name, their step, and when they were told, in seconds since 1970."""

_LARGEST_SHOWN = 2**20  # characters of a text that TensorBoard shows


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with: paths are absolute; `address` is None for this machine."""

    tracker: str
    project: str
    group: str
    run: str
    identity: str
    folder: str
    root: str
    address: str | None

    @property
    def _note(self) -> Path:
        return Path(self.folder) / ".tracking" / f"{self.tracker}.json"

    def _noted(self) -> dict[str, Any]:
        try:
            noted = json.loads(self._note.read_text())
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def recall(self) -> str | None:
        """The tracker's own id of the run that an earlier process began with the same identity and address."""
        noted = self._noted()
        same = noted.get("identity") == self.identity and noted.get("address") == self.address
        return str(noted["id"]) if same and "id" in noted else None

    def outdated(self) -> bool:
        """Whether what lies in `folder` is of a run with another identity."""
        noted = self._noted()
        return bool(noted) and noted.get("identity") != self.identity

    def remember(self, own_id: str) -> None:
        """Keep the tracker's own id for a process that goes on with this run."""
        self._note.parent.mkdir(parents=True, exist_ok=True)
        aside = self._note.with_suffix(f".{os.getpid()}.partial")
        aside.write_text(json.dumps({"identity": self.identity, "address": self.address, "id": own_id}))
        aside.replace(self._note)


class Backend(Protocol):
    """One run in one tracker."""

    def settings(self, values: dict[str, Any]) -> None: ...
    def metrics(self, rows: list[Row]) -> None: ...
    def text(self, name: str, text: str) -> None: ...
    def file(self, path: Path) -> None: ...
    def close(self, status: Status) -> None: ...


def _own_folder(opening: Opening) -> Path:
    """A local tracker's folder, emptied if it is of another identity."""
    folder = Path(opening.folder) / opening.tracker
    if opening.outdated():
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    opening.remember(opening.tracker)
    return folder


def _file_name(name: str) -> str:
    """A name without folders."""
    return re.sub(r"[^\w\-. ]", "_", name).lstrip(".") or "unnamed"


class TensorBoard:
    """Curves as scalars, settings as a table, texts as they are; files lie beside the events."""

    def __init__(self, opening: Opening) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = _own_folder(opening)
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

    A line is either whole or not there. A step told twice has two lines; the later one counts.
    """

    def __init__(self, opening: Opening) -> None:
        self.folder = _own_folder(opening)

    def settings(self, values: dict[str, Any]) -> None:
        lines = [_csv_line(name, value) for name, value in values.items()]
        (self.folder / "settings.csv").write_text("setting,value\n" + "".join(lines), encoding="utf-8")

    def metrics(self, rows: list[Row]) -> None:
        lines = [
            _csv_line(step, name, repr(value), f"{at:.3f}")
            for values, step, at in rows
            for name, value in values.items()
        ]
        with (self.folder / "metrics.csv").open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            tail = file.read()
            if tail and not tail.endswith(b"\n"):  # a line torn by a kill or a full disk
                size -= len(tail) - (tail.rfind(b"\n") + 1)
                file.truncate(size)
            file.write(("".join(lines) if size else "step,metric,value,time\n" + "".join(lines)).encode())

    def text(self, name: str, text: str) -> None:
        (self.folder / _file_name(name)).write_text(text, encoding="utf-8")

    def file(self, path: Path) -> None:
        shutil.copyfile(path, self.folder / _file_name(path.name))

    def close(self, status: Status) -> None:
        """Everything is written already."""


def _csv_line(*cells: object) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


class MLflow:
    """A run of the experiment named by the project, in a sqlite file or on a server."""

    def __init__(self, opening: Opening) -> None:
        from filelock import FileLock
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        root = Path(opening.root)
        # Two processes that make the sqlite file at once leave it broken (seen with mlflow 3.17, for all its own lock).
        with contextlib.nullcontext() if opening.address else FileLock(root / ".mlflow.lock"):
            self.client = MlflowClient(tracking_uri=opening.address or f"sqlite:///{root / 'mlflow.db'}")
            if begun := opening.recall():
                with contextlib.suppress(MlflowException):  # removed meanwhile
                    self.client.update_run(begun, status="RUNNING")
                    self.run_id = begun
                    return
            if self.client.get_experiment_by_name(opening.project) is None:
                artifacts = None if opening.address else (root / "mlartifacts").as_uri()
                with contextlib.suppress(MlflowException):  # on a server another step may be first
                    self.client.create_experiment(opening.project, artifact_location=artifacts)
            experiment = self.client.get_experiment_by_name(opening.project)
        if experiment is None:
            raise RuntimeError(f"the experiment {opening.project!r} can be neither found nor made")
        tags = {"group": opening.group, "identity": opening.identity}
        run = self.client.create_run(experiment.experiment_id, run_name=opening.run, tags=tags)
        self.run_id = run.info.run_id
        opening.remember(self.run_id)

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

    def __init__(self, opening: Opening) -> None:
        import neptune

        own_id = opening.recall() or uuid.uuid4().hex
        project = opening.project if "/" in opening.project else os.environ.get("NEPTUNE_PROJECT", opening.project)
        self.run = neptune.init_run(
            mode="async" if opening.address else "offline",
            project=project if opening.address else None,
            custom_run_id=own_id if opening.address else None,
            name=opening.run,
            tags=[opening.group],
            capture_stdout=False,
            capture_stderr=False,
            capture_traceback=False,
            capture_hardware_metrics=False,
            fail_on_exception=False,
            source_files=[],
            git_ref=False,
        )
        self.run["identity"] = opening.identity
        opening.remember(own_id)

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
    """A run of the project, in a folder until it is synced, or on a server. Curves are drawn over `step`."""

    def __init__(self, opening: Opening) -> None:
        import wandb

        mode = opening.address or "offline"
        if mode not in ("offline", "online"):
            os.environ["WANDB_BASE_URL"] = mode
        own_id = opening.recall() or uuid.uuid4().hex[:12]
        entity, _, project = opening.project.rpartition("/")
        self.run = wandb.init(
            project=project,
            entity=entity or None,
            group=opening.group,
            name=opening.run,
            id=own_id,
            resume=None if mode == "offline" else "allow",
            dir=opening.root,
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
        self.run.config.update({"identity": opening.identity}, allow_val_change=True)
        self.run.define_metric("*", step_metric="step")
        opening.remember(own_id)

    def settings(self, values: dict[str, Any]) -> None:
        self.run.config.update(values, allow_val_change=True)

    def metrics(self, rows: list[Row]) -> None:
        for values, step, at in rows:
            self.run.log({**values, "step": step, "_timestamp": at})

    def text(self, name: str, text: str) -> None:
        path = Path(self.run.dir) / _file_name(name)
        path.write_text(text, encoding="utf-8")
        self.run.save(str(path), base_path=self.run.dir, policy="now")

    def file(self, path: Path) -> None:
        copied = Path(self.run.dir) / _file_name(path.name)
        shutil.copyfile(path, copied)
        self.run.save(str(copied), base_path=self.run.dir, policy="now")

    def close(self, status: Status) -> None:
        code = 0 if status == "finished" else 1
        self.run.finish(exit_code=code)
        self.teardown(exit_code=code)


LOCAL: dict[str, Callable[[Opening], Backend]] = {"tensorboard": TensorBoard, "csv": Csv}
"""Trackers that only write files of their own."""

APART: dict[str, Callable[[Opening], Backend]] = {"mlflow": MLflow, "neptune": Neptune, "wandb": Wandb}
"""Trackers that run in a process of their own."""
