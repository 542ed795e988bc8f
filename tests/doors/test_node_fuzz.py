"""A node that is sent what is wrong on purpose: it answers or ends the association, and loses nothing."""

import os
import random
from collections import Counter

import pytest

from .dimse_attacks import KINDS, VERIFICATION, Line, attack, command, data_set, fragment, store
from .node_process import DX, dicom_film, until
from .process_memory import memory_mb, threads

pytestmark = pytest.mark.doors
SEED = int(os.environ.get("CXRLINES_SEED", "0"))
STATUSES = {None, 0x0000, 0xA700, 0x0117, 0x0110, 0x0122, 0x0211, 0x0112}
"""What a node says to a request: docs/dicom.md, and PS3.7 annex C for what is no C-STORE of a film."""
MORE_MB = 150


def well(port: int, number: int) -> None:
    """The node answers an echo and takes a film, over an association as modalities make them."""
    line = Line(port)
    try:
        line.associate("CXRLINES")
        line.send(fragment(1, 3, command(0x30, VERIFICATION)))
        assert line.heard().status == 0
        line.send(*store(3, DX, *data_set(dicom_film(number))))
        assert line.heard().status == 0
    finally:
        line.close()


def fuzz(node, pacs, cases: int) -> None:
    pacs.start()
    running = node([f"PACS@127.0.0.1:{pacs.port}"], associations=4, film_mib=1).start()
    rng = random.Random(SEED)
    well(running.port, 1)
    running.settled(1)
    pid = running.process.pid
    memory, most = memory_mb(pid), threads(pid)
    said, taken = Counter(), set()
    for number in range(cases):
        kind, answer, whole = attack(rng, running.port, running.aet, number)
        said[kind, answer] += 1
        assert answer.status in STATUSES, (number, kind, answer)
        if answer.status == 0 and whole is not None:
            taken.add(whole)
        assert running.process.poll() is None, (number, kind)
        if number % 25 == 24:
            well(running.port, 2 + number)
    well(running.port, 2 + cases)
    good = 2 + cases // 25
    assert {kind for kind, _ in said} == set(KINDS), said
    # What was acknowledged is there: delivered, a dead letter, or passed over and counted.
    until(lambda: running.status()["oldest_waiting"] is None, 300)
    status = running.status()
    films = status["films"]
    assert sum(films.values()) >= good + len(taken), (status, said)
    until(lambda: running.status()["films"]["delivered"] >= good)
    assert films["delivered"] * 3 <= len(pacs.taken)
    until(lambda: threads(pid) <= most + 2)  # no association is left hanging
    assert memory_mb(pid) < memory + MORE_MB
    running.stop()
    assert not [line for line in running.printed if "listening" not in line and "stopped" not in line], running.printed


def test_60_wrong_messages(node, pacs):
    fuzz(node, pacs, 60)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_3_000_wrong_messages(node, pacs):
    fuzz(node, pacs, 3000)
