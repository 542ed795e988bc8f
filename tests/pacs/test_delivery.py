"""What answers of destinations mean, and how long is waited."""

import http.server
import io
import logging
import random
import re
import socket
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import requests
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt

from cxrlines.core.errors import Error
from cxrlines.lab.intact_films import as_dicom
from cxrlines.pacs import delivery
from cxrlines.pacs.delivery import (
    CUT,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    NOT_NAMED,
    SLOWEST,
    Answer,
    StorageNode,
    StowService,
    Unreachable,
    Verdict,
    allowed_s,
    answer_to_http,
    answer_to_status,
    answer_to_stow,
    destinations_of,
    pause_s,
)
from cxrlines.pacs.node_settings import Peer

CR, DX = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"
UID = "1.2.826.0.1.3680043.10.1.3"


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.TAKEN),
        (0x0111, Verdict.TAKEN),
        (0xB000, Verdict.TAKEN),
        (0xB007, Verdict.TAKEN),
        (0xA700, Verdict.DEFERRED),
        (0x0110, Verdict.DEFERRED),
        (0xA900, Verdict.REFUSED),
        (0xA9FF, Verdict.REFUSED),
        (0xC000, Verdict.REFUSED),
        (0xCFFF, Verdict.REFUSED),
        (0x0122, Verdict.REFUSED),
        (0x0124, Verdict.REFUSED),
    ],
)
def test_statuses(status, verdict):
    answer = answer_to_status(status)
    assert answer.verdict is verdict
    assert bool(answer.reason) is bool(status)


def http_error(code: int, body: bytes = b"") -> requests.HTTPError:
    response = requests.Response()
    response.status_code, response._content = code, body
    return requests.HTTPError(response=response)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(400, Verdict.REFUSED), (415, Verdict.REFUSED), (409, Verdict.REFUSED), (413, Verdict.REFUSED)]
    + [(code, Verdict.DEFERRED) for code in (408, 425, 429, 500, 502, 503, 507)],
)
def test_http_errors(code, verdict):
    assert answer_to_http(http_error(code, b"<html>"), UID) == (verdict, f"HTTP {code}")


@pytest.mark.parametrize("code", [401, 403, 407])
def test_a_wrong_token_is_no_matter_of_the_result(code):
    with pytest.raises(Unreachable, match=str(code)):
        answer_to_http(http_error(code), UID)


@pytest.mark.parametrize("code", [404, 405, 410])
def test_a_wrong_address_is_no_matter_of_the_result(code):
    with pytest.raises(Unreachable, match=f"HTTP {code}: no STOW-RS service is at this address"):
        answer_to_http(http_error(code), UID)


def reply(reason: int | None, uid: str = UID) -> pydicom.Dataset:
    """A Store Instances Response: an instance is stored, or failed for a reason."""
    answer, item = pydicom.Dataset(), pydicom.Dataset()
    item.ReferencedSOPInstanceUID = uid
    if reason is None:
        answer.ReferencedSOPSequence = [item]
    else:
        item.FailureReason = reason
        answer.FailedSOPSequence = [item]
    return answer


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(None, Verdict.TAKEN), (0x0111, Verdict.TAKEN), (0xA700, Verdict.DEFERRED), (0xC122, Verdict.REFUSED)],
)
def test_what_a_service_says_of_an_instance(reason, verdict):
    assert answer_to_stow(reply(reason), UID).verdict is verdict
    if reason is not None:  # services say so with 409 as well
        assert answer_to_http(http_error(409, reply(reason).to_json().encode()), UID).verdict is verdict


def test_what_a_service_stores_with_a_warning_is_taken():
    warned = reply(None)
    warned.ReferencedSOPSequence[0].WarningReason = 0xB000
    assert answer_to_stow(warned, UID).verdict is Verdict.TAKEN


def test_only_an_instance_that_is_named_and_did_not_fail_is_taken():
    for silent in (pydicom.Dataset(), reply(None, f"{UID}.1")):
        assert answer_to_stow(silent, UID) == (Verdict.DEFERRED, NOT_NAMED)
        assert answer_to_http(http_error(409, silent.to_json().encode()), UID) == (Verdict.REFUSED, "HTTP 409")
    assert answer_to_stow(reply(0x0111, f"{UID}.1"), UID).verdict is Verdict.DEFERRED  # another is there already
    for reason in (0xA700, 0xB000, 0x0000):
        both = reply(reason)
        both.ReferencedSOPSequence = reply(None).ReferencedSOPSequence
        assert answer_to_stow(both, UID).verdict is Verdict.DEFERRED


