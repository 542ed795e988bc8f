"""kill -9 of a node and its workers at random moments, while films arrive and results go out."""

import os
import random
import signal
import threading
import time
from contextlib import suppress

import pytest

from .dimse_attacks import Line, data_set, store
from .node_process import DEADLINE, DX, dicom_film, until

pytestmark = pytest.mark.doors


def sent(port: int, film: bytes) -> bool:
    """Whether the node has acknowledged a film."""
    try:
        line = Line(port)
    except OSError:
        return False
    try:
        line.associate("CXRLINES")
        line.send(*store(3, DX, *data_set(film)))
        return line.heard().status == 0
    except (OSError, AssertionError):
        return False
    finally:
        line.close()


def kills(node, pacs, count: int) -> None:
    """`count` kills of the node, half as many of a worker; two films before each, sent again until acknowledged."""
    rng = random.Random(int(os.environ.get("CXRLINES_SEED", "0")))
    pacs.start()
    running = node([f"PACS@127.0.0.1:{pacs.port}"]).start()
    due, ended, acknowledged = threading.Semaphore(0), threading.Event(), []

    def send() -> None:
        for number in range(2 * count):
            due.acquire()
            film = dicom_film(number)
            while not ended.is_set() and not sent(running.port, film):
                time.sleep(0.05)
            acknowledged.append(number)

    def done() -> int:
        """Lines of the audit log: a film is received, read, its three results taken."""
        return (running.queue / "audit.jsonl").read_bytes().count(b"\n")

    def work(steps: int) -> None:
        """Until the node has got on by so much, or is done, and a moment: a busy machine takes long for it."""
        goal, due_now = done() + steps, 2 * (number + 1)

        def idle() -> bool:
            return len(acknowledged) == due_now == running.status()["films"]["delivered"]

        until(lambda: done() >= goal or idle(), 20 * DEADLINE)
        time.sleep(rng.uniform(0, 0.1))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        for number in range(count):
            due.release(2)
            if number % 2:
                work(rng.randrange(5))
                for pid in running.workers():
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            work(rng.randrange(5 if number % 2 else 10))
            running.kill()
            running.start()
        sender.join(20 * DEADLINE)
        assert len(acknowledged) == 2 * count
    finally:
        ended.set()
    status = running.settled(2 * count, 20 * DEADLINE)
    # Nothing lost: three results of every film; nothing twice: one result a UID, the same bytes however often it came.
    assert status["films"]["delivered"] == 2 * count == sum(status["films"].values())
    assert status["results"] == {"delivered": 6 * count} and not status["dead_letters"]
    assert len(set(pacs.taken)) == len({uid for uid, _ in pacs.taken}) == 6 * count
    running.stop()
    assert not list(running.queue.glob("*/*.dcm"))
    print(f"{count} kills; {len(pacs.taken)} results sent, {6 * count} of them for the first time")


@pytest.mark.timeout(1200)
def test_3_kills(node, pacs):
    kills(node, pacs, 3)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_many_kills(node, pacs):
    kills(node, pacs, int(os.environ.get("CXRLINES_KILLS", "100")))
