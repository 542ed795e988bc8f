"""A node between a modality (dcmtk) and a PACS (Orthanc): films in, results out, through faults of all of them."""

import io
import os
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress

import cv2
import pydicom
import pytest

from .node_process import DEADLINE, ROOT, dicom_film, until

pytestmark = pytest.mark.doors
EXAMPLE = ROOT / "src/cxrlines/embedded/example.jpg"


def to(orthanc) -> str:
    return f"{orthanc.aet}@127.0.0.1:{orthanc.port}"


def results(orthanc) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(io.BytesIO(orthanc.file(uid))) for uid in orthanc.instances() if uid.startswith("2.25.")]


def test_a_film_comes_back_read_once(node, orthanc, films):
    """Sent ten times, then corrected; beside a lateral, a result of our own and a CT. By C-STORE and by STOW-RS."""
    pixels = cv2.imread(str(EXAMPLE), cv2.IMREAD_GRAYSCALE)
    film, corrected = dicom_film(1, pixels), dicom_film(1, pixels, note="corrected")
    running = node([to(orthanc)], stow=[f"{orthanc.url}/dicom-web"], quick=False).start()
    assert subprocess.run(["echoscu", "-aec", running.aet, "127.0.0.1", str(running.port)], timeout=60).returncode == 0
    others = [
        dicom_film(2, ViewPosition="LL"),
        dicom_film(3, Manufacturer="cxrlines"),
        dicom_film(4, SOPClassUID="1.2.840.10008.5.1.4.1.1.2"),
    ]
    (path, *rest) = films(film, *others)
    for _ in range(10):
        assert running.store(path).returncode == 0
    assert running.store(*rest).returncode == 0
    running.settled(3)
    found = results(orthanc)
    assert sorted(one.Modality for one in found) == ["OT", "PR", "SR"]
    assert {one.StudyInstanceUID for one in found} == {"1.2.826.0.1.3680043.10.1.1.1"}
    assert {str(one.PatientName) for one in found} == {"Planted^Name1"}
    status = running.status()
    assert status["skipped"] == {"lateral film, by its header": 1, "result of cxrlines": 1}
    assert status["not_films"] == {"CT Image Storage": 1} and status["sent_again"] == 9
    assert status["results"] == {"delivered": 6}
    # What it sent, sent back to it, is no film.
    back = films(*(orthanc.file(uid) for uid in orthanc.instances()))
    assert running.store(*back, aec=running.aet).returncode in (0, 1)  # dcmtk does not know every class

    assert running.store(*films(corrected)).returncode == 0
    running.settled(4)
    new = [one for one in results(orthanc) if one.SOPInstanceUID not in {old.SOPInstanceUID for old in found}]
    assert sorted(one.Modality for one in new) == ["OT", "PR", "SR"]
    for one in new:
        (old,) = [old for old in found if old.Modality == one.Modality]
        assert old.SOPInstanceUID in str(one)
    assert [line["event"] for line in running.audit()].count("read") == 2
    assert not list(running.queue.glob("*/*.dcm"))
    running.stop()
    logged = (running.queue / "audit.jsonl").read_text() + "".join(running.printed)
    assert "lanted" not in logged and "PLANTED" not in logged


def test_films_that_cannot_be_read_get_a_report_that_says_so(node, pacs, films):
    """Of 12,000 x 12,000 px, of two frames; a PDF is no film. The film after them gets its results."""
    pacs.start()
    running = node([f"PACS@127.0.0.1:{pacs.port}"], quick=False).start()
    bad = [
        dicom_film(1, Rows=12_000, Columns=12_000),
        dicom_film(2, NumberOfFrames=2, PixelData=bytes(2 * 40 * 30)),
        dicom_film(3, SOPClassUID="1.2.840.10008.5.1.4.1.1.104.1"),
    ]
    good = dicom_film(4, cv2.imread(str(EXAMPLE), cv2.IMREAD_GRAYSCALE))
    assert running.store(*films(*bad, good)).returncode == 0
    status = running.settled(3)
    assert status["films"]["delivered"] == 3 and status["not_films"] == {"Encapsulated PDF Storage": 1}
    found: dict[str, list[bytes]] = {}  # results by the number of their study
    for _, content in pacs.taken:
        head = pydicom.dcmread(io.BytesIO(content), force=True, specific_tags=["StudyInstanceUID"])
        found.setdefault(head.StudyInstanceUID.split(".")[-2], []).append(content)
    assert {number: len(results) for number, results in found.items()} == {"1": 1, "2": 1, "4": 3}
    for number, words in (("1", b"12000 x 12000 px"), ("2", b"NumberOfFrames is 2")):
        assert b"Film not read" in found[number][0] and words in found[number][0]


def test_a_pacs_that_is_down_gets_everything_once_it_is_up(node, orthanc, films):
    running = node([to(orthanc)]).start()
    orthanc.stop()
    assert running.store(*films(*map(dicom_film, range(3)))).returncode == 0
    until(lambda: running.status()["unreachable"])
    assert "does not answer" in running.status()["unreachable"][0]["problem"]
    assert running.status()["films"]["delivered"] == 0
    orthanc.start()
    running.settled(3)
    until(lambda: running.status()["unreachable"] == [])
    assert len(results(orthanc)) == 9


