"""Identifiers planted in films, requests and answers show in no log, metric, audit, status, error or problem."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pydicom
import pytest

from .conftest import free_port
from .dimse_attacks import CT, Line, data_set, store
from .node_process import DX
from .planted import films, planted_film, planted_in
from .serving import DEADLINE_S, serving

pytestmark = [pytest.mark.doors, pytest.mark.filterwarnings("ignore::UserWarning")]  # of this test's own pydicom
PLANTED = "PLANTQ-IN-A-REQUEST"
CAPTURE, PRESENTATION = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.11.1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The films as files. Their own names are the caller's words, and messages name them."""
    folder = tmp_path_factory.mktemp("films")
    for name, film in films():
        (folder / f"{name}{'.jpg' if 'jpeg' in name else '.dcm'}").write_bytes(film)
    return folder


def command(*words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = [sys.executable, "-m", "cxrlines", *map(str, words)]
    return subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300)


def test_predict(folder, tmp_path):
    """Its table and results are the caller's own; what it says of films that it does not read is for everybody."""
    table = tmp_path / "out.csv"
    done = command("predict", folder, "--out", table, "--json", "--dicom", tmp_path / "dicom", "--draw", tmp_path / "d")
    assert done.returncode == 2 and len(done.stderr.splitlines()) > 8, done.stderr
    errors = next(tmp_path.glob("*errors.csv")).read_text()
    assert len(errors.splitlines()) > 8
    assert planted_in(done.stderr + done.stdout + errors) == []


def test_module(folder, tmp_path):
    done = command("module", folder, tmp_path / "out")
    assert done.returncode == 2 and len(done.stderr.splitlines()) > 8, done.stderr
    kept = (tmp_path / "out" / "result.json").read_text()
    assert len(json.loads(kept)["errors"]) > 8
    assert planted_in(done.stderr + done.stdout + kept) == []
    assert "Plantqa" in str(pydicom.dcmread(tmp_path / "out" / "right#sr.dcm").PatientName)


@pytest.fixture
def rude_service() -> Iterator[str]:
    """A DICOMweb service that refuses everything in words of its own; its URL."""

    class Rude(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(409, "Plantqa refused")
            self.send_header("Warning", "299 - Plantqa")
            self.end_headers()
            self.wfile.write(b"Plantqa is not welcome")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rude) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
        server.shutdown()