@pytest.fixture
def service():
    """A DICOMweb service: answers each POST by `status`, `headers` and `body`, and a GET with a page; its `url`, and
    the `asked` (method, Authorization)."""
    made = SimpleNamespace(status=200, headers={}, body=b"", asked=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(made.status, made.headers, made.body)

        def do_GET(self) -> None:
            self.answer(200, {"Content-Type": "text/html"}, b"please log in")

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            made.asked.append((self.command, self.headers["Authorization"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
        yield made
        server.shutdown()


@pytest.fixture
def make_result(tmp_path):
    """Writes a DICOM file of a SOP class."""

    def make(sop_class: str = DX):
        path = tmp_path / f"{sop_class}.dcm"
        uids = {"SOPInstanceUID": UID, "SeriesInstanceUID": f"{UID}.2", "StudyInstanceUID": f"{UID}.1"}
        film = pydicom.dcmread(io.BytesIO(as_dicom(np.zeros((4, 3), np.uint8), 8, SOPClassUID=sop_class, **uids)))
        film.file_meta.MediaStorageSOPClassUID = sop_class
        film.save_as(path)
        return path

    return make


@pytest.fixture
def result(make_result):
    """A DICOM file."""
    return make_result()


class TestStorageNode:
    @pytest.fixture
    def peer(self):
        """A node that takes films of one class alone."""
        ae = AE("PACS")
        ae.add_supported_context(DX)
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: 0)])
        yield Peer(aet="PACS", host="127.0.0.1", port=server.server_address[1])
        server.shutdown()

    @pytest.fixture
    def listener(self):
        """Starts a node that answers as it is given, in some transfer syntaxes alone."""
        servers = []

        def start(store, syntaxes=None):
            ae = AE("PACS")
            ae.add_supported_context(DX, syntaxes or [ExplicitVRLittleEndian])
            servers.append(ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)]))
            return Peer(aet="PACS", host="127.0.0.1", port=servers[-1].server_address[1])

        yield start
        for server in servers:
            server.shutdown()

    def test_a_class_that_is_not_accepted_is_refused_alone_and_among_others(self, peer, make_result):
        taken, other = make_result(DX), make_result(CR)
        refusal = Answer(
            Verdict.REFUSED,
            "does not accept Computed Radiography Image Storage in Explicit VR Little Endian "
            "or Implicit VR Little Endian",
        )
        node = StorageNode(peer, "CXRLINES")
        assert [*node.send([other, taken])] == [refusal, Answer(Verdict.TAKEN)]
        assert [*node.send([other, other])] == [refusal, refusal]

    @pytest.mark.parametrize("taken", [[ImplicitVRLittleEndian], [ImplicitVRLittleEndian, ExplicitVRLittleEndian]])
    def test_one_of_implicit_vr_alone_gets_the_same_values_so_encoded(self, listener, make_result, taken):
        path = make_result()
        sent = pydicom.dcmread(path)
        name = "Müller^^Jörg=  .".encode("latin-1")  # which encoded anew would be another
        item = pydicom.Dataset()
        item.PatientName, item.ReferencedSOPInstanceUID = "x" * len(name), UID
        sent.PatientName, sent.ReferencedImageSequence, sent.SpecificCharacterSet = (
            item.PatientName,
            [item],
            "ISO_IR 100",
        )
        sent.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"x" * len(name), name))
        got = []

        def store(event):
            got.append((event.context.transfer_syntax, event.encoded_dataset(include_meta=False)))
            return 0

        peer = listener(store, taken)
        assert [*StorageNode(peer, "CXRLINES").send([path, path])] == [Answer(Verdict.TAKEN)] * 2
        assert {syntax for syntax, _ in got} == {taken[-1]}
        encoded = got[0][1]
        assert encoded.count(name) == 2 and b"ISO_IR 100" in encoded
        if len(taken) == 1:
            came = pydicom.dcmread(io.BytesIO(encoded), force=True)
            assert {one.tag: one.value for one in came} == {one.tag: one.value for one in pydicom.dcmread(path)}

    def test_a_result_has_time_by_its_size_and_what_went_wrong_is_said(self, listener, make_result, monkeypatch):
        slow, aborted = threading.Event(), threading.Event()

        def store(event):
            if aborted.is_set():
                event.assoc.abort()
            elif not slow.is_set():
                time.sleep(1)
            else:
                time.sleep(4)
            return 0

        path, peer = make_result(), listener(store)
        size = path.stat().st_size
        node = StorageNode(peer, "CXRLINES")  # with the usual time for its connection
        monkeypatch.setattr(delivery, "TIMEOUT_S", 0.5)
        with monkeypatch.context() as patched:
            patched.setattr(delivery, "SLOWEST", size / 2)  # 2.5 s
            assert [*node.send([path])] == [Answer(Verdict.TAKEN)]
            slow.set()
            words = f"no answer within 2 s, for {size} bytes"
            assert [*node.send([path])] == [Answer(Verdict.DEFERRED, words)]
            aborted.set()
            assert [*node.send([path])] == [Answer(Verdict.DEFERRED, CUT)]
        assert allowed_s(path) == pytest.approx(0.5 + size / SLOWEST)

    def test_what_is_being_sent_can_be_cut(self, listener, make_result):
        """So that a peer that says nothing does not keep a node from ending."""
        begun = threading.Event()

        def store(event):
            begun.set()
            time.sleep(5)
            return 0

        node = StorageNode(listener(store), "CXRLINES")
        threading.Thread(target=lambda: (begun.wait(), node.cut())).start()
        assert [*node.send([make_result()])] == [Answer(Verdict.DEFERRED, CUT)]

    def test_a_node_that_is_down_refuses_nothing(self, result):
        with socket.socket() as bound:  # and does not listen
            bound.bind(("127.0.0.1", 0))
            node = StorageNode(Peer(aet="PACS", host="127.0.0.1", port=bound.getsockname()[1]), "CXRLINES")
            with pytest.raises(Unreachable, match="does not answer"):
                next(node.send([result]))


