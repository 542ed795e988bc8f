"""The server as it runs beside a PACS: real readers, bad films, bad callers, its end."""

import io
import json
import signal
import socket
import threading
import time
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import jsonschema
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, generate_uid

from cxrlines.core.findings import json_schema
from cxrlines.reading.reader import load_reader

from .serving import DEADLINE_S, EXAMPLE, NO_TLS, read, serving

pytestmark = pytest.mark.doors
CODES = {"large": 422, "frames": 422, "pdf": 422, "zip": 422, "text": 422, "cut": 422, "lateral": 200}


@pytest.fixture(scope="module")
def film() -> bytes:
    """A chest film in DICOM (`pydicom-data`)."""
    path = get_testdata_file("RG1_UNCR.dcm")
    assert path is not None, "pip install pydicom-data"
    return Path(str(path)).read_bytes()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    config = tmp_path_factory.mktemp("serve") / "serve.toml"
    config.write_text("body_s = 2\n")
    with serving("--config", config) as server:
        yield server.wait()


def bad_films(film: bytes) -> dict[str, bytes]:
    made = {"text": b"a letter about a patient", "cut": film[: len(film) // 3]}
    large = io.BytesIO()
    Image.fromarray(np.zeros((12_000, 12_000), np.uint8)).save(large, "PNG", compress_level=1)
    made["large"] = large.getvalue()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("film.dcm", film)
    made["zip"] = archive.getvalue()

    def saved(dataset: pydicom.Dataset) -> bytes:
        out = io.BytesIO()
        dataset.save_as(out)
        return out.getvalue()

    frames = pydicom.dcmread(io.BytesIO(film))
    frames.NumberOfFrames = 2
    frames.PixelData = 2 * frames.PixelData
    made["frames"] = saved(frames)
    lateral = pydicom.dcmread(io.BytesIO(film))
    lateral.ViewPosition = "LL"
    made["lateral"] = saved(lateral)
    pdf = pydicom.dcmread(io.BytesIO(film), stop_before_pixels=True)
    pdf.SOPClassUID = pdf.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    pdf.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pdf.SOPInstanceUID = pdf.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    for name in ("Rows", "Columns", "BitsAllocated"):
        delattr(pdf, name)
    pdf.MIMETypeOfEncapsulatedDocument, pdf.EncapsulatedDocument = "application/pdf", b"%PDF-1.4 \n"
    made["pdf"] = saved(pdf)
    return made


def test_a_film_is_answered_as_the_library_reads_it(address, film):
    answer = read(address, film)
    assert answer.status_code == 200, answer.text
    jsonschema.validate([answer.json()], json_schema())
    wanted = json.loads(json.dumps(load_reader().read(film).as_dict()))
    for field in ("labels", "lines", "landmarks", "distances", "quality", "notes"):
        assert answer.json()[field] == wanted[field], field


def test_a_report_and_a_drawing_by_accept(address, film):
    report = read(address, film, Accept="application/dicom")
    assert report.headers["content-type"] == "application/dicom"
    assert pydicom.dcmread(io.BytesIO(report.content)).Modality == "SR"
    assert report.content == read(address, film, Accept="application/dicom").content
    drawing = read(address, EXAMPLE, "image/jpeg", Accept="image/png")
    assert Image.open(io.BytesIO(drawing.content)).format == "PNG"


def test_every_bad_film_gets_a_clear_answer_and_costs_the_next_nothing(address, film):
    patient = str(pydicom.dcmread(io.BytesIO(film), stop_before_pixels=True).PatientName)
    for kind, source in bad_films(film).items():
        answer = read(address, source, "application/octet-stream")
        assert answer.status_code == CODES[kind], f"{kind}: {answer.text}"
        assert patient not in answer.text
        if answer.status_code == 200:
            assert answer.json()["quality"]["usable"] is False and answer.json()["notes"]
        else:
            problem = answer.json()
            assert problem["code"] in ("film-unreadable", "not-a-film") and problem["detail"] and problem["way_out"]
    assert read(address, EXAMPLE, "image/jpeg").status_code == 200


def test_a_slow_client_and_one_that_speaks_no_http_are_sent_away(address):
    place = urlsplit(address)
    head = f"POST /v1/read HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\nab"
    for sent, wanted in ((head.encode(), b" 408 "), (b"\x16\x03\x01 this is no HTTP\r\n\r\n", b" 400 ")):
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=DEADLINE_S) as connection:
            connection.sendall(sent)
            assert wanted in connection.recv(4096).split(b"\r\n")[0]
    assert httpx.get(f"{address}/healthz").json() == {"status": "ready"}


def test_a_connection_that_asks_for_nothing_is_ended(address):
    """One that is silent, one that never ends its headers, and one that begins so after an answer."""
    place = urlsplit(address)
    ask = f"GET /healthz HTTP/1.1\r\nHost: {place.netloc}\r\n"
    for sent in ("", ask, f"{ask}\r\n{ask}"):
        with socket.create_connection((place.hostname or "", place.port or 0), timeout=DEADLINE_S) as connection:
            connection.sendall(sent.encode())
            got = b"".join(iter(lambda: connection.recv(4096), b""))
        assert got.count(b"HTTP/1.1 200") == sent.count("\r\n\r\n")
    assert httpx.get(f"{address}/healthz").json() == {"status": "ready"}


def test_sigterm_finishes_what_is_under_way_then_ends_it(film):
    with serving() as server:
        address = server.wait()
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(read(address, film))) for _ in range(4)]
        for thread in threads:
            thread.start()
        wanted = "cxrlines_requests_under_way 4.0"
        end = time.monotonic() + DEADLINE_S
        while wanted not in httpx.get(f"{address}/metrics", timeout=DEADLINE_S, verify=NO_TLS).text:
            assert time.monotonic() < end and not answers, "the films were read before all were under way"
        server.process.send_signal(signal.SIGTERM)
        while (health := httpx.get(f"{address}/healthz", timeout=DEADLINE_S, verify=NO_TLS)).status_code == 200:
            assert time.monotonic() < end
        assert health.json() == {"status": "draining"}
        for thread in threads:
            thread.join(DEADLINE_S)
        assert [answer.status_code for answer in answers] == 4 * [200]
        assert server.ended() == 0, server.log
        assert str(pydicom.dcmread(io.BytesIO(film)).PatientName) not in server.log


def test_a_token_file_that_changes_and_one_that_expires(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("the-first-token-of-letters 2999-01-01T00:00:00+00:00\n")
    with serving("--token-file", file) as server:
        address = server.wait()

        def asked(token: str) -> str:
            answer = httpx.get(f"{address}/v1/about", headers={"Authorization": f"Bearer {token}"})
            return "ok" if answer.status_code == 200 else answer.json()["code"]

        assert asked("the-first-token-of-letters") == "ok" and asked("another-token-of-letters") == "token-wrong"
        file.write_text("the-first-token-of-letters 2001-01-01T00:00:00+00:00\n")
        assert asked("the-first-token-of-letters") == "token-expired"
        assert httpx.get(address).status_code == 200  # the page, which asks for the token


def test_what_cannot_be_served_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("not a project")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for words, wanted in (
            (("--host", "0.0.0.0"), "no token"),
            (("--project", tmp_path / "file/project"), "project"),
            (("--project", tmp_path / "other"), "not a project"),
            (("--port", taken.getsockname()[1]), "in use"),
            (("--tls-certificate", tmp_path / "file", "--tls-key", tmp_path / "file"), "PEM"),
        ):
            with serving(*words) as server:
                assert server.ended() == 2 and wanted in server.log, server.log
