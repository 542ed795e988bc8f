"""Peers that tests start on this computer: an Orthanc of their own."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pynetdicom import AE, AllStoragePresentationContexts, evt

from .node_process import NodeProcess

DEADLINE = 60.0
"""Seconds that a server may take to start or end, on a machine that is slow and busy."""
PLUGINS = Path("/usr/share/orthanc/plugins")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Orthanc:
    """A PACS on ports of its own, which keeps what it is sent in `folder` from one `start` to the next.

    Attributes:
        aet: Its AE title. port: For DICOM. url: For HTTP; DICOMweb is at `url`/dicom-web.
    """

    def __init__(self, program: str, folder: Path) -> None:
        self.aet, self.port, self.folder = "ORTHANC", free_port(), folder
        http = free_port()
        self.url = f"http://127.0.0.1:{http}"
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(
            json.dumps(
                {
                    "Name": "test",
                    "DicomAet": self.aet,
                    "DicomPort": self.port,
                    "DicomCheckCalledAet": False,
                    "DicomAlwaysAllowEcho": True,
                    "DicomAlwaysAllowStore": True,
                    "UnknownSopClassAccepted": True,
                    "HttpPort": http,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so")],
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                    "StableAge": 1,
                }
            )
        )

    def set(self, **settings: Any) -> None:
        """Settings beside those it has, from its next start on."""
        place = self.folder / "orthanc.json"
        place.write_text(json.dumps(json.loads(place.read_text()) | settings))

    def start(self) -> None:
        """Until it answers; `AssertionError` with what it printed if it does not."""
        log = (self.folder / "orthanc.log").open("ab")
        self._process = subprocess.Popen(
            [self._program, str(self.folder / "orthanc.json")],
            stdout=log,
            stderr=log,
            env={**os.environ, "LC_ALL": "C"},
        )
        log.close()
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                self.get("/system")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        self.stop()
        raise AssertionError((self.folder / "orthanc.log").read_text("utf-8", "replace")[-3000:])

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def request(self, path: str, data: bytes | None = None, method: str | None = None) -> bytes:
        asked = urllib.request.Request(f"{self.url}{path}", data, method=method)
        with urllib.request.urlopen(asked, timeout=DEADLINE) as answer:
            content: bytes = answer.read()
            return content

    def get(self, path: str) -> Any:
        """JSON."""
        return json.loads(self.request(path))

    def instances(self) -> dict[str, str]:
        """Orthanc's own identifier of each instance by its SOPInstanceUID."""
        every = self.get("/instances?expand&since=0&limit=100000")
        return {each["MainDicomTags"]["SOPInstanceUID"]: each["ID"] for each in every}

    def file(self, sop_instance_uid: str) -> bytes:
        """The DICOM file that it keeps of an instance."""
        return self.request(f"/instances/{self.instances()[sop_instance_uid]}/file")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    assert Path(program).exists(), "Orthanc is missing: apt-get install orthanc orthanc-dicomweb"
    pacs = Orthanc(program, tmp_path / "orthanc")
    try:
        pacs.start()
        yield pacs
    finally:
        pacs.stop()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Makes a `cxrlines listen`, arguments as of `NodeProcess`, that is ended with the test."""
    made: list[NodeProcess] = []

    def make(to: list[str], **settings: Any) -> NodeProcess:
        made.append(NodeProcess(tmp_path / f"node{len(made)}", free_port(), to, **settings))
        return made[-1]

    yield make
    for one in made:
        one.kill()


@pytest.fixture
def films(tmp_path: Path) -> Callable[..., list[Path]]:
    """Writes films to files."""

    def write(*contents: bytes) -> list[Path]:
        paths = [tmp_path / f"film{number}.dcm" for number in range(len(contents))]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        return paths

    return write


@pytest.fixture
def pacs():
    """A storage node in this process that answers as `statuses` say: by SOP class, else 0; `taken`: what it took.

    None for a status: it ends the association instead.
    """
    made = SimpleNamespace(statuses={}, taken=[], port=free_port(), asked=0)

    def store(event):
        made.asked += 1
        status = made.statuses.get(str(event.request.AffectedSOPClassUID), 0)
        if status is None:
            event.assoc.abort()
        if status == 0:
            made.taken.append((str(event.request.AffectedSOPInstanceUID), event.encoded_dataset(include_meta=False)))
        return status or 0

    ae = AE("PACS")
    ae.supported_contexts = AllStoragePresentationContexts

    def start(context=None):
        ae.start_server(
            ("127.0.0.1", made.port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)], ssl_context=context
        )

    made.start = start
    yield made
    ae.shutdown()
