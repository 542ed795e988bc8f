"""The durable queue: every film once, in order, through kills at any moment, with no decision by the clock."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from cxrlines.core.errors import Error
from cxrlines.core.files import replacing
from cxrlines.pacs import film_queue
from cxrlines.pacs.film_queue import MAX_TRIES, FilmQueue, QueuedFilm
from cxrlines.pacs.queue_database import FilmState, QueueDatabase, held

TO = "PACS@10.0.0.5:104"
SR = [("sr", "2.25.1", b"report"), ("sc", "2.25.2", b"capture")]


@pytest.fixture
def queue(tmp_path):
    made = FilmQueue(tmp_path / "queue", model="m")
    yield made
    made.close()


def states(queue: FilmQueue) -> dict[str, int]:
    return {name: count for name, count in queue.status()["films"].items() if count}


def add(queue: FilmQueue, number: int, content: str = "") -> int | None:
    return queue.add(b"film %d" % number, f"digest {number} {content}", f"1.2.{number}", "MODALITY@10.0.0.7")


def read(
    queue: FilmQueue, film: QueuedFilm, results: list[tuple[str, str, bytes]], urgent: bool, to: list[str]
) -> None:
    """As the node does: results on disk, then in the queue."""
    for place, (_, _, data) in zip(queue.result_places(film, len(results)), results, strict=True):
        with replacing(place) as aside:
            aside.write_bytes(data)
    queue.add_results(film, [(kind, uid) for kind, uid, _ in results], urgent, to)


def deliver(queue: FilmQueue, to: str = TO) -> None:
    while parcels := queue.waiting(to, 5):
        for parcel in parcels:
            queue.begin(parcel)
            queue.delivered(parcel)


def test_its_folder_is_for_its_user_alone(tmp_path):
    with held(tmp_path / "node/queue"):
        FilmQueue(tmp_path / "node/queue").close()
    for place in ("queue", "queue/films", "queue/results"):
        assert (tmp_path / "node" / place).stat().st_mode & 0o777 == 0o700


class TestFilms:
    def test_one_is_on_disk_before_it_counts_and_goes_with_its_results(self, queue):
        assert add(queue, 7) == 1
        (film,) = queue.take(9)
        assert film.path.read_bytes() == b"film 7" and "1.2.7" not in film.path.name
        assert states(queue) == {"reading": 1}
        read(queue, film, SR, False, [TO])
        assert states(queue) == {"read": 1}
        assert [parcel.path.read_bytes() for parcel in queue.waiting(TO, 9)] == [b"report", b"capture"]
        queue.begin(queue.waiting(TO, 1)[0])
        assert states(queue) == {"delivering": 1}
        deliver(queue)
        assert states(queue) == {"delivered": 1}
        assert not [*queue.folder.glob("*/*.dcm")]

    def test_the_same_is_known_in_every_state(self, queue):
        assert add(queue, 1) == 1 and add(queue, 1) is None
        (film,) = queue.take(9)
        assert add(queue, 1) is None
        read(queue, film, SR, False, [TO])
        assert add(queue, 1) is None
        deliver(queue)
        assert add(queue, 1) is None
        assert states(queue) == {"delivered": 1} and queue.status()["sent_again"] == 4
        assert not queue.take(9) and not [*queue.folder.glob("*/*.dcm")]

    def test_one_sent_twice_at_once_leaves_no_file_once_it_is_delivered(self, queue, monkeypatch):
        """The second copy is written while the first one is read and delivered."""

        @contextmanager
        def slow(place):
            monkeypatch.undo()
            with replacing(place) as aside:
                assert add(queue, 1) == 1
                (film,) = queue.take(9)
                read(queue, film, SR, False, [TO])
                deliver(queue)
                yield aside

        monkeypatch.setattr(film_queue, "replacing", slow)
        assert add(queue, 1) is None
        assert states(queue) == {"delivered": 1} and not [*queue.folder.glob("*/*.dcm")]

    def test_they_are_taken_once_and_in_order(self, queue):
        for number in range(5):
            add(queue, number)
        assert [film.sop_uid for film in (*queue.take(2), *queue.take(2), *queue.take(9))] == [
            f"1.2.{number}" for number in range(5)
        ]
        assert queue.take(9) == []

    def test_other_content_of_an_instance_waits_and_knows_what_it_replaces(self, queue):
        add(queue, 1)
        assert add(queue, 1, "corrected") == 2
        (first,) = queue.take(9)
        assert queue.earlier_results(first) == () and queue.take(9) == []
        read(queue, first, SR, False, [TO, "OTHER"])
        (second,) = queue.take(9)
        assert second.path != first.path
        assert queue.earlier_results(second) == (("sr", "2.25.1", ""), ("sc", "2.25.2", ""))
        queue.note_study(first, "1.2.9")
        assert queue.earlier_results(second) == (("sr", "2.25.1", "1.2.9"), ("sc", "2.25.2", "1.2.9"))
        read(queue, second, [("sr", "2.25.3", b"new")], False, [TO])
        deliver(queue)
        deliver(queue, "OTHER")
        assert states(queue) == {"delivered": 2}

    def test_a_version_that_comes_back_after_another_is_the_last_word_again(self, queue):
        uids = iter(range(1, 99))
        for number, content in enumerate(["", "", "corrected", "", "", "corrected", ""], 1):
            is_new = number not in (2, 5)
            assert (add(queue, 1, content) is not None) is is_new
            for film in queue.take(9):
                earlier = next(uids)
                assert len(queue.earlier_results(film)) == earlier - 1
                assert film.path.read_bytes() == b"film 1"
                read(queue, film, [("sr", f"2.25.{earlier}", b"report")], False, [TO])
                deliver(queue)
        assert states(queue) == {"delivered": 5} and queue.status()["sent_again"] == 2

    def test_one_that_comes_back_before_it_was_read_has_a_file_of_its_own(self, queue):
        assert [add(queue, 1, content) for content in ("", "corrected", "", "")] == [1, 2, 3, None]
        paths = set()
        for number in (1, 2, 3):
            (film,) = queue.take(9)
            paths.add(film.path)
            read(queue, film, [("sr", f"2.25.{number}", b"report")], False, [TO])
            deliver(queue)
        assert len(paths) == 3 and states(queue) == {"delivered": 3}

    def test_another_model_reads_it_again(self, queue):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR, False, [TO])
        other = FilmQueue(queue.folder, model="new")
        assert add(other, 1) == 2
        assert other.earlier_results(other.take(1)[0]) == (("sr", "2.25.1", ""), ("sc", "2.25.2", ""))
        other.close()

    def test_failures_come_last_and_are_counted(self, queue):
        add(queue, 1)
        add(queue, 2)
        (film,) = queue.take(1)
        queue.put_back(film)
        assert [(film.sop_uid, film.tries) for film in queue.take(9)] == [("1.2.2", 0), ("1.2.1", 1)]

    def test_what_is_given_up_says_why(self, queue):
        add(queue, 1)
        add(queue, 2)
        lateral, broken = queue.take(2)
        queue.give_up(lateral, FilmState.SKIPPED, "a lateral")
        queue.give_up(broken, FilmState.DEAD, "is cut off")
        status = queue.status()
        assert status["skipped"] == {"a lateral": 1}
        assert [(letter["film"], letter["reason"]) for letter in status["dead_letters"]] == [(2, "is cut off")]
        assert broken.path.exists() and not lateral.path.exists()
        assert queue.retry() == 1
        assert [film.number for film in queue.take(9)] == [2]

    def test_kept_ones_stay(self, tmp_path):
        queue = FilmQueue(tmp_path, keep=True)
        add(queue, 1)
        read(queue, queue.take(1)[0], SR, False, [TO])
        deliver(queue)
        queue.resume([TO])
        assert len([*tmp_path.glob("*/*.dcm")]) == 3
        queue.close()


class TestDeliveries:
    def test_urgent_ones_first_and_those_deferred_last(self, queue):
        for number in range(3):
            add(queue, number)
        for film, urgent in zip(queue.take(3), (False, False, True), strict=True):
            read(queue, film, SR[:1], urgent, [TO])
        assert [parcel.film for parcel in queue.waiting(TO, 9)] == [3, 1, 2]
        assert [film["film"] for film in queue.status()["urgent_waiting"]] == [3]
        queue.defer(queue.waiting(TO, 1)[0], "status 0xA700")
        assert [parcel.film for parcel in queue.waiting(TO, 9)] == [1, 2, 3]

    def test_those_deferred_are_left_out_until_they_are_retried(self, queue):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR, False, [TO])
        report, capture = queue.waiting(TO, 9)
        assert queue.waiting(TO, 9, {report.number}) == [report, capture]  # not deferred yet, or taken up once more
        queue.defer(report, "status 0xA700")
        assert queue.waiting(TO, 9, {report.number}) == [capture]
        assert [parcel.number for parcel in queue.waiting(TO, 9, {7})] == [capture.number, report.number]

    def test_a_refusal_is_a_dead_letter_until_it_is_retried(self, queue):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR, False, [TO])
        report, capture = queue.waiting(TO, 9)
        queue.refused(report, "status 0xA900")
        queue.delivered(capture)
        assert states(queue) == {"dead": 1} and report.path.exists()
        assert queue.status()["dead_letters"][0]["reason"] == "status 0xA900"
        assert queue.retry() == 1 and states(queue) == {"delivering": 1}
        assert [parcel.path for parcel in queue.waiting(TO, 9)] == [report.path]
        deliver(queue)
        assert states(queue) == {"delivered": 1}

    def test_a_refusal_is_a_dead_letter_while_another_destination_waits(self, queue):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR[:1], True, [TO, "http://archive"])
        queue.refused(queue.waiting(TO, 9)[0], "status 0xA900")
        assert states(queue) == {"read": 1}
        (letter,) = queue.status()["dead_letters"]
        assert (letter["film"], letter["destination"], letter["reason"]) == (1, TO, "status 0xA900")
        assert queue.retry() == 1 and len(queue.waiting(TO, 9)) == 1 and queue.status()["dead_letters"] == []
        deliver(queue)
        deliver(queue, "http://archive")
        assert states(queue) == {"delivered": 1}

    def test_an_urgent_film_with_a_refusal_is_still_urgent(self, queue):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR[:1], True, [TO])
        queue.refused(queue.waiting(TO, 9)[0], "status 0xA900")
        assert [film["state"] for film in queue.status()["urgent_waiting"]] == ["dead"]

    def test_one_that_is_deferred_again_and_again(self, queue):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR[:1], False, [TO])
        for tries in range(MAX_TRIES):
            (parcel,) = queue.waiting(TO, 9)
            assert parcel.tries == tries
            queue.defer(parcel, "status 0xA700")
        assert states(queue) == {"dead": 1} and queue.waiting(TO, 9) == []

    def test_a_film_is_delivered_once_all_destinations_have_it(self, queue):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR, False, [TO, "http://pacs/dicom-web"])
        deliver(queue)
        assert states(queue) == {"delivering": 1}
        deliver(queue, "http://pacs/dicom-web")
        assert states(queue) == {"delivered": 1} and queue.status()["results"] == {"delivered": 4}

    def test_a_destination_that_is_gone(self, queue):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR[:1], False, [TO])
        queue.resume(["OTHER@10.0.0.5:104"])
        assert states(queue) == {"dead": 1}
        assert "no longer in the settings" in queue.status()["dead_letters"][0]["reason"]
        assert queue.retry() == 0 and states(queue) == {"dead": 1}  # nobody would take it there

    def test_one_that_comes_back_gets_what_waited_for_it(self, queue):
        """What it refused before as well: it is asked once more."""
        add(queue, 1)
        read(queue, queue.take(1)[0], SR, False, [TO, "OTHER"])
        deliver(queue, "OTHER")
        queue.refused(queue.waiting(TO, 1)[0], "status 0xA900")
        queue.resume(["OTHER"])
        assert len(queue.status()["dead_letters"]) == 2
        queue.resume([TO, "OTHER"])
        assert states(queue) == {"delivering": 1} and len(queue.waiting(TO, 9)) == 2
        deliver(queue)
        assert states(queue) == {"delivered": 1}

    def test_what_is_discarded_is_done_with_and_its_files_go(self, queue):
        """A film with a result delivered, one without, one not read, and one that another destination waits for."""
        for number in range(4):
            add(queue, number)
        one, none, unread, waits = queue.take(4)
        read(queue, one, SR, False, [TO])
        read(queue, none, SR[:1], False, ["GONE"])
        queue.give_up(unread, FilmState.DEAD, "a fault")
        report, capture = queue.waiting(TO, 9)
        queue.delivered(capture)
        queue.refused(report, "status 0xA900")
        read(queue, waits, SR[:1], False, [TO, "OTHER"])
        queue.refused(queue.waiting(TO, 9)[0], "status 0xA900")
        queue.resume([TO, "OTHER"])
        assert len(queue.status()["dead_letters"]) == 4
        assert queue.discard() == (3, 1)
        status = queue.status()
        assert status["dead_letters"] == [] and queue.retry() == 0 and queue.discard() == (0, 0)
        assert states(queue) == {"delivered": 1, "skipped": 2, "read": 1}
        assert status["results"] == {"delivered": 1, "dropped": 3, "waiting": 1}
        assert status["skipped"] == {"discarded: a fault": 1, "discarded: no result was delivered": 1}
        assert {path.name for path in queue.folder.glob("*/*.dcm")} == {waits.path.name, "4-0.dcm"}
        assert [add(queue, number) for number in range(3)] == [None] * 3  # they are known
        deliver(queue, "OTHER")
        assert states(queue) == {"delivered": 2, "skipped": 2} and not [*queue.folder.glob("*/*.dcm")]

    def test_what_is_wrong_with_a_destination_is_known_until_it_is_not(self, queue):
        queue.set_problem(TO, "does not answer")
        queue.set_problem(TO, "rejects the association")
        (problem,) = queue.status()["unreachable"]
        assert (problem["name"], problem["problem"]) == (TO, "rejects the association")
        queue.clear_problem(TO)
        assert queue.status()["unreachable"] == []

    def test_it_is_done_with_once_what_waits_there_is_discarded(self, queue):
        for number, name in enumerate((TO, "OTHER")):
            add(queue, number)
            (film,) = queue.take(1)
            read(queue, film, SR, False, [name])
            queue.set_problem(name, "does not answer")
        for parcel in queue.waiting(TO, 9):
            queue.refused(parcel, "deferred too often")
        queue.discard()
        assert [each["name"] for each in queue.status()["unreachable"]] == ["OTHER"]


class TestFaults:
    def test_a_start_takes_up_what_was_being_read_and_sweeps(self, tmp_path):
        queue = FilmQueue(tmp_path)
        add(queue, 1)
        (film,) = queue.take(1)
        for name in ("films/0ff.dcm", "films/.a.1.partial", "results/99-0.dcm", "results/odd"):
            (tmp_path / name).write_bytes(b"of a kill")
        (tmp_path / "results/1-0.dcm").write_bytes(b"of this film: it is written again")
        queue.close()
        queue = FilmQueue(tmp_path)
        queue.resume([TO])
        assert queue.take(9) == [film]
        assert sorted(path.name for path in tmp_path.glob("*/*")) == sorted([film.path.name, "1-0.dcm"])
        queue.close()

    def test_a_failed_write_leaves_no_film(self, queue, monkeypatch, disk_full):
        monkeypatch.setattr(film_queue.Path, "write_bytes", disk_full)
        with pytest.raises((OSError, Error)):
            add(queue, 1)
        assert states(queue) == {} and not [*queue.folder.glob("films/*")]
        monkeypatch.undo()
        assert add(queue, 1) == 1

    def test_a_discard_that_a_kill_cut_off_is_swept_at_the_next_start(self, queue, monkeypatch):
        add(queue, 1)
        read(queue, queue.take(1)[0], SR, False, ["GONE"])
        queue.resume([TO])
        monkeypatch.setattr(queue, "_delete", lambda paths: None)
        queue.discard()
        assert len([*queue.folder.glob("*/*.dcm")]) == 3
        queue.resume([TO])
        assert states(queue) == {"skipped": 1} and not [*queue.folder.glob("*/*.dcm")]

    def test_a_clock_that_jumps_changes_nothing(self, queue, monkeypatch):
        times = iter(["2026-01-01T00:00:00+00:00", "1970-01-01T00:00:00+00:00", "2099-01-01T00:00:00+00:00"] * 9)
        monkeypatch.setattr(film_queue, "now", lambda: next(times))
        for number in range(3):
            add(queue, number)
        assert [film.number for film in queue.take(9)] == [1, 2, 3]

    def test_one_node_a_folder(self, tmp_path):
        with held(tmp_path), pytest.raises(Error, match="another node"), held(tmp_path):
            raise AssertionError("held twice")
        with held(tmp_path):
            pass

    def test_a_folder_that_cannot_be_used(self, tmp_path):
        (tmp_path / "file").write_text("")
        for use in (lambda: FilmQueue(tmp_path / "file"), lambda: held(tmp_path / "file").__enter__()):
            with pytest.raises(Error, match="--queue"):
                use()

    def test_another_process_may_look_and_retry(self, queue):
        add(queue, 1)
        queue.give_up(queue.take(1)[0], FilmState.DEAD, "why")
        other = QueueDatabase(queue.folder)
        assert other.status() == queue.status() and other.retry() == 1
        other.close()
        assert states(queue) == {"received": 1}


WORKER = """
import itertools, os, sys
from pathlib import Path
from cxrlines.core.files import replacing
from cxrlines.pacs.film_queue import FilmQueue
folder, films = Path(sys.argv[1]), int(sys.argv[2])
queue, statements = FilmQueue(folder / "queue"), itertools.count()

