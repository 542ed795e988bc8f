"""`cxrlines listen` as a process of its own, films to send to it, and a reader of an instant."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cxrlines.lab.intact_films import as_dicom
from cxrlines.pacs.queue_database import QueueDatabase

DEADLINE = 60.0
ROOT = Path(__file__).parents[2]
DX = "1.2.840.10008.5.1.4.1.1.1.1"
QUICK = """
import os, pickle, time
from pathlib import Path
from cxrlines.core.findings import Findings
from cxrlines.core.processes import serving
from cxrlines.reading.results.dicom.read_by import ReadBy
begun = []
def answer(receive, send):
    if not begun:
        receive()
        begun.append(True)
        send(pickle.dumps(ReadBy("0123456789ab", "none")))
        return
    receive()
    receive()
    time.sleep(float(os.environ.get("QUICK_S", "0")))
    send(pickle.dumps(Findings((40, 30), (), {}, (), {"NGT - Abnormal": 0.01})))
def serve():
    serving(answer)
"""
RUN = (
    "import functools, cxrlines.pacs.node as node\n"
    "node.run_node = functools.partial(node.run_node, worker='quick_reader')\n"
    "from cxrlines.cli import main\nmain()"
)


def dicom_film(number: int, pixels: np.ndarray | None = None, *, note: str = "", **elements: Any) -> bytes:
    """A DX film, (h, w) uint8 gray, of the patient and study `number`."""
    pixels = np.full((40, 30), number % 251, np.uint8) if pixels is None else pixels
    root = f"1.2.826.0.1.3680043.10.1.{number}"
    tags: dict[str, Any] = {"SOPClassUID": DX, "SOPInstanceUID": f"{root}.3", "SeriesInstanceUID": f"{root}.2"}
    tags |= {"StudyInstanceUID": f"{root}.1", "PatientID": f"PLANTED{number}", "PatientName": f"Planted^Name{number}"}
    tags |= {"StudyDate": "20260102", "StudyTime": "101112", "Modality": "DX", "Manufacturer": "MAKER"}
    tags |= {"ImageType": ["ORIGINAL", "PRIMARY"], "ViewPosition": "AP", "ImagerPixelSpacing": [0.2, 0.2]}
    return as_dicom(pixels, 8, **tags | {"ImageComments": note} | elements)


def until(condition: Callable[[], Any], seconds: float = DEADLINE) -> Any:
    """What a condition gives once it holds; fails if it does not in time."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)
    return found


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(one)}' for key, one in value.items())}}}"
    return json.dumps(value)


class NodeProcess:
    """A node on a port of its own, with the queue in `folder`/queue; `quick`: by a reader of an instant."""

    def __init__(self, folder: Path, port: int, to: list[str], *, quick: bool = True, **settings: Any) -> None:
        self.folder, self.port, self.queue, self.aet = folder, port, folder / "queue", "CXRLINES"
        folder.mkdir(exist_ok=True)
        (folder / "quick_reader.py").write_text(QUICK)
        lines = {"aet": self.aet, "port": port, "queue": "queue", "to": to, "processes": 1, "free_mib": 0} | settings
        (folder / "node.toml").write_text("".join(f"{key} = {_toml(value)}\n" for key, value in lines.items()))
        self._command = ["-c", RUN] if quick else ["-m", "cxrlines"]
        self.process: subprocess.Popen[str] | None = None
        self.printed: list[str] = []

    def command(self, *flags: str) -> list[str]:
        return [sys.executable, *self._command, "listen", *flags]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(self.folder)])}

    def start(self) -> "NodeProcess":
        self.process = subprocess.Popen(
            self.command("--config", str(self.folder / "node.toml")),
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        first = threading.Event()

        def read(stream: Any) -> None:
            for line in stream:
                self.printed.append(line)
                if "listening" in line:
                    first.set()
            first.set()

        threading.Thread(target=read, args=(self.process.stderr,), daemon=True).start()
        assert first.wait(DEADLINE) and self.process.poll() is None, self.printed
        return self

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """By SIGTERM; it must end by itself."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                assert self.process.wait(DEADLINE) == 0, self.printed
            finally:
                self.kill()

    def status(self) -> dict[str, Any]:
        base = QueueDatabase(self.queue)
        try:
            return base.status()
        finally:
            base.close()

    def settled(self, films: int, seconds: float = DEADLINE) -> dict[str, Any]:
        """How it stands once so many films have come to an end."""
        ends = ("delivered", "dead", "skipped")
        until(lambda: sum(self.status()["films"][end] for end in ends) >= films, seconds)
        return self.status()

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.queue / "audit.jsonl").read_text().splitlines()]

    def store(self, *paths: Path, aec: str | None = None) -> subprocess.CompletedProcess[str]:
        """By dcmtk."""
        peer = ["-aet", "MODALITY", "-aec", aec or self.aet, "127.0.0.1", str(self.port)]
        return subprocess.run(["storescu", *peer, *map(str, paths)], capture_output=True, text=True, timeout=120)

    def workers(self) -> list[int]:
        """Its reading processes."""
        assert self.process is not None
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and b"quick_reader" in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
            except OSError:  # it has ended
                continue
        return found