def test_films_that_a_node_missed_while_it_was_down_are_sent_again(node, orthanc, films):
    """By deploy/route.lua: once it takes another film, and 60 s (here one) after that came; across a restart too."""
    running = node([to(orthanc)])
    orthanc.stop()
    nodes = {"cxrlines": [running.aet, "127.0.0.1", running.port]}
    orthanc.set(DicomModalities=nodes, LuaScripts=[str(ROOT / "deploy/route.lua")], JobsHistorySize=1000)
    orthanc.start()

    def store(number: int) -> None:
        peer = ["-aec", orthanc.aet, "127.0.0.1", str(orthanc.port)]
        subprocess.run(["storescu", *peer, *map(str, films(dicom_film(number)))], check=True, timeout=60)

    for number in range(3):
        store(number)
    until(lambda: [job["State"] for job in orthanc.get("/jobs?expand")] == ["Failure"] * 3)  # which can be seen
    time.sleep(3)  # nor do they go on by themselves for ever
    orthanc.stop()
    orthanc.start()
    running.start()
    store(3)
    assert running.settled(4)["films"]["delivered"] == 4
    running.stop()
    store(4)
    until(lambda: "Failure" in [job["State"] for job in orthanc.get("/jobs?expand")])
    running.start()
    store(5)
    assert running.settled(6)["films"]["delivered"] == 6
    assert len(results(orthanc)) == 18


def test_nodes_that_may_not(node, orthanc, films):
    """Another calling or called AE title, another network: refused; the same port or folder: said."""
    running = node([to(orthanc)], calling=["MODALITY"]).start()
    (film,) = films(dicom_film(1))
    assert running.store(film, aec="OTHER").returncode != 0
    echo = ["echoscu", "-aet", "STRANGER", "-aec", running.aet, "127.0.0.1", str(running.port)]
    assert subprocess.run(echo, capture_output=True, timeout=60).returncode != 0
    assert running.store(film).returncode == 0
    rejected = [line["peer"] for line in running.audit() if line["event"] == "rejected"]
    assert rejected == ["MODALITY@127.0.0.1", "STRANGER@127.0.0.1"]
    config = running.folder / "node.toml"
    for flags, words in (
        (["--config", str(config)], "another node works on it"),
        (["--config", str(config), "--queue", str(running.folder / "other")], f"--port {running.port}"),
    ):
        done = subprocess.run(
            running.command(*flags), env=running.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 2 and words in done.stderr, done.stderr
    elsewhere = node([to(orthanc)], addresses=["10.0.0.0/8"]).start()
    assert elsewhere.store(film).returncode != 0 and elsewhere.status()["films"]["received"] == 0


def test_garbage_and_cut_associations_cost_nothing(node, orthanc, films):
    running = node([to(orthanc)], film_mib=1).start()
    rng = random.Random(0)
    (large, small) = films(dicom_film(1, cv2.resize(cv2.imread(str(EXAMPLE), 0), (1400, 1000))), dicom_film(2))
    heads = (b"", bytes.fromhex("0100000000cd0001"), b"\x04\0\xff\xff\xff\xff", b"\x01\0\x7f\xff\xff\xff", b"GET /")
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", running.port), timeout=DEADLINE) as line:
            line.sendall(rng.choice(heads) + rng.randbytes(rng.randrange(400)))
    cut = subprocess.Popen(["storescu", "-aec", running.aet, "127.0.0.1", str(running.port), *[str(large)] * 40])
    time.sleep(0.2)
    cut.kill()
    cut.wait()
    assert running.store(large).returncode != 0
    assert running.store(small).returncode == 0
    running.settled(1)
    assert running.status()["films"]["delivered"] == 1
    assert any("larger than 1 MiB" in line.get("why", "") for line in running.audit())


def test_kills_at_random_moments_lose_nothing(node, orthanc, films):
    """kill -9 of the node and of its workers; the modality sends again what was not acknowledged."""
    rng = random.Random(0)
    running = node([to(orthanc)]).start()
    paths = films(*map(dicom_film, range(10)))
    left = list(paths)

    def send() -> None:
        end = time.monotonic() + 2 * DEADLINE
        while left and time.monotonic() < end:
            if running.store(left[0]).returncode == 0:
                left.pop(0)
            else:
                time.sleep(0.1)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for kill in range(5):
        time.sleep(rng.uniform(0.05, 0.8))
        if kill % 2:
            for pid in until(running.workers):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        else:
            running.kill()
            running.start()
    sender.join()
    assert not left
    running.settled(10, 2 * DEADLINE)
    assert running.status()["films"]["delivered"] == 10 and running.status()["results"] == {"delivered": 30}
    found = results(orthanc)
    assert len(found) == 30
    assert {one.StudyInstanceUID for one in found} == {f"1.2.826.0.1.3680043.10.1.{n}.1" for n in range(10)}
    running.stop()
    assert not list(running.queue.glob("*/*.dcm"))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_films_at_eight_associations(node, orthanc, films):
    running = node([to(orthanc)], associations=8, processes=2).start()
    paths = films(*map(dicom_film, range(1000)))
    begun = time.monotonic()
    senders = [
        subprocess.Popen(
            ["storescu", "-aec", running.aet, "127.0.0.1", str(running.port), *map(str, paths[k::8])],
            stderr=subprocess.PIPE,
        )
        for k in range(8)
    ]
    assert [sender.communicate(timeout=600) and sender.returncode for sender in senders] == [0] * 8
    taken = time.monotonic() - begun
    running.settled(1000, 1800)
    print(f"1,000 films taken in {taken:.1f} s, delivered in {time.monotonic() - begun:.1f} s")
    assert running.status()["films"]["delivered"] == 1000 and running.status()["results"] == {"delivered": 3000}
    studies = {
        study["MainDicomTags"]["StudyInstanceUID"]: len(study["Series"]) for study in orthanc.get("/studies?expand")
    }
    assert studies == {f"1.2.826.0.1.3680043.10.1.{n}.1": 3 for n in range(1000)}
    running.stop()
