"""A node's films and results without a network: what is read, in which order results go, faults and back-off."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from typer.testing import CliRunner

from cxrlines import cli
from cxrlines.core.errors import ReadingFault
from cxrlines.core.files import OutputError
from cxrlines.core.film import FilmError, NotAFilm
from cxrlines.core.findings import Findings
from cxrlines.core.quality import Quality
from cxrlines.lab.intact_films import as_dicom
from cxrlines.pacs import film_queue, node, result_writers
from cxrlines.pacs.audit_log import AuditLog
from cxrlines.pacs.delivery import CUT, LONGEST_PAUSE_S, Answer, Unreachable, Verdict, pause_s
from cxrlines.pacs.film_queue import MAX_TRIES, FilmQueue
from cxrlines.pacs.node import FAULTS, NO_RESULT, Courier, why_not_read
from cxrlines.pacs.queue_database import FilmState
from cxrlines.pacs.result_writers import ResultWriters, write_results
from cxrlines.reading.results.dicom.objects import Kind, result_objects
from cxrlines.reading.results.dicom.read_by import ReadBy
from cxrlines.reading.results.operating_points import OperatingPoint

NGT = "NGT - Abnormal"
READ_BY = ReadBy("0123456789ab", "none", operating_points={NGT: OperatingPoint(0.5, "sensitivity 0.9")})


def film(number: int, **elements) -> bytes:
    uids = {name: f"1.2.3.{number}.{k}" for k, name in enumerate(("SOPInstanceUID", "SeriesInstanceUID"))}
    return as_dicom(np.full((40, 30), number, np.uint8), 8, **uids | {"StudyInstanceUID": "1.2.3"} | elements)


class Destination:
    """Answers as `answers` say, in turn, then takes all; `Unreachable` for None."""

    name = "PACS@10.0.0.5:104"

    def __init__(self, *answers: Answer | None) -> None:
        self.answers, self.sent = [*answers], []

    def send(self, results: Sequence[Path]) -> Iterator[Answer]:
        for path in results:
            answer = self.answers.pop(0) if self.answers else Answer(Verdict.TAKEN)
            if answer is None:
                raise Unreachable("does not answer")
            self.sent.append((path.name, answer.verdict))
            yield answer


class Pool:
    """Gives outcomes by the number of the film, its first pixel."""

    read_by, processes = READ_BY, 2

    def __init__(self, outcomes: dict[int, object]) -> None:
        self.outcomes, self.asked = outcomes, []

    def read(self, path: Path) -> Future:
        number = path.read_bytes()[-1]
        self.asked.append(number)
        future: Future = Future()
        future.set_result(self.outcomes.get(number, Findings((40, 30), (), {}, (), {NGT: 0.1})))
        return future


@pytest.fixture
def bench(tmp_path, monkeypatch, wait_until):
    """Runs films through a pool and a destination until all of them are settled; the queue."""
    monkeypatch.setattr(node, "pause_s", lambda failures, rng: 0.0)
    monkeypatch.setattr(node, "POLL_S", 0.01)
    queue, audit, writers = FilmQueue(tmp_path), AuditLog(tmp_path), ResultWriters(1, 60)

    def run(
        films: Sequence[bytes], pool: Pool, destination: Destination, kinds: tuple[Kind, ...] = tuple(Kind)
    ) -> FilmQueue:
        for place, data in enumerate(films):
            queue.add(data, str(place), f"1.2.3.{place}", "MODALITY@10.0.0.7")
        stop = threading.Event()
        courier = Courier(queue, audit, destination, stop)
        reading = node._Reading(queue, audit, pool, writers, [courier], kinds)
        threads = [threading.Thread(target=reading.run, args=(stop,), daemon=True), courier]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: not queue.status()["oldest_waiting"])
        finally:
            stop.set()
            for thread in threads:
                thread.join(60)
        return queue

    run.folder = tmp_path
    yield run
    writers.close()
    queue.close()
    audit.close()


def counts(queue: FilmQueue) -> dict[str, int]:
    return {state: n for state, n in queue.status()["films"].items() if n}


def test_outcomes_become_results_skips_and_dead_letters(bench):
    fault = ReadingFault("the worker ended")
    report, cut = NotAFilm("is a report", "", "structured report"), FilmError("is cut off", "send it again")
    pool = Pool({1: report, 2: cut, 3: fault})
    destination = Destination()
    queue = bench([film(number) for number in range(4)], pool, destination)
    assert counts(queue) == {"delivered": 2, "dead": 1, "skipped": 1}
    assert queue.status()["skipped"] == {"structured report": 1}
    assert [letter["reason"] for letter in queue.status()["dead_letters"]] == ["the worker ended"]
    assert sorted(pool.asked) == [0, 1, 2, *[3] * FAULTS]
    # Of the film that is cut off a report alone, which says so.
    assert sorted(name for name, _ in destination.sent) == ["1-0.dcm", "1-1.dcm", "1-2.dcm", "3-0.dcm"]


def test_a_film_without_a_study_is_a_dead_letter(bench):
    queue = bench([film(0, StudyInstanceUID=None)], Pool({}), Destination())
    assert counts(queue) == {"dead": 1} and "StudyInstanceUID" in queue.status()["dead_letters"][0]["reason"]


def test_a_film_whose_results_cannot_be_encoded_costs_the_others_nothing(bench, monkeypatch):
    """pydicom raises OSError for it, which is no error of the disk."""
    asked = []

    def written(self, order):
        outcome: Future = Future()
        outcome.set_result(write_results(order()))
        return outcome

    def made(source, *_, **more):
        asked.append(source[-1])
        if source[-1] == 0:
            raise OSError("cannot write LUTData")
        return result_objects(source, *_, **more)

    monkeypatch.setattr(ResultWriters, "write", written)
    monkeypatch.setattr(result_writers, "result_objects", made)
    queue = bench([film(number) for number in range(3)], Pool({}), Destination())
    assert counts(queue) == {"delivered": 2, "dead": 1} and sorted(asked) == [*[0] * FAULTS, 1, 2]
    assert "OSError" in queue.status()["dead_letters"][0]["reason"]


def test_a_disk_that_cannot_be_written_for_a_while_costs_nothing(bench, monkeypatch):
    times = iter(range(9))

    def written(self, order):
        outcome: Future = Future()
        full = OutputError("results: cannot be written", "free space")
        outcome.set_result(full if next(times) < 2 * FAULTS else write_results(order()))
        return outcome

    monkeypatch.setattr(ResultWriters, "write", written)
    assert counts(bench([film(0)], Pool({}), Destination())) == {"delivered": 1}


def test_results_of_the_wanted_kinds_alone(bench):
    """A film that is not read has a report alone; without reports nothing says so but its state."""
    refused = Findings((40, 30), (), {}, (), None, quality=Quality(usable=False))
    pool = Pool({1: FilmError("is cut off", "send it again"), 2: refused})
    queue = bench([film(number) for number in range(3)], pool, Destination(), (Kind.PRESENTATION, Kind.CAPTURE))
    assert counts(queue) == {"delivered": 1, "skipped": 2} and queue.status()["results"] == {"delivered": 2}
    assert queue.status()["skipped"] == {NO_RESULT: 1, f"{NO_RESULT}: is cut off; send it again": 1}
    assert not [*bench.folder.glob("*/*.dcm")]


def test_a_destination_that_hangs_does_not_keep_a_node_from_ending(tmp_path, monkeypatch):
    monkeypatch.setattr(node, "STOP_S", 0.2)
    queue, audit, stop = FilmQueue(tmp_path), AuditLog(tmp_path), threading.Event()
    begun, over = threading.Event(), threading.Event()

    class Hanging(Destination):
        def send(self, results: Sequence[Path]) -> Iterator[Answer]:
            begun.set()
            over.wait(60)
            yield Answer(Verdict.DEFERRED, "it was cut")

        def cut(self) -> None:
            over.set()

    queue.add(film(1), "1", "1.2.3.1", "MODALITY@10.0.0.7")
    (taken,) = queue.take(1)
    queue.result_places(taken, 1)[0].write_bytes(b"report")
    queue.add_results(taken, [("sr", "2.25.1")], False, [Hanging.name])
    courier = Courier(queue, audit, Hanging(), stop)
    courier.start()
    assert begun.wait(60)
    stop.set()
    node.end_all([courier])
    assert over.is_set()
    courier.join(60)  # what it writes of it may take the disk longer than a node waits
    assert not courier.is_alive()
    assert queue.status()["results"] == {"waiting": 1}
    audit.close()
    queue.close()


def test_a_destination_that_comes_and_goes(bench):
    off = Answer(Verdict.DEFERRED, "status 0xA700")
    destination = Destination(None, None, off, Answer(Verdict.TAKEN), None, off)
    queue = bench([film(0), film(1)], Pool({}), destination)
    assert counts(queue) == {"delivered": 2} and queue.status()["unreachable"] == []
    taken = [name for name, verdict in destination.sent if verdict is Verdict.TAKEN]
    assert sorted(taken) == [f"{number}-{place}.dcm" for number in (1, 2) for place in range(3)]


def test_a_destination_to_which_nothing_waits_any_more_has_no_problem(tmp_path, monkeypatch, wait_until):
    """Its results have become dead letters, and are not sent again."""
    for module in (film_queue, node):
        monkeypatch.setattr(module, "MAX_TRIES", 2)
    monkeypatch.setattr(node, "pause_s", lambda failures, rng: 0.0)
    monkeypatch.setattr(node, "POLL_S", 0.01)
    queue, audit, stop = FilmQueue(tmp_path), AuditLog(tmp_path), threading.Event()
    queue.add(film(1), "1", "1.2.3.1", "MODALITY@10.0.0.7")
    (taken,) = queue.take(1)
    queue.result_places(taken, 1)[0].write_bytes(b"report")
    queue.add_results(taken, [("sr", "2.25.1")], False, [Destination.name])
    courier = Courier(queue, audit, Destination(*[Answer(Verdict.DEFERRED, "status 0xA700")] * 2), stop)
    courier.start()
    try:
        wait_until(lambda: queue.status()["dead_letters"] and not queue.status()["unreachable"])
    finally:
        stop.set()
        courier.join(60)
    audit.close()
    queue.close()


def test_a_fault_of_a_destination_costs_no_result(bench):
    class Odd(Destination):
        def send(self, results: Sequence[Path]) -> Iterator[Answer]:
            if not self.answers:
                self.answers.append(Answer(Verdict.TAKEN))
                raise ZeroDivisionError
            yield from super().send(results)

    assert counts(bench([film(0)], Pool({}), Odd())) == {"delivered": 1}


class TestAPacsThatIsDownForAnHour:
    def test_the_pauses_of_an_hour(self):
        """Some 20 attempts, none later than 5 minutes after the one before."""
        for seed in range(20):
            rng, passed, attempts = random.Random(seed), 0.0, 0
            while passed < 3600:
                attempts += 1
                passed += (pause := pause_s(attempts, rng))
                assert 0 < pause <= LONGEST_PAUSE_S
            assert 15 < attempts < 40

    def test_then_it_gets_everything_the_urgent_first(self, bench):
        class Down(Destination):
            attempts, all_read = 0, False

            def send(self, results: Sequence[Path]) -> Iterator[Answer]:
                self.attempts += 1
                if self.attempts < 40 or not self.all_read:  # what is sent now was chosen before
                    films = self.queue.status()["films"]
                    self.all_read = not films["received"] and not films["reading"]
                    raise Unreachable("does not answer")
                yield from super().send(results)

        urgent = Findings((40, 30), (), {}, (), {NGT: 0.9})
        destination, films = Down(), [film(number) for number in range(10)]
        destination.queue = FilmQueue(bench.folder)
        queue = bench(films, Pool({4: urgent, 9: urgent}), destination)
        destination.queue.close()
        assert counts(queue) == {"delivered": 10} and queue.status()["results"] == {"delivered": 30}
        assert queue.status()["dead_letters"] == [] and queue.status()["unreachable"] == []
        taken = [int(name.partition("-")[0]) for name, _ in destination.sent]  # numbers of the queue begin at 1
        assert taken == [number for number in (5, 10, 1, 2, 3, 4, 6, 7, 8, 9) for _ in range(3)]

    def test_one_that_defers_gets_what_is_no_dead_letter_by_the_rule(self, bench):
        """A result that is deferred 11 times and then taken is delivered; a 12th makes it a dead letter."""

        class Busy(Destination):
            def send(self, results: Sequence[Path]) -> Iterator[Answer]:
                for path in results:
                    self.asked[path.name] += 1
                    most = {"1-0.dcm": MAX_TRIES - 1, "2-0.dcm": MAX_TRIES}.get(path.name, 0)
                    off = self.asked[path.name] <= most
                    yield Answer(Verdict.DEFERRED, "status 0xA700") if off else Answer(Verdict.TAKEN)

        destination = Busy()
        destination.asked = Counter()
        queue = bench([film(0), film(1)], Pool({}), destination)
        assert counts(queue) == {"delivered": 1, "dead": 1}
        assert queue.status()["results"] == {"dead": 1, "delivered": 5}
        (letter,) = queue.status()["dead_letters"]
        assert letter["film"] == 2 and "12 times" in letter["reason"]
        assert destination.asked["1-0.dcm"] == destination.asked["2-0.dcm"] == MAX_TRIES


def test_a_result_that_a_destination_breaks_on_keeps_back_no_other(bench):
    """Its association ends over one report, each time: the others are taken, that one is a dead letter in the end."""

    class Breaks(Destination):
        def send(self, results: Sequence[Path]) -> Iterator[Answer]:
            for path in results:
                self.asked[path.name] += 1
                if path.name == "1-0.dcm":
                    yield Answer(Verdict.DEFERRED, CUT)
                    return
                yield Answer(Verdict.TAKEN)

    destination = Breaks()
    destination.asked = Counter()
    queue = bench([film(0), film(1)], Pool({}), destination)
    assert counts(queue) == {"delivered": 1, "dead": 1}
    assert queue.status()["results"] == {"dead": 1, "delivered": 5}
    assert destination.asked.pop("1-0.dcm") == MAX_TRIES and set(destination.asked.values()) == {1}
    assert CUT in queue.status()["dead_letters"][0]["reason"]


def test_what_is_deferred_waits_while_others_go(tmp_path, monkeypatch, wait_until):
    """Whatever comes meanwhile does not wait for it, and what was deferred is not asked again at once."""
    asked: Counter[str] = Counter()

    class Full(Destination):
        def send(self, results: Sequence[Path]) -> Iterator[Answer]:
            for path in results:
                asked[path.name] += 1
                yield Answer(Verdict.DEFERRED, "status 0xA700") if path.name == "1-0.dcm" else Answer(Verdict.TAKEN)

    def until(number: int) -> None:
        wait_until(lambda: sum(asked.values()) >= number)

    monkeypatch.setattr(node, "pause_s", lambda failures, rng: 1000.0)
    monkeypatch.setattr(node, "POLL_S", 0.01)
    queue, audit, stop = FilmQueue(tmp_path), AuditLog(tmp_path), threading.Event()
    courier = Courier(queue, audit, Full(), stop)

    def results_of(number: int) -> None:
        queue.add(b"film", str(number), f"1.2.{number}", "MODALITY@10.0.0.7")
        (taken,) = queue.take(1)
        for place in queue.result_places(taken, 2):
            place.write_bytes(b"result")
        queue.add_results(taken, [("sr", f"2.25.{number}"), ("sc", f"2.25.9{number}")], False, [Full.name])

    try:
        results_of(1)
        courier.start()
        until(2)
        results_of(2)
        until(4)
        time.sleep(0.1)
        assert asked == {f"{film}-{place}.dcm": 1 for film in (1, 2) for place in (0, 1)}
        assert "0xA700" in queue.status()["unreachable"][0]["problem"]
        queue.execute("UPDATE deliveries SET tries=0")  # as `--retry` does
        until(5)
        time.sleep(0.1)
        assert asked["1-0.dcm"] == 2 and sum(asked.values()) == 5
    finally:
        stop.set()
        courier.join(60)
        queue.close()
        audit.close()


def test_urgent_films_are_marked(bench, tmp_path):
    bench([film(0), film(1)], Pool({1: Findings((40, 30), (), {}, (), {NGT: 0.9})}), Destination())
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert {line["film"]: line["urgent"] for line in lines if line["event"] == "read"} == {1: 0, 2: 1}


LATERAL_VIEW = Dataset()
LATERAL_VIEW.CodeValue, LATERAL_VIEW.CodingSchemeDesignator = "399067008", "SCT"


@pytest.mark.parametrize(
    ("elements", "why"),
    [
        ({"ViewPosition": "AP", "Modality": "DX"}, None),
        ({"ViewPosition": "LLD", "Modality": "CR"}, None),  # lateral decubitus: a frontal film
        ({"ViewPosition": "LL"}, "lateral"),
        ({"ViewCodeSequence": [LATERAL_VIEW]}, "lateral"),
        ({"Manufacturer": "cxrlines"}, "result of cxrlines"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "derived"),
    ],
)
def test_what_is_not_read(elements, why):
    found = why_not_read(film(0, **elements))
    assert found is None if why is None else why in found


def test_the_command_shows_how_a_queue_stands(tmp_path):
    queue = FilmQueue(tmp_path / "queue")
    queue.add(b"film", "digest", "1.2.3", "MODALITY@10.0.0.7")
    queue.set_problem("PACS@10.0.0.5:104", "does not answer")
    queue.close()
    command = ["listen", "--status", "--queue", str(tmp_path / "queue")]
    text = CliRunner().invoke(cli.app, command).output
    assert "1 received" in text and "PACS@10.0.0.5:104: does not answer" in text and "oldest waiting: film 1" in text
    assert json.loads(CliRunner().invoke(cli.app, [*command, "--json"]).output)["films"]["received"] == 1
    both = CliRunner().invoke(cli.app, [*command, "--retry", "--discard"])
    assert both.exit_code == 2 and "--retry and --discard" in both.output
    wrong = CliRunner().invoke(cli.app, ["listen", "--status", "--queue", str(tmp_path)])
    assert wrong.exit_code == 2 and not (tmp_path / "queue.sqlite").exists()


def test_the_command_takes_up_and_gives_up_dead_letters(tmp_path):
    queue = FilmQueue(tmp_path / "queue")
    (tmp_path / "node.toml").write_text('queue = "queue"\n')
    (tmp_path / "keep.toml").write_text('queue = "queue"\nkeep = true\n')

    def dead(number: int) -> Path:
        queue.add(b"film", str(number), f"1.2.{number}", "MODALITY@10.0.0.7")
        (taken,) = queue.take(1)
        queue.give_up(taken, FilmState.DEAD, "a fault")
        return taken.path

    def said(*flags: str) -> str:
        done = CliRunner().invoke(cli.app, ["listen", *flags])
        assert done.exit_code == 0
        return done.output

    first = dead(1)
    assert "1 film taken up once more" in said("--retry", "--queue", str(tmp_path / "queue"))
    queue.give_up(*queue.take(1), FilmState.DEAD, "a fault")
    assert first.exists()
    discarded = said("--discard", "--config", str(tmp_path / "node.toml"))
    assert "discarded: 0 results not delivered, 1 film not read" in discarded
    assert not first.exists() and counts(queue) == {"skipped": 1}
    kept = dead(2)
    said("--discard", "--config", str(tmp_path / "keep.toml"))
    assert kept.exists() and counts(queue) == {"skipped": 2}
    queue.close()