def test_listen(node, pacs, rude_service):
    """Films of every kind, a PACS that refuses some results and says why in words."""
    pacs.start()
    for kind, status in ((CAPTURE, 0xA900), (PRESENTATION, 0xC000)):
        said = pydicom.Dataset()
        said.Status, said.ErrorComment = status, "Plantqa is not welcome"
        pacs.statuses[kind] = said
    port = free_port()
    running = node([f"PACS@127.0.0.1:{pacs.port}"], stow=[rude_service], quick=False, status_port=port).start()
    count = 0
    for name, film in films():
        if "jpeg" in name or name == "letter":
            continue
        line = Line(running.port)
        try:
            line.associate(running.aet)
            uid, content = data_set(planted_film() if name in ("cut", "headless", "syntax") else film)
            line.send(*store(3, DX, f"1.2.3.{count}", content[: -700 if name == "cut" else None]))
            assert line.heard().status == 0, name
            count += 1
            line.send(*store(5, CT, uid, content))
            assert line.heard().status == 0
            line.send(*store(3, DX, "PLANTQW", content))
            assert line.heard().status == 0x0117
        finally:
            line.close()
    status = running.settled(count, 300)
    assert status["films"]["dead"] > 5 and status["skipped"] and status["not_films"] and status["dead_letters"]
    shown = []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_S) as browser:
        answers = [browser.get(path) for path in ("/", "/?still", "/status.json", f"/{PLANTED}", f"/?{PLANTED}")]
        answers.append(browser.get("/", headers={"Host": PLANTED, "Referer": PLANTED, "Cookie": PLANTED}))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404, 200, 421]
    # The films are there, by their numbers.
    assert "Dead letters" in answers[0].text and answers[2].json()["dead_letters"]
    shown += [answer.text + str(answer.headers) for answer in answers]
    for flags in (["--status"], ["--status", "--json"], ["--retry"]):
        done = subprocess.run(
            running.command(*flags, "--queue", str(running.queue)),
            env=running.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        shown += [done.stdout, done.stderr]
    running.settled(count, 300)
    running.stop()
    audit = (running.queue / "audit.jsonl").read_text()
    assert audit.count('"refused"') >= count and audit.count('"dead"') > 5
    assert planted_in("\n".join([audit, *shown, *running.printed])) == []
    assert "Plantqa" in str(pydicom.dcmread(io_of(pacs.taken[0][1]), force=True).PatientName)


def io_of(data: bytes):
    return pydicom.filebase.DicomBytesIO(data)


def test_serve(folder, tmp_path):
    """Requests that carry identifiers in names, headers, paths, tokens, corrections and films."""
    problems, log = [], ""
    with serving("--project", tmp_path / "project") as server:
        address = server.wait()
        headers = {"User-Agent": PLANTED, "X-Patient": PLANTED, "Referer": f"{address}/{PLANTED}", "Cookie": PLANTED}
        headers |= {"Authorization": f"Bearer {PLANTED}", "X-Forwarded-For": PLANTED}

        def ask(method: str, path: str, **given: object) -> httpx.Response:
            more = given.pop("headers", {})
            answer = httpx.request(method, f"{address}{path}", headers={**headers, **more}, timeout=DEADLINE_S, **given)
            if answer.status_code >= 400:
                problems.append(answer.text + str(answer.headers))
            return answer

        film = {"Content-Type": "application/dicom"}
        kept = ask("POST", "/v1/films", content=planted_film(), headers=film)
        assert kept.status_code == 200
        place = f"/v1/films/{kept.json()['id']}"
        for path in sorted(folder.iterdir()):
            for wanted in ("application/json", "application/dicom", "image/png"):
                ask("POST", "/v1/read", content=path.read_bytes(), headers={**film, "Accept": wanted})
        many = ask(
            "POST", "/v1/read", files=[("film", (f"{PLANTED}.dcm", path.read_bytes())) for path in folder.iterdir()]
        )
        problems += [json.dumps({**one, "film": ""}) for one in many.json()["problems"]]  # what the sender calls it
        for wrong in (
            {"author": PLANTED, "comment": 11 * f"{PLANTED} " * 100},
            {"author": f"{PLANTED} " * 20},
            {"author": "A reader", "patient": PLANTED},
            {"author": "A reader", "comment": {"patient": PLANTED}},
            [PLANTED],
        ):
            assert ask("PUT", f"{place}/corrections", json=wrong).status_code == 422
        assert ask("PUT", f"{place}/corrections", json={"author": PLANTED, "comment": PLANTED}).status_code == 200
        assert ask("PUT", f"{place}/corrections", content=PLANTED.encode()).status_code == 400
        for method, path in (
            ("GET", f"/v1/films/{PLANTED}/pixels.png?patient={PLANTED}"),
            ("GET", f"/{PLANTED}"),
            ("PUT", f"/v1/read?name={PLANTED}"),
            ("DELETE", f"/static/{PLANTED}"),
            (PLANTED.replace("-", ""), "/v1/read"),
        ):
            ask(method, path)
        for name in ("Accept", "Host", "Origin"):
            ask("POST", "/v1/read", content=b"x", headers={**film, name: f"{PLANTED}/x"})
        # Names of fields and types go to the caller alone, who wrote them.
        ask("POST", "/v1/read", content=b"x", headers={"Content-Type": f"{PLANTED}/x"})
        ask("PUT", f"{place}/corrections", json={"author": "A reader", PLANTED: 1})
        del problems[-2:]
        broken = f"--{PLANTED}\r\nContent-Disposition: form-data; filename={PLANTED}\r\n\r\n{PLANTED}"
        kind = f"multipart/form-data; boundary={PLANTED}"
        ask("POST", "/v1/read", content=broken.encode(), headers={"Content-Type": kind})
        ask("GET", f"{place}/report.dcm"), ask("GET", f"{place}/drawing.png")
        for study in ("1.2.826.7", PLANTED):
            ask("GET", f"{place}/film.dcm", headers={"Patient-ID": PLANTED, "Study-Instance-UID": study})
        metrics = ask("GET", "/metrics").text
        log = server.log
    log = server.log
    assert len(problems) > 40 and log.count("POST") > 40 and "cxrlines_films_total" in metrics
    assert planted_in("\n".join([log, metrics, *problems])) == []
