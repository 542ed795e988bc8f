"""Reading in worker processes: the findings of a reader here, errors as outcomes, workers that die or hang replaced."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from cxrlines.core.errors import OverTime, ReadingFault
from cxrlines.core.film import FilmError
from cxrlines.core.findings import Findings
from cxrlines.reading.bundle import EMBEDDED, BundleError, load_bundle
from cxrlines.reading.reader import load_reader
from cxrlines.reading.reading_pool import ReadingPool
from cxrlines.reading.results.dicom.read_by import ReadBy

WORKER = """
import os, pickle, time
from pathlib import Path
from cxrlines.core.findings import Findings
from cxrlines.core.processes import serving
from cxrlines.reading.results.dicom.read_by import ReadBy

begun = []

def answer(receive, send):
    if not begun:
        weights = Path(os.fsdecode(receive()) or os.devnull).read_text()
        begun.append(True)
        send(pickle.dumps(ReadBy(weights, "none")))
        return
    kind, film = receive(), receive()
    word, _, rest = film.partition(b" ")
    if word == b"die" or (word == b"once" and not Path(rest.decode()).exists()):
        if word == b"once":
            Path(rest.decode()).touch()
        os.kill(os.getpid(), 9)
    if word == b"hang":
        time.sleep(600)
    if word == b"slow":
        time.sleep(0.3)
    send(pickle.dumps(Findings((os.getpid(), 1), (), {}, (), study_uid=film.decode())))

def serve():
    serving(answer)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch) -> str:
    """A module that answers at once, and dies or hangs if the film says so."""
    (tmp_path / "worker_that_answers.py").write_text(WORKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "worker_that_answers"


def test_it_finds_what_a_reader_here_finds(wait_until):
    film = EMBEDDED / "example.jpg"
    here = load_reader().read(film)
    with ReadingPool(None, 1, 300) as pool:
        outcomes = [pool.read(source).result(300) for source in (film, film.read_bytes(), b"no film", Path("none.dcm"))]
        wait_until(lambda: pool.pending == 0)  # a result is there before it is counted
        assert pool.read_by == ReadBy.of(load_bundle(EMBEDDED), "onnx", ())
    for found in outcomes[:2]:
        assert isinstance(found, Findings)
        assert found.as_dict() == here.as_dict()
        assert not found.lines[0].path.flags.writeable
    assert all(isinstance(error, FilmError) for error in outcomes[2:])
    assert outcomes[3].what.startswith("none.dcm: ")


def test_a_bundle_that_cannot_be_used_is_refused_at_once(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle"), ReadingPool(tmp_path, 2, 60):
        raise AssertionError("never entered")


def test_every_film_once_by_all_workers(worker):
    with ReadingPool(None, 3, 60, module=worker) as pool:
        names = [b"slow %d" % number for number in range(9)]
        futures = [pool.read(name) for name in names]
        assert pool.pending > 0
        outcomes = [future.result(60) for future in futures]
    assert [found.study_uid for found in outcomes] == [name.decode() for name in names]
    assert len({found.film_shape[0] for found in outcomes}) == 3


def test_a_worker_that_dies_once_costs_nothing(worker, tmp_path):
    film = f"once {tmp_path / 'died'}".encode()
    with ReadingPool(None, 1, 60, module=worker) as pool:
        assert pool.read(film).result(60).study_uid == film.decode()


@pytest.mark.parametrize(
    ("film", "timeout", "words"), [(b"die", 60, "ended"), (b"hang", 0.3, "took longer than 0.3 s")]
)
def test_a_film_that_ends_or_outlasts_its_worker_twice_is_a_fault_and_the_next_is_read(worker, film, timeout, words):
    with ReadingPool(None, 1, timeout, module=worker) as pool:
        fault = pool.read(film).result(60)
        assert isinstance(fault, ReadingFault) and words in str(fault)
        assert isinstance(fault, OverTime) == (film == b"hang")
    with ReadingPool(None, 1, 60, module=worker) as pool:
        first, second = pool.read(b"die"), pool.read(b"next")
        assert isinstance(first.result(60), ReadingFault)
        assert second.result(60).study_uid == "next"


def test_idle_workers_that_are_killed_are_replaced(worker):
    with ReadingPool(None, 2, 60, module=worker) as pool:
        for _ in range(3):
            pids = {pool.read(b"slow").result(60).film_shape[0] for _ in range(4)}
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            assert pool.read(b"again").result(60).study_uid == "again"


def test_a_worker_that_is_begun_again_does_not_read_with_another_bundle(worker, tmp_path):
    bundle = tmp_path / "weights"
    bundle.write_text("first")
    with ReadingPool(bundle, 1, 60, module=worker) as pool:
        bundle.write_text("second")
        fault = pool.read(b"die").result(60)
        assert isinstance(fault, ReadingFault) and "exchanged for second while first was in use" in str(fault)
        assert "second" in str(pool.read(b"a film").result(60)) and pool.read_by.weights == "first"
        bundle.write_text("first")
        assert isinstance(pool.read(b"a film").result(60), Findings)


def test_leaving_drains_and_an_exception_drops(worker, wait_until):
    with ReadingPool(None, 1, 60, module=worker) as pool:
        drained = [pool.read(b"slow %d" % number) for number in range(3)]
    assert all(isinstance(future.result(0), Findings) for future in drained)
    with pytest.raises(RuntimeError):
        pool.read(b"late")
    with pytest.raises(KeyError), ReadingPool(None, 1, 60, module=worker) as pool:
        hanging, waiting = pool.read(b"hang"), pool.read(b"waits")
        wait_until(hanging.running)
        raise KeyError
    assert isinstance(hanging.result(0), ReadingFault) and waiting.cancelled()
    assert pool.pending == 0


def test_threads_may_share_it(worker):
    found: dict[int, Findings] = {}
    with ReadingPool(None, 2, 60, module=worker) as pool:

        def ask(number: int) -> None:
            found[number] = pool.read(b"%d" % number).result(60)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert {number: one.study_uid for number, one in found.items()} == {number: str(number) for number in range(8)}


@pytest.mark.parametrize("wrong", [(0, 1.0), (1, 0.0), (1, float("nan"))])
def test_wrong_numbers(wrong):
    with pytest.raises(ValueError):
        ReadingPool(None, *wrong)


def test_bytes_of_a_large_film_travel_whole(worker):
    film = b"y" * 20_000_000
    with ReadingPool(None, 1, 60, module=worker) as pool:
        found = pool.read(film).result(60)
    assert np.array_equal(np.frombuffer(found.study_uid.encode(), np.uint8), np.frombuffer(film, np.uint8))
