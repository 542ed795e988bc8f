"""A node whose destination refuses, defers, or speaks TLS; and what it takes in, seen from within."""

import io
import socket
import ssl
import subprocess
import threading
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context

from cxrlines.pacs import receiver
from cxrlines.pacs.audit_log import AuditLog
from cxrlines.pacs.delivery import CUT, StowService, Unreachable, Verdict
from cxrlines.pacs.film_queue import FilmQueue
from cxrlines.pacs.node_settings import load_settings
from cxrlines.pacs.receiver import Receiver

from .conftest import free_port
from .node_process import DX, dicom_film, until

pytestmark = pytest.mark.doors
CT = "1.2.840.10008.5.1.4.1.1.2"
SR_3D = "1.2.840.10008.5.1.4.1.1.88.34"


def test_a_refusal_is_a_dead_letter_until_it_is_retried(node, pacs, films):
    pacs.start()
    pacs.statuses[SR_3D] = 0xA900
    running = node([f"PACS@127.0.0.1:{pacs.port}"]).start()
    assert running.store(*films(dicom_film(1))).returncode == 0
    status = running.settled(1)
    assert status["films"]["dead"] == 1 and status["results"] == {"dead": 1, "delivered": 2}
    assert [letter["reason"] for letter in status["dead_letters"]] == ["status 0xA900"]
    assert pacs.asked == 3  # and not once more
    pacs.statuses.clear()
    retry = running.command("--retry", "--queue", str(running.queue), "--json")
    done = subprocess.run(retry, env=running.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "1 film taken up" in done.stderr
    until(lambda: running.status()["films"]["delivered"] == 1)
    assert len(pacs.taken) == 3


def test_a_pacs_that_takes_no_reports(node, pacs, films):
    """What it refused is discarded while the node runs; a node that makes no reports has nothing refused."""
    pacs.start()
    pacs.statuses[SR_3D] = 0x0122
    running = node([f"PACS@127.0.0.1:{pacs.port}"]).start()
    paths = films(dicom_film(1))
    assert running.store(*paths).returncode == 0
    assert running.settled(1)["results"] == {"dead": 1, "delivered": 2}
    discard = running.command("--discard", "--queue", str(running.queue))
    done = subprocess.run(discard, env=running.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "1 result not delivered" in done.stderr
    status = running.status()
    assert status["films"]["delivered"] == 1 and status["results"] == {"delivered": 2, "dropped": 1}
    assert not status["dead_letters"] and not list(running.queue.glob("*/*.dcm"))
    without = node([f"PACS@127.0.0.1:{pacs.port}"], results=["pr", "sc"]).start()
    assert without.store(*paths).returncode == 0
    assert without.settled(1)["results"] == {"delivered": 2}


def test_what_is_deferred_is_tried_again(node, pacs, films):
    pacs.start()
    pacs.statuses[SR_3D] = 0xA700
    running = node([f"PACS@127.0.0.1:{pacs.port}"]).start()
    assert running.store(*films(dicom_film(1))).returncode == 0
    until(lambda: running.status()["unreachable"])
    assert "0xA700" in running.status()["unreachable"][0]["problem"] and len(pacs.taken) == 2
    pacs.statuses.clear()
    assert running.settled(1)["films"]["delivered"] == 1
    assert len({uid for uid, _ in pacs.taken}) == len(pacs.taken) == 3


def test_a_connection_that_ends_over_a_result_defers_that_one(node, pacs, films):
    pacs.start()
    pacs.statuses[SR_3D] = None
    running = node([f"PACS@127.0.0.1:{pacs.port}"]).start()
    assert running.store(*films(dicom_film(1), dicom_film(2))).returncode == 0
    until(lambda: len(pacs.taken) == 4)  # states and captures of both
    assert CUT in running.status()["unreachable"][0]["problem"]
    pacs.statuses.clear()
    assert running.settled(2)["films"]["delivered"] == 2
    assert len({uid for uid, _ in pacs.taken}) == len(pacs.taken) == 6


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfull"])
def test_a_service_that_ends_the_connection_over_a_result(answer, films):
    """It defers that one; one that is not there is no matter of the result."""
    (result,) = films(dicom_film(1))
    with socket.create_server(("127.0.0.1", 0)) as service:
        address = f"http://127.0.0.1:{service.getsockname()[1]}/dicom-web"

        def once() -> None:
            connection, _ = service.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

        thread = threading.Thread(target=once, daemon=True)
        thread.start()
        assert [*StowService(address).send([result, result])] == [(Verdict.DEFERRED, CUT)]
        thread.join(60)
    with pytest.raises(Unreachable):
        next(StowService(address).send([result]))


def test_tls_on_both_sides(node, pacs, tmp_path):
    """A node without a certificate of its own, and one that never speaks, are kept out and keep nobody out."""
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    for name in ("node", "other"):
        command = [*make.split(), "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    own = {"cert": str(tmp_path / "node.pem"), "key": str(tmp_path / "node.key"), "ca": str(tmp_path / "node.pem")}
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=own["ca"])
    context.load_cert_chain(own["cert"], own["key"])
    context.verify_mode = ssl.CERT_REQUIRED
    pacs.start(context)
    running = node([f"PACS@127.0.0.1:{pacs.port}"], tls=own, tls_to=own).start()
    with socket.create_connection(("127.0.0.1", running.port)):

        def send(name: str, number: int) -> bool:
            client = ssl.create_default_context(cafile=own["ca"])
            client.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            peer = AE("MODALITY")
            to = peer.associate(
                "127.0.0.1", running.port, [build_context(DX)], running.aet, tls_args=(client, "127.0.0.1")
            )
            if not to.is_established:
                return False
            status = to.send_c_store(pydicom.dcmread(io.BytesIO(dicom_film(number))))
            to.release()
            return status.get("Status") == 0

        assert send("node", 1)
        assert not send("other", 2)
    assert running.store(running.folder / "node.toml").returncode != 0  # without TLS
    assert running.settled(1)["results"] == {"delivered": 3} and len(pacs.taken) == 3


class TestReceiver:
    @pytest.fixture
    def taking(self, tmp_path):
        """A receiver in this process, and an association with it."""
        flags = {"aet": "CXRLINES", "port": free_port(), "queue": tmp_path, "to": ("PACS@127.0.0.1:104",)}
        settings = load_settings(None, flags | {"free_mib": 0, "film_mib": 1})
        queue, audit, arrived = FilmQueue(tmp_path), AuditLog(tmp_path), []
        made = Receiver(settings, queue, audit, lambda: arrived.append(1))
        peer = AE("MODALITY")
        peer.requested_contexts = [build_context(kind, ExplicitVRLittleEndian) for kind in (DX, CT)]
        to = peer.associate("127.0.0.1", made.port, ae_title="CXRLINES")
        assert to.is_established

        def send(film: bytes) -> int:
            return int(to.send_c_store(pydicom.dcmread(io.BytesIO(film))).Status)

        yield SimpleNamespace(send=send, queue=queue, arrived=arrived)
        to.release()
        made.close()
        audit.close()
        queue.close()

    def test_the_bytes_that_were_sent_are_kept(self, taking):
        film = dicom_film(1)
        assert taking.send(film) == 0 and taking.arrived == [1]
        (kept,) = taking.queue.take(9)
        sent, stored = pydicom.dcmread(io.BytesIO(film)), pydicom.dcmread(kept.path)
        assert stored == sent and stored.file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID

    def test_a_full_disk_is_said_and_passes(self, taking, monkeypatch):
        full = SimpleNamespace(free=-1)
        monkeypatch.setattr(receiver.shutil, "disk_usage", lambda path: full)
        assert taking.send(dicom_film(1)) == 0xA700 and not taking.queue.take(9)
        monkeypatch.undo()
        assert taking.send(dicom_film(1)) == 0 and len(taking.queue.take(9)) == 1

    def test_a_write_that_fails_is_out_of_resources(self, taking, monkeypatch):
        def full(*_, **__):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(taking.queue, "add", full)
        assert taking.send(dicom_film(1)) == 0xA700
        monkeypatch.undo()
        assert taking.send(dicom_film(1)) == 0

    def test_what_is_too_large_or_badly_named_is_refused(self, taking):
        assert taking.send(dicom_film(1, np.zeros((1200, 1000), np.uint8))) == 0xA700
        assert taking.send(dicom_film(2, SOPInstanceUID="../../etc/passwd")) == 0x0117
        assert taking.send(dicom_film(3)) == 0
        assert [film.sop_uid for film in taking.queue.take(9)] == ["1.2.826.0.1.3680043.10.1.3.3"]

    def test_other_classes_are_counted(self, taking):
        for number in range(3):
            assert taking.send(dicom_film(number, SOPClassUID=CT)) == 0
        assert taking.queue.status()["not_films"] == {"CT Image Storage": 3} and not taking.queue.take(9)
