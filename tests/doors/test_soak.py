"""Services for an hour (CXRLINES_SOAK_S seconds): every film answered, and memory flat."""

import os
import time
from collections import Counter
from collections.abc import Callable

import cv2
import httpx
import numpy as np
import pytest

from .dimse_attacks import Line, data_set, store
from .node_process import DX, dicom_film
from .process_memory import memory_mb
from .serving import EXAMPLE, read, serving

SECONDS = float(os.environ.get("CXRLINES_SOAK_S", "3600"))
MARGIN, MORE_MB = 1.10, 30.0
"""What the memory of all processes may be at the end, against that after a tenth of the time."""
pytestmark = [pytest.mark.doors, pytest.mark.long, pytest.mark.timeout(SECONDS + 900)]


def noisy(number: int) -> np.ndarray:
    """The example film with grain of its own, of several sizes."""
    film = cv2.imread(str(EXAMPLE), cv2.IMREAD_GRAYSCALE)
    film = cv2.resize(film, None, fx=1 + number % 5 / 5, fy=1 + number % 5 / 5)
    return cv2.add(film, np.random.default_rng(number).integers(0, 20, film.shape, np.uint8))


def soak(pid: int, name: str, work: Callable[[int], None]) -> None:
    """Do it again and again; `AssertionError` where memory grows."""
    begun, number, taken = time.monotonic(), 0, []
    while (passed := time.monotonic() - begun) < SECONDS:
        work(number)
        number += 1
        if passed > (len(taken) + 1) * SECONDS / 10:
            taken.append(memory_mb(pid))
    taken.append(memory_mb(pid))
    print(f"{name}: {number} films in {passed:.0f} s; MB at each tenth: {', '.join(f'{mb:.0f}' for mb in taken)}")
    assert taken[-1] < taken[0] * MARGIN + MORE_MB, taken


def test_serve(tmp_path):
    """Films read and kept, drawings, reports, what is no film, corrections."""
    said: Counter[tuple[str, int]] = Counter()
    (tmp_path / "serve.toml").write_text("keep = 5\n")  # else the films kept for the page fill memory for a while
    with serving("--project", tmp_path / "project", "--config", tmp_path / "serve.toml") as server:
        address = server.wait()

        def work(number: int) -> None:
            film = dicom_film(number, noisy(number))
            said["read", read(address, film).status_code] += 1
            said["damaged", read(address, film[: len(film) // 2]).status_code] += 1
            sent = {"content": film, "headers": {"Content-Type": "application/dicom"}, "timeout": 120}
            place = f"{address}/v1/films/{httpx.post(f'{address}/v1/films', **sent).json()['id']}"
            for kind in ("pixels.png", "drawing.png", "report.dcm"):
                said[kind, httpx.get(f"{place}/{kind}", timeout=120).status_code] += 1
            if number % 20 == 0:
                saved = httpx.put(f"{place}/corrections", json={"author": "A reader"}, timeout=120)
                said["correction", saved.status_code] += 1
            httpx.get(f"{address}/metrics")

        soak(server.process.pid, "serve", work)
    assert {status for kind, status in said if kind != "damaged"} == {200}, said
    assert {status for kind, status in said if kind == "damaged"} == {422}, said


def test_listen(node, pacs):
    """Films through the node to a PACS, each with three results."""
    pacs.start()
    running = node([f"PACS@127.0.0.1:{pacs.port}"], quick=False).start()

    def work(number: int) -> None:
        film = store(3, DX, *data_set(dicom_film(number, noisy(number))))  # before: a silent association is ended
        line = Line(running.port)
        try:
            line.associate(running.aet)
            line.send(*film)
            assert line.heard().status == 0
        finally:
            line.close()
        running.settled(number + 1, 300)
        pacs.taken.clear()

    soak(running.process.pid, "listen", work)
    films = running.status()["films"]
    assert films["delivered"] == sum(films.values())
    running.stop()