XML = (
    '<NativeDicomModel><DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence"><Item number="1">'
    '<DicomAttribute tag="00081155" vr="UI" keyword="ReferencedSOPInstanceUID">'
    f'<Value number="1">{UID}</Value></DicomAttribute></Item></DicomAttribute></NativeDicomModel>'
)


class TestStowService:
    @pytest.mark.parametrize("kind", ["application/dicom+json", "Application/DICOM+JSON; charset=utf-8"])
    @pytest.mark.parametrize(("status", "reason"), [(200, None), (202, 0xA700), (202, 0xC122)])
    def test_a_response_is_read_whatever_the_case_and_parameters_of_its_type(
        self, service, result, kind, status, reason
    ):
        service.status, service.headers = status, {"Content-Type": kind}
        service.body = reply(reason).to_json().encode()
        (answer,) = StowService(service.url).send([result])
        assert answer == answer_to_stow(reply(reason), UID)

    def test_a_response_in_xml(self, service, result):
        service.headers, service.body = {"Content-Type": "application/dicom+xml; charset=utf-8"}, XML.encode()
        assert [*StowService(service.url).send([result])] == [Answer(Verdict.TAKEN)]

    @pytest.mark.parametrize(
        ("status", "kind", "body", "why"),
        [
            (200, "text/html", b"please log in", "HTTP 200 with a page"),
            (200, None, b"please log in", "HTTP 200 with a page"),
            (202, "text/html; charset=utf-8", b"application/json", "HTTP 202 with a page"),
            (200, "application/dicom+json", b"", "HTTP 200 without a body"),
            (204, None, b"", "HTTP 204 without a body"),
            (200, "application/dicom+json", b"<html>", "no answer that can be understood"),
        ],
    )
    def test_another_page_is_no_delivery(self, service, result, status, kind, body, why):
        service.status, service.headers, service.body = status, {"Content-Type": kind} if kind else {}, body
        with pytest.raises(Unreachable, match=why):
            next(StowService(service.url).send([result]))

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize(
        ("location", "where"),
        [
            ("/login?user=PLANTED", "{host}/login"),
            ("https://me:PLANTED@pacs:8443/login;id=PLANTED#PLANTED", "https://pacs:8443/login"),
            ("https://me:PLANTED@/x", "elsewhere"),
            (f"/dicom-web/studies/{UID}/PLANTED", "{host}/dicom-web/studies/"),
        ],
    )
    def test_no_redirect_is_followed(self, service, result, status, location, where):
        service.status, service.headers = status, {"Location": location}
        where = where.format(host=service.url.removesuffix("/dicom-web"))
        with pytest.raises(Unreachable, match=re.escape(f"HTTP {status}: it redirects to {where}, and")) as caught:
            next(StowService(service.url).send([result]))
        assert "PLANTED" not in str(caught.value) and UID not in str(caught.value)
        assert [method for method, _ in service.asked] == ["POST"]

    def test_an_answer_byte_by_byte_has_a_time_too(self, result, monkeypatch):
        monkeypatch.setattr(delivery, "TIMEOUT_S", 1.5)
        with socket.create_server(("127.0.0.1", 0)) as server:

            def trickle():
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n" + b"X" * 1000:
                        connection.sendall(bytes([byte]))
                        time.sleep(0.1)

            threading.Thread(target=trickle, daemon=True).start()
            to = StowService(f"http://127.0.0.1:{server.getsockname()[1]}/dicom-web")
            words = f"no answer within 3 s, for {result.stat().st_size} bytes"
            assert [*to.send([result])] == [Answer(Verdict.DEFERRED, words)]

    def test_errors_pass_as_they_are(self, service, result):
        service.status, service.headers, service.body = 503, {"Content-Type": "text/html"}, b"busy"
        assert [*StowService(service.url).send([result])] == [(Verdict.DEFERRED, "HTTP 503")]

    def test_a_renewed_token_is_used_with_the_next_batch(self, service, result, tmp_path, caplog):
        caplog.set_level(logging.DEBUG)
        service.headers, service.body = {"Content-Type": "application/dicom+json"}, reply(None).to_json().encode()
        token = tmp_path / "token.txt"
        token.write_text("PLANTED1\n")
        (to,) = destinations_of((), (service.url,), "CXRLINES", token, None)

        def sent_with() -> set[str]:
            service.asked.clear()
            assert [*to.send([result, result])] == [Answer(Verdict.TAKEN)] * 2
            return {authorization for _, authorization in service.asked}

        assert sent_with() == {"Bearer PLANTED1"}
        token.write_text("PLANTED2\n")
        assert sent_with() == {"Bearer PLANTED2"}
        for replace in (lambda: token.write_text(""), lambda: token.write_bytes(b"\xff"), token.unlink):
            replace()
            assert sent_with() == {"Bearer PLANTED2"}
        token.write_text("PLANTED3")
        assert sent_with() == {"Bearer PLANTED3"}
        assert "PLANTED" not in caplog.text

    @pytest.mark.parametrize(
        ("content", "why"),
        [(b" \n", "is empty"), (b"PLANTED 1\nPLANTED", "holds more"), (b"\xff", "UTF-8"), (None, "No such file")],
    )
    def test_a_file_without_a_token_is_an_error_at_the_start(self, tmp_path, content, why):
        token = tmp_path / "token.txt"
        if content is not None:
            token.write_bytes(content)
        with pytest.raises(Error, match=f"^stow_token {re.escape(str(token))}: .*{why}") as caught:
            destinations_of((), ("http://pacs",), "CXRLINES", token, None)
        assert "PLANTED" not in str(caught.value)
        assert len(destinations_of((), ("http://pacs",), "CXRLINES", None, None)) == 1


def test_pauses_grow_to_a_limit_with_jitter():
    rng = random.Random(0)
    for failures in (1, 2, 3, 8, 9, 100, 10_000):
        full = min(FIRST_PAUSE_S * 2.0 ** min(failures - 1, 60), LONGEST_PAUSE_S)
        pauses = [pause_s(failures, rng) for _ in range(100)]
        assert full / 2 <= min(pauses) < max(pauses) <= full
        assert len(set(pauses)) > 90