def traced(statement):
    if next(statements) == int(sys.argv[3]):
        os.kill(os.getpid(), 9)

def read(film, data):
    (place,) = queue.result_places(film, 1)
    with replacing(place) as aside:
        aside.write_bytes(b"of " + data)
    queue.add_results(film, [("sr", f"2.25.{film.sop_uid[4:]}")], False, ["TO"])

queue._connection.set_trace_callback(traced)
queue.resume(["TO"])
sent = folder / "sent"
for number in range(films):
    queue.add(b"film %d" % number, str(number), f"1.2.{number}", "A@b")
    for film in queue.take(1):
        data = film.path.read_bytes()
        read(film, data)
    for parcel in queue.waiting("TO", 1):
        queue.begin(parcel)
        with sent.open("a") as file:
            file.write(f"{parcel.film} {parcel.path.read_bytes().decode()}\\n")
        queue.delivered(parcel)
while films := queue.take(5):
    for film in films:
        read(film, film.path.read_bytes())
while parcels := queue.waiting("TO", 5):
    for parcel in parcels:
        with sent.open("a") as file:
            file.write(f"{parcel.film} {parcel.path.read_bytes().decode()}\\n")
        queue.delivered(parcel)
"""


def test_kills_at_random_moments_lose_nothing(tmp_path):
    rng, films = random.Random(0), 20
    source = str(Path(film_queue.__file__).parents[2])
    # Each statement of SQLite is a moment to be killed at; the last process is left alone.
    for kill_at in [*(rng.randrange(120) for _ in range(4)), -1]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(films), str(kill_at)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": source}, timeout=120)
        assert done.returncode == (-signal.SIGKILL if kill_at >= 0 else 0)
    sent = [line.partition(" ") for line in (tmp_path / "sent").read_text().splitlines()]
    assert {int(text.removeprefix("of film ")) for _, _, text in sent} == set(range(films))
    assert len(set(sent)) == films  # what went out again is the same, under the same number
    base = sqlite3.connect(tmp_path / "queue/queue.sqlite")
    assert base.execute("SELECT state, count(*) FROM films GROUP BY state").fetchall() == [("delivered", films)]
    base.close()
    assert not [*(tmp_path / "queue").glob("*/*.dcm")]
